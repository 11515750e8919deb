"""Gathers what a gate decides on: the results of runs, and what the store holds for each of them.

This is where files are read. The decision that follows is a pure function of what is returned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import FileError
from harness.gate.rederive import Rederived, rederive
from harness.records import Comparison, Outcome
from harness.scenario.model import Case
from harness.store.baselines import CLASS_NAME, Baseline, Match, Store
from harness.store.recording import Environment
from harness.store.run_folder import Results
from harness.store.shared_runs import fetch_run

MOST_LETTERS = 200  # of the name of a numerics class, which is part of the name of a file
LINES = re.compile(r"\s+")


@dataclass(frozen=True)
class RunSeen:
    """A run: its name, and its file of results; `digest` is the file's seal."""

    name: str
    results: Results

    @property
    def digest(self) -> str:
        """The seal of its file of results."""
        return self.results.digest

    @property
    def environments(self) -> dict[str, Environment]:
        """Each environment by the name of its numerics class."""
        found = dict(self.results.environments)
        own = self.results.environment
        if own is not None:
            found.setdefault(own.numerics_class.name, own)
        return found


@dataclass(frozen=True)
class Held:
    """The baseline by which the store would have a case judged now; None where it has none.

    `problem` says why the store cannot tell: a baseline is damaged.
    """

    baseline: Baseline | None = None
    comparison: Comparison | None = None
    problem: str = ""


@dataclass(frozen=True)
class Result:
    """One outcome of one run, with what the repository holds for it.

    Attributes:
        run: The name of the run.
        outcome: What the run says.
        environment: Where the case ran; None where the run does not say.
        held: What the store has for it.
        rederived: What follows from its recording; None where recordings were not asked for.
        written: When the run's results were written, as the run says.
        against: What the same run says of the case that the contract of a variant names; None
            without a contract, where single images are compared, and where the run left it out.
    """

    run: str
    outcome: Outcome
    environment: Environment | None = None
    held: Held = Held()
    rederived: Rederived | None = None
    written: str = ""
    against: Outcome | None = None


@dataclass(frozen=True)
class Evidence:
    """What was seen: the runs, and every outcome of theirs."""

    runs: tuple[RunSeen, ...]
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Release:
    """What is being released: its cases by their ids, where it stands, and when that is asked.

    `commit` is empty without git, `dirty` None; `harness` is the version that decides.
    """

    cases: Mapping[str, Case]
    commit: str
    dirty: bool | None
    harness: str
    now: datetime


def gather(
    runs: Mapping[str, Results],
    cases: Sequence[Case],
    store: Store,
    *,
    with_recordings: bool = False,
) -> Evidence:
    """Return what runs left, and what the store holds for each case of the release.

    Args:
        runs: The results of each run, by the path of its folder or file.
        cases: The cases of the release.
        store: The baselines of the release.
        with_recordings: Whether each verdict is derived again from the recording of its case.
    """
    by_id = {case.id: case for case in cases}
    seen = [RunSeen(name, results) for name, results in runs.items()]
    found = []
    for run in seen:
        environments = run.environments
        folder = _folder(run.name) if with_recordings else Path()
        for outcome in run.results.outcomes:
            case = by_id.get(outcome.case)
            environment = environments.get(outcome.numerics_class)
            match, held = _held(case, environment, store, tensors=with_recordings)
            rederived = None
            if with_recordings and case is not None and outcome.output_digests:
                rederived = rederive(outcome, case, folder, match)
            found.append(
                Result(
                    run.name,
                    outcome,
                    environment,
                    held,
                    rederived,
                    run.results.written,
                    _against(case, run.results),
                )
            )
    return Evidence(tuple(seen), tuple(found))


def _held(
    case: Case | None, environment: Environment | None, store: Store, *, tensors: bool
) -> tuple[Match | None, Held]:
    """Return the baseline by which a case would be judged in an environment now.

    A store behind a URL gives its `tensors` only where they are needed.
    """
    if case is None or environment is None or not case.scenario.needs_baseline:
        return None, Held()
    name = environment.numerics_class.name
    if not CLASS_NAME.fullmatch(name) or len(name) > MOST_LETTERS:
        return None, Held(problem="the run names a numerics class that cannot be a file's name")
    try:
        match = store.match(case, environment.numerics_class, tensors=tensors)
    except FileError as error:
        return None, Held(problem=LINES.sub(" ", str(error)))
    if match is None:
        return None, Held()
    return match, Held(match.baseline, match.comparison)


def _against(case: Case | None, results: Results) -> Outcome | None:
    """Return what a run says of the case that a variant is held against as a whole."""
    if case is None or case.against is None or case.scenario.contract is None:
        return None
    if case.scenario.contract.images:
        return None
    other = case.against.id
    return next((each for each in results.outcomes if each.case == other), None)


def moment(text: str) -> datetime | None:
    """Return the moment that a text in ISO 8601 names; None where it names none with a zone."""
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _folder(run: str) -> Path:
    """Return the folder of a run, which a path, its `results.json` or a URL names."""
    path = fetch_run(run, recordings=True)
    return path if path.is_dir() else path.parent
