"""Owns how a run is printed on a terminal: its table, its failures, and what was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from rich.console import Console
from rich.table import Table

from harness.records import Outcome, Verdict
from harness.report import variants, wording
from harness.report.safe_text import safe_line
from harness.report.terminal import print_text, table


def print_run(out: Console, outcomes: Sequence[Outcome], run: Path) -> None:
    """Print a run: its table, a paragraph for each cause of failures, costs, a summary."""
    outcomes = sorted(outcomes, key=_case_of)
    shown = [outcome for outcome in outcomes if outcome.verdict is not Verdict.UNVERIFIED]
    if shown:
        out.print(_table_of(shown, get_terminal_size().columns if out.is_terminal else 0))
    _print_variants(out, outcomes)
    for text in wording.failures(outcomes, run):
        out.print()
        print_text(out, text)
    _print_list(out, "cost:", wording.costs(outcomes))
    _print_list(out, "not checked:", wording.not_checked(outcomes))
    out.print()
    has_failed = any(outcome.fails for outcome in outcomes)
    print_text(out, wording.summary(outcomes), "red" if has_failed else "green")


def _table_of(outcomes: Sequence[Outcome], width: int) -> Table:
    return table(
        wording.HEADINGS,
        [wording.row(outcome) for outcome in outcomes],
        verdict_column=wording.VERDICT_COLUMN,
        width=width,
        spare=wording.SPARE,
    )


def _print_variants(out: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what each variant is held to, what it buys and what it costs."""
    rows = variants.rows(outcomes)
    if not rows:
        return
    out.print()
    print_text(out, "variants, against other cases of this run:")
    width = get_terminal_size().columns if out.is_terminal else 0
    out.print(table(variants.HEADINGS, rows, width=width, spare=variants.SPARE))
    _print_list(out, "seconds not compared:", variants.notes(outcomes))


def _print_list(out: Console, heading: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    out.print()
    print_text(out, "\n".join([heading, *(f"  {safe_line(line)}" for line in lines)]))


def _case_of(outcome: Outcome) -> str:
    return outcome.case.removesuffix("]")  # a variant comes after its base
