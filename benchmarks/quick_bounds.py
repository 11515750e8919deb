"""Measures on how many pipelines the bounds of `harness record` admit other platforms.

    python benchmarks/quick_bounds.py FOLDER --count 60 --out results.jsonl

FOLDER holds saved pipelines with their scenarios, as `benchmarks/pipelines.py` writes them; the
smallest come first. Each is recorded without bounds, gets those of a quick calibration, and runs
teacher-forced on six platforms, of which the quick calibration saw none.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from common import teacher_forced
from recalibrate import OneWorkerEach

from harness.errors import HarnessError
from harness.judge import drift
from harness.judge.checks import check_local, failed
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.scenario.tolerance import Tolerances
from harness.session import Session
from harness.store.baselines import Store
from harness.study.platforms import PLATFORMS
from harness.study.quick_calibration import Recorded, add_bounds

UNSEEN = ("aten-avx2", "onednn-avx2", "onednn-sse41", "mkl-avx2", "all-avx2", "portable")


def case_of(path: Path) -> Case:
    """Return the first case of a scenario, without its bounds."""
    case = read(path).cases()[0]
    return replace(case, scenario=replace(case.scenario, tolerances=Tolerances()))


def measured(session: Session, case: Case) -> dict[str, object]:
    """Return the seconds of the quick calibration, and the worst ratio to a bound by platform."""
    recording = session.record(case)
    path = session.store.write(case, recording, "measured")
    began = time.monotonic()
    evidence = add_bounds(session, Recorded(case, recording, path), lambda _: None)
    seconds = time.monotonic() - began
    baseline = session.store.read(path)
    worst: dict[str, float] = {}
    for name in UNSEEN:
        carried = teacher_forced(PLATFORMS[name].carry(case), recording)
        forced = session.record(carried, folder=session.out / "forced")
        checks = check_local(drift.of_teacher_forced(forced, baseline), evidence.bounds)
        worst[name] = max((each.check.value / each.check.bound for each in checks), default=0.0)
        if failed([each.check for each in checks]):
            over = max(checks, key=lambda each: each.check.value / each.check.bound)
            print(f"  {name}: {over.check.subject} {over.check.metric}", flush=True)
    return {"seconds": seconds, "worst": worst}


def main() -> None:
    """Measure, say what each pipeline gave, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = sorted(arguments.folder.glob("*/*.yaml"), key=_size)[: arguments.count]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    kept = arguments.out.read_text("utf-8") if arguments.out.is_file() else ""
    work = arguments.out.parent / "quick-bounds"
    with OneWorkerEach(Store(work / "baselines"), work / "run") as session:
        for path in found:
            if f'"{path.stem}"' in kept:
                continue
            try:
                row = measured(session, case_of(path))
            except HarnessError as error:
                row = {"error": str(error)[:300]}
            print(path.stem, row, flush=True)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"pipeline": path.stem, **row}) + "\n")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.rglob("*.safetensors"))


if __name__ == "__main__":
    main()
