"""Accepting the artefacts of a night: by cause, per class, and as one change that is committed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import builders
import pytest
from gate_world import FAR, HERE, OTHER, World

REASON = ("--reason", "diffusers 0.43 fixes the schedule")


@pytest.fixture
def world(tmp_path, monkeypatch, capsys) -> World:
    """A project in the current folder, and the command line in this process."""
    from conftest import Shop

    monkeypatch.chdir(tmp_path)
    return World(tmp_path, Shop(tmp_path, capsys, tmp_path / "shelf").harness)


@pytest.fixture
def night(world) -> World:
    """A night of two machines: `digits` drifted on both, `other` became stale, `fine` passes."""
    for name in ("digits", "other", "fine"):
        world.scenario(name)
    world.baseline(HERE)
    world.baseline(OTHER)
    world.scenario("other", seed="7")
    for machine in (HERE, OTHER):
        run = f"night/{machine.letter}"
        world.run(run, machine, only="digits", outputs=FAR)
        merge(world, run, machine, "other", "fine")
    return world


def merge(world: World, run: str, machine, *names: str) -> None:
    """Add the outcomes of more scenarios to a run."""
    from harness.store.run_folder import read_results, write_results

    outcomes = [*read_results(Path(run)).outcomes]
    environment = machine.environment()
    for name in names:
        world.run(run, machine, only=name)
        outcomes += read_results(Path(run)).outcomes
    environments = {environment.numerics_class.name: environment}
    write_results(Path(run), outcomes, environment, environments=environments)


def seals() -> dict[str, str]:
    """Return the seal of every baseline by its place in the store."""
    found = sorted(Path("baselines").glob("*/*/*.json"))
    return {
        path.relative_to("baselines").as_posix(): json.loads(path.read_text())["digest"]
        for path in found
    }


def replaced(before: dict[str, str]) -> list[str]:
    """Return the baselines that were replaced since."""
    return [path for path, seal in seals().items() if before.get(path) != seal]


def causes(world: World) -> dict[str, str]:
    """Return the ids of causes by the first word of what failed."""
    done = world.harness("accept", "night", "--list")
    assert done.code == 0, done.err
    found = re.findall(r"^([0-9a-f]{8}) .* (drifted|stale)\b", done.out, re.MULTILINE)
    return {word: cause for cause, word in found}


def test_only_what_failed_is_accepted(night):
    """Of every class of the night; what passes keeps its baseline."""
    before = seals()
    assert night.harness("accept", "night", *REASON).code == 0
    assert replaced(before) == [
        f"{name}/cpu-float32/cpu-{letter}.json" for name in ("digits", "other") for letter in "ab"
    ]


def test_the_causes_of_a_night_are_listed_with_their_classes(night):
    """Two machines that drifted alike are one cause; nothing is written."""
    before = seals()
    done = night.harness("accept", "night", "--list")
    assert done.out.splitlines()[0].split() == ["cause", "cases", "classes", "what"]
    assert len(done.out.splitlines()) == 3
    assert done.out.count("cpu-a, cpu-b") == 2
    assert set(causes(night)) == {"drifted", "stale"}
    assert replaced(before) == []


def test_one_cause_is_accepted_alone(night):
    """And one that nothing has is a slip."""
    before = seals()
    done = night.harness("accept", "night", "--cause", causes(night)["stale"], *REASON)
    assert done.code == 0
    assert replaced(before) == [f"other/cpu-float32/cpu-{letter}.json" for letter in "ab"]
    wrong = night.harness("accept", "night", "--cause", "0" * 8, *REASON)
    assert wrong.code == 2
    assert "--cause 00000000: no such cause; --list shows them: " in wrong.err


def test_one_class_is_accepted_alone(night):
    """By a pattern of its name."""
    before = seals()
    assert night.harness("accept", "night", "--class", "*-b", "-k", "digits", *REASON).code == 0
    assert replaced(before) == ["digits/cpu-float32/cpu-b.json"]
    assert night.harness("accept", "night", "--class", "cpu-z", *REASON).code == 2


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_of_a_night_is_accepted_as_its_folder_is(kind, night):
    """As CI keeps artefacts; nothing is left beside it."""
    before = seals()
    made = Path(shutil.make_archive("artefacts", kind, root_dir=".", base_dir="night"))
    shutil.rmtree("night")
    done = night.harness("accept", made.name, *REASON)
    assert done.code == 0, done.err
    assert len(replaced(before)) == 4
    assert not Path("night").exists()
    assert "harness-" not in done.out


def test_a_night_becomes_one_commit(night):
    """Its message says why, what caused it, and what each baseline replaced."""
    night.commit()
    before = seals()
    done = night.harness("accept", "night", "-k", "digits", *REASON, "--message", "change.txt")
    assert done.code == 0, done.err
    message = Path("change.txt").read_text()
    subject, blank, *rest = message.splitlines()
    assert subject == "Accept 2 baselines: diffusers 0.43 fixes the schedule"
    assert blank == ""
    assert "Recorded in night." in rest
    assert any(re.match(r"Cause [0-9a-f]{8}: 2 drifted", line) for line in rest)
    now = seals()
    for letter in "ab":
        path = f"digits/cpu-float32/cpu-{letter}.json"
        line = f"- digits[cpu-float32] on cpu-{letter}: {before[path][:8]} -> {now[path][:8]}"
        assert line in rest
    commands = [line.split("next:")[-1].strip() for line in done.out.splitlines()[-2:]]
    assert commands == ["git add baselines", "git commit -F change.txt"]
    identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for command in commands:
        git, *arguments = shlex.split(command)
        subprocess.run([git, *identity, *arguments], check=True, capture_output=True)
    status = subprocess.run(
        ["git", "status", "--porcelain", "baselines"], check=True, capture_output=True, text=True
    )
    assert status.stdout == ""


def test_two_machines_of_one_class_that_differ_are_refused(night):
    """They owe each other the same bits; nothing is written."""
    before = seals()
    night.run("night/third", HERE, only="digits", outputs=FAR + FAR)
    done = night.harness("accept", "night", *REASON)
    assert done.code == 2
    assert "night/a and night/third are both of class cpu-a and differ in bits" in done.err
    assert replaced(before) == []


def test_what_is_within_is_accepted_only_where_that_is_asked_for(world):
    """It becomes the baseline of its own class."""
    world.scenario()
    world.baseline()
    world.run("night/b", OTHER, outputs=builders.MOVED)
    assert world.harness("accept", "night", *REASON).code == 2
    assert world.harness("accept", "night", "--within", *REASON).code == 0
    assert list(seals()) == [f"digits/cpu-float32/cpu-{letter}.json" for letter in "ab"]


def test_a_run_whose_recording_is_of_another_class_is_refused(night):
    """The results and the recordings of two machines were mixed."""
    before = seals()
    recordings = Path("recordings/digits")
    shutil.rmtree("night/a" / recordings)
    shutil.copytree("night/b" / recordings, "night/a" / recordings)
    done = night.harness("accept", "night", *REASON)
    assert done.code == 2
    assert "says that it ran in class cpu-a, and its recording is of cpu-b" in done.err
    assert replaced(before) == []


def test_a_folder_without_a_run_is_refused(world):
    """Perhaps the artefacts were not downloaded."""
    world.scenario()
    Path("night").mkdir()
    done = world.harness("accept", "night", *REASON)
    assert done.code == 2
    assert done.err.startswith("harness: night: holds no run")


def test_a_night_without_a_failure_has_no_causes(world):
    """Listing them says so."""
    world.scenario()
    world.baseline()
    world.run("night/a")
    done = world.harness("accept", "night", "--list")
    assert (done.code, done.out) == (0, "nothing failed\n")
