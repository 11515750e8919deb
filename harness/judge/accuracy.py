"""Judges accuracy: how far both sides lie from a float64 evaluation of each stage that moved.

A stage is evaluated in float64 from the baseline's inputs, as in a teacher-forced run. Its distance
to the two sides tells whether a change of bits is a change for the worse. The verdict stands beside
that of the case and never changes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.judge.drift import measure
from harness.records import (
    AccuracyReason,
    AccuracyVerdict,
    Device,
    Dtype,
    Stage,
    StageAccuracy,
    StageError,
)

if TYPE_CHECKING:
    from harness.records import Array
    from harness.scenario.model import Case
    from harness.store.recording import Environment, Observed, Recording

# At most this many times the baseline's error is no worse.
NO_WORSE = 1.5
# The evaluation may lie this many times its own measured error from the exact result. That error
# is one random sample, and samples of it differ by less than a factor of 2.
SAFETY = 10.0
# A baseline whose error exceeds that of typical rounding by this factor computed something else.
SAME_FUNCTION = 64.0
# The unit roundoff of each type: half of the distance from 1.0 to the next larger number.
UNIT = {
    Dtype.FLOAT64: 2.0**-53,
    Dtype.FLOAT32: 2.0**-24,
    Dtype.FLOAT16: 2.0**-11,
    Dtype.BFLOAT16: 2.0**-8,
}
TF32_UNIT = 2.0**-11
# A ratio of errors counts where its logarithm is at least this many standard deviations from 0.
CERTAIN = 3.0
# What is said instead of a verdict that may be chance.
CHANCE = {
    AccuracyVerdict.WORSE: (AccuracyVerdict.UNKNOWN, AccuracyReason.CHANCE),
    AccuracyVerdict.BETTER: (AccuracyVerdict.NO_WORSE, None),
}
# From the worst to the best: the verdict on a case is the worst one of its stages.
ORDER = (
    AccuracyVerdict.WORSE,
    AccuracyVerdict.UNKNOWN,
    AccuracyVerdict.NO_WORSE,
    AccuracyVerdict.BETTER,
)


@dataclass(frozen=True)
class Evaluation:
    """The stages of a case in float64, from the baseline's inputs.

    Attributes:
        result: The recording of the evaluation; None where there is none.
        moved: The same with each operator's result moved at random by one unit in the last place of
            float64, which shows the evaluation's own error; None where there is none.
        problem: Why there is no evaluation, in words.
    """

    result: Recording | None = None
    moved: Recording | None = None
    problem: str = ""


def deciding(accuracy: Iterable[StageAccuracy]) -> StageAccuracy | None:
    """Return the stage that decides a case's accuracy: its verdict and reason are the case's.

    It is the first one of `worst_stages`; None where no stage was judged.
    """
    return next(iter(worst_stages(accuracy)), None)


def worst_stages(accuracy: Iterable[StageAccuracy]) -> list[StageAccuracy]:
    """Return the stages with the worst verdict first, and of one verdict the largest ratio first.

    A stage that has no ratio comes after those that have one.
    """

    def badness(found: StageAccuracy) -> tuple[int, float]:
        ratio = found.ratio
        return ORDER.index(found.verdict), math.inf if math.isnan(ratio) else -ratio

    return sorted(accuracy, key=badness)


def follows(found: StageAccuracy) -> bool:
    """Whether a verdict follows from the errors that are stated beside it."""
    if found.actual_error is None or found.expected_error is None:
        return found.verdict is AccuracyVerdict.UNKNOWN
    measured = _verdict(found.actual_error.rel_l2, found.expected_error.rel_l2)
    # A verdict that may be chance is given as a weaker one.
    return ORDER.index(found.verdict) <= max(ORDER.index(measured), 1)


def unit_of(case: Case, environments: Sequence[Environment]) -> float:
    """Return the largest unit roundoff in which a case may compute on any side.

    That is of its dtype or of a component's, and on a GPU of TF32 where a side allows it.
    """
    dtypes = [case.target.dtype, *case.scenario.component_dtypes.values()]
    units = [UNIT[dtype] for dtype in dtypes]
    if case.target.device is Device.CUDA and any(map(_allows_tf32, environments)):
        units.append(TF32_UNIT)
    return max(units)


def judge_accuracy(
    actual: Observed, expected: Observed, evaluation: Evaluation, unit: float
) -> tuple[StageAccuracy, ...]:
    """Return the accuracy of every kept tensor that moved, in the order of the run.

    A draw of noise has no arithmetic to evaluate, and whole numbers have no rounding: neither is
    judged.

    Args:
        actual: The teacher-forced recording.
        expected: The baseline that it was fed with.
        evaluation: The stages in float64.
        unit: The unit roundoff of the case; see `unit_of`.
    """
    actual_tensors = actual.stage_tensors
    found = []
    for (stage, key), expected_tensor in expected.stage_tensors.items():
        if stage.is_noise or expected_tensor.dtype.kind != "f":
            continue
        tensor = actual_tensors.get((stage, key))
        if tensor is None or tensor.shape != expected_tensor.shape:
            problem = "this run has no such tensor of that shape"
            found.append(_unknown(stage, key, AccuracyReason.NOT_EVALUATED, problem))
        elif not np.array_equal(tensor, expected_tensor):
            sides = _Sides(tensor, expected_tensor)
            found.append(_judge_tensor(stage, key, sides, evaluation, unit))
    return tuple(found)


@dataclass(frozen=True)
class _Sides:
    actual: Array
    expected: Array


def _judge_tensor(
    stage: Stage, key: str, sides: _Sides, evaluation: Evaluation, unit: float
) -> StageAccuracy:
    """Return the accuracy of one tensor that moved."""
    if evaluation.result is None or evaluation.moved is None:
        return _unknown(stage, key, AccuracyReason.NOT_EVALUATED, evaluation.problem)
    exact = evaluation.result.stage_tensors.get((stage, key))
    moved = evaluation.moved.stage_tensors.get((stage, key))
    if exact is None or moved is None or exact.shape != sides.actual.shape:
        problem = "the evaluation has no such tensor of that shape"
        return _unknown(stage, key, AccuracyReason.NOT_EVALUATED, problem)
    actual, expected, own = (
        _error(array, exact) for array in (sides.actual, sides.expected, moved)
    )
    verdict, reason = AccuracyVerdict.UNKNOWN, _untrusted(actual, expected, own, unit)
    lower = evaluation.result.lower_precision.get(f"{stage}/{key}", ())
    if lower and reason is None:
        reason = AccuracyReason.LOWER_PRECISION
    if reason is None:
        verdict, reason = _compared(actual.rel_l2, expected.rel_l2, SAFETY * own.rel_l2)
    if verdict in CHANCE and _is_chance(sides, exact):
        verdict, reason = CHANCE[verdict]
    detail = ", ".join(lower) if reason is AccuracyReason.LOWER_PRECISION else ""
    return StageAccuracy(stage, key, verdict, actual, expected, own.rel_l2, reason, detail)


def _untrusted(
    actual: StageError, expected: StageError, own: StageError, unit: float
) -> AccuracyReason | None:
    """Return why an evaluation says nothing about the two sides; None where it may."""
    if not all(math.isfinite(error.rel_l2) for error in (actual, expected, own)):
        return AccuracyReason.NOT_FINITE
    if expected.rel_l2 > SAME_FUNCTION * _typical(own.rel_l2, unit):
        return AccuracyReason.OTHER_FUNCTION
    return None


def _compared(
    actual: float, expected: float, radius: float
) -> tuple[AccuracyVerdict, AccuracyReason | None]:
    """Return the verdict, if it is the same wherever the exact result lies within `radius`."""
    verdict = _verdict(max(0.0, actual - radius), expected + radius)
    if verdict is _verdict(actual + radius, max(0.0, expected - radius)):
        return verdict, None
    return AccuracyVerdict.UNKNOWN, AccuracyReason.OWN_ERROR


def _is_chance(sides: _Sides, exact: Array) -> bool:
    """Whether the two sides' errors may differ in size because few elements make them up.

    With the squared errors a and e of each element, and A and E their sums, the ratio of the errors
    is r = sqrt(A / E). The variance of log r is (sum (a/A)^2 + sum (e/E)^2) / 4: the linearised
    variance of a ratio of two sums of independent terms (W. G. Cochran, "Sampling Techniques", 3rd
    edition, 1977, chapter 6).
    """
    sums = [_sums(array, exact) for array in (sides.actual, sides.expected)]
    if not all(square for square, _ in sums):
        return False  # one side is exact
    (actual, actual_fourth), (expected, expected_fourth) = sums
    variance = (actual_fourth / actual**2 + expected_fourth / expected**2) / 4
    return abs(math.log(actual / expected)) / 2 < CERTAIN * math.sqrt(variance)


def _sums(array: Array, exact: Array) -> tuple[float, float]:
    """Return the sums of the squares and of the fourth powers of an array's errors."""
    squares = np.square(array.astype(np.float64) - exact.astype(np.float64))
    return float(squares.sum()), float(np.square(squares).sum())


def _verdict(actual: float, expected: float) -> AccuracyVerdict:
    if actual > NO_WORSE * expected:
        return AccuracyVerdict.WORSE
    return AccuracyVerdict.BETTER if NO_WORSE * actual < expected else AccuracyVerdict.NO_WORSE


def _typical(own: float, unit: float) -> float:
    """Return the error that rounding to a type with this unit roundoff typically makes.

    The own error of float64 is scaled to that type, because both come from the same operators; to
    it comes the rounding of the result itself, which no evaluation in float64 sees.
    """
    return unit * (1 + own / UNIT[Dtype.FLOAT64])


def _error(array: Array, exact: Array) -> StageError:
    moved = measure(array, exact)
    return StageError(moved.l_inf, moved.rel_l2)


def _unknown(stage: Stage, key: str, reason: AccuracyReason, detail: str) -> StageAccuracy:
    return StageAccuracy(stage, key, AccuracyVerdict.UNKNOWN, reason=reason, detail=detail)


def _allows_tf32(environment: Environment) -> bool:
    """Whether an environment's flags let any operator round its operands to TF32."""
    flags = environment.flags.items()
    return any(value == "tf32" or (name.endswith("allow_tf32") and value) for name, value in flags)
