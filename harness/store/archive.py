"""Unpacks the artefacts of a CI run: a zip or a tar from elsewhere, into a folder that goes again.

An archive is a stranger's. No entry may lead out of the folder, be a link or a device, or stand
there twice; how many entries there are and how much they hold is bounded by what is unpacked, and
not by what the archive says of itself.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from harness.errors import FileError, writing

MOST_ENTRIES = 100_000
MOST_BYTES = 64 << 30  # unpacked: 64 GiB
CHUNK = 1 << 20
ZIP = (".zip",)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip
REMEDY = "download it again; if it is still so, do not trust it"


@dataclass(frozen=True)
class _Entry:
    """One entry of an archive: its name, whether it is a folder, and why it is refused, if so."""

    name: str
    is_folder: bool
    problem: str = ""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give the folder that a path means: an archive is unpacked for as long as it is needed.

    Raises:
        FileError: The archive is damaged, too large, or holds what must not be unpacked.
    """
    if not is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        folder = Path(name)
        try:
            _unpack(path, folder)
        except BROKEN as error:
            raise FileError(path, f"cannot be unpacked: {error}", REMEDY) from error
        except OSError as error:
            raise FileError(path, f"cannot be unpacked: {error.strerror or error}") from error
        yield folder


def is_archive(path: Path) -> bool:
    """Whether a path is a file whose name ends like that of an archive."""
    return path.is_file() and path.name.lower().endswith((*ZIP, *TAR))


def _unpack(path: Path, folder: Path) -> None:
    budget = _Budget(path)
    if path.name.lower().endswith(ZIP):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                target = budget.admit(_of_zip(info), folder)
                if target is not None:
                    with archive.open(info) as source:
                        budget.copy(source, target)
        return
    with tarfile.open(path) as packed:
        for member in packed:
            target = budget.admit(_of_tar(member), folder)
            file = packed.extractfile(member) if target is not None else None
            if target is not None and file is not None:
                with file:
                    budget.copy(file, target)


def _of_zip(info: zipfile.ZipInfo) -> _Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    problem = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
    return _Entry(info.filename, info.is_dir(), problem)


def _of_tar(member: tarfile.TarInfo) -> _Entry:
    problem = "" if member.isreg() or member.isdir() else "is a link or a device"
    return _Entry(member.name, member.isdir(), problem)


class _Budget:
    """Counts what is unpacked from one archive, and refuses what is too much or leads elsewhere."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = 0
        self._bytes = 0

    def admit(self, entry: _Entry, folder: Path) -> Path | None:
        """Return where a file goes; None for a folder.

        Raises:
            FileError: The entry must not be unpacked.
        """
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise FileError(self._path, f"holds more than {MOST_ENTRIES} entries", REMEDY)
        problem = entry.problem or _problem_of_name(entry.name)
        if problem:
            raise FileError(self._path, f"holds {entry.name[:100]!r}, which {problem}", REMEDY)
        target = folder.joinpath(*PurePosixPath(entry.name).parts)
        (target if entry.is_folder else target.parent).mkdir(parents=True, exist_ok=True)
        return None if entry.is_folder else target

    def copy(self, source: IO[bytes], target: Path) -> None:
        """Write the content of an entry to a new file.

        Raises:
            FileError: The archive holds more than is unpacked, or two entries of one name.
        """
        if target.exists():
            raise FileError(self._path, f"holds {target.name!r} twice", REMEDY)
        with writing(target), target.open("xb") as file:
            while chunk := source.read(CHUNK):
                self._bytes += len(chunk)
                if self._bytes > MOST_BYTES:
                    raise FileError(self._path, f"holds more than {MOST_BYTES >> 30} GiB", REMEDY)
                file.write(chunk)


def _problem_of_name(name: str) -> str:
    """Return why the name of an entry is refused; empty where it is not."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        return "leads out of the archive"
    return "" if name.isprintable() else "has a name that cannot be shown"
