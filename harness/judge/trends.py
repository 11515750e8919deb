"""What a history shows over many nights: creep, steps, and cases without results.

A series is one case in one numerics class. It is searched between two baselines at a time, because
another baseline makes another drift. A step, and the beginning of creep, is tied to what changed in
that night's environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from harness.judge.change_points import ChangePoint, Kind, change_points
from harness.judge.environment_diff import list_changes
from harness.records import Verdict
from harness.store.history import NO_WORD, History

if TYPE_CHECKING:
    from harness.records import Array

SMALLEST = 1e-15  # stands for no drift at all, which has no logarithm
NEARBY = (
    0,
    1,
    -1,
    2,
    -2,
)  # nights from the estimated one at which the environment may have changed
STILL = 3  # a slope that reaches one of the last nights goes on

Admits = Callable[[tuple[str, ...]], bool]


class Signal(StrEnum):
    """What is searched for trends; the values are columns of the history."""

    FREE = "free_rel_l2"
    LOCAL = "local_rel_l2"


@dataclass(frozen=True)
class Series:
    """One case in one numerics class; `points` are its indices in the history, in order of time."""

    case: str
    numerics_class: str
    device_kind: str
    points: Array


@dataclass(frozen=True)
class Trend:
    """A lasting change of a case's drift in one numerics class.

    Attributes:
        case: The case.
        numerics_class: The class.
        signal: Free or local drift, as relative L2.
        kind: A step or creep.
        first: When the first changed value was measured.
        last: When the last value that still moved was measured.
        before: The drift before it; 0 where there was none.
        after: The drift after it.
        changed_on: When the environment changed, as near to `first` as there is a change.
        changes: What changed in the environment then.
        commits: The commit of the run before `first` and that of `first`, where they differ.
        margin: The smallest margin since; NaN where no bound was measured against.
        nights_left: After how many more nights the bound is reached, where creep goes on.
    """

    case: str
    numerics_class: str
    signal: Signal
    kind: Kind
    first: datetime
    last: datetime
    before: float
    after: float
    changed_on: datetime | None = None
    changes: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    margin: float = math.nan
    nights_left: float = math.nan

    @property
    def grew(self) -> bool:
        """Whether the drift is larger than before."""
        return self.after > self.before


@dataclass(frozen=True)
class Silent:
    """A case without a result on a kind of device for some days."""

    case: str
    device_kind: str
    last: datetime
    days: int


def series_of(history: History, admits: Admits) -> list[Series]:
    """Return every case in every numerics class, sorted by their names.

    Args:
        history: What was read.
        admits: Takes the id of a case and its tags, as `-k` does.
    """
    if not len(history.times):
        return []
    case, numerics_class = history.words["case"], history.words["numerics_class"]
    order = np.lexsort((history.times, numerics_class.codes, case.codes))
    keys = np.stack([case.codes[order], numerics_class.codes[order]])
    ends = np.flatnonzero(np.any(keys[:, 1:] != keys[:, :-1], axis=0)) + 1
    found = []
    for points in np.split(order, ends):
        last = int(points[-1])
        tags = history.words["tags"].of(last)
        if numerics_class.of(last) and admits((case.of(last), *tags.split(","))):
            kind = history.words["device_kind"].of(last)
            found.append(Series(case.of(last), numerics_class.of(last), kind, points))
    return sorted(found, key=_name_of)


def trends_of(history: History, series: Series) -> list[Trend]:
    """Return the lasting changes of one series, in order of time."""
    return [
        trend
        for signal in Signal
        for points in _spans(history, series, signal)
        for trend in _trends(history, series, signal, points)
    ]


def silent_cases(history: History, admits: Admits, now: datetime, days: int) -> list[Silent]:
    """Return the cases that had a result on a kind of device, but none in the last `days` days.

    An outcome that is `unverified` is no result.
    """
    words = history.words
    verdict, kind, case = words["verdict"], words["device_kind"], words["case"]
    nothing = [
        code for code, word in enumerate(verdict.table) if word in (Verdict.UNVERIFIED, NO_WORD)
    ]
    useful = ~np.isin(verdict.codes, nothing)
    useful &= ~np.isin(kind.codes, [i for i, word in enumerate(kind.table) if word == NO_WORD])
    latest: dict[tuple[int, int], int] = {}
    for point in np.flatnonzero(useful)[np.argsort(history.times[useful], kind="stable")]:
        latest[int(case.codes[point]), int(kind.codes[point])] = int(point)
    found = []
    for point in latest.values():
        last = _moment(history, point)
        tags = words["tags"].of(point)
        if now - last > timedelta(days=days) and admits((case.of(point), *tags.split(","))):
            found.append(Silent(case.of(point), kind.of(point), last, (now - last).days))
    return sorted(found, key=lambda each: (each.case, each.device_kind))


def _name_of(series: Series) -> tuple[str, str]:
    return series.case, series.numerics_class


def _spans(history: History, series: Series, signal: Signal) -> Iterator[Array]:
    """Yield the points of a series that have a value, split where the baseline changed."""
    values = history.numbers[signal][series.points]
    points = series.points[np.isfinite(values)]
    baselines = history.words["baseline"].codes[points]
    yield from np.split(points, np.flatnonzero(baselines[1:] != baselines[:-1]) + 1)


def _trends(history: History, series: Series, signal: Signal, points: Array) -> Iterator[Trend]:
    """Yield the trends among points that one baseline judged."""
    values = np.log(np.maximum(history.numbers[signal][points], SMALLEST))
    for change in change_points(values):
        first = int(points[change.first])
        night, changes = _environment_change(history, series, points, change.first)
        commits = _commits(history, int(points[change.first - 1]), first)
        margin = _margin(history, points[change.last :])
        yield Trend(
            case=series.case,
            numerics_class=series.numerics_class,
            signal=signal,
            kind=change.kind,
            first=_moment(history, first),
            last=_moment(history, int(points[change.last])),
            before=_value(change.before),
            after=_value(change.after),
            changed_on=night,
            changes=changes,
            commits=commits if change.first else (),
            margin=margin,
            nights_left=_nights_left(change, len(points), margin),
        )


def _value(logarithm: float) -> float:
    """Return a drift from its logarithm; 0 for no drift."""
    return math.exp(logarithm) if logarithm > math.log(2 * SMALLEST) else 0.0


def _moment(history: History, point: int) -> datetime:
    return datetime.fromtimestamp(float(history.times[point]), UTC)


def _environment_change(
    history: History, series: Series, points: Array, at: int
) -> tuple[datetime | None, tuple[str, ...]]:
    """Return when the environment changed, at or near the point `at`, and how."""
    for offset in NEARBY:
        index = at + offset
        if not 0 < index < len(points):
            continue
        before, after = (_environment(history, series, int(points[i])) for i in (index - 1, index))
        if before == after or not before or not after:
            continue
        expected, actual = history.environment_of(before), history.environment_of(after)
        if expected is not None and actual is not None:
            changes = list_changes(actual, expected)
            return _moment(history, int(points[index])), tuple(map(str, changes))
    return None, ()


def _environment(history: History, series: Series, point: int) -> str:
    """Return the digest of the environment in which a point was made; empty if not known."""
    return history.files[int(history.run[point])].environments.get(series.numerics_class, "")


def _commits(history: History, before: int, after: int) -> tuple[str, ...]:
    commits = [history.files[int(history.run[point])].commit for point in (before, after)]
    return tuple(commits) if all(commits) and commits[0] != commits[1] else ()


def _margin(history: History, points: Array) -> float:
    margins = history.numbers["margin"][points]
    known = margins[np.isfinite(margins)]
    return float(known.min()) if known.size else math.nan


def _nights_left(change: ChangePoint, nights: int, margin: float) -> float:
    """Return after how many more nights creep that goes on reaches its bound; NaN if it does not.

    The logarithm goes on at the slope that it had.
    """
    length = change.last - change.first
    goes_on = change.kind is Kind.CREEP and change.last >= nights - STILL
    if not goes_on or change.after <= change.before or not margin > 1:
        return math.nan
    return math.log(margin) * length / (change.after - change.before)
