"""Accuracy: which side lies nearer to float64, when that cannot be told, and what decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import builders
import numpy as np
import pytest

from harness.judge.accuracy import Evaluation, deciding, judge_accuracy, unit_of
from harness.records import (
    AccuracyReason,
    AccuracyVerdict,
    Dtype,
    Stage,
    StageAccuracy,
    StageError,
)
from harness.store.recording import Recording

Make = Callable[..., Recording]
NAME = "scheduler.step#0/sample"
UNIT = 2.0**-24
EXACT = np.tile([1.0, 2.0, -2.0, 4.0], 256)  # its L2 norm is 80
OWN = 2.0**-50  # of the evaluation, relative: typical float32 then errs by 9 units


def kept(make: Make, values: np.ndarray, name: str = NAME, **changes: Any) -> Recording:
    return make(kept={name: values}, **changes)


def off_by(error: float) -> np.ndarray:
    """Return what lies `error`, relative L2, from the exact values, equally in each element."""
    return EXACT + 80 * error / np.sqrt(EXACT.size)


def judged(
    make: Make, actual: np.ndarray, expected: np.ndarray, own: float = OWN, **changes: Any
) -> StageAccuracy:
    """Return the one accuracy of two sides that are held against the exact values."""
    evaluation = Evaluation(kept(make, EXACT, **changes), kept(make, off_by(own)))
    (found,) = judge_accuracy(kept(make, actual), kept(make, expected), evaluation, UNIT)
    return found


@pytest.mark.parametrize(
    ("actual", "expected", "verdict"),
    [
        (1.0e-7, 1.0e-7 + 1e-12, "no-worse"),
        (1.49e-7, 1.0e-7, "no-worse"),
        (1.51e-7, 1.0e-7, "worse"),
        (1.0e-7, 1.49e-7, "no-worse"),
        (1.0e-7, 1.51e-7, "better"),
        (1.0e-2, 1.0e-7, "worse"),
        (0.0, 1.0e-7, "better"),
        (1.0e-7, 0.0, "worse"),
    ],
)
def test_the_ratio_of_the_errors_decides(
    made: Make, actual: float, expected: float, verdict: str
) -> None:
    found = judged(made, off_by(actual), off_by(expected))
    assert found.verdict == verdict
    assert found.reason is None


def test_both_errors_are_given_against_the_evaluation(made: Make) -> None:
    found = judged(made, off_by(4e-7), off_by(2e-7))
    assert found.actual_error is not None
    assert found.expected_error is not None
    assert found.actual_error.rel_l2 == pytest.approx(4e-7)
    assert found.actual_error.l_inf == pytest.approx(1e-6)
    assert found.expected_error.rel_l2 == pytest.approx(2e-7)
    assert found.own_error == pytest.approx(OWN)
    assert found.ratio == pytest.approx(2.0)
    assert found.name == NAME


def test_what_did_not_move_is_not_judged(made: Make) -> None:
    side = kept(made, off_by(1e-7))
    evaluation = Evaluation(kept(made, EXACT), kept(made, EXACT))
    assert judge_accuracy(side, side, evaluation, UNIT) == ()


def test_neither_noise_nor_whole_numbers_are_judged(made: Make) -> None:
    actual = made(noise=(builders.NOISE * 2,), kept={"text_encoder#0/ids": np.array([1, 2])})
    expected = made(kept={"text_encoder#0/ids": np.array([1, 3])})
    assert judge_accuracy(actual, expected, Evaluation(problem="P"), UNIT) == ()


def test_an_own_error_as_large_as_the_difference_makes_it_unknown(made: Make) -> None:
    sides = off_by(2e-7), off_by(1e-7)
    assert judged(made, *sides, own=1e-12).verdict is AccuracyVerdict.WORSE
    found = judged(made, *sides, own=1e-7)
    assert found.verdict is AccuracyVerdict.UNKNOWN
    assert found.reason is AccuracyReason.OWN_ERROR


def test_a_baseline_farther_than_rounding_explains_is_of_another_function(made: Make) -> None:
    assert judged(made, off_by(1e-7), off_by(3e-5)).verdict is AccuracyVerdict.BETTER
    found = judged(made, off_by(1e-7), off_by(4e-5))
    assert found.reason is AccuracyReason.OTHER_FUNCTION


def test_two_sides_far_from_the_evaluation_are_not_called_equal(made: Make) -> None:
    found = judged(made, off_by(0.5), off_by(0.5 + 1e-7))
    assert found.verdict is AccuracyVerdict.UNKNOWN


def test_an_operator_that_float64_did_not_reach_makes_it_unknown(made: Make) -> None:
    found = judged(made, off_by(1e-7), off_by(2e-7), lower_precision={NAME: ["aten.x.default"]})
    assert found.reason is AccuracyReason.LOWER_PRECISION
    assert found.detail == "aten.x.default"


def test_a_difference_in_few_elements_may_be_chance(made: Make) -> None:
    one = np.zeros(EXACT.size)
    one[0] = 80.0
    found = judged(made, EXACT + 3e-7 * one, EXACT + 1e-7 * one)
    assert found.reason is AccuracyReason.CHANCE
    assert judged(made, EXACT + 3e-6 * one, EXACT + 1e-7 * one).verdict is AccuracyVerdict.WORSE
    nearer = judged(made, EXACT + 1e-7 * one, EXACT + 3e-7 * one)
    assert nearer.verdict is AccuracyVerdict.NO_WORSE


def test_what_is_not_finite_is_unknown(made: Make) -> None:
    found = judged(made, off_by(math.nan), off_by(1e-7))
    assert found.reason is AccuracyReason.NOT_FINITE


def test_without_an_evaluation_the_problem_is_said(made: Make) -> None:
    actual, expected = kept(made, off_by(2e-7)), kept(made, off_by(1e-7))
    (found,) = judge_accuracy(actual, expected, Evaluation(problem="no memory"), UNIT)
    assert (found.reason, found.detail) == (AccuracyReason.NOT_EVALUATED, "no memory")
    assert math.isnan(found.ratio)


def test_a_tensor_that_a_side_lacks_is_unknown(made: Make) -> None:
    expected = kept(made, EXACT)
    evaluation = Evaluation(kept(made, EXACT), kept(made, EXACT))
    (found,) = judge_accuracy(made(), expected, evaluation, UNIT)
    assert found.reason is AccuracyReason.NOT_EVALUATED


def stage(index: int, verdict: str, actual: float = 1.0) -> StageAccuracy:
    errors = StageError(actual, actual), StageError(1.0, 1.0)
    return StageAccuracy(Stage("unet", index), "", AccuracyVerdict(verdict), *errors)


def test_the_worst_stage_decides() -> None:
    better, same, unknown = stage(0, "better"), stage(1, "no-worse"), stage(2, "unknown")
    bad, worst = stage(3, "worse", 2.0), stage(4, "worse", 3.0)
    assert deciding([]) is None
    assert deciding([better, same]) is same
    assert deciding([better, same, unknown]) is unknown
    assert deciding([better, bad, unknown, worst]) is worst


def test_the_unit_is_the_coarsest_of_the_case() -> None:
    here = builders.environment()
    assert unit_of(builders.case(), [here]) == 2.0**-24
    assert unit_of(builders.case(dtype="bfloat16"), [here]) == 2.0**-8
    mixed = builders.case(dtype="float16", component_dtypes={"vae": Dtype.FLOAT32})
    assert unit_of(mixed, [here]) == 2.0**-11


def test_tf32_counts_where_a_side_allows_it_on_a_gpu() -> None:
    allowed = builders.environment(flags={"cudnn.conv.fp32_precision": "tf32"})
    older = builders.environment(flags={"cuda.matmul.allow_tf32": True})
    strict = builders.environment(flags={"cuda.matmul.allow_tf32": False})
    on_gpu = builders.case("cuda")
    assert unit_of(on_gpu, [strict, allowed]) == 2.0**-11
    assert unit_of(on_gpu, [older]) == 2.0**-11
    assert unit_of(on_gpu, [strict]) == 2.0**-24
    assert unit_of(builders.case("cpu"), [allowed]) == 2.0**-24
