"""The whole life of a baseline in pytest, from missing to pruned, in one project."""

from __future__ import annotations

import json

from inner import Run, path_of_pytester, run_in_project  # noqa: F401 (two are fixtures)

REASON = "Seed 1 is the one we ship."


def test_a_baseline_from_its_first_day_to_its_last(run: Run, shop):
    """Missing, recorded, passes, changed, fails, accepted, passes, deleted, unused, pruned."""
    shop.scenario("kept")
    scenario = shop.scenario("x")

    missing = run()
    missing.assert_outcomes(failed=2)
    missing.stdout.fnmatch_lines(["missing: no baseline*", "2 cases: 2 missing"])

    run("--harness-update").assert_outcomes(passed=2)
    recorded = shop.baseline("x").read_bytes()
    run().assert_outcomes(passed=2)

    shop.scenario("x", seed="1")
    changed = run()
    changed.assert_outcomes(passed=1, failed=1)
    changed.stdout.fnmatch_lines(["stale: *", "2 cases: 1 identical, 1 stale"])
    assert shop.baseline("x").read_bytes() == recorded

    run("--harness-accept", "--harness-reason", REASON).assert_outcomes(passed=2)
    accepted = json.loads(shop.baseline("x").read_text(encoding="utf-8"))
    assert REASON in json.dumps(accepted)
    run().assert_outcomes(passed=2)

    scenario.unlink()
    unused = run()
    unused.assert_outcomes(passed=1)
    unused.stdout.fnmatch_lines(["unused baseline: *x*cpu-float32*"])
    assert shop.baseline("x").is_file()

    run("--harness-prune").assert_outcomes(passed=1)
    assert not list((shop.root / "baselines" / "x").glob("*/*"))
    run().stdout.no_fnmatch_line("unused baseline: *")
    assert shop.baseline("kept").is_file()
