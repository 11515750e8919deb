"""What tests share: workers that stay up between tests, a folder to run the harness in, and a worker that only pretends."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import cli, session
from harness.launch.local import Worker, variables
from harness.records import Recording
from harness.report import rows
from harness.scenarios import DATA, Case, read

# For in-process runs of pytest, which forget what they import first: numpy must not load twice in a process.
assert rows.HEADINGS

BASICS = {
    "description": "One step of the digit model.",
    "pipeline": "DDIMPipeline",
    "checkpoint": "{bundled: digits-ddpm}",
    "call": "{num_inference_steps: 1, output_type: np}",
    "seed": "0",
}

# Answers as the real worker does, after what the case's `call` tells it to suffer.
PRETENDER = """\
#!{python}
import json, os, sys, time

def send(event, **fields):
    print(json.dumps(dict(event=event, **fields)), flush=True)

if "PRETENDER_DIES_AT_START" in os.environ:
    sys.exit("no module named torch")
time.sleep(float(os.environ.get("PRETENDER_STARTS_IN", "0")))
send("ready")
for line in sys.stdin:
    request = json.loads(line)
    if "describe" in request:
        send("described", environment=dict(os.environ))
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
    send("unverified", reason=f"process {{os.getpid()}}")
"""


def scenario_text(**changes: str | None) -> str:
    """Return the smallest scenario as YAML, with `changes` to its keys; None leaves a key out."""
    fields: dict[str, str | None] = {**BASICS, **changes}
    return "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items() if value is not None)


class Lent:
    """A worker of the pool in the hands of a session: closing gives it back, unless it is of no further use."""

    def __init__(self, worker: Worker, give_back: Callable[[], None]) -> None:
        self.settings = worker.settings
        self._worker, self._give_back, self._usable = worker, give_back, True

    def ask(self, *arguments: Any) -> dict[str, Any]:
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

    def lend(self, settings: dict[str, str], log: Path | None = None) -> Lent:
        """Return a worker as `Worker(settings, log)` would: an idle one of these settings, or a new one."""
        key = (sorted(settings.items()), os.environ.get("ATEN_CPU_CAPABILITY"))
        with self._lock:
            found = next((entry for entry in self._idle if entry[0] == key), None)
            if found:
                self._idle.remove(found)
        worker = found[1] if found else Worker(settings, self._logs / f"worker-{len(self._started)}.log")
        if not found:
            self._started.append(worker)
        return Lent(worker, lambda: self._idle.append((key, worker)))

    def close(self) -> None:
        """End every worker."""
        for worker in self._started:
            worker.close()


class Taken(NamedTuple):
    """What one case left: its recording, and what the worker said that it was doing."""

    recording: Recording
    doing: list[str]


class Done(NamedTuple):
    """What a command of the harness came to."""

    code: int
    out: str
    err: str


class Shop:
    """A folder with scenarios, in which the command line runs in this process, by the pool's workers.

    Attributes:
        root: The folder, which is the current one.
    """

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capture = capture

    def scenario(self, name: str = "digits", folder: str = "scenarios", **changes: str | None) -> Path:
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
        self._capture.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as wrong_usage:
            code = int(str(wrong_usage.code))
        return Done(code, *self._capture.readouterr())

    def baseline(self, name: str = "digits") -> Path:
        """Return the one baseline of a scenario."""
        (path,) = (self.root / "baselines" / name).rglob("*.json")
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
    monkeypatch.setattr(session, "Worker", pool.lend)
    return pool


@pytest.fixture
def shop(pooled: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    """An empty folder to run the harness in."""
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path, capsys)


@pytest.fixture(scope="session")
def take(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Taken]:
    """Make the recording of a scenario: of this repository by its name, or the smallest one with changes to its keys."""
    made: dict[str, Taken] = {}

    def record(name: str = "", *, again: bool = False, **changes: str | None) -> Taken:
        text = (DATA.parents[1] / "scenarios" / f"{name}.yaml").read_text(encoding="utf-8") if name else scenario_text(**changes)
        if again or text not in made:
            folder = tmp_path_factory.mktemp("taken")
            path = folder / "scenario.yaml"
            path.write_text(text, encoding="utf-8")
            made[text] = ask(pool, read(path).cases()[0], folder / "recording")
        return made[text]

    return record


def ask(pool: Pool, case: Case, folder: Path) -> Taken:
    """Have a case recorded by a worker of the pool."""
    worker, doing = pool.lend(variables(case.scenario.determinism, {})), []
    try:
        event = worker.ask({"case": case.request(), "out": str(folder)}, 300.0, doing.append)
    finally:
        worker.close()
    assert event == {"event": "recorded"}, event
    return Taken(Recording.read(folder), doing)


@pytest.fixture
def pretender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the launcher start a script that speaks the worker's protocol, suffers what a case says, and records nothing."""
    script = tmp_path / "pretender"
    script.write_text(PRETENDER.format(python=sys.executable), encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def squeezed(text: str) -> str:
    """Return text with every run of blanks as one."""
    return re.sub(r"[ \t]+", " ", text)
