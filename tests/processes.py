"""The command line as a process of its own: its pipes, its signals and its workers are real."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import harness

# Runs the command with the worker that is named first, as `python -m harness` would with its own.
# A test's own process may have been started with signals ignored, which children inherit.
START = """\
import signal, sys
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, 0), (signal.SIGHUP, 0)):
    signal.signal(number, handler)
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.executable = sys.argv[2]
from harness.commands.main import main
sys.argv[1:] = sys.argv[3:]
raise SystemExit(main())
"""  # noqa: E501
PACKAGE_ROOT = str(Path(harness.__file__).parents[1])
SECONDS = 60.0  # until a test gives up


def start(
    folder: Path,
    *arguments: str,
    worker: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    nohup: bool = False,
) -> subprocess.Popen[str]:
    """Start `harness ARGUMENTS` in a folder.

    Args:
        folder: Where it runs.
        arguments: The command and its options.
        worker: The script that it starts as its worker, in place of python.
        env: Variables beside this process's own.
        stdout: Where its standard output leads.
        stderr: Where its standard error leads.
        nohup: Whether SIGHUP is ignored, as `nohup` has it.
    """
    how = "nohup" if nohup else "plain"
    command = [sys.executable, "-c", START, how, str(worker or sys.executable), *arguments]
    environment = {**os.environ, "PYTHONPATH": PACKAGE_ROOT, **(env or {})}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=stdout, stderr=stderr
    )


@contextmanager
def pipe_without_reader() -> Iterator[int]:
    """Yield the end of a pipe to write to, whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Whether a process with this number exists and is no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] != "Z"
