"""Holds drifts against the bounds of a tolerance. Invents no bound."""

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

    There is none where the tolerance bounds local drift alone.
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
    """A check on local drift, and the stage's tensor that it is about.

    `drift` is None where the bound covers no stage of the run, which fails the check.
    """

    check: Check
    drift: StageDrift | None


def check_local(local: Sequence[StageDrift], tolerance: Tolerance) -> list[LocalCheck]:
    """Return one check per local bound: of the stages that it covers, the one that drifted most.

    A bound covers all stages, those of one kind (`scheduler.step`), or one (`scheduler.step#0`),
    which its kind's bound then does not cover. A kind without a bound is free.
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
    """Return the checks whose bound was exceeded."""
    return [check for check in checks if not check.passed]


def _worst(drifts: Sequence[StageDrift], metric: Metric) -> StageDrift | None:
    def size(drift: StageDrift) -> float:
        return worst_first(drift.value(metric))

    return max(drifts, key=size, default=None)
