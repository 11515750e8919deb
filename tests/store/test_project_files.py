"""The files by which a project starts to use the harness: none that is there is replaced."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from harness.errors import FileError
from harness.store.project_files import (
    Change,
    write_ignore_rule,
    write_new,
    write_table,
    write_workflow,
)


def changes(root: Path) -> list[Change]:
    done = (write_table(root, "scenarios", ()), write_workflow(root), write_ignore_rule(root))
    return [each.change for each in done]


def test_an_empty_folder_gets_all_and_a_second_time_keeps_all(tmp_path: Path):
    """Safe to run twice: not a byte changes."""
    assert set(changes(tmp_path)) == {Change.WROTE}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(changes(tmp_path)) == {Change.KEPT}
    assert {path: path.read_bytes() for path in before} == before


def test_lines_are_added_behind_what_a_project_has(tmp_path: Path):
    """With a missing end of the last line, and in the file's own line endings."""
    pyproject, ignore = tmp_path / "pyproject.toml", tmp_path / ".gitignore"
    pyproject.write_bytes(b'[project]\r\nname = "ink"')
    ignore.write_bytes(b"*.pyc")
    assert write_table(tmp_path, "scenarios", ["ink"]).change is Change.ADDED
    assert write_ignore_rule(tmp_path).change is Change.ADDED
    text = pyproject.read_bytes().decode()
    assert text.startswith('[project]\r\nname = "ink"\r\n\r\n[tool.harness]\r\n')
    assert tomllib.loads(text) == {
        "project": {"name": "ink"},
        "tool": {"harness": {"scenarios": ["scenarios"], "trust": ["ink"]}},
    }
    assert ignore.read_bytes() == b"*.pyc\nruns/\n"


@pytest.mark.parametrize("text", ["tool = {ruff = {}}\n", "[project\n", "name = \xff\n"])
def test_a_project_file_that_cannot_be_added_to_is_left_as_it_is(text: str, tmp_path: Path):
    """The error says what to do, and nothing is written."""
    path = tmp_path / "pyproject.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=r"pyproject\.toml"):
        write_table(tmp_path, "scenarios", ())
    assert path.read_bytes() == text.encode("latin-1")


def test_a_linked_project_file_stays_a_link(tmp_path: Path):
    """What it leads to is added to."""
    real = tmp_path / "real.toml"
    real.write_text("", encoding="utf-8")
    link = tmp_path / "pyproject.toml"
    link.symlink_to(real)
    write_table(tmp_path, "scenarios", ())
    assert link.is_symlink()
    assert "[tool.harness]" in real.read_text(encoding="utf-8")


def test_the_workflow_is_where_github_looks_for_it(tmp_path: Path):
    """At the root of the repository, and it works in the project's folder below it."""
    root = tmp_path / "services" / "ink"
    root.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    written = write_workflow(root)
    assert written.path == tmp_path / ".github" / "workflows" / "harness.yml"
    workflow = yaml.safe_load(written.path.read_text(encoding="utf-8"))
    assert workflow["defaults"] == {"run": {"working-directory": "services/ink"}}
    steps = workflow["jobs"]["scenarios"]["steps"]
    assert steps[-1]["with"]["path"] == "services/ink/runs/ci"
    assert steps[1]["with"]["cache-dependency-path"] == "services/ink/pyproject.toml"


def test_a_file_that_is_there_is_kept(tmp_path: Path):
    """Its own content stays."""
    path = tmp_path / "x"
    path.write_text("mine", encoding="utf-8")
    assert write_new(path, "ours").change is Change.KEPT
    assert path.read_text(encoding="utf-8") == "mine"
