"""`--harness-reason`: why baselines are replaced."""

from __future__ import annotations

import json

import pytest
from inner import Run


def test_the_reason_is_kept_in_the_baseline(run: Run, shop):
    """For whoever reviews it."""
    shop.recorded()
    shop.scenario(seed="1")
    run("--harness-accept", "--harness-reason", "Seed 1 it is.").assert_outcomes(passed=1)
    assert "Seed 1 it is." in json.dumps(json.loads(shop.baseline().read_text(encoding="utf-8")))


@pytest.mark.parametrize("reason", [(), ("--harness-reason", ""), ("--harness-reason", "  ")])
def test_nothing_is_accepted_without_one(run: Run, shop, reason: tuple[str, ...]):
    """An empty one counts as none."""
    shop.recorded()
    before = shop.baseline().read_bytes()
    shop.scenario(seed="1")
    result = run("--harness-accept", *reason)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--harness-accept needs --harness-reason TEXT*"])
    assert shop.baseline().read_bytes() == before
