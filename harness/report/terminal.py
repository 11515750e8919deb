"""Tables and progress on a terminal, by rich; plain text when the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.records import FAIL, PASS, Outcome
from harness.report import wording as rows
from harness.scenario.tolerance import flat

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.study.bisect import Bisection
    from harness.study.calibrate import Calibration
    from harness.study.challenge import Challenge
    from harness.study.overhead import Price

PLAIN_WIDTH = 200  # of a pipe or a log file, which have none; a narrow terminal breaks lines, but no cell is folded
GAP = 2  # blanks between columns


def console() -> Console:
    """Return where to print: rich honours NO_COLOR itself."""
    out = Console(highlight=False, soft_wrap=True)
    return Console(
        highlight=False,
        width=max(out.width, PLAIN_WIDTH) if out.is_terminal else PLAIN_WIDTH,
        soft_wrap=True,
    )


def table(
    headings: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    colour: int | None = None,
    width: int = 0,
    spare: Sequence[str] = (),
) -> Table:
    """Return a table without boxes; column `colour` holds verdicts. Columns that are empty everywhere are left out.

    Where it is wider than `width`, columns named in `spare` are left out, in that order; 0: all fit.
    """
    used = [index for index, _ in enumerate(headings) if any(line[index] for line in lines)]
    widths = {index: max(len(line[index]) for line in (headings, *lines)) for index in used}
    for name in spare:
        if width and sum(widths[index] + GAP for index in used) - GAP > width:
            used = [index for index in used if headings[index] != name]
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for index in used:
        made.add_column(headings[index], no_wrap=True)
    for line in lines:
        made.add_row(
            *(
                Text(line[index], style=_style(line[index]) if index == colour else "")
                for index in used
            )
        )
    return made


def print_run(out: Console, outcomes: list[Outcome], run: Path) -> None:
    """Print a run: the table, a paragraph per failure, what was not checked, and the summary."""
    outcomes = sorted(outcomes, key=lambda outcome: outcome.case)
    shown = [outcome for outcome in outcomes if outcome.verdict != "unverified"]
    if shown:
        width = get_terminal_size().columns if out.is_terminal else 0
        out.print(
            table(
                rows.HEADINGS,
                [rows.row(outcome) for outcome in shown],
                colour=1,
                width=width,
                spare=rows.SPARE,
            )
        )
    for outcome in outcomes:
        if outcome.fails:
            out.print()
            out.print(Text(rows.paragraph(outcome, run)))
    for heading, lines in (
        ("cost:", rows.costs(outcomes)),
        ("not checked:", rows.not_checked(outcomes)),
    ):
        if lines:
            out.print()
            out.print(Text("\n".join([heading, *(f"  {line}" for line in lines)])))
    out.print()
    out.print(
        Text(
            rows.summary(outcomes),
            style=_style("drifted" if any(o.fails for o in outcomes) else "identical"),
        )
    )


def print_calibration(out: Console, found: Calibration, now: dict[str, Any]) -> None:
    """Print what was measured, the bounds that follow, and what each would say of a platform that it never saw."""
    from harness.study.calibrate import compact, worst_of

    left_out, worst, limits = found.left_out(), found.worst(), compact(found.limits())
    cross = now.get("cross-class")
    mine = {
        **flat(cross if isinstance(cross, dict) else {}),
        **flat({"batch": now.get("batch")} if "batch" in now else {}),
    }
    lines = []
    for key, limit in limits.items():
        shown = worst_of(key, found.noise, limits)[1], *worst_of(key, worst, limits)
        by = [
            name
            for name, figures in found.platforms.items()
            if shown[2] and figures.get(shown[1]) == shown[2]
        ]
        figures = [f"{value:.1e}" for value in (shown[0], shown[2])]
        lines.append(
            (
                " of ".join(key),
                *figures,
                by[0] if by else "",
                f"{limit:.1e}",
                f"{mine[key]:.1e}" if key in mine else "",
            )
        )
    out.print(
        Text(f"{found.case} against {found.on}; {found.seeds} seeds, {found.perturbations} nudges")
    )
    out.print(
        table(
            (
                "drift",
                "nudge, median",
                "worst platform",
                "which",
                "bound that follows",
                "bound now",
            ),
            lines,
        )
    )
    refused = [name for name, admitted in left_out.items() if not admitted]
    out.print()
    held = f"{len(left_out) - len(refused)} of {len(left_out)}"
    out.print(Text(f"leaving one platform out: {held} are admitted by the others' bounds"))
    for name in refused:
        out.print(Text(f"  not admitted: {name}"))
    for name, reason in found.missed.items():
        out.print(Text(f"not measured: {name}: {reason}"))


def print_challenge(out: Console, found: Challenge) -> None:
    """Print every fault: its proof, its effect, whether it is caught in the same class and in another, and by which bound."""
    lines = []
    for trial in sorted(found.trials, key=lambda trial: -trial.effect):
        below = "below the noise" if trial.effect <= found.noise else "MISSED"
        caught = (
            f"caught x{trial.ratio:.3g} by {trial.checks[0].what}"
            if trial.cross_class
            else f"{below} x{trial.ratio:.2g}"
        )
        lines.append((trial.fault, f"{trial.effect:.1e}", "caught", caught, trial.proof[:60]))
    out.print(Text(f"{found.case}; the other class is {found.platform}"))
    out.print(table(("fault", "effect", "same class", "other class", "proof"), lines))
    for name, why in found.without_effect.items():
        out.print(Text(f"no effect: {name}: {why.splitlines()[0][:120]}"))
    out.print()
    out.print(table(("method", "caught", "of those above the noise"), rows.methods(found)))


def print_prices(out: Console, found: list[Price], missed: dict[str, str]) -> None:
    """Print what each pair of settings costs each case, and which cases could not run."""
    if found:
        out.print(table(rows.PRICE_HEADINGS, [rows.price(one) for one in found]))
    for case, why in missed.items():
        out.print(Text(f"could not run: {case}: {why}"))


def print_bisection(out: Console, found: Bisection) -> None:
    """Print which releases moved a case's output, how far, where first, and what could not be told."""
    headings = ("release", "against", "L-inf", "rel L2", "first difference", "changed beside it")
    lines = [
        (
            c.release,
            c.against,
            f"{c.l_inf:.2e}",
            f"{c.rel_l2:.2e}",
            c.first,
            "; ".join(c.beside[:4]),
        )
        for c in found.changes
    ]
    span = f"{found.releases[0]} to {found.releases[-1]}"
    tried = f"{len(found.tried)} of {len(found.releases)} releases recorded, {len(found.skipped)} skipped"
    moved = "" if lines else ": not moved"
    out.print(Text(f"{found.case}, {found.package} {span}; {tried}{moved}"))
    if lines:
        out.print(table(headings, lines))
    if found.suspects:
        out.print(Text(f"or one of the skipped before it: {', '.join(found.suspects)}"))
    for release, reason in found.skipped.items():
        out.print(Text(f"skipped: {release}: {' '.join(reason.split())[:160]}"))
    out.print()


@contextmanager
def progress(total: int) -> Iterator[tuple[Callable[[str, str], None], Callable[[str], None]]]:
    """Show what is running, on standard error and only on a terminal; yields (doing, done)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    err = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("starting a worker", total=total)

        def doing(case: str, what: str) -> None:
            bar.update(task, description=escape(f"{case}: {what}"))

        def done(case: str) -> None:
            bar.advance(task)

        yield doing, done


def _style(verdict: str) -> str:
    return (
        "green"
        if verdict in PASS
        else "red"
        if verdict in FAIL
        else "yellow"
        if verdict == "unverified"
        else ""
    )
