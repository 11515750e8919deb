"""What a report advises to do next: decided by the reason of an outcome."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import builders
import pytest

from harness.records import Outcome, Reason, Verdict
from harness.report import advice

RUN = Path("runs/nightly")
CASE = "digits[cpu-float32]"
ACCEPT = [
    *("harness", "accept", "runs/nightly", "-k", CASE),
    *("--scenarios", "digits.yaml", "--reason", "TEXT"),
]

# For each reason that may be given, the first words of what comes next; nothing helps elsewhere.
NEXT = {
    Reason.NO_BASELINE: "harness record digits.yaml ",
    Reason.NO_TOLERANCE: "harness calibrate digits.yaml ",
    Reason.OTHER_BITS: "harness accept runs/nightly ",
    Reason.OVER_BOUND: "harness accept runs/nightly ",
    Reason.SCENARIO_EDITED: "harness accept runs/nightly ",
    Reason.OTHER_WEIGHTS: "harness accept runs/nightly ",
    Reason.OTHER_STRUCTURE: "harness accept runs/nightly ",
    Reason.OFF_PUBLISHED_VALUE: "correct `published` in digits.yaml",
}


def outcome(reason: Reason, verdict: str = "drifted", **changes: object) -> Outcome:
    return builders.outcome(verdict, reason=reason, **{"path": "digits.yaml", **changes})


@pytest.mark.parametrize("reason", Reason)
def test_the_reason_decides_what_comes_next(reason: Reason):
    """Also where the words of the message are others."""
    said = advice.next_step(outcome(reason), RUN)
    if reason in NEXT:
        assert said.startswith(NEXT[reason])
    else:
        assert said == ""


def test_what_is_not_finite_is_never_to_be_accepted():
    """`accept` would refuse it."""
    assert advice.next_step(outcome(Reason.NOT_FINITE, "incomparable"), RUN) == ""


def test_what_no_bound_admits_may_be_calibrated_or_accepted():
    """Both commands can be pasted."""
    calibrate, accept = advice.next_step(outcome(Reason.NO_TOLERANCE), RUN).split("; or ")
    words = shlex.split(calibrate.partition(", to admit")[0])
    assert words == ["harness", "calibrate", "digits.yaml", "-k", CASE, "--write"]
    assert shlex.split(accept.partition(", if the")[0]) == ACCEPT


def test_a_store_of_another_name_is_part_of_every_command():
    """Pasted as it is, it must find the baselines."""
    for reason in (Reason.NO_BASELINE, Reason.NO_TOLERANCE, Reason.OVER_BOUND):
        said = advice.next_step(outcome(reason, store="own store"), RUN)
        assert "--baselines 'own store'" in said


def test_names_that_a_shell_would_read_are_quoted():
    """A folder may hold any character."""
    said = advice.next_step(outcome(Reason.OVER_BOUND), Path("runs/$(date); rm"))
    assert said.startswith("harness accept 'runs/$(date); rm' ")


@pytest.mark.parametrize(
    ("verdict", "has_baseline", "said"),
    [
        (Verdict.DRIFTED, True, f"harness explain runs/nightly '{CASE}'"),
        (Verdict.DRIFTED, False, ""),
        (Verdict.STALE, True, ""),
    ],
)
def test_a_drift_from_a_baseline_can_be_explained(verdict: Verdict, has_baseline: bool, said: str):
    """Nothing else has two sides to compare."""
    baseline = builders.judged_by() if has_baseline else None
    found = outcome(Reason.OVER_BOUND, str(verdict), baseline=baseline)
    assert advice.explanation(found, RUN) == said


# All cases of one cause.


def test_a_group_is_chosen_by_as_few_words_as_choose_it_alone():
    """A tag that they share, or their scenarios, or else each by its id."""
    group = [builders.outcome("drifted", name=name, tags=("ddim", "slow")) for name in "ab"]
    other = builders.outcome("drifted", name="c", tags=("slow",))
    twin = builders.outcome("within", name="a", on="cuda-float32", tags=("slow",))
    passing = builders.outcome("identical", name="d", tags=("ddim",))
    assert advice.expression_for(group, [*group, other, passing]) == "ddim"
    bare = [replace(outcome, tags=()) for outcome in group]
    assert advice.expression_for(bare, [*bare, other, passing]) == "a[ or b["
    assert advice.expression_for(bare, [*bare, twin]) == "a[cpu-float32] or b[cpu-float32]"


def test_one_command_accepts_all_cases_of_a_cause():
    """It names the scenarios only where a command would not find them by itself."""
    paths = ("scenarios/a.yaml", "elsewhere/b.yaml")
    group = [
        builders.outcome("drifted", name=Path(path).stem, path=path, reason=Reason.OTHER_BITS)
        for path in paths
    ]
    command = "harness accept runs/x -k 'a[ or b['"
    end = "--reason TEXT, if the new outputs are right"
    near = [replace(outcome, path=paths[0]) for outcome in group]
    assert advice.next_step_of_group(near, near, Path("runs/x")) == f"{command} {end}"
    far = f"{command} --scenarios elsewhere/b.yaml scenarios/a.yaml {end}"
    assert advice.next_step_of_group(group, group, Path("runs/x")) == far


def test_names_that_no_command_can_choose_by_are_no_error():
    """A result of another machine may hold any text."""
    odd = [builders.outcome("drifted", name=name, tags=("not and", ")")) for name in ("a b", "(")]
    assert advice.expression_for(odd, odd) == "([cpu-float32] or a b[cpu-float32]"
