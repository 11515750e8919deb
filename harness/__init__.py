"""Owns the package's public names, which are loaded when they are asked for.

The worker's half is imported beside frameworks of any age, so importing this module must load
nothing else of the harness.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.api import check, compare, load, record, run
    from harness.pytest_plugin.fixture import DriftError
    from harness.records import Drift, Outcome
    from harness.scenario.model import Case, Scenario
    from harness.session import Session
    from harness.store.baselines import Store

__version__ = "0.1.0"
__all__ = [
    "Case",
    "Drift",
    "DriftError",
    "Outcome",
    "Scenario",
    "Session",
    "Store",
    "__version__",
    "check",
    "compare",
    "load",
    "record",
    "run",
]

_MODULES = {
    "Case": "harness.scenario.model",
    "Drift": "harness.records",
    "DriftError": "harness.pytest_plugin.fixture",
    "Outcome": "harness.records",
    "Scenario": "harness.scenario.model",
    "Session": "harness.session",
    "Store": "harness.store.baselines",
    "check": "harness.api",
    "compare": "harness.api",
    "load": "harness.api",
    "record": "harness.api",
    "run": "harness.api",
}


def __getattr__(name: str) -> object:
    """Return a public name from the module that defines it."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
