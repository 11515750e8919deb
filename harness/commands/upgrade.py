"""Owns the command `upgrade`: which packages move what, and which part moves nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import complain, say, write_text
from harness.commands.parser import (
    Command,
    add_choice,
    add_paths,
    add_profile,
    add_until,
    at_least_one,
    chosen_cases,
    out_of,
    store_of,
)
from harness.records import Device

if TYPE_CHECKING:
    from harness.study.upgrade import UpgradePlan

PLAN_FILE, MARKDOWN_FILE, PAGE_FILE = "upgrade.json", "upgrade.md", "upgrade.html"
LOCK_FILE = "upgrade-lock.txt"
SECONDS_A_MINUTE = 60.0


def upgrade(arguments: argparse.Namespace) -> int:
    """Say which packages of an upgrade move which case, and how much of it moves nothing.

    Both files are resolved by pip on top of the packages that are installed here. All cases run in
    both environments. Where one moves, sets of packages are tried between the two, until it is
    known which package or packages own the move; and the largest part of the upgrade that moves no
    case is written as a lock file and verified. What is recorded stays in the run's folder, where
    the next call with the same --out goes on. Exit code 0: nothing moves; 1: something does; 3:
    nothing does, but a case could not be compared or a limit ended the search.
    """
    from harness.session import Session
    from harness.study.moves import Until
    from harness.study.upgrade import Inputs, Limits, Trials, plan_upgrade
    from harness.study.upgrade_ends import read_ends

    cases = {case.id: case for case in chosen_cases(arguments, arguments.paths)}
    before, after = Path(arguments.before), Path(arguments.after)
    complain("pip resolves both files")
    ends = read_ends(before, after)
    out = out_of(arguments)
    lock = Path(arguments.lock) if arguments.lock else out / LOCK_FILE
    complain(f"{len(ends.changes)} packages differ, {len(cases)} cases; recordings: {out}")
    seconds = arguments.budget and arguments.budget * SECONDS_A_MINUTE
    with Session(store_of(arguments), out) as session:
        session.claim()
        limits = Limits(arguments.max_environments, seconds)
        until = Until(arguments.until)
        trials = Trials(session, cases, ends, until, limits, complain)
        inputs = Inputs(before, after, ends, lock, arguments.accuracy)
        plan = plan_upgrade(inputs, trials, partial(_write_lock, arguments, lock))
    _write(arguments, plan, out)
    say_where = complain if arguments.json or arguments.markdown else say
    say_where(f"wrote {lock}, and {PLAN_FILE}, {MARKDOWN_FILE} and {PAGE_FILE} in {out}")
    return 1 if plan.moved else 0 if plan.is_complete else 3


def _write_lock(arguments: argparse.Namespace, path: Path, lock: Sequence[str]) -> None:
    """Write the lock file of the harmless part.

    Raises:
        FileError: It cannot be written.
    """
    from harness.report.upgrade_report import lock_text

    write_text(path, lock_text(lock, arguments.before, arguments.after))


def _write(arguments: argparse.Namespace, plan: UpgradePlan, out: Path) -> None:
    """Print a plan in the form that was asked for, and write it in all forms.

    Raises:
        FileError: A file cannot be written.
    """
    from harness.report.html.upgrade import upgrade_page
    from harness.report.terminal import console
    from harness.report.upgrade_report import plan_markdown, print_plan
    from harness.store.typed_json import to_text

    text, document = to_text(plan.as_json()), plan_markdown(plan)
    write_text(out / PLAN_FILE, text)
    write_text(out / MARKDOWN_FILE, document)
    write_text(out / PAGE_FILE, upgrade_page(plan))
    if arguments.json:
        say(text.rstrip("\n"))
    elif arguments.markdown:
        say(document)
    else:
        print_plan(console(), plan)


def _options(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    for option, name, words in (
        ("--from", "before", "the requirements file of today"),
        ("--to", "after", "the requirements file of the upgrade"),
    ):
        parser.add_argument(option, dest=name, required=True, metavar="REQUIREMENTS", help=words)
    add_choice(parser, device=Device.CPU)
    add_profile(parser)
    add_until(parser)
    parser.add_argument(
        "--max-environments",
        type=at_least_one,
        metavar="N",
        help="build at most N environments, those of the two files among them (default: no limit)",
    )
    parser.add_argument(
        "--budget",
        type=at_least_one,
        metavar="MINUTES",
        help="begin nothing new after this time (default: no limit)",
    )
    parser.add_argument(
        "--accuracy",
        action="store_true",
        help="evaluate every move in float64, also of cases that take long",
    )
    parser.add_argument(
        "--lock",
        metavar="FILE",
        help=f"where the lock file of the harmless part goes (default: {LOCK_FILE} in --out)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where recordings and reports go; the next call goes on there (default: runs/ and "
        "the time)",
    )


COMMANDS = (
    Command(
        "upgrade",
        "say which packages of an upgrade move what, and which part of it moves nothing",
        "scenarios --from requirements.txt --to upgraded.txt --max-environments 20",
        upgrade,
        _options,
    ),
)
