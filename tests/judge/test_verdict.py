"""Verdicts: one recording against another gives the right word, the right reason, and the first thing that differs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import builders
import numpy as np
import pytest
from builders import IMAGE, NOISE, STAGES

from harness.judge import (
    environment_diff as changes,
)
from harness.judge import (
    expectations as expect,
)
from harness.judge import (
    first_difference as divergence,
)
from harness.judge.cost import judge_cost
from harness.judge.verdict import judge, unrun, wants_anchored
from harness.records import Drift, Outcome

MOVED = IMAGE + np.array([0, 0, 0, 2.0**-10], np.float32).reshape(
    IMAGE.shape
)  # L-inf 9.77e-4, relative L2 7.13e-4
NAN = np.where(IMAGE == 1.0, np.float32(np.nan), IMAGE)
OTHER_UNET = (
    ("unet#0", {"sample": "n"}, {"sample": "U"}),
    ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "S"}),
)
PUBLISHED = {"image": {"abs_sum": 2.5, "within": 1e-2, "source": "a paper"}}
SAME, REFERENCE = "the same class cpu-a", "class cpu-b, the reference of cpu-float32"
FIRST = "; first difference: unet#0"


@pytest.fixture
def made(tmp_path):
    """Return a function that makes a recording from the builder's arguments."""
    count = iter(range(100))
    return lambda *arguments, **changes: builders.recording(
        tmp_path / str(next(count)), *arguments, **changes
    )


def moved(**more):
    """Return the arguments of a recording whose U-Net, and so whose image, moved."""
    return {"outputs": MOVED, "stages": OTHER_UNET, **more}


# id: (this run, the baseline or None, changes to the scenario, verdict, reason)
JUDGED = {
    "identical": ({}, {}, {}, "identical", f"same bits as the baseline of {SAME}"),
    "identical-in-another-class": (
        {},
        {"letter": "b"},
        {},
        "identical",
        f"same bits as the baseline of {REFERENCE}",
    ),
    "within": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 1e-3, "rel_l2": 1e-3}}},
        "within",
        f"inside the cross-class tolerance of {REFERENCE}{FIRST}",
    ),
    "within-at-the-bound": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 2.0**-10}}},
        "within",
        f"inside the cross-class tolerance of {REFERENCE}{FIRST}",
    ),
    "drifted-in-the-same-class": (
        moved(),
        {},
        {"tolerance": {"cross-class": {"l_inf": 1.0}}},
        "drifted",
        f"other bits than the baseline of the same class cpu-a{FIRST}",
    ),
    "drifted-without-bounds": (
        moved(),
        {"letter": "b"},
        {},
        "drifted",
        f"other bits than the baseline of {REFERENCE}, and the scenario sets no `tolerance.cross-class`{FIRST}",
    ),
    "drifted-over-one-bound-of-two": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 1.0, "rel_l2": 1e-5}}},
        "drifted",
        f"image rel_l2 = 0.000713 (bound 1e-05) against the baseline of {REFERENCE}{FIRST}",
    ),
    "drifted-where-no-difference-is-admitted": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": "identical"}},
        "drifted",
        f"image l_inf = 0.000977 (bound 0) against the baseline of {REFERENCE}{FIRST}",
    ),
    "drifted-in-a-second-output": (
        {"outputs": {"image": IMAGE, "mask": MOVED}, "stages": OTHER_UNET},
        {"outputs": {"image": IMAGE, "mask": IMAGE}, "letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 1e-4}}},
        "drifted",
        f"mask l_inf = 0.000977 (bound 0.0001) against the baseline of {REFERENCE}{FIRST}",
    ),
    "other-stages-same-image": (
        {"stages": OTHER_UNET},
        {},
        {},
        "identical",
        f"same bits as the baseline of {SAME}",
    ),
    "unrepeatable": (
        {"repeat": builders.repeat(distinct=2, l_inf=0.5)},
        {},
        {},
        "unrepeatable",
        "expected `repeatable`: 3 runs gave 2 different outputs, L-inf between runs 0.5",
    ),
    "unrepeatable-only-when-watched": (
        {"repeat": builders.repeat(distinct=2, l_inf=0.5, watched_as_plain=False)},
        {},
        {},
        "unrepeatable",
        "expected `repeatable`: the watched run differs from the plain runs",
    ),
    "unrepeatable-before-stale": (
        {"repeat": builders.repeat(distinct=3, l_inf=0.5)},
        {},
        {"seeds": (1,)},
        "unrepeatable",
        "expected `repeatable`: 3 runs gave 3 different outputs, L-inf between runs 0.5",
    ),
    "missing": ({}, None, {}, "missing", "no baseline for this case"),
    "stale-scenario": (
        {},
        {},
        {"seeds": (1,)},
        "stale",
        "the baseline belongs to another version of the scenario (of 2026-01-02T03:04:05+00:00)",
    ),
    "stale-weights": (
        {},
        {"inputs": builders.inputs(unet="other")},
        {},
        "stale",
        "the baseline belongs to other weights: unet",
    ),
    "stale-before-incomparable": (
        {"outputs": IMAGE[0]},
        {"inputs": builders.inputs(unet="other")},
        {},
        "stale",
        "the baseline belongs to other weights: unet",
    ),
    "incomparable-shape": (
        {"outputs": IMAGE[0]},
        {},
        {},
        "incomparable",
        "output `image` has another shape: [1, 2, 2, 1] -> [2, 2, 1]",
    ),
    "incomparable-dtype": (
        {"outputs": IMAGE.astype(np.float16)},
        {},
        {"tolerance": {"cross-class": {"l_inf": 1.0}}},
        "incomparable",
        "output `image` has another dtype: float32 -> float16",
    ),
    "incomparable-lost-output": (
        {"outputs": {"image": IMAGE}},
        {"outputs": {"image": IMAGE, "mask": IMAGE}},
        {},
        "incomparable",
        "output `mask` is only in the baseline",
    ),
    "incomparable-new-output": (
        {"outputs": {"image": IMAGE, "audio": IMAGE}},
        {},
        {},
        "incomparable",
        "output `audio` is only in this run",
    ),
    "incomparable-nan": ({"outputs": NAN}, {}, {}, "incomparable", "image holds NaN or infinity"),
    "incomparable-nan-as-in-the-baseline": (
        {"outputs": NAN},
        {"outputs": NAN},
        {},
        "incomparable",
        "image holds NaN or infinity",
    ),
    "incomparable-nan-before-unrepeatable": (
        {"outputs": NAN, "repeat": builders.repeat(distinct=2, l_inf=None)},
        None,
        {},
        "incomparable",
        "image holds NaN or infinity",
    ),
    "published-alone": (
        {},
        None,
        {"published": PUBLISHED},
        "within",
        "by the published value alone, there is no baseline: image abs_sum 2.5000, published 2.5000 (a paper)",
    ),
    "published-alone-and-off": (
        {"outputs": IMAGE * 2},
        None,
        {"published": PUBLISHED},
        "drifted",
        "image abs_sum 5.0000, published 2.5000 (a paper): off by 2.5 (bound 0.01)",
    ),
    "published-for-another-device": (
        {},
        None,
        {"published": {"image": {**PUBLISHED["image"], "on": "cuda"}}},
        "missing",
        "no baseline for this case",
    ),
    "published-for-an-output-that-is-not-there": (
        {},
        None,
        {"published": {"frame": PUBLISHED["image"]}},
        "drifted",
        "frame abs_sum nan, published 2.5000 (a paper): off by nan (bound 0.01)",
    ),
    "published-beside-a-baseline": (
        {},
        {},
        {"published": PUBLISHED},
        "identical",
        f"same bits as the baseline of {SAME}",
    ),
    "published-beside-a-baseline-and-off": (
        {"outputs": IMAGE * 2},
        {"outputs": IMAGE * 2},
        {"published": PUBLISHED},
        "drifted",
        "image abs_sum 5.0000, published 2.5000 (a paper): off by 2.5 (bound 0.01)",
    ),
    "published-holds-but-other-bits": (
        moved(),
        {},
        {"published": PUBLISHED},
        "drifted",
        f"other bits than the baseline of the same class cpu-a{FIRST}",
    ),
    "varies": (
        {"repeat": builders.repeat(distinct=3, l_inf=0.5, watched_as_plain=False)},
        None,
        {"expect": ("varies",)},
        "within",
        "varies as expected: L-inf between runs 0.5",
    ),
    "does-not-vary": (
        {"repeat": builders.repeat(distinct=2, l_inf=0.5)},
        None,
        {"expect": ("varies",)},
        "unrepeatable",
        "expected `varies`: 3 runs gave 2 different outputs; every run must differ",
    ),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_recording_against_a_baseline_gives_the_word_and_the_reason(made, name):
    """Every verdict of the judge, each with its whole reason."""
    now, then, scenario, verdict, reason = JUDGED[name]
    now = made(**now)
    match = None
    if then is not None:
        baseline = made(**then)
        match = builders.match(baseline, same_class=baseline.numerics_class == now.numerics_class)
    outcome = judge(builders.case(**scenario), now, match, [])
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


def test_other_bits_in_the_same_class_drifted_also_where_the_numbers_are_equal(made):
    """Minus zero is zero to arithmetic; bits are owed."""
    zeros = np.zeros_like(IMAGE)
    outcome = judge(builders.case(), made(-zeros), builders.match(made(zeros)), [])
    assert outcome.verdict == "drifted"


def test_runs_that_vary_in_shape_still_get_their_verdict(made):
    """There is no distance between arrays of other shapes."""
    recording = made(repeat=builders.repeat(distinct=3, l_inf=None, watched_as_plain=False))
    assert judge(builders.case(expect=("varies",)), recording, None, []).verdict == "within"


def test_the_step_after_the_last_stage_is_named_when_only_the_output_differs(made):
    """A difference that no stage shows is not `None`."""
    match = builders.match(made(letter="b"), same_class=False)
    outcome = judge(
        builders.case(tolerance={"cross-class": {"l_inf": 1.0}}), made(MOVED), match, []
    )
    assert "None" not in outcome.reason


def test_an_outcome_holds_what_reports_show(made):
    """Drift, stages, cost and the changes of the environment come along, and survive `results.json`."""
    now = made(**moved(kept={"unet#0": MOVED[0]}))
    then = made(
        letter="b",
        kept={"unet#0": IMAGE[0]},
        environment=builders.environment("b", versions={"torch": "2.8.0"}),
    )
    outcome = judge(builders.case(tags=("guide",)), now, builders.match(then, same_class=False), [])
    size = math.sqrt(1.875)
    assert outcome.outputs == {
        "image": Drift(
            2.0**-10, 2.0**-10 / size, 2.5 + 2.0**-10, 2.5, 1, 4, (0, 1, 1, 0), 1 + 2.0**-10, 1.0
        )
    }
    assert outcome.free["unet#0"] == {"l_inf": 2.0**-10, "rel_l2": 2.0**-10 / size}
    assert outcome.baseline == {"class": "cpu-b", "same_class": False, "why": REFERENCE}
    assert outcome.changes == (
        "torch 2.8.0 -> 2.9.1",
        "diffusers unset -> 0.36.0",
        "operators with other bits: bmm",
    )
    assert (outcome.case, outcome.tags, outcome.device_kind) == (
        "digits[cpu-float32]",
        ("guide",),
        "cpu",
    )
    assert Outcome.from_json(outcome.as_json()) == outcome


def test_the_same_bits_are_reported_as_no_drift(made):
    """Arrays are not read for it; the sum comes from the baseline."""
    outcome = judge(builders.case(), made(), builders.match(made()), [])
    assert outcome.outputs == {"image": Drift(0.0, 0.0, 2.5, 2.5, 0, 4, (), 0.0, 0.0)}
    assert (outcome.first_divergence, outcome.free, outcome.checks) == (None, {}, ())


def test_a_case_that_left_no_recording_has_an_outcome():
    """It knows its place and tags; its GPU's model it cannot know."""
    outcome = unrun(builders.case(device="cuda", tags=("slow",)), "error", "crashed", "Traceback")
    assert outcome == Outcome(
        "digits[cuda-float32]",
        "digits",
        "error",
        "crashed",
        "cuda-float32",
        ("slow",),
        log="Traceback",
    )


KEPT = {"unet#0/sample": IMAGE, "scheduler.step#0/sample": IMAGE}
LOCAL = {
    "within": (
        {},
        {"local_rel_l2": 1e-3},
        "within",
        f"inside the cross-class tolerance of {REFERENCE}{FIRST}",
    ),
    "over": (
        {},
        {"local_rel_l2": 1e-4, "l_inf": 1.0},
        "drifted",
        f"local rel_l2 of unet#0/sample = 0.000713 (bound 0.0001) against the baseline of {REFERENCE}{FIRST}",
    ),
    "over-free-first": (
        {},
        {"local_rel_l2": 1e-4, "l_inf": 1e-5},
        "drifted",
        f"image l_inf = 0.000977 (bound 1e-05) against the baseline of {REFERENCE}{FIRST}",
    ),
    "nan-is-the-worst": (
        {"scheduler.step#0/sample": NAN},
        {"local_l_inf": 1.0},
        "drifted",
        f"local l_inf of scheduler.step#0/sample = nan (bound 1) against the baseline of {REFERENCE}{FIRST}",
    ),
}


@pytest.mark.parametrize("name", LOCAL)
def test_each_stage_is_held_against_its_local_bound_on_the_baseline_s_inputs(made, name):
    """The stage with the largest drift of its own decides, and is named."""
    kept, bounds, verdict, reason = LOCAL[name]
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    anchored = made(kept={**KEPT, "unet#0/sample": MOVED, **kept})
    outcome = judge(
        builders.case(tolerance={"cross-class": bounds}), made(**moved()), match, [], anchored
    )
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
    assert list(outcome.local) == ["noise/0", "unet#0/sample", "scheduler.step#0/sample"]


def test_a_local_bound_without_the_anchored_run_does_not_pass(made):
    """What was not measured is not within."""
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    outcome = judge(
        builders.case(tolerance={"cross-class": {"local_l_inf": 1.0}}), made(**moved()), match, []
    )
    assert (
        outcome.reason
        == f"local l_inf of no stage = nan (bound 1) against the baseline of {REFERENCE}{FIRST}"
    )


@pytest.mark.parametrize(
    "kept", [{}, {"scheduler.step#0/sample": IMAGE}, {**KEPT, "unet#0/sample": IMAGE[0]}]
)
def test_a_local_bound_does_not_pass_by_stages_that_are_not_there(made, kept):
    """An upgrade that renames a stage, or gives it another shape, must not open the gate."""
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    case = builders.case(tolerance={"cross-class": {"local_l_inf": 1.0}})
    assert judge(case, made(**moved()), match, [], made(kept=kept)).verdict == "drifted"


@pytest.mark.parametrize(
    ("now", "then", "fingerprint", "expected"),
    [
        (moved(), {"letter": "b"}, "", True),
        (moved(), {}, "", False),
        ({}, {"letter": "b"}, "", False),
        (moved(), {"letter": "b"}, "of another version", False),
        (moved(inputs=builders.inputs(unet="other")), {"letter": "b"}, "", False),
        (moved(outputs=IMAGE[0]), {"letter": "b"}, "", False),
    ],
    ids=[
        "other-class",
        "same-class",
        "same-bits",
        "stale-scenario",
        "stale-weights",
        "other-shape",
    ],
)
def test_only_comparable_bits_of_another_class_are_run_once_more(
    made, now, then, fingerprint, expected
):
    """The anchored run costs as much as the case itself."""
    now, then = made(**now), made(**then)
    same_class = now.numerics_class == then.numerics_class
    assert (
        wants_anchored(
            builders.scenario(),
            now,
            builders.match(then, same_class=same_class, fingerprint=fingerprint),
        )
        is expected
    )


UNET, STEP = STAGES
DIVERGED = {
    "nothing": ({}, {}, None),
    "scheduler": (
        {
            "inputs": builders.inputs(timestep_spacing="trailing", eta=0.5),
            "noise": [NOISE * 2],
            "stages": OTHER_UNET,
        },
        {},
        "configuration of scheduler: eta None -> 0.5, timestep_spacing 'leading' -> 'trailing'",
    ),
    "noise": ({"noise": [NOISE * 2], "stages": OTHER_UNET}, {}, "noise#0"),
    "later-noise": ({"noise": [NOISE, NOISE * 2]}, {"noise": [NOISE, NOISE]}, "noise#1"),
    "more-noise": ({"noise": [NOISE, NOISE]}, {}, "count of noise draws: 1 -> 2"),
    "stage": ({"stages": OTHER_UNET}, {}, "unet#0"),
    "input": (
        {"stages": [("unet#0", {"sample": "n", "timestep": "t"}, {"sample": "U"}), STEP]},
        {},
        "unet#0, its input timestep",
    ),
    "two-inputs": (
        {"stages": [UNET, ("scheduler.step#0", {"sample": "N", "eta": "e"}, {"prev_sample": "s"})]},
        {},
        "scheduler.step#0, its input eta, sample",
    ),
    "later-stage": (
        {"stages": [UNET, ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "S"})]},
        {},
        "scheduler.step#0",
    ),
    "order": ({"stages": [STEP, UNET]}, {}, "order of stages: unet#0 -> scheduler.step#0"),
    "fewer": ({"stages": [UNET]}, {}, "count of stages: 2 -> 1"),
}


@pytest.mark.parametrize("name", DIVERGED)
def test_the_first_thing_that_differs_is_named(made, name):
    """In the order of the run: schedulers, noise, then stage by stage, its inputs before its outputs."""
    now, then, expected = DIVERGED[name]
    assert divergence.first(made(**now), made(**then)) == expected


def test_components_with_other_weights_are_named_also_when_new_or_gone(made):
    """By name, in alphabetical order; the checkpoint's configuration is one of them."""
    weights = {
        "weights": {"vae": "v", "configuration": "C", "unet": "w"},
        "commit": None,
        "schedulers": {},
    }
    assert divergence.other_weights(made(inputs=weights), made()) == ["configuration", "vae"]


PAIR = np.concatenate([IMAGE, MOVED])
TWICE = np.concatenate([IMAGE, IMAGE])
NOISES = np.concatenate([NOISE, NOISE])
LOOSE, TIGHT = {"batch": {"l_inf": 1e-3}}, {"batch": {"l_inf": 1e-4}}
EXPECTED = {
    "alike": ("identical-images", TWICE, {}, ""),
    "alike-within": ("identical-images", PAIR, {"tolerance": LOOSE}, ""),
    "not-alike": (
        "identical-images",
        PAIR,
        {},
        "image[1] against image[0]: l_inf = 0.000977 (bound 0)",
    ),
    "not-alike-enough": (
        "identical-images",
        PAIR,
        {"tolerance": TIGHT},
        "image[1] against image[0]: l_inf = 0.000977 (bound 0.0001)",
    ),
    "alone": ("identical-images", IMAGE, {}, "there is no second image"),
    "distinct": ("distinct-images", PAIR, {}, ""),
    "not-distinct": (
        "distinct-images",
        np.concatenate([PAIR, IMAGE]),
        {},
        "image[0] and image[2] are the same",
    ),
    "one-image": ("distinct-images", IMAGE, {}, "image holds 1 image; there must be several"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_expected_of_a_batch_s_images_holds_or_says_which_break_it(made, name):
    """Every pair that matters is looked at, and the first that breaks is named."""
    expectation, batch, scenario, problem = EXPECTED[name]
    found, _ = expect.broken(builders.scenario(expect=(expectation,), **scenario), made(batch), [])
    assert found == (f"expected `{expectation}`: {problem}" if problem else "")


@pytest.mark.parametrize(
    ("noise", "problem"),
    [
        ([NOISES], ""),
        (
            [np.concatenate([NOISES, NOISE * 2])],
            "the noise of image 2 differs from that of image 0",
        ),
        ([NOISE], "no noise of several images was drawn"),
        ([], "no noise of several images was drawn"),
    ],
    ids=["same", "other", "one-image", "none"],
)
def test_identical_noise_is_looked_at_itself(made, noise, problem):
    """The first draw holds one noise per image; its images need not be alike."""
    found, _ = expect.broken(
        builders.scenario(expect=("identical-noise",)), made(PAIR, noise=noise), []
    )
    assert found == (f"expected `identical-noise`: {problem}" if problem else "")


@pytest.mark.parametrize(
    ("second", "bounds", "problem"),
    [
        (MOVED, "identical", ""),
        (IMAGE, "identical", "image[1] against the same image alone: l_inf = 0.000977 (bound 0)"),
        (IMAGE, {"l_inf": 1e-3, "rel_l2": 1e-2}, ""),
        (
            IMAGE,
            {"l_inf": 1e-3, "rel_l2": 1e-4},
            "image[1] against the same image alone: rel_l2 = 0.000713 (bound 0.0001)",
        ),
    ],
    ids=["same-bits", "other-bits", "within", "outside"],
)
def test_each_image_of_a_batch_is_held_against_the_image_alone(made, second, bounds, problem):
    """Image by image, within `tolerance.batch`; every check is kept, passed or not."""
    scenario = builders.scenario(
        expect=("batch-equals-single",), seeds=(0, 1), tolerance={"batch": bounds}
    )
    found, checks = expect.broken(scenario, made(PAIR), [made(IMAGE), made(second)])
    assert found == (f"expected `batch-equals-single`: {problem}" if problem else "")
    assert len(checks) == (4 if len(bounds) == 2 else 2)


def test_an_image_alone_of_another_size_breaks_the_expectation(made):
    """It is the scenario that does not hold, not the harness that has a defect."""
    scenario = builders.scenario(
        expect=("batch-equals-single",), seeds=(0, 1), tolerance={"batch": "identical"}
    )
    found, _ = expect.broken(scenario, made(PAIR), [made(IMAGE), made(PAIR)])
    assert found.startswith("expected `batch-equals-single`: ")


def test_a_broken_expectation_is_the_verdict_and_its_checks_are_kept(made):
    """`unrepeatable` also where the baseline has the same bits."""
    case = builders.case(expect=("repeatable", "identical-images"))
    outcome = judge(
        case, made(PAIR), builders.match(made(PAIR), fingerprint=case.scenario.fingerprint), []
    )
    assert (outcome.verdict, [check.passed for check in outcome.checks]) == (
        "unrepeatable",
        [False],
    )


BOUNDS = {"slower": 1.25, "at_least_seconds": 0.25}


@pytest.mark.parametrize(
    ("seconds", "before", "bounds", "word", "ratio"),
    [
        (2.0, 2.0, BOUNDS, "ok", 1.0),
        (2.5, 2.0, BOUNDS, "ok", 1.25),  # at the bound
        (2.75, 2.0, BOUNDS, "slower", 1.375),
        (1.5, 2.0, BOUNDS, "faster", 0.75),
        (1.75, 2.0, BOUNDS, "ok", 0.875),
        (0.375, 0.25, BOUNDS, "ok", 1.5),  # an eighth of a second is noise
        (0.375, 0.25, {"slower": 1.25}, "slower", 1.5),
        (9.0, 2.0, {}, "unknown", 4.5),
    ],
)
def test_a_change_of_cost_gets_its_word(made, seconds, before, bounds, word, ratio):
    """A change counts beyond both bounds; without bounds there is no word."""
    cost = judge_cost(made(cost=builders.cost(seconds)), made(cost=builders.cost(before)), bounds)
    added = {
        "ratio": ratio,
        "baseline_seconds": before,
        "baseline_step_seconds": {"scheduler": before / 2},
    }
    why = "" if bounds else "the scenario bounds no cost"
    assert cost == {**builders.cost(seconds), **added, "verdict": word, "why": why}


@pytest.mark.parametrize(
    ("now", "then", "why"),
    [
        ((), (), ""),
        (("power cap",), ("power cap",), ""),
        (("heat", "power cap"), (), "the GPU was slowed down in this run by heat"),
        ((), ("heat", "brake"), "the GPU was slowed down in the baseline by brake, heat"),
    ],
)
def test_a_gpu_that_was_held_down_says_nothing_of_cost(made, now, then, why):
    """Heat and faults are not the code's doing, and which side suffered is told; a cap on power meets every long run."""
    cost = judge_cost(
        made(cost=builders.cost(9.0, *now)), made(cost=builders.cost(2.0, *then)), BOUNDS
    )
    assert (cost["verdict"], cost["ratio"], cost["why"]) == (
        "unknown" if why else "slower",
        4.5,
        why,
    )


def test_a_stale_baseline_says_what_was_edited_since_and_nothing_of_cost(made):
    """By the keys of the scenario; a baseline of an older harness knows none."""
    before = builders.scenario(call={"num_inference_steps": 4}, seeds=(7, 8))
    after = {
        "call": {"num_inference_steps": 5, "eta": 0.5},
        "scheduler": {"class": "DDIMScheduler"},
    }
    case, now = builders.case(cost=BOUNDS, **after), made(cost=builders.cost(9.0))
    match = builders.match(made(), fingerprint=before.fingerprint)
    then = replace(match.baseline, notes={"decides": json.loads(json.dumps(before.decides))})
    call = "call.eta unset -> 0.5, call.num_inference_steps 4 -> 5"
    for baseline, edited in (
        (then, f": {call}, scheduler.class unset -> DDIMScheduler, seed [7, 8] -> [0]"),
        (match.baseline, ""),
    ):
        outcome = judge(case, now, replace(match, baseline=baseline), [])
        assert outcome.verdict == "stale"
        assert (
            outcome.reason
            == f"the baseline belongs to another version of the scenario (of 2026-01-02T03:04:05+00:00){edited}"
        )
        assert (outcome.cost["verdict"], outcome.cost["ratio"]) == ("unknown", None)


@pytest.mark.parametrize(
    ("now", "then", "word"),
    [
        ((9.0, 2.0), (2.0, 0.0), "slower"),  # 7 seconds of its own are slower still
        ((9.0, 7.0), (2.0, 0.0), "unknown"),
        ((9.0, 12.0), (2.0, 0.0), "unknown"),  # several threads waited
        ((2.0, 0.0), (9.0, 7.0), "unknown"),
        ((2.0, 1.0), (9.0, 1.0), "faster"),
        ((2.0, 1.9), (2.0, 0.0), "ok"),
    ],
)
def test_a_run_that_waited_for_other_work_is_neither_slower_nor_faster(made, now, then, word):
    """Where the wait explains the change, on either side; a change beyond it counts."""
    sides = [made(cost=builders.cost(seconds, waited=waited)) for seconds, waited in (now, then)]
    cost = judge_cost(*sides, BOUNDS)
    assert cost["verdict"] == word
    assert ("other work had the processor" in cost["why"]) == (word == "unknown")


def test_a_baseline_that_knows_no_steps_still_judges_cost(made):
    """Those of older versions of the harness."""
    old = {
        key: value
        for key, value in builders.cost(2.0).items()
        if key not in ("step_seconds", "conditions")
    }
    cost = judge_cost(made(cost=builders.cost(2.0)), made(cost=old), BOUNDS)
    assert (cost["verdict"], cost["baseline_step_seconds"]) == ("ok", {})


def test_one_run_warms_up_and_is_no_measure(made):
    """On either side."""
    alone = {**builders.cost(2.0), "rounds_seconds": []}
    for now, then in ((alone, builders.cost(1.0)), (builders.cost(1.0), alone)):
        cost = judge_cost(made(cost=now), made(cost=then), BOUNDS)
        assert (cost["verdict"], cost["ratio"], cost["why"]) == (
            "unknown",
            None,
            "one run only, which warms up",
        )


@pytest.mark.parametrize(
    "hardware",
    [
        {"cpu": "EPYC", "cores": 2},
        {"cpu": "Xeon", "cores": 4},
        {"cpu": "Xeon", "cores": 2, "gpu": {"name": "NVIDIA H200"}},
    ],
    ids=["cpu", "cores", "gpu"],
)
def test_another_machine_says_nothing_of_cost(made, hardware):
    """Seconds are compared within one machine type only."""
    then = made(environment=builders.environment("a", hardware=hardware), cost=builders.cost(0.1))
    cost = judge_cost(made(), then, BOUNDS)
    assert (cost["verdict"], cost["ratio"], cost["seconds"]) == ("unknown", None, 2.0)
    assert cost["why"].startswith("the baseline is of another machine type, ")


def test_what_changed_in_the_environment_is_listed_by_how_likely_it_matters():
    """Frameworks first, torch before all; then GPU and driver, flags, variables, machine, operators; other packages last."""
    then = builders.environment("a")
    now = builders.environment(
        "b",
        versions={"torch": "2.10.0", "diffusers": "0.36.0", "xformers": "1.0", "numpy": "2.4"},
        hardware={"cpu": "EPYC", "cores": 2, "gpu": {"name": "NVIDIA L4", "driver": "570"}},
        flags={"cudnn.benchmark": True},
        variables={},
    )
    assert changes.list_changes(now, then) == (
        "torch 2.9.1 -> 2.10.0",
        "driver unset -> 570",
        "name unset -> NVIDIA L4",
        "cudnn.benchmark False -> True",
        "OMP_NUM_THREADS 1 -> unset",
        "cpu Xeon -> EPYC",
        "operators with other bits: bmm",
        "numpy unset -> 2.4",
        "xformers unset -> 1.0",
    )
    assert changes.list_changes(then, then) == ()
