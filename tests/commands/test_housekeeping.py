"""Removing baselines that belong to no case, and old runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import harness


def folders(root: Path) -> list[str]:
    return sorted("/".join(path.parts[-3:-1]) for path in (root / "baselines").glob("*/*/*.json"))


def test_baselines_of_scenarios_that_are_gone_are_removed(shop):
    """Those of objects of tests and notebooks stay, and so does every reference."""
    shop.recorded("kept")
    shop.recorded("gone").unlink()
    harness.check(np.ones(2), baseline="notebook", update=True)
    dry = shop.harness("prune", "--dry-run")
    assert dry.code == 0
    assert "unused: baselines/gone/cpu-float32" in dry.out
    done = shop.harness("prune")
    assert "removed: baselines/gone/cpu-float32" in done.out
    assert "1 of 3 unused" in done.out
    assert folders(shop.root) == ["kept/cpu-float32", "notebook/cpu-float64"]
    assert not (shop.root / "baselines" / "gone").exists()


def test_the_baseline_that_a_reference_names_is_kept(shop):
    """A case on a GPU may be judged by one that no case of this scenario makes any more."""
    shop.recorded("x", cases="{device: [cpu, cuda]}")
    shop.scenario("x", cases="{device: [cuda]}", reference="{device: cpu, dtype: float32}")
    shop.harness("prune")
    assert folders(shop.root) == ["x/cpu-float32"]


def test_old_runs_are_removed_and_other_folders_stay(shop):
    """The newest are kept; what is no run is not touched."""
    for number in range(4):
        (shop.root / "runs" / f"{number}" / "recordings").mkdir(parents=True)
        os.utime(shop.root / "runs" / f"{number}", (number, number))
    (shop.root / "runs" / "notes").mkdir()
    done = shop.harness("clean", "--keep", "1")
    assert done.code == 0
    assert "3 of 4 runs" in done.out
    assert sorted(path.name for path in (shop.root / "runs").iterdir()) == ["3", "notes"]


def test_runs_are_ignored_by_git(shop):
    """From the first one on."""
    shop.scenario("x", checkpoint="{path: nowhere}")
    shop.harness("run")
    assert (shop.root / "runs" / ".gitignore").read_text("utf-8") == "*\n"
