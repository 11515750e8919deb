"""What users have today, as functions of two images: whether each lets a fault pass unseen.

Source: diffusers' tests (nine pixels of a corner, and their cosine distance), the diffusers guide
(abs-sum), and `torch.testing.assert_close` with its defaults for float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.records import Array

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

RTOL, ATOL = 1.3e-6, 1e-5  # of torch.testing.assert_close, for float32


def same_corner(actual: Array, expected: Array, bound: float) -> bool:
    """Whether the nine pixels of a corner differ by less than `bound` at most."""
    difference = _nine_pixels(actual) - _nine_pixels(expected)
    return float(np.abs(difference).max()) < bound


def same_abs_sum(actual: Array, expected: Array, bound: float) -> bool:
    """Whether the sums of all absolute values differ by less than `bound`."""
    return abs(_abs_sum(actual) - _abs_sum(expected)) < bound


def same_direction(actual: Array, expected: Array, bound: float) -> bool:
    """Whether the cosine distance of two images is less than `bound`."""
    one, other = _flat(actual), _flat(expected)
    cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    return float(1 - cosine) < bound


def close_everywhere(actual: Array, expected: Array) -> bool:
    """Whether every element is as close as `torch.testing.assert_close` asks."""
    return bool(np.isclose(actual, expected, rtol=RTOL, atol=ATOL).all())


METHODS: dict[str, Callable[[Array, Array], bool]] = {
    "nine pixels, 1e-2": partial(same_corner, bound=1e-2),
    "nine pixels, 1e-3": partial(same_corner, bound=1e-3),
    "abs-sum, 1e-2": partial(same_abs_sum, bound=1e-2),
    "cosine distance, 1e-2": partial(same_direction, bound=1e-2),
    "torch.testing.assert_close": close_everywhere,
}


def unseen_by(actual: Array, expected: Array) -> list[str]:
    """Return the methods that call two images the same; none does if their shapes differ."""
    if actual.shape != expected.shape:
        return []
    return [name for name, passes in METHODS.items() if passes(actual, expected)]


def _nine_pixels(images: Array) -> Floats:
    """Return the last three by three pixels of the last channel of the first image."""
    return _flat(images[0, -3:, -3:, -1])


def _abs_sum(images: Array) -> float:
    return float(np.abs(images.astype(np.float64)).sum())


def _flat(images: Array) -> Floats:
    return images.astype(np.float64).ravel()
