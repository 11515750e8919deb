"""Measures how far an array moved. It decides nothing: `judge/checks.py` holds bounds.

The arrays are read once, in chunks, so that the memory beside them does not grow with their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.records import Drift, StageDrift

if TYPE_CHECKING:
    from harness.records import Array
    from harness.store.recording import Observed, TensorFacts

# Elements that are compared at a time: many enough that a call of numpy costs little, and few
# enough that the caches hold the four float64 buffers of this length (2 MiB).
CHUNK = 1 << 16


def measure(actual: Array, expected: Array) -> Drift:
    """Measure how far `actual` moved from `expected`, over all elements.

    With a = actual and e = expected, both cast to float64 before the subtraction (which would wrap
    in uint8 and round in float16), and with the sums over all elements, the batch included:

        l_inf   = max |a - e|
        rel_l2  = sqrt(sum (a - e)^2 / sum e^2)
        abs_sum = sum |a|

    Args:
        actual: This run's array, of any shape and real dtype.
        expected: The baseline's array, of the same shape.

    Returns:
        The drift. `l_inf` and the sums are in the array's own unit, `rel_l2` has none; it is
        infinite where `expected` is zero and `actual` is not. Where either side holds NaN or
        infinity, `finite` is false and `l_inf` and `rel_l2` are NaN, which no bound admits.
        `differing` counts the elements that compare unequal: 0.0 and -0.0 are equal.

    Raises:
        ValueError: The shapes differ.

    The squares are not scaled. They overflow float64 where an element is larger than about 1e154,
    and vanish where all are smaller than about 1e-162. No float32 value comes near either limit.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    flat_actual = np.asarray(actual).reshape(-1)  # a view, which slices faster than a memory map
    flat_expected = np.asarray(expected).reshape(-1)
    sums = _Sums(min(CHUNK, flat_actual.size))
    # Infinity minus infinity is invalid, and squares may overflow or underflow; none is an error.
    with np.errstate(all="ignore"):
        for start in range(0, flat_actual.size, CHUNK):
            end = start + CHUNK
            sums.add(flat_actual[start:end], flat_expected[start:end], start)
    return _drift(sums, flat_actual, flat_expected, actual.shape)


class _Sums:
    """What one pass over two arrays accumulates, in float64.

    `worst` is the largest absolute difference so far, and `worst_at` its index in the flat array.
    The squares and absolute values are sums over all elements so far.

    Args:
        room: The number of elements of the largest chunk.
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
        self._ones = np.ones(room)  # the dot product with ones is a sum, faster than `np.sum`
        self._unequal = np.empty(room, bool)

    def add(self, actual: Array, expected: Array, start: int) -> None:
        """Add one chunk, whose first element has the index `start` in the flat array."""
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
    """Return the relative L2 drift; infinite where only the expected array is zero.

    It is NaN where the squares leave the range of float64, which values beyond 1e154 do: their
    ratio would be zero, and pass every bound.
    """
    if not sums.worst:
        return 0.0
    if not math.isfinite(sums.square_expected + sums.square_difference):
        return math.nan
    if not sums.square_expected:
        return math.inf
    return math.sqrt(sums.square_difference / sums.square_expected)


def of_outputs(actual: Observed, expected: Observed) -> dict[str, Drift]:
    """Return the drift of every output of `expected`; both must have the same structure."""
    actual_tensors, expected_tensors = actual.output_tensors, expected.output_tensors
    return {
        name: measure(actual_tensors[name], expected_tensors[name]) for name in expected.outputs
    }


def of_shared_outputs(actual: Observed, expected: Observed) -> dict[str, Drift]:
    """Return the drift of every output that both sides have in the same shape."""
    actual_tensors, expected_tensors = actual.output_tensors, expected.output_tensors
    return {
        name: measure(actual_tensors[name], tensor)
        for name, tensor in expected_tensors.items()
        if name in actual_tensors and actual_tensors[name].shape == tensor.shape
    }


def none_of(output: TensorFacts) -> Drift:
    """Return the drift of an output with the same bits on both sides."""
    abs_sum = output.abs_sum or 0.0
    return Drift(0.0, 0.0, abs_sum, abs_sum, 0, output.size, (), 0.0, 0.0)


@dataclass(frozen=True)
class _NoValue:
    """Stands for the drift of a tensor that this run lacks; it is NaN, which no bound admits."""

    l_inf: float = math.nan
    rel_l2: float = math.nan


def of_stages(
    actual: Observed, expected: Observed, *, only_kept: bool = False
) -> tuple[StageDrift, ...]:
    """Return the drift of every stage's tensor that `expected` kept, in the order of the run.

    Noise comes first. A drift is NaN where `actual` has no such tensor of that shape. Whether it is
    free or local drift depends on `actual`: local if that run was teacher-forced by `expected`.

    Args:
        actual: This run.
        expected: The baseline.
        only_kept: Leaves out what `actual` did not keep. A free run keeps only what it reads, and
            baselines of older releases hold more; a teacher-forced run keeps all that they hold.
    """
    actual_tensors = actual.stage_tensors
    found = []
    for (stage, key), expected_tensor in expected.stage_tensors.items():
        tensor = actual_tensors.get((stage, key))
        if tensor is None and only_kept:
            continue
        if tensor is not None and tensor.shape == expected_tensor.shape:
            moved: Drift | _NoValue = measure(tensor, expected_tensor)
        else:
            moved = _NoValue()
        found.append(StageDrift(stage, key, moved.l_inf, moved.rel_l2))
    return tuple(found)
