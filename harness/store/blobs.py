"""Files by the digest of their content: behind a URL, and in a cache on this machine.

A blob is the content of a file under the name of its SHA-256. So it is written once and never
changed, is sent only where it is not there yet, and damage shows wherever it is read. What it
belongs to is said elsewhere (`store.file_sets`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FileError, writing
from harness.store import user_folders
from harness.store.shared_folder import SharedFolder
from harness.worker.files import remove_leftovers, replacing

FOLDER = "sha256"
SHA256 = re.compile("[0-9a-f]{64}")
CHUNK_BYTES = 1 << 20
SEND_AGAIN = "send it again from where it is whole: `harness copy --again FROM TO`"


@dataclass(frozen=True)
class Blob:
    """The content of a file: its SHA-256 as 64 hexadecimal digits, and how many bytes it has."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        """Refuse what cannot be the digest or the size of a file, by ValueError."""
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256[:80]!r} is no SHA-256")
        if self.bytes < 0:
            raise ValueError(f"{self.bytes} is no number of bytes")

    @property
    def name(self) -> str:
        """Where it lies in a folder of blobs."""
        return f"{FOLDER}/{self.sha256[:2]}/{self.sha256}"


def blob_of(path: Path) -> Blob:
    """Return the blob that the content of a file is.

    Raises:
        FileError: The file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise FileError(path, f"cannot be read: {error}") from error
    return Blob(digest.hexdigest(), size)


def cache_root() -> Path:
    """Return where this machine keeps what it fetched, below the cache of the user."""
    return user_folders.cache_root() / "stores"


class Blobs:
    """The blobs of a shared folder, with a cache of them on this machine.

    Args:
        shared: Where the blobs of all machines lie.
        cache: A folder of this machine; any process may add to it, and it may be removed.
    """

    def __init__(self, shared: SharedFolder, cache: Path) -> None:
        self._shared = shared
        self._cache = cache

    def send(self, path: Path, *, again: bool = False) -> tuple[Blob, bool]:
        """Add the content of a file to the shared folder, unless it is there.

        Args:
            path: The file.
            again: Whether it is sent although it is there, because it may be damaged.

        Returns:
            The blob, and whether anything was sent.

        Raises:
            FileError: The file cannot be read, or the folder cannot be written to.
        """
        blob = blob_of(path)
        is_there = not again and self._shared.size(blob.name) == blob.bytes
        if not is_there:
            self._shared.send(blob.name, path)
        self._keep(path, blob)
        return blob, not is_there

    def fetch(self, blob: Blob) -> Path:
        """Return the file of the cache that holds a blob; it is fetched where it is not there.

        Raises:
            FileError: It is not in the shared folder either, is damaged there, or the cache cannot
                be written to.
        """
        path = self._cache / blob.name
        if holds(path, blob):
            return path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            with replacing(path) as temporary:
                self._shared.fetch(blob.name, temporary)
                self._check(temporary, blob)
        return path

    def copy_to(self, blob: Blob, path: Path) -> None:
        """Make `path` a file with the content of a blob; it shares the disk with the cache.

        Raises:
            FileError: As `fetch`.
        """
        cached = self.fetch(blob)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                link_or_copy(cached, temporary)

    def _keep(self, path: Path, blob: Blob) -> None:
        """Keep what was sent in the cache too, as another name of the same file."""
        cached = self._cache / blob.name
        with suppress(OSError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, cached)

    def _check(self, path: Path, blob: Blob) -> None:
        """Raise FileError where a file that was fetched has other content than the blob."""
        found = blob_of(path)
        if found == blob:
            return
        problem = f"is damaged: it holds {found.bytes} bytes with the SHA-256 {found.sha256[:16]}…"
        if found.bytes < blob.bytes:
            problem = f"is cut short: it holds {found.bytes} of {blob.bytes} bytes"
        raise FileError(f"{self._shared.place}/{blob.name}", problem, SEND_AGAIN)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` where the disk can, else a copy of it.

    Files of the harness are replaced and never written into, so that sharing one does no harm.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def holds(path: Path, blob: Blob) -> bool:
    """Whether a file is there and has the content of a blob."""
    try:
        return path.stat().st_size == blob.bytes and blob_of(path) == blob
    except (OSError, FileError):
        return False
