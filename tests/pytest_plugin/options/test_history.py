"""`--harness-history`: a history that each session adds its outcomes to."""

from __future__ import annotations

from inner import Run


def test_each_session_adds_its_outcomes(run: Run, shop):
    """As `harness run --history` does, and `harness history` reads them."""
    shop.recorded()
    for _ in range(2):
        run("--harness-history", "history").assert_outcomes(passed=1)
    done = shop.harness("history", "history")
    assert done.code == 0, done.err
    assert "digits[cpu-float32]" in done.out


def test_without_it_no_history_is_written(run: Run, shop):
    """Unless the project names one."""
    shop.recorded()
    run().assert_outcomes(passed=1)
    assert not (shop.root / "history").exists()
    (shop.root / "pyproject.toml").write_text('[tool.harness]\nhistory = "kept"\n')
    run().assert_outcomes(passed=1)
    assert (shop.root / "kept").is_dir()
