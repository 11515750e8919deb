"""The lock of one environment, which an installer holds as well as the process that started it.

An installer may outlive a parent that is killed, and must then still hold the environment. So it
inherits the descriptor of the lock, and the lock is free when the last process that has it ends.
`filelock` offers nobody its descriptor, which is why this is no lock of that library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock whose file is `path`, and yield its descriptor for child processes to inherit.

    The file may be removed by whoever holds the lock.

    Args:
        path: Made where it is not there, with its folder.
        wait: Whether to wait while another process holds it.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            _acquire(file, wait=wait)
            if _is_still_there(file, path):
                yield file.fileno()
                return


def _acquire(file: IO[bytes], *, wait: bool) -> None:
    import fcntl  # only Unix has it, and only who builds environments needs it

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still_there(file: IO[bytes], path: Path) -> bool:
    """Whether `path` is the file that was locked; its holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
