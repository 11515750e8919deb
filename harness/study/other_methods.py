"""What users have today, as functions of two images: each says whether it lets a fault pass unseen.

Source: diffusers' tests (nine pixels of a corner, cosine distance of them), the diffusers guide (abs-sum),
`torch.testing.assert_close` (float32 defaults).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.records import Array

RTOL, ATOL = 1.3e-6, 1e-5  # of torch.testing.assert_close, for float32


def nine_pixels(image: Array) -> Array:
    """Return the last three by three pixels of the last channel of the first image."""
    return image[0, -3:, -3:, -1].astype(np.float64).ravel()


def _corner(now: Array, then: Array) -> float:
    return float(np.abs(nine_pixels(now) - nine_pixels(then)).max())


def _abs_sum(image: Array) -> float:
    return float(np.abs(image.astype(np.float64)).sum())


def _cosine(now: Array, then: Array) -> float:
    a, b = now.astype(np.float64).ravel(), then.astype(np.float64).ravel()
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


METHODS: dict[str, Callable[[Array, Array], bool]] = {
    "nine pixels, 1e-2": lambda now, then: _corner(now, then) < 1e-2,
    "nine pixels, 1e-3": lambda now, then: _corner(now, then) < 1e-3,
    "abs-sum, 1e-2": lambda now, then: abs(_abs_sum(now) - _abs_sum(then)) < 1e-2,
    "cosine distance, 1e-2": lambda now, then: _cosine(now, then) < 1e-2,
    "torch.testing.assert_close": lambda now, then: bool(
        np.isclose(now, then, rtol=RTOL, atol=ATOL).all()
    ),
}


def unseen_by(now: Array, then: Array) -> list[str]:
    """Return the methods that call the two images the same; none does if their shapes differ."""
    return (
        [name for name, passes in METHODS.items() if passes(now, then)]
        if now.shape == then.shape
        else []
    )
