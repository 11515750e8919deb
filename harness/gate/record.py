"""The record of a decision: what was decided, and the digests of everything that it rests on.

A record is a sealed file. It is checked later by deciding again from the same files: each must
still have its digest, and the decision must follow from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from harness.errors import FileError, writing
from harness.gate.decision import decide
from harness.gate.evidence import Evidence, Release, gather, moment
from harness.gate.findings import Decision, State
from harness.gate.policy import Policy
from harness.gate.policy_file import read_policy
from harness.scenario.reading import read_all
from harness.store.baselines import Store
from harness.store.run_folder import Results, read_results
from harness.store.sealed import SealedFormat, write_sealed
from harness.store.shared_runs import fetch_run
from harness.store.typed_json import encode

RECORD_FORMAT = "harness-gate/1"
REMEDY = "decide again with `harness gate RUN… --policy FILE --record FILE`"


@dataclass(frozen=True)
class Asked:
    """What the command named: the runs, the policy, the scenarios and the store.

    `recordings` says whether each verdict was derived again from its recording.
    """

    runs: tuple[str, ...]
    policy: str
    scenarios: tuple[str, ...]
    baselines: str
    recordings: bool = False


@dataclass(frozen=True)
class Digests:
    """The digest of everything that a decision rests on.

    `policy` and `scenarios` are SHA-256 digests of files, by their paths. `results`, `baselines`
    and `recordings` are the seals of runs, of baselines by their paths in the store, and of the
    recordings by run and case. `evidence` has the digest of the evidence for the bounds of each
    required case.
    """

    policy: str
    scenarios: dict[str, str]
    results: dict[str, str]
    baselines: dict[str, str]
    evidence: dict[str, str]
    recordings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GateRecord:
    """A decision of the gate, when and where it was made, and what it rests on.

    `state` is that of the decision, `exit_code` what the command returned. `commit`, `dirty` and
    `harness` are those of the gate.
    """

    format: str
    decided: str
    harness: str
    commit: str
    dirty: bool | None
    asked: Asked
    digests: Digests
    state: State
    exit_code: int
    decision: Decision
    digest: str = ""


class Doubt(StrEnum):
    """Why a record does not hold."""

    CHANGED = "changed"
    GONE = "gone"
    ADDED = "added"
    OTHER_DECISION = "other-decision"


@dataclass(frozen=True)
class Mismatch:
    """One thing in a record that is no longer so: what it is about, and both sides."""

    doubt: Doubt
    what: str
    name: str
    expected: str = ""
    found: str = ""


@dataclass(frozen=True)
class Inputs:
    """Everything that a decision is made from, as it was read."""

    asked: Asked
    policy: Policy
    release: Release
    evidence: Evidence


def read_inputs(
    asked: Asked, store: Store, commit: str, dirty: bool | None, harness: str, now: datetime
) -> Inputs:
    """Read the files that a command names.

    Raises:
        UsageError: A file is missing, malformed or holds mistakes; all results that cannot be read
            are named at once.
    """
    runs = _read_runs(asked.runs)
    scenarios = read_all(map(Path, asked.scenarios))
    cases = [case for scenario in scenarios for case in scenario.cases()]
    policy = read_policy(Path(asked.policy), cases)
    evidence = gather(runs, cases, store, with_recordings=asked.recordings)
    release = Release({case.id: case for case in cases}, commit, dirty, harness, now)
    return Inputs(asked, policy, release, evidence)


def make_record(inputs: Inputs) -> GateRecord:
    """Decide, and return the record of it."""
    decision = decide(inputs.policy, inputs.release, inputs.evidence)
    release = inputs.release
    return GateRecord(
        format=RECORD_FORMAT,
        decided=release.now.isoformat(timespec="seconds"),
        harness=release.harness,
        commit=release.commit,
        dirty=release.dirty,
        asked=inputs.asked,
        digests=_digests(inputs),
        state=decision.state,
        exit_code=decision.exit_code,
        decision=decision,
    )


def write_record(path: Path, record: GateRecord) -> None:
    """Write a record as a sealed file.

    Raises:
        FileError: It cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, record)


def read_record(path: Path) -> GateRecord:
    """Return a record.

    Raises:
        FileError: It is missing, was changed since it was written, or is of another format.
    """
    return SealedFormat(RECORD_FORMAT, GateRecord, "a record of a gate", REMEDY).read(path)


def verify(record: GateRecord, store: Store) -> list[Mismatch]:
    """Return what in a record is no longer so; nothing where it holds.

    The decision is made again, for the moment, the commit and the version that the record states.

    Raises:
        UsageError: A file that it names cannot be read any more.
    """
    when = moment(record.decided)
    if when is None:
        raise FileError("the record", "does not say when it was made", REMEDY)
    inputs = read_inputs(record.asked, store, record.commit, record.dirty, record.harness, when)
    again = make_record(inputs)
    found = [
        *_compared("policy", {"": record.digests.policy}, {"": again.digests.policy}),
        *_compared("scenario", record.digests.scenarios, again.digests.scenarios),
        *_compared("results", record.digests.results, again.digests.results),
        *_compared("baseline", record.digests.baselines, again.digests.baselines),
        *_compared("evidence", record.digests.evidence, again.digests.evidence),
        *_compared("recording", record.digests.recordings, again.digests.recordings),
    ]
    if _decided(record) != _decided(again):
        state = str(record.state)
        found.append(Mismatch(Doubt.OTHER_DECISION, "decision", "", state, str(again.state)))
    return found


def _decided(record: GateRecord) -> object:
    """Return what a record says of the decision, as its file holds it."""
    return encode((record.state, record.exit_code, record.decision))


def _compared(what: str, stated: dict[str, str], now: dict[str, str]) -> list[Mismatch]:
    found = []
    for name in sorted({*stated, *now}):
        if name not in now:
            found.append(Mismatch(Doubt.GONE, what, name, stated[name]))
        elif name not in stated:
            found.append(Mismatch(Doubt.ADDED, what, name, found=now[name]))
        elif stated[name] != now[name]:
            found.append(Mismatch(Doubt.CHANGED, what, name, stated[name], now[name]))
    return found


def _read_runs(names: Sequence[str]) -> dict[str, Results]:
    """Return the results of every run; those that cannot be read are named at once."""
    runs, refused = {}, []
    for name in names:
        try:
            runs[name] = read_results(fetch_run(name, recordings=False))
        except FileError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        told = "\n".join(map(str, refused))
        problem = f"cannot be used, nor can {len(refused) - 1} more:\n{told}"
        raise FileError(refused[0].path, problem)
    return runs


def _digests(inputs: Inputs) -> Digests:
    required = inputs.policy.required
    cases = inputs.release.cases
    results = [each for each in inputs.evidence.results if each.outcome.case in required]
    paths = {case.scenario.path for case in cases.values()}
    held = [each.held.baseline for each in results if each.held.baseline is not None]
    return Digests(
        policy=_of_file(inputs.policy.path),
        scenarios={str(path): _of_file(path) for path in sorted(paths)},
        results={run.name: run.digest for run in inputs.evidence.runs},
        baselines={"/".join(each.path.parts[-3:]): each.digest for each in held},
        evidence={
            case: cases[case].scenario.evidence_digest
            for case in sorted(required)
            if cases[case].scenario.evidence_digest
        },
        recordings={
            f"{each.run} {each.outcome.case}": each.rederived.digest
            for each in results
            if each.rederived is not None
        },
    )


def _of_file(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(path, f"cannot be read: {error}") from error
