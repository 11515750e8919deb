"""Runs behind URLs: one record for each, so that a reader finds the whole run or none of it.

A run is made in a folder of this machine and sent when it is over. Its blobs lie beside it, where
other runs share them: the tensors of a case that gives its baseline's bits every night are sent
once for all nights.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import FileError, writing
from harness.store.blobs import cache_root, holds
from harness.store.run_folder import PART_FILES, new_run, runs_below
from harness.store.shared_files import FileSet, Sent, SharedFiles
from harness.store.shared_folder import is_url
from harness.worker.files import TEMPORARY

RECORD = "record.json"
RECORDINGS = "recordings/"
WORKING = "runs"  # a folder of the cache: runs that are going on, or could not be sent


@dataclass(frozen=True)
class RunOnItsWay:
    """A run in a folder of this machine that is to be sent to a URL.

    The folder has the run's name, and lies alone in another one.
    """

    folder: Path
    place: str

    def send(self) -> Sent:
        """Send the run, and remove the folder; where it cannot be sent, the folder stays.

        Raises:
            FileError: The place cannot be written to; the error says how to send the run later.
        """
        try:
            sent = send_run(self.folder, self.place)
        except FileError as error:
            raise FileError(error.path, error.problem, f"{error.remedy}; {self.how}") from error
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        return sent

    @property
    def how(self) -> str:
        """How the run is sent later, as a sentence."""
        return f"the run is kept: `harness copy {self.folder} {self.place}` sends it"


def begin_run(place: str) -> RunOnItsWay:
    """Make a folder of this machine for a run that is to be sent to a URL.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: It is not reached, or access to it is refused.
    """
    SharedFiles(place).check()
    folder = new_run(cache_root() / WORKING) / place.rstrip("/").rpartition("/")[2]
    with writing(folder):
        folder.mkdir()
    return RunOnItsWay(folder, place)


def name_of_new_run(place: str) -> str:
    """Return a name for a new run below a URL that no other machine chooses."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    return f"{place.rstrip('/')}/{moment}-{secrets.token_hex(4)}"


def send_run(folder: Path, place: str, *, also: FileSet | None = None, again: bool = False) -> Sent:
    """Send the files of a run's folder, and then the record that names them.

    Args:
        folder: The run's folder.
        place: The URL.
        also: A record of the same run, whose other files stay part of it.
        again: Whether contents are sent although they are there: they may be damaged.

    Raises:
        FileError: A file cannot be read, or the place cannot be written to.
    """
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_of_run(path.relative_to(folder))
    }
    files = () if also is None else also.files
    sent = SharedFiles(place).send(RECORD, paths, also=files, again=again)
    assert sent is not None  # noqa: S101 (for the type checker: any name may be replaced)
    return sent


def fetch_run(place: str, *, recordings: bool) -> Path:
    """Return the folder of a run: a path as it is, and of a URL the files that it names.

    Args:
        place: A path or a URL.
        recordings: Whether the recordings are needed too.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: There is no such run, or it is damaged.
    """
    if not is_url(place):
        return Path(place)
    shared = SharedFiles(place)
    record = record_of(shared)
    _remove_others(shared.root, record)
    shared.fetch(
        file for file in record.files if recordings or not file.path.startswith(RECORDINGS)
    )
    return shared.root


def runs_at(place: str) -> list[str]:
    """Return the runs that a path or URL means: a run itself, or every run below it.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: There is none.
    """
    if not is_url(place):
        return [str(run) for run in runs_below(Path(place))]
    shared = SharedFiles(place)
    names = shared.names()
    if RECORD in names:
        return [shared.place]
    found = [name.removesuffix(f"/{RECORD}") for name in names if name.endswith(f"/{RECORD}")]
    if not found:
        raise _no_run(shared.place)
    return [f"{shared.place}/{name}" for name in found]


def record_of(shared: SharedFiles) -> FileSet:
    """Return the record of a run.

    Raises:
        FileError: There is no run at this URL, or its record is damaged.
    """
    if RECORD not in shared.names():
        raise _no_run(shared.place)
    return shared.read([RECORD])[RECORD]


def _no_run(place: str) -> FileError:
    problem = "holds no run, or one that was not sent to its end"
    return FileError(place, problem, "check the URL, or send the run again")


def _remove_others(root: Path, record: FileSet) -> None:
    """Remove what an earlier run of the same name left in the folder of this machine."""
    named = {root / file.path: file.blob for file in record.files}
    for path in root.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            blob = named.get(path)
            if blob is None or not holds(path, blob):
                with suppress(OSError):
                    path.unlink()


def _is_of_run(path: Path) -> bool:
    """Whether a file below a run's folder is part of the run: no lock and no temporary file."""
    hidden = any(part.startswith(".") for part in path.parts)
    is_part = len(path.parts) == 1 and path.match(PART_FILES)
    return not hidden and not is_part and not TEMPORARY.fullmatch(path.name)
