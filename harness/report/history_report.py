"""Owns how a history is worded in a terminal: what was found, then every case with sparklines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from harness.judge.change_points import Kind
from harness.judge.trends import Series, Signal, Silent, Trend
from harness.report.safe_text import safe_line
from harness.store.history import History
from harness.store.ledger import Walk
from harness.store.typed_json import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

HEADINGS = (
    "case",
    "class",
    "nights",
    "verdict",
    "free",
    "over nights",
    "local",
    "over nights ",
    "margin",
    "accuracy",
    "seconds",
    "over nights  ",
    "found",
)
VERDICT_COLUMN = HEADINGS.index("verdict")
BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24
SHOWN_CHANGES = 4
Shown = Callable[[float], str]
SIGNALS = {Signal.FREE: "free drift", Signal.LOCAL: "local drift"}
FULL_SWING = math.log(2)  # a series that varies by less does not fill the height of a sparkline


def sparkline(values: Values, width: int = SPARK_WIDTH, *, is_log: bool = True) -> str:
    """Return values in the order of time as a line of bars; a blank where there is none.

    Args:
        values: NaN where a night has no value.
        width: How many bars there are at most.
        is_log: Whether the height is the logarithm, of which 0 is at the lowest bar.
    """
    return "".join(map(_bar, heights(values, width, is_log=is_log)))


def heights(values: Values, width: int, *, is_log: bool) -> Values:
    """Return values in the order of time as heights from 0 to 1; NaN where there is none.

    Args:
        values: NaN where a night has no value.
        width: How many heights there are at most; each shows the largest value of its nights.
        is_log: Whether the height is the logarithm. It fills `FULL_SWING` at the least, so that
            what hardly varies looks flat.
    """
    parts = np.array([_largest(part) for part in np.array_split(values, min(width, len(values)))])
    positive = parts[np.isfinite(parts) & (parts > 0)]
    smallest = float(positive.min()) if positive.size else 1.0
    capped = np.minimum(parts, float(positive.max()) if positive.size else 1.0)
    scaled: Values = np.log(np.maximum(capped, smallest)) if is_log else capped / smallest - 1.0
    known = scaled[~np.isnan(scaled)]
    if not known.size:
        return scaled
    lowest = float(known.min())
    swing = max(float(known.max()) - lowest, FULL_SWING)
    filled: Values = (scaled - lowest) / swing
    return filled


def _largest(part: Values) -> float:
    known = part[~np.isnan(part)]
    return float(known.max()) if known.size else math.nan


def _bar(height: float) -> str:
    if math.isnan(height):
        return " "
    return BARS[min(int(max(height, 0.0) * len(BARS)), len(BARS) - 1)]


def row(history: History, series: Series, trends: Sequence[Trend]) -> tuple[str, ...]:
    """Return one row of the table, in the order of `HEADINGS`."""
    columns = {name: values[series.points] for name, values in history.numbers.items()}
    last = int(series.points[-1])
    accuracy = history.words["accuracy"].of(last)
    ratio = latest(columns["accuracy_ratio"])
    return (
        series.case,
        series.numerics_class,
        str(len(series.points)),
        history.words["verdict"].of(last),
        drift(latest(columns[Signal.FREE])),
        _spark(columns[Signal.FREE]),
        drift(latest(columns[Signal.LOCAL])),
        _spark(columns[Signal.LOCAL]),
        factor(latest(columns["margin"])),
        f"{accuracy} {factor(ratio)}".strip(),
        seconds(latest(columns["seconds"])),
        _spark(columns["seconds"]),
        ", ".join(dict.fromkeys(str(trend.kind) for trend in trends)),
    )


def _spark(values: Values) -> str:
    return "" if np.isnan(values).all() else sparkline(values)


def latest(values: Values) -> float:
    """Return the last value that is known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known[-1]) if known.size else math.nan


def drift(value: float) -> str:
    """Return a drift; empty where it is not known."""
    return "" if math.isnan(value) else f"{value:.2e}"


def factor(value: float) -> str:
    """Return a factor such as `x3.02`; empty where it is not known."""
    return "" if math.isnan(value) else f"x{value:.3g}"


def seconds(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def day(moment: datetime) -> str:
    """Return the day of a moment in UTC."""
    return f"{moment:%Y-%m-%d}"


def trend_lines(trend: Trend) -> list[str]:
    """Return what is said of a trend: what moved, by how much, when, and with what."""
    what = SIGNALS[trend.signal]
    sizes = f"{what} {_from_to(trend)}"
    if trend.kind is Kind.STEP:
        when = f"step on {day(trend.first)}: {sizes}"
    else:
        when = f"creep from {day(trend.first)} to {day(trend.last)}: {sizes}"
    lines = [f"{trend.case}, {trend.numerics_class}", f"  {when}"]
    if not math.isnan(trend.margin):
        inside = "inside its tolerance" if trend.margin >= 1 else "outside its tolerance"
        lines.append(f"  margin:   {factor(trend.margin)} at the least since, {inside}")
    if not math.isnan(trend.nights_left):
        lines.append(f"  forecast: at this rate it reaches its bound in {_nights(trend)}")
    return [*lines, *_cause_lines(trend)]


def _from_to(trend: Trend) -> str:
    before = drift(trend.before) if trend.before else "none"
    after = drift(trend.after) if trend.after else "none"
    if not trend.before or not trend.after:
        return f"{before} -> {after}"
    return f"{before} -> {after} ({factor(trend.after / trend.before)})"


def _nights(trend: Trend) -> str:
    return f"{trend.nights_left:.0f} nights"


def _cause_lines(trend: Trend) -> list[str]:
    """Return what changed when a trend began, as far as it is known."""
    lines = []
    if trend.changed_on is None:
        lines.append("  changed:  nothing in the environment that the recordings know")
    else:
        shown = "; ".join(trend.changes[:SHOWN_CHANGES])
        more = len(trend.changes) - SHOWN_CHANGES
        rest = f" and {more} more" if more > 0 else ""
        lines.append(f"  changed:  {shown}{rest} (on {day(trend.changed_on)})")
    if trend.commits:
        before, after = trend.commits
        lines.append(f"  commits:  {before[:12]}..{after[:12]}")
    return lines


def silent_lines(silent: Iterable[Silent]) -> list[str]:
    """Return one line for each case without results."""
    return [
        f"{each.case} on {each.device_kind}: none for {each.days} days, last on {day(each.last)}"
        for each in silent
    ]


def walk_lines(walk: Walk) -> list[str]:
    """Return what the ledger says of one baseline: how far it is from the first one."""
    head = f"{walk.case}, {walk.numerics_class}"
    times = "once" if len(walk.steps) == 1 else f"{len(walk.steps)} times"
    lines = [f"{head}: replaced {times} since {walk.steps[0].date[:10]}"]
    if walk.from_first is not None:
        moved = walk.from_first
        sizes = f"L-inf {moved.l_inf:.2e}, relative L2 {moved.rel_l2:.2e}"
        lines.append(f"  from the first baseline: {sizes}")
    elif math.isfinite(walk.at_most):
        lines.append(
            f"  from the first baseline: L-inf at most {walk.at_most:.2e}, the sum of steps"
        )
    else:
        lines.append("  from the first baseline: unknown, a step has no number")
    for step in walk.steps:
        size = drift(step.l_inf) or "no number"
        lines.append(f"  {step.date[:10]} {step.author}: L-inf {size}; {step.reason}")
    return lines


def found_text(trends: Sequence[Trend], silent: Sequence[Silent], walks: Sequence[Walk]) -> str:
    """Return all that was found, in paragraphs; empty where nothing was."""
    lines = [f"changes of drift: {len(trends)}"] if trends else []
    for trend in trends:
        lines += [f"  {line}" for line in trend_lines(trend)]
    if silent:
        lines += [f"without results: {len(silent)}"]
        lines += [f"  {line}" for line in silent_lines(silent)]
    if walks:
        lines += [f"replaced baselines: {len(walks)}"]
        for walk in walks:
            lines += [f"  {line}" for line in walk_lines(walk)]
    return "\n".join(map(safe_line, lines))


def as_json(
    history: History,
    series: Sequence[Series],
    trends: Sequence[Trend],
    silent: Sequence[Silent],
    walks: Sequence[Walk],
) -> str:
    """Return everything as the text of a JSON file; a number that is not known is null."""
    content = {
        "series": [_series_json(history, each) for each in series],
        "trends": [_with_days(each, "first", "last", "changed_on") for each in trends],
        "silent": [_with_days(each, "last") for each in silent],
        "replaced_baselines": [encode(walk) for walk in walks],
    }
    return json.dumps(content, sort_keys=True, allow_nan=False)


def _series_json(history: History, series: Series) -> dict[str, object]:
    times = [datetime.fromtimestamp(float(moment), UTC) for moment in history.times[series.points]]
    words = ("verdict", "accuracy")
    return {
        "case": series.case,
        "numerics_class": series.numerics_class,
        "device_kind": series.device_kind,
        "times": [moment.isoformat() for moment in times],
        **{name: [history.words[name].of(int(i)) for i in series.points] for name in words},
        **{name: _plain(values[series.points]) for name, values in history.numbers.items()},
    }


def _plain(values: Values) -> list[float | None]:
    """Return numbers for JSON, which knows neither NaN nor infinity."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _with_days(found: Trend | Silent, *moments: str) -> dict[str, object]:
    """Return a dataclass for JSON, with its moments as text."""
    texts = {name: getattr(found, name) for name in moments}
    plain = {each.name: encode(getattr(found, each.name)) for each in fields(found)}
    return {**plain, **{name: moment and moment.isoformat() for name, moment in texts.items()}}
