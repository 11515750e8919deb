"""Owns where the commands' words go: standard output, standard error, and files beside results.

Printing can fail at any time: the reader of a pipe such as `head` has seen enough, a terminal is
closed, a disk is full. That must never change what a command writes or its exit code, so inside
`unbreakable` no write to either stream raises; what cannot be written is dropped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO, cast

from harness.errors import writing
from harness.report.safe_text import safe_lines
from harness.worker.files import write_file


@contextmanager
def unbreakable() -> Iterator[None]:
    """Let no write to standard output or standard error fail, also not at the interpreter's end."""
    out = _LenientStream(sys.stdout, "standard output")
    errors = _LenientStream(sys.stderr, "standard error")
    with redirect_stderr(cast("TextIO", errors)), redirect_stdout(cast("TextIO", out)):
        try:
            yield
        finally:
            out.flush()
            errors.flush()


def say(text: str) -> None:
    """Print a text to standard output."""
    print(safe_lines(text))


def complain(text: str) -> None:
    """Print a text to standard error, at once."""
    print(safe_lines(text), file=sys.stderr, flush=True)


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` as a whole.

    Raises:
        FileError: It cannot be written.
    """
    with writing(path):
        write_file(path, text.encode(errors="backslashreplace"))


class _LenientStream:
    """A text stream whose writes never raise; all else is that of the stream it stands for.

    Args:
        stream: None where the process was started with the stream closed.
        name: What people call it.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self._stream = stream
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            self._write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _give_up(self, error: Exception) -> None:
        """Drop the stream: from now on its descriptor leads nowhere, also for what is buffered.

        Nobody is told that a pipe has no reader any more: the reader knows.
        """
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
        if not isinstance(error, BrokenPipeError):
            complain(f"harness: {self._name} cannot be written any more: {error}")
