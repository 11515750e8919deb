"""Owns the options by which commands report runs, and does what they ask for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import say, write_text
from harness.scenario.project import project_at, seen_from

if TYPE_CHECKING:
    from harness.report.runs import Run

# The words of `report.annotations.Annotations`, which is too heavy to load for `harness list`.
ANNOTATIONS = ("auto", "github", "none")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say in which forms runs are reported."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML too")
    parser.add_argument("--html", metavar="FILE", help="write one HTML page of all of it too")
    parser.add_argument(
        "--annotations",
        choices=ANNOTATIONS,
        default="auto",
        help="print annotations for GitHub to standard error; `auto` does in a job of GitHub "
        "(default: %(default)s)",
    )


def publish(arguments: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Print runs in the form that was asked for, and write the files.

    Annotations go to standard error, because standard output may be a job's summary.

    Raises:
        FileError: A file cannot be written.
    """
    from harness.report.annotations import annotation_lines, wanted
    from harness.report.junit import junit
    from harness.report.markdown import markdown
    from harness.report.run_report import print_runs
    from harness.report.study_report import print_overheads
    from harness.report.terminal import console

    if arguments.json:
        say(_json(runs))
    elif arguments.markdown:
        say(markdown(runs))
    else:
        print_runs(console(), [_seen_from_here(run) for run in runs])
        print_overheads(console(), [each for run in runs for each in run.overheads], {})
    if arguments.junit:
        write_text(Path(arguments.junit), junit(runs))
    if arguments.html:
        from harness.report.html.report import write_report

        write_report(runs, Path(arguments.html))
    if wanted(arguments.annotations, os.environ):
        for line in annotation_lines(runs):
            # As it is: what makes other text safe would take the command out of this line.
            print(line, file=sys.stderr, flush=True)


def _seen_from_here(run: Run) -> Run:
    """Return a run whose outcomes name files as they are reached from the working directory."""
    here = Path.cwd()
    root = project_at(here).root
    outcomes = tuple(
        replace(
            outcome,
            path=seen_from(here, root, outcome.path),
            store=seen_from(here, root, outcome.store),
        )
        for outcome in run.outcomes
    )
    return replace(run, outcomes=outcomes)


def _json(runs: Sequence[Run]) -> str:
    """Return runs as JSON: all outcomes, and their causes by case."""
    from harness.judge.cause import by_cause
    from harness.report.causes import headline
    from harness.report.runs import all_outcomes
    from harness.store.typed_json import to_text

    causes = [
        {
            "headline": headline(group),
            "verdict": group.verdict,
            "causes": group.causes,
            "cases": [outcome.case for outcome in group.outcomes],
        }
        for group in by_cause(all_outcomes(runs))
    ]
    content = [
        {
            "run": str(run.folder),
            "environment": run.environment,
            "outcomes": run.outcomes,
            "overheads": run.overheads,
            "scope": run.scope,
        }
        for run in runs
    ]
    return to_text({"runs": content, "causes": causes}).rstrip("\n")
