"""One worker slot on a node of a fleet: what a launcher on another machine talks to.

It drives a worker exactly as a session does on its own machine. Requests come with the files that
they need; news, the recording's files and the worker's log go back. It knows nothing of the engine
that carries them.
"""

from __future__ import annotations

import os
import platform
import queue
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from harness import __version__
from harness.errors import LaunchError, NotRecordedError, WorkerEndedError
from harness.launch.events import Final
from harness.launch.launcher import Request, WorkerSpec
from harness.launch.local import LocalSlot
from harness.launch.parcel import mirrored, relocated
from harness.records import Verdict
from harness.worker.files import remove_leftovers, temporary_beside, write_file
from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE, RunRequest

MOST_LOG = 1 << 20  # bytes of a worker's log that one answer brings back: its end
FOLDER = "harness-node"
RECORDED_FILES = (RECORDING_FILE, TENSORS_FILE)


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself: its host, the process of the slot, the harness's version."""

    host: str
    pid: int
    version: str


@dataclass(frozen=True)
class Refusal:
    """Why a request has no final event; `has_ended` where the worker crashed or was killed."""

    reason: str
    verdict: Verdict
    log: str
    has_ended: bool
    is_launch: bool


@dataclass(frozen=True)
class Answer:
    """The end of a request: its final event or its refusal, and what the worker has logged."""

    final: Final | None = None
    refusal: Refusal | None = None
    log: bytes = b""


News = str | Answer  # what a worker is doing, in words; or the end of the request


@dataclass
class _Conversation:
    """One request: its news, and the folder in which its recording is made."""

    out: Path
    news: queue.Queue[News] = field(default_factory=queue.Queue)


class NodeSlot:
    """A slot on this node.

    Args:
        package: Where the package of the harness lies on the caller's machine.
    """

    def __init__(self, package: str) -> None:
        remove_leftovers(Path(tempfile.gettempdir()))  # of slots that were killed
        self._folder = temporary_beside(Path(tempfile.gettempdir()) / FOLDER)
        self._folder.mkdir(mode=0o700)
        self._package = Path(package)
        self._log = self._folder / "worker.log"
        self._logged = 0
        self._slot = LocalSlot(self._log)
        self._asked = 0
        self._now = _Conversation(self._folder)

    def facts(self) -> NodeFacts:
        """Return what the node says of itself."""
        return NodeFacts(platform.node(), os.getpid(), __version__)

    def receive(self, path: str, content: bytes) -> None:
        """Keep a file of the caller's machine for the requests to come."""
        place = mirrored(self._folder / "files", Path(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, content)

    def begin(self, request: Request, spec: WorkerSpec, timeout: float) -> None:
        """Start to carry out a request; `news` says how it goes."""
        self._asked += 1
        self._now = now = _Conversation(self._folder / f"recording-{self._asked}")
        if "case" in request:
            mirror = self._folder / "files"
            run = cast("RunRequest", request)
            request = relocated(run, now.out, self._package, mirror)
        threading.Thread(
            target=self._carry_out, args=(now, request, spec, timeout), daemon=True
        ).start()

    def news(self, seconds: float) -> list[News]:
        """Return what is new, and wait for that; an empty list where nothing is for some time."""
        found: list[News] = []
        try:
            found.append(self._now.news.get(timeout=seconds))
            while True:
                found.append(self._now.news.get_nowait())
        except queue.Empty:
            return found

    def files(self) -> Mapping[str, bytes]:
        """Return the files of the recording that was just made, and forget them here."""
        found = {name: (self._now.out / name).read_bytes() for name in RECORDED_FILES}
        shutil.rmtree(self._now.out, ignore_errors=True)
        return found

    def close(self) -> None:
        """End the worker, and remove everything from the node's disk."""
        self._slot.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _carry_out(
        self, now: _Conversation, request: Request, spec: WorkerSpec, timeout: float
    ) -> None:
        """Ask the worker, and put its progress and then the end into the news."""
        try:
            final = self._slot.ask(request, spec, timeout, now.news.put)
            now.news.put(Answer(final, log=self._new_log()))
        except NotRecordedError as error:
            refusal = Refusal(
                error.reason,
                error.verdict,
                error.log,
                has_ended=isinstance(error, WorkerEndedError),
                is_launch=isinstance(error, LaunchError),
            )
            now.news.put(Answer(refusal=refusal, log=self._new_log()))
        except Exception as error:  # the caller waits for an answer, whatever happens here
            reason = f"the node failed: {type(error).__name__}: {error}"
            refusal = Refusal(reason, Verdict.ERROR, "", has_ended=False, is_launch=True)
            now.news.put(Answer(refusal=refusal))

    def _new_log(self) -> bytes:
        """Return what the worker has logged since the last answer, at most the end of it."""
        if not self._log.exists():
            return b""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._logged, size - MOST_LOG))
            self._logged = size
            return log.read(MOST_LOG)
