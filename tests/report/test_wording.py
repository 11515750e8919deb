"""The words of outcomes: a failure's whole text, a row of the table, a run as one line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
from examples import (
    DRIFT,
    DRIFTED,
    ERROR,
    FIGURES,
    IDENTICAL,
    MISSING,
    NOT_FINITE,
    NOT_HERE,
    OUTCOMES,
    PUBLISHED,
    RUN,
    SLOWER,
    STALE,
)

from harness.records import (
    Check,
    Cost,
    CostReason,
    CostVerdict,
    Effect,
    Metric,
    Outcome,
    Reason,
    Verdict,
)
from harness.report import wording
from harness.store.typed_json import decode, encode

PARAGRAPHS = {
    "drifted": (
        DRIFTED,
        """\
drifted: digits[cpu-float32]
  why:      image l_inf = 0.000977 (bound 0.0001) against the baseline of class cpu-b
  image: L-inf 9.766e-04, relative L2 7.130e-04; 212 of 786432 elements differ (0.027 %)
    worst:  (0, 17, 301, 2) expected 0.41176, actual 0.4149
    abs-sum 2.500977, expected 2.500000
  over:     image l_inf = 9.766e-04, bound 1.000e-04, required tolerance 9.8e-04
  over:     image bits = nan, bound 0.000e+00, required tolerance none
  first:    unet#7
  baseline: class cpu-b, the reference of cpu-float32
  changed:  library-0 1 -> 2
            library-1 1 -> 2
            library-2 1 -> 2
            library-3 1 -> 2
            library-4 1 -> 2
            library-5 1 -> 2
            library-6 1 -> 2
            library-7 1 -> 2
            and 2 more in results.json
  explain:  harness explain runs/nightly 'digits[cpu-float32]'
  next:     harness accept runs/nightly -k 'digits[cpu-float32]' --reason TEXT, if the new output is right""",  # noqa: E501
    ),
    "missing": (
        MISSING,
        """\
missing: a|b[cpu-float32]
  why:      no baseline for this case
  next:     harness record -k 'a|b[cpu-float32]'""",
    ),
    "stale": (
        STALE,
        """\
stale: digits[cuda-float16]
  why:      the baseline belongs to other weights: unet
  baseline: class cpu-b, the reference of cpu-float32
  changed:  nothing in the environment
  next:     harness accept runs/nightly -k 'digits[cuda-float16]' --reason TEXT, if the new output is right""",  # noqa: E501
    ),
    "error": (
        ERROR,
        """\
error: sd[cpu-float32]
  why:      RuntimeError: out of memory
  log:
    line 3
    line 4
    line 5
    line 6
    line 7
    line 8""",
    ),
    "published": (
        builders.outcome(
            "drifted",
            reason=Reason.OFF_PUBLISHED_VALUE,
            message="MESSAGE",
            checks=(replace(PUBLISHED, bound=0.1),),
            path="scenarios/digits.yaml",
        ),
        """\
drifted: digits[cpu-float32]
  why:      MESSAGE
  over:     image abs_sum 2.5000, published 2.2500 (guide): off by 2.500e-01, bound 1.000e-01, required tolerance 2.5e-01
  next:     correct `published` in scenarios/digits.yaml, if the output is right""",  # noqa: E501
    ),
}


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_a_failure_is_told_whole(name: str):
    """What, where, how far, what changed and what to do next: every character of it."""
    outcome, text = PARAGRAPHS[name]
    assert wording.paragraph(outcome, RUN) == text


def test_the_second_line_of_a_reason_is_no_field_of_the_paragraph():
    """A library's message of several lines cannot pass for a verdict or for advice."""
    outcome = builders.outcome("error", message="cannot load\nidentical: x\n  next: rm -rf\x1b[2J")
    assert wording.paragraph(outcome, RUN) == (
        "error: digits[cpu-float32]\n"
        "  why:      cannot load\n"
        "            identical: x\n"
        "            next: rm -rf\\x1b[2J"
    )


def test_a_paragraph_says_what_was_seen_of_an_execution_that_took_effect():
    """What had no effect is named by the message already."""
    working = Effect("attention: sage", "the dispatcher called sage (8)", took_effect=True)
    idle = Effect("compile: unet", "0 graphs", took_effect=False)
    outcome = builders.outcome("error", message="no", effects=(working, idle))
    assert wording.paragraph(outcome, RUN) == (
        "error: digits[cpu-float32]\n"
        "  why:      no\n"
        "  effect:   attention: sage: the dispatcher called sage (8)"
    )


ROWS = {
    "drifted": (
        DRIFTED,
        ("digits[cpu-float32]", "drifted", "other class"),
        ("9.77e-04", "7.13e-04", "2.5010 (+9.8e-04)", "x0.102"),
        ("1.234", "slower x1.50", "480 MiB"),
    ),
    "missing": (
        MISSING,
        ("a|b[cpu-float32]", "missing", ""),
        ("", "", "", ""),
        ("1.234", "unknown: no baseline", "480 MiB"),
    ),
    "error": (ERROR, ("sd[cpu-float32]", "error", ""), ("", "", "", ""), ("", "", "")),
    "identical": (
        IDENTICAL,
        ("z[cpu-float32]", "identical", "same class"),
        ("0.00e+00", "0.00e+00", "7.0000", ""),
        ("", "", ""),
    ),
    "published": (
        builders.outcome("within", reason=Reason.PUBLISHED_VALUE_HOLDS, checks=(PUBLISHED,)),
        ("digits[cpu-float32]", "within", "published"),
        ("", "", "", "x4"),
        ("", "", ""),
    ),
    "not-finite": (
        builders.outcome("drifted", outputs={"image": DRIFT, "mask": NOT_FINITE}),
        ("digits[cpu-float32]", "drifted", ""),
        ("nan", "nan", "1.0000", ""),
        ("", "", ""),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_outcome_is_one_row_of_the_table(name: str):
    """The worst output stands for all, the smallest margin is shown, the unknown stays empty."""
    outcome, said, drift, cost = ROWS[name]
    assert wording.row(outcome) == said + drift + cost
    assert len(wording.HEADINGS) == len(said + drift + cost)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00314159, "3.2e-03"),
        (0.0031, "3.1e-03"),
        (0.99, "9.9e-01"),
        (0.991, "1.0e+00"),
        (1.0, "1.0e+00"),
        (255.0, "2.6e+02"),
        (1e-45, "1.0e-45"),
        (2.5e-05, "2.5e-05"),
        (8.3e-10, "8.3e-10"),
        (0.0, "none"),
        (math.nan, "none"),
        (math.inf, "none"),
    ],
)
def test_the_required_tolerance_is_the_smallest_with_two_digits(value: float, text: str):
    """Rounded up, so that it would have passed; nothing finite admits NaN or infinity."""
    assert wording.required(Check("image", Metric.L_INF, value, 0.0)) == text


def test_the_required_tolerance_always_admits_what_it_was_made_for():
    """Whatever the digits, also one bit above them: a scenario that takes it over passes."""
    for exponent in (-323, -300, *range(-30, 4), 300):
        for digits in range(10, 100):
            value = float(f"{digits}e{exponent}")
            for number in (value, math.nextafter(value, math.inf)):
                check = Check("image", Metric.L_INF, number, 0.0)
                admitting = replace(check, bound=float(wording.required(check)))
                assert admitting.passed, number
                assert admitting.bound <= number * 1.11, number


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        (OUTCOMES, "7 cases: 1 identical, 1 drifted, 1 missing, 1 stale, 1 error, 2 unverified"),
        ([IDENTICAL], "1 case: 1 identical"),
        ([], "0 cases: nothing ran"),
    ],
)
def test_a_run_is_one_line(outcomes: list[Outcome], text: str):
    """Passes first, then failures, then what could not run."""
    assert wording.summary(outcomes) == text


def test_a_change_of_cost_says_where():
    """The run, and the steps that both sides timed."""
    changed = builders.outcome(cost=SLOWER)
    unchanged = builders.outcome(cost=replace(SLOWER, verdict=CostVerdict.OK))
    where = "a run 0.8230 -> 1.2345 s (x1.50), a step of scheduler 0.1500 -> 0.3000 s (x2.00)"
    assert wording.costs([changed, unchanged]) == [f"digits[cpu-float32]: slower: {where}"]


def test_a_gpu_that_was_held_down_is_named():
    """Its seconds say nothing; where there is nothing to compare with, nobody asked."""
    unknown = CostVerdict.UNKNOWN
    held = Cost(FIGURES, unknown, CostReason.SLOWED_DOWN, "this run", "heat", ratio=1.1)
    elsewhere = Cost(FIGURES, unknown, CostReason.OTHER_MACHINE, detail="a GPU")
    unbounded = Cost(FIGURES, unknown, CostReason.NO_BOUNDS, ratio=1.1)
    found = wording.costs([builders.outcome(cost=cost) for cost in (held, elsewhere, unbounded)])
    assert found == ["digits[cpu-float32]: unknown: the GPU was slowed down in this run by heat"]


@pytest.mark.parametrize(
    ("slowed_by", "more"),
    [
        ((), ""),
        (("power cap",), ""),
        (("heat",), "; no run is compared with its cost, because the GPU was slowed down by heat"),
    ],
)
def test_what_was_written_is_told_with_its_size_and_what_its_seconds_are_worth(
    tmp_path: Path, slowed_by: tuple[str, ...], more: str
):
    """A baseline timed in heat would make the cost of every later run unknown."""
    recording = builders.recording(tmp_path, cost=builders.figures(1.0, *slowed_by))
    size = recording.tensors_path.stat().st_size / 2**10
    by_stage = ", ".join(f"{kind} 0 KiB" for kind in recording.bytes_by_stage())
    text = f"wrote b.json and {size:.0f} KiB of tensors: {by_stage}{more}"
    assert wording.wrote(Path("b.json"), recording) == text


def test_the_size_of_a_baseline_is_told_by_kind_of_stage(tmp_path: Path):
    """The largest first; all calls of a text encoder count together."""
    kept = {
        "text_encoder#0/logits": np.zeros(1 << 18, np.float32),
        "text_encoder#1/logits": np.zeros(1 << 18, np.float32),
        "scheduler.step#0/sample": np.zeros(1 << 10, np.float32),
    }
    recording = builders.recording(tmp_path, kept=kept)
    text = wording.wrote(Path("b.json"), recording)
    assert " and 2.0 MiB of tensors: text_encoder 2.0 MiB, scheduler.step 4 KiB, " in text


@pytest.mark.parametrize(("most", "is_told"), [(1 << 20, True), (4 << 20, False)])
def test_a_large_baseline_is_warned_of(tmp_path: Path, most: int, is_told: bool):
    """With what takes the room, and what can be done."""
    kept = {"text_encoder#0/logits": np.zeros(1 << 19, np.float32)}
    recording = builders.recording(tmp_path, kept=kept)
    found = wording.too_large(Path("b.json"), recording, most)
    assert ("b.json keeps 2.0 MiB of tensors, more than the 1.0 MiB of --warn-above" in found) == (
        is_told
    )
    assert ("text_encoder 2.0 MiB, " in found) == is_told


def test_what_was_not_checked_is_told_once_per_reason():
    """A machine without a GPU says so once."""
    assert wording.not_checked(OUTCOMES) == ["no CUDA device: x[cuda-float32], y[cuda-float32]"]


def test_every_verdict_has_its_meaning():
    """A word in a report is explained under it."""
    assert set(wording.MEANING) == set(Verdict)


@pytest.mark.parametrize(
    "outcome", [*OUTCOMES[:5], NOT_HERE[0]], ids=[str(each.verdict) for each in OUTCOMES[:6]]
)
def test_an_outcome_survives_the_results_file(outcome: Outcome):
    """A report made again from `results.json` says the same."""
    again = decode(Outcome, encode(outcome))
    assert wording.row(again) == wording.row(outcome)
    assert wording.paragraph(again, RUN) == wording.paragraph(outcome, RUN)
