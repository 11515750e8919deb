"""Owns what the project gives to a command line: places and options that it leaves out.

Paths that a user types are relative to the working directory; those of the project to its root.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.output import complain
from harness.commands.parser import ANY_DEVICE, jobs
from harness.errors import UsageError
from harness.scenario import project as projects
from harness.scenario.fields import Profile
from harness.scenario.project import FILE, FoundBy, Project, project_at, searched, seen_from

WITHOUT_SCENARIOS = ("verify", "list")  # options of `gate` and `accept` that read results alone


def fill_in_project(arguments: argparse.Namespace) -> None:
    """Set what the command line leaves out to what the project says.

    Raises:
        ScenarioError: `[tool.harness]` is malformed.
        UsageError: The command is about scenarios, none are named, and there is no project.
    """
    here = Path.cwd()
    project = project_at(here)
    arguments.project = project
    _fill_in_places(arguments, here, project)
    _fill_in_scenarios(arguments, here, project)
    _fill_in_options(arguments, project)


def _fill_in_places(arguments: argparse.Namespace, here: Path, project: Project) -> None:
    places = project.places
    if arguments.baselines is None:
        named = places.baselines or projects.BASELINES
        arguments.baselines = seen_from(here, project.root, named)
    for name in ("history", "folder"):  # the option of `run`, and what `history` is about
        if getattr(arguments, name, "") is None:
            setattr(arguments, name, seen_from(here, project.root, places.history) or None)
    arguments.runs_in = seen_from(here, project.root, places.runs or projects.RUNS)


def _fill_in_scenarios(arguments: argparse.Namespace, here: Path, project: Project) -> None:
    """Set the scenarios that a command is about to those of the project."""
    needs_none = any(getattr(arguments, name, None) for name in WITHOUT_SCENARIOS)
    for name in ("paths", "scenarios"):
        if getattr(arguments, name, None) == []:
            if not needs_none:
                _check_scenarios(here, project)
            found = [seen_from(here, project.root, folder) for folder in project.scenarios]
            setattr(arguments, name, found)


def _check_scenarios(here: Path, project: Project) -> None:
    """Refuse a project without the folders of its scenarios, and say where they were looked for."""
    if project.found_by is FoundBy.NOTHING:
        *_, last = searched(here)
        upwards = "" if last == here else f" or above it, up to {last}"
        raise UsageError(
            f"no scenarios: there is neither a {FILE} with [tool.harness] nor a folder "
            f"`{projects.SCENARIOS}` in {here}{upwards}; name scenario files, or make that folder"
        )
    for folder in project.scenarios:
        if project.found_by is FoundBy.TABLE and not (project.root / folder).exists():
            raise UsageError(
                f"no scenarios: {project.root / folder} is not there, which {project.root / FILE} "
                "names or implies under [tool.harness]; make it, or set `scenarios` there"
            )


def _fill_in_options(arguments: argparse.Namespace, project: Project) -> None:
    """Set the options that are left out to the project's, and else to the command's own default."""
    given, defaults = vars(arguments), project.defaults
    if "device" in given and arguments.device is None:
        arguments.device = defaults.device or given.get("usual_device")
    if given.get("device") == ANY_DEVICE:
        arguments.device = None
    if "profile" in given and arguments.profile is None and defaults.profile:
        arguments.profile = Profile(defaults.profile)
    if "jobs" in given and arguments.jobs is None and defaults.jobs:
        arguments.jobs = jobs(defaults.jobs)
    for switch in ("strict", "accuracy"):
        if switch in given and given[switch] is None:
            setattr(arguments, switch, getattr(defaults, switch))


def send_out(arguments: argparse.Namespace) -> None:
    """Send the run that a command made to the URL that `--out` names.

    Raises:
        FileError: It cannot be sent; the error says how to send it later.
    """
    on_its_way = getattr(arguments, "on_its_way", None)
    if on_its_way is None:
        return
    sent = on_its_way.send()
    complain(
        f"sent to {on_its_way.place}: {sent.files} files; {sent.new_blobs} contents, "
        f"{sent.new_bytes:,} bytes, were not there"
    )
