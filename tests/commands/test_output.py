"""Printing may fail at any time; it then changes neither what is written nor the exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import builders
import pytest
from gate_situations import all_passes, drift_on_one_of_three, never_run
from gate_world import World
from processes import SECONDS, pipe_without_reader, start

Finish = Callable[..., Path]

# Whether each print reaches the pipe at once, or all of them when the process ends.
BUFFERING = {"unbuffered": {"PYTHONUNBUFFERED": "1"}, "buffered": {"PYTHONUNBUFFERED": ""}}
EACH_BUFFERING = pytest.mark.parametrize("env", BUFFERING.values(), ids=BUFFERING.keys())


def run_unread(
    folder: Path, *arguments: str, env: Mapping[str, str], worker: Path | None = None
) -> tuple[int, str]:
    """Run a command whose standard output nobody reads; return its exit code and its errors."""
    with pipe_without_reader() as pipe:
        process = start(folder, *arguments, env=env, stdout=pipe, worker=worker)
        _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors


def baselines(folder: Path) -> list[str]:
    """Return the scenarios that have a baseline."""
    return sorted(path.parts[-3] for path in (folder / "baselines").rglob("*.json"))


@EACH_BUFFERING
@pytest.mark.parametrize(
    ("arrange", "code"), [(all_passes, 0), (drift_on_one_of_three, 1), (never_run, 3)]
)
def test_a_closed_gate_stays_closed_when_nobody_reads_why(
    env: Mapping[str, str],
    arrange: Callable[[World], object],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """`harness gate ... | head -1` must not let a release out."""
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, lambda *_: None)
    arrange(world)
    (tmp_path / "policy.yaml").write_text(world.policy_text, encoding="utf-8")
    done = run_unread(tmp_path, "gate", *world.runs, "--policy", "policy.yaml", env=env)
    assert done == (code, "")


@EACH_BUFFERING
def test_all_is_accepted_when_nobody_reads_what(
    env: Mapping[str, str], tmp_path: Path, finished: Finish
):
    """The reader of the first line is gone when the second baseline is written."""
    finished("digits", "other", "third")
    done = run_unread(tmp_path, "accept", "run", "--reason", "R", env=env)
    assert done == (0, "")
    assert baselines(tmp_path) == ["digits", "other", "third"]


@EACH_BUFFERING
def test_all_is_recorded_when_nobody_reads_what(
    env: Mapping[str, str], tmp_path: Path, finished: Finish, script: Path
):
    """Also where a case runs that long after the reader is gone."""
    finished("digits", "other", "third")
    builders.recording(tmp_path / "made")
    replayed = {**env, "PRETENDER_RECORDS": str(tmp_path / "made")}
    code, errors = run_unread(tmp_path, "record", env=replayed, worker=script)
    assert (code, [line.split()[1] for line in errors.splitlines()]) == (0, ["recorded"] * 3)
    assert baselines(tmp_path) == ["digits", "other", "third"]


@EACH_BUFFERING
@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["report", "run"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(
    env: Mapping[str, str], arguments: list[str], tmp_path: Path, finished: Finish
):
    """Nothing is said on standard error, also not by the interpreter when it ends."""
    finished("digits", verdict="identical")
    assert run_unread(tmp_path, *arguments, env=env) == (0, "")


@EACH_BUFFERING
def test_errors_that_nobody_reads_leave_the_exit_code(env: Mapping[str, str], tmp_path: Path):
    """`harness run nowhere 2>&1 | true` is wrong usage all the same."""
    with pipe_without_reader() as pipe:
        process = start(tmp_path, "list", "nowhere", env=env, stdout=pipe, stderr=pipe)
        assert process.wait(SECONDS) == 2


def test_a_full_disk_under_the_output_is_told_and_leaves_the_exit_code(
    tmp_path: Path, finished: Finish
):
    """Unlike the reader of a pipe, nobody else knows that the report is not whole."""
    finished("digits", verdict="drifted")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = start(tmp_path, "report", "run", stdout=full.fileno())
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors.startswith("harness: standard output cannot be written any more: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(closed: str, tmp_path: Path, finished: Finish):
    """`harness list >&-`, as a service may have it."""
    finished("digits")
    redirect = {"stdout": ">&-", "stderr": "2>&-"}[closed]
    process = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "harness", "list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_letters_that_the_output_cannot_hold_are_written_out(tmp_path: Path, finished: Finish):
    """A log of another encoding is no reason to fail."""
    finished("digits")
    text = builders.scenario_text(tags="[größe]")
    (tmp_path / "scenarios" / "digits.yaml").write_text(text, encoding="utf-8")
    process = start(tmp_path, "list", env={"PYTHONIOENCODING": "ascii"})
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "gr\\xf6\\xdfe" in out


def test_hostile_files_cannot_control_the_terminal(shop, tmp_path: Path):
    """A tag, a misspelt key and the name of a file may hold any character."""
    shop.scenario(tags='["a\\e[2Jb"]')
    done = shop.harness("list")
    assert "a\\x1b[2Jb" in done.out
    shop.scenario("wrong", tags='["\\e[2J", "\\e[2J"]')
    done = shop.harness("list")
    assert done.code == 2
    assert "\\x1b[2J" in done.err
    (tmp_path / "a\x1b[2Jb").mkdir()
    done = shop.harness("report", "a\x1b[2Jb")
    assert done.code == 2
    assert "a\\x1b[2Jb" in done.err
    assert "\x1b" not in done.out + done.err
