"""`--harness-accuracy`: evaluates every case that moved in float64."""

from __future__ import annotations

import pytest
from inner import Run

from harness.store.run_folder import read_results

LOOSE = "{cross-class: {rel_l2: 1.0e-3}}"


@pytest.mark.parametrize("options", [(), ("--harness-accuracy",)], ids=["without", "with"])
def test_a_case_within_its_bounds_is_evaluated_where_it_is_asked_for(run: Run, shop, options):
    """Without it only what drifted is, where that is cheap."""
    shop.recorded(tolerance=LOOSE)
    run("--harness-profile", "portable", "--harness-out", "out", *options).assert_outcomes(passed=1)
    (outcome,) = read_results(shop.root / "out").outcomes
    assert bool(outcome.accuracy) == bool(options)
