"""`--harness-prune`: removes the baselines that belong to no case, where everything ran."""

from __future__ import annotations

import pytest
from inner import Run


@pytest.fixture
def left_over(shop):
    """A project with one scenario, and with the baseline of another one that is gone."""
    shop.recorded("kept")
    shop.recorded("gone").unlink()
    return shop


def test_an_unused_baseline_is_named_and_stays(run: Run, left_over):
    """With the option that would remove it."""
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["unused baseline: *gone*", "*--harness-prune"])
    assert (left_over.root / "baselines" / "gone").is_dir()


def test_it_is_removed_where_it_is_asked_for(run: Run, left_over):
    """And no other."""
    run("--harness-prune").assert_outcomes(passed=1)
    assert not list((left_over.root / "baselines" / "gone").glob("*/*.json"))
    assert left_over.baseline("kept").is_file()


def test_nothing_is_unused_where_only_a_part_ran(run: Run, left_over):
    """The other part may use it."""
    left_over.recorded("more")
    result = run("--harness-prune", "-k", "kept")
    result.stdout.no_fnmatch_line("unused baseline: *")
    assert list((left_over.root / "baselines" / "gone").glob("*/*.json"))


def test_nothing_is_removed_where_a_case_failed(run: Run, left_over):
    """A scenario may have been renamed by mistake."""
    left_over.scenario("kept", seed="1")
    run("--harness-prune").assert_outcomes(failed=1)
    assert list((left_over.root / "baselines" / "gone").glob("*/*.json"))
