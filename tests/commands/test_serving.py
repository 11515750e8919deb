"""`harness serve` as a user starts it: a process beside the runs, in the user's own folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import builders
import pytest
from marked import MARK, alive, until
from processes import SECONDS, start
from servers import private_folder

from harness.store.recording import Recording

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Have a runtime folder of this user's own, and a mark on whatever is started."""
    with private_folder() as folder:
        yield {"XDG_RUNTIME_DIR": str(folder), MARK: str(tmp_path)}


@pytest.fixture
def server(env: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a server, and end it."""
    process = start(tmp_path, "serve", "--idle", "5m", env=env)
    folder = Path(env["XDG_RUNTIME_DIR"])
    assert until(lambda: list(folder.rglob("*.sock")), SECONDS)
    yield process
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=SECONDS)


@pytest.fixture
def run(env: dict[str, str], tmp_path: Path) -> Run:
    """Run a command in the folder of the test."""

    def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness", *arguments],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return harness


def digests(folder: Path) -> dict[str, str]:
    found = Recording.read(folder / "recordings" / "digits" / "cpu-float32")
    stages = {stage.name: str(sorted(stage.outputs.items())) for stage in found.stages}
    return {**found.output_digests, **stages, "class": found.numerics_class.name}


@pytest.mark.slow
def test_a_second_run_is_warm_and_has_the_bits_of_a_cold_one(
    run: Run, server: subprocess.Popen[str], tmp_path: Path
):
    """Every stage too; --no-serve starts a worker of its own."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "digits.yaml").write_text(builders.scenario_text(), encoding="utf-8")
    cold = run("run", "--no-serve", "--out", "cold")
    assert "harness serve" not in cold.stderr
    first = run("run", "--out", "first")
    assert "warm" not in first.stderr, first.stderr
    warm = run("run", "--out", "warm")
    assert "harness serve gave 1 warm worker(s)" in warm.stderr, warm.stderr
    assert [done.returncode for done in (cold, first, warm)] == [1, 1, 1]  # no baseline yet
    assert digests(tmp_path / "cold") == digests(tmp_path / "first") == digests(tmp_path / "warm")
    status = run("serve", "--status")
    assert re.search(r"serving: process \d+, 1 worker\(s\)\n  waiting, ", status.stdout)
    stopped = run("serve", "--stop")
    assert stopped.returncode == 0
    assert server.wait(SECONDS) == 0
    assert until(lambda: not alive(str(tmp_path)), 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_removes_the_socket(
    server: subprocess.Popen[str], env: dict[str, str], number: signal.Signals, tmp_path: Path
):
    """With the exit code of every command that a signal ends."""
    server.send_signal(number)
    assert server.wait(SECONDS) == 128 + number
    assert list(Path(env["XDG_RUNTIME_DIR"]).rglob("*.sock")) == []
    assert until(lambda: not alive(str(tmp_path)), 10)


def test_without_a_server_its_options_say_so(run: Run):
    """Neither is a defect."""
    for option in ("--status", "--stop"):
        done = run("serve", option)
        assert done.returncode == 2
        assert "harness serve does not run in this environment" in done.stderr


@pytest.mark.parametrize("text", ["15", "0m", "m", "1d"])
def test_an_idle_time_is_a_duration(run: Run, text: str):
    """With its unit."""
    done = run("serve", "--idle", text)
    assert done.returncode == 2
    assert "expected a duration such as 15m" in done.stderr
