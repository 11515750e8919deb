"""What a shell offers, by argcomplete's own protocol, in a process as the shell starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import builders
import pytest

from harness.commands.main import COMMANDS
from harness.session import Session
from harness.store.baselines import Store

HEAVY = ("torch", "diffusers", "transformers", "numpy", "rich")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two scenarios, a broken one, and a run."""
    folder = tmp_path / "scenarios"
    folder.mkdir()
    for name, tags in (("faces", "[slow]"), ("digits", None)):
        text = builders.scenario_text(tags=tags)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "broken.yaml").write_text("pipeline: 3\n", encoding="utf-8")
    (folder / "notes.txt").write_text("no scenario\n", encoding="utf-8")
    session = Session(Store(tmp_path / "baselines"), tmp_path / "runs" / "nightly")
    session.outcomes += [builders.outcome("drifted"), builders.outcome("drifted", name="$(date)")]
    session.write_results()
    return tmp_path


def offered(line: str, folder: Path, *python: str) -> tuple[list[str], str]:
    """Return what Tab offers at the end of a line, and what the process says on standard error."""
    answer = folder / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    command = [sys.executable, *python, "-m", "harness"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    # For bash, argcomplete writes a backslash before each character that bash would read.
    return answer.read_text(encoding="utf-8").replace("\\", "").split("\n"), done.stderr


def test_commands(project: Path):
    """All of them, and those that begin as the word does."""
    words, _ = offered("harness ", project)
    assert {command.name for command in COMMANDS} <= set(words)
    assert offered("harness ex", project)[0] == ["explain"]


def test_options(project: Path):
    """Those of the command alone."""
    words, _ = offered("harness run --", project)
    assert {"--failed-from", "--lf", "--device", "--exitfirst"} <= set(words)
    assert "--dry-run" not in words


def test_words_of_options(project: Path):
    """Devices, also the one by which a project's is overridden."""
    assert offered("harness run --device c", project)[0] == ["cpu", "cuda"]
    assert "any" in offered("harness list --device ", project)[0]
    assert offered("harness run -j a", project)[0] == ["auto"]
    assert offered("harness run --profile ", project)[0] == ["native", "portable"]


def test_names_of_scenarios_cases_and_tags(project: Path):
    """A broken file hides no other; the project is found from a folder below its root."""
    below = project / "src"
    below.mkdir()
    words, _ = offered("harness run -k ", below)
    assert set(words) == {"faces", "faces[cpu-float32]", "slow", "digits", "digits[cpu-float32]"}


def test_scenario_files(project: Path):
    """YAML and folders, and nothing else."""
    words, _ = offered("harness run scenarios/", project)
    assert set(words) == {
        "scenarios/broken.yaml", "scenarios/digits.yaml", "scenarios/faces.yaml",
    }  # fmt: skip


def test_runs_of_the_project_and_cases_of_the_run(project: Path):
    """A name in the file of another machine that a shell would expand is not offered."""
    words, _ = offered("harness report runs/n", project)
    assert words == ["runs/nightly"]
    below = project / "scenarios"
    assert str(project / "runs" / "nightly") in offered("harness explain /", below)[0]
    words, _ = offered("harness explain runs/nightly ", project)
    assert [word for word in words if not word.startswith("-")] == ["digits[cpu-float32]"]
    assert offered("harness run --failed-from runs/", project)[0] == ["runs/nightly"]


@pytest.mark.parametrize(
    "line", ["harness ru", "harness run -k d", "harness explain runs/nightly "]
)
def test_completion_is_light(line: str, project: Path):
    """Whoever presses Tab does not wait for a framework."""
    _, said = offered(line, project, "-X", "importtime")
    loaded = {each.rpartition("|")[2].strip() for each in said.splitlines()}
    assert "argcomplete" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_shell_that_completes_every_such_command_knows_this_one():
    """By the mark that argcomplete's global completion looks for in the entry point's module."""
    subprocess.run(
        [sys.executable, "-m", "argcomplete._check_module", "harness.commands.main"], check=True
    )
