"""Measures how far an array moved, in one pass and constant memory. Decides nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.records import Drift, StageDrift

if TYPE_CHECKING:
    from harness.records import Array
    from harness.store.recording import Observed

CHUNK = (
    1 << 16
)  # elements: many enough that a call of numpy costs little, few enough for the caches


def measure(actual: Array, expected: Array) -> Drift:
    """Measure how far `actual` moved from `expected`, over all elements.

    Args:
        actual: This run's array, of any shape and real dtype.
        expected: The baseline's array, of the same shape.

    Returns:
        The drift, in the array's own unit. Where either side holds NaN or infinity, `finite` is
        false and `l_inf` and `rel_l2` are NaN, which no bound admits.

    Raises:
        ValueError: The shapes differ.

    Source: L-inf and L2 norms of actual - expected, both cast to float64 first, because the
    subtraction of uint8 wraps.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    flat_actual = np.asarray(actual).reshape(-1)  # a view, which slices faster than a memory map
    flat_expected = np.asarray(expected).reshape(-1)
    sums = _Sums(min(CHUNK, flat_actual.size))
    with np.errstate(all="ignore"):  # infinity minus infinity, and the two ends of float64
        for start in range(0, flat_actual.size, CHUNK):
            end = start + CHUNK
            sums.add(flat_actual[start:end], flat_expected[start:end], start)
    return _drift(sums, flat_actual, flat_expected, actual.shape)


class _Sums:
    """What one pass over two arrays accumulates, in float64.

    Args:
        room: The size of the largest chunk.
    """

    def __init__(self, room: int) -> None:
        self.worst = 0.0
        self.worst_at = 0
        self.differing = 0
        self.square_difference = 0.0
        self.square_expected = 0.0
        self.abs_actual = 0.0
        self.abs_expected = 0.0
        self._buffers = np.empty((3, room))
        self._ones = np.ones(room)  # a dot product with ones sums faster than a sum
        self._unequal = np.empty(room, bool)

    def add(self, actual: Array, expected: Array, start: int) -> None:
        """Add one chunk, whose first element is number `start` of the whole array."""
        wide_actual, wide_expected, gap = self._buffers[:, : actual.size]
        ones = self._ones[: actual.size]
        unequal = self._unequal[: actual.size]
        np.copyto(wide_expected, expected)
        self.square_expected += float(wide_expected.dot(wide_expected))
        differing = int(np.count_nonzero(np.not_equal(actual, expected, out=unequal)))
        if differing:
            np.copyto(wide_actual, actual)
            np.subtract(wide_actual, wide_expected, out=gap)
            self.differing += differing
            self.square_difference += float(gap.dot(gap))
            if max(gap.max(), -gap.min()) > self.worst:
                at = int(np.abs(gap, out=gap).argmax())
                self.worst = float(gap[at])
                self.worst_at = start + at
        abs_expected = float(np.abs(wide_expected, out=wide_expected).dot(ones))
        self.abs_expected += abs_expected
        if differing:
            self.abs_actual += float(np.abs(wide_actual, out=wide_actual).dot(ones))
        else:
            self.abs_actual += abs_expected


def _drift(sums: _Sums, flat_actual: Array, flat_expected: Array, shape: tuple[int, ...]) -> Drift:
    finite = math.isfinite(sums.abs_actual) and math.isfinite(sums.abs_expected)
    at, filled = sums.worst_at, flat_actual.size > 0
    index = tuple(int(i) for i in np.unravel_index(at, shape)) if filled else ()
    return Drift(
        l_inf=sums.worst if finite else math.nan,
        rel_l2=_relative(sums) if finite else math.nan,
        abs_sum=sums.abs_actual,
        abs_sum_expected=sums.abs_expected,
        differing=sums.differing,
        size=int(flat_actual.size),
        worst_index=index,
        worst_actual=float(flat_actual[at]) if filled else 0.0,
        worst_expected=float(flat_expected[at]) if filled else 0.0,
        finite=finite,
    )


def _relative(sums: _Sums) -> float:
    """Return the relative L2 norm; infinite where only the expected array is zero."""
    if sums.square_expected:
        return math.sqrt(sums.square_difference / sums.square_expected)
    return math.inf if sums.worst else 0.0


def of_outputs(actual: Observed, expected: Observed) -> dict[str, Drift]:
    """Return the drift of every output of `expected`; both must have the same structure."""
    mine, others = actual.output_tensors, expected.output_tensors
    return {name: measure(mine[name], others[name]) for name in expected.outputs}


@dataclass(frozen=True)
class _NoValue:
    """The drift of a stage's tensor that this run does not have: no bound admits NaN."""

    l_inf: float = math.nan
    rel_l2: float = math.nan


def of_stages(actual: Observed, expected: Observed) -> tuple[StageDrift, ...]:
    """Return the drift of every stage's tensor that `expected` kept, in the order of the run.

    Noise comes first. A drift is NaN where `actual` has no such tensor of that shape.
    """
    mine = actual.stage_tensors
    found = []
    for (stage, key), array in expected.stage_tensors.items():
        own = mine.get((stage, key))
        comparable = own is not None and own.shape == array.shape
        moved = measure(own, array) if own is not None and comparable else _NoValue()
        found.append(StageDrift(stage, key, moved.l_inf, moved.rel_l2))
    return tuple(found)
