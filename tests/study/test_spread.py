"""Bounds from the spread of what was measured: they widen where little is known."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import t as student  # type: ignore[import-untyped]

from harness.judge.checks import part_of_bound
from harness.study.spread import SYSTEMATIC_TAIL, free_bound, quantile, systematic_bound

EPSILON = 2.0**-23


@pytest.mark.parametrize("freedom", [10, 20, 50, 200, 1000])
@pytest.mark.parametrize("tail", [1e-2, 1e-4, 1e-6])
def test_the_quantile_is_that_of_student_s_t(freedom: int, tail: float):
    """By its expansion, which scipy does not use."""
    assert quantile(tail, freedom) == pytest.approx(student.ppf(1 - tail / 2, freedom), rel=0.03)


def test_fewer_draws_give_a_wider_bound():
    """And one that is never tighter than chance for so many elements."""
    source = random.Random(0)  # noqa: S311 (nothing is secret)
    shares = [source.gauss(0.0, 0.02) for _ in range(200)]
    few, many = (
        systematic_bound([shares[:count]], rel_l2=1e-5, size=10_000, last_place=EPSILON)
        for count in (4, 200)
    )
    assert 2 * many < few
    assert many == pytest.approx(0.02 * quantile(SYSTEMATIC_TAIL, 200) * 1e-5, rel=0.2)
    still = systematic_bound([[0.0] * 200], rel_l2=1e-5, size=10_000, last_place=1e-9)
    assert still == pytest.approx(0.01 * quantile(SYSTEMATIC_TAIL, 200) * 1e-5)
    nothing = systematic_bound([], rel_l2=1e-5, size=10_000, last_place=EPSILON)
    assert nothing > still


def test_a_constant_may_be_rounded_the_other_way():
    """It scales a whole tensor by one unit in the last place, however little the tensor drifts."""
    bound = systematic_bound([[1e-6] * 50], rel_l2=1e-6, size=10**9, last_place=EPSILON)
    assert bound * part_of_bound(0.0, 1e-6) == EPSILON


def test_random_draws_stay_inside_and_a_shift_does_not():
    """Ten thousand tensors of rounding noise, none of which is an alarm."""
    source = random.Random(1)  # noqa: S311 (nothing is secret)
    size, rounding = 4096, 1e-6
    spread = rounding / math.sqrt(size)
    measured = [source.gauss(0.0, spread) / rounding for _ in range(60)]
    bound = systematic_bound([measured], rel_l2=2 * rounding, size=size, last_place=1e-12)
    assert all(abs(source.gauss(0.0, spread)) < bound for _ in range(10_000))
    assert rounding > 4 * bound  # a shift of the size of the rounding itself is seen


def test_free_drift_is_bounded_by_the_spread_of_its_logarithm():
    """Drifts over two orders of magnitude reach farther than twice the worst."""
    source = random.Random(2)  # noqa: S311 (nothing is secret)
    drifts = [math.exp(source.gauss(math.log(1e-6), 1.0)) for _ in range(40)]
    unseen = [math.exp(source.gauss(math.log(1e-6), 1.0)) for _ in range(2_000)]
    bound = free_bound(drifts)
    assert max(unseen) < bound < 100 * max(drifts)
    assert free_bound([0.0, 1e-6]) == 0.0  # too few to say
    alike = free_bound([1e-6] * 10)
    assert alike == pytest.approx(1e-6)


def test_the_platform_whose_drift_is_most_systematic_decides():
    """Many others that round at random do not make its bound tighter."""
    source = random.Random(3)  # noqa: S311 (nothing is secret)
    platforms = [[source.gauss(0.0, spread) for _ in range(6)] for spread in (0.1, *[0.02] * 12)]
    bound = systematic_bound(platforms, rel_l2=1e-5, size=10_000, last_place=1e-12)
    assert all(abs(source.gauss(0.0, 0.1)) * 1e-5 < bound for _ in range(10_000))
