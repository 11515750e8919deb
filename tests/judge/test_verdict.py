"""Verdicts: one recording against a baseline gives the right word, reason and message."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import builders
import numpy as np
import pytest
from builders import IMAGE, MOVED, NAN, OTHER_UNET, moved

from harness.judge import reasons
from harness.judge.structure import same_bits, structure
from harness.judge.verdict import judge, wants_teacher_forcing, without_recording
from harness.records import (
    Check,
    Comparison,
    CostReason,
    CostVerdict,
    Difference,
    DifferenceKind,
    Drift,
    Effect,
    JudgedBy,
    Metric,
    Outcome,
    Reason,
    Stage,
    StageDrift,
    Target,
    Verdict,
)
from harness.scenario.fields import Expectation
from harness.scenario.model import Reference
from harness.store.typed_json import decode, encode

PUBLISHED = {"image": {"abs_sum": 2.5, "within": 1e-2, "source": "a paper"}}
SAME, REFERENCE = "the same class cpu-a", "class cpu-b, the reference of cpu-float32"
FIRST = "; first difference: unet#0"
NO_TOLERANCE = "and the scenario sets no `tolerance.cross-class`"
PUBLISHED_ALONE = "by the published value alone, there is no baseline"
AGAINST_REFERENCE = f" against the baseline of {REFERENCE}{FIRST}"
ELSEWHERE = Reference(Target(builders.CPU.device, builders.CPU.dtype), "other")
VARIES = (Expectation.VARIES,)
NO_CACHE = Effect("cache: first_block of unet", "0 of 12 calls were skipped", took_effect=False)
WORKING = Effect("compile: unet", "1 graph", took_effect=True)

# id: (this run, the baseline or None, changes to the scenario, verdict, reason, message)
JUDGED = {
    "identical": (
        {},
        {},
        {},
        "identical",
        Reason.SAME_BITS,
        f"same bits as the baseline of {SAME}",
    ),
    "an-execution-without-effect": (
        {"effects": (NO_CACHE, WORKING)},
        {},
        {},
        "error",
        Reason.NO_EFFECT,
        "`cache: first_block of unet` had no effect: 0 of 12 calls were skipped",
    ),
    "an-execution-with-its-effect": (
        {"effects": (WORKING,)},
        {},
        {},
        "identical",
        Reason.SAME_BITS,
        f"same bits as the baseline of {SAME}",
    ),
    "identical-in-another-class": (
        {},
        {"letter": "b"},
        {},
        "identical",
        Reason.SAME_BITS,
        f"same bits as the baseline of {REFERENCE}",
    ),
    "within": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 1e-3, "rel_l2": 1e-3}}},
        "within",
        Reason.INSIDE_TOLERANCE,
        f"inside the cross-class tolerance of {REFERENCE}{FIRST}",
    ),
    "within-at-the-bound": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 2.0**-10}}},
        "within",
        Reason.INSIDE_TOLERANCE,
        f"inside the cross-class tolerance of {REFERENCE}{FIRST}",
    ),
    "drifted-in-the-same-class": (
        moved(),
        {},
        {"tolerance": {"cross-class": {"l_inf": 1.0}}},
        "drifted",
        Reason.OTHER_BITS,
        f"bits differ from the baseline of the same class cpu-a{FIRST}",
    ),
    "drifted-without-bounds": (
        moved(),
        {"letter": "b"},
        {},
        "drifted",
        Reason.NO_TOLERANCE,
        f"bits differ from the baseline of {REFERENCE}, {NO_TOLERANCE}{FIRST}",
    ),
    "drifted-over-one-bound-of-two": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 1.0, "rel_l2": 1e-5}}},
        "drifted",
        Reason.OVER_BOUND,
        f"image rel_l2 = 0.000713 (bound 1e-05) against the baseline of {REFERENCE}{FIRST}",
    ),
    "drifted-where-no-difference-is-admitted": (
        moved(),
        {"letter": "b"},
        {"tolerance": {"cross-class": "identical"}},
        "drifted",
        Reason.OVER_BOUND,
        f"image l_inf = 0.000977 (bound 0) against the baseline of {REFERENCE}{FIRST}",
    ),
    "drifted-in-a-second-output": (
        {"outputs": {"image": IMAGE, "mask": MOVED}, "stages": OTHER_UNET},
        {"outputs": {"image": IMAGE, "mask": IMAGE}, "letter": "b"},
        {"tolerance": {"cross-class": {"l_inf": 1e-4}}},
        "drifted",
        Reason.OVER_BOUND,
        f"mask l_inf = 0.000977 (bound 0.0001) against the baseline of {REFERENCE}{FIRST}",
    ),
    "other-stages-same-image": (
        {"stages": OTHER_UNET},
        {},
        {},
        "identical",
        Reason.SAME_BITS,
        f"same bits as the baseline of {SAME}",
    ),
    "unrepeatable": (
        {"repeat": builders.repeat(distinct=2, l_inf=0.5)},
        {},
        {},
        "unrepeatable",
        Reason.EXPECTATION_BROKEN,
        "expected `repeatable`: 3 runs gave 2 different outputs, L-inf between runs 0.5",
    ),
    "unrepeatable-only-when-instrumented": (
        {"repeat": builders.repeat(distinct=2, l_inf=0.5, instrumented_equals_plain=False)},
        {},
        {},
        "unrepeatable",
        Reason.EXPECTATION_BROKEN,
        "expected `repeatable`: the instrumented run differs from the plain runs",
    ),
    "unrepeatable-before-stale": (
        {"repeat": builders.repeat(distinct=3, l_inf=0.5)},
        {},
        {"seeds": (1,)},
        "unrepeatable",
        Reason.EXPECTATION_BROKEN,
        "expected `repeatable`: 3 runs gave 3 different outputs, L-inf between runs 0.5",
    ),
    "missing": ({}, None, {}, "missing", Reason.NO_BASELINE, "no baseline for this case"),
    "missing-also-from-the-named-reference": (
        {},
        None,
        {"reference": ELSEWHERE},
        "missing",
        Reason.NO_BASELINE,
        "no baseline for this case, nor one of other[cpu-float32], its reference",
    ),
    "stale-scenario": (
        {},
        {},
        {"seeds": (1,)},
        "stale",
        Reason.SCENARIO_EDITED,
        "the baseline belongs to another version of the scenario (of 2026-01-02T03:04:05+00:00)",
    ),
    "stale-weights": (
        {},
        {"inputs": builders.inputs(unet="other")},
        {},
        "stale",
        Reason.OTHER_WEIGHTS,
        "the baseline belongs to other weights: unet",
    ),
    "stale-before-incomparable": (
        {"outputs": IMAGE[0]},
        {"inputs": builders.inputs(unet="other")},
        {},
        "stale",
        Reason.OTHER_WEIGHTS,
        "the baseline belongs to other weights: unet",
    ),
    "incomparable-shape": (
        {"outputs": IMAGE[0]},
        {},
        {},
        "incomparable",
        Reason.OTHER_STRUCTURE,
        "output `image` has another shape: [1, 2, 2, 1] -> [2, 2, 1]",
    ),
    "incomparable-dtype": (
        {"outputs": IMAGE.astype(np.float16)},
        {},
        {"tolerance": {"cross-class": {"l_inf": 1.0}}},
        "incomparable",
        Reason.OTHER_STRUCTURE,
        "output `image` has another dtype: float32 -> float16",
    ),
    "incomparable-lost-output": (
        {"outputs": {"image": IMAGE}},
        {"outputs": {"image": IMAGE, "mask": IMAGE}},
        {},
        "incomparable",
        Reason.OTHER_STRUCTURE,
        "output `mask` is only in the baseline",
    ),
    "incomparable-new-output": (
        {"outputs": {"image": IMAGE, "audio": IMAGE}},
        {},
        {},
        "incomparable",
        Reason.OTHER_STRUCTURE,
        "output `audio` is only in this run",
    ),
    "incomparable-nan": (
        {"outputs": NAN},
        {},
        {},
        "incomparable",
        Reason.NOT_FINITE,
        "image holds NaN or infinity",
    ),
    "incomparable-nan-as-in-the-baseline": (
        {"outputs": NAN},
        {"outputs": NAN},
        {},
        "incomparable",
        Reason.NOT_FINITE,
        "image holds NaN or infinity",
    ),
    "incomparable-nan-before-unrepeatable": (
        {"outputs": NAN, "repeat": builders.repeat(distinct=2, l_inf=None)},
        None,
        {},
        "incomparable",
        Reason.NOT_FINITE,
        "image holds NaN or infinity",
    ),
    "published-alone": (
        {},
        None,
        {"published": PUBLISHED},
        "within",
        Reason.PUBLISHED_VALUE_HOLDS,
        f"{PUBLISHED_ALONE}: image abs_sum 2.5000, published 2.5000 (a paper)",
    ),
    "published-alone-and-off": (
        {"outputs": IMAGE * 2},
        None,
        {"published": PUBLISHED},
        "drifted",
        Reason.OFF_PUBLISHED_VALUE,
        "image abs_sum 5.0000, published 2.5000 (a paper): off by 2.5 (bound 0.01)",
    ),
    "published-for-another-device": (
        {},
        None,
        {"published": {"image": {**PUBLISHED["image"], "on": "cuda"}}},
        "missing",
        Reason.NO_BASELINE,
        "no baseline for this case",
    ),
    "published-for-this-device": (
        {},
        None,
        {"published": {"image": {**PUBLISHED["image"], "on": "cpu"}}},
        "within",
        Reason.PUBLISHED_VALUE_HOLDS,
        f"{PUBLISHED_ALONE}: image abs_sum 2.5000, published 2.5000 (a paper)",
    ),
    "published-for-an-output-that-is-not-there": (
        {},
        None,
        {"published": {"frame": PUBLISHED["image"]}},
        "drifted",
        Reason.OFF_PUBLISHED_VALUE,
        "frame abs_sum nan, published 2.5000 (a paper): off by nan (bound 0.01)",
    ),
    "published-beside-a-baseline": (
        {},
        {},
        {"published": PUBLISHED},
        "identical",
        Reason.SAME_BITS,
        f"same bits as the baseline of {SAME}",
    ),
    "published-beside-a-baseline-and-off": (
        {"outputs": IMAGE * 2},
        {"outputs": IMAGE * 2},
        {"published": PUBLISHED},
        "drifted",
        Reason.OFF_PUBLISHED_VALUE,
        "image abs_sum 5.0000, published 2.5000 (a paper): off by 2.5 (bound 0.01)",
    ),
    "published-holds-but-other-bits": (
        moved(),
        {},
        {"published": PUBLISHED},
        "drifted",
        Reason.OTHER_BITS,
        f"bits differ from the baseline of the same class cpu-a{FIRST}",
    ),
    "varies": (
        {"repeat": builders.repeat(distinct=3, l_inf=0.5, instrumented_equals_plain=False)},
        None,
        {"expect": VARIES},
        "varies",
        Reason.VARIES_AS_EXPECTED,
        "varies as expected: L-inf between runs 0.5",
    ),
    "varies-in-shape": (  # there is no distance between arrays of other shapes
        {"repeat": builders.repeat(distinct=3, l_inf=None, instrumented_equals_plain=False)},
        None,
        {"expect": VARIES},
        "varies",
        Reason.VARIES_AS_EXPECTED,
        "varies as expected: in shape",
    ),
    "does-not-vary": (
        {"repeat": builders.repeat(distinct=2, l_inf=0.5)},
        None,
        {"expect": VARIES},
        "unrepeatable",
        Reason.EXPECTATION_BROKEN,
        "expected `varies`: 3 runs gave 2 different outputs; every run must differ",
    ),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_recording_against_a_baseline_gives_the_verdict_the_reason_and_the_message(made, name):
    """Every verdict of the judge, each with its reason and its whole message."""
    actual, expected, scenario, verdict, reason, message = JUDGED[name]
    actual = made(**actual)
    match = None
    if expected is not None:
        expected = made(**expected)
        same_class = expected.numerics_class == actual.numerics_class
        match = builders.match(expected, same_class=same_class)
    outcome = judge(builders.case(**scenario), actual, match, [])
    assert (outcome.verdict, outcome.reason, outcome.message) == (verdict, reason, message)


def test_the_table_above_has_every_reason_that_the_judge_can_give():
    """A new reason needs a case there; the two that are left out belong to cases not judged."""
    judged = {reason for *_, reason, _ in JUDGED.values()}
    of_contracts = {each for each in Reason if each.name.startswith("CONTRACT")}  # test_contract.py
    assert judged == set(Reason) - of_contracts - {Reason.NOT_RECORDED, Reason.DAMAGED_BASELINE}


def test_other_bits_in_the_same_class_drifted_also_where_the_numbers_are_equal(made):
    """Minus zero is zero to arithmetic; bits are owed, and a failed check says so."""
    zeros = np.zeros_like(IMAGE)
    outcome = judge(builders.case(), made(-zeros), builders.match(made(zeros)), [])
    assert (outcome.verdict, outcome.reason) == (Verdict.DRIFTED, Reason.OTHER_BITS)
    (check,) = outcome.failed_checks
    assert (check.subject, check.metric) == ("image", Metric.BITS)
    assert math.isnan(check.value)


def test_the_outputs_are_named_when_no_stage_differs(made):
    """A difference that no stage shows came after the last one."""
    match = builders.match(made(letter="b"), same_class=False)
    case = builders.case(tolerance={"cross-class": {"l_inf": 1.0}})
    outcome = judge(case, made(MOVED), match, [])
    assert outcome.message.endswith("; first difference: image, after the last stage")


def test_an_outcome_holds_what_reports_show(made):
    """Drift, stages, cost and changed environment come along, and survive `results.json`."""
    actual = made(**moved(kept={"unet#0/sample": MOVED[0]}))
    older = builders.environment("b", versions={"torch": "2.8.0"})
    expected = made(letter="b", kept={"unet#0/sample": IMAGE[0]}, environment=older)
    match = builders.match(expected, same_class=False)
    case = builders.case(tags=("guide",))
    outcome = judge(case, actual, match, [])
    relative = 2.0**-10 / math.sqrt(1.875)
    assert outcome.outputs == {
        "image": Drift(
            l_inf=2.0**-10,
            rel_l2=relative,
            abs_sum=2.5 + 2.0**-10,
            abs_sum_expected=2.5,
            differing=1,
            size=4,
            worst_index=(0, 1, 1, 0),
            worst_actual=1 + 2.0**-10,
            worst_expected=1.0,
            gain=pytest.approx(2.0**-10 / 1.875),
            bias=pytest.approx(relative / 2),
            channel_bias=pytest.approx(relative / 2),
            spatial=0.0,
        )
    }
    still, unet = outcome.free
    assert still == StageDrift(Stage("noise", 0), "", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert (unet.stage, unet.key) == (Stage("unet", 0), "sample")
    assert (unet.l_inf, unet.rel_l2) == (2.0**-10, relative)
    assert outcome.baseline == JudgedBy(
        "cpu-b",
        Comparison.CROSS_CLASS,
        reference="cpu-float32",
        digest="0" * 32,
        file=outcome.baseline.file,
    )
    assert outcome.baseline.file.endswith("cpu-b.json")
    assert reasons.environment_changes(outcome.environment_changes) == [
        "torch 2.8.0 -> 2.9.1",
        "diffusers unset -> 0.36.0",
        "operators with other bits: bmm",
    ]
    assert (outcome.case, outcome.tags, outcome.device_kind) == (
        "digits[cpu-float32]",
        ("guide",),
        "cpu",
    )
    assert outcome.fingerprint == case.scenario.fingerprint
    assert decode(Outcome, json.loads(json.dumps(encode(outcome)))) == outcome


def test_the_same_bits_are_reported_as_no_drift(made):
    """Arrays are not read for it; the sum comes from the baseline."""
    outcome = judge(builders.case(), made(), builders.match(made()), [])
    assert outcome.outputs == {
        "image": Drift(0.0, 0.0, 2.5, 2.5, 0, 4, (), 0.0, 0.0, True, 0.0, 0.0, 0.0, 0.0)
    }
    assert (outcome.first_difference, outcome.free, outcome.checks) == (None, (), ())


def test_equal_digests_end_the_comparison_without_a_look_at_the_arrays(made):
    """A baseline's tensors may be large; they are read only where digests differ."""
    actual, expected = made(), made()
    for recording in (actual, expected):
        recording.tensors_path.unlink()
    outcome = judge(builders.case(), actual, builders.match(expected), [])
    assert outcome.verdict is Verdict.IDENTICAL


def test_a_case_that_left_no_recording_has_an_outcome():
    """It knows its target and tags; its GPU's model it cannot know."""
    case = builders.case(device="cuda", tags=("slow",))
    outcome = without_recording(case, Verdict.ERROR, "crashed", "Traceback")
    assert outcome == Outcome(
        case="digits[cuda-float32]",
        scenario="digits",
        target=case.target,
        terms=case.scenario.terms,
        verdict=Verdict.ERROR,
        reason=Reason.NOT_RECORDED,
        message="crashed",
        tags=("slow",),
        log="Traceback",
        fingerprint=case.scenario.fingerprint,
    )


KEPT = {"unet#0/sample": IMAGE, "scheduler.step#0/sample": IMAGE}
# id: (tensors of the teacher-forced run, cross-class bounds, verdict, message)
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
        f"local rel_l2 of unet#0/sample = 0.000713 (bound 0.0001){AGAINST_REFERENCE}",
    ),
    "over-free-first": (
        {},
        {"local_rel_l2": 1e-4, "l_inf": 1e-5},
        "drifted",
        f"image l_inf = 0.000977 (bound 1e-05){AGAINST_REFERENCE}",
    ),
    "nan-is-the-worst": (
        {"scheduler.step#0/sample": NAN},
        {"local_l_inf": 1.0},
        "drifted",
        f"local l_inf of scheduler.step#0/sample = nan (bound 1){AGAINST_REFERENCE}",
    ),
}


@pytest.mark.parametrize("name", LOCAL)
def test_each_stage_is_held_against_its_local_bound_on_the_baseline_s_inputs(made, name):
    """The stage with the largest drift of its own decides, and is named."""
    kept, bounds, verdict, message = LOCAL[name]
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    forced = made(kept={**KEPT, "unet#0/sample": MOVED, **kept})
    case = builders.case(tolerance={"cross-class": bounds})
    outcome = judge(case, made(**moved()), match, [], forced)
    assert (outcome.verdict, outcome.message) == (verdict, message)
    names = [drift.name for drift in outcome.local]
    assert names == ["noise#0", "unet#0/sample", "scheduler.step#0/sample", "output#0/image"]


def test_the_code_after_the_last_stage_is_held_against_a_bound_of_its_own(made):
    """The teacher-forced run's outputs are made of the baseline's own last stage."""
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    case = builders.case(tolerance={"cross-class": {"local_rel_l2": {"output": 1e-7}}})
    plain = judge(case, made(**moved()), match, [], made(kept=KEPT))
    assert plain.verdict is Verdict.WITHIN
    outcome = judge(case, made(**moved()), match, [], made(**moved(kept=KEPT)))
    assert outcome.verdict is Verdict.DRIFTED
    assert outcome.message.startswith("local rel_l2 of image, after the last stage = 0.000713")
    assert outcome.origins == (Difference(DifferenceKind.OUTPUTS, "", ("image",)),)


def test_a_local_bound_without_the_teacher_forced_run_does_not_pass(made):
    """What was not measured is not within."""
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    case = builders.case(tolerance={"cross-class": {"local_l_inf": 1.0}})
    outcome = judge(case, made(**moved()), match, [])
    expected = f"local l_inf of no stage = nan (bound 1){AGAINST_REFERENCE}"
    assert (outcome.verdict, outcome.message) == (Verdict.DRIFTED, expected)


@pytest.mark.parametrize(
    "kept",
    [{}, {"scheduler.step#0/sample": IMAGE}, {**KEPT, "unet#0/sample": IMAGE[0]}],
    ids=["nothing", "one-stage-less", "another-shape"],
)
def test_a_local_bound_does_not_pass_by_stages_that_are_not_there(made, kept):
    """An upgrade that renames a stage, or gives it another shape, must not open the gate."""
    match = builders.match(made(letter="b", kept=KEPT), same_class=False)
    case = builders.case(tolerance={"cross-class": {"local_l_inf": 1.0}})
    outcome = judge(case, made(**moved()), match, [], made(kept=kept))
    assert (outcome.verdict, outcome.reason) == (Verdict.DRIFTED, Reason.OVER_BOUND)


@pytest.mark.parametrize(
    ("actual", "expected", "fingerprint", "wanted"),
    [
        (moved(), {"letter": "b"}, "", True),
        (moved(), {}, "", True),
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
def test_only_other_bits_that_can_be_compared_are_run_once_more(
    made, actual, expected, fingerprint, wanted
):
    """The teacher-forced run costs as much as the case itself."""
    actual, expected = made(**actual), made(**expected)
    same_class = actual.numerics_class == expected.numerics_class
    match = builders.match(expected, same_class=same_class, fingerprint=fingerprint)
    assert wants_teacher_forcing(builders.scenario(), actual, match) is wanted


def test_a_broken_expectation_is_the_verdict_and_its_checks_are_kept(made):
    """The verdict is `unrepeatable` also where the baseline has the same bits."""
    pair = np.concatenate([IMAGE, MOVED])
    case = builders.case(expect=(Expectation.REPEATABLE, Expectation.IDENTICAL_IMAGES))
    match = builders.match(made(pair), fingerprint=case.scenario.fingerprint)
    outcome = judge(case, made(pair), match, [])
    assert outcome.verdict is Verdict.UNREPEATABLE
    assert outcome.failed_checks == [
        Check("image[1]", Metric.L_INF, 2.0**-10, 0.0, outcome.checks[0].against)
    ]


EDITED_CALL = "call.eta unset -> 0.5, call.num_inference_steps 4 -> 5"


@pytest.mark.parametrize(
    ("knows", "edits"),
    [
        (True, f": {EDITED_CALL}, scheduler.class unset -> DDIMScheduler, seed [7, 8] -> [0]"),
        (False, ""),
    ],
    ids=["a-baseline-that-knows", "a-baseline-of-an-older-harness"],
)
def test_a_stale_baseline_says_what_was_edited_since_and_nothing_of_cost(made, knows, edits):
    """Edits are named by the keys of the scenario; a baseline of an older harness knows none."""
    bounds = {"slower": 1.25, "at_least_seconds": 0.25}
    before = builders.scenario(call={"num_inference_steps": 4}, seeds=(7, 8))
    case = builders.case(
        cost=bounds,
        call={"num_inference_steps": 5, "eta": 0.5},
        scheduler={"class": "DDIMScheduler"},
    )
    decides = json.loads(json.dumps(before.decides)) if knows else {}
    match = builders.match(made(), fingerprint=before.fingerprint, decides=decides)
    outcome = judge(case, made(cost=builders.figures(9.0)), match, [])
    version = "the baseline belongs to another version of the scenario"
    assert outcome.reason is Reason.SCENARIO_EDITED
    assert outcome.message == f"{version} (of 2026-01-02T03:04:05+00:00){edits}"
    assert (outcome.cost.verdict, outcome.cost.reason, outcome.cost.ratio) == (
        CostVerdict.UNKNOWN,
        CostReason.NO_BASELINE,
        None,
    )


def test_a_verdict_does_not_depend_on_cost(made):
    """A run ten times as slow with the same bits is identical, and says that it is slower."""
    case = builders.case(cost={"slower": 1.25, "at_least_seconds": 0.25})
    outcome = judge(case, made(cost=builders.figures(20.0)), builders.match(made()), [])
    assert (outcome.verdict, outcome.cost.verdict) == (Verdict.IDENTICAL, CostVerdict.SLOWER)


def test_two_recordings_have_the_same_bits_only_if_every_output_has(made):
    """The name `image` alone does not decide."""
    both = {"image": IMAGE, "mask": IMAGE}
    assert same_bits(made(both), made(both))
    assert not same_bits(made({**both, "mask": MOVED}), made(both))
    assert structure(made(both), made({**both, "mask": MOVED})) == ""


def test_a_baseline_s_detection_rate_comes_with_the_outcome(made):
    """A gate may ask for it."""
    match = builders.match(made())
    rated = replace(match.baseline, detection_rate=builders.detection_rate(caught=19))
    outcome = judge(builders.case(), made(), replace(match, baseline=rated), [])
    assert outcome.baseline.detection_rate == rated.detection_rate


def test_what_was_seen_of_an_execution_goes_into_the_outcome_and_its_json(tmp_path):
    """Reports print it, whether it took effect or not."""
    recording = builders.recording(tmp_path, effects=(NO_CACHE, WORKING))
    outcome = judge(builders.case(), recording, None, [])
    assert outcome.effects == (NO_CACHE, WORKING)
    assert decode(Outcome, encode(outcome)).effects == outcome.effects
