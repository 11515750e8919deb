"""A worker process on this machine: started with its environment, asked one request at a time, ended for certain."""

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from harness.errors import LaunchError
from harness.worker.protocol import FINAL_EVENTS, PROGRESS, READY

START_SECONDS = 300.0  # importing torch from a cold disk takes tens of seconds
EXIT_SECONDS = 10.0  # from the end of a worker's output to its end

# What libraries read once, at import. `CUDA_LAUNCH_BLOCKING` is not among them: it changes cost, not bits.
FULL = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "AUTO",  # without it, on AMD processors, bits depend on where in memory the weights lie
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
}
# Meant to be one numerics class on every x86-64 machine with AVX2: without all three, processors still differ.
PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
# Above AVX2, MindSpore's oneDNN takes a slow reference convolution; the names are those of its releases. See docs/mindspore.md.
MINDSPORE = {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
Settings = dict[str, str | None]
INSTALLED = ("site-packages", "dist-packages")  # names of folders that hold installed packages
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def variables(
    determinism: str,
    knobs: Mapping[str, str | None],
    profile: str = "native",
    framework: str = "torch",
) -> Settings:
    """Return what a worker's environment sets beyond the caller's own; None takes a variable away.

    Args:
        determinism: `full` or `default`.
        knobs: A case's own variables; they win.
        profile: `native`, or `portable` for the CPU instructions that any x86-64 machine with AVX2 has.
        framework: `torch` or `mindspore`.
    """
    full, portable = (
        FULL if determinism == "full" else {},
        PORTABLE if profile == "portable" else {},
    )
    return {**QUIET, **(MINDSPORE if framework == "mindspore" else {}), **full, **portable, **knobs}


class Worker:
    """One worker process.

    Args:
        settings: Environment variables on top of the caller's own; None takes one away.
        log: File that receives what the worker's libraries print.
        python: The interpreter of another environment; its own packages come first, so that it gets no PYTHONPATH of the caller's.
    """

    def __init__(
        self, settings: Mapping[str, str | None], log: Path, python: Path | None = None
    ) -> None:
        self.settings, self.python, self._log = dict(settings), python, log
        log.parent.mkdir(parents=True, exist_ok=True)
        package_root = Path(__file__).resolve().parents[2]
        # Installed, it is found without PYTHONPATH, and the folder around it must not come before a sandbox's own packages.
        paths = [] if package_root.name in INSTALLED else [str(package_root)]
        if python is None:
            paths += filter(None, [os.environ.get("PYTHONPATH")])
        path = os.pathsep.join(paths)
        environment = {
            **os.environ,
            "CUDA_LAUNCH_BLOCKING": None,
            **self.settings,
            "PYTHONPATH": path,
            "PYTHONSAFEPATH": "1",
        }
        with log.open("ab") as errors:
            self._log_start = errors.tell()
            self._process = subprocess.Popen(
                [python or sys.executable, "-m", "harness.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env={key: value for key, value in environment.items() if value is not None},
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which then ends the worker and its children
            )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        assert self._process.stdout is not None  # noqa: S101 (for the type checker: stdout is a pipe)
        threading.Thread(
            target=_pump, args=(self._process.stdout, self._events), daemon=True
        ).start()
        self._started = False

    def ask(
        self, request: dict[str, Any], timeout: float, on_progress: Callable[[str], None]
    ) -> dict[str, Any]:
        """Send one request and return its final event.

        Raises:
            LaunchError: The worker crashed, or did not finish within `timeout` seconds. It is then of no further use.
        """
        assert self._process.stdin is not None  # noqa: S101 (for the type checker: stdin is a pipe)
        if not self._started:
            self._until((READY,), START_SECONDS, lambda _: None)
            self._started = True
        with contextlib.suppress(
            BrokenPipeError
        ):  # a dead worker is reported by _until, with its exit status
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._until(FINAL_EVENTS, timeout, on_progress)

    def close(self) -> None:
        """End the process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _until(
        self, final: tuple[str, ...], timeout: float, on_progress: Callable[[str], None]
    ) -> dict[str, Any]:
        deadline, doing = time.monotonic() + timeout, "starting"
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise LaunchError(f"timed out after {timeout:g} s, while {doing}") from None
            if event is None:
                raise LaunchError(f"the worker {self._ending()}, while {doing}{self._last_words()}")
            if event["event"] in final:
                return event
            if event["event"] == PROGRESS:
                doing = event["doing"]
                on_progress(doing)

    def _ending(self) -> str:
        try:
            return _ending(self._process.wait(timeout=EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            return "closed its output but did not end"

    def _last_words(self) -> str:
        text = self._log.read_bytes()[self._log_start :].decode(errors="replace").strip()
        return f"; its last words: {text.splitlines()[-1]}" if text else ""


def _pump(stream: IO[str], events: queue.Queue[dict[str, Any] | None]) -> None:
    with contextlib.suppress(ValueError):  # the stream was closed while being read
        for line in stream:
            events.put(json.loads(line))
    events.put(None)


def _ending(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        memory = " (often: out of memory)" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"
    return f"ended with status {status}"
