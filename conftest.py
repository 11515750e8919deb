"""Turns on pytest's own fixture for tests of plugins, which pytest allows in the topmost conftest alone."""

pytest_plugins = ["pytester"]
