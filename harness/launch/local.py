"""Workers on this machine, in this environment or in one with other package versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from harness.errors import LaunchError, NotRecordedError
from harness.launch.availability import missing_environment, usable_processors, visible_gpus
from harness.launch.events import Final
from harness.launch.launcher import Jobs, OnProgress, Request, Settings, Slot, WorkerSpec
from harness.launch.process import Worker
from harness.launch.sandbox import PINS, interpreter
from harness.records import Device, Verdict
from harness.scenario.fields import Framework
from harness.scenario.model import Case

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


class LiveWorker(Protocol):
    """A worker as a slot uses it; `launch.process.Worker` explains each member."""

    settings: dict[str, str | None]
    python: Path | None

    def ask(self, request: Request, timeout: float, on_progress: OnProgress, /) -> Final:
        """Send one request and return its final event."""

    def close(self) -> None:
        """Have no more use for the worker."""


# From settings, log and interpreter to a worker that has them.
Start = Callable[[Settings, Path, Path | None], LiveWorker]


class LocalLauncher:
    """Starts workers on this machine.

    Args:
        start: Where its slots get workers from; each is a process of its own without it.
    """

    is_one_machine = True

    def __init__(self, start: Start | None = None) -> None:
        self._start = start

    def slot(self, log: Path) -> Slot:
        """Return a slot for cases of every kind."""
        return LocalSlot(log, start=self._start)

    def slots(self, cases: Sequence[Case], jobs: int, logs: Callable[[int], Path]) -> list[Slot]:
        """Return one slot for each job.

        With `Jobs.AUTO` that is one for each GPU, for cases on CUDA, and one for each processor,
        for the others; never more than there are cases.
        """
        if jobs != Jobs.AUTO:
            return [LocalSlot(logs(index), start=self._start) for index in range(jobs)]
        on_gpus = sum(_is_on_gpu(case) for case in cases)
        gpus: list[str | None] = [*visible_gpus()]
        gpus = (gpus or [None])[:on_gpus]  # without one, a worker says why it cannot run
        processors = min(usable_processors(), len(cases) - on_gpus)
        found: list[Slot] = [
            LocalSlot(
                logs(index),
                _is_on_gpu,
                {} if gpu is None else {GPU_VARIABLE: gpu},
                start=self._start,
            )
            for index, gpu in enumerate(gpus)
        ]
        found += [
            LocalSlot(logs(len(gpus) + index), lambda case: not _is_on_gpu(case), start=self._start)
            for index in range(processors)
        ]
        return found

    def notes(self) -> list[str]:
        """Return nothing: every worker was started for this run."""
        return []

    def close(self) -> None:
        """Do nothing: the slots hold everything."""


class LocalSlot:
    """At most one live worker on this machine.

    Args:
        log: The file that receives what its workers' libraries print.
        accepts: Whether its workers may run a case; every case without it.
        settings: Environment variables of all of its workers, such as the GPU that they see.
        start: Where it gets workers from; each is a process of its own without it.
    """

    def __init__(
        self,
        log: Path,
        accepts: Callable[[Case], bool] | None = None,
        settings: Settings | None = None,
        start: Start | None = None,
    ) -> None:
        self._start = start
        self._log = log
        self._accepts = accepts
        self._own = dict(settings or {})
        self._worker: LiveWorker | None = None
        self._lock = threading.Lock()
        self._ended = False

    def accepts(self, case: Case) -> bool:
        """Whether its workers may run a case; whether they can, a worker says itself."""
        return self._accepts is None or self._accepts(case)

    def open(self, _is_wanted: Callable[[], bool]) -> bool:
        """Return at once: a worker can always start."""
        return True

    def ask(
        self, request: Request, spec: WorkerSpec, timeout: float, on_progress: OnProgress
    ) -> Final:
        """Send a request to a worker of this kind, and return its final event; see `Slot`."""
        settings = {**spec.settings, **self._own}
        worker = self._with(settings, spec.python or interpreter_of(spec.framework, spec.env))
        try:
            return worker.ask(request, timeout, on_progress)
        except BaseException:
            self._close()
            raise

    def give_back(self) -> None:
        """Keep the worker: another worker of this machine can start beside it."""

    def end(self) -> None:
        """End the worker, if there is one, for good.

        A thread that asks for another one gets a LaunchError.
        """
        with self._lock:
            self._ended = True
        self._close()

    def _with(self, settings: Settings, python: Path | None) -> LiveWorker:
        worker = self._worker
        if worker is not None and worker.settings == dict(settings) and worker.python == python:
            return worker
        self._close()
        with self._lock:
            if self._ended:
                raise LaunchError("the run is over")
            self._worker = (self._start or Worker)(settings, self._log, python)
            return self._worker

    def _close(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def interpreter_of(framework: Framework, env: tuple[str, ...]) -> Path | None:
    """Return the Python of an environment with the packages `env`; None for this process's own.

    A framework's own environment is large, so only `harness env --make` makes it.

    Raises:
        NotRecordedError: The framework's environment was not made, or `env` adds packages to it.
    """
    if framework not in PINS:
        return interpreter(env)
    if env:
        asked = ", ".join(env)
        reason = f"{asked} is for scenarios in torch; the packages of {framework} are pinned"
        raise NotRecordedError(reason, Verdict.UNVERIFIED)
    missing = missing_environment(framework)
    if missing:
        raise NotRecordedError(missing, Verdict.UNVERIFIED)
    return interpreter(PINS[framework])


def _is_on_gpu(case: Case) -> bool:
    return case.target.device is Device.CUDA
