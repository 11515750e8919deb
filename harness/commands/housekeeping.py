"""Owns the commands that remove what nobody needs: `prune`, baselines; `clean`, old runs."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from harness.commands.json_output import Cleaned, Pruned, add_json, print_json
from harness.commands.output import say
from harness.commands.parser import Command, add_paths, at_least_one, store_of
from harness.errors import UsageError, writing
from harness.scenario.model import Case
from harness.scenario.reading import read_all

KEPT = 10


def prune(arguments: argparse.Namespace) -> int:
    """Remove the baselines that belong to no case of the scenarios.

    Give it all scenarios: by default those of the project. Baselines of objects that tests hold
    stay; `pytest --harness-prune` removes those of tests that are gone. In a repository, nothing is
    lost: git has what was removed.
    """
    store = store_of(arguments)
    if store.url:
        raise UsageError("prune works on a store in a folder; a shared store may serve others")
    cases = [case for one in read_all(map(Path, arguments.paths)) for case in one.cases()]
    used = {name for case in cases for name in _names_of(case)}
    total = len(store.folders())
    found = [folder for folder in store.folders() if (folder.parent.name, folder.name) not in used]
    of_tests = [folder for folder in found if store.is_of_test(folder)]
    unused = [folder for folder in found if folder not in of_tests]
    for folder in unused:
        if not arguments.json:
            say(f"{'unused' if arguments.dry_run else 'removed'}: {folder}")
        if not arguments.dry_run:
            store.remove(folder)
    if arguments.json:
        kept = tuple(map(str, of_tests))
        print_json(Pruned(tuple(map(str, unused)), not arguments.dry_run, total, kept))
        return 0
    say(f"{len(unused)} of {total} unused")
    if of_tests:
        say(f"{len(of_tests)} of objects that tests hold: see pytest --harness-prune")
    return 0


def _names_of(case: Case) -> list[tuple[str, str]]:
    """Return the names of a case's baselines, and of the case whose reference judges it."""
    found = [(case.scenario.name, case.key)]
    reference = case.scenario.reference
    if reference is not None:
        found.append((reference.scenario or case.scenario.name, reference.key))
    return found


def _prune_options(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_json(parser)


def clean(arguments: argparse.Namespace) -> int:
    """Remove old runs below `runs/`, which hold recordings and reports; the newest stay."""
    from harness.store.run_folder import newest_runs

    runs = newest_runs(Path(arguments.runs or arguments.runs_in))
    old = runs[arguments.keep :]
    for run in reversed(old):
        if not arguments.json:
            say(f"{'old' if arguments.dry_run else 'removed'}: {run}")
        if not arguments.dry_run:
            with writing(run):
                shutil.rmtree(run)
    if arguments.json:
        print_json(Cleaned(tuple(map(str, reversed(old))), not arguments.dry_run, len(runs)))
        return 0
    say(f"{len(old)} of {len(runs)} runs are older than the newest {arguments.keep}")
    return 0


def _clean_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="?",
        metavar="DIR",
        help="the folder of runs (default: that of the project)",
    )
    parser.add_argument(
        "--keep",
        type=at_least_one,
        default=KEPT,
        metavar="N",
        help="how many of the newest stay (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_json(parser)


COMMANDS = (
    Command(
        "prune",
        "remove baselines that belong to no case",
        "--dry-run",
        prune,
        _prune_options,
    ),
    Command(
        "clean",
        "remove old runs",
        "--keep 3",
        clean,
        _clean_options,
    ),
)
