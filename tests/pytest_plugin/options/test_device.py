"""`--harness-device`: only the cases of one device."""

from __future__ import annotations

import pytest
from inner import Run

BOTH = "{device: [cpu, cuda]}"


def test_the_cases_of_other_devices_are_not_collected(run: Run, shop):
    """They are neither skipped nor failed: nobody asked for them."""
    shop.recorded(cases=BOTH)
    run().assert_outcomes(passed=1, skipped=1)
    run("--harness-device", "cpu").assert_outcomes(passed=1)


def test_a_device_without_cases_leaves_nothing(run: Run, shop):
    """pytest's own code for it."""
    shop.recorded()
    assert run("--harness-device", "cuda").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_an_unknown_device_is_refused(run: Run, shop):
    """The names that are known are said."""
    shop.recorded()
    result = run("--harness-device", "gpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*expected one of any, cpu, cuda*, found gpu"])


def test_any_device_stands_for_all(run: Run, shop):
    """Against a device that the ini file or the project chose."""
    shop.recorded(cases=BOTH)
    (shop.root / "pytest.ini").write_text("[pytest]\nharness_device = cpu\n", encoding="utf-8")
    run().assert_outcomes(passed=1)
    run("--harness-device", "any").assert_outcomes(passed=1, skipped=1)
