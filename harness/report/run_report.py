"""Owns how a run is printed on a terminal: its table, its failures, and what was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from shutil import get_terminal_size

from rich.console import Console
from rich.text import Text

from harness.records import Outcome
from harness.report import accuracy, batches, variants, wording
from harness.report.causes import failures, not_checked
from harness.report.runs import Run, Shown, all_outcomes, with_figures
from harness.report.safe_text import safe_line
from harness.report.terminal import print_text, table


def print_runs(out: Console, runs: Sequence[Run]) -> None:
    """Print runs as one: table, a paragraph for each cause of failures, accuracy, costs."""
    outcomes = all_outcomes(runs)
    shown = with_figures(runs)
    if shown:
        out.print(_table_of(shown, width_of(out), several=len(runs) > 1))
    _print_variants(out, outcomes)
    for text in failures(runs):
        out.print()
        print_text(out, text)
    _print_accuracy(out, outcomes)
    _print_list(out, "batches:", batches.lines(outcomes))
    _print_list(out, "cost:", wording.costs(outcomes))
    _print_list(out, "not checked:", not_checked(runs))
    out.print()
    has_failed = any(outcome.fails for outcome in outcomes)
    print_text(out, wording.summary(outcomes), "red" if has_failed else "green")


def width_of(out: Console) -> int:
    """Return how many characters fit on a line of a terminal; 0 for a pipe or a file.

    A console that is told to colour its output takes a pipe for a terminal; a log has no width.
    """
    return get_terminal_size().columns if out.file.isatty() else 0


def _table_of(shown: Sequence[Shown], width: int, *, several: bool) -> Text:
    headings: Sequence[str] = ("run", *wording.HEADINGS)
    rows: list[Sequence[str]] = [
        (str(each.run.folder), *wording.row(each.outcome)) for each in shown
    ]
    if not several:
        headings, rows = headings[1:], [row[1:] for row in rows]
    return table(
        headings,
        rows,
        verdict_column=headings.index("verdict"),
        width=width,
        spare=wording.SPARE,
    )


def _print_accuracy(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the worst stages of every case that was evaluated in float64."""
    rows = accuracy.rows(outcomes)
    if rows:
        out.print()
        print_text(out, "accuracy against float64:")
        out.print(table(accuracy.HEADINGS, rows, width=width_of(out), spare=accuracy.SPARE))


def _print_variants(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what each variant is held to, what it buys and what it costs."""
    rows = variants.rows(outcomes)
    if not rows:
        return
    out.print()
    print_text(out, "variants, against other cases of this run:")
    out.print(table(variants.HEADINGS, rows, width=width_of(out), spare=variants.SPARE))
    _print_list(out, "seconds not compared:", variants.notes(outcomes))


def _print_list(out: Console, heading: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    out.print()
    print_text(out, "\n".join([heading, *(f"  {safe_line(line)}" for line in lines)]))
