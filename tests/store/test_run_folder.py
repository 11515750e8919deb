"""Run folders: each belongs to one run, and its results are read back as they were written."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import builders
import pytest

from harness import __version__
from harness.errors import FileError, UsageError
from harness.store import run_folder
from harness.store.run_folder import (
    RESULTS_FILE,
    Begun,
    RunOwner,
    first_start,
    gather_parts,
    new_run,
    read_results,
    remove_parts,
    write_results,
)
from harness.worker.files import digest_json, dumps

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
NAME = "2026-01-02T12-00-00"


class FrozenClock(datetime):
    """A clock that stands still at noon."""

    @classmethod
    def now(cls, tz=None):
        assert tz is UTC
        return NOON


@pytest.fixture
def frozen(monkeypatch):
    """Let no time pass between the calls of a test."""
    monkeypatch.setattr(run_folder, "datetime", FrozenClock)


# New folders.


@pytest.mark.usefixtures("frozen")
def test_a_run_has_a_folder_of_its_own_named_by_the_time(tmp_path):
    """Runs that begin in one second get numbers, and sort in their order."""
    folders = [new_run(tmp_path / "runs") for _ in range(3)]
    assert [folder.name for folder in folders] == [NAME, f"{NAME}-2", f"{NAME}-3"]
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.usefixtures("frozen")
def test_no_two_callers_ever_get_one_folder(tmp_path):
    """Sixteen threads at once, while the clock stands still."""
    start = threading.Barrier(16)

    def make(_index: int) -> Path:
        start.wait()
        return new_run(tmp_path)

    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(make, range(16)))
    assert len(set(folders)) == 16
    assert sorted(path for path in tmp_path.iterdir() if path.is_dir()) == sorted(folders)


@pytest.mark.usefixtures("frozen")
def test_a_folder_that_something_else_made_is_passed_over(tmp_path):
    """A file of that name, too."""
    (tmp_path / NAME).write_text("a file", encoding="utf-8")
    (tmp_path / f"{NAME}-2").mkdir()
    assert new_run(tmp_path).name == f"{NAME}-3"


@pytest.mark.usefixtures("frozen")
def test_after_a_thousand_runs_in_one_second_a_name_must_be_given(tmp_path):
    """It says how."""
    (tmp_path / NAME).mkdir()
    for number in range(2, 1000):
        (tmp_path / f"{NAME}-{number}").mkdir()
    with pytest.raises(UsageError, match="name one with --out"):
        new_run(tmp_path)


def test_a_folder_for_runs_that_cannot_be_made_is_an_error_with_its_path(tmp_path):
    """A file stands where it is due."""
    root = tmp_path / "runs"
    root.write_text("in the way", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be written: File exists") as caught:
        new_run(root)
    assert (caught.value.path, caught.value.remedy[:9]) == (root, "move away")


# Owners.


def test_a_second_owner_is_refused_until_the_first_gives_the_folder_back(tmp_path):
    """Two runs would mix their results; the message says what to do."""
    out = tmp_path / "run"
    first, second = RunOwner(out), RunOwner(out)
    first.acquire()
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            second.acquire()
        assert str(caught.value) == (
            f"{out}: another run is writing there now; wait for it, or name another folder "
            "with --out"
        )
    first.release()
    second.acquire()
    with pytest.raises(UsageError):
        first.acquire()
    second.release()


def test_owners_of_two_folders_do_not_disturb_each_other(tmp_path):
    """Each folder has a lock of its own."""
    owners = [RunOwner(tmp_path / name) for name in "ab"]
    for owner in owners:
        owner.acquire()
    for owner in owners:
        owner.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


OWNER = """
import sys, time
from pathlib import Path
from harness.store.run_folder import RunOwner

owner = RunOwner(Path(sys.argv[1]))
owner.acquire()
print("mine", flush=True)
time.sleep(600)
"""


def test_the_folder_of_a_run_that_was_killed_is_free(tmp_path):
    """Nobody has to remove a lock by hand; as long as the owner lives, it is kept."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(UsageError, match="another run is writing there now"):
            RunOwner(out).acquire()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    owner = RunOwner(out)
    owner.acquire()
    owner.release()


def test_a_folder_that_cannot_be_owned_is_an_error_with_its_path(tmp_path):
    """A file stands where it is due."""
    out = tmp_path / "run"
    out.write_text("in the way", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be written: ") as caught:
        RunOwner(out).acquire()
    assert caught.value.path == out


# Results.


@pytest.mark.usefixtures("frozen")
def test_results_are_read_back_as_they_were_written(tmp_path):
    """Sorted by case, with the environment and the time; from the folder, or from the file."""
    outcomes = [builders.outcome("drifted", "b"), builders.outcome("identical", "a")]
    out = tmp_path / "runs" / "one"
    path = write_results(out, outcomes, builders.environment())
    assert path == out / RESULTS_FILE
    results = read_results(out)
    assert results == read_results(path)
    assert results.outcomes == (outcomes[1], outcomes[0])
    assert results.environment == builders.environment()
    assert results.written == "2026-01-02T12:00:00+00:00"
    assert [each.name for each in out.iterdir()] == [RESULTS_FILE]


@pytest.mark.usefixtures("frozen")
def test_results_say_by_what_where_and_when_they_were_made(tmp_path):
    """A gate checks all of it; a part of several takes the start of the first one."""
    write_results(tmp_path, [], None, part="gw0", begun=Begun("2026-01-02T11:58:00+00:00"))
    write_results(tmp_path, [], None, part="gw1", begun=Begun("2026-01-02T11:59:00+00:00"))
    assert first_start(tmp_path, "2026-01-02T11:58:30+00:00") == "2026-01-02T11:58:00+00:00"
    write_results(tmp_path, [], None)
    results = read_results(tmp_path)
    assert results.started == "2026-01-02T12:00:00+00:00"
    assert (results.harness, results.machine) == (__version__, platform.node())


def test_results_say_whether_the_working_tree_was_dirty(tmp_path, monkeypatch):
    """A changed file under version control; not what a run itself leaves there."""
    monkeypatch.chdir(tmp_path)
    found = []

    def look(out: str) -> None:
        found.append(read_results(write_results(tmp_path / out, [], None).parent).dirty)

    look("without-git")
    for arguments in (
        ["init", "-q"],
        ["config", "user.email", "a@b"],
        ["config", "user.name", "A"],
        ["commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *arguments], check=True)
    look("untracked")
    (tmp_path / "file").write_text("x")
    subprocess.run(["git", "add", "file"], check=True)
    look("changed")
    assert found == [None, False, True]


def test_results_without_an_outcome_or_an_environment_are_results(tmp_path):
    """No case left a recording."""
    write_results(tmp_path, [], None)
    results = read_results(tmp_path)
    assert (results.outcomes, results.environment) == ((), None)


def test_parts_of_several_processes_are_gathered_and_removed(tmp_path):
    """The environment is that of the first part which has one; the whole results stay."""
    write_results(tmp_path, [builders.outcome(name="c")], None)
    write_results(tmp_path, [builders.outcome(name="a")], None, part="gw0")
    second, third = builders.environment("b"), builders.environment("z")
    both = {"cpu-b": second, "cpu-z": third}
    write_results(tmp_path, [builders.outcome(name="b")], second, "gw1", both)
    write_results(tmp_path, [], third, part="gw2")
    outcomes, environment, environments = gather_parts(tmp_path)
    assert [outcome.scenario for outcome in outcomes] == ["a", "b"]
    assert environment == second
    assert environments == both
    remove_parts(tmp_path)
    assert gather_parts(tmp_path) == ([], None, {})
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS_FILE]


def test_results_that_cannot_be_written_are_an_error_with_their_path(tmp_path):
    """A file stands where the folder is due."""
    out = tmp_path / "run"
    out.write_text("in the way", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be written: ") as caught:
        write_results(out, [], None)
    assert caught.value.path == out / RESULTS_FILE


def forge(path: Path, **changes: object) -> None:
    """Change the results and seal them again, as somebody who means harm would."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")


def remove(path: Path) -> None:
    path.unlink()


def edit_by_hand(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"drifted"', '"identical"'), encoding="utf-8")


def earlier_format(path: Path) -> None:
    forge(path, format="harness-results/1")


def unknown_verdict(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    forge(path, outcomes=[{**content["outcomes"][0], "verdict": "fine"}])


def text_for_outcomes(path: Path) -> None:
    forge(path, outcomes="drifted")


def unknown_key(path: Path) -> None:
    forge(path, colour="blue")


def nest(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


def not_a_number(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"repeat_l_inf": null', '"repeat_l_inf": NaN'), encoding="utf-8")


def html(path: Path) -> None:
    path.write_text("<html>", encoding="utf-8")


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "gone": (remove, "does not exist"),
    "edited-by-hand": (edit_by_hand, "was changed or cut short: its digest does not fit"),
    "earlier-format": (earlier_format, "has format 'harness-results/1'; this version"),
    "unknown-verdict": (
        unknown_verdict,
        "is not a file of results: $.outcomes[0].verdict: expected one of identical, within",
    ),
    "text-for-outcomes": (
        text_for_outcomes,
        "is not a file of results: $.outcomes: expected a list, found 'drifted'",
    ),
    "unknown-key": (unknown_key, "is not a file of results: $: unknown key `colour`"),
    "nested": (nest, "is not the JSON that the harness writes: it is nested too deeply"),
    "nan": (not_a_number, "is not the JSON that the harness writes: the literal `NaN`"),
    "html": (html, "is not the JSON that the harness writes: Expecting value"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_results_are_refused_with_their_path(tmp_path, name):
    """Gates and reports decide by them, and they may come from another machine."""
    change, problem = HOSTILE[name]
    path = write_results(tmp_path, [builders.outcome("drifted")], builders.environment())
    change(path)
    with pytest.raises(FileError) as caught:
        read_results(tmp_path)
    assert caught.value.path == path
    assert caught.value.problem.startswith(problem)


def test_one_hostile_part_is_refused_rather_than_left_out(tmp_path):
    """A run without its failures would pass."""
    write_results(tmp_path, [builders.outcome("identical", "a")], None, part="gw0")
    write_results(tmp_path, [builders.outcome("drifted", "b")], None, part="gw1")
    edit_by_hand(tmp_path / "results-gw1.json")
    with pytest.raises(FileError, match="its digest does not fit"):
        gather_parts(tmp_path)
