"""Files of several machines behind a URL, and the copy of them that this machine has fetched.

A record is a small sealed JSON file that names the files of one thing, such as a baseline or a run,
each with its path and the digest of its content. The contents lie as blobs in the folder `blobs`
beside what the URL names, so that everything beside it shares them. Blobs are sent first and the
record last: a reader finds all of a thing or nothing of it, and whoever sends again after an
interruption sends only what is still missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

from harness.errors import FileError, UsageError
from harness.store.blobs import SEND_AGAIN, Blob, Blobs, cache_root, holds
from harness.store.sealed import SealedFormat, sealed_bytes
from harness.store.shared_folder import is_url, open_folder

FORMAT = "harness-files/1"
BLOBS = "blobs"
AT_ONCE = 8  # transfers; most of a small one is waiting for an answer

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class StoredFile:
    """One file of a record: its path below the store's folder, and the blob that it holds."""

    path: str
    blob: Blob

    def __post_init__(self) -> None:
        """Refuse a path that leads out of the folder or means a hidden file, by ValueError."""
        parts = PurePosixPath(self.path).parts
        is_plain = "/".join(parts) == self.path and not any(sign in self.path for sign in "\\:\0")
        if not parts or not is_plain or any(part.startswith((".", "/")) for part in parts):
            raise ValueError(f"{self.path[:80]!r} is no path inside a folder")


@dataclass(frozen=True)
class FileSet:
    """A record: the files of one thing, in alphabetical order, and when it was written, in UTC."""

    format: str
    files: tuple[StoredFile, ...]
    written: str
    digest: str = ""


SEALED = SealedFormat(FORMAT, FileSet, "a record of files", SEND_AGAIN)


@dataclass(frozen=True)
class Sent:
    """What sending did: the files of the record, and the blobs and bytes that were not there."""

    files: int
    new_blobs: int
    new_bytes: int


class SharedFiles:
    """The records and blobs behind one URL.

    Args:
        place: The URL, with at least one folder below the bucket, which the blobs lie beside.

    Raises:
        UsageError: It is no URL that can be used.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        parent = self.place.rpartition("/")[0]
        if not is_url(place) or parent.endswith("/"):
            example = f"{self.place}/baselines"
            raise UsageError(f"{self.place} names no folder; name one, such as {example}")
        self._records = open_folder(self.place)
        self._blobs = Blobs(open_folder(f"{parent}/{BLOBS}"), cache_root() / BLOBS)
        self.root = mirror_of(self.place)

    def check(self) -> None:
        """Ask once whether the place is reached.

        Raises:
            FileError: It is not, or access to it is refused.
        """
        self._records.names("")

    def names(self, below: str = "") -> list[str]:
        """Return the names of the records in a folder and the folders below it, sorted.

        Raises:
            FileError: The place is not reached, or access to it is refused.
        """
        return self._records.names_below(below)

    def read(self, names: Iterable[str]) -> Mapping[str, FileSet]:
        """Return records by their names.

        Raises:
            FileError: One is gone or damaged.
        """
        found = {}
        for name, data in self._records.read(names).items():
            place = f"{self.place}/{name}"
            if data is None:
                raise FileError(place, "cannot be read", "check the network, or " + SEND_AGAIN)
            found[name] = SEALED.parse(data, place)
        return found

    def fetch(self, files: Iterable[StoredFile]) -> list[Path]:
        """Return files of this machine with the content of stored ones, at their paths.

        Raises:
            FileError: One is gone or damaged, or this machine cannot keep it.
        """
        return concurrently(self._fetch, files)

    def send(
        self,
        name: str,
        paths: Mapping[str, Path],
        *,
        also: Iterable[StoredFile] = (),
        new: bool = False,
        again: bool = False,
    ) -> Sent | None:
        """Send files and then the record that names them.

        Args:
            name: The record.
            paths: The files on this machine by their paths in the store.
            also: Files that are stored already, and that the record names too.
            new: Whether the record's name must still be free.
            again: Whether contents are sent although they are there: they may be damaged.

        Returns:
            What was sent; None where the name was to be free and is not.

        Raises:
            FileError: A file cannot be read, or the place cannot be written to.
        """
        found = concurrently(lambda path: self._blobs.send(path, again=again), paths.values())
        files = {each.path: each for each in also}
        for path, (blob, _) in zip(paths, found, strict=True):
            files[path] = StoredFile(path, blob)
        listed = tuple(files[path] for path in sorted(files))
        data = sealed_bytes(
            FileSet(FORMAT, listed, datetime.now(UTC).isoformat(timespec="seconds"))
        )
        if not new:
            self._records.write(name, data)
        elif not self._records.write_new(name, data):
            return None
        fresh = {blob for blob, is_new in found if is_new}
        return Sent(len(listed), len(fresh), sum(blob.bytes for blob in fresh))

    def _fetch(self, file: StoredFile) -> Path:
        path = self.root / file.path
        if not holds(path, file.blob):
            self._blobs.copy_to(file.blob, path)
        return path


def mirror_of(place: str) -> Path:
    """Return the folder of this machine with what was fetched from a URL; it may be absent."""
    place = place.rstrip("/")
    digest = hashlib.sha256(place.encode()).hexdigest()[:16]
    return cache_root() / "places" / digest / place.rpartition("/")[2]


def concurrently(function: Callable[[T], U], values: Iterable[T]) -> list[U]:
    """Return what a function gives for each value, in order, with some transfers at once.

    The first error ends it; what had begun is finished.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, values))
