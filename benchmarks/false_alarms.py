"""Counts false alarms: seeds that calibration never saw, on every synthetic platform.

Each comparison is one seed on one platform, in a free and in a teacher-forced run, against the same
seed on this machine, judged by the cross-class bounds that stand in the scenario.

    python benchmarks/false_alarms.py --seeds 5 ddim-digits ddpm-digits ddim-digits-50 sd-digits

It starts one worker per platform. With one seed, a scenario of a small pipeline takes about two
minutes, of which each further seed adds a few seconds; with five seeds, that of Stable Diffusion's
architecture takes about ten.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

from common import first_case, teacher_forced, temporary_session

from harness.judge import drift
from harness.judge.checks import check_local, check_output
from harness.records import Check
from harness.scenario.model import Case
from harness.scenario.tolerance import Tolerance
from harness.session import Session
from harness.store.recording import Recording
from harness.study.platforms import PLATFORMS

FIRST_SEED = 500_000  # far from those that calibration uses
NEXT_SEED = 1000  # how far the seeds of two replicas lie apart


@dataclass(frozen=True)
class Count:
    """How many comparisons were judged, how many failed, and the least margin of any check."""

    judged: int = 0
    alarms: int = 0
    least_margin: float = math.inf

    def plus(self, checks: list[Check]) -> Count:
        """Return the count with one comparison more."""
        margins = [check.margin for check in checks]
        return Count(
            judged=self.judged + 1,
            alarms=self.alarms + any(not check.passed for check in checks),
            least_margin=min([self.least_margin, *margins]),
        )


def count(name: str, seeds: int) -> Count:
    """Judge every platform with `seeds` new seeds.

    Raises:
        SystemExit: The scenario sets no cross-class bounds.
    """
    case = first_case(name)
    tolerance = case.scenario.tolerances.cross_class
    if tolerance is None:
        raise SystemExit(f"{name} sets no `tolerance.cross-class`")
    total = Count()
    with temporary_session() as session:
        replicas = [_reseeded(case, index) for index in range(seeds)]
        bases = [
            session.record(replica, folder=session.out / f"base-{index}")
            for index, replica in enumerate(replicas)
        ]
        for platform in PLATFORMS.values():
            for replica, base in zip(replicas, bases, strict=True):
                total = total.plus(_checks(session, platform.carry(replica), base, tolerance))
    return total


def _reseeded(case: Case, index: int) -> Case:
    seeds = tuple(seed + FIRST_SEED + NEXT_SEED * index for seed in case.scenario.seeds)
    return replace(case, scenario=replace(case.scenario, seeds=seeds))


def _checks(session: Session, case: Case, base: Recording, tolerance: Tolerance) -> list[Check]:
    """Run a case free and teacher-forced, and hold both runs against `base`."""
    free = session.record(case, folder=session.out / "free")
    found = [
        check
        for name, moved in drift.of_outputs(free, base).items()
        for check in check_output(name, moved, tolerance)
    ]
    forced = session.record(teacher_forced(case, base), folder=session.out / "teacher-forced")
    local = check_local(drift.of_teacher_forced(forced, base), tolerance)
    return [*found, *(each.check for each in local)]


def main() -> None:
    """Print one line per scenario, and the total."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    judged = 0
    alarms = 0
    for name in arguments.scenarios:
        found = count(name, arguments.seeds)
        judged += found.judged
        alarms += found.alarms
        print(
            f"{name}: {found.judged} comparisons, {found.alarms} false alarms, "
            f"least margin x{found.least_margin:.2f}",
            flush=True,
        )
    print(f"total: {judged} comparisons, {alarms} false alarms")


if __name__ == "__main__":
    main()
