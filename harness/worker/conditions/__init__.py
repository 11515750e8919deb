"""The conditions of a run: determinism, noise, environment, numerics class and cost."""
