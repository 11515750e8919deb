"""`--harness-strict`: a case that cannot run here fails."""

from __future__ import annotations

from inner import Run

BOTH = "{device: [cpu, cuda]}"


def test_without_it_such_a_case_is_skipped(run: Run, shop):
    """With the reason."""
    shop.recorded(cases=BOTH)
    run().assert_outcomes(passed=1, skipped=1)


def test_with_it_such_a_case_fails(run: Run, shop):
    """As in a CI whose machine must be able to."""
    shop.recorded(cases=BOTH)
    run("--harness-strict").assert_outcomes(passed=1, failed=1)


def test_a_folder_of_weights_that_is_not_there_fails_without_it_too(run: Run, shop):
    """A mistyped path is a mistake, not a lack of this machine."""
    shop.scenario(checkpoint="{path: nowhere}")
    run().assert_outcomes(failed=1)
