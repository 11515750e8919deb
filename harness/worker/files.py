"""Writing files so that a reader finds the old content or the new one, never a part of either.

Both halves write through this module. A write goes to a temporary file beside its target, whose
name says which process of which machine made it, and is then renamed. A single file is flushed to
the disk before; the files of a folder, a recording, are not: they are sealed, so that damage is
found, and are made again. What a killed process left is removed by `remove_leftovers`, which checks
that its process is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Any, Iterator, Mapping

TEMPORARY = re.compile(r"\.(?P<target>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.tmp")
# Of this machine: a store may be shared, and only its own processes can be looked up.
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
WINDOWS = os.name == "nt"
# On Windows nobody can replace a file that another process has open, be it a reader of this moment
# or a scanner for viruses. For so many seconds it is tried again.
REPLACE_SECONDS = 3.0
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
_counter = itertools.count()


def dumps(value: Any) -> str:
    """Return `value` as sorted, indented JSON with full float precision and a trailing newline.

    Raises:
        ValueError: The value holds NaN or infinity, which JSON cannot express.
    """
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def digest_json(content: Mapping[str, Any]) -> str:
    """Return the digest of `content` without its own key `digest`: 32 hexadecimal digits."""
    sealed = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(dumps(sealed).encode()).hexdigest()[:32]


def temporary_beside(path: Path) -> Path:
    """Return the path of a temporary file for `path` that no other writer uses."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{next(_counter)}.tmp")


def write_file(path: Path, data: bytes) -> None:
    """Replace the file `path` by `data` as a whole; on an error the old file stays.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        _write_flushed(temporary, data)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file; what stands there at the end replaces `path` as a whole.

    For content that a library writes. It is not flushed to the disk: its reader checks its digest.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        _replace(temporary, path)  # where both are one file already, it stays
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace `folder` by one that holds `files`; a reader sees all of them or none.

    Between the moment at which the old folder goes and the one at which the new one comes there is
    none, but never a part of either.

    Raises:
        OSError: The parent folder cannot be written to, or the disk is full.
    """
    temporary, old = temporary_beside(folder), temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        with contextlib.suppress(FileNotFoundError):
            _replace(folder, old)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers no longer run on this machine."""
    for path in folder.glob(".*.tmp"):
        made_by = TEMPORARY.fullmatch(path.name)
        if made_by is None or made_by["host"] != HOST or _is_running(int(made_by["pid"])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _replace(source: Path, target: Path) -> None:
    """Rename a file or folder; on Windows, wait for those that have its target open.

    Raises:
        OSError: It cannot be renamed.
    """
    pause, deadline = FIRST_PAUSE, time.monotonic() + REPLACE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _write_flushed(path: Path, data: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _is_running(pid: int) -> bool:
    """Whether a process with this number runs; a number may have been given to another process."""
    if WINDOWS:  # where this look at a process would end it
        return _psutil_knows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process ever has a number beyond the largest
        return False
    except OSError:  # it runs, under another user
        return True
    return True


def _psutil_knows(pid: int) -> bool:
    """Whether psutil finds a process; without psutil nobody can tell, and it counts as running."""
    try:
        import psutil
    except ImportError:
        return True
    return bool(psutil.pid_exists(pid))
