"""Ends a worker, and all that it started, when the process that asked for it is gone.

The process that the launcher starts is the guardian; it forks the worker and does nothing else but
wait. When the worker ends, or when the launcher's end of the worker's standard input closes, for
which a killed launcher is enough, the guardian kills every process that descends from it and then
ends as the worker ended. Descendants that detached themselves are found too, because the guardian
adopts them.

That is so on Linux. Elsewhere there is no guardian: the worker watches its standard input itself,
and ends at once when it closes. What it had started may live on.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, List, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 5.0  # how long the guardian tries to end processes that keep starting others
STANDARD_INPUT = 0
CHUNK_BYTES = 1 << 16
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


def guarded(serve: Callable[[], None]) -> None:
    """Run `serve` in a child process under a guardian; does not return in the guardian.

    Elsewhere than on Linux, `serve` runs in this process, which ends with its standard input.
    """
    if not (sys.platform.startswith("linux") and hasattr(os, "fork") and hasattr(os, "waitid")):
        _end_with_the_input()
        serve()
        return
    _set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    worker = os.fork()
    if worker:
        _guard(worker)
    _set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    serve()


def _end_with_the_input() -> None:
    """Put a pipe in the place of standard input, and end this process where that input ends.

    A thread passes on what it reads. It reads from a copy of standard input, and nothing else does:
    on Windows, whoever asks the system about a pipe that a thread waits to read from waits too, as
    libraries do while they are imported (numpy's issue 24290, CPython's 78961).
    """
    source = os.dup(STANDARD_INPUT)
    reader, writer = os.pipe()
    os.dup2(reader, STANDARD_INPUT)
    os.close(reader)

    def pass_on() -> None:
        with suppress(OSError):  # an input that cannot be read has ended
            while data := os.read(source, CHUNK_BYTES):
                _write_all(writer, data)
        os._exit(0)

    threading.Thread(target=pass_on, daemon=True).start()


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _guard(worker: int) -> NoReturn:
    """Wait for the worker's end or the launcher's, end all descendants, and end likewise."""
    os.close(1)  # only the worker writes events: the launcher must see the end of its output
    told_to_end = _wait(worker)
    status = _end(worker)
    _end_descendants()
    if told_to_end:
        _end_by(told_to_end[0])
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _wait(worker: int) -> List[int]:
    """Wait for the worker's end, the end of its standard input, or a signal to end.

    Returns:
        The signals that told this process to end.
    """
    told_to_end: List[int] = []

    def remember(number: int, _frame: object) -> None:
        told_to_end.append(number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _do_nothing)  # a handler, so that the wake-up is written
    for number in END_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, remember)
    poll = select.poll()
    poll.register(STANDARD_INPUT, 0)  # 0: only that it was hung up, never that there is input
    poll.register(reader, select.POLLIN)
    while not (told_to_end or _reap_all_but(worker)):
        for descriptor, _ in poll.poll():
            if descriptor == STANDARD_INPUT:
                return told_to_end
            os.read(reader, 4096)
    return told_to_end


def _do_nothing(*_: object) -> None:
    pass


def _reap_all_but(worker: int) -> bool:
    """Fetch the status of adopted orphans that have ended; return whether the worker has ended."""
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return False
        if ended.si_pid == worker:
            return True
        os.waitpid(ended.si_pid, 0)


def _has_ended(worker: int) -> bool:
    """Whether the worker has ended; its status stays to be fetched."""
    ended = os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended is not None


def _end(worker: int) -> int:
    """End the worker, if it still runs, and return its status."""
    if not _has_ended(worker):
        os.kill(worker, signal.SIGKILL)
    return os.waitpid(worker, 0)[1]


def _end_descendants() -> None:
    """Kill children until there are none: those of a killed child become the guardian's own."""
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        for child in _children():
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.01)


def _children() -> List[int]:
    """Return the children of this process, those that it adopted too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The second field, the program's name, is in parentheses and may hold anything.
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace")
            parent = int(fields.rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found.append(int(folder.name))
    return found


def _end_by(number: int) -> NoReturn:
    """End by a signal, so that the launcher reads the worker's own end from the guardian's."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left its core already
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # where the signal is one that does not end a process


def _set_process_option(option: int, value: int) -> None:
    """Set one of Linux's process options; a C library without it goes without."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
