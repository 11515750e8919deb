"""Derives a verdict again from the recordings of a run, and compares it with what the run says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from harness.errors import FileError
from harness.judge import contract
from harness.judge.batch_certificate import Certified, certify
from harness.judge.staleness import is_of_request
from harness.judge.verdict import judge, wants_teacher_forcing
from harness.records import Check, Outcome
from harness.scenario.fields import Expectation
from harness.scenario.model import Case
from harness.store.baselines import Match
from harness.store.recording import Recording
from harness.store.run_folder import contract_folder, recording_folder

BESIDE = ("env",)  # keys of a request by which another environment is asked for


class Agreement(StrEnum):
    """How a recording compares with the outcome that a run states for it."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Rederived:
    """What follows from a recording.

    `found` is what was derived where that differs, and `detail` what could not be read. `digest` is
    the seal of the recording.
    """

    agreement: Agreement
    found: str = ""
    detail: str = ""
    digest: str = ""


def rederive(outcome: Outcome, case: Case, run: Path, match: Match | None) -> Rederived:
    """Return what follows from the recording of a case, held against what its outcome states.

    Args:
        outcome: What the run states.
        case: Its case, as the repository has it.
        run: The run's folder.
        match: The baseline by which the case would be judged now.
    """
    try:
        recording = Recording.read(recording_folder(run, case))
        recording.verify_tensors()
        found = _judged(outcome, case, recording, run, match)
    except FileError as error:
        return Rederived(Agreement.UNREADABLE, detail=f"{error.path}: {error.problem}")
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        # A recording of a stranger may hold what no worker writes.
        return Rederived(Agreement.UNREADABLE, detail=f"it cannot be judged: {error!r}")
    if found:
        return Rederived(Agreement.DIFFERS, found, digest=recording.digest)
    return Rederived(Agreement.AGREES, digest=recording.digest)


def _judged(
    outcome: Outcome, case: Case, recording: Recording, run: Path, match: Match | None
) -> str:
    """Return in what a recording differs from its outcome; empty where in nothing."""
    asked = {key: value for key, value in recording.case.items() if key not in BESIDE}
    if not is_of_request(asked, case.request()):
        return "a recording of another version of the scenario"
    if recording.numerics_class.name != outcome.numerics_class:
        return f"a recording of class {recording.numerics_class.name}"
    if recording.output_digests != outcome.output_digests:
        return "other digests of the outputs"
    derived = _outcome(outcome, case, recording, run, match)
    if derived.verdict is not outcome.verdict or derived.reason is not outcome.reason:
        return f"{derived.verdict}, {derived.reason}"
    if _figures(derived.checks) != _figures(outcome.checks):
        return "other values of the checks"
    return ""


def _outcome(
    outcome: Outcome, case: Case, recording: Recording, run: Path, match: Match | None
) -> Outcome:
    """Return the outcome of a recording, from the recordings that were made beside it."""
    singles = [
        Recording.read(recording_folder(run, replace(case, images=(image,))))
        for image in case.scenario.single_images
    ]
    forced = None
    if match is not None and wants_teacher_forcing(case.scenario, recording, match):
        folder = recording_folder(run, replace(case, teacher_tensors=Path("of the baseline")))
        if folder.is_dir() or not match.same_class:
            forced = Recording.read(folder)
    judged = judge(case, recording, match, singles, forced, _certified(case, recording, run))
    other, owed = case.against, case.scenario.contract
    if other is None or owed is None or outcome.contract is None:
        return judged
    expected = Recording.read(recording_folder(run, other))
    forced = None
    if contract.wants_teacher_forcing(owed, recording, expected):
        forced = Recording.read(contract_folder(run, case))
    accuracy = outcome.contract.accuracy
    held = contract.hold(case, recording, expected, forced, accuracy)
    return contract.with_contract(judged, held)


def _certified(case: Case, recording: Recording, run: Path) -> Certified | None:
    """Return what the search over compositions of the batch comes to; None where there was none."""
    if Expectation.BATCH_INVARIANT not in case.scenario.expect:
        return None

    def read(composed: Case) -> Recording:
        return Recording.read(recording_folder(run, composed))

    return certify(case, recording, read)


def _figures(checks: tuple[Check, ...]) -> list[tuple[str, str, str, str]]:
    """Return what checks measured, as text: NaN is equal to itself there."""
    return [(each.subject, each.metric, repr(each.value), repr(each.bound)) for each in checks]
