"""`--harness-failed-from`: only the cases of scenarios that failed in a run."""

from __future__ import annotations

import pytest
from inner import Run


def test_only_what_failed_in_that_run_is_chosen(run: Run, shop):
    """And passes once it is put right."""
    shop.recorded("x")
    shop.recorded("y")
    shop.scenario("x", seed="1")
    run("--harness-out", "night").assert_outcomes(passed=1, failed=1)
    run("--harness-failed-from", "night").assert_outcomes(failed=1, deselected=1)
    shop.scenario("x")
    run("--harness-failed-from", "night").assert_outcomes(passed=1, deselected=1)


def test_a_run_that_is_not_there_is_an_error(run: Run, shop):
    """It is named."""
    shop.recorded()
    result = run("--harness-failed-from", "nowhere")
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    assert "nowhere" in result.stdout.str() + result.stderr.str()
