"""Owns the commands that read what runs left: `accept`, `report` and `diff`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import say
from harness.commands.parser import (
    PATHS,
    STRICT,
    Command,
    add_choice,
    add_profile,
    add_warn_above,
    chosen_cases,
    store_of,
)
from harness.commands.publish import add_report_options, publish
from harness.errors import BaselineError, UsageError
from harness.records import Outcome, Reason
from harness.scenario.model import Case

if TYPE_CHECKING:
    from harness.commands.baseline_writing import NewBaseline
    from harness.report.runs import Run
    from harness.store.baselines import Store
    from harness.store.recording import Recording

CONTRACT_DECIDES = (Reason.CONTRACT_BROKEN, Reason.CONTRACT_UNVERIFIED)


# harness accept


def accept(arguments: argparse.Namespace) -> int:
    """Replace baselines by what a run recorded."""
    from harness.commands.baseline_writing import write_baselines
    from harness.store.run_folder import read_results

    if not arguments.reason.strip():
        raise UsageError(
            "--reason is empty; say why the new output is right, for whoever reviews the baseline"
        )
    run, store = Path(arguments.run), store_of(arguments)
    outcomes = read_results(run).outcomes
    cases = chosen_cases(arguments, arguments.scenarios)
    # All are checked before the first is written: if one is refused, nothing is written.
    accepted = list(_accepted(run, store, cases, outcomes))
    if not accepted:
        raise UsageError(
            f"{run} holds nothing to accept: no chosen case drifted, is stale or lacks a baseline"
        )
    remarks = [_say_what_is_replaced(store, each) for each in accepted]
    write_baselines(store, accepted, arguments.reason, arguments.warn_above)
    for remark in filter(None, remarks):
        say(remark)
    for each in accepted:
        for path in _outdated(store, each.case):
            say(
                f"still of an older version of the scenario: {path}; run the case on a machine of "
                "that class and accept that run, or delete the file"
            )
    return 0


def _accepted(
    run: Path, store: Store, cases: Sequence[Case], outcomes: Sequence[Outcome]
) -> Iterator[NewBaseline]:
    """Yield the recordings of a run that become baselines.

    Raises:
        UsageError: A recording cannot be a baseline of its case.
        FileError: A recording is damaged.
    """
    from harness.commands.baseline_writing import NewBaseline
    from harness.session import Session
    from harness.store.recording import Recording

    session = Session(store, run)
    by_case = {outcome.case: outcome for outcome in outcomes}
    for case in cases:
        outcome, folder = by_case.get(case.id), session.folder(case)
        if outcome is None or not _may_be_accepted(case, outcome) or not folder.is_dir():
            continue
        recording = Recording.read(folder)
        _check(case, recording, run)
        yield NewBaseline(case, recording, f"{outcome.verdict}: {outcome.message}")


def _say_what_is_replaced(store: Store, new: NewBaseline) -> str:
    """Print by how much a recording differs from the baseline that it replaces.

    Returns:
        What to say of the scenario's bounds; empty where they belong to what is accepted.
    """
    from harness.report.acceptance import bounds_text, replaced_text

    try:
        match = store.match(new.case, new.recording.numerics_class)
    except BaselineError as error:
        say(f"{new.case.id}: the baseline that is there cannot be compared: {error}")
        match = None
    if match is None:
        return bounds_text(new.case, None)
    say(replaced_text(new.case, new.recording, match))
    return bounds_text(new.case, match.baseline if match.same_class else None)


def _may_be_accepted(case: Case, outcome: Outcome) -> bool:
    from harness.report.advice import ACCEPTABLE_VERDICTS

    if outcome.reason in CONTRACT_DECIDES:  # no baseline changes what a variant owes its base
        return False
    return outcome.verdict in ACCEPTABLE_VERDICTS and case.scenario.needs_baseline


def _check(case: Case, recording: Recording, run: Path) -> None:
    """Refuse a recording that cannot be a baseline of `case`.

    Raises:
        UsageError: It was made with `--env` or `--with`, is of another version of the scenario, or
            holds NaN or infinity.
        FileError: Its tensors are damaged.
    """
    from harness.judge.staleness import is_of_request
    from harness.judge.structure import outputs_not_finite

    env = recording.case.get("env")
    if env is not None:
        made_in = ", ".join(map(str, env)) if isinstance(env, list) else str(env)
        raise UsageError(
            f"{case.id}: {run} ran with {made_in}; a baseline comes from a run without --env "
            "or --with"
        )
    if not is_of_request(recording.case, case.request()):
        raise UsageError(
            f"{case.id}: the scenario was edited after {run}; run it again, then accept that run"
        )
    if outputs_not_finite(recording):
        raise UsageError(f"{case.id}: holds NaN or infinity, which can never be a baseline")
    recording.verify_tensors()


def _outdated(store: Store, case: Case) -> list[str]:
    """Return the baselines of a case that belong to another version of its scenario."""
    current = store.known(case)
    files = store.files(case.scenario.name, case.key)
    return [store.shown(path) for path in files if path.stem not in current]


def _accept_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--reason",
        required=True,
        metavar="TEXT",
        help="why the new output is right; kept in the baseline",
    )
    parser.add_argument("--scenarios", nargs="+", default=["scenarios"], metavar="PATH", help=PATHS)
    add_warn_above(parser)
    add_choice(parser)
    add_profile(parser)


# harness report


def report(arguments: argparse.Namespace) -> int:
    """Print the report of one or more runs.

    Several runs, such as those of several machine types, make one report with one exit code. A case
    that could not run on one machine counts as verified where it passes on another. What
    `harness cost --out RUN` measured is printed too.
    """
    from harness.judge.exit_codes import exit_code
    from harness.report.runs import all_outcomes

    runs = [_read_run(Path(path)) for path in arguments.runs]
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
    return Run(folder, results.outcomes, results.environment, overheads)


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--strict", action="store_true", help=STRICT)
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

    before, after = Path(arguments.before), Path(arguments.after)
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
    parser.add_argument("--scenarios", nargs="+", default=["scenarios"], metavar="PATH", help=PATHS)
    add_choice(parser)
    add_profile(parser)
    parser.add_argument("--strict", action="store_true", help=STRICT)
    add_report_options(parser)


COMMANDS = (
    Command(
        "accept",
        "replace baselines by what a run recorded",
        "runs/nightly -k ddim --reason 'diffusers 0.43 fixes #123'",
        accept,
        _accept_options,
    ),
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
