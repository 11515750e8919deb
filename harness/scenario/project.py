"""The project that a scenario belongs to: its root, whose code it trusts, where its stores are.

A scenario names no code, unless the project's `pyproject.toml` trusts its package. The places that
it names stand for options that the command line leaves out:

    [tool.harness]
    trust = ["inkworks"]
    scenarios = ["scenarios"]
    baselines = "s3://inkworks/harness/baselines"
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.errors import ScenarioError
from harness.scenario.located_yaml import Place

FILE = "pyproject.toml"
MOST_BYTES = 1 << 20  # of a pyproject.toml: 1 MiB
# `package.module:Class`: a dotted module, and a name in it.
CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", re.ASCII)
PACKAGE = re.compile(r"[^\W\d]\w*", re.ASCII)


class Places(NamedTuple):
    """Where a project keeps its stores: folders below its root, or URLs; empty where unsaid.

    `runs` is where the folders of new runs go.
    """

    baselines: str = ""
    history: str = ""
    runs: str = ""


NO_PLACES = Places()


@dataclass(frozen=True)
class Project:
    """A project: the folder of its `pyproject.toml`, and what that says of the harness.

    `trust` are the packages whose code scenarios may name, `scenarios` the folders of scenarios
    relative to the root, and `places` where its stores are.
    """

    root: Path
    trust: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ("scenarios",)
    places: Places = NO_PLACES


def project_of(path: Path) -> Project | None:
    """Return the project of a scenario's file; None where there is none.

    It is the nearest folder, from the file upwards, whose `pyproject.toml` has `[tool.harness]`.

    Raises:
        ScenarioError: That table is malformed.
    """
    folder = path.parent.resolve()
    for candidate in (folder, *folder.parents):
        file = candidate / FILE
        if file.is_file():
            status = file.stat()
            found = _read(file, status.st_mtime_ns, status.st_size)
            if found is not None:
                return found
    return None


def places_of(folder: Path) -> Places:
    """Return the places that the project of a folder names, as they are reached from that folder.

    Raises:
        ScenarioError: `[tool.harness]` is malformed.
    """
    project = project_of(folder / FILE)
    if project is None:
        return NO_PLACES
    return Places(*(_seen_from(folder, place, project.root) for place in project.places))


def _seen_from(folder: Path, place: str, root: Path) -> str:
    """Return a place of a project as seen from a folder; a URL and nothing stay as they are."""
    if not place or "://" in place or root == folder.resolve():
        return place
    return str(root / place)


@lru_cache(maxsize=64)
def _read(file: Path, _changed: int, size: int) -> Project | None:
    """Return the project of one `pyproject.toml`; None where it is no project of the harness."""
    if size > MOST_BYTES:
        raise ScenarioError(file, 1, "", f"a file of at most {MOST_BYTES} bytes", "more")
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if "harness" in text else {}
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        raise ScenarioError(file, 1, "", "a readable file of TOML", str(error)[:200]) from error
    tool = content.get("tool", {})
    table = tool.get("harness") if isinstance(tool, dict) else None
    if table is None:
        return None
    trust = table.get("trust", []) if isinstance(table, dict) else None
    if not isinstance(trust, list) or not all(map(_is_package, trust)):
        expected = 'a list of top-level packages, such as `["inkworks"]`'
        raise ScenarioError(
            file, _line_of("trust", text), "tool.harness.trust", expected, str(trust)[:60]
        )
    folders = table.get("scenarios", ["scenarios"])
    if not isinstance(folders, list) or not all(isinstance(name, str) for name in folders):
        expected = 'a list of folders, such as `["scenarios"]`'
        raise ScenarioError(
            file, _line_of("scenarios", text), "tool.harness.scenarios", expected, str(folders)[:60]
        )
    places = Places(*(_place(name, table.get(name, ""), file, text) for name in Places._fields))
    return Project(file.parent, tuple(dict.fromkeys(trust)), tuple(folders), places)


def _place(name: str, value: object, file: Path, text: str) -> str:
    """Return one of the places that a project names; empty where it names none.

    Raises:
        ScenarioError: It is no text, or a URL that holds credentials, which are not repeated.
    """
    found = "a URL that holds a user or a password"
    if isinstance(value, str):
        authority = value.partition("://")[2].partition("/")[0]
        if "@" not in authority:
            return value
    else:
        found = str(value)[:60]
    expected = "a folder or an fsspec URL, such as `s3://bucket/baselines`, without credentials"
    raise ScenarioError(file, _line_of(name, text), f"tool.harness.{name}", expected, found)


def _is_package(value: object) -> bool:
    return isinstance(value, str) and PACKAGE.fullmatch(value) is not None


def _line_of(key: str, text: str) -> int:
    """Return the first line that sets a key, counted from 1; 1 where it is not found."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip().startswith(key):
            return number
    return 1


def is_code(text: str) -> bool:
    """Return whether a name means code of a project: `package.module:Class`."""
    return ":" in text


def check_trusted(text: str, place: Place) -> None:
    """Refuse a name of code whose package the project does not trust.

    Args:
        text: What the scenario says, such as `inkworks.pipelines:InkPipeline`.
        place: Where it says so.

    Raises:
        ScenarioError: It is no such name, or its package is not trusted.
    """
    if CODE.fullmatch(text) is None:
        raise place.wrong("a name such as `package.module:Class`", f"`{text}`")
    package = text.partition(":")[0].partition(".")[0]
    project = project_of(place.path)
    if project is not None and package in project.trust:
        return
    where = FILE if project is None else str(project.root / FILE)
    hint = (
        f'to trust the code of this package, write `trust = ["{package}"]` under `[tool.harness]` '
        f"in {where}"
    )
    trusted = ", ".join(f"`{name}`" for name in project.trust) if project else ""
    expected = f"code of a trusted package ({trusted})" if trusted else "code of a trusted package"
    raise place.wrong(expected, f"`{text}` of `{package}`, which is not trusted", hint)
