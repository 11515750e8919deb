"""The guardian: a worker and all that it started end with it, or with whoever asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from marked import MARK, alive, until

ROOT = Path(__file__).resolve().parents[2]
# A worker under its guardian. What it does stands in its first argument, in Python; it tells the
# numbers of its processes on standard output.
WORKER = """\
import os, signal, sys, time
from harness.worker.guardian import guarded

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # the test's own process may ignore some

def tell(text):
    os.write(1, f"{text}\\n".encode())

def sleep():
    while True:
        time.sleep(600)

def daemonise(run=sleep):
    "Start a process that leaves the session and holds nothing open."
    if os.fork() == 0:
        os.setsid()
        daemon = os.fork()
        if daemon == 0:
            os.closerange(0, 3)
            run()
            os._exit(0)
        tell(daemon)
        os._exit(0)
    os.wait()

def start_child():
    child = os.fork()
    if child == 0:
        sleep()
    tell(child)

def serve():
    tell(os.getpid())
    exec(sys.argv[1], globals())

guarded(serve)
"""
# A launcher: it starts that worker, passes on what the worker tells, and sleeps.
LAUNCHER = """\
import signal, subprocess, sys, time

for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
command = [sys.executable, *sys.argv[1:]]
worker = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""
NAME = attrgetter("name")
STARTS_OTHERS = "daemonise(); start_child(); tell('done'); "

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """Return the mark that every process of the test inherits."""
    return str(tmp_path)


@pytest.fixture
def start(mark: str, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts Python under the mark; at the end nothing of it is alive."""
    started: list[subprocess.Popen[str]] = []
    variables = {**os.environ, "PYTHONPATH": str(ROOT), MARK: mark}

    def run(*arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / "errors").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()
    assert until(lambda: not alive(mark), 5), alive(mark)


@pytest.fixture
def worker(start: Start) -> Start:
    """Return a function that starts a worker that does something."""
    return lambda do: start("-c", WORKER, do)


def told(process: subprocess.Popen[str]) -> list[int]:
    """Return the numbers of processes that a worker tells before `done`, its own first."""
    assert process.stdout is not None
    return [int(line) for line in iter(process.stdout.readline, "done\n")]


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def exists(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ("pass", 0),
        ("os._exit(7)", 7),
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP),
        ("os.kill(os.getpid(), signal.SIGBUS)", -signal.SIGBUS),
    ],
    ids=["end", "status", "exit", "raise", "SEGV", "ABRT", "KILL", "TERM", "HUP", "BUS"],
)
def test_a_worker_s_status_or_signal_is_its_guardian_s(worker: Start, do: str, status: int):
    """The launcher sees the guardian's end alone, and must learn what became of the worker."""
    assert worker(do).wait(10) == status


def test_the_end_of_a_worker_s_output_is_seen_while_its_guardian_lives(worker: Start):
    """The guardian does not hold the output open."""
    process = worker("tell('done'); os.close(1); sleep()")
    told(process)
    assert process.stdout.read() == ""
    assert process.poll() is None


@pytest.mark.parametrize(
    "do", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGSEGV)"], ids=["exit", "crash"]
)
def test_what_a_worker_started_ends_with_it(worker: Start, mark: str, do: str):
    """Also what left its session; and nobody's status is left for others to fetch."""
    process = worker(STARTS_OTHERS + do)
    pids = told(process)
    process.wait(10)
    assert len(pids) == 3
    assert alive(mark) == []
    assert [pid for pid in pids if exists(pid)] == []


@pytest.mark.parametrize(
    "do",
    ["sleep()", "sys.stdin.readline() or sleep()", "os.close(0); sleep()", "signal.pause()"],
    ids=["asleep", "reads", "closed-its-input", "waits-for-a-signal"],
)
def test_a_worker_ends_when_nobody_can_ask_it_any_more(worker: Start, mark: str, do: str):
    """Its launcher closed its end of the worker's input; the worker need not notice it itself."""
    process = worker(STARTS_OTHERS + do)
    told(process)
    assert len(alive(mark)) == 4  # the guardian, the worker, the daemon, the child
    process.stdin.close()
    assert process.wait(5) == -signal.SIGKILL
    assert alive(mark) == []


def test_a_worker_that_ignores_signals_or_was_stopped_ends_too(worker: Start, mark: str):
    """A kill is not asked whether it suits."""
    ignore = "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; "
    process = worker(f"{ignore}tell('done'); os.kill(os.getpid(), signal.SIGSTOP)")
    told(process)
    process.stdin.close()
    assert process.wait(5) == -signal.SIGKILL
    assert alive(mark) == []


def test_a_worker_reads_all_that_was_asked_while_its_launcher_lives(worker: Start):
    """The guardian takes nothing of the input, however long it waits."""
    process = worker("tell('done')\nfor line in sys.stdin: tell(int(line) + 1)")
    told(process)
    for number in range(5):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{number + 1}\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=NAME)
def test_a_worker_and_all_that_it_started_end_with_their_launcher(
    start: Start, mark: str, number: signal.Signals
):
    """However the launcher is killed, nothing computes on for nobody."""
    launcher = start("-c", LAUNCHER, "-c", WORKER, STARTS_OTHERS + "sleep()")
    told(launcher)
    assert len(alive(mark)) == 5  # the launcher, the guardian, the worker, the daemon, the child
    launcher.send_signal(number)
    assert launcher.wait(5) == -number
    assert until(lambda: not alive(mark), 5), alive(mark)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=NAME)
def test_a_guardian_that_is_told_to_end_ends_all_that_it_guards(
    worker: Start, mark: str, number: signal.Signals
):
    """Such as by `kill` with the number that a list of processes shows first."""
    process = worker(STARTS_OTHERS + "sleep()")
    pids = told(process)
    assert until(lambda: catches(process.pid, number), 5)
    process.send_signal(number)
    assert process.wait(5) == -number
    assert alive(mark) == []
    assert [pid for pid in pids if exists(pid)] == []


def test_a_guardian_keeps_to_what_its_launcher_ignores(start: Start):
    """Such as a closed terminal, under `nohup`."""
    ignores = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nguarded(serve)"
    script = WORKER.replace("guarded(serve)", ignores)
    process = start("-c", script, "tell('done'); sys.stdin.readline()")
    told(process)
    process.send_signal(signal.SIGHUP)
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.wait(5) == 0


def test_a_worker_ends_when_its_guardian_is_killed(worker: Start, mark: str):
    """The guardian can do nothing then; the system ends the worker."""
    process = worker("tell('done'); sleep()")
    told(process)
    process.kill()
    assert until(lambda: not alive(mark), 5), alive(mark)


def test_an_orphan_that_ends_before_the_worker_leaves_no_zombie(worker: Start):
    """A worker may run for hours and leave thousands."""
    process = worker("daemonise(lambda: None); tell('done'); sleep()")
    _, orphan = told(process)
    assert until(lambda: not exists(orphan), 5)
    assert process.poll() is None


def test_what_starts_while_others_are_ended_ends_too(worker: Start, mark: str):
    """The guardian looks again until there is nobody left."""
    tree = "[os.fork() for _ in range(4)]; os.setsid() if os.getpid() % 2 else None; sleep()"
    process = worker(tree)
    assert until(lambda: len(alive(mark)) == 17, 10)
    process.stdin.close()
    assert process.wait(5) == -signal.SIGKILL
    assert alive(mark) == []


@pytest.mark.parametrize("lacking", ["fork", "waitid"])
def test_a_system_without_the_means_serves_without_a_guardian(start: Start, lacking: str):
    """Windows has no `fork`, and macOS had no `waitid` before Python 3.13."""
    script = WORKER.replace("guarded(serve)", f"del os.{lacking}\nguarded(serve)")
    process = start("-c", script, "tell('done')")
    assert told(process) == [process.pid]
    assert process.wait(5) == 0


WITHOUT_FORK = WORKER.replace("guarded(serve)", "del os.fork\nguarded(serve)")


@pytest.mark.parametrize(
    "do", ["sleep()", "sys.stdin.readline() or sleep()"], ids=["busy", "reads"]
)
def test_a_worker_without_a_guardian_ends_with_its_input(start: Start, mark: str, do: str):
    """Also in the midst of a case, when it does not read."""
    process = start("-c", WITHOUT_FORK, f"tell('done'); {do}")
    told(process)
    process.stdin.close()
    assert process.wait(5) == 0
    assert alive(mark) == []


def test_a_worker_without_a_guardian_reads_all_that_was_asked(start: Start):
    """Requests of several megabytes come whole through the pipe that stands for its input."""
    process = start("-c", WITHOUT_FORK, "tell('done')\nfor line in sys.stdin: tell(len(line))")
    told(process)
    for size in (1, 3_000_000, 10):
        process.stdin.write("x" * size + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{size + 1}\n"


def test_a_worker_without_a_guardian_ends_with_its_launcher(start: Start, mark: str):
    """However the launcher is killed, its end of the worker's input closes."""
    launcher = start("-c", LAUNCHER, "-c", WITHOUT_FORK, "tell('done'); sleep()")
    told(launcher)
    assert len(alive(mark)) == 2
    launcher.kill()
    assert until(lambda: not alive(mark), 5), alive(mark)


def test_a_library_may_ask_about_the_standard_input_of_a_worker_without_a_guardian(start: Start):
    """It is a pipe that nobody reads meanwhile: on Windows, asking would wait for its reader."""
    ask = "import stat; print(stat.S_ISFIFO(os.fstat(0).st_mode), os.fstat(0).st_ino != before)"
    script = WITHOUT_FORK.replace("del os.fork", "del os.fork\nbefore = os.fstat(0).st_ino")
    process = start("-c", script, f"{ask}; sys.stdout.flush(); tell('done')")
    assert [process.stdout.readline() for _ in range(2)][1] == "True True\n"
