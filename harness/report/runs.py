"""Owns what reports know of a run, and how several runs are shown as one.

A nightly runs on many machine types. Their runs are merged into one report: one table, one list of
causes, one exit code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import Outcome, Verdict
from harness.store.recording import Environment
from harness.store.run_folder import EVERYTHING, Scope

if TYPE_CHECKING:
    from harness.study.overhead import Overhead


@dataclass(frozen=True)
class Run:
    """What one run left.

    Attributes:
        folder: Where it is, for the commands that come next.
        outcomes: In any order.
        environment: Where it was recorded; None where no case left a recording.
        overheads: What `harness cost` measured in the same folder.
        scope: What it was asked for, and what it left out.
    """

    folder: Path
    outcomes: tuple[Outcome, ...]
    environment: Environment | None = None
    overheads: tuple[Overhead, ...] = ()
    scope: Scope = EVERYTHING


@dataclass(frozen=True)
class Shown:
    """An outcome, and the run that it is of."""

    outcome: Outcome
    run: Run


def all_outcomes(runs: Iterable[Run]) -> list[Outcome]:
    """Return the outcomes of several runs, in the order of their cases."""
    return [shown.outcome for shown in in_order(runs)]


def in_order(runs: Iterable[Run]) -> list[Shown]:
    """Return the outcomes of several runs, each with its run, in the order of their cases."""
    found = [Shown(outcome, run) for run in runs for outcome in run.outcomes]
    return sorted(found, key=_case_of)


def with_figures(runs: Iterable[Run]) -> list[Shown]:
    """Return the outcomes that belong into a table: those that ran, or whose outputs were compared.

    Where two runs are compared, a case whose bounds could not be checked has figures all the same.
    """
    return [
        shown
        for shown in in_order(runs)
        if shown.outcome.verdict is not Verdict.UNVERIFIED or shown.outcome.outputs
    ]


def by_run(outcomes: Sequence[Outcome], runs: Sequence[Run]) -> list[tuple[Run, list[Outcome]]]:
    """Return some outcomes of several runs by the run that each is of."""
    chosen = set(map(id, outcomes))
    found = [(run, [each for each in run.outcomes if id(each) in chosen]) for run in runs]
    return [(run, each) for run, each in found if each]


def _case_of(shown: Shown) -> str:
    return shown.outcome.case.removesuffix("]")  # a variant comes after its base
