"""Owns where a project keeps its stores, and how a run gets to a URL when a command is over."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.output import complain
from harness.scenario.project import places_of

BASELINES = "baselines"


def fill_in_places(arguments: argparse.Namespace) -> None:
    """Set the places that the command line leaves out to those of the project.

    Raises:
        ScenarioError: `[tool.harness]` is malformed.
    """
    places = places_of(Path.cwd())
    if arguments.baselines is None:
        arguments.baselines = places.baselines or BASELINES
    if getattr(arguments, "history", "") is None:
        arguments.history = places.history or None
    arguments.runs_in = places.runs


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
