"""Workers of `harness serve`, as a run uses them: one that is warm, or else one of its own.

A run uses them only where they would be those that it starts itself: the harness's code, the
interpreter, installed packages, variables and the working directory are the same.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from harness.errors import LaunchError, UsageError, WorkerEndedError
from harness.launch.code_digest import digest_of_files
from harness.launch.events import Final, Progress, Ready, parse_event
from harness.launch.launcher import OnProgress, Request, Settings
from harness.launch.local import LiveWorker, LocalLauncher
from harness.launch.process import MOST_QUOTED, START_SECONDS, Surroundings, Worker
from harness.launch.serve_socket import (
    Message,
    Messages,
    digest_of_installed,
    identity,
    is_private,
    is_same_user,
    socket_path,
)
from harness.store.typed_json import MalformedError, encode, to_text

CONNECT_SECONDS = 10.0
GRACE_SECONDS = 60.0  # beyond a case's own time-out, within which the server answers


class NotServedError(Exception):
    """No server gives workers to this run; its text says why, and is empty where none is there."""


@dataclass
class Notes:
    """What a run is told of its workers: how many were warm, and why others were not."""

    warm: int = 0
    fresh: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The notes as sentences."""
        found = [f"harness serve gave {self.warm} warm worker(s)"] if self.warm else []
        reasons = dict.fromkeys(self.fresh)
        return found + [f"harness serve started a worker afresh: {reason}" for reason in reasons]


def connect(path: Path | None = None) -> socket.socket:
    """Return a connection to the server of this environment, whose user is this one.

    Raises:
        NotServedError: None is there.
    """
    try:
        path = path or socket_path()
    except UsageError:
        raise NotServedError from None
    if not is_private(path.parent):
        raise NotServedError
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(str(path))
        if is_same_user(connection):
            return connection
    except OSError:
        pass  # nobody serves: there is no socket, or one that was left behind
    connection.close()
    raise NotServedError


class ServedLauncher(LocalLauncher):
    """A launcher whose workers are those of the server.

    Args:
        ours: What the server must have in common with this run.
        path: The server's socket; that of this environment without it.
    """

    def __init__(self, ours: Message, path: Path | None = None) -> None:
        super().__init__(self._start_one)
        self._told = Notes()
        self._ours = ours
        self._path = path

    def notes(self) -> list[str]:
        """Return how many workers were warm, and why others were not."""
        return self._told.lines

    def _start_one(self, settings: Settings, log: Path, python: Path | None) -> LiveWorker:
        try:
            return ServedWorker(settings, log, python, self._told, self._ours, self._path)
        except NotServedError:  # it has ended since
            self._told.fresh.append("the server has ended")
            return Worker(settings, log, python)


def served_launcher(path: Path | None = None) -> ServedLauncher:
    """Return a launcher whose workers are those of the server.

    Args:
        path: The server's socket; that of this environment without it.

    Raises:
        NotServedError: No server is there, or it cannot give workers to this run.
    """
    ours = identity()
    with connect(path) as connection:
        _greet(Messages(connection), ours)
    return ServedLauncher(ours, path)


def _greet(messages: Messages, ours: Message) -> None:
    try:
        messages.send({"hello": ours})
        answer = messages.receive()
    except OSError as error:
        raise NotServedError(f"it does not answer: {error}") from error
    if answer is None or "welcome" not in answer:
        raise NotServedError(str((answer or {}).get("refused", "it ended")))


class ServedWorker:
    """A worker of the server, which stays there when this run has no more use for it.

    Args:
        settings: As of `Worker`.
        log: As of `Worker`: what the worker's libraries print for this run is added to it.
        python: As of `Worker`.
        notes: Told whether the worker was warm.
        ours: What the server must have in common with this run.
        path: The server's socket; that of this environment without it.

    Raises:
        NotServedError: The server is gone, or does not serve this run.
    """

    def __init__(
        self,
        settings: Settings,
        log: Path,
        python: Path | None,
        notes: Notes,
        ours: Message,
        path: Path | None = None,
    ) -> None:
        self.settings = dict(settings)
        self.python = python
        self._log = log
        self._notes = notes
        self._closing = threading.Lock()
        self._around = Surroundings.of_caller(self.settings, python)
        self._installed = digest_of_installed(python)
        self._connection = connect(path)
        self._messages = Messages(self._connection)
        try:
            _greet(self._messages, ours)
        except NotServedError:
            self._connection.close()
            raise

    def ask(self, request: Request, timeout: float, on_progress: OnProgress) -> Final:
        """Send one request and return its final event; see `Worker.ask`."""
        message: Message = {
            "ask": request,
            "python": None if self.python is None else str(self.python),
            "environment": self._around.environment,
            "folder": self._around.folder,
            "installed": self._installed,
            "own-code": own_code(request),
            "timeout": timeout,
        }
        try:
            self._connection.settimeout(START_SECONDS + timeout + GRACE_SECONDS)
            self._messages.send(cast("Message", encode(message)))
            while (answer := self._messages.receive()) is not None:
                final = self._taken(answer, on_progress)
                if final is not None:
                    return final
        except OSError as error:
            raise WorkerEndedError(f"harness serve was lost: {error}") from error
        raise WorkerEndedError("harness serve ended before its worker answered")

    def close(self) -> None:
        """Leave the worker to the server, which ends it where it has not answered yet."""
        with self._closing, contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _taken(self, answer: Message, on_progress: OnProgress) -> Final | None:
        """Take one message of the server; return the event where it is the final one."""
        if "event" in answer:
            return _event(answer, on_progress)
        if "warm" in answer:
            self._notes.warm += 1
        elif "fresh" in answer:
            if answer["fresh"]:
                self._notes.fresh.append(str(answer["fresh"]))
        elif "log" in answer:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as log:
                log.write(str(answer["log"]))
        elif "ended" in answer:
            raise WorkerEndedError(str(answer["ended"]))
        else:
            raise LaunchError(str(answer.get("failed", "harness serve gave no answer")))
        return None


def _event(answer: Mapping[str, object], on_progress: OnProgress) -> Final | None:
    try:
        event = parse_event(to_text(answer))
    except MalformedError as error:
        problem = str(error)[:MOST_QUOTED]
        raise LaunchError(f"harness serve sent what is no event: {problem}") from error
    if isinstance(event, Progress):
        on_progress(event.doing)
    return None if isinstance(event, Progress | Ready) else event


def own_code(request: Mapping[str, object]) -> str:
    """Return a digest of the project's code that a case may name; empty where it names none."""
    case = request.get("case")
    trust = case.get("trust") if isinstance(case, dict) else None
    if not trust:
        return ""
    found = [
        digest_of_files(home, [file for file in home.rglob("*.py") if file.is_file()])
        for package in trust["packages"]
        for home in _homes(package, trust["root"])
    ]
    return "-".join(found)


def _homes(package: str, root: str) -> list[Path]:
    """Return the folders in which a package lies: in the project's root, or installed."""
    finder = importlib.machinery.PathFinder
    spec = finder.find_spec(package, [root]) or finder.find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(os.fspath(folder)) for folder in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.origin else []
