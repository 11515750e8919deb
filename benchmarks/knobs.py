"""Move one CPU setting at a time under every scenario, and print the root operator and the setting that `explain` names.

python benchmarks/knobs.py                  # every bundled and synthetic scenario that takes seconds
python benchmarks/knobs.py sd-digits ...
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from harness.scenario.model import Case, read_all
from harness.session import Session
from harness.store.baselines import Store
from harness.study.explain import Explanation, explain
from harness.study.revert import distance

ROOT = Path(__file__).resolve().parent.parent
KNOBS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "2",
}


def chosen(names: list[str]) -> list[Case]:
    """Return the cases on the CPU of the scenarios named, or of all that can run here in seconds."""
    cases = [
        case
        for scenario in read_all([ROOT / "scenarios"])
        for case in scenario.cases()
        if case.device == "cpu"
    ]
    quick = [
        c
        for c in cases
        if c.scenario.checkpoint["kind"] in ("bundled", "synthetic")
        and "slow" not in c.scenario.tags
    ]
    return [
        c for c in quick if c.scenario.owes_baseline and (not names or c.scenario.name in names)
    ]


def said(found: Explanation, knob: str) -> tuple[str, str]:
    """Return what the explanation names, and how it stands: `named`, or what is missing."""
    root = found.roots[0] if found.roots else None
    operator = root.operator.name if root and root.operator else ""
    where = f"{root.stage} {root.module} {operator}" if root else found.first
    setting = bool(found.knobs) and found.knobs[0].name == knob and found.knobs[0].share > 0.99
    return (
        where,
        "named"
        if operator and setting
        else "setting only"
        if setting
        else "operator only"
        if operator
        else "neither",
    )


def main() -> None:
    """Print one line per setting and scenario, and the counts."""
    counts: Counter[str] = Counter()
    for knob, value in KNOBS.items():
        with (
            tempfile.TemporaryDirectory() as text,
            Session(Store(Path(text)), Path(text)) as session,
        ):
            for case in chosen(sys.argv[1:]):
                then = session.record(case, session.slot(1), Path(text) / "then")
                now = session.record(
                    replace(case, knobs=((knob, value),)), session.slot(0), Path(text) / "now"
                )
                found = explain(session, case, now, then, limit=1, on_step=lambda _: None)
                where, word = (
                    said(found, knob) if distance(now, then) else ("the same output", "unmoved")
                )
                counts[word] += 1
                print(
                    f"{knob}={value} {case.id}: {word}: {where} {'; '.join(found.notes)}",
                    flush=True,
                )
    print(dict(counts))


if __name__ == "__main__":
    main()
