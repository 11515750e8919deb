"""Whole run folders made by hand: recordings, baselines and `results.json`, judged as in a session.

Nothing here starts a worker. The browser test, the tests of the HTML report and the measurement of
its size use them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import builders
import numpy as np

from harness.judge.verdict import judge
from harness.records import Outcome
from harness.report.runs import Run
from harness.store.baselines import Match, Store
from harness.store.recording import Recording
from harness.store.run_folder import read_results, write_results

STORE = "baselines"


@dataclass(frozen=True)
class Made:
    """One case: its two sides.

    Attributes:
        name: The scenario's.
        actual: This run's outputs by name.
        expected: The baseline's; None where there is no baseline.
        output_type: What the call asks for.
        changes: To the scenario: `description`, `tags`, `call` …
    """

    name: str
    actual: dict[str, np.ndarray]
    expected: dict[str, np.ndarray] | None = None
    output_type: str = "np"
    changes: dict[str, Any] = field(default_factory=dict)


def made_run(
    run: Path, cases: Iterable[Made], letter: str = "a", others: Iterable[Outcome] = ()
) -> Path:
    """Write a run and the baselines that judge it, and return the run's folder.

    Args:
        run: Its folder; the store is the folder `baselines` beside it.
        cases: What it ran.
        letter: Of the numerics class.
        others: Outcomes of cases that left no recording.
    """
    store = Store(run.parent / STORE)
    outcomes = [_outcome(run, store, made, letter) for made in cases]
    write_results(run, [*outcomes, *others], builders.environment(letter))
    return run


def run_in(folder: Path) -> Run:
    """Return what a run left in its folder, as reports take it."""
    results = read_results(folder)
    return Run(folder, results.outcomes, results.environment)


def _outcome(run: Path, store: Store, made: Made, letter: str) -> Outcome:
    call = {"num_inference_steps": 2, "output_type": made.output_type}
    changes = {"call": call, "path": Path(f"scenarios/{made.name}.yaml"), **made.changes}
    case = builders.case(name=made.name, **changes)
    place = Path("recordings") / made.name / case.key
    actual = _recording(run / place, made.actual, call, letter)
    match = None
    if made.expected is not None:
        expected = _recording(run.parent / "recorded" / made.name, made.expected, call, letter)
        path = store.write(case, expected, "R")
        match = Match(store.read(path))
    outcome = judge(case, actual, match, [])
    return replace(
        outcome,
        recording=place.as_posix(),
        path=str(case.scenario.path),
        store=str(store.root),
    )


def _recording(
    folder: Path, outputs: dict[str, np.ndarray], call: dict[str, Any], letter: str
) -> Recording:
    steps = 6
    kept, stages = {}, []
    for step in range(steps):
        state = np.resize(next(iter(outputs.values())).astype(np.float32), (1, 4, 8, 8))
        kept[f"scheduler.step#{step}/sample"] = state * np.float32(1 + step / 10)
        digests = {"sample": builders.summary(kept[f"scheduler.step#{step}/sample"])["digest"]}
        stages.append((f"scheduler.step#{step}", {"sample": "n"}, digests))
    return builders.recording(
        folder, outputs, kept=kept, stages=stages, letter=letter, case={"call": call}
    )
