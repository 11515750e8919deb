"""Says whether a series of numbers, one a night, changed for good, and when: steps and creep.

A chart of cumulative sums says *whether*: its rate of false alarms can be calculated. A partition
by least squares, into levels and slopes, then says *when* and *how far*.

The series is a logarithm, so that a change is a factor. Sources: the chart is Page's (Biometrika
41, 1954) over Hawkins's self-starting statistic (The Statistician 36, 1987), which needs no nights
that are known to be good; two nights far out in a row count too, after Lucas (Journal of Quality
Technology 14, 1982). The average run length is Siegmund's (Sequential Analysis, 1985). The
partition is that of Jackson and others (IEEE Signal Processing Letters 12, 2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Series = NDArray[np.float64]

# The chart: in units of the noise, what each night may lie above the mean of those before it, and
# the sum of what lies above that which is an alarm.
ALLOWANCE = 0.5
LIMIT = 14.0
CLIPPED = 3.5  # no single night counts for more
FAR = 6.0  # two nights in a row that lie this far out, to one side, are an alarm
WARM_UP = 15  # nights before the first alarm
FLOOR = 0.05  # of the noise: a change of less than 5 % of a value is no news
SPIKE = 4.0  # a night this far from the median of its five is left out, where its neighbours agree
SHORTEST_LEVEL, SHORTEST_SLOPE = 2, 10  # nights
LEVEL_PRICE, SLOPE_PRICE = 3.0, 3.5  # of a further segment, in ln n
SIGNIFICANT = 4.0  # standard errors of a jump between two levels
SLOPE_JUMP = 3.0  # times the noise: a jump beside a slope, whose end is fitted less well


class Kind(StrEnum):
    """How a series changed."""

    STEP = "step"
    CREEP = "creep"


LEAST = {Kind.STEP: 1.0, Kind.CREEP: 2.0}  # times the noise: a smaller change is none


@dataclass(frozen=True)
class ChangePoint:
    """One lasting change of a series.

    `first` is the index of the first value after it began, `last` of the last value that still
    moved: both are the same for a step. `before` and `after` are the fitted logarithms on either
    side.
    """

    kind: Kind
    first: int
    last: int
    before: float
    after: float

    @property
    def factor(self) -> float:
        """How many times the value before it the value after it is."""
        return math.exp(self.after - self.before)


def change_points(series: Series) -> list[ChangePoint]:
    """Return the lasting changes of a series of logarithms; empty where the chart has no alarm.

    Args:
        series: Finite values in the order of time, one a night.
    """
    if len(series) < WARM_UP:
        return []
    noise = noise_of(series)
    calm = without_spikes(series, noise)
    alarm = first_alarm(calm, noise)
    if alarm is None:
        return []
    changes = _described(_partition(calm, noise), noise)
    found = [each for each in changes if _is_large(each.kind, each.after - each.before, noise)]
    return found or [_coarse_step(calm, alarm)]


# Whether.


def noise_of(series: Series) -> float:
    """Return the standard deviation from night to night, at least `FLOOR`.

    It comes from the differences between neighbours, which creep hardly moves. Their median tells
    how large one may be before it is cut, so that a step does not count either.
    """
    steps = np.diff(series)
    cut = CLIPPED * 1.4826 * float(np.median(np.abs(steps)))
    squares = np.clip(steps, -cut, cut) ** 2
    return max(math.sqrt(float(squares.mean()) / 2), FLOOR)


def without_spikes(series: Series, noise: float) -> Series:
    """Return the series with single nights far out replaced by the median of the five around."""
    if len(series) < 5:
        return series
    around = np.median(np.lib.stride_tricks.sliding_window_view(series, 5), axis=1)
    calm = series.copy()
    inner = calm[2:-2]
    np.copyto(inner, around, where=np.abs(inner - around) > SPIKE * noise)
    return calm


def deviations(series: Series, noise: float) -> Series:
    """Return how far each value but the first lies from the mean of all before it.

    In a series of independent normal values with this noise, the deviations are independent and
    have the standard deviation 1.
    """
    count = np.arange(1, len(series))
    means = np.cumsum(series[:-1]) / count
    return np.sqrt(count / (count + 1.0)) * (series[1:] - means) / noise


def first_alarm(series: Series, noise: float) -> int | None:
    """Return the index of the first value at which the chart has an alarm; None for no alarm."""
    moved = deviations(series, noise)
    clipped = np.clip(moved, -CLIPPED, CLIPPED)
    above = np.maximum(_sums(clipped), _sums(-clipped)) > LIMIT
    above[1:] |= np.minimum(moved[1:], moved[:-1]) > FAR
    above[1:] |= np.maximum(moved[1:], moved[:-1]) < -FAR
    above[: WARM_UP - 2] = False
    at = int(np.argmax(above))
    return at + 1 if above[at] else None


def _sums(deviation: Series) -> Series:
    """Return Page's cumulative sums: s = max(0, s + deviation - allowance), from s = 0."""
    total = np.cumsum(deviation - ALLOWANCE)
    return total - np.minimum(np.minimum.accumulate(total), 0.0)


def average_run_length(limit: float = LIMIT, allowance: float = ALLOWANCE) -> float:
    """Return how many quiet nights the chart runs on average until it has a false alarm.

    This is Siegmund's approximation for the two-sided chart of independent normal values.
    """
    bound = limit + 1.166
    one_sided = (math.exp(2 * allowance * bound) - 2 * allowance * bound - 1) / (2 * allowance**2)
    return one_sided / 2


# When.


@dataclass(frozen=True)
class _Segment:
    """The values from `start` to before `end`, fitted by a level or a slope."""

    start: int
    end: int
    is_slope: bool
    at_start: float
    at_end: float

    @property
    def length(self) -> int:
        return self.end - self.start


def _partition(series: Series, noise: float) -> list[_Segment]:
    """Return the levels and slopes with the least squares, each new one costing its evidence.

    A segment has to save `LEVEL_PRICE` or `SLOPE_PRICE` times ln n of the squares over the noise's.
    The Bayesian information criterion for its place and its parameters would ask for 2 and 3.
    """
    n = len(series)
    level_price, slope_price = LEVEL_PRICE * math.log(n), SLOPE_PRICE * math.log(n)
    fit = _Fits(series)
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    origin = np.zeros(n + 1, np.intp)
    slopes = np.zeros(n + 1, bool)
    for end in range(SHORTEST_LEVEL, n + 1):
        starts = np.arange(end - SHORTEST_LEVEL + 1)
        level, slope = fit.squares(starts, end)
        as_level = best[starts] + level / noise**2 + level_price
        as_slope = best[starts] + slope / noise**2 + slope_price
        as_slope[end - starts < SHORTEST_SLOPE] = np.inf
        chosen = np.minimum(as_level, as_slope)
        at = int(np.argmin(chosen))
        best[end], origin[end] = chosen[at], at
        slopes[end] = bool(as_slope[at] < as_level[at])
    segments = []
    end = n
    while end > 0:
        start = int(origin[end])
        segments.append(fit.segment(start, end, is_slope=bool(slopes[end])))
        end = start
    return segments[::-1]


class _Fits:
    """Least squares over any stretch of a series, from cumulative sums."""

    def __init__(self, series: Series) -> None:
        self._series = series
        at = np.arange(len(series), dtype=np.float64)
        centred = series - series.mean()
        columns = (centred, centred**2, at, at**2, at * centred)
        self._sums = [np.concatenate([[0.0], np.cumsum(column)]) for column in columns]

    def squares(self, starts: NDArray[np.intp], end: int) -> tuple[Series, Series]:
        """Return the sums of squares that a level and a slope leave, from each start to `end`."""
        y, yy, t, tt, ty = (total[end] - total[starts] for total in self._sums)
        count = end - starts
        level = np.maximum(yy - y * y / count, 0.0)
        spread = tt - t * t / count
        together = ty - t * y / count
        gained = np.divide(together**2, spread, out=np.zeros_like(level), where=spread > 0)
        return level, np.maximum(level - gained, 0.0)

    def segment(self, start: int, end: int, *, is_slope: bool) -> _Segment:
        """Return the fit of one stretch."""
        values = self._series[start:end]
        if not is_slope:
            mean = float(values.mean())
            return _Segment(start, end, False, mean, mean)
        slope, level = np.polyfit(np.arange(end - start), values, 1)
        last = float(level + slope * (end - start - 1))
        return _Segment(start, end, True, float(level), last)


def _described(segments: list[_Segment], noise: float) -> list[ChangePoint]:
    """Return the jumps between segments as steps, and the slopes as creep, in order."""
    found: list[ChangePoint] = []
    jumped = False
    for index, segment in enumerate(segments):
        left = segments[index - 1] if index else None
        right = segments[index + 1] if index + 1 < len(segments) else None
        jumped = left is not None and _is_jump(left, segment, noise)
        if left is not None and jumped:
            start = segment.start
            found.append(ChangePoint(Kind.STEP, start, start, left.at_end, segment.at_start))
        if segment.is_slope and _is_large(Kind.CREEP, segment.at_end - segment.at_start, noise):
            before = left.at_end if left is not None and not jumped else segment.at_start
            leaves = right is not None and not _is_jump(segment, right, noise)
            after = right.at_start if right is not None and leaves else segment.at_end
            made = ChangePoint(Kind.CREEP, segment.start, segment.end - 1, before, after)
            found = _joined(found, made)
    return found


def _is_large(kind: Kind, change: float, noise: float) -> bool:
    """Whether a change is more than the noise, however certain it is."""
    return abs(change) > max(LEAST[kind] * noise, 2 * FLOOR)


def _is_jump(left: _Segment, right: _Segment, noise: float) -> bool:
    """Whether two neighbouring segments lie apart where they meet."""
    jump = abs(right.at_start - left.at_end)
    if left.is_slope or right.is_slope:
        return jump > SLOPE_JUMP * noise
    error = noise * math.hypot(left.length**-0.5, right.length**-0.5)
    return jump > max(SIGNIFICANT * error, 2 * FLOOR)


def _joined(found: list[ChangePoint], made: ChangePoint) -> list[ChangePoint]:
    """Return the changes with a slope added; slopes that go on in one direction are one."""
    last = found[-1] if found else None
    if last is None or last.kind is Kind.STEP or last.last + 1 != made.first:
        return [*found, made]
    if not _same_way(last, made):
        return [*found, made]
    return [
        *found[:-1],
        ChangePoint(Kind.CREEP, last.first, made.last, last.before, made.after),
    ]


def _same_way(one: ChangePoint, other: ChangePoint) -> bool:
    return (one.after > one.before) == (other.after > other.before)


def _coarse_step(series: Series, alarm: int) -> ChangePoint:
    """Return a step at the alarm, where the partition finds none that is worth its price."""
    before, after = float(series[:alarm].mean()), float(series[alarm:].mean())
    return ChangePoint(Kind.STEP, alarm, alarm, before, after)
