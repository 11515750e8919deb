"""Checks: measured values held against the bounds of a tolerance, and no bound invented."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.checks import LEAST_PART, check_local, check_output, failed
from harness.judge.drift import measure
from harness.records import Against, Check, Metric, Stage, StageDrift
from harness.scenario.tolerance import NO_DIFFERENCE, Tolerance

DRIFT = measure(np.array([1.5, 2.0]), np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("value", "bound", "passed"),
    [
        (0.5, 0.5, True),
        (math.nextafter(0.5, 1), 0.5, False),
        (0.0, 0.0, True),
        (5e-324, 0.0, False),
        (math.nan, math.inf, False),
        (math.inf, math.inf, True),
    ],
)
def test_a_number_exactly_at_its_bound_passes_and_nothing_above(value, bound, passed):
    """The printed bound is the one that holds."""
    check = Check("image", Metric.L_INF, value, bound)
    assert check.passed is passed
    assert failed([check]) == ([] if passed else [check])


@pytest.mark.parametrize(
    ("value", "bound", "margin"),
    [(0.5, 1.0, 2.0), (2.0, 1.0, 0.5), (0.0, 1.0, math.inf), (0.0, 0.0, math.inf), (1.0, 0.0, 0.0)],
)
def test_the_margin_is_the_bound_divided_by_the_value(value, bound, margin):
    """It is infinite where nothing was measured to be different."""
    assert Check("image", Metric.L_INF, value, bound).margin == margin


@pytest.mark.parametrize(
    ("bounds", "checks"),
    [
        ({"l_inf": 0.5}, [(Metric.L_INF, 0.5, 0.5)]),
        (
            {"l_inf": 0.5, "rel_l2": 1e-3},
            [(Metric.REL_L2, DRIFT.rel_l2, 1e-3), (Metric.L_INF, 0.5, 0.5)],
        ),
        ({"local_l_inf": 0.5}, []),
        ("identical", [(Metric.L_INF, 0.5, 0.0)]),
    ],
    ids=["one", "two", "local-only", "identical"],
)
def test_a_bound_is_checked_per_metric_that_it_names(bounds, checks):
    """No bound is invented for a metric that the scenario leaves out."""
    found = check_output("image", DRIFT, Tolerance.from_yaml(bounds))
    assert found == [Check("image", metric, value, bound) for metric, value, bound in checks]


def test_a_check_says_what_its_subject_was_held_against():
    """An image of a batch is not held against the baseline."""
    (check,) = check_output("image[1]", DRIFT, NO_DIFFERENCE, Against.FIRST_IMAGE)
    assert check.against is Against.FIRST_IMAGE


@pytest.mark.parametrize("bounds", ["identical", {"l_inf": math.inf, "rel_l2": math.inf}])
def test_what_is_not_finite_passes_no_bound_however_loose(bounds):
    """NaN is at or under nothing."""
    drift = measure(np.array([math.nan]), np.array([1.0]))
    checks = check_output("image", drift, Tolerance.from_yaml(bounds))
    assert checks
    assert failed(checks) == checks


def stages(**sizes: float) -> list[StageDrift]:
    """Return drifts: `step0=1e-6` is the relative L2 of `scheduler.step#0/sample`."""
    kinds = {"step": "scheduler.step", "unet": "unet"}
    return [
        StageDrift(Stage(kinds[name[:-1]], int(name[-1])), "sample", l_inf=2 * size, rel_l2=size)
        for name, size in sizes.items()
    ]


FOUR = stages(unet0=1.0, step0=4.0, unet1=3.0, step1=2.0)

# id: (bounds on local drift as YAML has them, the subject, value and bound of each check)
LOCAL = {
    "every-stage": ({"local_rel_l2": 9.0}, [("scheduler.step#0/sample", 4.0, 9.0)]),
    "the-other-metric": ({"local_l_inf": 9.0}, [("scheduler.step#0/sample", 8.0, 9.0)]),
    "one-kind": ({"local_rel_l2": {"unet": 9.0}}, [("unet#1/sample", 3.0, 9.0)]),
    "one-stage": ({"local_rel_l2": {"unet#0": 9.0}}, [("unet#0/sample", 1.0, 9.0)]),
    "a-stage-of-a-kind": (
        {"local_rel_l2": {"unet": 9.0, "unet#1": 5.0}},
        [("unet#0/sample", 1.0, 9.0), ("unet#1/sample", 3.0, 5.0)],
    ),
    "both-metrics": (
        {"local_rel_l2": 9.0, "local_l_inf": {"unet": 7.0}},
        [("scheduler.step#0/sample", 4.0, 9.0), ("unet#1/sample", 6.0, 7.0)],
    ),
    "nothing-bounded": ({"l_inf": 1.0}, []),
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_bound_holds_the_worst_of_the_stages_that_it_covers(name):
    """A stage's own bound comes before its kind's, that before the general one."""
    bounds, expected = LOCAL[name]
    found = check_local(FOUR, Tolerance.from_yaml(bounds))
    assert [(each.check.subject, each.check.value, each.check.bound) for each in found] == expected
    assert [each.drift.name for each in found] == [subject for subject, *_ in expected]


def test_a_kind_without_a_bound_is_free():
    """A scenario bounds what it knows."""
    tolerance = Tolerance.from_yaml({"local_rel_l2": {"unet": 5.0}})
    assert not failed([each.check for each in check_local(stages(unet0=1.0, step0=9.0), tolerance)])


@pytest.mark.parametrize(
    ("bounds", "subject"),
    [({"local_rel_l2": 1.0}, "no stage"), ({"local_rel_l2": {"vae": 1.0}}, "vae")],
)
def test_a_local_bound_that_covers_no_stage_fails_and_names_its_pattern(bounds, subject):
    """A renamed stage must not slip through."""
    local = [] if subject == "no stage" else FOUR
    (found,) = check_local(local, Tolerance.from_yaml(bounds))
    assert (found.check.subject, found.check.passed, found.drift) == (subject, False, None)


def test_a_stage_without_a_value_is_the_worst_of_its_kind():
    """NaN is larger than every number."""
    tolerance = Tolerance.from_yaml({"local_rel_l2": 100.0})
    (found,) = check_local(stages(unet0=50.0, unet1=math.nan, step0=60.0), tolerance)
    assert (found.check.subject, found.check.passed) == ("unet#1/sample", False)


# id: (relative L2 of the tensor, its bounds as YAML has them, the part of that on gain that holds)
PARTS = {
    "half-of-its-bound": (2.0, {"local_rel_l2": 4.0}, 0.5),
    "at-its-bound": (4.0, {"local_rel_l2": 4.0}, 1.0),
    "over-its-bound": (8.0, {"local_rel_l2": 4.0}, 1.0),
    "hardly": (1e-9, {"local_rel_l2": 4.0}, LEAST_PART),
    "no-value": (math.nan, {"local_rel_l2": 4.0}, 1.0),
    "no-bound-of-its-own": (2.0, {}, 1.0),
    "a-bound-of-zero": (2.0, {"local_rel_l2": 0.0}, 1.0),
    "the-stage-s-own-bound": (2.0, {"local_rel_l2": {"unet": 2.0, "unet#0": 8.0}}, 0.25),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_bound_on_systematic_drift_shrinks_with_the_drift_of_the_tensor(name):
    """What rounds less is shifted less, down to a least part of the bound."""
    rel_l2, bounds, part = PARTS[name]
    drift = StageDrift(Stage("unet", 0), "sample", l_inf=1.0, rel_l2=rel_l2, gain=1.0)
    checks = check_local([drift], Tolerance.from_yaml({**bounds, "local_gain": 3.0}))
    assert checks[-1].check == Check("unet#0/sample", Metric.LOCAL_GAIN, 1.0, 3.0 * part)


def test_of_systematic_drift_the_tensor_that_uses_most_of_its_bound_is_told():
    """It is not the one of the largest figure where that one drifts more as a whole."""
    drifts = [
        StageDrift(Stage("unet", index), "sample", l_inf=1.0, rel_l2=rel_l2, gain=gain)
        for index, (rel_l2, gain) in enumerate([(4.0, 2.0), (1.0, 1.0)])
    ]
    bounds = Tolerance.from_yaml({"local_rel_l2": 4.0, "local_gain": 3.0})
    (found,) = failed([each.check for each in check_local(drifts, bounds)])
    assert found == Check("unet#1/sample", Metric.LOCAL_GAIN, 1.0, 0.75)


@pytest.mark.parametrize(
    ("bounds", "covered"),
    [
        ({"scheduler.step": 9.0}, ["scheduler.step#0/clamped"]),
        (
            {"scheduler.step": 9.0, "scheduler.step.clamped": 8.0},
            ["scheduler.step#0/sample", "scheduler.step#0/clamped"],
        ),
        (
            {"scheduler.step#0": 9.0, "scheduler.step.clamped#0": 8.0},
            ["scheduler.step#0/sample", "scheduler.step#0/clamped"],
        ),
        ({"scheduler.step.clamped": 8.0}, ["scheduler.step#0/clamped"]),
    ],
)
def test_what_goes_into_a_clamp_has_bounds_of_its_own_or_else_the_step_s(bounds, covered):
    """It rounds coarsely, and what comes out hardly at all."""
    drifts = [
        StageDrift(Stage("scheduler.step", 0), key, l_inf=size, rel_l2=size)
        for key, size in (("clamped", 2.0), ("sample", 1.0))
    ]
    found = check_local(drifts, Tolerance.from_yaml({"local_rel_l2": bounds}))
    assert [(each.check.subject, each.check.bound) for each in found] == [
        (subject, bound) for subject, bound in zip(covered, bounds.values(), strict=True)
    ]
