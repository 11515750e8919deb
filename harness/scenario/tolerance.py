"""Bounds by their keys, as a scenario nests them and as code reads them; and how loose one may be beside its evidence."""

from __future__ import annotations

from typing import Any

from harness.scenario.located_yaml import Place

LOOSE = 4  # how many times looser than its evidence a bound may be without a reason


def flat(bounds: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Return bounds by the path of their keys: `("rel_l2",)`, `("local_rel_l2", "vae.decode")`."""
    found: dict[tuple[str, ...], float] = {}
    for name, bound in bounds.items():
        found.update(
            {(name, kind): most for kind, most in bound.items()}
            if isinstance(bound, dict)
            else {(name,): bound}
        )
    return found


def nested(figures: dict[tuple[str, ...], float]) -> dict[str, Any]:
    """Return figures as a scenario holds them; the inverse of `flat`."""
    found: dict[str, Any] = {}
    for key, value in figures.items():
        if len(key) == 1:
            found[key[0]] = value
        else:
            found.setdefault(key[0], {})[key[1]] = value
    return found


def _evidence_for(keys: tuple[str, ...], measured: dict[tuple[str, ...], float]) -> float | None:
    """Return the measured bound that a bound is held against: its own, else its kind's, else the largest of its metric."""
    mine = {own[-1]: bound for own, bound in measured.items() if own[0] == keys[0]}
    return mine.get(keys[-1], mine.get(keys[-1].split("#")[0], max(mine.values(), default=None)))


def check_evidence(tolerance: dict[str, Any], members: dict[str, Place]) -> None:
    """Refuse a bound that is much looser than what was measured, unless a person says why."""
    evidence = tolerance.get("evidence", {})
    for kind, name in (("cross-class", "bounds"), ("batch", "batch")):
        bounds, measured = tolerance.get(kind), flat(evidence.get(name, {}))
        for keys, bound in (
            flat(bounds).items() if isinstance(bounds, dict) and "reason" not in tolerance else ()
        ):
            found = _evidence_for(keys, measured)
            if found is not None and bound > LOOSE * found:
                place = members["tolerance"].members()[kind][1]
                for key in keys:
                    place = place.members()[key][1]
                raise place.wrong(
                    f"at most {LOOSE} times the measured {found:g}, or a `reason` beside it",
                    f"{bound:g}",
                )
