"""A slot for one live worker, replaced when other settings are asked for or it was lost."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.errors import LaunchError
from harness.launch.events import Final
from harness.launch.process import OnProgress, Settings, Worker
from harness.worker.protocol import DescribeRequest, RunRequest


class Slot:
    """At most one live worker.

    Args:
        log: The file that receives what its workers' libraries print.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._ended = False

    def ask(
        self,
        request: RunRequest | DescribeRequest,
        settings: Settings,
        timeout: float,
        on_progress: OnProgress,
        python: Path | None = None,
    ) -> Final:
        """Send a request to a worker of `python` with `settings`, and return its final event.

        Raises:
            LaunchError: The worker was lost; the next call starts another one.
        """
        worker = self._with(settings, python)
        try:
            return worker.ask(request, timeout, on_progress)
        except BaseException:
            self._close()
            raise

    def end(self) -> None:
        """End the worker, if there is one, for good.

        A thread that asks for another one gets a LaunchError.
        """
        with self._lock:
            self._ended = True
        self._close()

    def _with(self, settings: Settings, python: Path | None) -> Worker:
        worker = self._worker
        if worker is not None and worker.settings == dict(settings) and worker.python == python:
            return worker
        self._close()
        with self._lock:
            if self._ended:
                raise LaunchError("the run is over")
            self._worker = Worker(settings, self._log, python)
            return self._worker

    def _close(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
