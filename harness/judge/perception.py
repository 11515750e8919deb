"""Holds what the extra `images` adds to the appearance of an image: SSIM and FLIP.

Without the extra every function returns None. It is installed by `pip install ".[images]"`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from harness.records import Flip, StructuralSimilarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.records import Array

WINDOW = 7  # pixels of one side; the default of scikit-image
COLOURS = 3


def is_installed() -> bool:
    """Whether the extra `images` is here."""
    return find_spec("skimage") is not None and find_spec("flip_evaluator") is not None


def structural_similarity(actual: Array, expected: Array) -> StructuralSimilarity | None:
    """Return the SSIM of two images of 8 bits, with the axes height, width and channel.

    It is None without the extra, and for an image that is smaller than one window. Windows are
    uniform, of 7 x 7 pixels, as in scikit-image's `structural_similarity`; those that reach over
    the edge do not count.
    """
    if not is_installed() or min(actual.shape[:2]) < WINDOW:
        return None
    from skimage.metrics import structural_similarity as measure

    mean, everywhere = measure(
        expected, actual, win_size=WINDOW, channel_axis=-1, data_range=255, full=True
    )
    edge = WINDOW // 2
    inside = everywhere.mean(axis=-1)[edge:-edge, edge:-edge]
    row, column = np.unravel_index(int(inside.argmin()), inside.shape)
    worst_at = (int(row) + edge, int(column) + edge)
    return StructuralSimilarity(float(mean), float(inside.min()), worst_at)


def flip(actual: Array, expected: Array) -> Flip | None:
    """Return the FLIP of two images of 8 bits; None without the extra."""
    found = flip_map(actual, expected)
    if found is None:
        return None
    return Flip(float(found.mean()), float(np.percentile(found, 99)), float(found.max()))


def flip_map(actual: Array, expected: Array) -> NDArray[np.float64] | None:
    """Return FLIP at every pixel, in [0, 1], for two images of 8 bits; None without the extra.

    The images are looked at from the distance that FLIP takes as its default: 0.7 m from a monitor
    of 0.7 m and 3840 pixels in width. Opacity is left out.
    """
    if not is_installed():
        return None
    import flip_evaluator

    evaluated = flip_evaluator.evaluate(
        _as_colours(expected), _as_colours(actual), "LDR", applyMagma=False
    )
    return np.asarray(evaluated[0], np.float64)[..., 0]


def _as_colours(image: Array) -> Array:
    """Return an image of three channels in [0, 1], as FLIP takes it."""
    colours = image[..., :COLOURS]
    if colours.shape[-1] != COLOURS:
        colours = np.repeat(colours[..., :1], COLOURS, axis=-1)
    wide: Array = np.ascontiguousarray(colours, np.float32) / np.float32(255)
    return wide
