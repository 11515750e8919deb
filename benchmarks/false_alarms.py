"""Count false alarms: seeds that calibration never saw, on every synthetic platform, judged by the committed bounds.

python benchmarks/false_alarms.py --seeds 5 ddim-digits ddpm-digits ddim-digits-50 sd-digits ...
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from harness.judge import checks as tolerance
from harness.judge import drift
from harness.scenario.model import read
from harness.session import Session
from harness.store.baselines import Store
from harness.study.platforms import PLATFORMS

ROOT = Path(__file__).resolve().parent.parent
FIRST_SEED = 500_000  # far from those that calibration uses


def main() -> None:
    """Print one line per scenario and the total; every judged comparison is one seed on one platform."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    judged = alarms = 0
    for name in arguments.scenarios:
        found, raised, least = count(name, arguments.seeds)
        judged, alarms = judged + found, alarms + raised
        print(
            f"{name}: {found} comparisons, {raised} false alarms, least head-room x{least:.2f}",
            flush=True,
        )
    print(f"total: {judged} comparisons, {alarms} false alarms")


def count(name: str, seeds: int) -> tuple[int, int, float]:
    """Return how many comparisons were judged, how many raised an alarm, and the smallest head-room of any bound."""
    case = read(ROOT / "scenarios" / f"{name}.yaml").cases()[0]
    bounds = case.scenario.tolerance["cross-class"]
    judged, alarms, least = 0, 0, float("inf")
    with tempfile.TemporaryDirectory() as text, Session(Store(Path(text)), Path(text)) as session:
        replicas = []
        for index in range(seeds):
            moved = tuple(seed + FIRST_SEED + 1000 * index for seed in case.scenario.seeds)
            replicas.append(replace(case, scenario=replace(case.scenario, seeds=moved)))
        bases = [
            session.record(replica, folder=Path(text) / f"base-{index}")
            for index, replica in enumerate(replicas)
        ]
        for platform in PLATFORMS.values():
            for replica, base in zip(replicas, bases, strict=True):
                there = platform.carry(replica)
                free = session.record(there, folder=Path(text) / "free")
                checks = [
                    c
                    for n, moved in drift.of_outputs(free, base).items()
                    for c in tolerance.check(n, moved, bounds)
                ]
                anchored = session.record(
                    replace(there, anchors=base.tensors_path.resolve()),
                    folder=Path(text) / "anchored",
                )
                checks += tolerance.check_local(drift.of_stages(anchored, base), bounds)
                judged += 1
                alarms += any(not check.passed for check in checks)
                least = min(
                    [least, *(check.bound / check.value for check in checks if check.value)]
                )
    return judged, alarms, least


if __name__ == "__main__":
    main()
