"""What the scripts in attacks/ found, each as a case that is small enough to run every time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import builders
import pytest

from harness.errors import FileError, writing
from harness.launch.events import Failed, Final, Recorded
from harness.launch.process import Worker
from harness.records import Verdict
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.scenario.tolerance import Evidence
from harness.scenario.write_tolerance import write_tolerance
from harness.session import Session
from harness.store.baselines import LOCKS, Store
from harness.store.run_folder import RunOwner
from harness.worker.files import HOST
from harness.worker.protocol import CaseError, RunRequest

NOBODY = 2**31 - 1  # the number of no process: larger than any system gives
TOLERANCE = {"cross-class": {"rel_l2": 1.0}}


class PretendedSlot:
    """Answers each request with a recording of a numerics class of its own.

    Args:
        on_teacher_forced: Called before the first teacher-forced run is answered.
    """

    def __init__(self, on_teacher_forced: Callable[[], None]) -> None:
        self._on_teacher_forced = on_teacher_forced
        self.asked = 0

    def ask(self, request: RunRequest, *_: object) -> Final:
        """Record, or fail as a worker does that cannot read the tensors it is to be fed with."""
        tensors = request["case"]["teacher_tensors"]
        self.asked += tensors is not None
        if tensors is not None and self.asked == 1:
            self._on_teacher_forced()
        if tensors is not None and not Path(tensors).exists():
            return Failed("failed", f"FileNotFoundError: No such file or directory: {tensors}")
        builders.recording(Path(request["out"]), **builders.moved(), letter="b")
        return Recorded("recorded")


def left_by_a_killed_process(path: Path) -> Path:
    """Write the temporary file of a process that was killed while it wrote `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f".{path.name}.{HOST}-{NOBODY}-0.tmp")
    left.write_bytes(b"half")
    return left


def case_in(folder: Path) -> Case:
    """Return the case of a scenario whose bounds are loose."""
    path = folder / "scenarios" / "digits.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        builders.scenario_text(tolerance="{cross-class: {rel_l2: 1.0}}"), encoding="utf-8"
    )
    return read(path).cases()[0]


def evidence() -> Evidence:
    """Return evidence for a scenario's bounds."""
    bounds = builders.scenario(tolerance=TOLERANCE).tolerances.cross_class
    assert bounds is not None
    return Evidence(bounds=bounds, date="2026-01-02")


@pytest.mark.parametrize("run", ["recording", "results.json", "summary.md"])
def test_a_run_removes_what_a_killed_run_left_in_its_folder(run: str, tmp_path: Path):
    """attacks/kills.py: temporary files of `run`, `calibrate` and `challenge` stayed for good."""
    case, out = case_in(tmp_path), tmp_path / "run"
    session = Session(Store(tmp_path / "baselines"), out)
    place = session.folder(case) if run == "recording" else out / run
    left = left_by_a_killed_process(place)
    with session:
        session.run(case, PretendedSlot(lambda: None))
    assert not left.exists()


def test_taking_a_run_s_folder_removes_what_a_killed_run_left(tmp_path: Path):
    """attacks/kills.py: a study writes no results, and its file's leftover stayed."""
    left = left_by_a_killed_process(tmp_path / "challenge.json")
    owner = RunOwner(tmp_path)
    owner.acquire()
    owner.release()
    assert not left.exists()


def test_writing_bounds_removes_what_a_killed_calibration_left(tmp_path: Path):
    """attacks/kills.py: a copy of the scenario stayed beside it."""
    path = case_in(tmp_path).scenario.path
    left = left_by_a_killed_process(path)
    write_tolerance(path, {}, evidence())
    assert not left.exists()


@pytest.mark.parametrize("place", ["digits/cpu-float32/cpu-a.json", f"{LOCKS}/.gitignore"])
def test_keeping_evidence_removes_what_a_killed_writer_left_in_the_store(
    place: str, tmp_path: Path
):
    """attacks/kills.py: only `record` and `accept` looked for temporary files in the store."""
    store, case = Store(tmp_path / "baselines"), case_in(tmp_path)
    path = store.write(case, builders.recording(tmp_path / "recording"), "A reason.")
    left = left_by_a_killed_process(store.root / place)
    store.annotate(path, evidence=evidence())
    assert not left.exists()


def test_a_baseline_that_is_replaced_while_a_case_runs_is_read_again(tmp_path: Path):
    """attacks/many_writers.py: the case had the verdict `error`, as if its worker had failed."""
    store, case = Store(tmp_path / "baselines"), case_in(tmp_path)
    path = store.write(case, builders.recording(tmp_path / "old"), "The old one.")
    new = builders.recording(tmp_path / "new", builders.IMAGE * 2)

    def accept() -> None:
        store.write(case, new, "Another process accepts meanwhile.")

    slot = PretendedSlot(accept)
    with Session(store, tmp_path / "run") as session:
        outcome = session.run(case, slot)
    assert slot.asked == 2
    assert outcome.verdict is Verdict.WITHIN, outcome.message
    assert outcome.baseline is not None
    assert outcome.baseline.digest == store.read(path).digest


def test_a_teacher_forced_run_that_fails_by_itself_is_not_repeated(tmp_path: Path):
    """A baseline that nobody replaced is no reason to run again."""
    store, case = Store(tmp_path / "baselines"), case_in(tmp_path)
    path = store.write(case, builders.recording(tmp_path / "old"), "The old one.")
    tensors = store.read(path).tensors_path
    slot = PretendedSlot(tensors.unlink)
    with Session(store, tmp_path / "run") as session:
        outcome = session.run(case, slot)
    assert slot.asked == 1
    assert outcome.verdict is Verdict.ERROR


@pytest.mark.parametrize("obstacle", ["a file for the folder", "a folder for the file"])
def test_a_log_that_cannot_be_written_is_an_error_with_a_remedy(obstacle: str, tmp_path: Path):
    """attacks/full_disk.py: the message named the path alone."""
    log = tmp_path / "logs" / "worker-0.log"
    if obstacle == "a file for the folder":
        log.parent.touch()
    else:
        log.mkdir(parents=True)
    with pytest.raises(FileError) as caught:
        Worker({}, log)
    assert caught.value.remedy


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOTDIR, errno.EISDIR])
def test_what_stands_in_the_way_is_to_be_moved_away(number: int, tmp_path: Path):
    """attacks/full_disk.py: the remedy was to make room, though there was room."""
    with pytest.raises(FileError) as caught, writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.path == tmp_path
    assert caught.value.remedy.startswith("move away what stands there")


def test_a_recording_that_does_not_fit_on_the_disk_is_an_error_with_path_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """attacks/full_disk.py: the worker's words named neither."""
    from harness.worker import recording

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recording.files, "write_folder", fill)
    with pytest.raises(CaseError) as caught:
        recording.write_folder(tmp_path / "out", {})
    assert str(caught.value).startswith(f"{tmp_path / 'out'}: cannot be written: No space left")
    assert "make room" in str(caught.value)
