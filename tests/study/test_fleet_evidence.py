"""Calibration from runs of other machines: whose drifts count, and why others do not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import Comparison, Metric
from harness.scenario.reading import read
from harness.store.baselines import Store
from harness.store.run_folder import Results, read_results, write_results
from harness.study.fleet_evidence import from_runs

CASE = "digits[cpu-float32]"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which what `elsewhere` made is kept for the next test."""
    return tmp_path_factory.mktemp("kept") / "made"


@pytest.fixture
def elsewhere(shop, kept: Path, monkeypatch) -> Path:
    """A run of another class than the baseline's."""
    shop.recorded(tolerance="{cross-class: {local_rel_l2: 1.0e-3}}")
    if not kept.exists():
        with monkeypatch.context() as patch:
            patch.setenv("ATEN_CPU_CAPABILITY", "avx2")
            assert shop.harness("run", "--out", str(kept)).code == 0
    shutil.copytree(kept, shop.root / "elsewhere")
    return shop.root / "elsewhere"


def gathered(shop, *runs: Path):
    """Return what runs tell of the one case."""
    (case,) = read(shop.root / "scenarios" / "digits.yaml").cases()
    return from_runs(runs, case, Store(shop.root / "baselines"))


def test_the_drifts_of_another_class_are_those_of_its_run(shop, elsewhere: Path):
    """One platform, by the name of its class; a second run of it is a second draw."""
    (outcome,) = read_results(elsewhere).outcomes
    found = gathered(shop, elsewhere, elsewhere)
    (draws,) = found.measured.values()
    assert (list(found.measured), found.missed) == ([outcome.numerics_class], {})
    assert len(draws) == 2
    largest = max(each.value(Metric.LOCAL_REL_L2) for each in outcome.local)
    assert max(v for k, v in draws[0].items() if k.metric is Metric.LOCAL_REL_L2) == largest > 0


def edited(run: Path, **changes: object) -> None:
    """Change the one outcome of a run."""
    results = read_results(run)
    (outcome,) = results.outcomes
    write(run, replace(results, outcomes=(replace(outcome, **changes),)))


def write(run: Path, results: Results) -> None:
    environments = results.environments
    write_results(run, results.outcomes, results.environment, environments=environments)


def test_what_was_not_held_against_another_class_tells_nothing(shop, elsewhere: Path):
    """Neither a run of the baseline's own class, nor one that was held against no baseline."""
    (outcome,) = read_results(elsewhere).outcomes
    edited(elsewhere, baseline=replace(outcome.baseline, comparison=Comparison.SAME_CLASS))
    problem = "it was not held against a baseline of another class"
    assert list(gathered(shop, elsewhere).missed.values()) == [problem]
    edited(elsewhere, baseline=None)
    assert list(gathered(shop, elsewhere).missed.values()) == [problem]


def test_a_run_of_another_scenario_or_baseline_is_no_evidence(shop, elsewhere: Path):
    """What an edit or a new baseline moved is no noise."""
    edited(elsewhere, fingerprint="other")
    (problem,) = gathered(shop, elsewhere).missed.values()
    assert problem == "it is of another version of the scenario"
    shutil.rmtree(shop.root / "baselines")
    (problem,) = gathered(shop, elsewhere).missed.values()
    assert problem == "the baseline that judged it is not the one of now"


def test_what_a_release_moved_is_no_noise(shop, elsewhere: Path):
    """Another build of the same release is."""
    results = read_results(elsewhere)
    for torch, fits in (("2.13.0+cu130", True), ("2.14.0", False)):
        environments = {
            name: replace(each, versions={**each.versions, "torch": torch})
            for name, each in results.environments.items()
        }
        write(elsewhere, replace(results, environments=environments))
        found = gathered(shop, elsewhere)
        assert bool(found.measured) is fits
        assert list(found.missed.values()) == ([] if fits else ["it is of other releases"])


def test_calibrate_takes_runs_and_says_how_many_machines_it_saw(shop, elsewhere: Path):
    """They stand in the evidence beside the synthetic platforms."""
    done = shop.harness(
        *("calibrate", "scenarios/digits.yaml", "--from", "elsewhere", "--seeds", "1"),
        *("--perturbations", "1", "--budget", "1s", "--write"),
    )
    assert done.code in (0, 1), done.err
    evidence = read(shop.root / "scenarios" / "digits.yaml").tolerances.evidence
    assert evidence is not None
    assert evidence.machines == 1
    assert evidence.platforms >= 1
