"""Owns the page of a history: what changed over the nights, with charts, and every case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from markupsafe import Markup

from harness.judge.trends import Series, Signal, Silent, Trend
from harness.records import Verdict
from harness.report import history_report as words
from harness.report.html import charts
from harness.report.html.charts import Chart, Mark, draw
from harness.report.html.page import page
from harness.report.html.tables import Cell, Table, verdict_badge
from harness.store.history import History
from harness.store.ledger import Walk

TEMPLATE = "history.html.j2"
SPARK_POINTS = 60
SPARK_WIDTH, SPARK_HEIGHT = 90, 22  # pixels
SECONDS_A_DAY = 86400.0
MOST_NAMED = 40  # characters of an upgrade's name in a chart
HEADINGS = (
    "case",
    "class",
    "runs",
    "verdict",
    "free drift",
    "over time",
    "local drift",
    "over time",
    "margin",
    "accuracy",
    "seconds",
    "over time",
    "peak MiB",
)


@dataclass(frozen=True)
class ChangedCase:
    """A series that changed: in words, and as a chart of its drift."""

    case: str
    numerics_class: str
    facts: tuple[str, ...]
    chart: Markup


@dataclass(frozen=True)
class View:
    """What the template prints."""

    place: str
    runs: int
    series: int
    first: str
    last: str
    headline: str
    style: str
    changes: tuple[ChangedCase, ...]
    silent: Table
    walks: Table
    cases: Table


def history_page(
    history: History,
    series: Sequence[Series],
    trends: Sequence[Trend],
    silent: Sequence[Silent],
    walks: Sequence[Walk],
) -> str:
    """Return a history as the text of one HTML file.

    Args:
        history: What was read.
        series: The cases to show.
        trends: Their lasting changes.
        silent: The cases without recent results.
        walks: The baselines that were replaced.
    """
    by_series: dict[tuple[str, str], list[Trend]] = {}
    for trend in trends:
        by_series.setdefault((trend.case, trend.numerics_class), []).append(trend)
    changed = [
        _changed(history, each, by_series[each.case, each.numerics_class])
        for each in series
        if (each.case, each.numerics_class) in by_series
    ]
    view = View(
        place=history.place,
        runs=len(history.files),
        series=len(series),
        first=history.files[0].time[:10],
        last=history.files[-1].time[:10],
        headline=_headline(by_series, silent),
        style="fails" if any(trend.grew for trend in trends) else "passes",
        changes=tuple(changed),
        silent=_silent_table(silent),
        walks=_walks_table(walks),
        cases=Table("Every case", HEADINGS, tuple(_row(history, each) for each in series)),
    )
    return page(TEMPLATE, view=view)


def _headline(changed: dict[tuple[str, str], list[Trend]], silent: Sequence[Silent]) -> str:
    grown = sum(any(trend.grew for trend in trends) for trends in changed.values())
    parts = [f"the drift of {grown} series grew" if grown else "no drift grew"]
    if len(changed) > grown:
        parts.append(f"that of {len(changed) - grown} shrank")
    if silent:
        parts.append(f"{len(silent)} cases have no recent result")
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


# What changed.


def _changed(history: History, series: Series, trends: Sequence[Trend]) -> ChangedCase:
    facts = []
    for trend in trends:
        _, *lines = words.trend_lines(trend)
        facts += [" ".join(line.split()) for line in lines]
    return ChangedCase(
        series.case,
        series.numerics_class,
        tuple(dict.fromkeys(facts)),
        draw(_chart(history, series, trends)),
    )


def _chart(history: History, series: Series, trends: Sequence[Trend]) -> Chart:
    """Return the drift of a series over the nights, with its bound and what changed."""
    points = series.points
    days = (history.times[points] - history.times[points[0]]) / SECONDS_A_DAY
    lines = [
        charts.Series(name, days.tolist(), history.numbers[signal][points].tolist())
        for signal, name in words.SIGNALS.items()
        if np.isfinite(history.numbers[signal][points]).any()
    ]
    start = _day_of(history, int(points[0]))
    bound = history.numbers["free_bound"][points]
    if np.isfinite(bound).any():
        lines.append(
            charts.Series("bound on free drift", days.tolist(), bound.tolist(), is_bound=True)
        )
    changes = {trend.changed_on: ", ".join(trend.changes) for trend in trends if trend.changed_on}
    first = float(history.times[points[0]])
    marks = [
        Mark((moment.timestamp() - first) / SECONDS_A_DAY, f" {name[:MOST_NAMED]}")
        for moment, name in changes.items()
    ]
    return Chart(
        title=f"Drift of {series.case} in {series.numerics_class} over time",
        series=lines,
        x_label=f"days since {start}",
        y_label="relative L2",
        marks=marks,
    )


def _day_of(history: History, point: int) -> str:
    return words.day(datetime.fromtimestamp(float(history.times[point]), UTC))


# Tables.


def _row(history: History, series: Series) -> tuple[Cell, ...]:
    columns = {name: values[series.points] for name, values in history.numbers.items()}
    last = int(series.points[-1])
    free, local = columns[Signal.FREE], columns[Signal.LOCAL]
    peak = words.latest(columns["peak_bytes"]) / (1 << 20)
    accuracy = history.words["accuracy"].of(last)
    return (
        Cell(series.case),
        Cell(series.numerics_class),
        Cell(str(len(series.points)), len(series.points)),
        _verdict_cell(history.words["verdict"].of(last)),
        _number(free, words.drift),
        Cell(_spark(free, is_log=True)),
        _number(local, words.drift),
        Cell(_spark(local, is_log=True)),
        _number(columns["margin"], words.factor),
        Cell(f"{accuracy} {words.factor(words.latest(columns['accuracy_ratio']))}".strip()),
        _number(columns["seconds"], words.seconds),
        Cell(_spark(columns["seconds"], is_log=False)),
        Cell("" if math.isnan(peak) else f"{peak:.0f}", peak),
    )


def _number(values: words.Values, shown: words.Shown) -> Cell:
    value = words.latest(values)
    return Cell(shown(value), value)


def _verdict_cell(word: str) -> Cell:
    if word not in list(Verdict):
        return Cell(word)
    return Cell("", badge=verdict_badge(Verdict(word)))


def _silent_table(silent: Sequence[Silent]) -> Table:
    rows = [
        (
            Cell(each.case),
            Cell(each.device_kind),
            Cell(words.day(each.last)),
            Cell(str(each.days), each.days),
        )
        for each in silent
    ]
    return Table("Cases without recent results", ("case", "device", "last", "days"), tuple(rows))


def _walks_table(walks: Sequence[Walk]) -> Table:
    rows = []
    for walk in walks:
        exact = walk.from_first
        far = walk.at_most if exact is None else exact.l_inf
        kind = "sum of the steps, an upper bound" if exact is None else "measured"
        size = words.drift(far) or "unknown"
        rows.append(
            (
                Cell(walk.case),
                Cell(walk.numerics_class),
                Cell(str(len(walk.steps)), len(walk.steps)),
                Cell(size, far),
                Cell(kind),
                Cell(f"{walk.steps[-1].date[:10]}: {walk.steps[-1].reason}"),
            )
        )
    headings = ("case", "class", "times", "L-inf from the first", "how", "last reason")
    return Table("Replaced baselines", headings, tuple(rows))


def _spark(values: words.Values, *, is_log: bool) -> Markup | str:
    """Return values in the order of time as a small line; empty where none is known."""
    heights = words.heights(values, SPARK_POINTS, is_log=is_log)
    if np.isnan(heights).all():
        return ""
    step = SPARK_WIDTH / max(len(heights) - 1, 1)
    points = [
        f"{index * step:.0f},{SPARK_HEIGHT - 2 - (SPARK_HEIGHT - 4) * height:.1f}"
        for index, height in enumerate(heights)
        if not math.isnan(height)
    ]
    # Numbers alone, so that there is nothing to escape.
    return Markup(  # noqa: S704
        f'<svg class="spark" width="{SPARK_WIDTH}" height="{SPARK_HEIGHT}" aria-hidden="true">'
        f'<polyline points="{" ".join(points)}"/></svg>'
    )
