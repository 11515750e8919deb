"""What the benchmarks share: this repository's scenarios, and sessions that leave no files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.scenario.model import Case, Scenario
from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = ROOT / "scenarios"


def scenario_named(name: str) -> Scenario:
    """Return a scenario of this repository."""
    return read(SCENARIOS / f"{name}.yaml")


def first_case(name: str) -> Case:
    """Return the first case of a scenario of this repository."""
    return scenario_named(name).cases()[0]


@contextmanager
def temporary_session() -> Iterator[Session]:
    """Yield a session without baselines, whose folder is removed afterwards."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        with Session(Store(folder), folder) as session:
            yield session


def teacher_forced(case: Case, base: Recording) -> Case:
    """Return a case as it runs when every stage gets the inputs that it has in `base`."""
    return replace(case, teacher_tensors=base.tensors_path.resolve())
