"""A folder into which many machines write without a server: on this disk, or behind an fsspec URL.

Files are only added, never changed. Either every writer chooses names that no other one uses, or a
writer asks for a name that is still free. So no lock is needed. A file appears as a whole under its
name: an object store shows an object when all of it has arrived, and on any other file system a
file is renamed after it is written.

Credentials are fsspec's business: its configuration and the environment variables of the package
behind a scheme. A URL that holds a password is refused, and no message repeats it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from harness.errors import FileError, UsageError, writing
from harness.worker.files import replacing, temporary_beside, write_file

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEME = "://"
FILE_SCHEMES = ("file", "local")  # a folder of this machine, under a URL
# In these an object is seen only when all of it has arrived, so that no renaming is needed.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "hf", "memory")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "torch"}  # by scheme
WITH_PASSWORD = re.compile(r"(\w+://)[^/\s@]+@")
MOST_OF_AN_ERROR = 300  # characters
# Parts of the names of the exceptions that libraries raise, in lower case.
NOT_REACHED = ("connect", "timeout", "dns", "ssl")
NOT_ADMITTED = ("credential", "permission", "forbidden", "unauthorized", "accessdenied")
CHECK_NETWORK = "check the network and the endpoint, then repeat the command"
CHECK_RIGHTS = (
    "give this user's credentials the right to list, read and write there; they come from the "
    "environment variables and the configuration of fsspec and of the package for this scheme"
)


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

    def write_new(self, name: str, data: bytes) -> bool:
        """Add a file where the name is still free, and return whether it was.

        Of several writers at once, one is told so: by S3, Google Cloud Storage and a file system of
        this machine. Where fsspec has no such request, it looks first and then writes.

        Raises:
            FileError: It cannot be written.
        """

    def names_below(self, folder: str) -> list[str]:
        """Return the names of the JSON files in `folder` and in all folders below it, sorted.

        Raises:
            FileError: The folder cannot be listed.
        """

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where it is absent.

        Raises:
            FileError: The place cannot be asked.
        """

    def send(self, name: str, path: Path) -> None:
        """Add the file at `path` of this machine, as a whole or not at all.

        Raises:
            FileError: It cannot be read here, or not be written there.
        """

    def fetch(self, name: str, path: Path) -> None:
        """Write the content of a file to `path` of this machine, whose folder exists.

        Raises:
            FileError: It is absent, or cannot be read there.
        """


def is_url(place: str) -> bool:
    """Whether a place is a URL for fsspec, and no path of this machine."""
    return SCHEME in place


def redacted(text: str) -> str:
    """Return a text without the user and the password of any URL in it."""
    return WITH_PASSWORD.sub(r"\1***@", text)


def check_url(place: str) -> None:
    """Refuse a URL that holds credentials, without repeating them.

    Raises:
        UsageError: It has a user, a password, or a query.
    """
    try:
        parts = urlsplit(place)
        has_secret = "@" in parts.netloc or bool(parts.query)
    except ValueError:
        has_secret = True
    if has_secret:
        scheme = place.partition(SCHEME)[0]
        raise UsageError(
            f"a URL of {scheme} holds a user, a password or a query; leave them out: credentials "
            "come from the environment variables and the configuration of fsspec and of the "
            f"package for {scheme}"
        )


def open_folder(place: str) -> SharedFolder:
    """Return the folder that a path or an fsspec URL such as `s3://bucket/history` names.

    Raises:
        UsageError: It is a URL that holds credentials, or fsspec or the package behind its scheme
            is not installed.
    """
    if not is_url(place):
        return LocalFolder(Path(place))
    check_url(place)
    scheme = place.partition(SCHEME)[0]
    if scheme in FILE_SCHEMES:
        path = unquote(place.partition(SCHEME)[2])
        return LocalFolder(Path(path).absolute(), place.rstrip("/"))
    try:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(scheme, "remote")
        raise UsageError(
            f"{place} is a URL, for which fsspec and its package for {scheme} are needed "
            f"({error}): pip install 'diffusion-harness[{extra}]'"
        ) from error
    except Exception as error:  # each package raises errors of its own when it cannot begin
        raise _refused(place, "opened", error) from error
    return RemoteFolder(place.rstrip("/"), filesystem, root.rstrip("/"))


class LocalFolder:
    """A folder of this machine's file system, which may be a network's."""

    def __init__(self, root: Path, place: str = "") -> None:
        self._root = root
        self._place = place or str(root)

    @property
    def place(self) -> str:
        """The folder as the user named it."""
        return self._place

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

    def write_new(self, name: str, data: bytes) -> bool:
        """Add a file where the name is still free, and return whether it was.

        Raises:
            FileError: It cannot be written.
        """
        path = self._root / name
        temporary = temporary_beside(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(temporary, data)
            try:
                os.link(temporary, path)  # fails where the name is taken, and shows the whole file
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def names_below(self, folder: str) -> list[str]:
        """Return the names of the JSON files in `folder` and in all folders below it, sorted.

        Raises:
            FileError: The folder cannot be listed.
        """
        try:
            found = [path for path in (self._root / folder).rglob("*.json") if path.is_file()]
        except OSError as error:
            raise _unreadable(self._root / folder, error) from error
        names = [path.relative_to(self._root).as_posix() for path in found]
        return sorted(name for name in names if not _is_hidden(name))

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where it is absent.

        Raises:
            FileError: The place cannot be asked.
        """
        try:
            return (self._root / name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self._root / name, error) from error

    def send(self, name: str, path: Path) -> None:
        """Add the file at `path` of this machine, as a whole or not at all.

        Raises:
            FileError: It cannot be read here, or not be written there.
        """
        target = self._root / name
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)

    def fetch(self, name: str, path: Path) -> None:
        """Write the content of a file to `path` of this machine, whose folder exists.

        Raises:
            FileError: It is absent, or cannot be read there.
        """
        try:
            shutil.copyfile(self._root / name, path)
        except OSError as error:
            raise _unreadable(self._root / name, error) from error


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
        except FileNotFoundError as error:
            self._check_bucket(error)
            return []
        except Exception as error:  # each file system raises errors of its own
            raise _refused(f"{self._place}/{folder}", "read", error) from error
        return _json_files(folder, [path.rpartition("/")[2] for path in paths])

    def names_below(self, folder: str) -> list[str]:
        """Return the names of the JSON files in `folder` and in all folders below it, sorted.

        Raises:
            FileError: The folder cannot be listed.
        """
        self._files.invalidate_cache()  # another machine may have added files
        try:
            paths = self._files.find(self._at(folder))
        except FileNotFoundError as error:
            self._check_bucket(error)
            return []
        except Exception as error:  # each file system raises errors of its own
            raise _refused(f"{self._place}/{folder}", "read", error) from error
        root = self._files._strip_protocol(self._root)
        names = [path.removeprefix(root).lstrip("/") for path in paths]
        return sorted(name for name in names if name.endswith(".json") and not _is_hidden(name))

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
        with self._writing(name):
            if self._shows_whole_files:
                self._files.pipe_file(path, data)
            else:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                temporary = f"{path}.{secrets.token_hex(4)}.tmp"
                self._files.pipe_file(temporary, data)
                self._files.mv(temporary, path)

    def write_new(self, name: str, data: bytes) -> bool:
        """Add a file where the name is still free, and return whether it was.

        Raises:
            FileError: It cannot be written.
        """
        path = self._at(name)
        with self._writing(name):
            if not self._shows_whole_files:
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._files.pipe_file(path, data, mode="create")
            except Exception as error:  # S3 says so in an error of its own
                if _is_taken(error):
                    return False
                raise
        return True

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where it is absent.

        Raises:
            FileError: The place cannot be asked.
        """
        try:
            found = self._files.info(self._at(name), refresh=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system raises errors of its own
            raise _refused(f"{self._place}/{name}", "read", error) from error
        return None if found["type"] == "directory" else int(found["size"])

    def send(self, name: str, path: Path) -> None:
        """Add the file at `path` of this machine, as a whole or not at all.

        Raises:
            FileError: It cannot be read here, or not be written there.
        """
        target = self._at(name)
        with self._writing(name):
            if self._shows_whole_files:
                self._files.put_file(str(path), target)
            else:
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                temporary = f"{target}.{secrets.token_hex(4)}.tmp"
                self._files.put_file(str(path), temporary)
                self._files.mv(temporary, target)

    def fetch(self, name: str, path: Path) -> None:
        """Write the content of a file to `path` of this machine, whose folder exists.

        Raises:
            FileError: It is absent, or cannot be read there.
        """
        try:
            self._files.get_file(self._at(name), str(path))
        except Exception as error:  # each file system raises errors of its own
            raise _refused(f"{self._place}/{name}", "read", error) from error

    @property
    def _shows_whole_files(self) -> bool:
        protocol = self._files.protocol
        return any(name in OBJECT_STORES for name in _words(protocol))

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Turn a refusal to write a file into a FileError that says what to do."""
        try:
            yield
        except Exception as error:  # each file system raises errors of its own
            raise _refused(f"{self._place}/{name}", "written", error) from error

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Refuse a bucket that does not exist: it is no store that is still empty."""
        if "bucket does not exist" in str(error).lower():
            raise FileError(
                self._place,
                "names a bucket that does not exist",
                "check the URL, or make the bucket",
            ) from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def _json_files(folder: str, names: Iterable[str]) -> list[str]:
    """Return the JSON files among the names in a folder; one that is being written is none."""
    files = [name for name in names if name.endswith(".json") and not name.startswith(".")]
    return [f"{folder}/{name}" for name in sorted(files)]


def _is_hidden(name: str) -> bool:
    """Whether a file or a folder of its path begins with a dot, as one that is being written."""
    return any(part.startswith(".") for part in name.split("/"))


def _unreadable(place: Path | str, error: Exception) -> FileError:
    return FileError(place, f"cannot be read: {error}", "check the path and the access rights")


def _refused(place: str, done: str, error: Exception) -> FileError:
    """Return the error of a place that could not be `read`, `written` or `opened`."""
    found = " ".join(type(each).__name__.lower() for each in _chain(error))
    text = redacted(f"{type(error).__name__}: {error}")[:MOST_OF_AN_ERROR]
    if isinstance(error, FileNotFoundError):
        return FileError(place, f"cannot be {done}: it is not there ({text})", "check the URL")
    if any(word in found for word in NOT_ADMITTED):
        return FileError(place, f"cannot be {done}: access is refused ({text})", CHECK_RIGHTS)
    if any(word in found for word in NOT_REACHED):
        return FileError(place, f"cannot be {done}: it is not reached ({text})", CHECK_NETWORK)
    return FileError(place, f"cannot be {done} ({text})", "try again later")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _is_taken(error: Exception) -> bool:
    """Whether an error says that a file of this name is there already."""
    return isinstance(error, FileExistsError) or any(
        "PreconditionFailed" in str(each) or "ConditionalRequestConflict" in str(each)
        for each in _chain(error)
    )


def _words(protocol: str | tuple[str, ...]) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else protocol
