"""A folder into which many machines write without a server: on this disk, or behind an fsspec URL.

Files are only added, never changed, and every writer chooses names that no other one uses. So no
lock is needed. A file appears as a whole under its name, because it is renamed after it is written.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.errors import FileError, UsageError, writing
from harness.worker.files import write_file

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEME = "://"
EXTRA = "pip install 'diffusion-harness[remote]'"


class SharedFolder(Protocol):
    """Where files are added and read back; a name may have folders in it, such as `runs/a.json`."""

    @property
    def place(self) -> str:
        """The folder as the user named it."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the JSON files directly in `folder`, sorted; empty if it is absent.

        Raises:
            FileError: The folder cannot be listed.
        """

    def read(self, names: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return the content of files by their names; None for one that cannot be read."""

    def write(self, name: str, data: bytes) -> None:
        """Add a file, as a whole or not at all.

        Raises:
            FileError: It cannot be written.
        """


def open_folder(place: str) -> SharedFolder:
    """Return the folder that a path or an fsspec URL such as `s3://bucket/history` names.

    Raises:
        UsageError: It is a URL, and fsspec or the package behind its scheme is not installed.
    """
    if SCHEME not in place:
        return LocalFolder(Path(place))
    try:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        scheme = place.partition(SCHEME)[0]
        raise UsageError(
            f"{place} is a URL, for which fsspec and its package for {scheme} are needed "
            f"({error}): {EXTRA}"
        ) from error
    return RemoteFolder(place.rstrip("/"), filesystem, root.rstrip("/"))


class LocalFolder:
    """A folder of this machine's file system, which may be a network's."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> str:
        """The folder as the user named it."""
        return str(self._root)

    def names(self, folder: str) -> list[str]:
        """Return the names of the JSON files directly in `folder`, sorted; empty if it is absent.

        Raises:
            FileError: The folder cannot be listed.
        """
        try:
            found = [path.name for path in (self._root / folder).iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._root / folder, error) from error
        return _json_files(folder, found)

    def read(self, names: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return the content of files by their names; None for one that cannot be read."""
        found: dict[str, bytes | None] = {}
        for name in names:
            found[name] = None
            with suppress(OSError):
                found[name] = (self._root / name).read_bytes()
        return found

    def write(self, name: str, data: bytes) -> None:
        """Add a file, as a whole or not at all.

        Raises:
            FileError: It cannot be written.
        """
        path = self._root / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, data)


class RemoteFolder:
    """A folder behind an fsspec URL: an object store, another machine, memory."""

    def __init__(self, place: str, filesystem: AbstractFileSystem, root: str) -> None:
        self._place = place
        self._files = filesystem
        self._root = root

    @property
    def place(self) -> str:
        """The URL as the user gave it."""
        return self._place

    def names(self, folder: str) -> list[str]:
        """Return the names of the JSON files directly in `folder`, sorted; empty if it is absent.

        Raises:
            FileError: The folder cannot be listed.
        """
        self._files.invalidate_cache()  # another machine may have added files
        try:
            paths = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:  # each file system raises errors of its own
            raise _unreadable(f"{self._place}/{folder}", error) from error
        return _json_files(folder, [path.rpartition("/")[2] for path in paths])

    def read(self, names: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return the content of files by their names; None for one that cannot be read.

        Most file systems of fsspec fetch several files at once.
        """
        paths = {self._at(name): name for name in names}
        if not paths:
            return {}
        found = self._files.cat(list(paths), on_error="return")
        if not isinstance(found, dict):  # a single file comes without its name
            found = dict.fromkeys(paths, found)
        content = {self._files._strip_protocol(path): data for path, data in found.items()}
        return {
            name: data if isinstance(data := content.get(path), bytes) else None
            for path, name in paths.items()
        }

    def write(self, name: str, data: bytes) -> None:
        """Add a file, as a whole or not at all.

        Raises:
            FileError: It cannot be written.
        """
        path = self._at(name)
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(temporary, data)
            self._files.mv(temporary, path)
        except Exception as error:  # each file system raises errors of its own
            place = f"{self._place}/{name}"
            raise FileError(place, f"cannot be written: {error}", "try again later") from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def _json_files(folder: str, names: Iterable[str]) -> list[str]:
    """Return the JSON files among the names in a folder; one that is being written is none."""
    files = [name for name in names if name.endswith(".json") and not name.startswith(".")]
    return [f"{folder}/{name}" for name in sorted(files)]


def _unreadable(place: Path | str, error: Exception) -> FileError:
    return FileError(place, f"cannot be read: {error}", "check the path and the access rights")
