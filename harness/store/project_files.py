"""The files by which a project starts to use the harness: written where nothing stands yet.

What a project has already is never replaced. To `pyproject.toml` and `.gitignore` lines are added
at the end, where what they say is not there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.errors import FileError, writing
from harness.worker.files import write_file

DATA = Path(__file__).parents[1] / "data"
PYPROJECT, IGNORE = "pyproject.toml", ".gitignore"
WORKFLOW = Path(".github") / "workflows" / "harness.yml"
RUNS = "runs/"
RUN_RULES = ("runs", "runs/", "/runs", "/runs/")  # lines of .gitignore that ignore the runs


class Change(StrEnum):
    """What became of a file."""

    WROTE = "wrote"
    ADDED = "added to"
    KEPT = "kept"


@dataclass(frozen=True)
class Written:
    """A file, what became of it, and why it was kept or what was added; empty for a new one."""

    path: Path
    change: Change
    what: str = ""


def write_new(path: Path, text: str) -> Written:
    """Write a file; leave one alone that is there.

    Raises:
        FileError: It cannot be written.
    """
    if path.exists():
        return Written(path, Change.KEPT, "it is there already")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode())
    return Written(path, Change.WROTE)


def write_table(root: Path, scenarios: str, trust: Sequence[str]) -> Written:
    """Add `[tool.harness]` to a project's `pyproject.toml`, which is made if there is none.

    Args:
        root: The project's folder.
        scenarios: Its folder of scenarios.
        trust: The packages whose code scenarios may name.

    Raises:
        FileError: The file cannot be written, or is no TOML, or gives no room for a table.
    """
    path = root / PYPROJECT
    text = _read(path)
    if "harness" in _toml(path, text).get("tool", {}):
        return Written(path, Change.KEPT, "it has [tool.harness]")
    table = f'[tool.harness]\nscenarios = ["{scenarios}"]\n'
    if trust:
        listed = ", ".join(f'"{package}"' for package in trust)
        table += f"trust = [{listed}]  # packages whose code scenarios may name\n"
    return _added(path, text, table, "[tool.harness]")


def write_ignore_rule(root: Path) -> Written:
    """Have git ignore the runs, by a line in the project's `.gitignore`.

    Raises:
        FileError: The file cannot be written.
    """
    path = root / IGNORE
    text = _read(path)
    if any(line.strip() in RUN_RULES for line in text.splitlines()):
        return Written(path, Change.KEPT, "it has a rule for runs/")
    return _added(path, text, f"{RUNS}\n", RUNS)


def write_workflow(root: Path) -> Written:
    """Write a workflow for GitHub at the root of the git repository that holds the project.

    Raises:
        FileError: The file cannot be written.
    """
    repository = next(
        (folder for folder in (root, *root.parents) if (folder / ".git").exists()), root
    )
    text = (DATA / "project" / "workflow.yml").read_text(encoding="utf-8")
    if repository != root:
        below = root.relative_to(repository).as_posix()
        text = text.replace(
            "jobs:\n", f'defaults: {{run: {{working-directory: "{below}"}}}}\njobs:\n', 1
        )
        text = text.replace("path: runs/ci,", f'path: "{below}/runs/ci",')
        text = text.replace("pyproject.toml}", f'"{below}/pyproject.toml"}}')
    return write_new(repository / WORKFLOW, text)


def write_schema(folder: Path, name: str) -> Written:
    """Write the JSON Schema of scenarios into their folder, for editors.

    Raises:
        FileError: The file cannot be written.
    """
    text = (DATA / "scenario.schema.json").read_text(encoding="utf-8")
    return write_new(folder / name, text)


def _read(path: Path) -> str:
    """Return the text of a file; empty where there is none."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise FileError(path, f"cannot be read: {error}") from error


def _toml(path: Path, text: str) -> dict[str, dict[str, object]]:
    try:
        found = tomllib.loads(text)
    except ValueError as error:
        raise FileError(path, f"is no TOML: {error}", "mend it, and repeat the command") from error
    return found if isinstance(found.get("tool", {}), dict) else {}


def _added(path: Path, text: str, more: str, what: str) -> Written:
    """Add lines at the end of a file, in its own line endings."""
    newline = "\r\n" if "\r\n" in text else "\n"
    begun = text if not text or text.endswith("\n") else text + newline
    gap = newline if text and path.name == PYPROJECT else ""
    whole = begun + gap + more.replace("\n", newline)
    if path.name == PYPROJECT:
        try:
            tomllib.loads(whole)
        except ValueError as error:
            remedy = f"write this into it by hand:\n{more}"
            raise FileError(path, f"gives no room for {what}: {error}", remedy) from error
    with writing(path):
        write_file(path.resolve(), whole.encode())
    return Written(path, Change.ADDED if text else Change.WROTE, what if text else "")
