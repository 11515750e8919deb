"""A worker process on this machine: started with its environment, asked one request at a time.

However the worker ends, and whatever it writes, the wait for it and what is read of it are bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import LaunchError, WorkerEndedError, writing
from harness.launch import process_group
from harness.launch.events import Event, Final, Progress, Ready, parse_event
from harness.launch.launcher import OnProgress, Request, Settings
from harness.launch.request_pipe import RequestPipe
from harness.scenario.fields import Determinism, Framework, Profile
from harness.store.typed_json import MalformedError

START_SECONDS = 300.0  # importing torch from a cold disk takes tens of seconds
EXIT_SECONDS = 10.0  # from the end of a worker's output to its own end
CLOSE_SECONDS = 3.0  # for a worker's guardian to end all that the worker started
LOOK_SECONDS = 0.5  # how often a silent worker is looked at: it may be gone
MOST_LINE = 1 << 24  # characters of one event
MOST_EVENTS = 100  # that wait to be read; with as many waiting, a worker waits as it writes
LAST_BYTES = 1 << 16  # of a worker's log, in which its last words are looked for
MOST_QUOTED = 500  # characters of what a worker wrote, in the words of an error

# What libraries read once, when they are imported. `CUDA_LAUNCH_BLOCKING` is not among them: it
# changes cost, not bits.
FULL: Settings = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "AUTO",  # without it, on AMD processors, bits depend on where weights lie in memory
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
}
# Meant to give one numerics class on every x86-64 machine with AVX2; it takes all three.
PORTABLE: dict[str, str] = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}
# Above AVX2, MindSpore's oneDNN takes a slow reference convolution. The two names are those of
# different releases of oneDNN. Source: docs/mindspore.md.
MINDSPORE: Settings = {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
QUIET: Settings = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONOPTIMIZE": None,  # it removes docstrings, without which diffusers does not import
}
INSTALLED = ("site-packages", "dist-packages")  # names of folders that hold installed packages
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def variables(
    determinism: Determinism,
    own: Settings,
    profile: Profile = Profile.NATIVE,
    framework: Framework = Framework.TORCH,
) -> dict[str, str | None]:
    """Return what a worker's environment sets beyond the caller's own.

    Args:
        determinism: `full` sets what libraries read when they are imported.
        own: A case's own settings, which win.
        profile: `portable` restricts the CPU's instructions.
        framework: MindSpore needs settings of its own.
    """
    found = dict(QUIET)
    if framework is Framework.MINDSPORE:
        found |= MINDSPORE
    if determinism is Determinism.FULL:
        found |= FULL
    if profile is Profile.PORTABLE:
        found |= PORTABLE
    return found | dict(own)


@dataclass(frozen=True)
class Surroundings:
    """What a worker's process finds around it: every variable, and the working directory."""

    environment: Mapping[str, str]
    folder: str

    @classmethod
    def of_caller(cls, settings: Settings, python: Path | None) -> Surroundings:
        """Return what a worker gets that this process starts.

        Args:
            settings: Variables on top of this process's own; None takes one away.
            python: The interpreter, where it is of another environment.
        """
        environment = {
            **os.environ,
            "CUDA_LAUNCH_BLOCKING": None,
            **settings,
            "PYTHONPATH": _search_path(python),
            "PYTHONSAFEPATH": "1",
        }
        kept = {key: value for key, value in environment.items() if value is not None}
        return cls(kept, str(Path.cwd()))


class Worker:
    """One worker process.

    Args:
        settings: Environment variables on top of the caller's own; None takes one away.
        log: The file that receives what the worker's libraries print.
        python: The interpreter of another environment; its own packages come first, so it gets no
            PYTHONPATH of the caller's.
        surroundings: What the process finds around it, in place of what it follows from.

    Raises:
        FileError: The log cannot be written.
        LaunchError: The interpreter cannot be started.
    """

    def __init__(
        self,
        settings: Settings,
        log: Path,
        python: Path | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.settings = dict(settings)
        self.python = python
        self._log = log
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            errors = log.open("ab")
        with errors:
            self._log_start = errors.tell()
            around = surroundings or Surroundings.of_caller(self.settings, python)
            self._process = _start(around, python, errors)
        assert self._process.stdin is not None  # noqa: S101 (for the type checker: it is a pipe)
        assert self._process.stdout is not None  # noqa: S101 (for the type checker: it is a pipe)
        self._requests = RequestPipe(self._process.stdin)
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_EVENTS)
        self._closed = threading.Event()
        reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        reader.start()
        self._started = False

    def ask(self, request: Request, timeout: float, on_progress: OnProgress) -> Final:
        """Send one request and return its final event.

        Raises:
            WorkerEndedError: The worker crashed.
            LaunchError: The worker wrote what is no event or nobody asked for, or did not
                finish within `timeout` seconds. It is then of no further use.
        """
        if not self._started:
            self._wait_until_ready()
        deadline = _Deadline(timeout)
        self._refuse_unasked(deadline)
        self._send(request, deadline)
        while True:
            event = self._next(deadline)
            if isinstance(event, Progress):
                on_progress(event.doing)
            elif not isinstance(event, Ready):
                return event

    def close(self) -> None:
        """End the process and everything that it started."""
        self._closed.set()
        if self._requests.is_busy:  # the pipe cannot be closed while something is written to it
            process_group.ask_to_end(self._process)
        else:
            self._requests.close()  # the worker notices, or its guardian, and ends them all
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS if self._is_worker else 0)
        process_group.end(self._process)
        self._requests.wait(CLOSE_SECONDS)  # nobody reads it now
        if not self._requests.is_busy:
            self._requests.close()

    @property
    def _is_worker(self) -> bool:
        """Whether the process is known to be a worker, which ends where its input ends."""
        return self._started

    def _wait_until_ready(self) -> None:
        deadline = _Deadline(START_SECONDS)
        while not self._started:
            event = self._next(deadline)
            if isinstance(event, Final):
                raise LaunchError(f"the worker wrote `{event.event}` before it was asked")
            self._started = isinstance(event, Ready)

    def _refuse_unasked(self, deadline: _Deadline) -> None:
        """Raise where the worker wrote something after its last answer, or ended.

        A second answer to one request would be taken for the answer to the next one.
        """
        with contextlib.suppress(queue.Empty):
            line = self._lines.get_nowait()
            if line is None:
                raise WorkerEndedError(self._end_of(deadline))
            raise LaunchError(f"the worker wrote without being asked: {line.strip()[:80]}")

    def _send(self, request: Request, deadline: _Deadline) -> None:
        """Write one request; does not wait for a worker that has ended, which `_next` reports."""
        self._requests.write((json.dumps(request) + "\n").encode())
        while True:
            self._requests.wait(min(LOOK_SECONDS, deadline.left()))
            if not self._requests.is_busy or self._process.poll() is not None:
                return
            if not deadline.left():
                raise LaunchError(deadline.missed())

    def _next(self, deadline: _Deadline) -> Event:
        """Return the next event; only a final one is taken after the deadline."""
        line = self._next_line(deadline)
        if line is None:
            raise WorkerEndedError(self._end_of(deadline))
        if len(line) >= MOST_LINE:
            raise LaunchError(f"the worker wrote a line of over {MOST_LINE} characters")
        try:
            event = parse_event(line)
        except MalformedError as error:
            problem = str(error)[:MOST_QUOTED]
            raise LaunchError(
                f"the worker wrote what is no event, while {deadline.doing}: {problem}"
            ) from error
        if isinstance(event, Progress):
            deadline.doing = event.doing[:MOST_QUOTED]
        if not isinstance(event, Final) and not deadline.left():
            raise LaunchError(deadline.missed())
        return event

    def _next_line(self, deadline: _Deadline) -> str | None:
        """Return the next line of output; None when there will be no other one."""
        while True:
            ended = self._process.poll() is not None
            try:
                return self._lines.get(timeout=min(LOOK_SECONDS, deadline.left()))
            except queue.Empty:
                if ended:  # and somebody else holds its output open
                    return None
                if not deadline.left():
                    raise LaunchError(deadline.missed()) from None

    def _read(self, stream: IO[str]) -> None:
        """Put every line of output into the queue, and None after the last one."""
        with contextlib.suppress(ValueError, OSError), stream:
            while line := stream.readline(MOST_LINE):
                if not self._put(line):
                    return
        self._put(None)

    def _put(self, line: str | None) -> bool:
        """Put a line into the queue when there is room; False when nobody will read it."""
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._lines.put(line, timeout=LOOK_SECONDS)
                return True
        return False

    def _end_of(self, deadline: _Deadline) -> str:
        """Return how the worker ended, while doing what, and its last words."""
        return f"the worker {self._ending()}, while {deadline.doing}{self._last_words()}"

    def _ending(self) -> str:
        try:
            return _ending(self._process.wait(timeout=EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            return "closed its output but did not end"

    def _last_words(self) -> str:
        """Return the last line that this worker wrote into its log, as the end of a sentence."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LAST_BYTES))
            text = log.read().decode(errors="replace").strip()
        return f"; its last words: {text.splitlines()[-1][:MOST_QUOTED]}" if text else ""


class _Deadline:
    """Until when an answer must be there, and what the worker was last doing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self.doing = "starting"

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def missed(self) -> str:
        return f"timed out after {self._seconds:g} s, while {self.doing}"


def _start(around: Surroundings, python: Path | None, errors: IO[bytes]) -> subprocess.Popen[str]:
    """Start a worker; Ctrl-C reaches the launcher alone, which then ends the worker."""
    interpreter = str(python or sys.executable)
    try:
        return subprocess.Popen(
            [interpreter, "-m", "harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=dict(around.environment),
            cwd=around.folder,
            start_new_session=True,
            creationflags=process_group.CREATION_FLAGS,
        )
    except OSError as error:
        problem = error.strerror or str(error)
        raise LaunchError(f"{interpreter} cannot be started: {problem}") from error


def _search_path(python: Path | None) -> str:
    """Return the worker's PYTHONPATH: where this package lies, and the caller's own.

    An installed package is found without it, and the folder around it must not come before the
    packages of another environment.
    """
    paths = [] if PACKAGE_ROOT.name in INSTALLED else [str(PACKAGE_ROOT)]
    if python is None and os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return os.pathsep.join(paths)


def _ending(status: int) -> str:
    """Return how a process ended, as the end of a sentence."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    memory = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{memory}"
