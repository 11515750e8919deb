"""Writing bounds and their evidence into a scenario's file; every other line stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from harness.errors import FileError, ScenarioError, writing
from harness.scenario.fields import SHAPE
from harness.scenario.located_yaml import Place, load, parse
from harness.scenario.tolerance import Evidence, Kind, Tolerance
from harness.worker.files import remove_leftovers, write_file

PLAIN_KEY = re.compile(r"[A-Za-z_][\w.#-]*")  # which needs no quotes in YAML


def write_tolerance(path: Path, bounds: Mapping[Kind, Tolerance], evidence: Evidence) -> None:
    """Replace the bounds and the evidence under `tolerance` in a scenario's file.

    Raises:
        ScenarioError: The file has a mistake.
        FileError: The file cannot be written, or its layout does not let the other lines stay.
    """
    values, place = load(path, SHAPE)
    replaced = [*map(str, bounds), "evidence"]
    kept = {key: each for key, each in values.get("tolerance", {}).items() if key not in replaced}
    new = _block({str(kind): bound.as_yaml() for kind, bound in bounds.items()} | kept, evidence)
    text = path.read_bytes().decode("utf-8")
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    members = place.members()
    first, end = len(lines), len(lines)
    if "tolerance" in members:
        first, end = _span(*members["tolerance"], lines)
    lines[first:end] = [line + newline for line in new]
    text = "".join(lines)
    _check_others(path, text, values)
    with writing(path):
        remove_leftovers(path.parent)
        write_file(path, text.encode())


def _block(settings: Mapping[str, object], evidence: Evidence) -> list[str]:
    """Return the lines of `tolerance`."""
    return [
        "tolerance:",
        *(f"  {key}: {_flow(value)}" for key, value in settings.items()),
        "  evidence:  # written by `harness calibrate --write`",
        *(f"    {key}: {_flow(value)}" for key, value in evidence.as_yaml().items()),
    ]


def _check_others(path: Path, text: str, values: Mapping[str, object]) -> None:
    """Check that the new text of a file means what the old one meant, but for the tolerance.

    It would not where the whole file is one `{...}`, or where another key has an alias of a value
    in the tolerance.

    Raises:
        FileError: It does not.
    """
    try:
        found, _ = parse(path, text, SHAPE)
    except ScenarioError:
        found = {}
    if {**found, "tolerance": None} != {**values, "tolerance": None}:
        problem = "is laid out so that bounds cannot be written without changing other lines"
        remedy = "write `tolerance:` at the beginning of a line of its own, and no aliases into it"
        raise FileError(path, problem, remedy)


def _span(key: Place, value: Place, lines: list[str]) -> tuple[int, int]:
    """Return the first line of a member and the line after its last, counted from 0.

    Blank lines and comments behind it belong to what follows.
    """
    first = key.node.start_mark.line
    last = value.node.end_mark
    end = last.line + (1 if last.column else 0)
    while end > first + 1 and _is_blank_or_comment(lines[end - 1]):
        end -= 1
    return first, end


def _is_blank_or_comment(line: str) -> bool:
    text = line.strip()
    return not text or text.startswith("#")


def _flow(value: object) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, Mapping):
        items = (f"{_flow_key(str(key))}: {_flow(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, float):
        return _flow_float(value)
    return json.dumps(value, ensure_ascii=False)


def _flow_key(key: str) -> str:
    """Return a key, in quotes where it is more than the name of a stage."""
    return key if PLAIN_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _flow_float(value: float) -> str:
    """Return a float with two digits, as those that were measured have, or with all it has.

    There is always a dot: YAML 1.1 takes `1e-05` for text.
    """
    short = f"{value:.1e}" if value else "0.0"
    return short if float(short) == value else repr(value)
