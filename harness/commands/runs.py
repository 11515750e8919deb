"""Owns the commands that read what runs left and write nothing: `report` and `diff`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import (
    Command,
    add_choice,
    add_profile,
    add_scenarios,
    add_strict,
    chosen_cases,
    run_of,
    store_of,
)
from harness.commands.publish import add_report_options, publish
from harness.errors import UsageError
from harness.records import Outcome
from harness.scenario.model import Case

if TYPE_CHECKING:
    from harness.report.runs import Run
    from harness.store.baselines import Store

# harness report


def report(arguments: argparse.Namespace) -> int:
    """Print the report of one or more runs.

    Several runs, such as those of several machine types, make one report with one exit code. A case
    that could not run on one machine counts as verified where it passes on another. What
    `harness cost --out RUN` measured is printed too.
    """
    from harness.judge.exit_codes import exit_code
    from harness.report.runs import all_outcomes

    needs_recordings = bool(arguments.html)  # its pictures
    runs = [_read_run(run_of(place, recordings=needs_recordings)) for place in arguments.runs]
    publish(arguments, runs)
    return exit_code(all_outcomes(runs), strict=arguments.strict)


def _read_run(folder: Path) -> Run:
    """Return what a run left, as reports show it.

    Raises:
        FileError: There is no such run, or its results are damaged.
    """
    from harness.report.runs import Run
    from harness.store.run_folder import read_results
    from harness.study.overhead import read_overheads

    results = read_results(folder)
    overheads = tuple(read_overheads(folder))
    return Run(folder, results.outcomes, results.environment, overheads, results.scope)


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    add_strict(parser)
    add_report_options(parser)


# harness diff


def diff(arguments: argparse.Namespace) -> int:
    """Compare two runs with each other; no baseline is needed, and nothing runs.

    The recordings of the second run are judged by those of the first, which stand where baselines
    would: machines of one class owe each other the same bits, and the scenario's `cross-class`
    bounds on free drift hold between others. The exit code is that of `harness run`.
    """
    from harness.judge.exit_codes import exit_code
    from harness.report.runs import Run
    from harness.store.run_folder import read_results

    before = run_of(arguments.before, recordings=True)
    after = run_of(arguments.after, recordings=True)
    read_results(before)  # refuses what is no run
    environment = read_results(after).environment
    cases = chosen_cases(arguments, arguments.scenarios)
    outcomes = list(_compared(store_of(arguments), cases, before, after))
    if not outcomes:
        raise UsageError(f"neither {before} nor {after} holds a recording of a chosen case")
    publish(arguments, [Run(after, tuple(outcomes), environment)])
    return exit_code(outcomes, strict=arguments.strict)


def _compared(store: Store, cases: Sequence[Case], before: Path, after: Path) -> Iterator[Outcome]:
    """Yield an outcome for each case of which one of two runs holds a recording.

    Raises:
        FileError: A recording is damaged.
    """
    from harness.judge.run_diff import compare, only_in_one
    from harness.session import Session
    from harness.store.recording import Recording
    from harness.worker.protocol import RECORDING_FILE

    sides = [(run, Session(store, run)) for run in (before, after)]
    for case in cases:
        folders = [session.folder(case) for _, session in sides]
        lacking = [
            str(run)
            for (run, _), folder in zip(sides, folders, strict=True)
            if not (folder / RECORDING_FILE).is_file()
        ]
        if len(lacking) == len(sides):
            continue
        if lacking:
            outcome = only_in_one(case, lacking[0])
        else:
            expected, actual = map(Recording.read, folders)
            outcome = compare(case, actual, expected, str(before))
        recording = folders[1].relative_to(after).as_posix()
        yield replace(outcome, path=str(case.scenario.path), recording=recording)


def _diff_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="RUN", help="the folder of the run to compare with")
    parser.add_argument("after", metavar="RUN", help="the folder of the run that is compared")
    add_scenarios(parser)
    add_choice(parser)
    add_profile(parser)
    add_strict(parser)
    add_report_options(parser)


COMMANDS = (
    Command(
        "report",
        "print the report of runs again",
        "runs/nightly --markdown >> $GITHUB_STEP_SUMMARY",
        report,
        _report_options,
    ),
    Command(
        "diff",
        "compare two runs with each other, without baselines",
        "runs/before runs/after",
        diff,
        _diff_options,
    ),
)
