"""What people read: a failure's whole text, the table, the summary, and the Markdown read back."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import builders
import pytest

from harness.judge.cost import UNBOUNDED
from harness.records import NO_BOUNDS, Check, Drift, Outcome
from harness.report import wording as rows
from harness.report.markdown import markdown, markdown_table
from harness.report.terminal import table

RUN = Path("runs/nightly")
DRIFT = Drift(
    l_inf=0.0009765625,
    rel_l2=0.000713,
    abs_sum=2.5009765625,
    abs_sum_expected=2.5,
    differing=212,
    size=786432,
    worst_index=(0, 17, 301, 2),
    worst_actual=0.41490,
    worst_expected=0.41176,
)
STILL = Drift(0.0, 0.0, 7.0, 7.0, 0, 4, (), 0.0, 0.0)
COST = {
    "seconds": 1.2345,
    "verdict": "slower",
    "ratio": 1.5,
    "peak_bytes": 480 * 2**20,
    "baseline_seconds": 0.823,
    "step_seconds": {"prior": 0.0125, "scheduler": 0.3},
    "baseline_step_seconds": {"scheduler": 0.15},
}
BASELINE = {
    "class": "cpu-b",
    "same_class": False,
    "why": "class cpu-b, the reference of cpu-float32",
}

DRIFTED = builders.outcome(
    "drifted",
    reason="image l_inf = 0.000977 (bound 0.0001) against the baseline of class cpu-b",
    outputs={"mask": STILL, "image": DRIFT},
    checks=(
        Check("image rel_l2", 0.000713, 1e-2),
        Check("image l_inf", 0.0009765625, 1e-4),
        Check("image abs_sum", math.nan, 1.0),
    ),
    first_divergence="unet#7",
    baseline=BASELINE,
    changes=tuple(f"library-{index} 1 -> 2" for index in range(10)),
    cost=COST,
)
MISSING = builders.outcome(
    "missing",
    name="a|b",
    reason="no baseline for this case",
    cost={**COST, "ratio": None, "verdict": "unknown"},
)
STALE = builders.outcome(
    "stale",
    place="cuda-float16",
    reason="the baseline belongs to other weights: unet",
    baseline={**BASELINE, "same_class": True},
)
ERROR = builders.outcome(
    "error",
    name="sd",
    reason="RuntimeError: out of memory",
    log="\n".join(f"line {index}" for index in range(9)) + "\n\n",
)
IDENTICAL = builders.outcome(
    "identical",
    name="z",
    reason="same bits as the baseline of the same class cpu-a",
    outputs={"image": STILL},
    baseline={**BASELINE, "same_class": True},
)
NOT_HERE = [
    builders.outcome("unverified", name=name, place="cuda-float32", reason="no CUDA device")
    for name in ("x", "y")
]
OUTCOMES = [DRIFTED, MISSING, STALE, ERROR, IDENTICAL, *NOT_HERE]

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
  over:     image abs_sum = nan, bound 1.000e+00, required tolerance none
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
  next:     harness accept runs/nightly -k 'digits[cpu-float32]' --reason TEXT, if this is what you want from now on""",
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
  next:     harness accept runs/nightly -k 'digits[cuda-float16]' --reason TEXT, if this is what you want from now on""",
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
}


@pytest.mark.parametrize("verdict", PARAGRAPHS)
def test_a_failure_is_told_whole(verdict):
    """What, where, how far, what changed and what to do next: every character of it."""
    outcome, text = PARAGRAPHS[verdict]
    assert rows.paragraph(outcome, RUN) == text


ROWS = {
    "drifted": (
        DRIFTED,
        (
            "digits[cpu-float32]",
            "drifted",
            "other class",
            "9.77e-04",
            "7.13e-04",
            "2.5010 (+9.8e-04)",
            "x0.102",
        ),
        ("1.234", "slower x1.50", "480 MiB"),
    ),
    "missing": (
        MISSING,
        ("a|b[cpu-float32]", "missing", "", "", "", "", ""),
        ("1.234", "unknown", "480 MiB"),
    ),
    "error": (ERROR, ("sd[cpu-float32]", "error", "", "", "", "", ""), ("", "", "")),
    "identical": (
        IDENTICAL,
        ("z[cpu-float32]", "identical", "same class", "0.00e+00", "0.00e+00", "7.0000", ""),
        ("", "", ""),
    ),
    "published": (
        builders.outcome(
            "within",
            reason="by the published value alone",
            checks=(Check("image abs_sum", 0.25, 1.0),),
        ),
        ("digits[cpu-float32]", "within", "published", "", "", "", "x4"),
        ("", "", ""),
    ),
    "not-finite": (
        builders.outcome(
            "drifted",
            outputs={
                "image": DRIFT,
                "mask": Drift(math.nan, math.nan, 1.0, 1.0, 1, 4, (0,), 1.0, 1.0),
            },
        ),
        ("digits[cpu-float32]", "drifted", "", "nan", "nan", "1.0000", ""),
        ("", "", ""),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_outcome_is_one_line_of_the_table(name):
    """The worst output stands for all, head-room is the tightest, and what is not known stays empty."""
    outcome, told, cost = ROWS[name]
    assert rows.row(outcome) == told + cost
    assert len(rows.HEADINGS) == len(told + cost)


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
def test_the_required_tolerance_is_the_smallest_with_two_digits(value, text):
    """Rounded up, so that it would have passed, and no further; nothing finite admits NaN or infinity."""
    assert rows.required(Check("image l_inf", value, 0.0)) == text


def test_the_required_tolerance_always_admits_what_it_was_made_for():
    """Whatever the digits, also one bit above them: a scenario that takes it over passes."""
    for exponent in (-323, -300, *range(-30, 4), 300):
        for digits in range(10, 100):
            value = float(f"{digits}e{exponent}")
            for number in (value, math.nextafter(value, math.inf)):
                check = Check("image l_inf", number, float(rows.required(Check("", number, 0.0))))
                assert check.passed, number
                assert check.bound <= number * 1.11, number


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        (OUTCOMES, "7 cases: 1 identical, 1 drifted, 1 missing, 1 stale, 1 error, 2 unverified"),
        ([IDENTICAL], "1 case: 1 identical"),
        ([], "0 cases: nothing ran"),
    ],
)
def test_a_run_is_one_line(outcomes, text):
    """Passes first, then failures, then what could not run."""
    assert rows.summary(outcomes) == text


def test_a_change_of_cost_says_where():
    """The run, and the steps that both sides timed."""
    changed = builders.outcome(cost=COST)
    where = "a run 0.8230 -> 1.2345 s (x1.50), a step of scheduler 0.1500 -> 0.3000 s (x2.00)"
    assert rows.costs([changed, builders.outcome(cost={**COST, "verdict": "ok"})]) == [
        f"digits[cpu-float32]: slower: {where}"
    ]


def test_a_gpu_that_was_held_down_is_named():
    """Its seconds say nothing; where the scenario bounds no cost, nobody asked."""
    held = {**COST, "verdict": "unknown", "why": "the GPU was slowed down: heat"}
    elsewhere = {**held, "ratio": None, "why": "the baseline is of another machine type"}
    found = rows.costs(
        builders.outcome(cost=cost) for cost in (held, elsewhere, {**held, "why": UNBOUNDED})
    )
    assert found == ["digits[cpu-float32]: unknown: the GPU was slowed down: heat"]


@pytest.mark.parametrize(
    ("slowed_by", "more"),
    [
        ((), ""),
        (("power cap",), ""),
        (("heat",), "; its cost judges no run, for the GPU was slowed down by heat"),
    ],
)
def test_what_was_written_is_told_with_its_size_and_what_its_seconds_are_worth(
    tmp_path, slowed_by, more
):
    """A baseline timed in heat would make the cost of every later run unknown."""
    recording = builders.recording(tmp_path, cost=builders.cost(1.0, *slowed_by))
    size = recording.tensors_path.stat().st_size / 2**10
    assert (
        rows.wrote(Path("b.json"), recording) == f"wrote b.json and {size:.0f} KiB of tensors{more}"
    )


def test_what_was_not_checked_is_told_once_per_reason():
    """A machine without a GPU says so once."""
    assert rows.not_checked(OUTCOMES) == ["no CUDA device: x[cuda-float32], y[cuda-float32]"]


ENVIRONMENT = builders.environment(
    hardware={"cpu": "Xeon", "cores": 2, "gpu": {"name": "NVIDIA L4"}}
)


def sections(text: str) -> dict[str, str]:
    """Return the body of every section of a Markdown document by heading, the part under the title as the first."""
    parts = re.split(r"^#+ (.+)\n", text, flags=re.MULTILINE)
    return {
        heading: body.strip("\n") for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def cells(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table; `\\|` is a character of a cell."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_run_as_markdown_holds_all_that_the_terminal_shows():
    """Read back: title, table, a fenced text per failure, what was not checked, and the words used."""
    found = sections(markdown(OUTCOMES[::-1], ENVIRONMENT, RUN))
    title = rows.summary(OUTCOMES)
    assert list(found) == [title, "Failures", "Cost", "Not checked", "Words"]
    where, _, table = found[title].partition("\n\n")
    assert where == "Class `cpu-a` on Xeon, NVIDIA L4; diffusers 0.36.0, torch 2.9.1."
    headings, rule, *lines = map(cells, table.splitlines())
    assert (headings, rule) == (list(rows.HEADINGS), ["---"] * len(rows.HEADINGS))
    shown = sorted(
        (outcome for outcome in OUTCOMES if outcome not in NOT_HERE),
        key=lambda outcome: outcome.case,
    )
    assert [tuple(line) for line in lines] == [rows.row(outcome) for outcome in shown]
    fenced = re.findall(r"^```text\n(.*?)\n```$", found["Failures"], flags=re.MULTILINE | re.DOTALL)
    assert fenced == [rows.paragraph(outcome, RUN) for outcome in shown if outcome.fails]
    assert found["Cost"].splitlines() == [f"- {line}" for line in rows.costs(shown)]
    assert found["Not checked"] == "- no CUDA device: x[cuda-float32], y[cuda-float32]"
    words = dict(re.findall(r"^- `(\w+)`: (.+)$", found["Words"], flags=re.MULTILINE))
    assert words == {outcome.verdict: rows.MEANING[outcome.verdict] for outcome in OUTCOMES}


def test_a_run_without_failures_has_no_section_for_them():
    """Nothing is said where there is nothing to say."""
    assert list(sections(markdown([IDENTICAL], {}, RUN))) == ["1 case: 1 identical", "Words"]


def test_columns_that_are_empty_everywhere_are_left_out():
    """In a table of few facts."""
    table = markdown_table(("case", "cost", "peak"), [("a", "", "1"), ("b", "", "")])
    assert [cells(line) for line in table.splitlines()] == [
        ["case", "peak"],
        ["---", "---"],
        ["a", "1"],
        ["b", ""],
    ]


def test_a_narrow_terminal_leaves_columns_out_and_folds_no_cell():
    """In the order given, as few as needed; 0 stands for a pipe, which has no width."""
    lines = [("a" * 20, "identical", "1.00e-05", "480 MiB")]

    def shown(width: int) -> list[str]:
        made = table(
            ("case", "verdict", "L-inf", "peak"), lines, width=width, spare=("peak", "L-inf")
        )
        return [str(column.header) for column in made.columns]

    assert shown(0) == shown(50) == ["case", "verdict", "L-inf", "peak"]
    assert shown(49) == shown(41) == ["case", "verdict", "L-inf"]
    assert shown(40) == shown(1) == ["case", "verdict"]


def test_what_no_bound_admits_may_be_calibrated():
    """Where the scenario sets none and another class judged; else only accepting is left."""
    drifted = builders.outcome(
        "drifted", reason=f"other bits, and {NO_BOUNDS}", path="x.yaml", baseline=BASELINE
    )
    assert rows.advise(drifted, RUN).startswith(
        "harness calibrate x.yaml -k 'digits[cpu-float32]' --write, to admit what other"
    )
    assert rows.advise(replace(drifted, reason="R"), RUN).startswith("harness accept ")


def test_every_verdict_has_its_meaning():
    """A word in a report is explained under it."""
    assert set(rows.MEANING) == {
        "identical",
        "within",
        *(o.verdict for o in OUTCOMES),
        "unrepeatable",
        "incomparable",
    }


@pytest.mark.parametrize(
    "outcome", [*OUTCOMES[:5], NOT_HERE[0]], ids=lambda outcome: outcome.verdict
)
def test_an_outcome_survives_the_results_file(outcome):
    """A report made again from `results.json` says the same."""
    again = Outcome.from_json(outcome.as_json())
    assert (rows.row(again), rows.paragraph(again, RUN)) == (
        rows.row(outcome),
        rows.paragraph(outcome, RUN),
    )
