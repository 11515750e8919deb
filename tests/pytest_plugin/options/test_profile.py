"""`--harness-profile`: which CPU instructions all cases may use."""

from __future__ import annotations

import pytest
from inner import Run

from harness.store.run_folder import read_results


def test_the_portable_profile_is_a_numerics_class_of_its_own(run: Run, shop):
    """So the case has no baseline of its class, and is compared with the reference."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0e-3}}")
    run("--harness-out", "native").assert_outcomes(passed=1)
    run("--harness-profile", "portable", "--harness-out", "portable").assert_outcomes(passed=1)
    classes = [
        read_results(shop.root / out).outcomes[0].numerics_class for out in ("native", "portable")
    ]
    assert classes[0] != classes[1]


def test_an_unknown_profile_is_refused(run: Run, shop):
    """Before anything runs."""
    shop.recorded()
    assert run("--harness-profile", "fast").ret == pytest.ExitCode.USAGE_ERROR
