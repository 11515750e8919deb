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
    return [
        Check(f"{name} {metric}", getattr(drift, metric), bounds[metric])
        for metric in ("rel_l2", "l_inf")
        if metric in bounds
    ]


def check_local(local: dict[str, dict[str, float]], bounds: Bounds) -> list[Check]:
    """Return one check per local bound: of the stages that it covers, the one with the largest drift of its own.

    A bound covers all stages, those of one kind (`scheduler.step`, `vae.decode`, `noise`), or one (`scheduler.step#0`), which
    its kind's then does not cover. A kind without a bound is free.
    """
    checks = []
    for metric in ("rel_l2", "l_inf"):
        bound = bounds.get(f"local_{metric}", {}) if isinstance(bounds, dict) else {}
        by_key = bound if isinstance(bound, dict) else {"": bound}
        for key, most in by_key.items():
            covered = [
                name
                for name in local
                if next((k for k in (stage_of(name), kind_of(name), "") if k in by_key), None)
                == key
            ]
            worst = max(covered, key=lambda name: _sortable(local[name][metric]), default=None)
            value = local[worst][metric] if worst else float("nan")
            checks.append(Check(f"local {metric} of {worst or key or 'no stage'}", value, most))
    return checks


def stage_of(name: str) -> str:
    """Return the stage of a kept tensor: `scheduler.step#3` for `scheduler.step#3/sample`, `noise#0` for `noise/0`."""
    kind, _, key = name.partition("/")
    return f"{kind}#{key}" if kind == "noise" else kind


def kind_of(name: str) -> str:
    """Return what stages have in common that differ in index: `scheduler.step` for `scheduler.step#3/sample`."""
    return re.split("[#/]", name)[0]


def _sortable(number: float) -> float:
    return float("inf") if number != number else number  # noqa: PLR0124 (NaN, which no comparison finds)
