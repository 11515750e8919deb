"""Workers and their launcher: whatever a worker does, the wait is bounded and nothing stays."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from marked import MARK, alive, until

from harness.errors import FileError, LaunchError
from harness.launch import process
from harness.launch.events import Final, Unverified
from harness.launch.launcher import WorkerSpec
from harness.launch.local import LocalSlot
from harness.launch.process import (
    FULL,
    MINDSPORE,
    PORTABLE,
    QUIET,
    Worker,
    variables,
)
from harness.scenario.fields import Determinism, Framework, Profile

# A worker under the real guardian, which does what its requests say, in Python.
PUPPET = """\
#!{python}
import json, os, signal, sys, time
from harness.worker.guardian import guarded

def write(text):
    os.write(1, text.encode() if isinstance(text, str) else text)

def send(event, **fields):
    write(json.dumps(dict(event=event, **fields)) + "\\n")

def daemonise():
    "Start a process that leaves the session, keeps every pipe open and sleeps."
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()

def serve():
    exec(os.environ.get("AT_START", ""), globals())
    send("ready")
    for line in sys.stdin:
        call = json.loads(line)["case"]["call"]
        send("progress", case="x", doing="run 1 of 2")
        exec(call.get("do", ""), dict(globals(), call=call))
        send("unverified", reason=str(os.getpid()))

if os.environ.get("GUARDIAN") == "none":
    serve()
else:
    guarded(serve)
"""
WHILE = "while run 1 of 2"
NOT_AN_EVENT = f"the worker wrote what is no event, {WHILE}: "
NO_JSON = "Expecting value: line 1 column 1 (char 0)"
EXPECTED_EVENT = f"{NOT_AN_EVENT}expected an event of the protocol, found "
KILLED = "the worker was killed by"
CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"
LONG = 30.0  # seconds that no test waits for
BRIEF = 0.5  # seconds that a test of a time-out waits for

# What the worker does when it is asked, for how many seconds it is waited for, and the error.
FAULTS = {
    "writes-garbage": (
        "write('Segmentation fault (core dumped)\\n')",
        LONG,
        NOT_AN_EVENT + NO_JSON,
    ),
    "writes-bytes-that-are-no-text": (
        "write(bytes(range(128, 256)) + b'\\n')",
        LONG,
        NOT_AN_EVENT + NO_JSON,
    ),
    "writes-a-list": ("write('[1, 2]\\n')", LONG, EXPECTED_EVENT + "[1, 2]"),
    "writes-an-object-without-event": (
        'write(\'{"doing": "x"}\\n\')',
        LONG,
        EXPECTED_EVENT + '{"doing": "x"}',
    ),
    "writes-an-event-that-is-a-list": (
        "write('{\"event\": []}\\n')",
        LONG,
        EXPECTED_EVENT + '{"event": []}',
    ),
    "says-unverified-without-a-reason": (
        "send('unverified')",
        LONG,
        NOT_AN_EVENT + "$: the key `reason` is missing",
    ),
    "writes-a-line-of-20-MB-without-an-end": (
        "write('x' * 20_000_000)",
        LONG,
        f"the worker wrote a line of over {process.MOST_LINE} characters",
    ),
    "writes-an-unknown-key-of-a-megabyte": (
        "send('ready', **{'k' * 1_000_000: 1})",
        LONG,
        f"{NOT_AN_EVENT}$: unknown key `{'k' * 1_000_000}`"[
            : len(NOT_AN_EVENT) + process.MOST_QUOTED
        ],
    ),
    "writes-40-MB-of-events-and-crashes": (
        f"for _ in range(400): send('progress', case='x', doing='d' * 100_000)\n{CRASH}",
        LONG,
        f"{KILLED} SIGSEGV, while {'d' * process.MOST_QUOTED}",
    ),
    "logs-40-MB-and-crashes": (
        f"for _ in range(40): os.write(2, b'e' * 1_000_000)\n{CRASH}",
        LONG,
        f"{KILLED} SIGSEGV, {WHILE}; its last words: {'e' * process.MOST_QUOTED}",
    ),
    "closes-its-output-and-sleeps": (
        "os.close(1); time.sleep(600)",
        LONG,
        f"the worker closed its output but did not end, {WHILE}",
    ),
    "closes-its-input-and-sleeps": (
        "os.close(0); time.sleep(600)",
        BRIEF,
        f"timed out after {BRIEF:g} s, {WHILE}",
    ),
    "never-answers": ("time.sleep(600)", BRIEF, f"timed out after {BRIEF:g} s, {WHILE}"),
    "tells-its-progress-for-ever": (
        "while True: send('progress', case='x', doing='round and round')",
        BRIEF,
        f"timed out after {BRIEF:g} s, while round and round",
    ),
    "says-ready-for-ever": (
        "while True: send('ready')",
        BRIEF,
        f"timed out after {BRIEF:g} s, {WHILE}",
    ),
    "is-ended-by-SIGSEGV": (CRASH, LONG, f"{KILLED} SIGSEGV, {WHILE}"),
    "is-ended-by-SIGABRT": (
        "os.write(2, b'CUDA error\\n'); os.abort()",
        LONG,
        f"{KILLED} SIGABRT, {WHILE}; its last words: CUDA error",
    ),
    "is-ended-by-SIGKILL": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        LONG,
        f"{KILLED} SIGKILL (often: out of memory), {WHILE}",
    ),
    "is-ended-by-SIGTERM": (
        "os.kill(os.getpid(), signal.SIGTERM)",
        LONG,
        f"{KILLED} SIGTERM, {WHILE}",
    ),
    "exits-with-0-in-the-middle": ("os._exit(0)", LONG, f"the worker ended with status 0, {WHILE}"),
    "exits-with-7-in-the-middle": ("sys.exit(7)", LONG, f"the worker ended with status 7, {WHILE}"),
    "leaves-a-daemon-that-keeps-its-output-open": (
        "daemonise(); os._exit(3)",
        LONG,
        f"the worker ended with status 3, {WHILE}",
    ),
    "hangs-beside-a-daemon": (
        "daemonise(); time.sleep(600)",
        BRIEF,
        f"timed out after {BRIEF:g} s, {WHILE}",
    ),
    "leaves-children-that-live-on": (
        "[os.fork() or time.sleep(600) for _ in range(3)]; os._exit(4)",
        LONG,
        f"the worker ended with status 4, {WHILE}",
    ),
}

# The same for what a worker does before it is ready.
FAULTS_AT_START = {
    "never-says-ready": ("time.sleep(600)", f"timed out after {BRIEF:g} s, while starting"),
    "tells-its-progress-for-ever-and-never-says-ready": (
        "while True: send('progress', case='x', doing='importing')",
        f"timed out after {BRIEF:g} s, while importing",
    ),
    "dies-at-start": (
        "sys.exit('no module named torch')",
        "the worker ended with status 1, while starting; its last words: no module named torch",
    ),
    "says-hello": (
        "write('hello\\n')",
        f"{NOT_AN_EVENT.replace(WHILE, 'while starting')}{NO_JSON}",
    ),
    "answers-before-it-is-asked": (
        "send('recorded')",
        "the worker wrote `recorded` before it was asked",
    ),
}


@pytest.fixture
def puppet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the launcher start the script above, and wait less long than for torch."""
    path = tmp_path / "puppet"
    path.write_text(PUPPET.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(process, "EXIT_SECONDS", BRIEF)
    return path


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the mark that every process started by the test inherits."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def slot(puppet: Path, mark: str, tmp_path: Path) -> Iterator[LocalSlot]:
    """Return a slot for the script; at the end nothing that it started is alive."""
    slot = LocalSlot(tmp_path / "worker.log")
    yield slot
    slot.end()
    assert until(lambda: not alive(mark), 2), alive(mark)


def asked(slot: LocalSlot, do: str = "", timeout: float = LONG, **settings: str) -> Final:
    """Ask a worker with these settings to do something, and return its answer."""
    request = {"case": {"id": "x", "call": {"do": do}}, "out": "", "known": {}}
    return slot.ask(request, WorkerSpec(settings), timeout, lambda _doing: None)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_worker_is_its_case_s_error_and_the_next_worker_works(
    name: str, slot: LocalSlot, mark: str
):
    """The error soon says what happened, no process is left, and another worker takes over."""
    do, timeout, error = FAULTS[name]
    before = asked(slot)
    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        asked(slot, do, timeout)
    assert time.monotonic() - started < 10
    assert caught.value.reason == error
    assert until(lambda: not alive(mark), 2), alive(mark)
    after = asked(slot)
    assert isinstance(after, Unverified)
    assert after.reason != before.reason


@pytest.mark.parametrize("name", FAULTS_AT_START)
def test_a_fault_at_the_start_of_a_worker_is_an_error_and_the_next_worker_works(
    name: str, slot: LocalSlot, mark: str, monkeypatch: pytest.MonkeyPatch
):
    """A worker that cannot start must not stop those with other settings."""
    do, error = FAULTS_AT_START[name]
    if error.startswith("timed out"):
        monkeypatch.setattr(process, "START_SECONDS", BRIEF)
    with pytest.raises(LaunchError) as caught:
        asked(slot, AT_START=do)
    assert caught.value.reason == error
    assert until(lambda: not alive(mark), 2), alive(mark)
    monkeypatch.setattr(process, "START_SECONDS", LONG)
    assert isinstance(asked(slot), Unverified)


def test_a_worker_that_answers_twice_does_not_answer_the_next_case(slot: LocalSlot, mark: str):
    """The second answer is found before the next request is sent, and the worker is replaced."""
    assert asked(slot, "send('unverified', reason='the first')").reason == "the first"
    assert until(lambda: not slot._worker._lines.empty(), 5)
    with pytest.raises(LaunchError, match="wrote without being asked") as caught:
        asked(slot, "send('unverified', reason='never sent')")
    assert '"event": "unverified"' in caught.value.reason
    assert until(lambda: not alive(mark), 2)
    assert isinstance(asked(slot), Unverified)


def test_a_worker_that_reads_no_requests_does_not_stop_the_launcher(slot: LocalSlot, mark: str):
    """A request may be larger than a pipe's buffer; the time-out holds for writing it too."""
    sleeper = "send('ready'); time.sleep(600)"
    with pytest.raises(LaunchError) as caught:
        asked(slot, "#" * 1_000_000, BRIEF, AT_START=sleeper)
    assert caught.value.reason == f"timed out after {BRIEF:g} s, while starting"
    assert until(lambda: not alive(mark), 2)


def test_a_request_of_several_megabytes_arrives_whole(slot: LocalSlot):
    """Such as prompt embeddings, which a scenario may hold as lists."""
    answer = asked(slot, f"send('failed', reason=str(len(call['do']))) #{'x' * 3_000_000}")
    assert int(answer.reason) > 3_000_000


def test_what_a_worker_writes_unasked_does_not_fill_the_memory(slot: LocalSlot, mark: str):
    """It waits as it writes, and is ended all the same."""
    flood = "send('recorded')\nwhile True: send('progress', case='x', doing='d' * 1000)"
    asked(slot, flood)
    lines = slot._worker._lines
    assert until(lines.full, 10)
    assert lines.qsize() == process.MOST_EVENTS
    started = time.monotonic()
    slot._close()
    assert time.monotonic() - started < process.CLOSE_SECONDS
    assert until(lambda: not alive(mark), 2)


def test_closing_a_worker_ends_what_it_started(slot: LocalSlot, mark: str):
    """Also what left its session and its group of processes; a second time does no harm."""
    asked(slot, "daemonise(); os.fork() or time.sleep(600)")
    worker = slot._worker
    assert len(alive(mark)) == 4  # the guardian, the worker, the daemon, the child
    worker.close()
    assert alive(mark) == []
    worker.close()


def test_the_status_of_a_worker_without_a_guardian_is_told_while_others_hold_its_output(
    slot: LocalSlot, mark: str
):
    """Where the system cannot fork, a process that lives on must not be waited for."""
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"the worker ended with status 3, while run 1 of 2"):
        asked(slot, "os.fork() or time.sleep(600); os._exit(3)", GUARDIAN="none")
    assert time.monotonic() - started < 10
    assert until(lambda: not alive(mark), 2)


def test_a_worker_is_kept_while_its_settings_stay(slot: LocalSlot):
    """Each start costs the seconds that torch takes to be imported."""
    first, same, other = asked(slot), asked(slot), asked(slot, OTHER="1")
    assert first == same != other


def test_a_slot_that_was_ended_starts_no_other_worker(slot: LocalSlot, mark: str):
    """A thread that asks after Ctrl-C gets an error instead of a process that nobody ends."""
    slot.end()
    with pytest.raises(LaunchError, match="the run is over"):
        asked(slot)
    assert alive(mark) == []


def test_an_interpreter_that_cannot_be_started_is_an_error_of_its_case(tmp_path: Path):
    """An environment may have been removed meanwhile; the log is not to blame."""
    python = tmp_path / "gone" / "python"
    with pytest.raises(LaunchError) as caught:
        Worker({}, tmp_path / "worker.log", python)
    assert caught.value.reason == f"{python} cannot be started: No such file or directory"


def test_a_log_that_cannot_be_written_is_named(puppet: Path, mark: str, tmp_path: Path):
    """No worker is started without one."""
    (tmp_path / "logs").write_text("a file in the way", encoding="utf-8")
    log = tmp_path / "logs" / "worker.log"
    with pytest.raises(FileError, match=f"{re.escape(str(log))}: cannot be written: "):
        Worker({}, log)
    assert alive(mark) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((Determinism.DEFAULT, {}), QUIET),
        ((Determinism.FULL, {}), {**QUIET, **FULL}),
        (
            (Determinism.FULL, {}, Profile.PORTABLE),
            {**QUIET, **FULL, **PORTABLE},
        ),
        (
            (Determinism.DEFAULT, {}, Profile.NATIVE, Framework.MINDSPORE),
            {**QUIET, **MINDSPORE},
        ),
        (
            (Determinism.FULL, {"OMP_NUM_THREADS": "4", "MKL_CBWR": None}),
            {**QUIET, **FULL, "OMP_NUM_THREADS": "4", "MKL_CBWR": None},
        ),
    ],
    ids=["default", "full", "portable", "mindspore", "own-settings-win"],
)
def test_a_worker_s_variables_follow_from_its_case(arguments, expected):
    """What libraries read at import must be there before the worker starts."""
    assert variables(*arguments) == expected


def test_a_worker_starts_with_its_variables_in_place_of_the_caller_s(
    slot: LocalSlot, monkeypatch: pytest.MonkeyPatch
):
    """One that is set to nothing is taken away; a debugger's blocking launches are never passed."""
    for name in ("PYTHONOPTIMIZE", "CUDA_LAUNCH_BLOCKING", "OMP_NUM_THREADS", "KEPT"):
        monkeypatch.setenv(name, "1")
    tell = "send('failed', reason=json.dumps(dict(os.environ)))"
    request = {"case": {"id": "x", "call": {"do": tell}}, "out": "", "known": {}}
    settings = {"PYTHONOPTIMIZE": None, "OMP_NUM_THREADS": "7"}
    answer = slot.ask(request, WorkerSpec(settings), LONG, lambda _doing: None)
    given = json.loads(answer.reason)
    assert (given["OMP_NUM_THREADS"], given["KEPT"], given["PYTHONSAFEPATH"]) == ("7", "1", "1")
    assert not {"PYTHONOPTIMIZE", "CUDA_LAUNCH_BLOCKING"} & set(given)


def test_another_environment_gets_no_search_path_of_the_caller_s(
    puppet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its own packages come first; the caller's belong to another interpreter."""
    monkeypatch.setenv("PYTHONPATH", "/the/caller's")
    tell = "send('failed', reason=os.environ['PYTHONPATH'])"
    request = {"case": {"id": "x", "call": {"do": tell}}, "out": "", "known": {}}
    found = []
    for python in (None, puppet):
        worker = Worker({}, tmp_path / "worker.log", python)
        found.append(worker.ask(request, LONG, lambda _doing: None).reason.split(os.pathsep))
        worker.close()
    package = str(process.PACKAGE_ROOT)
    assert found == [[package, "/the/caller's"], [package]]


def test_a_portable_worker_restricts_what_a_native_one_leaves_open():
    """Both profiles set nothing that the other one means to leave alone."""
    native = variables(Determinism.FULL, {})
    portable = variables(Determinism.FULL, {}, Profile.PORTABLE)
    changed = {name for name in portable if portable[name] != native.get(name)}
    assert changed == set(PORTABLE)


def test_progress_is_passed_on_in_order(slot: LocalSlot):
    """What a person sees while a case runs."""
    doing: list[str] = []
    do = "send('progress', case='x', doing='run 2 of 2')"
    request = {"case": {"id": "x", "call": {"do": do}}, "out": "", "known": {}}
    slot.ask(request, WorkerSpec(), LONG, doing.append)
    assert doing == ["run 1 of 2", "run 2 of 2"]
