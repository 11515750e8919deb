"""Holds drifts against the bounds that a scenario sets. Invents no bound."""

from __future__ import annotations

from harness.records import Check, Drift

Bounds = dict[str, float] | str | None  # metrics by name; `identical` and None admit no difference


def check(name: str, drift: Drift, bounds: Bounds) -> list[Check]:
    """Return one check per bound on the free drift of an output; none where the scenario bounds local drift alone."""
    if not isinstance(bounds, dict):
        return [Check(f"{name} l_inf", drift.l_inf, 0.0)]
    return [Check(f"{name} {metric}", getattr(drift, metric), bounds[metric]) for metric in ("rel_l2", "l_inf") if metric in bounds]


def check_local(local: dict[str, dict[str, float]], bounds: Bounds) -> list[Check]:
    """Return one check per local bound: the stage with the largest drift of its own, on the baseline's inputs."""
    checks = []
    for metric in ("rel_l2", "l_inf"):
        bound = bounds.get(f"local_{metric}") if isinstance(bounds, dict) else None
        if bound is not None:
            worst = max(local, key=lambda stage: _sortable(local[stage][metric]), default=None)
            value = local[worst][metric] if worst else float("nan")
            checks.append(Check(f"local {metric} of {worst or 'no stage'}", value, bound))
    return checks


def _sortable(number: float) -> float:
    return float("inf") if number != number else number  # noqa: PLR0124 (NaN, which no comparison finds)
