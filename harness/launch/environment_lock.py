"""The lock of one environment, which an installer holds as well as the process that started it.

An installer may outlive a parent that is killed, and must then still hold the environment. So it
inherits the descriptor of the lock, and the lock is free when the last process that has it ends.
`filelock` offers nobody its descriptor, which is why this is no lock of that library on Unix. On
Windows no process inherits a lock, and filelock's has to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

from filelock import FileLock, Timeout

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[tuple[int, ...]]:
    """Hold the lock whose file is `path`, and yield the descriptors for child processes to inherit.

    On Unix that is one, and whoever holds the lock may remove its file. On Windows there is none.

    Args:
        path: Made where it is not there, with its folder.
        wait: Whether to wait while another process holds it.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        with _locked_by_library(path, wait=wait):
            yield ()
        return
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_there(file, path):
                yield (file.fileno(),)
                return


@contextmanager
def _locked_by_library(path: Path, *, wait: bool) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BlockingIOError(f"{path} is locked") from error
    try:
        yield
    finally:
        lock.release()


def _is_still_there(file: IO[bytes], path: Path) -> bool:
    """Whether `path` is the file that was locked; its holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
