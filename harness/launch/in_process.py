"""A slot without a worker's process: the caller's own process is the environment under test.

It is for objects that a test or a notebook holds, which no other process could run. The recorder is
the one of every worker. Variables that a worker starts with cannot be set here any more, and a case
cannot be ended from outside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.errors import LaunchError
from harness.launch.events import Final, Progress, Ready, parse_event
from harness.launch.launcher import OnProgress, Request, WorkerSpec
from harness.scenario.model import Case

if TYPE_CHECKING:
    from harness.worker.recorder import Recorder


class InProcessSlot:
    """A recorder in this process.

    Args:
        objects: What cases refer to by name; it may change between cases.
    """

    def __init__(self, objects: Mapping[str, object]) -> None:
        self._objects = objects
        self._recorder: Recorder | None = None
        self._on_progress: OnProgress = _say_nothing

    def accepts(self, _case: Case) -> bool:
        """Every case whose objects are here."""
        return True

    def open(self, _is_wanted: Callable[[], bool]) -> bool:
        """Return at once."""
        return True

    def ask(
        self, request: Request, _spec: WorkerSpec, _timeout: float, on_progress: OnProgress
    ) -> Final:
        """Carry out a request in this thread, and return its final event; see `Slot`."""
        from harness.worker.__main__ import answer
        from harness.worker.recorder import Recorder

        self._on_progress = on_progress
        if self._recorder is None:
            self._recorder = Recorder(self._send, self._objects)
        finals: list[Final] = []

        def keep(name: str, **fields: object) -> None:
            event = parse_event(json.dumps({"event": name, **fields}))
            if not isinstance(event, Progress | Ready):
                finals.append(event)

        answer(self._recorder, keep, request)
        if not finals:
            raise LaunchError("the recorder gave no answer")
        return finals[-1]

    def forget_objects(self) -> None:
        """Hold no object of the last case any longer; its owner may want the memory back."""
        if self._recorder is not None:
            self._recorder.forget()

    def give_back(self) -> None:
        """Keep the recorder, which knows the numerics class of this process."""

    def end(self) -> None:
        """Forget the recorder, and with it what it loaded."""
        self._recorder = None

    def _send(self, _name: str, **fields: object) -> None:
        """Pass on what the recorder says while it works; it sends no other events."""
        self._on_progress(str(fields.get("doing", "")))


def _say_nothing(_doing: str) -> None:
    pass
