"""The seam behind which workers start: what every launcher offers, and what it is asked for.

A launcher starts workers on this machine or on others. A session and the judge know this module
alone: where a worker ran changes neither the case nor the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from harness.launch.events import Final
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.worker.protocol import CheckRequest, DescribeRequest, OutlineRequest, RunRequest

Settings = Mapping[str, str | None]  # variables on top of the caller's own; None takes one away
OnProgress = Callable[[str], None]
Request = RunRequest | DescribeRequest | OutlineRequest | CheckRequest


class Jobs(IntEnum):
    """A number of workers that is no plain number."""

    AUTO = 0  # as many as the machines have room for


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is started with.

    Attributes:
        settings: Environment variables, see `Settings`.
        framework: Decides which environment the worker runs in.
        env: Package versions that stand in place of the installed ones, such as `torch==2.13.0`.
        python: An interpreter to start in place of the one that the framework and `env` mean.
    """

    settings: Settings = field(default_factory=dict)
    framework: Framework = Framework.TORCH
    env: tuple[str, ...] = ()
    python: Path | None = None


class Slot(Protocol):
    """A place for at most one live worker, which stays until another kind of worker is needed.

    One thread at a time asks it; `end` may be called from any thread.
    """

    def accepts(self, case: Case, /) -> bool:
        """Whether workers of this slot may run a case: they have its device, for example."""

    def open(self, is_wanted: Callable[[], bool], /) -> bool:
        """Wait until a worker can start here; return False where nobody wants it any longer."""

    def ask(
        self, request: Request, spec: WorkerSpec, timeout: float, on_progress: OnProgress
    ) -> Final:
        """Send a request to a worker of this kind, started if need be; return its final event.

        A recording lies in the folder that the request names when this returns.

        Args:
            request: One case, or the question what the environment or a saved pipeline is.
            spec: What the worker must have been started with.
            timeout: Seconds for the answer, without the start of the worker.
            on_progress: Called with what the worker is doing, in words.

        Raises:
            LaunchError: The worker could not start, ended, timed out or wrote what is no event.
                The next call starts another one.
            NotRecordedError: The environment cannot be had on the slot's machine.
            WorkerLostError: The worker or its machine was lost, and the case may run elsewhere.
        """

    def give_back(self) -> None:
        """Let others use what this slot holds; a later call of `ask` starts a worker again."""

    def end(self) -> None:
        """End the worker and everything that it started, for good."""


class Launcher(Protocol):
    """Starts workers in slots.

    Attributes:
        is_one_machine: Whether all of its slots are on one machine, so that the recordings of a
            scenario's executions may be compared with each other wherever each of them ran.
    """

    is_one_machine: bool

    def slot(self, log: Path) -> Slot:
        """Return a slot that accepts every case; `log` receives what its workers print."""

    def slots(self, cases: Sequence[Case], /, jobs: int, logs: Callable[[int], Path]) -> list[Slot]:
        """Return slots that accept all of `cases` between them.

        Args:
            cases: What is going to run.
            jobs: How many workers may run at once, or `Jobs.AUTO`.
            logs: Gives the log of each slot by its index.
        """

    def notes(self) -> list[str]:
        """Return what the user should know of where workers came from, as sentences."""

    def close(self) -> None:
        """Give back what the launcher holds beside its slots."""
