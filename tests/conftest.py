"""What tests share: workers that stay up, a folder to run the harness in, a pretended worker."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builders import scenario_text
from s3_server import s3  # noqa: F401 (a fixture)

from harness.judge import drift
from harness.launch import local
from harness.launch.events import Final, Recorded
from harness.launch.process import Worker, variables
from harness.scenario.fields import Determinism
from harness.scenario.reading import read
from harness.scenario.weights import DATA
from harness.store.recording import Recording
from harness.worker.protocol import CaseRequest

# In-process runs of pytest forget what they import first, and numpy must not load twice in a
# process: import it here.
assert drift.CHUNK

ROOT = Path(__file__).resolve().parents[1]
# Answers as the real worker does, after what the case's `call` tells it to suffer; what it records
# is a copy.
PRETENDER = """\
#!{python}
import json, os, shutil, sys, time

def send(event, **fields):
    print(json.dumps(dict(event=event, **fields)), flush=True)

if "PRETENDER_DIES_AT_START" in os.environ:
    sys.exit("no module named torch")
time.sleep(float(os.environ.get("PRETENDER_STARTS_IN", "0")))
send("ready")
for line in sys.stdin:
    request = json.loads(line)
    if "describe" in request:
        send("described", environment=dict(
            numerics_class=dict(name="cpu-p", hash="p", operators={{}}), framework="torch",
            device_kind="cpu", versions={{}}, hardware={{}}, flags={{}},
            variables=dict(os.environ), unobserved=[],
        ))
        continue
    call = request["case"]["call"]
    send("progress", case=request["case"]["id"], doing="run 1 of 2")
    if "last_words" in call:
        print(call["last_words"], file=sys.stderr, flush=True)
    if "signal" in call:
        os.kill(os.getpid(), call["signal"])
    if "status" in call:
        os._exit(call["status"])
    time.sleep(call.get("seconds", 0))
    if "PRETENDER_RECORDS" in os.environ:
        shutil.copytree(os.environ["PRETENDER_RECORDS"], request["out"])
        send("recorded")
    else:
        send("unverified", reason=f"process {{os.getpid()}}")
"""


class Answer(NamedTuple):
    """How a worker answered: its last event, its progress, and the recording if there is one."""

    event: Final
    doing: list[str]
    recording: Recording | None


class Lent:
    """A worker of the pool, lent to a session: closing gives it back, unless it is of no use."""

    def __init__(self, worker: Worker, give_back: Callable[[], None]) -> None:
        self.settings, self.python = worker.settings, worker.python
        self._worker, self._give_back, self._usable = worker, give_back, True

    def ask(self, *arguments: Any) -> Final:
        """Pass the request on; a worker that failed or was interrupted is not lent again."""
        try:
            return self._worker.ask(*arguments)
        except BaseException:
            self._usable = False
            raise

    def close(self) -> None:
        """Give the worker back, or end it."""
        if self._usable:
            self._give_back()
        else:
            self._worker.close()


class Pool:
    """Real workers that stay up between tests: each import of torch and diffusers takes seconds."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._idle: list[tuple[Any, Worker]] = []
        self._started: list[Worker] = []
        self._lock = threading.Lock()

    def lend(self, settings: dict[str, str], python: Path | None = None) -> Lent:
        """Return an idle worker that was started with these settings, or a new one."""
        key = (
            sorted(settings.items()),
            *map(os.environ.get, ("ATEN_CPU_CAPABILITY", "PYTHONPATH")),
            python,
        )
        with self._lock:
            found = next((entry for entry in self._idle if entry[0] == key), None)
            if found:
                self._idle.remove(found)
        worker = (
            found[1]
            if found
            else Worker(settings, self._logs / f"worker-{len(self._started)}.log", python)
        )
        if not found:
            self._started.append(worker)
        return Lent(worker, lambda: self._idle.append((key, worker)))

    def close(self) -> None:
        """End every worker."""
        for worker in self._started:
            worker.close()


class Done(NamedTuple):
    """What a command of the harness came to."""

    code: int
    out: str
    err: str


class Shop:
    """A folder with scenarios, in which the command line runs in this process by pooled workers.

    Attributes:
        root: The folder, which is the current one.
    """

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str], shelf: Path) -> None:
        self.root = root
        self._capture, self._shelf = capture, shelf

    def scenario(
        self, name: str = "digits", folder: str = "scenarios", **changes: str | None
    ) -> Path:
        """Write `FOLDER/NAME.yaml`: the smallest scenario with `changes` to its keys."""
        path = self.root / folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(scenario_text(**changes), encoding="utf-8")
        return path

    def checkpoint(self, folder: str, name: str = "digits-ddpm") -> Path:
        """Copy a bundled checkpoint to `FOLDER`, to be changed."""
        return Path(shutil.copytree(DATA / "bundled" / name, self.root / folder))

    def harness(self, *arguments: str) -> Done:
        """Run `harness ARGUMENTS`."""
        from harness.commands.main import main

        self._capture.readouterr()
        try:
            code = main(arguments)
        except SystemExit as wrong_usage:
            code = int(str(wrong_usage.code))
        return Done(code, *self._capture.readouterr())

    def recorded(
        self, name: str = "digits", folder: str = "scenarios", **changes: str | None
    ) -> Path:
        """Write a scenario that has a baseline: recorded once, and a copy of that afterwards."""
        path = self.scenario(name, folder, **changes)
        kept = (
            self._shelf
            / hashlib.sha256(f"{name} {path.read_text(encoding='utf-8')}".encode()).hexdigest()
        )
        own = self.root / "baselines" / name
        if kept.exists():
            shutil.copytree(kept, own)
        else:
            assert self.harness("record", str(path), "--no-calibrate").code == 0
            shutil.copytree(own, kept)
        return path

    def baseline(self, name: str = "digits") -> Path:
        """Return the one baseline of a scenario."""
        (path,) = (self.root / "baselines" / name).glob("*/*.json")
        return path


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Workers that are started when first asked for."""
    workers = Pool(tmp_path_factory.mktemp("workers"))
    yield workers
    workers.close()


@pytest.fixture
def pooled(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Sessions of this process borrow their workers from the pool."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setattr(
        local, "Worker", lambda settings, log, python=None: pool.lend(settings, python)
    )
    return pool


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where baselines are kept for the tests that need the same ones."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def shop(
    pooled: Pool,
    shelf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shop:
    """An empty folder to run the harness in."""
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path, capsys, shelf)


def put(worker: Lent, request: CaseRequest, out: Path) -> Answer:
    """Send a case to a worker."""
    doing: list[str] = []
    asked = {"case": request, "out": str(out), "known": {}}
    event = worker.ask(asked, 300.0, doing.append)
    return Answer(event, doing, Recording.read(out) if isinstance(event, Recorded) else None)


def smallest(folder: Path, **changes: str | None) -> CaseRequest:
    """Write the smallest scenario with changes to its keys; return its case for the worker."""
    path = folder / "scenario.yaml"
    path.write_text(scenario_text(**changes), encoding="utf-8")
    return read(path).cases()[0].request()


@pytest.fixture
def ask(pool: Pool, tmp_path: Path) -> Iterator[Callable[..., Answer]]:
    """Send the smallest scenario, with changes to its keys, to one worker."""
    worker = pool.lend(variables(Determinism.FULL, {}))
    yield lambda **changes: put(worker, smallest(tmp_path, **changes), tmp_path / "recording")
    worker.close()


@pytest.fixture(scope="session")
def take(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recording]:
    """Return the recording of a scenario, made once.

    It is this repository's of that name, or the smallest one with changes.
    """
    made: dict[str, Recording] = {}

    def record(name: str = "", **changes: str | None) -> Recording:
        key = name or scenario_text(**changes)
        if key not in made:
            folder = tmp_path_factory.mktemp("taken")
            named = ROOT / "scenarios" / f"{name}.yaml"
            request = (
                {**read(named).cases()[0].request(), "rounds": 1}
                if name
                else smallest(folder, **changes)
            )
            worker = pool.lend(variables(Determinism.FULL, {}))
            answer = put(worker, request, folder / "recording")
            worker.close()
            assert answer.recording, answer.event
            made[key] = answer.recording
        return made[key]

    return record


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Write a script that speaks the worker's protocol, when it is started in place of python."""
    path = tmp_path / "pretender"
    path.write_text(PRETENDER.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def pretender(script: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the launcher start that script, which suffers what a case says and records nothing."""
    monkeypatch.setattr(sys, "executable", str(script))
    return script
