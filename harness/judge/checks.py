"""Compares drifts with the bounds of a tolerance; a drift that no bound covers is not checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import Against, Check, Drift, Metric, StageDrift
from harness.scenario.tolerance import (
    FREE_METRICS,
    LOCAL_METRICS,
    SYSTEMATIC_METRICS,
    Tolerance,
)

# The least part of a bound on systematic drift that holds where a tensor hardly drifts. A drift of
# few elements has no directions that could average out.
LEAST_PART = 1 / 8


def check_output(
    subject: str, drift: Drift, tolerance: Tolerance, against: Against = Against.BASELINE
) -> list[Check]:
    """Return one check per bound on the free drift of an output.

    An exact tolerance gives one check, that L-inf is 0.0. There is no check where the tolerance
    bounds local drift alone.

    Args:
        subject: The name of the output, or of one image of it (`image[1]`).
        drift: How far it moved.
        tolerance: The bounds, each in the unit of its metric.
        against: What it was compared with.
    """
    if tolerance.exact:
        return [Check(subject, Metric.L_INF, drift.l_inf, 0.0, against)]
    values = {Metric.REL_L2: drift.rel_l2, Metric.L_INF: drift.l_inf}
    return [
        Check(subject, metric, values[metric], tolerance.free[metric], against)
        for metric in FREE_METRICS
        if metric in tolerance.free
    ]


@dataclass(frozen=True)
class LocalCheck:
    """A check on local drift, and the drift of the one tensor that it is about.

    `drift` is None where the bound covers no stage of the run. The value of the check is then NaN,
    which fails it.
    """

    check: Check
    drift: StageDrift | None


def check_local(local: Sequence[StageDrift], tolerance: Tolerance) -> list[LocalCheck]:
    """Return one check per local bound, on the tensor that uses most of it.

    A bound is on one stage (`scheduler.step#0`), on all stages of one kind (`scheduler.step`), or
    on all stages. The most specific bound covers a stage, and no other one does. A stage that no
    bound covers is not checked. Of a bound on systematic drift, the part holds that `part_of_bound`
    returns.

    Args:
        local: The drift of each kept tensor in the teacher-forced run.
        tolerance: The cross-class bounds.
    """
    found = []
    for metric in LOCAL_METRICS:
        for pattern, bound in tolerance.local.get(metric, {}).items():
            covered = [
                LocalCheck(_check(drift, metric, bound, tolerance), drift)
                for drift in local
                if tolerance.local_pattern(metric, drift.held_as) == pattern
            ]
            uncovered = LocalCheck(Check(pattern or "no stage", metric, math.nan, bound), None)
            found.append(max(covered, key=_excess, default=uncovered))
    return found


def part_of_bound(rel_l2: float, limit: float | None) -> float:
    """Return the part of a bound on systematic drift that holds for one tensor.

    Rounding shifts a tensor by a share of what it moves it, so that the bound is proportional to
    the tensor's own drift. It holds as a whole where that drift is at its limit.

    Args:
        rel_l2: The relative L2 drift of the tensor.
        limit: The bound on it; None where there is none, and the bound then holds as a whole.

    Returns:
        The part, from `LEAST_PART` to 1.
    """
    if not limit or math.isnan(rel_l2):
        return 1.0
    return min(1.0, max(LEAST_PART, rel_l2 / limit))


def failed(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that failed: the value exceeds the bound, or is NaN."""
    return [check for check in checks if not check.passed]


def _check(drift: StageDrift, metric: Metric, bound: float, tolerance: Tolerance) -> Check:
    if metric in SYSTEMATIC_METRICS:
        limit = tolerance.local_bound(Metric.LOCAL_REL_L2, drift.held_as)
        bound *= part_of_bound(drift.rel_l2, limit)
    return Check(drift.name, metric, drift.value(metric), bound)


def _excess(held: LocalCheck) -> float:
    return held.check.excess
