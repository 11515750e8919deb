"""Compares drifts with the bounds of a tolerance; a drift that no bound covers is not checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import Against, Check, Drift, Metric, StageDrift, worst_first
from harness.scenario.tolerance import FREE_METRICS, LOCAL_METRICS, Tolerance


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
    """Return one check per local bound, on the tensor that drifted most among those it covers.

    A bound is on one stage (`scheduler.step#0`), on all stages of one kind (`scheduler.step`), or
    on all stages. The most specific bound covers a stage, and no other one does. A stage that no
    bound covers is not checked.

    Args:
        local: The drift of each kept tensor in the teacher-forced run.
        tolerance: The cross-class bounds.
    """
    found = []
    for metric in LOCAL_METRICS:
        for pattern, bound in tolerance.local.get(metric, {}).items():
            covered = [
                drift for drift in local if tolerance.local_pattern(metric, drift.stage) == pattern
            ]
            worst = _worst(covered, metric)
            if worst is None:
                check = Check(pattern or "no stage", metric, math.nan, bound)
            else:
                check = Check(worst.name, metric, worst.value(metric), bound)
            found.append(LocalCheck(check, worst))
    return found


def failed(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that failed: the value exceeds the bound, or is NaN."""
    return [check for check in checks if not check.passed]


def _worst(drifts: Sequence[StageDrift], metric: Metric) -> StageDrift | None:
    def size(drift: StageDrift) -> float:
        return worst_first(drift.value(metric))

    return max(drifts, key=size, default=None)
