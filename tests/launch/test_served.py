"""Workers that outlive a run: lent to one run at a time, and only where they would be its own."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from marked import MARK, alive, until
from servers import private_folder, serving

from harness.errors import FileError, LaunchError, UsageError, WorkerEndedError
from harness.launch import serve_socket, served, server
from harness.launch.events import Unverified
from harness.launch.launcher import WorkerSpec
from harness.launch.serve_socket import Messages, identity, is_private, make_private
from harness.launch.served import Notes, NotServedError, ServedWorker, connect, served_launcher
from harness.launch.server import Server

# Answers with its process; with a file CHANGED beside it, it names that as changed code.
WORKER = """\
#!{python}
import json, os, sys, time
from pathlib import Path

def send(event, **fields):
    os.write(1, (json.dumps(dict(event=event, **fields)) + "\\n").encode())

send("ready")
for line in sys.stdin:
    request = json.loads(line)
    if "changed" in request:
        send("checked", changed=[each.name for each in Path({folder!r}).glob("CHANGED")])
        continue
    do = request["describe"]["mode"]
    if do == "sleep":
        time.sleep(600)
    if do == "die":
        os._exit(3)
    if do == "print":
        print("out of luck", file=sys.stderr, flush=True)
    send("unverified", reason=str(os.getpid()))
"""


@pytest.fixture
def puppet(tmp_path: Path) -> Path:
    """Write a program that speaks the worker's protocol."""
    path = tmp_path / "puppet"
    path.write_text(WORKER.format(python=sys.executable, folder=str(tmp_path)), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def host() -> Iterator[Server]:
    """Run a server."""
    with serving() as running:
        yield running


Borrow = Callable[..., ServedWorker]


@pytest.fixture
def notes() -> Notes:
    """Return what a run is told of its workers."""
    return Notes()


@pytest.fixture
def borrow(host: Server, puppet: Path, notes: Notes, tmp_path: Path) -> Borrow:
    """Borrow a worker of the server, with settings."""

    def one(**settings: str) -> ServedWorker:
        marked = {MARK: str(tmp_path), **settings}
        log = tmp_path / "logs" / "worker.log"
        return ServedWorker(marked, log, puppet, notes, identity(), host.path)

    return one


def pid(worker: ServedWorker, do: str = "") -> int:
    """Ask a worker, and return its process."""
    arguments = {"framework": "torch", "device": "cpu", "dtype": "float32", "mode": do}
    event = worker.ask({"describe": arguments}, 30.0, lambda _doing: None)
    assert isinstance(event, Unverified)
    return int(event.reason)


def run(borrow: Borrow, do: str = "", **settings: str) -> int:
    """Borrow a worker, ask it once, and give it back."""
    worker = borrow(**settings)
    try:
        return pid(worker, do)
    finally:
        worker.close()


def again(borrow: Borrow, host: Server, **settings: str) -> int:
    """Borrow a worker once the last one was given back."""
    assert until(lambda: not host._lent, 10)
    return run(borrow, **settings)


def test_a_second_run_gets_the_worker_of_the_first(borrow: Borrow, host: Server, notes: Notes):
    """And is told so."""
    first = run(borrow)
    assert again(borrow, host) == first
    assert notes.lines == ["harness serve gave 1 warm worker(s)"]


def test_two_runs_at_once_get_two_workers(borrow: Borrow):
    """Each of them alone."""
    one, other = borrow(), borrow()
    assert pid(one) != pid(other)
    one.close()
    other.close()


def test_another_variable_or_folder_is_another_worker(
    borrow: Borrow, host: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A shell's own variables are none that count."""
    first = run(borrow)
    assert again(borrow, host, OMP_NUM_THREADS="3") != first
    monkeypatch.setenv("SOME_SETTING", "1")
    assert again(borrow, host) != first
    monkeypatch.delenv("SOME_SETTING")
    monkeypatch.setenv("SHLVL", "7")
    assert again(borrow, host) == first
    monkeypatch.chdir(tmp_path)
    assert again(borrow, host) != first


def test_code_that_was_edited_ends_the_worker_that_loaded_it(
    borrow: Borrow, host: Server, notes: Notes, tmp_path: Path
):
    """The run gets a fresh one, and is told which file."""
    first = run(borrow)
    (tmp_path / "CHANGED").touch()
    second = again(borrow, host)
    assert second != first
    assert notes.lines == [
        "harness serve started a worker afresh: the code that it had loaded has changed: CHANGED"
    ]
    assert until(lambda: len(alive(str(tmp_path))) == 1, 10)


@pytest.mark.parametrize("what", ["digest_of_installed", "own_code"])
def test_other_packages_or_own_code_end_the_worker(
    borrow: Borrow, host: Server, notes: Notes, monkeypatch: pytest.MonkeyPatch, what: str
):
    """Also where no loaded file shows it."""
    first = run(borrow)
    monkeypatch.setattr(served, what, lambda _of: "other")
    assert again(borrow, host) != first
    assert "installed packages or the project's code have changed" in notes.lines[0]


@pytest.mark.parametrize("key", ["format", "harness", "python", "processors"])
def test_a_server_of_another_harness_is_not_used(
    host: Server, monkeypatch: pytest.MonkeyPatch, key: str
):
    """The run starts its own workers, and says why."""
    ours = {**identity(), key: "other"}
    monkeypatch.setattr(served, "identity", lambda: ours)
    with pytest.raises(NotServedError) as caught:
        served_launcher(host.path)
    assert str(caught.value)


def test_a_run_that_is_interrupted_ends_its_worker(borrow: Borrow, host: Server, tmp_path: Path):
    """As it would end a worker of its own; the next run gets another one."""
    worker = borrow()
    first = pid(worker)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            pid(worker, "sleep")
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    worker.close()
    thread.join(30)
    assert isinstance(failed[0], WorkerEndedError)
    assert until(lambda: not alive(str(tmp_path)), 10)
    assert again(borrow, host) != first


def test_a_crash_is_told_and_the_next_run_gets_another_worker(borrow: Borrow, host: Server):
    """With the words of the worker's own error."""
    first = run(borrow)
    with pytest.raises(WorkerEndedError, match="ended with status 3"):
        run(borrow, "die")
    assert again(borrow, host) != first


def test_what_a_worker_prints_is_in_the_log_of_the_run(
    borrow: Borrow, host: Server, tmp_path: Path
):
    """Of that run alone: the next one does not get it again."""
    log = tmp_path / "logs" / "worker.log"
    run(borrow, "print")
    assert log.read_text(encoding="utf-8") == "out of luck\n"
    again(borrow, host)
    assert log.read_text(encoding="utf-8") == "out of luck\n"


def test_a_server_that_is_gone_leaves_the_run_to_its_own_workers(
    host: Server, puppet: Path, tmp_path: Path
):
    """It was there when the run began."""
    launcher = served_launcher(host.path)
    host.stop()
    assert until(lambda: not host.path.exists(), 10)
    slot = launcher.slot(tmp_path / "worker.log")
    arguments = {"framework": "torch", "device": "cpu", "dtype": "float32", "mode": ""}
    event = slot.ask({"describe": arguments}, WorkerSpec(python=puppet), 30.0, lambda _: None)
    assert isinstance(event, Unverified)
    slot.end()
    assert launcher.notes() == ["harness serve started a worker afresh: the server has ended"]


# Who may use it.


def test_a_folder_that_others_can_enter_is_refused():
    """Nor a link to one; and no run looks into it."""
    with private_folder() as folder:
        make_private(folder / "own")
        assert (folder / "own").stat().st_mode & 0o777 == 0o700
        (folder / "open").mkdir(mode=0o755)
        (folder / "open").chmod(0o755)
        (folder / "link").symlink_to(folder / "own")
        for name, why in (("open", "can be entered by other users"), ("link", "is no folder")):
            assert not is_private(folder / name)
            with pytest.raises(FileError, match=why):
                make_private(folder / name)
        with pytest.raises(NotServedError):
            connect(folder / "open" / "serve.sock")


def test_another_user_gets_no_answer(host: Server, monkeypatch: pytest.MonkeyPatch):
    """The system says who is at the other end; a root that may enter every folder is one too."""
    monkeypatch.setattr(server, "is_same_user", lambda _connection: False)
    with pytest.raises(NotServedError):
        served_launcher(host.path)


def test_a_server_of_another_user_is_not_believed(host: Server, monkeypatch: pytest.MonkeyPatch):
    """A run sends it nothing."""
    monkeypatch.setattr(served, "is_same_user", lambda _connection: False)
    with pytest.raises(NotServedError):
        connect(host.path)


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="this system tells no credentials")
def test_the_system_tells_who_is_at_the_other_end(monkeypatch: pytest.MonkeyPatch):
    """This user is; any other number is not."""
    one, other = socket.socketpair()
    with one, other:
        assert serve_socket.is_same_user(one)
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        assert not serve_socket.is_same_user(one)


@pytest.mark.parametrize(
    "sent", [b"\n", b"[]\n", b"{\n", b'{"hello": 3}\n', b'{"ask": {}}\n', b"\xff\n", b""]
)
def test_what_is_no_message_hurts_nobody(host: Server, borrow: Borrow, sent: bytes):
    """The connection ends, and the server goes on."""
    with connect(host.path) as connection:
        connection.sendall(sent)
    with connect(host.path) as connection:
        messages = Messages(connection)
        messages.send({"hello": identity()})
        assert "welcome" in (messages.receive() or {})
        messages.send({"ask": {"describe": {}}})  # without what it needs
        assert messages.receive() is None
    assert run(borrow)


# Its life.


def test_it_ends_when_nobody_has_asked_for_some_time():
    """And takes its socket with it."""
    with private_folder() as folder:
        path = folder / "serve.sock"
        Server(path, 0.3).serve()
        assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_no_obstacle():
    """Nobody holds its lock."""
    with private_folder() as folder:
        path = folder / "serve.sock"
        left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        left.bind(str(path))
        left.close()
        with pytest.raises(NotServedError):
            connect(path)
        Server(path, 0.3).serve()
        assert not path.exists()


def test_a_second_server_is_refused(host: Server):
    """The first one goes on."""
    with pytest.raises(UsageError, match="runs already"):
        Server(host.path, 1.0).serve()
    assert host.path.exists()


def test_a_server_keeps_few_workers(borrow: Borrow, host: Server, tmp_path: Path):
    """The one that has waited longest ends."""
    for number in range(server.MOST_WORKERS + 2):
        again(borrow, host, NUMBER=str(number))
    assert until(lambda: len(alive(str(tmp_path))) == server.MOST_WORKERS, 10)


def test_a_worker_that_cannot_start_is_an_error_of_its_case(
    host: Server, notes: Notes, tmp_path: Path
):
    """The server goes on."""
    log = tmp_path / "worker.log"
    worker = ServedWorker({}, log, tmp_path / "nowhere", notes, identity(), host.path)
    with pytest.raises(LaunchError, match="cannot be started"):
        pid(worker)
    worker.close()
    assert host.path.exists()
