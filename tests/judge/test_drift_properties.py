"""Drift and its verdicts as properties: what must hold of all arrays, searched by Hypothesis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.judge.checks import check_local, check_output
from harness.judge.drift import measure
from harness.records import Drift, Metric, Stage, StageDrift
from harness.scenario.tolerance import NO_DIFFERENCE, Tolerance

DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
)
FLOATS = ("float16", "float32", "float64")
SMALLEST = {"float16": 2.0**-24, "float32": 2.0**-149, "float64": 5e-324}  # subnormal numbers
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, max_side=5)
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)

Pair = tuple[np.ndarray, np.ndarray]


def values(dtype: str, *, most: float | None = None) -> st.SearchStrategy[Any]:
    """Return finite values of a dtype, at most `most` in size."""
    if dtype not in FLOATS:
        return npst.from_dtype(np.dtype(dtype))
    bound = {} if most is None else {"min_value": -most, "max_value": most}
    return npst.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False, **bound)


def arrays(count: int, dtype: str | None = None, most: float | None = None):
    """Return `count` arrays of one shape and one dtype."""
    chosen = st.sampled_from(DTYPES) if dtype is None else st.just(dtype)
    return st.tuples(chosen, SHAPES).flatmap(
        lambda kind: st.tuples(
            *[npst.arrays(kind[0], kind[1], elements=values(kind[0], most=most))] * count
        )
    )


def brain(count: int):
    """Return arrays of bfloat16's numbers as the reader gives them: float32 without low bits."""
    bits = st.integers(0, 2**16 - 1).filter(lambda high: (high & 0x7F80) != 0x7F80)
    return SHAPES.flatmap(
        lambda shape: st.tuples(
            *[
                npst.arrays(np.uint32, shape, elements=bits).map(
                    lambda high: (high << 16).view(np.float32)
                )
            ]
            * count
        )
    )


PAIRS = st.one_of(arrays(2), brain(2))
# Moderate numbers, whose squares and sums neither overflow nor vanish in float64.
MODERATE = st.one_of(arrays(3, "float32", 2.0**60), arrays(3, "float64", 2.0**60), brain(3))


@PROPERTY
@given(PAIRS)
def test_drift_is_zero_exactly_where_all_numbers_are_equal(pair: Pair):
    """Both measures, in every dtype, from subnormal numbers to the largest ones."""
    actual, expected = pair
    drift = measure(actual, expected)
    assume(drift.finite)  # the sum of float64's largest numbers is not
    equal = bool(np.array_equal(actual, expected))
    assert (drift.l_inf == 0) == equal
    assert (drift.differing == 0) == equal
    assert drift.rel_l2 == 0 or not equal


@PROPERTY
@given(PAIRS)
def test_every_array_has_no_drift_from_itself(pair: Pair):
    """However large its numbers are."""
    drift = measure(pair[0], pair[0].copy())
    assert drift.differing == 0
    if drift.finite:
        assert (drift.l_inf, drift.rel_l2) == (0.0, 0.0)


@PROPERTY
@given(PAIRS)
def test_l_inf_and_the_count_are_symmetric(pair: Pair):
    """Which side is the baseline changes neither; only relative drift knows it."""
    one, other = measure(*pair), measure(*reversed(pair))
    assert (one.finite, one.differing) == (other.finite, other.differing)
    assert one.l_inf == other.l_inf or not one.finite
    assert (one.abs_sum, one.abs_sum_expected) == (other.abs_sum_expected, other.abs_sum)


@PROPERTY
@given(MODERATE)
def test_l_inf_obeys_the_triangle_inequality(three: tuple[np.ndarray, np.ndarray, np.ndarray]):
    """A way round is never shorter, but for the rounding of two subtractions."""
    first, middle, last = three
    direct = measure(first, last).l_inf
    around = measure(first, middle).l_inf + measure(middle, last).l_inf
    assert direct <= around * (1 + 2.0**-50)


@PROPERTY
@given(arrays(2), st.randoms(use_true_random=False))
def test_the_order_of_the_elements_changes_no_drift(pair: Pair, random: Any):
    """L-inf and the count exactly; sums but for the order in which they are rounded."""
    actual, expected = (side.reshape(-1) for side in pair)
    order = list(range(actual.size))
    random.shuffle(order)
    before, after = measure(actual, expected), measure(actual[order], expected[order])
    assume(before.finite and after.finite)
    assert (before.l_inf, before.differing) == (after.l_inf, after.differing)
    assert after.abs_sum == pytest.approx(before.abs_sum, rel=1e-12)
    if 1e-290 < before.rel_l2 < 1e290:
        assert after.rel_l2 == pytest.approx(before.rel_l2, rel=1e-6)


@PROPERTY
@given(arrays(2, "float64", 2.0**60), st.integers(-40, 40))
def test_scaling_by_a_power_of_two_scales_l_inf_and_keeps_relative_drift(pair: Pair, power: int):
    """Such a factor is exact, so that the equality is exact, too."""
    actual, expected = (np.where(np.abs(side) < 2.0**-60, 0.0, side) for side in pair)
    before = measure(actual, expected)
    after = measure(actual * 2.0**power, expected * 2.0**power)
    assert after.l_inf == before.l_inf * 2.0**power
    assert after.rel_l2 == before.rel_l2


@PROPERTY
@given(arrays(2, "float32", 2.0**60))
def test_a_wider_dtype_of_the_same_numbers_has_the_same_drift(pair: Pair):
    """Every number is measured in float64 anyway."""
    wide = [side.astype(np.float64) for side in pair]
    assert measure(*pair) == measure(*wide)


@PROPERTY
@given(PAIRS)
def test_the_worst_element_is_where_it_is_said_to_be(pair: Pair):
    """Its two values differ by the L-inf drift."""
    drift = measure(*pair)
    assume(drift.finite and drift.size)
    assert abs(drift.worst_actual - drift.worst_expected) == drift.l_inf
    assert float(pair[0][drift.worst_index]) == drift.worst_actual


BOUNDS = st.floats(min_value=0.0, allow_nan=False)
SIZES = st.floats(min_value=0.0) | st.just(math.nan)


@PROPERTY
@given(PAIRS, BOUNDS, BOUNDS, st.sampled_from(["l_inf", "rel_l2"]))
def test_a_wider_bound_never_turns_a_pass_into_a_failure(
    pair: Pair, one: float, other: float, metric: str
):
    """A verdict is monotonous in its tolerance."""
    drift = measure(*pair)
    narrow, wide = sorted((one, other))
    assert passes(drift, {metric: narrow}) <= passes(drift, {metric: wide})


@PROPERTY
@given(PAIRS, BOUNDS)
def test_another_bound_never_turns_a_failure_into_a_pass(pair: Pair, bound: float):
    """Each bound that is added asks for more; no difference at all passes every bound."""
    drift = measure(*pair)
    assert passes(drift, {"l_inf": bound, "rel_l2": bound}) <= passes(drift, {"l_inf": bound})
    if all(check.passed for check in check_output("image", drift, NO_DIFFERENCE)):
        assert passes(drift, {"l_inf": bound, "rel_l2": bound})


@PROPERTY
@given(
    arrays(2, "float32"),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from(["actual", "expected", "both"]),
    st.data(),
)
def test_an_array_with_a_number_that_is_not_finite_passes_no_bound(
    pair: Pair, number: float, side: str, data: st.DataObject
):
    """On either side or both, wherever it stands, however loose the bound is."""
    actual, expected = (array.reshape(-1).copy() for array in pair)
    assume(actual.size)
    at = data.draw(st.integers(0, actual.size - 1))
    if side != "expected":
        actual[at] = number
    if side != "actual":
        expected[at] = number
    drift = measure(actual, expected)
    assert not drift.finite
    assert not passes(drift, {"l_inf": math.inf})
    assert not passes(drift, {"rel_l2": math.inf})
    assert not all(check.passed for check in check_output("image", drift, NO_DIFFERENCE))


@PROPERTY
@given(st.lists(SIZES, min_size=1, max_size=6), BOUNDS)
def test_a_local_bound_passes_exactly_where_every_stage_is_under_it(drifts, bound: float):
    """The worst stage decides, and a stage without a value is the worst."""
    local = [StageDrift(Stage("unet", i), "sample", moved, moved) for i, moved in enumerate(drifts)]
    tolerance = Tolerance.from_yaml({"local_l_inf": bound})
    (found,) = check_local(local, tolerance)
    assert found.check.passed == all(moved <= bound for moved in drifts)


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_both_signs_are_equal_numbers(dtype: str):
    """The judge tells them apart by their digests, which are not drift."""
    plus, minus = np.zeros(3, dtype), -np.zeros(3, dtype)
    assert np.signbit(minus).all()
    drift = measure(minus, plus)
    assert (drift.l_inf, drift.rel_l2, drift.differing) == (0.0, 0.0, 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_smallest_number_of_a_type_is_a_drift_from_zero(dtype: str):
    """Subnormal numbers are not flushed to zero."""
    smallest = np.array([SMALLEST[dtype]], dtype)
    assert float(smallest[0]) == SMALLEST[dtype]
    drift = measure(smallest, np.zeros(1, dtype))
    assert (drift.l_inf, drift.rel_l2, drift.differing) == (SMALLEST[dtype], math.inf, 1)
    assert not passes(drift, {"l_inf": 0.0})


def test_the_whole_range_of_uint8_does_not_wrap():
    """Every pair of its values is as far apart as whole numbers say."""
    one, other = (side.astype(np.uint8) for side in np.mgrid[0:256, 0:256])
    assert measure(one, other).l_inf == 255.0
    for value in (0, 1, 127, 128, 255):
        column = np.full(256, value, np.uint8)
        gaps = [abs(value - number) for number in range(256)]
        drift = measure(np.arange(256, dtype=np.uint8), column)
        assert (drift.l_inf, drift.differing) == (max(gaps), 255)


def passes(drift: Drift, bounds: dict[str, float]) -> bool:
    """Whether a drift of an output passes the bounds of a tolerance."""
    checks = check_output("image", drift, Tolerance.from_yaml(bounds))
    assert {check.metric for check in checks} == {Metric(name) for name in bounds}
    return all(check.passed for check in checks)
