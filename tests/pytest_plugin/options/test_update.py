"""`--harness-update`: writes the baselines that are missing, and no other."""

from __future__ import annotations

import pytest
from inner import Run


def test_a_missing_baseline_is_written_and_named(run: Run, shop):
    """The test passes, and the next session too."""
    shop.scenario()
    result = run("--harness-update")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["baseline written: *digits/cpu-float32/*.json"])
    run().assert_outcomes(passed=1)


def test_a_baseline_that_is_there_stays_and_the_test_fails(run: Run, shop):
    """What moved is for `--harness-accept`."""
    shop.recorded()
    before = shop.baseline().read_bytes()
    shop.scenario(seed="1")
    run("--harness-update").assert_outcomes(failed=1)
    assert shop.baseline().read_bytes() == before


def test_a_job_of_a_ci_may_not(run: Run, shop, monkeypatch: pytest.MonkeyPatch):
    """Nobody reviews what it would write."""
    shop.scenario()
    monkeypatch.setenv("CI", "true")
    result = run("--harness-update")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--harness-update writes baselines*CI*"])
    assert not (shop.root / "baselines").exists()
