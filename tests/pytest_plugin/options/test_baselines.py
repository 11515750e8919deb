"""`--harness-baselines`: where baselines are read from, and written to."""

from __future__ import annotations

from inner import Run

from harness.store.baselines import Store


def test_without_it_baselines_are_those_of_the_project(run: Run, shop):
    """The folder `baselines` beside `scenarios`."""
    shop.recorded()
    run().assert_outcomes(passed=1)


def test_another_store_has_no_baseline_of_the_case(run: Run, shop):
    """The message names the store that was searched."""
    shop.recorded()
    result = run("--harness-baselines", "elsewhere")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["missing: no baseline*"])


def test_updating_writes_into_that_store_alone(run: Run, shop):
    """And the next run reads it from there."""
    shop.scenario()
    run("--harness-baselines", "elsewhere", "--harness-update").assert_outcomes(passed=1)
    assert list(Store(shop.root / "elsewhere").folders())
    assert not (shop.root / "baselines").exists()
    run("--harness-baselines", "elsewhere").assert_outcomes(passed=1)
    run().assert_outcomes(failed=1)
