"""Moves one CPU setting at a time under every scenario, and says what `explain` names as the cause.

A scenario is recorded as it is, which becomes its baseline, and again with the setting moved. The
explanation should name the operator that first gave other bits, and the setting itself.

    python benchmarks/settings.py                  # every scenario that runs here in seconds
    python benchmarks/settings.py sd-digits        # some of them

It takes half a minute to two minutes a scenario: 30 to 40 minutes for all.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from common import SCENARIOS, temporary_session

from harness.judge import reasons
from harness.records import Device
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.scenario.reading import read_all
from harness.scenario.weights import CheckpointKind
from harness.session import Session
from harness.store.baselines import Baseline
from harness.store.recording import Recording
from harness.study.explain import Explanation, explain
from harness.study.revert import distance

SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "2",
}
AT_HAND = (CheckpointKind.BUNDLED, CheckpointKind.SYNTHETIC)
NEARLY_ALL = 0.99  # of the drift: the share above which a setting counts as named


class Named(StrEnum):
    """What an explanation names."""

    BOTH = "named"
    SETTING = "setting only"
    OPERATOR = "operator only"
    NEITHER = "neither"
    UNMOVED = "unmoved"  # the setting moved no bit of the output


@dataclass(frozen=True)
class Answer:
    """What an explanation names, where it says that the run moved first, and its notes."""

    named: Named
    where: str
    notes: tuple[str, ...] = ()


def chosen(names: Sequence[str]) -> list[Case]:
    """Return the cases of the scenarios named, or of all; of those that can run here in seconds."""
    cases = [case for scenario in read_all([SCENARIOS]) for case in scenario.cases()]
    return [
        case for case in cases if _is_quick(case) and (not names or case.scenario.name in names)
    ]


def _is_quick(case: Case) -> bool:
    scenario = case.scenario
    return (
        case.target.device is Device.CPU
        and scenario.framework is Framework.TORCH
        and scenario.checkpoint.kind in AT_HAND
        and scenario.needs_baseline
        and "slow" not in scenario.tags
    )


def ask(session: Session, case: Case, setting: str, value: str) -> Answer:
    """Record a case without and with a setting, and let the difference be explained."""
    before = session.record(case, session.slot(1), session.out / "expected")
    moved = replace(case, settings=((setting, value),))
    actual = session.record(moved, session.slot(0), session.out / "actual")
    if not distance(actual, before):
        return Answer(Named.UNMOVED, "the same output")
    expected = _as_baseline(session, case, before)
    found = explain(session, case, actual, expected, limit=1, on_step=_ignore_step)
    return Answer(_named(found, setting), _where(found), found.notes)


def _as_baseline(session: Session, case: Case, recording: Recording) -> Baseline:
    path = session.store.write(case, recording, "what the moved setting is held against")
    return session.store.read(path)


def _ignore_step(_doing: str) -> None:
    pass


def _named(found: Explanation, setting: str) -> Named:
    has_operator = bool(found.root_causes) and found.root_causes[0].operator is not None
    first = found.settings[0] if found.settings else None
    has_setting = first is not None and first.name == setting and first.share > NEARLY_ALL
    if has_operator and has_setting:
        return Named.BOTH
    if has_setting:
        return Named.SETTING
    return Named.OPERATOR if has_operator else Named.NEITHER


def _where(found: Explanation) -> str:
    """Return the stage, module and operator of the first root cause, or the first difference."""
    if not found.root_causes:
        return "" if found.first is None else reasons.difference(found.first)
    cause = found.root_causes[0]
    operator = "" if cause.operator is None else cause.operator.name
    return f"{cause.stage} {cause.module} {operator}"


def main() -> None:
    """Print one line per setting and case, and the counts."""
    cases = chosen(sys.argv[1:])
    counts: Counter[str] = Counter()
    for setting, value in SETTINGS.items():
        with temporary_session() as session:
            for case in cases:
                answer = ask(session, case, setting, value)
                counts[str(answer.named)] += 1
                notes = "; ".join(answer.notes)
                print(
                    f"{setting}={value} {case.id}: {answer.named}: {answer.where} {notes}",
                    flush=True,
                )
    print(dict(counts))


if __name__ == "__main__":
    main()
