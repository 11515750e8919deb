"""How a case moved between two environments: whether, how far, where first, and beside what.

Both sides are recordings of the same case; nothing is run here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from harness.errors import UsageError
from harness.judge import drift, first_difference, reasons
from harness.judge.checks import check_output, failed
from harness.judge.environment_diff import list_changes
from harness.judge.structure import same_bits, structure
from harness.launch.sandbox import BASE, named
from harness.records import Difference, DifferenceKind, Drift, worst_first
from harness.scenario.model import Case
from harness.store.recording import Environment, Recording
from harness.worker.protocol import RECORDING_FILE

NOTHING = "nothing"


class Until(StrEnum):
    """Until when a case counts as not moved."""

    IDENTICAL = "identical"  # it has the same bits
    WITHIN = "within"  # the scenario's cross-class tolerance admits how far it moved


@dataclass(frozen=True)
class Move:
    """How far an output moved, and where first.

    Attributes:
        l_inf: The L-inf drift of the output that moved farthest; NaN where the structure of the
            outputs differs.
        rel_l2: The relative L2 drift of the same output.
        first: The first input or stage that differs, in words.
        beside: What else changed, in words: a scheduler's configuration, the environment.
    """

    l_inf: float
    rel_l2: float
    first: str
    beside: tuple[str, ...]


def measure_move(actual: Recording, expected: Recording, packages: Collection[str]) -> Move:
    """Return how far the outputs lie from each other, and where they first differ.

    Args:
        actual: What the one environment left.
        expected: What the other one left.
        packages: Those whose versions are being looked at; they are not named beside the move.
    """
    worst = _worst_drift(actual, expected)
    return Move(
        l_inf=math.nan if worst is None else worst.l_inf,
        rel_l2=math.nan if worst is None else worst.rel_l2,
        first=_first(actual, expected),
        beside=_beside(actual, expected, packages),
    )


def has_moved(case: Case, actual: Recording, expected: Recording, until: Until) -> bool:
    """Whether the outputs of two recordings count as different.

    Raises:
        UsageError: `until` is `within`, and the scenario bounds no free drift.
    """
    if not differ(actual, expected):
        return False
    if until is Until.IDENTICAL:
        return True
    tolerances = case.scenario.tolerances
    if tolerances.cross_class is None or not tolerances.bounds_free_drift:
        raise UsageError(
            f"{case.scenario.path}: `--until within` needs `rel_l2` or `l_inf` in "
            "`tolerance.cross-class`"
        )
    if structure(actual, expected):
        return True
    checks = [
        check
        for name, moved in drift.of_outputs(actual, expected).items()
        for check in check_output(name, moved, tolerances.cross_class)
    ]
    return bool(failed(checks))


def differ(actual: Recording, expected: Recording) -> bool:
    """Whether the outputs of two recordings differ in structure or in a bit."""
    return bool(structure(actual, expected)) or not same_bits(actual, expected)


def recorded_before(folder: Path, case: Case) -> Recording | None:
    """Return the recording of this very case that an earlier call left, or None.

    The packages that its environment takes from this one must be those of today.
    """
    if not (folder / RECORDING_FILE).is_file():
        return None
    recording = Recording.read(folder)
    chosen = {canonicalize_name(named(text).name) for text in case.env}
    versions = recording.environment.versions
    same_base = all(
        versions.get(name) == metadata.version(name) for name in BASE if name not in chosen
    )
    return recording if same_base and recording.case == case.request() else None


def _worst_drift(actual: Recording, expected: Recording) -> Drift | None:
    """Return the drift of the output that moved farthest; None where the structure differs."""
    if structure(actual, expected):
        return None
    drifts = drift.of_outputs(actual, expected).values()
    return max(drifts, key=_l_inf, default=None)


def _l_inf(moved: Drift) -> float:
    return worst_first(moved.l_inf)


def _first(actual: Recording, expected: Recording) -> str:
    """Return the first input or stage that differs; a scheduler's configuration is no such."""
    weights = first_difference.other_weights(actual, expected)
    if weights:
        return reasons.difference(Difference(DifferenceKind.WEIGHTS, ", ".join(weights)))
    other = structure(actual, expected)
    if other:
        return other
    found = first_difference.besides_settings(actual, expected)
    return NOTHING if found is None else reasons.difference(found)


def _beside(actual: Recording, expected: Recording, packages: Collection[str]) -> tuple[str, ...]:
    """Return what else changed: a scheduler's configuration, and the environment.

    The versions of `packages` are left out, which is what is being looked at.
    """
    changes = list_changes(
        _without_versions(actual.environment, packages),
        _without_versions(expected.environment, packages),
    )
    lines = reasons.environment_changes(changes)
    settings = first_difference.configuration(actual, expected)
    return tuple(lines if settings is None else [reasons.difference(settings), *lines])


def _without_versions(environment: Environment, packages: Collection[str]) -> Environment:
    names = {canonicalize_name(package) for package in packages}
    versions = {
        other: version
        for other, version in environment.versions.items()
        if canonicalize_name(other) not in names
    }
    return replace(environment, versions=versions)
