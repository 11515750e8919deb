"""How a gate's decision is told: grouped by cause, and readable at any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.gate.findings import Contradiction, Decision, Finding, Problem, Row, State
from harness.gate.record import Doubt, Mismatch
from harness.report.gate_report import (
    CONTRADICTIONS,
    WORDS,
    lines,
    mismatch,
    sentence,
    table,
    word,
)

LONG = "a-scenario-with-a-name-that-is-longer-than-any-narrow-terminal-is-wide"
ROWS = (
    Row(LONG, "nvidia-h100", State.UNVERIFIED, 12, {"identical": 11, "unverified": 1}),
    Row("digits", "cpu", State.PASSES, 1, {"identical": 1}),
)


def printed(decision: Decision, width: int) -> list[str]:
    """Return the lines of the table, as a terminal of this width would show it."""
    out = Console(file=io.StringIO(), width=100_000, soft_wrap=True)
    out.print(table(decision, width))
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [0, 1, 20, 40, 60, 80, 100, 200, 1000])
def test_the_table_keeps_state_and_place_at_any_width(width):
    """They come first, and are never shortened; names of scenarios and the rest give way."""
    heading, *rows = printed(Decision(ROWS), width)
    assert heading.split()[:3] == ["state", "on", "scenario"]
    assert [row.split()[:2] for row in rows] == [["unverified", "nvidia-h100"], ["passes", "cpu"]]
    if width >= 40:
        assert max(len(row.rstrip()) for row in (heading, *rows)) <= width
    if width in (0, 1000):
        assert LONG in rows[0]
        assert heading.split() == ["state", "on", "scenario", "cases", "seen"]


@pytest.mark.parametrize("problem", Problem)
def test_every_problem_has_words_and_a_state(problem):
    """A new one needs a sentence; a word of the enumeration says too little."""
    assert problem in WORDS
    found = Finding(problem, "run", "case", "cpu", "E", str(Contradiction.NO_CHECK), "D")
    assert len(sentence(found)) > 8
    assert problem.state in State


def test_every_contradiction_and_doubt_has_words():
    """They complete a sentence."""
    assert CONTRADICTIONS.keys() == set(Contradiction)
    for doubt in Doubt:
        assert len(mismatch(Mismatch(doubt, "scenario", "x"))) > 12


def test_findings_of_one_cause_are_told_once():
    """With all cases beneath; what fails comes first."""
    drifted = [
        Finding(Problem.FAILS, "runs/a", f"s{i}[cpu-float32]", "cpu", "", "drifted", "L", "1a2b")
        for i in range(15)
    ]
    other = Finding(Problem.NOT_RUN, "", "digits[cpu-float32]", "cpu")
    told = lines(Decision(ROWS, (other, *drifted)))
    assert told[:4] == [
        "",
        "fails:",
        "  15 times: drifted: L (cause 1a2b)",
        "    s0[cpu-float32] on cpu in runs/a",
    ]
    assert "    and 3 more" in told
    assert told[-3:] == [
        "not verified:",
        "  no result among the runs",
        "    digits[cpu-float32] on cpu",
    ]


def test_a_waived_finding_is_told_with_its_owner():
    """It does not block, and is not silent."""
    waived = Finding(
        Problem.FAILS, "r", "c", "cpu", "", "drifted", "the driver", owner="A", until="2026-12-31"
    )
    decision = Decision((Row("digits", "cpu", State.WAIVED, 1),), waived=(waived,))
    assert (word(decision), decision.exit_code) == ("open", 0)
    assert lines(decision)[1:3] == [
        "waived:",
        "  drifted, waived by A until 2026-12-31: the driver",
    ]


@pytest.mark.parametrize(
    ("states", "state", "code"),
    [
        ([State.PASSES], State.PASSES, 0),
        ([State.PASSES, State.WAIVED], State.PASSES, 0),
        ([State.PASSES, State.UNVERIFIED], State.UNVERIFIED, 3),
        ([State.UNVERIFIED, State.FAILS], State.FAILS, 1),
        ([], State.UNVERIFIED, 3),
    ],
)
def test_the_worst_row_decides(states, state, code):
    """A decision about nothing opens no gate."""
    decision = Decision(tuple(Row("digits", "cpu", each, 1) for each in states))
    assert (decision.state, decision.exit_code) == (state, code)


def test_foreign_text_cannot_command_a_terminal():
    """A message comes from another machine."""
    found = Finding(Problem.FAILS, "r", "c\x1b[2J", "cpu", "", "error", "::error::\x1b[31m\nmore")
    told = "\n".join(lines(Decision(ROWS, (found,))))
    assert "\x1b" not in told
    assert "more" not in told
