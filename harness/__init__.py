"""Reproducibility regression harness for diffusion pipelines.

The worker's half is imported beside frameworks of any age, so this module loads nothing; public names load when asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "Case": "scenario.model",
    "Outcome": "records",
    "Scenario": "scenario.model",
    "Session": "session",
    "Store": "store.baselines",
}
__all__ = ["Case", "Outcome", "Scenario", "Session", "Store", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"harness.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
