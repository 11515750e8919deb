"""Holds drifts against the bounds that a scenario sets. Invents no bound."""

from __future__ import annotations

import re
from typing import Any

from harness.records import Check, Drift

Bounds = dict[str, Any] | str | None  # metrics by name; `identical` and None admit no difference


def check(name: str, drift: Drift, bounds: Bounds) -> list[Check]:
    """Return one check per bound on the free drift of an output; none where the scenario bounds local drift alone."""
    if not isinstance(bounds, dict):
        return [Check(f"{name} l_inf", drift.l_inf, 0.0)]
    return [Check(f"{name} {metric}", getattr(drift, metric), bounds[metric]) for metric in ("rel_l2", "l_inf") if metric in bounds]


def check_local(local: dict[str, dict[str, float]], bounds: Bounds) -> list[Check]:
    """Return one check per local bound: of the stages that it covers, the one with the largest drift of its own.

    A bound covers all stages, or those of one kind: `scheduler.step`, `vae.decode`, `noise`. A kind without a bound is free.
    """
    checks = []
    for metric in ("rel_l2", "l_inf"):
        bound = bounds.get(f"local_{metric}", {}) if isinstance(bounds, dict) else {}
        for kind, most in bound.items() if isinstance(bound, dict) else [("", bound)]:
            covered = [stage for stage in local if kind in ("", kind_of(stage))]
            worst = max(covered, key=lambda stage: _sortable(local[stage][metric]), default=None)
            value = local[worst][metric] if worst else float("nan")
            checks.append(Check(f"local {metric} of {worst or kind or 'no stage'}", value, most))
    return checks


def kind_of(stage: str) -> str:
    """Return what stages have in common that differ in index and tensor: `scheduler.step` for `scheduler.step#3/sample`."""
    return re.split("[#/]", stage)[0]


def _sortable(number: float) -> float:
    return float("inf") if number != number else number  # noqa: PLR0124 (NaN, which no comparison finds)
