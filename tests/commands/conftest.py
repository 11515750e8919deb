"""What the tests of the commands share: a shop with a baseline, and a run made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import pytest

from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store


@pytest.fixture
def recorded(shop):
    """A shop with a scenario and its baseline."""
    shop.recorded()
    return shop


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes scenarios by their names, and the run that recorded them.

    No worker runs: the recordings and the verdicts are made by hand.
    """

    def finish(*names: str, image: np.ndarray = builders.IMAGE, verdict: str = "missing") -> Path:
        session = Session(Store(tmp_path / "baselines"), tmp_path / "run")
        for name in names:
            path = tmp_path / "scenarios" / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(builders.scenario_text(), encoding="utf-8")
            (case,) = read(path).cases()
            builders.recording(session.folder(case), image, case=case.request())
            fingerprint = case.scenario.fingerprint
            session.outcomes.append(builders.outcome(verdict, name=name, fingerprint=fingerprint))
        session.write_results()
        return session.out

    return finish
