"""Owns what a terminal shows: tables, texts and progress; plain text where it is no terminal.

Text from elsewhere is made safe here, see `report.safe_text`: the only escape sequences that reach
a terminal are those that rich writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from harness.records import Verdict
from harness.report.safe_text import safe_line, safe_lines

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# No cell is ever folded or cut: a terminal that is narrower breaks the line. Without a height, rich
# takes a terminal that it does not know to be 80 columns wide.
WIDTH, HEIGHT = 100_000, 25
GAP = 2  # blanks between columns
LONGEST = max(map(len, Verdict))  # of the words that a case comes to


def console() -> Console:
    """Return where commands print; rich itself honours NO_COLOR and keeps pipes plain."""
    return Console(highlight=False, width=WIDTH, height=HEIGHT, soft_wrap=True)


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    verdict_column: int | None = None,
    width: int = 0,
    spare: Sequence[str] = (),
) -> Text:
    """Return a table without boxes; columns that are empty in every row are left out.

    Args:
        headings: One per column.
        rows: One cell per column each.
        verdict_column: The index of the column that holds verdicts, which are coloured.
        width: How many characters fit; 0 where there is no limit.
        spare: The headings of columns that are left out where the table is wider, in that order.
    """
    rows = [[safe_line(cell) for cell in row] for row in rows]
    used = [index for index, _ in enumerate(headings) if any(row[index] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    for heading in spare:
        needed = sum(widths[index] + GAP for index in used) - GAP
        if width and needed > width:
            used = [index for index in used if headings[index] != heading]
    lines = [_line([(headings[index], widths[index], "bold") for index in used])]
    for row in rows:
        styles = {verdict_column: _colour(row[verdict_column])} if verdict_column in used else {}
        lines.append(_line([(row[i], widths[i], styles.get(i, "")) for i in used]))
    return Text("\n").join(lines)


def _line(cells: Sequence[tuple[str, int, str]]) -> Text:
    """Return cells beside each other: the text of each, its column's width, and its style."""
    line = Text()
    for index, (text, width, style) in enumerate(cells):
        line.append(" " * GAP if index else "")
        line.append(text, style or None)
        line.append(" " * (width - cell_len(text)))
    return line


def print_text(out: Console, text: str, style: str = "") -> None:
    """Print a text of one or more lines."""
    out.print(Text(safe_lines(text), style=style))


class Steps:
    """Shows which step of a command is going on, on a bar of rich."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def expect(self, total: int) -> None:
        """Set how many steps there will be."""
        self._bar.update(self._task, total=total)

    def doing(self, case: str, what: str) -> None:
        """Show what a case is doing."""
        self._bar.update(self._task, description=escape(safe_line(f"{case}: {what}")))

    def done(self) -> None:
        """Count one step as done."""
        self._bar.advance(self._task)

    def ended(self, _line: str) -> None:
        """Count a case as done, of which a line says what it came to."""
        self.done()


class Lines(Steps):
    """Prints a line for each case as it ends, where a bar would be no use."""

    def __init__(self, bar: Progress, task: TaskID, out: Console, total: int) -> None:
        super().__init__(bar, task)
        self._out = out
        self._total = total
        self._ended = 0
        self._lock = threading.Lock()

    def ended(self, line: str) -> None:
        """Print how many cases have ended, and what this one came to."""
        with self._lock:
            self._ended += 1
            count = f"[{self._ended:>{len(str(self._total))}}/{self._total}]"
            print_text(self._out, safe_line(f"{count} {line}"))


def ended_line(case: str, word: str, seconds: float) -> str:
    """Return the line of a case that ended: what it came to in a word, and how long it took."""
    return f"{word:<{LONGEST}} {case}  {seconds:.1f} s"


@contextmanager
def progress(total: int) -> Iterator[Steps]:
    """Show progress over `total` steps on standard error: a bar on a terminal, else lines.

    The lines are those of cases that end; other steps show on a bar alone.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    errors = Console(stderr=True)
    lines = Console(stderr=True, highlight=False, width=WIDTH, height=HEIGHT, soft_wrap=True)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    hidden = not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task("starting a worker", total=total)
        yield Lines(bar, task, lines, total) if hidden else Steps(bar, task)


def _colour(word: str) -> str:
    """Return the colour of a verdict; none for another word."""
    if word not in list(Verdict):
        return ""
    verdict = Verdict(word)
    if verdict.passes:
        return "green"
    return "red" if verdict.fails else "yellow"
