"""How accuracy is worded: the line of a case, the table of its worst stages."""

from __future__ import annotations

import builders
import pytest
from examples import DRIFTED, RUN

from harness.records import AccuracyReason, Stage
from harness.report import accuracy, wording
from harness.report.explanation import text
from harness.report.markdown import markdown
from harness.report.run_report import print_runs
from harness.report.runs import Run
from harness.report.terminal import console
from harness.study.explain import Explanation

WORSE = builders.accuracy("worse", 8e-7)
SAME = builders.accuracy(stage=Stage("text_encoder", 0), key="last_hidden_state")
UNKNOWN = builders.accuracy("unknown", reason=AccuracyReason.OWN_ERROR)
LINE = (
    "worse: scheduler.step#3/sample, the worst of 2 that moved: error 8.00e-07, the baseline's "
    "2.00e-07 (x4)"
)


def test_the_worst_stage_speaks_for_the_case() -> None:
    assert accuracy.line((SAME, WORSE)) == LINE
    assert accuracy.line(()) == ""


def test_unknown_is_said_with_its_reason() -> None:
    assert accuracy.line((SAME, UNKNOWN)) == (
        "unknown: scheduler.step#3/sample, the worst of 2 that moved: the evaluation's own error "
        "is as large as what separates the two sides"
    )


def test_the_table_holds_the_worst_stages_of_each_case() -> None:
    many = [builders.accuracy(stage=Stage("unet", index), key="") for index in range(9)]
    outcomes = [
        builders.outcome("within", accuracy=(*many, UNKNOWN, WORSE)),
        builders.outcome("identical", name="still"),
    ]
    assert [row[:6] for row in accuracy.rows(outcomes)] == [
        ("digits[cpu-float32]", "scheduler.step#3/sample", "worse", "8.00e-07", "2.00e-07", "x4"),
        ("digits[cpu-float32]", "scheduler.step#3/sample", "unknown", "2.00e-07", "2.00e-07", "x1"),
        ("digits[cpu-float32]", "unet#0", "no worse", "2.00e-07", "2.00e-07", "x1"),
    ]


def test_a_stage_without_an_evaluation_has_no_figures() -> None:
    reason = AccuracyReason.NOT_EVALUATED
    lost = builders.accuracy(
        "unknown", actual_error=None, expected_error=None, reason=reason, detail="no memory"
    )
    ((*_, verdict, actual, expected, ratio, why),) = accuracy.rows(
        [builders.outcome("within", accuracy=(lost,))]
    )
    assert (verdict, actual, expected, ratio) == ("unknown", "", "", "")
    assert why == "it was not evaluated in float64: no memory"


def test_every_report_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = builders.outcome("within", accuracy=(SAME, WORSE))
    failed = builders.outcome("drifted", accuracy=(SAME, WORSE))
    assert f"  accuracy: {LINE}" in wording.paragraph(failed, RUN).splitlines()
    assert "accuracy" not in wording.paragraph(DRIFTED, RUN)
    explained = text(Explanation("x[cpu-float32]", None, accuracy=(SAME, WORSE)))
    assert f"  accuracy: {LINE}" in explained.splitlines()
    assert "## Accuracy against float64" in markdown([Run(RUN, (outcome,))])
    assert "Accuracy" not in markdown([Run(RUN, (DRIFTED,))])
    print_runs(console(), [Run(RUN, (outcome,))])
    printed = capsys.readouterr().out
    assert "accuracy against float64:" in printed
    assert "scheduler.step#3/sample" in printed
