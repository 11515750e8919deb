"""One run judged by another: bits within a class, free bounds between classes, nothing invented."""

from __future__ import annotations

from collections.abc import Callable

import builders
import numpy as np
import pytest
from builders import IMAGE, MOVED

from harness.judge.exit_codes import exit_code
from harness.judge.run_diff import compare, only_in_one
from harness.records import Change, Comparison, DifferenceKind, Outcome, Reason, Verdict
from harness.report import advice, wording
from harness.scenario.fields import Expectation
from harness.store.recording import Recording

Made = Callable[..., Recording]
OLD = "runs/old"
FREE = {"cross-class": {"l_inf": 0.5}}
LOCAL = {"cross-class": {"l_inf": 0.5, "local_rel_l2": 1e-6}}


def compared(actual: Recording, expected: Recording, **changes: object) -> Outcome:
    return compare(builders.case(**changes), actual, expected, OLD)


def test_runs_of_one_class_owe_each_other_the_same_bits(made: Made):
    """Whatever the bounds between classes admit."""
    same = compared(made(), made(), tolerance=FREE)
    assert same.message == "same bits as the run runs/old, of the same class cpu-a"
    moved = compared(made(**builders.moved()), made(), tolerance=FREE)
    assert (moved.verdict, moved.reason) == (Verdict.DRIFTED, Reason.OTHER_BITS)
    assert moved.baseline is not None
    assert (moved.baseline.run, moved.baseline.comparison) == (OLD, Comparison.SAME_CLASS)
    assert moved.outputs["image"].l_inf == 2.0**-10
    assert moved.origins[0].kind is DifferenceKind.STAGE_OUTPUT


# id: (bounds, verdict, end of the message)
BETWEEN = {
    "no-bounds": ({}, "drifted", "the scenario sets no `tolerance.cross-class`"),
    "free-bound": (FREE, "within", "runs/old, of another class cpu-b"),
    "over-it": ({"cross-class": {"l_inf": 1e-9}}, "drifted", "(bound 1e-09)"),
    "local-bound": (LOCAL, "unverified", "which a comparison of two runs lacks"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_between_classes_the_bounds_on_free_drift_hold(made: Made, name: str):
    """A bound on local drift needs a run; a case that it alone could fail is not verified."""
    bounds, verdict, words = BETWEEN[name]
    outcome = compared(made(MOVED), made(letter="b"), tolerance=bounds)
    assert outcome.verdict == verdict
    assert words in outcome.message


def test_runs_of_other_settings_show_their_drift_and_the_setting(made: Made):
    """Also where an older request lacks keys of a newer harness."""
    request = builders.case(scheduler={"timestep_spacing": "leading"}).request()
    other = builders.case(scheduler={"timestep_spacing": "trailing"}).request()
    old = {key: value for key, value in request.items() if key not in ("enable", "attention")}
    outcome = compared(made(MOVED, case=dict(other)), made(case=old))
    assert (outcome.verdict, outcome.reason) == (Verdict.STALE, Reason.SCENARIO_EDITED)
    assert outcome.edits == (Change("scheduler.timestep_spacing", "leading", "trailing"),)
    assert outcome.outputs["image"].l_inf == 2.0**-10
    same = compared(made(case=dict(request)), made(case=old))
    assert same.verdict is Verdict.IDENTICAL


def test_another_environment_is_no_other_setting(made: Made):
    """It is what people compare runs for."""
    request = dict(builders.case().request())
    outcome = compared(made(case={**request, "env": ["diffusers==0.30.3"]}), made(case=request))
    assert outcome.verdict is Verdict.IDENTICAL


def test_runs_of_other_weights_say_so(made: Made):
    """The drift is shown; no bound applies."""
    outcome = compared(made(MOVED, inputs=builders.inputs(unet="other")), made())
    assert (outcome.verdict, outcome.checks) == (Verdict.STALE, ())
    assert outcome.message == "the two runs had other weights: unet"
    assert outcome.outputs["image"].l_inf > 0


def test_expectations_that_need_another_recording_are_left_out(made: Made):
    """The single images of a batch are not compared here; `repeatable` is a fact of the run."""
    expect = (Expectation.BATCH_EQUALS_SINGLE, Expectation.REPEATABLE)
    pair = np.concatenate([IMAGE, IMAGE])
    assert compared(made(pair), made(pair), expect=expect).verdict is Verdict.IDENTICAL
    varying = made(pair, repeat=builders.repeat(distinct=3, l_inf=0.5))
    assert compared(varying, made(pair), expect=expect).verdict is Verdict.UNREPEATABLE


def test_a_case_of_one_run_alone_is_not_verified():
    """Nothing fails by it, and a comparison of nothing else is no success."""
    outcome = only_in_one(builders.case(), OLD)
    assert outcome.message == "runs/old holds no recording of it"
    assert exit_code([outcome], strict=False) == 3


def test_nothing_is_advised_that_needs_a_baseline(made: Made, tmp_path):
    """There is none to explain by or to replace."""
    outcome = compared(made(**builders.moved()), made())
    assert advice.explanation(outcome, tmp_path) == ""
    assert advice.next_step(outcome, tmp_path) == ""
    assert "  against:  the run runs/old, of the same class" in wording.paragraph(outcome, tmp_path)
