"""Owns what a shell offers when Tab is pressed: commands, options, and what the project holds.

argcomplete speaks with the shell and knows the parser. This module adds what no parser can know:
the scenarios and their cases, the tags, and the runs. It is loaded only when a shell asks, reads
YAML and JSON alone, and loads no framework. What cannot be read is not offered.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from harness.commands.parser import ANY_DEVICE, commands_of
from harness.errors import HarnessError
from harness.records import Device
from harness.scenario.fields import Profile
from harness.scenario.model import Case
from harness.scenario.project import AUTO, RUNS, project_at, seen_from
from harness.store.shared_folder import is_url

YAML = ("yaml", "yml")
RESULTS_FILE = "results.json"  # of `store.run_folder`, which loads numpy
MOST_BYTES = 1 << 26  # of a file of results that is read for its cases: 64 MiB
# What is offered must be such a word: a name in the file of another machine may hold anything.
WORD = re.compile(r"[\w.+\-\[\],=]+")


class Completer(Protocol):
    """What argcomplete asks for the words that may follow."""

    def __call__(self, **_: object) -> list[str]:
        """Return them; what is on the line so far is among the keyword arguments."""
        ...


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, and end the process."""
    import argcomplete
    from argcomplete.completers import FilesCompleter

    files = FilesCompleter(YAML)
    by_option: Mapping[str, object] = {
        "-k": _expressions,
        "--device": _words_of([*Device, ANY_DEVICE]),
        "--profile": _words_of(list(Profile)),
        "--jobs": _words_of([AUTO]),
        "--scenarios": files,
        "--failed-from": _runs,
    }
    by_place: Mapping[object, object] = {
        "PATH": files,
        "SCENARIO": files,
        "RUN": _runs,
        "CASE": _cases_of_run,
    }
    for command in commands_of(parser).values():
        for action in command._actions:
            found = [by_option[name] for name in action.option_strings if name in by_option]
            if not action.option_strings and action.metavar in by_place:
                found = [by_place[action.metavar]]
            for completer in found:
                setattr(action, "completer", completer)  # noqa: B010 (argparse does not know it)
    argcomplete.autocomplete(parser)


def _words_of(words: list[str]) -> Completer:
    """Return what offers the same words every time."""

    def offer(**_: object) -> list[str]:
        return list(map(str, words))

    return offer


def _expressions(**_: object) -> list[str]:
    """Return what `-k` may begin with: the names of scenarios, the ids of cases, and tags."""
    found: dict[str, None] = {}
    for case in _cases():
        found |= dict.fromkeys((case.scenario.name, case.id, *case.scenario.tags))
    return _safe(found)


def _runs(prefix: str = "", **_: object) -> list[str]:
    """Return the runs of the project, and the folders that a path leads to."""
    from argcomplete.completers import DirectoriesCompleter

    here = Path.cwd()
    try:
        project = project_at(here)
    except HarnessError:
        return []
    folder = seen_from(here, project.root, project.places.runs or RUNS)
    files = [] if is_url(folder) else Path(folder).glob(f"*/{RESULTS_FILE}")
    runs = sorted((str(file.parent) for file in files), reverse=True)
    others = [str(each) for each in DirectoriesCompleter()(prefix)]
    return [*runs, *(each for each in others if each.rstrip("/") not in runs)]


def _cases_of_run(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return the cases of the run that is named on the line, else those of the project."""
    path = Path(getattr(parsed_args, "run", None) or "") / RESULTS_FILE
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return _safe(dict.fromkeys(case.id for case in _cases()))
    try:
        outcomes = json.loads(path.read_text(encoding="utf-8"))["outcomes"]
        return _safe(dict.fromkeys(str(outcome["case"]) for outcome in outcomes))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _cases() -> Iterator[Case]:
    """Yield the cases of the project's scenarios, as far as their files can be read."""
    from harness.scenario.reading import read_each

    try:
        project = project_at(Path.cwd())
        folders = [project.root / folder for folder in project.scenarios]
        scenarios = read_each(folder for folder in folders if folder.is_dir()).scenarios
    except (HarnessError, OSError):
        return
    for scenario in scenarios:
        yield from scenario.cases()


def _safe(words: Mapping[str, None]) -> list[str]:
    return [word for word in words if WORD.fullmatch(word)]
