"""Owns the tables and badges of a page: what `macros.html.j2` prints, for every page alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.records import Verdict

# A sign beside each verdict, so that nothing is told by colour alone.
SIGNS = {
    Verdict.IDENTICAL: "=",
    Verdict.WITHIN: "\N{ALMOST EQUAL TO}",
    Verdict.VARIES: "~",
    Verdict.DRIFTED: "\N{MULTIPLICATION SIGN}",
    Verdict.UNREPEATABLE: "\N{MULTIPLICATION SIGN}",
    Verdict.MISSING: "\N{EMPTY SET}",
    Verdict.STALE: "\N{MULTIPLICATION SIGN}",
    Verdict.INCOMPARABLE: "\N{NOT EQUAL TO}",
    Verdict.ERROR: "!",
    Verdict.UNVERIFIED: "?",
}


@dataclass(frozen=True)
class Badge:
    """A word that stands out: a sign before it, and the class of the style sheet that colours it.

    `style` is `passes`, `fails` or `neither`.
    """

    word: str
    sign: str
    style: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it shows.
        number: What a reader's click sorts by, in full precision; None for a text.
        anchor: The id of the element that it leads to.
        badge: A verdict that it shows in place of the text.
    """

    text: str
    number: float | None = None
    anchor: str = ""
    badge: Badge | None = None

    @property
    def sort_key(self) -> str:
        """The number as JavaScript reads it; empty for a text."""
        if self.number is None:
            return ""
        if math.isinf(self.number):
            return "Infinity" if self.number > 0 else "-Infinity"
        return "NaN" if math.isnan(self.number) else repr(float(self.number))


@dataclass(frozen=True)
class Table:
    """A table: its caption, its headings, and its rows, whose first cell names the row."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def verdict_badge(verdict: Verdict) -> Badge:
    """Return how a page shows a verdict."""
    style = "passes" if verdict.passes else "fails" if verdict.fails else "neither"
    return Badge(str(verdict), SIGNS[verdict], style)


def text_table(caption: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Return a table of texts."""
    cells = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table(caption, headings, cells)
