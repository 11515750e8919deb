"""Outcomes that the tests of the reports share, one for each kind of thing that a report says."""

from __future__ import annotations

import math
from pathlib import Path

import builders

from harness.records import (
    Against,
    ChangeKind,
    Check,
    Cost,
    CostFigures,
    CostReason,
    CostVerdict,
    Difference,
    DifferenceKind,
    Drift,
    EnvironmentChange,
    Metric,
    Reason,
)

RUN = Path("runs/nightly")

DRIFT = Drift(
    l_inf=0.0009765625,
    rel_l2=0.000713,
    abs_sum=2.5009765625,
    abs_sum_expected=2.5,
    differing=212,
    size=786432,
    worst_index=(0, 17, 301, 2),
    worst_actual=0.41490,
    worst_expected=0.41176,
)
STILL = Drift(0.0, 0.0, 7.0, 7.0, 0, 4, (), 0.0, 0.0)
NOT_FINITE = Drift(math.nan, math.nan, 1.0, 1.0, 1, 4, (0,), 1.0, 1.0, finite=False)

FIGURES = CostFigures(
    load_seconds=1.0,
    first_seconds=2.0,
    seconds=1.2345,
    peak_bytes=480 * 2**20,
    step_seconds={"prior": 0.0125, "scheduler": 0.3},
)
SLOWER = Cost(
    FIGURES,
    CostVerdict.SLOWER,
    ratio=1.5,
    baseline_seconds=0.823,
    baseline_step_seconds={"scheduler": 0.15},
)
UNCOMPARED = Cost(FIGURES, CostVerdict.UNKNOWN, CostReason.NO_BASELINE)

REL_L2 = Check("image", Metric.REL_L2, 0.000713, 1e-2)
L_INF = Check("image", Metric.L_INF, 0.0009765625, 1e-4)
NO_NUMBER = Check("image", Metric.BITS, math.nan, 0.0)
PUBLISHED = Check(
    "image", Metric.ABS_SUM, 0.25, 1.0, Against.PUBLISHED, actual=2.5, expected=2.25, source="guide"
)

DRIFTED = builders.outcome(
    "drifted",
    message="image l_inf = 0.000977 (bound 0.0001) against the baseline of class cpu-b",
    outputs={"mask": STILL, "image": DRIFT},
    checks=(REL_L2, L_INF, NO_NUMBER),
    first_difference=Difference(DifferenceKind.STAGE_OUTPUT, "unet#7"),
    baseline=builders.judged_by("cpu-b", same_class=False),
    environment_changes=tuple(
        EnvironmentChange(f"library-{index}", "1", "2", ChangeKind.PACKAGE) for index in range(10)
    ),
    cost=SLOWER,
)
MISSING = builders.outcome(
    "missing", name="a|b", message="no baseline for this case", cost=UNCOMPARED
)
STALE = builders.outcome(
    "stale",
    on="cuda-float16",
    reason=Reason.OTHER_WEIGHTS,
    message="the baseline belongs to other weights: unet",
    baseline=builders.judged_by("cpu-b", same_class=False),
)
ERROR = builders.outcome(
    "error",
    name="sd",
    message="RuntimeError: out of memory",
    log="\n".join(f"line {index}" for index in range(9)) + "\n\n",
)
IDENTICAL = builders.outcome(
    "identical",
    name="z",
    message="same bits as the baseline of the same class cpu-a",
    outputs={"image": STILL},
    baseline=builders.judged_by("cpu-a"),
)
NOT_HERE = [
    builders.outcome("unverified", name=name, on="cuda-float32", message="no CUDA device")
    for name in ("x", "y")
]
OUTCOMES = [DRIFTED, MISSING, STALE, ERROR, IDENTICAL, *NOT_HERE]
