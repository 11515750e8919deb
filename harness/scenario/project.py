"""The project that a scenario or a command belongs to: its root, its stores, whose code it trusts.

A project is found as git and ruff find theirs: from a folder upwards, the first whose
`pyproject.toml` has `[tool.harness]`, or else the first that holds a folder `scenarios`. What the
table says stands for options that the command line leaves out:

    [tool.harness]
    trust = ["inkworks"]
    scenarios = ["scenarios"]
    baselines = "s3://inkworks/harness/baselines"
    device = "cpu"

A scenario names no code, unless this table trusts its package.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from harness.errors import ScenarioError, ScenarioErrors
from harness.records import Device
from harness.scenario.located_yaml import Place, nearest

FILE = "pyproject.toml"
SCENARIOS, BASELINES, RUNS = "scenarios", "baselines", "runs"  # folders where nothing is named
ENDS_THE_SEARCH = ".git"  # a folder of git, or the file of one of its worktrees
AUTO = "auto"
PROFILES = ("native", "portable")  # the words of `fields.Profile`, which reads scenarios by this
MOST_BYTES = 1 << 20  # of a pyproject.toml: 1 MiB
MOST_SHOWN = 60  # characters of a value, in a message
# `package.module:Class`: a dotted module, and a name in it.
CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", re.ASCII)
PACKAGE = re.compile(r"[^\W\d]\w*", re.ASCII)
HEADER = re.compile(r"\s*\[+\s*tool\s*\.\s*harness\s*\]+")


class FoundBy(StrEnum):
    """What says that a folder is the root of a project."""

    TABLE = "table"
    FOLDER = "folder"
    NOTHING = "nothing"


class Places(NamedTuple):
    """Where a project keeps its stores: folders below its root, or URLs; empty where unsaid.

    `runs` is where the folders of new runs go.
    """

    baselines: str = ""
    history: str = ""
    runs: str = ""


class Defaults(NamedTuple):
    """What stands for options that a command leaves out; None, empty or false where unsaid.

    `jobs` is a number of workers or `auto`, as text.
    """

    device: Device | None = None
    profile: str = ""
    jobs: str = ""
    strict: bool = False
    accuracy: bool = False


NO_PLACES = Places()
NO_DEFAULTS = Defaults()


@dataclass(frozen=True)
class Project:
    """A project: the folder of its `pyproject.toml`, and what that says of the harness.

    `trust` are the packages whose code scenarios may name, `scenarios` the folders of scenarios
    relative to the root, `places` where its stores are, `defaults` what commands take unasked, and
    `found_by` what says that this folder is its root.
    """

    root: Path
    trust: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = (SCENARIOS,)
    places: Places = NO_PLACES
    defaults: Defaults = NO_DEFAULTS
    found_by: FoundBy = FoundBy.TABLE


def project_of(path: Path) -> Project | None:
    """Return the project of a scenario's file that has `[tool.harness]`; None where there is none.

    Raises:
        ScenarioError: That table is malformed.
    """
    for candidate in _searched(str(path.parent)):
        file = os.path.join(candidate, FILE)  # noqa: PTH118 (as below)
        if os.path.isfile(file):  # noqa: PTH113 (as below)
            status = Path(file).stat()
            found = _read(Path(file), status.st_mtime_ns, status.st_size)
            if found is not None:
                return found
    return None


def project_at(folder: Path) -> Project:
    """Return the project that a working directory belongs to.

    Where there is none, it is the folder itself, with nothing said.

    Raises:
        ScenarioError: `[tool.harness]` is malformed.
    """
    found = project_of(folder / FILE)
    if found is not None:
        return found
    for candidate in searched(folder):
        if (candidate / SCENARIOS).is_dir():
            return Project(candidate, found_by=FoundBy.FOLDER)
    return Project(folder.resolve(), found_by=FoundBy.NOTHING)


def searched(folder: Path) -> Iterator[Path]:
    """Yield the folders in which a project is looked for, from the nearest to the last.

    A repository of git, the home of the user and the root of the file system end the search.
    """
    yield from map(Path, _searched(str(folder)))


def _searched(folder: str) -> Iterator[str]:
    """Yield the same as texts: every scenario asks, and a Path takes ten times as long."""
    candidate = os.path.realpath(folder)
    home = _home()
    while True:
        yield candidate
        above = os.path.dirname(candidate)  # noqa: PTH120
        mark = os.path.join(candidate, ENDS_THE_SEARCH)  # noqa: PTH118
        if candidate in (home, above) or os.path.exists(mark):  # noqa: PTH110
            return
        candidate = above


def seen_from(here: Path, root: Path, place: str) -> str:
    """Return how a place of a project is named in a folder: relative below it, else absolute.

    Args:
        here: The working directory.
        root: The root of the project.
        place: A path, which may be relative to the root; a URL and nothing stay as they are.
    """
    if not place or "://" in place:
        return place
    path = Path(os.path.abspath(root / place))  # noqa: PTH100 (a link stays a link)
    here = here.resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def kept_name(path: Path) -> str:
    """Return how results name a file or folder: relative to the project's root, else absolute.

    Results are read again from another folder of the project, or in another copy of it.
    """
    here = Path.cwd()
    return seen_from(project_at(here).root, here, str(path))


def named_in_results(name: str) -> Path:
    """Return the file or folder that `kept_name` named."""
    return project_at(Path.cwd()).root / name


def _home() -> str:
    """Return the user's home; empty where the user has none."""
    try:
        return os.path.realpath(Path.home())
    except RuntimeError:
        return ""


# Reading the table.


def _always(_value: object) -> bool:
    return True


@dataclass(frozen=True)
class _Key:
    """A key of the table: what may stand there, in words and as a test.

    `may_be_told` says of a value that does not fit whether a message may repeat it.
    """

    expected: str
    fits: Callable[[object], bool]
    may_be_told: Callable[[object], bool] = _always


def _is_package(value: object) -> bool:
    return isinstance(value, str) and PACKAGE.fullmatch(value) is not None


def _is_list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _has_no_credentials(value: object) -> bool:
    return "@" not in str(value).partition("://")[2].partition("/")[0]


def _is_place(value: object) -> bool:
    return isinstance(value, str) and _has_no_credentials(value)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_device(value: object) -> bool:
    return value in tuple(Device)


def _is_profile(value: object) -> bool:
    return value in PROFILES


def _is_jobs(value: object) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return is_number or value == AUTO


_PLACE = _Key(
    "a folder or an fsspec URL, such as `s3://bucket/baselines`, without credentials",
    _is_place,
    _has_no_credentials,
)
_SWITCH = _Key("`true` or `false`", _is_switch)
KEYS: Mapping[str, _Key] = {
    "trust": _Key('a list of top-level packages, such as `["inkworks"]`', _is_list_of(_is_package)),
    "scenarios": _Key('a list of folders, such as `["scenarios"]`', _is_list_of(_is_text)),
    "baselines": _PLACE,
    "history": _PLACE,
    "runs": _PLACE,
    "device": _Key(f"one of {', '.join(Device)}", _is_device),
    "profile": _Key(f"one of {', '.join(PROFILES)}", _is_profile),
    "jobs": _Key('a whole number >= 1, or `"auto"`', _is_jobs),
    "strict": _SWITCH,
    "accuracy": _SWITCH,
}


@lru_cache(maxsize=64)
def _read(file: Path, _changed: int, size: int) -> Project | None:
    """Return the project of one `pyproject.toml`; None where it is no project of the harness.

    Raises:
        ScenarioError: The file is no TOML, or the table has a mistake; all mistakes are told.
    """
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
    if not isinstance(table, dict):
        line, found = _line_of("harness", text), str(table)[:MOST_SHOWN]
        raise ScenarioError(file, line, "tool.harness", "a table", found)
    wrong = list(_mistakes(table, file, text))
    if wrong:
        raise wrong[0] if len(wrong) == 1 else ScenarioErrors(wrong)
    return _project(file.parent, table)


def _mistakes(table: Mapping[str, object], file: Path, text: str) -> Iterator[ScenarioError]:
    """Yield each mistake of the table, with its line."""
    for name, value in table.items():
        line, field = _line_of(name, text), f"tool.harness.{name}"
        key = KEYS.get(name)
        if key is None:
            known = ", ".join(f"`{word}`" for word in KEYS)
            yield ScenarioError(file, line, field, known, f"`{name}`", nearest(name, KEYS))
        elif not key.fits(value):
            found = "a URL that holds a user or a password"
            if key.may_be_told(value):
                found = str(value)[:MOST_SHOWN]
            yield ScenarioError(file, line, field, key.expected, found)


def _project(root: Path, table: Mapping[str, object]) -> Project:
    """Return the project of a table without mistakes."""
    device = table.get("device")
    defaults = Defaults(
        device=None if device is None else Device(str(device)),
        profile=str(table.get("profile", "")),
        jobs=str(table.get("jobs", "")),
        strict=bool(table.get("strict")),
        accuracy=bool(table.get("accuracy")),
    )
    return Project(
        root,
        tuple(dict.fromkeys(_texts(table.get("trust", ())))),
        tuple(_texts(table.get("scenarios", (SCENARIOS,)))),
        Places(*(str(table.get(name, "")) for name in Places._fields)),
        defaults,
    )


def _texts(value: object) -> Iterator[str]:
    """Yield the texts of a list that was checked to hold nothing else."""
    yield from map(str, value if isinstance(value, list | tuple) else ())


def _line_of(key: str, text: str) -> int:
    """Return the line that sets a key of the table, counted from 1; else that of its header."""
    sets_key = re.compile(rf'\s*((tool\.)?harness\.)?"?{re.escape(key)}"?\s*=')
    lines = text.splitlines()
    header = next((index for index, line in enumerate(lines) if HEADER.match(line)), 0)
    for index, line in enumerate(lines[header:], start=header):
        if sets_key.match(line):
            return index + 1
    return header + 1


# Whose code a scenario may name.


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
