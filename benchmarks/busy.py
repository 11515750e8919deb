"""Compares two verdicts on cost on a busy machine: that of one run's ratio, and the harness's own.

The harness runs a case again before it says that its cost changed, and takes into account for how
long other work had the processor. Busy loops in other processes compete with one worker here.

    python benchmarks/busy.py 2 ddim-cifar10-synthetic-default ddpm-digits sd-digits-float16

The number says how many busy loops run. The scenarios must have baselines of this machine type. It
takes a few seconds a scenario, and up to a minute for one that is slowed down.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, first_case

from harness.judge import reasons
from harness.judge.cost import CHANGED
from harness.records import CostVerdict
from harness.scenario.model import Case
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording

BUSY_LOOP = [sys.executable, "-c", "while True: pass"]


@dataclass(frozen=True)
class Row:
    """What is said of one case.

    Attributes:
        case: The name of its scenario.
        ratio: The seconds of the first recording over the baseline's.
        alone: What that ratio alone says.
        told: What the harness says.
        why: Why the harness calls it `unknown`; empty otherwise.
    """

    case: str
    ratio: float
    alone: CostVerdict
    told: CostVerdict
    why: str


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep `count` processes busy."""
    processes = [subprocess.Popen(BUSY_LOOP) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(session: Session, case: Case) -> Row:
    """Run a case and return both verdicts.

    Raises:
        SystemExit: The case has no bound on its cost, or no baseline of this machine type.
    """
    cost = session.run(case).cost
    slower = case.scenario.cost.slower
    if cost is None or cost.baseline_seconds is None or slower is None:
        raise SystemExit(f"{case.id}: nothing to compare its cost with on this machine")
    ratio = Recording.read(session.folder(case)).cost.seconds / cost.baseline_seconds
    why = reasons.cost_is_unknown(cost) if cost.reason is not None else ""
    return Row(case.scenario.name, ratio, _by_ratio(ratio, slower), cost.verdict, why)


def _by_ratio(ratio: float, slower: float) -> CostVerdict:
    if ratio > slower:
        return CostVerdict.SLOWER
    return CostVerdict.FASTER if ratio < 1 / slower else CostVerdict.OK


def print_table(session: Session, names: Sequence[str]) -> list[Row]:
    """Run the scenarios, print a line for each, and return the rows."""
    print("| case | ratio of one run | verdict by it alone | verdict told | why |")
    print("|---|---|---|---|---|")
    rows = []
    for name in names:
        row = compare(session, first_case(name))
        rows.append(row)
        print(
            f"| `{row.case}` | {row.ratio:.2f} | {row.alone} | {row.told} | {row.why} |",
            flush=True,
        )
    return rows


def main() -> None:
    """Run the scenarios named after the number of busy loops, and print one table."""
    loops = int(sys.argv[1])
    names = sys.argv[2:]
    store = Store(ROOT / "baselines")
    with (
        busy_loops(loops),
        tempfile.TemporaryDirectory() as folder,
        Session(store, Path(folder)) as session,
    ):
        rows = print_table(session, names)
    alone = sum(row.alone in CHANGED for row in rows)
    told = sum(row.told in CHANGED for row in rows)
    print(
        f"\n{loops} busy loops, {len(names)} cases: "
        f"{alone} changes by one run alone, {told} told by the harness"
    )


if __name__ == "__main__":
    main()
