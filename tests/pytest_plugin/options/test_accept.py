"""`--harness-accept`: replaces the baselines of what fails."""

from __future__ import annotations

import pytest
from inner import Run

WITH_REASON = ("--harness-accept", "--harness-reason", "Seed 1 is the one we ship.")


def test_what_fails_is_replaced_and_passes_from_then_on(run: Run, shop):
    """The session that accepts it passes too."""
    shop.recorded()
    before = shop.baseline().read_bytes()
    shop.scenario(seed="1")
    run(*WITH_REASON).assert_outcomes(passed=1)
    assert shop.baseline().read_bytes() != before
    run().assert_outcomes(passed=1)


def test_what_passes_keeps_its_baseline(run: Run, shop):
    """To the byte."""
    shop.recorded()
    before = shop.baseline().read_bytes()
    run(*WITH_REASON).assert_outcomes(passed=1)
    assert shop.baseline().read_bytes() == before


def test_only_what_is_chosen_is_replaced(run: Run, shop):
    """`-k`, as for any session."""
    for name in ("x", "y"):
        shop.recorded(name)
        shop.scenario(name, seed="1")
    before = shop.baseline("y").read_bytes()
    run(*WITH_REASON, "-k", "x").assert_outcomes(passed=1, deselected=1)
    assert shop.baseline("y").read_bytes() == before
    run().assert_outcomes(passed=1, failed=1)


def test_a_job_of_a_ci_may_not(run: Run, shop, monkeypatch: pytest.MonkeyPatch):
    """It uploads its recordings, and somebody accepts them elsewhere."""
    shop.recorded()
    monkeypatch.setenv("CI", "1")
    assert run(*WITH_REASON).ret == pytest.ExitCode.USAGE_ERROR
