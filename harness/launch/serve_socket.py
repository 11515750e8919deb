"""What `harness serve` and a run that uses it share: the socket, who may use it, and its messages.

The socket lies in a folder of the user's own, which nobody else can enter. Where the system tells
which user is at the other end, both sides check that it is the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import struct
import sys
import warnings
from pathlib import Path
from typing import cast

import platformdirs

from harness.errors import FileError, UsageError
from harness.launch.code_digest import PACKAGE, digest_of_harness
from harness.worker.files import digest_json

FORMAT = "harness-serve/1"
MOST_MESSAGE = 1 << 26  # bytes of one message
HAS_SOCKETS = hasattr(socket, "AF_UNIX") and hasattr(os, "getuid")
Message = dict[str, object]


def socket_path() -> Path:
    """Return the socket of this environment: of its interpreter and its harness.

    Raises:
        UsageError: This system has no such sockets.
    """
    if not HAS_SOCKETS:
        raise UsageError("harness serve needs Unix sockets, which this system does not have")
    name = hashlib.sha256(f"{sys.prefix}\0{PACKAGE}".encode()).hexdigest()[:8]
    with warnings.catch_warnings():  # of a folder that others can enter, which is not used then
        warnings.simplefilter("ignore")
        folder = platformdirs.user_runtime_path("harness", appauthor=False)
    return folder / f"serve-{name}.sock"


def is_served() -> bool:
    """Whether a server of this environment seems to be there: its socket is."""
    return HAS_SOCKETS and socket_path().exists()


def make_private(folder: Path) -> None:
    """Make a folder that nobody but this user can enter, or check that it is such a one.

    Raises:
        FileError: It is another user's, open to others, a link, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise FileError(folder, f"cannot be made: {error.strerror}") from error
    problem = _why_not_private(status)
    if problem:
        raise FileError(folder, problem, "remove it, or give it back to this user, with mode 0700")


def is_private(folder: Path) -> bool:
    """Whether a folder is there that nobody but this user can enter."""
    try:
        return not _why_not_private(folder.lstat())
    except OSError:
        return False


def _why_not_private(status: os.stat_result) -> str:
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
    if status.st_uid != os.getuid():
        return "belongs to another user"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "can be entered by other users"
    return ""


def is_same_user(connection: socket.socket) -> bool:
    """Whether this user is at the other end; True where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder's mode keeps others out
    size = struct.calcsize("3i")
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, user, _ = struct.unpack("3i", told)
    return int(user) == os.getuid()


def identity() -> Message:
    """Return what both sides must have in common: code, interpreter, and usable processors."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "format": FORMAT,
        "harness": digest_of_harness(),
        "python": sys.version,
        "processors": processors,
    }


class Messages:
    """Messages over a connection: each is one line of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: Nobody is at the other end.
        """
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """Return the next message; None where the other side has ended.

        Raises:
            OSError: The connection broke, or what came is no message.
        """
        while b"\n" not in self._received:
            part = self._connection.recv(1 << 16)
            if not part:
                return None
            self._received += part
            if len(self._received) > MOST_MESSAGE:
                raise OSError("a message is too long")
        line, _, self._received = self._received.partition(b"\n")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OSError("what came is no message") from error
        if not isinstance(found, dict):
            raise OSError("what came is no message")
        return cast("Message", found)


# Variables that differ from shell to shell, and that no library of a worker reads.
OF_SHELLS = ("PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", "PYTEST_CURRENT_TEST")


def digest_of_installed(python: Path | None) -> str:
    """Return a digest of which packages an environment has, in which versions.

    Args:
        python: Its interpreter; None for that of this process.
    """
    if python is None:
        folders = [Path(entry) for entry in sys.path if entry]
    else:
        folders = sorted(python.parent.parent.glob("lib/python*/site-packages"))
    found: list[tuple[str, str, int]] = []
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found += [
                (str(folder), entry.name, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.endswith((".dist-info", ".egg-link", ".pth"))
            ]
    return digest_json({"found": sorted(found)})
