"""Measures how far an array moved: one pass, in constant memory, whatever the size. Decides nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.records import Drift, Recording

if TYPE_CHECKING:
    from harness.records import Array

CHUNK = (
    1 << 16
)  # elements: large enough that a call of numpy costs little, small enough for the caches


def measure(actual: Array, expected: Array) -> Drift:
    """Measure how far `actual` moved from `expected`, over all elements.

    Args:
        actual: This run's array, any shape and real dtype.
        expected: The baseline's array, of the same shape.

    Returns:
        The drift, in the array's own unit. Where either side holds NaN or infinity `finite` is false and `l_inf` and
        `rel_l2` are NaN, which no bound admits.

    Raises:
        ValueError: The shapes differ.

    Source: L-inf and L2 norms of actual - expected, both cast to float64 first (uint8 subtraction wraps).
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    flat_actual, flat_expected = (
        np.asarray(actual).reshape(-1),
        np.asarray(expected).reshape(-1),
    )  # slices of a map are slow
    worst, worst_at, differing = 0.0, 0, 0
    square_difference = square_expected = abs_actual = abs_expected = 0.0
    room = min(CHUNK, flat_actual.size)
    buffers, all_ones, all_unlike = np.empty((3, room)), np.ones(room), np.empty(room, bool)
    with np.errstate(all="ignore"):  # infinity minus infinity, and the two ends of float64
        for start in range(0, flat_actual.size, CHUNK):
            own, other = flat_actual[start : start + CHUNK], flat_expected[start : start + CHUNK]
            now, then, gap = buffers[:, : own.size]
            ones, unlike = all_ones[: own.size], all_unlike[: own.size]
            np.copyto(then, other)
            square_expected += float(then.dot(then))
            moved = int(np.count_nonzero(np.not_equal(own, other, out=unlike)))
            if moved:  # else the sums are all there is to know
                np.copyto(now, own)
                np.subtract(now, then, out=gap)
                differing += moved
                square_difference += float(gap.dot(gap))
                if max(gap.max(), -gap.min()) > worst:
                    at = int(np.abs(gap, out=gap).argmax())
                    worst, worst_at = float(gap[at]), start + at
            abs_then = float(np.abs(then, out=then).dot(ones))
            abs_actual += float(np.abs(now, out=now).dot(ones)) if moved else abs_then
            abs_expected += abs_then
    finite = math.isfinite(abs_actual) and math.isfinite(abs_expected)
    index = tuple(int(i) for i in np.unravel_index(worst_at, actual.shape)) if actual.size else ()
    relative = (
        math.sqrt(square_difference / square_expected)
        if square_expected
        else math.inf
        if worst
        else 0.0
    )
    return Drift(
        l_inf=worst if finite else math.nan,
        rel_l2=relative if finite else math.nan,
        abs_sum=abs_actual,
        abs_sum_expected=abs_expected,
        differing=differing,
        size=int(actual.size),
        worst_index=index,
        worst_actual=float(flat_actual[worst_at]) if actual.size else 0.0,
        worst_expected=float(flat_expected[worst_at]) if actual.size else 0.0,
        finite=finite,
    )


def of_outputs(now: Recording, then: Recording) -> dict[str, Drift]:
    """Return the drift of every output of `then`; both recordings must have the same structure."""
    mine, theirs = now.tensors(), then.tensors()
    return {
        name: measure(mine[f"output/{name}"], theirs[f"output/{name}"]) for name in then.outputs
    }


def of_stages(now: Recording, then: Recording) -> dict[str, dict[str, float]]:
    """Return `l_inf` and `rel_l2` of every stage's tensor that `then` kept, in the order of the run; noise first.

    They are NaN where `now` has no such tensor of that shape.
    """
    mine, theirs = now.tensors(), then.tensors()
    order = {f"stage/{stage['name']}": index for index, stage in enumerate(then.stages)}
    found = {}
    for name in sorted(theirs, key=lambda name: (order.get(name.rsplit("/", 1)[0], -1), name)):
        if name.startswith("output/"):
            continue
        stage = name.removeprefix("stage/")
        if name in mine and mine[name].shape == theirs[name].shape:
            moved = measure(mine[name], theirs[name])
            found[stage] = {"l_inf": moved.l_inf, "rel_l2": moved.rel_l2}
        else:
            found[stage] = {
                "l_inf": math.nan,
                "rel_l2": math.nan,
            }  # no bound admits a stage that is not there
    return found
