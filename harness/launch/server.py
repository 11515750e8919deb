"""The server behind `harness serve`: it keeps workers alive between runs, and lends them out.

A worker is lent to one connection at a time. It is what the borrower would have started itself: the
borrower sends every variable, the working directory and digests of the code. Where one of them is
another, or a file that the worker has loaded was changed, a fresh worker takes its place.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from harness.errors import HarnessError, UsageError, WorkerEndedError, writing
from harness.launch.events import Checked
from harness.launch.launcher import Request
from harness.launch.process import Surroundings, Worker
from harness.launch.serve_socket import (
    OF_SHELLS,
    Message,
    Messages,
    identity,
    is_same_user,
    make_private,
)
from harness.store.typed_json import encode
from harness.worker.files import digest_json

LOOK_SECONDS = 0.2  # how often the server looks whether it is to end
CHECK_SECONDS = 30.0  # for a warm worker to look at the files of its code
GREET_SECONDS = 10.0
MOST_WORKERS = 4  # that wait for another run; beyond it, the one that waited longest ends


@dataclass
class _Warm:
    """A worker and what it was started for.

    Attributes:
        worker: The process.
        log: What its libraries print.
        setting: The digest of its interpreter, variables and working directory.
        code: The digest of installed packages and of the project's code.
        asked: How many requests it has answered.
        idle_since: When it was given back, by the monotonic clock.
    """

    worker: Worker
    log: Path
    setting: str
    code: str
    asked: int = 0
    idle_since: float = 0.0


class Server:
    """Serves on a socket until it is told to end, or nobody has asked for some time.

    Attributes:
        path: The socket.

    Args:
        path: The socket, in a folder that becomes the user's own.
        idle: Seconds without a connection after which it ends.
    """

    def __init__(self, path: Path, idle: float) -> None:
        self.path = path
        self._idle = idle
        self._ours = identity()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[_Warm] = []
        self._lent: list[_Warm] = []
        self._connections = 0
        self._last = time.monotonic()
        self._started = 0

    def serve(self) -> None:
        """Serve; afterwards no worker lives and the socket is gone, also after Ctrl-C.

        Raises:
            UsageError: Another process serves on the socket already.
            FileError: The folder is not this user's own, or the socket cannot be made.
        """
        make_private(self.path.parent)
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError("harness serve runs already; see harness serve --status") from None
        try:
            with self._listening() as listener:
                self._accept(listener)
        finally:
            self.path.unlink(missing_ok=True)
            self._end_workers()
            lock.release()

    def stop(self) -> None:
        """Have `serve` return soon."""
        self._stopping.set()

    def _listening(self) -> socket.socket:
        """Return the listening socket; one that a killed server left behind makes room."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            listener.bind(str(self.path))
            self.path.chmod(0o600)
            listener.listen()
        listener.settimeout(LOOK_SECONDS)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while not (self._stopping.is_set() or self._is_idle()):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with self._lock:
                self._connections += 1
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._connections and time.monotonic() - self._last > self._idle

    def _serve_one(self, connection: socket.socket) -> None:
        """Serve one connection to its end; whatever goes wrong there is its own loss."""
        try:
            with connection:
                connection.settimeout(GREET_SECONDS)
                if is_same_user(connection):
                    self._converse(connection, Messages(connection))
        except (OSError, KeyError, TypeError, ValueError):  # it is gone, or speaks otherwise
            pass
        finally:
            with self._lock:
                self._connections -= 1
                self._last = time.monotonic()

    def _converse(self, connection: socket.socket, messages: Messages) -> None:
        first = messages.receive() or {}
        if "status" in first:
            messages.send(self._status())
        elif "stop" in first:
            messages.send({"stopping": os.getpid()})
            self.stop()
        elif "hello" in first:
            refusal = self._refusal(first["hello"])
            messages.send({"refused": refusal} if refusal else {"welcome": os.getpid()})
            connection.settimeout(None)
            if not refusal:
                _Loan(self, connection, messages).serve()

    def _refusal(self, theirs: object) -> str:
        """Return why a run gets no workers; empty where it does."""
        told = theirs if isinstance(theirs, dict) else {}
        words = {
            "format": "it speaks another version of the protocol; restart it",
            "harness": "the harness's own code has changed since it started; restart it",
            "python": "it runs another Python; restart it",
            "processors": "it may use other processors than this run",
        }
        return next((why for key, why in words.items() if told.get(key) != self._ours[key]), "")

    def _status(self) -> Message:
        with self._lock:
            warm = [
                {"lent": each in self._lent, "requests": each.asked, "setting": each.setting[:8]}
                for each in (*self._lent, *self._waiting)
            ]
        left = self._idle - (time.monotonic() - self._last)
        return {"pid": os.getpid(), "workers": warm, "ends-in": max(0.0, left)}

    # Lending.

    def lend(self, asked: Mapping[str, object]) -> tuple[_Warm, str | None]:
        """Return a worker for a request, and why it is a fresh one; None where it is warm.

        Raises:
            LaunchError: None can be started.
        """
        setting, code = _setting(asked), _code(asked)
        why = ""
        for found in self._take(setting):
            if found.code != code:
                why = "installed packages or the project's code have changed"
            elif (changed := _changed_files(found.worker)) is None:
                why = "the one that was warm had ended"
            elif changed:
                why = f"the code that it had loaded has changed: {changed[0]}"
            else:
                self._keep_lent(found)
                return found, None
            found.worker.close()
        with self._lock:
            self._started += 1
            log = self.path.with_suffix("") / f"worker-{self._started}.log"
        python = asked.get("python")
        around = Surroundings(cast("dict[str, str]", asked["environment"]), str(asked["folder"]))
        worker = Worker({}, log, None if python is None else Path(str(python)), around)
        made = _Warm(worker, log, setting, code)
        self._keep_lent(made)
        return made, why

    def give_back(self, warm: _Warm, *, is_usable: bool) -> None:
        """Take a worker back; one that failed, or that was interrupted, is ended."""
        surplus = []
        with self._lock:
            self._lent = [each for each in self._lent if each is not warm]
            if is_usable and not self._stopping.is_set():
                warm.idle_since = time.monotonic()
                self._waiting.append(warm)
                self._waiting.sort(key=lambda each: each.idle_since)
                surplus = self._waiting[:-MOST_WORKERS]
                self._waiting = self._waiting[-MOST_WORKERS:]
            else:
                surplus = [warm]
        for each in surplus:
            each.worker.close()
            each.log.unlink(missing_ok=True)

    def end_waiting(self) -> None:
        """End the workers that nobody has borrowed."""
        with self._lock:
            ended, self._waiting = self._waiting, []
        for each in ended:
            each.worker.close()
            each.log.unlink(missing_ok=True)

    def _take(self, setting: str) -> list[_Warm]:
        """Take one waiting worker of a setting out, if there is one."""
        with self._lock:
            found = [each for each in self._waiting if each.setting == setting][-1:]
            self._waiting = [each for each in self._waiting if each not in found]
        return found

    def _keep_lent(self, warm: _Warm) -> None:
        with self._lock:
            self._lent.append(warm)

    def _end_workers(self) -> None:
        self.stop()
        with self._lock:
            self._waiting += self._lent
            self._lent = []
        self.end_waiting()
        with contextlib.suppress(OSError):
            self.path.with_suffix("").rmdir()


class _Loan:
    """One connection that asks for work: it holds at most one worker, until it ends."""

    def __init__(self, server: Server, connection: socket.socket, messages: Messages) -> None:
        self._server = server
        self._connection = connection
        self._messages = messages
        self._held: _Warm | None = None
        self._is_usable = True

    def serve(self) -> None:
        """Answer every request of the connection."""
        try:
            while (asked := self._messages.receive()) is not None:
                self._answer(asked)
        finally:
            if self._held is not None:
                self._server.give_back(self._held, is_usable=self._is_usable)

    def _answer(self, asked: Message) -> None:
        try:
            held = self._worker_for(asked)
            request = cast("Request", asked["ask"])
            timeout = float(cast("float", asked["timeout"]))
            self._is_usable = False  # unless it answers
            with _ended_with(self._connection, held.worker):
                event = held.worker.ask(request, timeout, self._tell)
            held.asked += 1
            self._send_log(held)
            self._is_usable = True
            self._messages.send(cast("Message", encode(event)))
        except WorkerEndedError as error:
            self._fail("ended", error)
        except HarnessError as error:
            self._fail("failed", error)

    def _worker_for(self, asked: Message) -> _Warm:
        held = self._held
        if held is not None and self._is_usable and held.setting == _setting(asked):
            return held
        if held is not None:
            self._held = None
            self._server.give_back(held, is_usable=self._is_usable)
        self._held, fresh = self._server.lend(asked)
        self._is_usable = True
        self._messages.send({"warm": True} if fresh is None else {"fresh": fresh})
        return self._held

    def _tell(self, doing: str) -> None:
        with contextlib.suppress(OSError):  # who asked has gone, which ends the worker
            self._messages.send({"event": "progress", "case": "", "doing": doing})

    def _fail(self, kind: str, error: HarnessError) -> None:
        if self._held is not None:
            self._send_log(self._held)
        self._messages.send({kind: str(error)})

    def _send_log(self, held: _Warm) -> None:
        """Send what the worker's libraries have printed since, and forget it."""
        with contextlib.suppress(OSError):
            text = held.log.read_text(encoding="utf-8", errors="replace")
            os.truncate(held.log, 0)
            if text:
                self._messages.send({"log": text})


def _setting(asked: Mapping[str, object]) -> str:
    """Return the digest of what a worker must have been started with."""
    environment = cast("dict[str, str]", asked["environment"])
    kept = {name: value for name, value in environment.items() if name not in OF_SHELLS}
    facts = {"environment": kept, "folder": asked["folder"], "python": asked["python"]}
    return digest_json(facts)


def _code(asked: Mapping[str, object]) -> str:
    return digest_json({name: asked[name] for name in ("installed", "own-code")})


def _changed_files(worker: Worker) -> tuple[str, ...] | None:
    """Return files of a worker's code that were changed; None where it does not answer."""
    try:
        event = worker.ask({"changed": {}}, CHECK_SECONDS, lambda _doing: None)
    except HarnessError:
        return None
    return event.changed if isinstance(event, Checked) else None


@contextlib.contextmanager
def _ended_with(connection: socket.socket, worker: Worker) -> Iterator[None]:
    """End a worker when who asked it is gone, as it would end with a run that is interrupted.

    Nobody waits for the thread that watches: it looks only for the end of the connection, which
    comes after the answer where there is one.
    """
    is_over = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):  # the connection was closed meanwhile
            while not is_over.is_set():
                readable, _, _ = select.select([connection], [], [], LOOK_SECONDS)
                if readable and not is_over.is_set():
                    if _is_gone(connection):
                        worker.close()
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _is_gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
