"""Owns writing into a worker's standard input, so that no wait for the worker is without an end.

A request may be larger than the pipe's buffer, and a worker may read none of it. Windows can
neither poll a pipe nor write to one without waiting, so a thread does the waiting on every system.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import IO


class RequestPipe:
    """The end of a worker's standard input that the launcher writes to.

    Args:
        pipe: It is written to below its own buffer, which stays empty.
    """

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._writing: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Begin to write `data`; `is_busy` tells when all of it was written."""
        self._writing = threading.Thread(target=self._write, args=(data,), daemon=True)
        self._writing.start()

    def wait(self, seconds: float) -> None:
        """Wait until nothing is being written, at most so many seconds."""
        if self._writing is not None:
            self._writing.join(seconds)

    @property
    def is_busy(self) -> bool:
        """Whether something is still being written."""
        return self._writing is not None and self._writing.is_alive()

    def close(self) -> None:
        """Let the worker see the end of its input; only where the pipe is not busy.

        The number of a file that is closed while it is written to may become another file's.
        """
        with contextlib.suppress(OSError):
            self._pipe.close()

    def _write(self, data: bytes) -> None:
        """Write all of `data`; where nobody reads it any more, its reader's end tells why."""
        left = memoryview(data)
        with contextlib.suppress(OSError, ValueError):
            while left:
                left = left[os.write(self._pipe.fileno(), left) :]
