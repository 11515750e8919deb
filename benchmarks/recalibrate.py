"""Measures what `harness calibrate` needs of many scenarios, with one worker for each platform.

A calibration of one scenario starts a worker for each platform. Here the workers stay from scenario
to scenario. What is measured is kept in the folder, so that the command then writes at once:

    python benchmarks/recalibrate.py FOLDER [NAME…]
    harness calibrate scenarios/NAME.yaml --device cpu --out FOLDER --write

Without names, every scenario of this repository is measured that holds evidence and runs by torch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import ROOT, SCENARIOS, first_case

from harness.launch.launcher import Slot
from harness.records import Device
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.study.calibrate import Effort, calibrate
from harness.study.platforms import platforms_of


class OneWorkerEach(Session):
    """A session that keeps a worker for each set of settings."""

    def record(self, case: Case, slot: Slot | None = None, folder: Path | None = None) -> Recording:
        """Run a case by the worker of its settings, whatever the slot."""
        del slot
        known = self.__dict__.setdefault("_by_settings", {})
        index = known.setdefault(case.settings, len(known))
        return super().record(case, self.slot(index), folder)


def calibrated_names() -> list[str]:
    """Return the names of the scenarios that hold evidence and run by torch."""
    found = [read(path) for path in sorted(SCENARIOS.glob("*.yaml"))]
    return [
        each.name
        for each in found
        if each.tolerances.evidence is not None and each.framework is Framework.TORCH
    ]


def main() -> None:
    """Measure, and say how long each scenario took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    effort = Effort(seeds=arguments.seeds)
    with OneWorkerEach(Store(ROOT / "baselines"), arguments.folder) as session:
        for name in arguments.names or calibrated_names():
            case = first_case(name)
            began = time.monotonic()
            platforms = platforms_of(case)
            here = {key: each for key, each in platforms.items() if each.device is not Device.CUDA}
            found = calibrate(session, case, here, effort=effort, on_step=lambda _: None)
            admitted = sum(found.left_out().values())
            seconds = time.monotonic() - began
            print(
                f"{name}: {seconds:.0f} s, left out {admitted}/{len(found.platforms)}", flush=True
            )


if __name__ == "__main__":
    main()
