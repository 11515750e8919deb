"""How a pipeline is executed: each kind switches one thing on, proves its effect and undoes it."""
