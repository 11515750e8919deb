"""How the runs of a report are merged, and which of their cases have figures to show."""

from __future__ import annotations

from pathlib import Path

import builders
import examples

from harness.report.runs import Run, with_figures


def test_a_case_that_was_compared_is_in_the_table_though_it_was_not_verified() -> None:
    """Two runs of two classes have drifts, while their local bounds need another run."""
    compared = builders.outcome("unverified", name="compared", outputs={"image": examples.DRIFT})
    absent = builders.outcome("unverified", name="absent")
    passed = builders.outcome(name="passed")
    shown = with_figures([Run(Path("night"), (passed, absent, compared))])
    assert [each.outcome.scenario for each in shown] == ["compared", "passed"]
