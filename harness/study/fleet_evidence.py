"""What runs of other machines tell of a case's noise: their results hold the drifts already.

A run that was judged by a baseline of another class holds the local drift of every stage from that
baseline, or without stages the free drift of the outputs. Each class that a run was made in is a
platform of a calibration, a real one. What a release moved is no noise, nor is what another version
of the scenario gives: such outcomes are left out, and named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.judge.environment_diff import FRAMEWORKS
from harness.records import Comparison, Outcome
from harness.scenario.model import Case
from harness.store.baselines import Baseline, Store
from harness.store.recording import Environment
from harness.store.run_folder import Results, read_results
from harness.study.calibrate import Elsewhere, Figures, free_figures, local_figures, release_of
from harness.study.platforms import held_together


def from_runs(runs: Sequence[Path], case: Case, store: Store) -> Elsewhere:
    """Return the drifts of a case that runs of other classes measured, by the class's name.

    Args:
        runs: The folders of runs, or their files of results.
        case: The case.
        store: Its baselines, one of which judged the runs.

    Raises:
        FileError: A run or a baseline is damaged.
    """
    baselines = {
        baseline.numerics_class.name: baseline
        for baseline in store.of_devices(case, held_together(case))
    }
    measured: dict[str, list[Figures]] = {}
    missed: dict[str, str] = {}
    devices = set()
    for run in runs:
        results = read_results(run)
        for outcome in _of_case(results, case):
            problem = _unfit(outcome, results, case, baselines)
            if problem:
                missed[f"{outcome.numerics_class or outcome.case} of {run}"] = problem
            else:
                measured.setdefault(outcome.numerics_class, []).append(_figures(outcome))
                devices.add(outcome.target.device)
    return Elsewhere(measured, missed, frozenset(devices))


def _of_case(results: Results, case: Case) -> Iterator[Outcome]:
    """Yield the outcomes of a case, and of those that it is held against on other devices."""
    for outcome in results.outcomes:
        is_same = (outcome.scenario, outcome.variant) == (case.scenario.name, case.scenario.variant)
        is_held = outcome.target.device in held_together(case)
        if is_same and is_held and outcome.target.dtype == case.target.dtype:
            yield outcome


def _unfit(outcome: Outcome, results: Results, case: Case, baselines: dict[str, Baseline]) -> str:
    """Return why an outcome tells nothing of a case's noise; empty where it does."""
    judged_by = outcome.baseline
    if judged_by is None or judged_by.comparison is Comparison.SAME_CLASS:
        return "it was not held against a baseline of another class"
    baseline = baselines.get(judged_by.numerics_class)
    if baseline is None or results.written < baseline.provenance.date:
        return "the baseline that judged it is not the one of now"
    if outcome.fingerprint != case.scenario.fingerprint:
        return "it is of another version of the scenario"
    environment = results.environments.get(outcome.numerics_class)
    if environment is None or not _same_releases(environment, baseline.environment):
        return "it is of other releases"
    return "" if _figures(outcome) else "it holds no drift"


def _same_releases(actual: Environment, expected: Environment) -> bool:
    return actual.own_code == expected.own_code and all(
        release_of(actual.versions.get(name)) == release_of(expected.versions.get(name))
        for name in FRAMEWORKS
    )


def _figures(outcome: Outcome) -> Figures:
    """Return the drifts that an outcome holds: of its stages, or else of its outputs."""
    if outcome.local:
        return local_figures(outcome.local)
    return free_figures(outcome.outputs) if outcome.outputs else {}
