"""Owns which cases `list` and `run` are about: of all files that can be read, and of past failures.

A file with a mistake keeps no other one from being listed or run. It is told, and the exit code is
then that of a mistake, whatever became of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.commands.output import complain
from harness.commands.parser import run_of
from harness.errors import ScenarioError, UsageError
from harness.scenario.model import Case
from harness.scenario.project import kept_name
from harness.scenario.reading import read_each, refusal_of
from harness.scenario.select import select
from harness.store.shared_folder import is_url


@dataclass(frozen=True)
class Chosen:
    """What a command is about.

    Attributes:
        cases: At least one.
        refused: What is wrong with the files that cannot be read, one error for each.
        failed_from: The run whose failures were asked for; empty where none were.
    """

    cases: tuple[Case, ...]
    refused: tuple[ScenarioError, ...] = ()
    failed_from: str = ""

    @property
    def unread(self) -> tuple[str, ...]:
        """The files that cannot be read, as results name them."""
        return tuple(kept_name(error.path) for error in self.refused)


def add_failed_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the cases which failed in an earlier run."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--lf",
        "--last-failed",
        dest="last_failed",
        action="store_true",
        help="only the cases that failed in the newest run of the project; all of them where "
        "there is no such run, or nothing failed in it",
    )
    which.add_argument(
        "--failed-from", metavar="RUN", help="only the cases that failed in this run"
    )


def choose(arguments: argparse.Namespace) -> Chosen:
    """Return the cases that the options choose, of all files that can be read.

    Raises:
        ScenarioErrors: No file can be read.
        UsageError: A path does not exist, or nothing is chosen.
    """
    found = read_each(map(Path, arguments.paths))
    if not found.scenarios:
        raise refusal_of(found.refused)
    try:
        cases = select(found.scenarios, arguments.k, arguments.device, arguments.profile)
    except UsageError as error:
        if not found.refused:
            raise
        raise UsageError(f"{error}\n{refusal_of(found.refused)}") from error
    run = _failed_from(arguments)
    if not run:
        return Chosen(tuple(cases), found.refused)
    failed = _failed_in(run)
    if failed or not arguments.last_failed:
        cases = _only(cases, failed, run)
    elif arguments.last_failed:
        complain(f"--last-failed: no case failed in {run}, so all chosen cases run")
        run = ""
    return Chosen(tuple(cases), found.refused, run)


def tell_refused(chosen: Chosen) -> None:
    """Tell every mistake of every file that could not be read."""
    if chosen.refused:
        complain(f"harness: {refusal_of(chosen.refused)}")


def tell_refused_again(chosen: Chosen) -> None:
    """Name the files that could not be read, once the others have run."""
    if chosen.refused:
        count = "1 file has" if len(chosen.refused) == 1 else f"{len(chosen.refused)} files have"
        files = ", ".join(str(error.path) for error in chosen.refused)
        complain(f"harness: {count} mistakes, and none of their cases ran: {files}")


def _failed_from(arguments: argparse.Namespace) -> str:
    """Return the run whose failures are asked for; empty where none are, or there is no run.

    Raises:
        UsageError: The runs of the project are behind a URL.
    """
    if not getattr(arguments, "last_failed", False):
        return getattr(arguments, "failed_from", None) or ""
    from harness.store.run_folder import newest_results

    if is_url(arguments.runs_in):
        raise UsageError(
            f"--last-failed looks for the newest run in a folder, and runs go to "
            f"{arguments.runs_in}; name one by --failed-from RUN"
        )
    newest = newest_results(Path(arguments.runs_in))
    if newest is None:
        complain(f"--last-failed: there is no run in {arguments.runs_in}, so all cases run")
        return ""
    return str(newest)


def _failed_in(run: str) -> set[str]:
    """Return the cases that failed in a run.

    Raises:
        FileError: There is no such run, or its results are damaged.
    """
    from harness.store.run_folder import read_results

    return {each.case for each in read_results(run_of(run)).outcomes if each.fails}


def _only(cases: Sequence[Case], failed: set[str], run: str) -> list[Case]:
    """Return the cases that failed, and say how many there are.

    Raises:
        UsageError: None of the cases failed.
    """
    if not failed:
        raise UsageError(f"no case failed in {run}")
    chosen = [case for case in cases if case.id in failed]
    if not chosen:
        raise UsageError(
            f"none of {len(cases)} chosen cases is among the {len(failed)} that failed in {run}"
        )
    left = len(failed) - len(chosen)
    others = f"; {left} more failed there and are not among the chosen" if left else ""
    complain(f"{len(chosen)} cases that failed in {run}{others}")
    return chosen
