"""Expectations: what must hold of a case's own runs and of the images of a batch."""

from __future__ import annotations

import builders
import numpy as np
import pytest
from builders import IMAGE, MOVED, NOISE

from harness.judge import reasons
from harness.judge.expectations import HOLDERS, hold_all
from harness.records import Against, Metric
from harness.scenario.fields import Expectation

PAIR = np.concatenate([IMAGE, MOVED])
TWICE = np.concatenate([IMAGE, IMAGE])
NOISES = np.concatenate([NOISE, NOISE])
LOOSE, TIGHT = {"batch": {"l_inf": 1e-3}}, {"batch": {"l_inf": 1e-4}}
AGAINST_FIRST = "image[1] against image[0]:"
AGAINST_ALONE = "image[1] against the same image alone:"


def worded(scenario, recording, singles=()):
    """Return the message of the broken expectation, empty if all hold, and the checks."""
    broken, checks = hold_all(scenario, recording, singles)
    return "" if broken is None else reasons.expectation_broken(broken), checks


def expecting(expectation: str, problem: str) -> str:
    """Return the message of a broken expectation; empty for no problem."""
    return f"expected `{expectation}`: {problem}" if problem else ""


def test_every_expectation_has_a_function_that_holds_it():
    """A new expectation without one would be a KeyError in the middle of a run."""
    assert set(HOLDERS) == set(Expectation)


# id: (distinct outputs, runs, whether the instrumented run equals the plain ones, problem)
REPEATED = {
    "all-runs-agree": (1, 3, True, ""),
    "one-run-only": (1, 1, True, ""),
    "two-runs-differ": (
        2,
        2,
        False,
        "2 runs gave 2 different outputs, L-inf between runs 0.5",
    ),
    "only-the-instrumented-run-differs": (
        2,
        3,
        False,
        "the instrumented run differs from the plain runs",
    ),
    "a-plain-run-differs": (
        2,
        3,
        True,
        "3 runs gave 2 different outputs, L-inf between runs 0.5",
    ),
    "no-two-runs-agree": (
        3,
        3,
        False,
        "3 runs gave 3 different outputs, L-inf between runs 0.5",
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_runs_repeat_or_it_is_said_which_of_them_differ(made, name):
    """Instrumentation is blamed only where the plain runs agree with each other."""
    distinct, runs, equal, problem = REPEATED[name]
    repeat = builders.repeat(distinct, runs, 0.5, instrumented_equals_plain=equal)
    scenario = builders.scenario(expect=(Expectation.REPEATABLE,))
    message, _ = worded(scenario, made(repeat=repeat))
    assert message == expecting("repeatable", problem)


@pytest.mark.parametrize(
    ("distinct", "runs", "problem"),
    [
        (3, 3, ""),
        (2, 3, "3 runs gave 2 different outputs; every run must differ"),
        (1, 2, "2 runs gave 1 different outputs; every run must differ"),
    ],
)
def test_a_control_must_vary_in_every_run(made, distinct, runs, problem):
    """Two equal runs among three show that the seed was not left out everywhere."""
    scenario = builders.scenario(expect=(Expectation.VARIES,))
    message, _ = worded(scenario, made(repeat=builders.repeat(distinct, runs, 0.5)))
    assert message == expecting("varies", problem)


# id: (expectation, batch, changes to the scenario, problem)
BATCHES = {
    "same": (Expectation.IDENTICAL_IMAGES, TWICE, {}, ""),
    "same-within": (Expectation.IDENTICAL_IMAGES, PAIR, {"tolerance": LOOSE}, ""),
    "not-same": (
        Expectation.IDENTICAL_IMAGES,
        PAIR,
        {},
        f"{AGAINST_FIRST} l_inf = 0.000977 (bound 0)",
    ),
    "not-same-enough": (
        Expectation.IDENTICAL_IMAGES,
        PAIR,
        {"tolerance": TIGHT},
        f"{AGAINST_FIRST} l_inf = 0.000977 (bound 0.0001)",
    ),
    "alone": (Expectation.IDENTICAL_IMAGES, IMAGE, {}, "there is no second image"),
    "distinct": (Expectation.DISTINCT_IMAGES, PAIR, {}, ""),
    "not-distinct": (
        Expectation.DISTINCT_IMAGES,
        np.concatenate([PAIR, IMAGE]),
        {},
        "image[0] and image[2] are the same",
    ),
    "not-distinct-enough": (
        Expectation.DISTINCT_IMAGES,
        PAIR,
        {"tolerance": LOOSE},
        "image[0] and image[1] are the same within `tolerance.batch`",
    ),
    "distinct-enough": (Expectation.DISTINCT_IMAGES, PAIR, {"tolerance": TIGHT}, ""),
    "one-image": (
        Expectation.DISTINCT_IMAGES,
        IMAGE,
        {},
        "image holds 1 image; there must be several",
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_what_is_expected_of_a_batch_s_images_holds_or_says_which_break_it(made, name):
    """Every pair that matters is looked at, and the first that breaks is named."""
    expectation, batch, scenario, problem = BATCHES[name]
    message, _ = worded(builders.scenario(expect=(expectation,), **scenario), made(batch))
    assert message == expecting(expectation, problem)


@pytest.mark.parametrize(
    ("noise", "problem"),
    [
        ([NOISES], ""),
        (
            [np.concatenate([NOISES, NOISE * 2])],
            "the noise of image 2 differs from that of image 0",
        ),
        (
            [np.concatenate([NOISE, NOISE * 2])],
            "the noise of image 1 differs from that of image 0",
        ),
        ([NOISE], "no noise of several images was drawn"),
        ([], "no noise of several images was drawn"),
    ],
    ids=["same", "other", "second-is-other", "one-image", "none"],
)
def test_identical_noise_is_looked_at_itself(made, noise, problem):
    """The first draw holds one noise per image; its images need not be equal."""
    scenario = builders.scenario(expect=(Expectation.IDENTICAL_NOISE,))
    message, _ = worded(scenario, made(PAIR, noise=noise))
    assert message == expecting("identical-noise", problem)


@pytest.mark.parametrize(
    ("second", "bounds", "problem"),
    [
        (MOVED, "identical", ""),
        (IMAGE, "identical", f"{AGAINST_ALONE} l_inf = 0.000977 (bound 0)"),
        (IMAGE, {"l_inf": 1e-3, "rel_l2": 1e-2}, ""),
        (
            IMAGE,
            {"l_inf": 1e-3, "rel_l2": 1e-4},
            f"{AGAINST_ALONE} rel_l2 = 0.000713 (bound 0.0001)",
        ),
    ],
    ids=["same-bits", "other-bits", "within", "outside"],
)
def test_each_image_of_a_batch_is_held_against_the_image_alone(made, second, bounds, problem):
    """Image by image, within `tolerance.batch`; every check is kept, passed or not."""
    scenario = builders.scenario(
        expect=(Expectation.BATCH_EQUALS_SINGLE,), seeds=(0, 1), tolerance={"batch": bounds}
    )
    message, checks = worded(scenario, made(PAIR), [made(IMAGE), made(second)])
    assert message == expecting("batch-equals-single", problem)
    assert [check.subject for check in checks] == (
        ["image[0]", "image[1]"]
        if bounds == "identical"
        else ["image[0]", "image[0]", "image[1]", "image[1]"]
    )
    assert {check.against for check in checks} == {Against.SAME_IMAGE_ALONE}


def test_an_image_alone_of_another_size_breaks_the_expectation(made):
    """It is the scenario that does not hold, not the harness that has a defect."""
    scenario = builders.scenario(
        expect=(Expectation.BATCH_EQUALS_SINGLE,),
        seeds=(0, 1),
        tolerance={"batch": {"l_inf": 1.0}},
    )
    message, checks = worded(scenario, made(PAIR), [made(IMAGE), made(PAIR)])
    assert message == expecting("batch-equals-single", f"{AGAINST_ALONE} shape = nan (bound 0)")
    assert [check.metric for check in checks] == [Metric.L_INF, Metric.SHAPE]


def test_the_first_broken_expectation_ends_the_search_and_its_checks_are_kept(made):
    """What comes after it is not held; what came before it is in the list."""
    alone, repeatable = Expectation.BATCH_EQUALS_SINGLE, Expectation.REPEATABLE
    scenario = builders.scenario(expect=(alone, repeatable, Expectation.IDENTICAL_IMAGES))
    recording = made(PAIR, repeat=builders.repeat(distinct=2, runs=2, l_inf=0.5))
    broken, checks = hold_all(scenario, recording, [made(IMAGE), made(MOVED)])
    assert broken.expectation is repeatable
    assert [check.passed for check in checks] == [True, True]


def test_every_output_of_a_run_is_looked_at(made):
    """A mask beside the image must be equal too."""
    scenario = builders.scenario(expect=(Expectation.IDENTICAL_IMAGES,))
    message, checks = worded(scenario, made({"image": TWICE, "mask": PAIR}))
    assert message.startswith("expected `identical-images`: mask[1] against mask[0]:")
    assert len(checks) == 2


@pytest.mark.parametrize(("reused_equals_fresh", "holds"), [(True, True), (False, False)])
def test_a_pipeline_that_keeps_state_between_two_calls_is_not_stateless(
    tmp_path, reused_equals_fresh, holds
):
    """The second call of one object is asked for, and gives another output."""
    repeat = {**builders.repeat(), "reused_equals_fresh": reused_equals_fresh}
    recording = builders.recording(tmp_path, repeat=repeat)
    scenario = builders.scenario(expect=(Expectation.REPEATABLE, Expectation.STATELESS))
    broken, _ = hold_all(scenario, recording, [])
    assert (broken is None) == holds
    if broken is not None:
        assert broken.expectation is Expectation.STATELESS
        assert broken.problem.startswith("a second call of the same pipeline object gives another")
