"""Turns on pytest's fixture for tests of plugins, which only the topmost conftest may do."""

pytest_plugins = ["pytester"]
