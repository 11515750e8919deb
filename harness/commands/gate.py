"""Owns the command `gate`: one word on a release, from the runs of many machines."""

from __future__ import annotations

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import say
from harness.commands.parser import Command, add_scenarios, store_of
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.gate.record import Asked, GateRecord

DOES_NOT_HOLD = 1


def gate(arguments: argparse.Namespace) -> int:
    """Say whether a release may go out: `open` or `blocked`, and why.

    Every case that the policy requires must have been seen, and must pass, on every kind of device
    that the policy names. The runs may come from one machine or from many. With --verify, a record
    of an earlier decision is checked instead: that everything it rests on is still the same, and
    that the decision follows from it.
    """
    if arguments.verify:
        return _verify(arguments)
    from harness import __version__
    from harness.gate.record import make_record, read_inputs, write_record
    from harness.store.git import git, is_dirty
    from harness.store.typed_json import to_text

    inputs = read_inputs(
        _asked(arguments),
        store_of(arguments),
        git("rev-parse", "HEAD") or "",
        is_dirty(),
        __version__,
        datetime.now(UTC).replace(microsecond=0),
    )
    record = make_record(inputs)
    if arguments.json:
        say(to_text(record).rstrip())
    else:
        _print(record)
    if arguments.record:
        write_record(Path(arguments.record), record)
    return record.exit_code


def _asked(arguments: argparse.Namespace) -> Asked:
    """Return what the command names.

    Raises:
        UsageError: It names no run or no policy, or a folder that holds no run.
    """
    from harness.gate.record import Asked
    from harness.store.shared_runs import runs_at

    if not arguments.policy or not arguments.runs:
        raise UsageError(
            "gate needs at least one run and --policy FILE, or --verify RECORD; for example: "
            "harness gate runs/* --policy .ci/release.yaml"
        )
    runs = [run for place in arguments.runs for run in runs_at(place)]
    return Asked(
        runs=tuple(dict.fromkeys(runs)),
        policy=arguments.policy,
        scenarios=tuple(arguments.scenarios),
        baselines=arguments.baselines,
        recordings=arguments.recordings,
    )


def _print(record: GateRecord) -> None:
    from harness.report.gate_report import lines, table, word
    from harness.report.terminal import console

    say(word(record.decision))
    for line in lines(record.decision):
        say(line)
    say("")
    out = console()
    width = shutil.get_terminal_size().columns if out.is_terminal else 0
    out.print(table(record.decision, width))


def _verify(arguments: argparse.Namespace) -> int:
    """Check a record of an earlier decision; return the code of that decision where it holds."""
    from harness.gate.record import read_record, verify
    from harness.report.gate_report import mismatch, word

    if arguments.runs or arguments.policy:
        raise UsageError("--verify RECORD takes its runs and its policy from the record")
    record = read_record(Path(arguments.verify))
    arguments.baselines = record.asked.baselines
    found = verify(record, store_of(arguments))
    for each in found:
        say(mismatch(each))
    if found:
        say(f"the record {arguments.verify} does not hold")
        return DOES_NOT_HOLD
    say(f"the record {arguments.verify} holds: {word(record.decision)} at {record.decided}")
    return record.exit_code


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a run's folder, or a folder that holds several"
    )
    parser.add_argument(
        "--policy", metavar="FILE", help="YAML: what a release requires, see docs/gate.md"
    )
    add_scenarios(
        parser,
        "the scenarios of the release, among which the policy chooses (default: those of the "
        "project)",
    )
    parser.add_argument(
        "--recordings",
        action="store_true",
        help="derive each verdict again from the recording of its case in the run's folder",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="write the decision, with the digest of everything that it rests on",
    )
    parser.add_argument("--json", action="store_true", help="print the record and nothing else")
    parser.add_argument(
        "--verify", metavar="RECORD", help="check the record of an earlier decision"
    )


COMMANDS = (
    Command(
        "gate",
        "give one verdict for a release, from the runs of many machines",
        "runs/* --policy .ci/release.yaml --record gate.json",
        gate,
        _options,
    ),
)
