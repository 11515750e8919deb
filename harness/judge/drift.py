"""Measures how far an array moved: one pass, in constant memory, whatever the size. Decides nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.records import Drift, Recording

if TYPE_CHECKING:
    from harness.records import Array

CHUNK = 1 << 16  # elements: three float64 buffers of this size stay in the second-level cache


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
    flat_actual, flat_expected = actual.reshape(-1), expected.reshape(-1)
    worst, worst_at, differing, finite = 0.0, 0, 0, True
    square_difference = square_expected = abs_actual = abs_expected = 0.0
    for start in range(0, flat_actual.size, CHUNK):
        now = flat_actual[start : start + CHUNK].astype(np.float64)
        then = flat_expected[start : start + CHUNK].astype(np.float64)
        abs_actual += float(np.abs(now).sum())
        abs_expected += float(np.abs(then).sum())
        square_expected += float(then @ then)
        if finite and not (math.isfinite(abs_actual) and math.isfinite(abs_expected)):
            finite = False
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            now -= then
        differing += int(np.count_nonzero(now))
        square_difference += float(now @ now)
        np.abs(now, out=now)
        at = int(now.argmax()) if finite else 0
        if now[at] > worst:
            worst, worst_at = float(now[at]), start + at
    index = tuple(int(i) for i in np.unravel_index(worst_at, actual.shape)) if actual.size else ()
    relative = math.sqrt(square_difference / square_expected) if square_expected else math.inf if worst else 0.0
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
    return {name: measure(mine[f"output/{name}"], theirs[f"output/{name}"]) for name in then.outputs}


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
            found[stage] = {"l_inf": math.nan, "rel_l2": math.nan}  # no bound admits a stage that is not there
    return found
