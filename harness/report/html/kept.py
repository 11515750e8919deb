"""Finds what a run and the store still hold of a case: its recording, its baseline, their arrays.

A report is written all the same where they are gone, damaged or replaced; it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import FileError
from harness.records import Drift, Outcome, Verdict
from harness.scenario.project import named_in_results
from harness.store.baselines import Store
from harness.store.recording import Observed, Recording
from harness.store.shared_files import mirror_of
from harness.store.shared_folder import is_url

if TYPE_CHECKING:
    from harness.records import Array


@dataclass(frozen=True)
class Kept:
    """The arrays of one case.

    Attributes:
        actual: This run's outputs by name.
        expected: The baseline's outputs by name.
        output_type: What the call asked for; None where it did not say.
        recording: Of this run; None where it is gone.
        baseline: None where it is gone.
        notes: What is missing, and why, in sentences.
    """

    actual: Mapping[str, Array]
    expected: Mapping[str, Array]
    output_type: object = None
    recording: Recording | None = None
    baseline: Observed | None = None
    notes: tuple[str, ...] = ()


def kept_of(run: Path, outcome: Outcome) -> Kept:
    """Return what is left of a case.

    Args:
        run: The run's folder.
        outcome: Of that run.
    """
    if not outcome.recording:
        return Kept({}, {})
    notes: list[str] = []
    recording = _recording(run, outcome, notes)
    baseline = _baseline(outcome, notes)
    actual = _outputs(recording, outcome.outputs, "this run", notes)
    expected = _outputs(baseline, outcome.outputs, "the baseline", notes)
    output_type = None if recording is None else _output_type(recording)
    return Kept(actual, expected, output_type, recording, baseline, tuple(notes))


def _recording(run: Path, outcome: Outcome, notes: list[str]) -> Recording | None:
    folder = run / outcome.recording
    if not folder.resolve().is_relative_to(run.resolve()):
        notes.append(f"The results name a recording outside of the run's folder: {folder}.")
        return None
    if not folder.is_dir():
        notes.append(f"The recording is gone from {folder}.")
        return None
    try:
        return Recording.read(folder)
    except FileError as error:
        notes.append(f"The recording cannot be shown: {error}.")
        return None


def _baseline(outcome: Outcome, notes: list[str]) -> Observed | None:
    if outcome.baseline is None:
        return None
    if outcome.baseline.run:
        return _recording(Path(outcome.baseline.run), outcome, notes)
    # Behind a URL, the tensors of a baseline whose bits came out were not fetched.
    is_elsewhere = is_url(outcome.store) and outcome.verdict is Verdict.IDENTICAL
    if not outcome.baseline.file or is_elsewhere:
        return None
    # What was fetched from a URL is read where it lies: a report asks no other machine.
    store = Store(
        mirror_of(outcome.store) if is_url(outcome.store) else named_in_results(outcome.store)
    )
    path = store.root / outcome.baseline.file
    if not path.is_file():
        notes.append(f"The baseline is gone: {path}.")
        return None
    try:
        return store.read(path)
    except FileError as error:
        notes.append(f"The baseline cannot be shown: {error}.")
        return None


def _outputs(
    side: Observed | None, drifts: Mapping[str, Drift], whose: str, notes: list[str]
) -> Mapping[str, Array]:
    """Return the outputs of one side, unless they are not those that the outcome is about."""
    if side is None:
        return {}
    try:
        found = side.output_tensors
    except FileError as error:
        notes.append(f"The outputs of {whose} cannot be shown: {error}.")
        return {}
    for name, drift in drifts.items():
        if name in found and not _is_measured(found[name], drift, whose):
            notes.append(f"The outputs of {whose} were replaced after this run.")
            return {}
    return found


def _is_measured(array: Array, drift: Drift, whose: str) -> bool:
    """Whether an array has the value, at the worst place, that was measured there."""
    if not drift.worst_index or not drift.finite:
        return True
    if len(drift.worst_index) != array.ndim:
        return False
    if any(at >= extent for at, extent in zip(drift.worst_index, array.shape, strict=True)):
        return False
    stated = drift.worst_actual if whose == "this run" else drift.worst_expected
    return float(array[drift.worst_index]) == stated


def _output_type(recording: Recording) -> object:
    call = recording.case.get("call")
    return call.get("output_type") if isinstance(call, Mapping) else None
