"""Holds drifts against the bounds that a scenario sets. Invents no bound."""

from __future__ import annotations

from harness.records import Check, Drift


def check(name: str, drift: Drift, bounds: dict[str, float] | str | None) -> list[Check]:
    """Return one check per bound on `drift`; `identical` and no bounds at all admit no difference."""
    if not isinstance(bounds, dict):
        return [Check(f"{name} l_inf", drift.l_inf, 0.0)]
    free = [metric for metric in ("rel_l2", "l_inf") if metric in bounds]
    return [Check(f"{name} {metric}", getattr(drift, metric), bounds[metric]) for metric in free] or check(name, drift, None)
