"""Measures how a change looks: pixels, levels and PSNR, and a ratio of signal to noise.

It decides nothing. A mean of such a metric may rank a visible hole below invisible noise, which is
why the largest change and the worst place are always measured too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.judge import perception
from harness.judge.output_layout import Layout, layout_of
from harness.records import Appearance, OutputKind, PixelChange

if TYPE_CHECKING:
    from harness.records import Array
    from harness.store.recording import Observed

LEVELS = 255  # of 8 bits, the largest


def of_outputs(actual: Observed, expected: Observed, output_type: object) -> tuple[Appearance, ...]:
    """Return how every output that differs looks, one entry for each sample of a batch.

    Samples that are equal are left out, and so is an output that is not finite or has another
    shape: it is not comparable.

    Args:
        actual: This run's recording.
        expected: The baseline, or another recording.
        output_type: What the scenario's call asks for; None where it does not say.
    """
    found: list[Appearance] = []
    for name, facts in expected.outputs.items():
        other = actual.outputs.get(name)
        if other is None or other.digest == facts.digest or other.shape != facts.shape:
            continue
        if other.finite and facts.finite:
            layout = layout_of(name, facts.shape, output_type)
            pair = actual.output_tensors[name], expected.output_tensors[name]
            found += of_output(name, layout, *pair)
    return tuple(found)


def of_output(name: str, layout: Layout, actual: Array, expected: Array) -> Iterable[Appearance]:
    """Yield how each sample of one output looks that differs.

    Args:
        name: The name of the output.
        layout: What it is, and what its axes mean.
        actual: This run's array, finite.
        expected: The baseline's, finite and of the same shape.
    """
    pairs = zip(layout.samples(actual), layout.samples(expected), strict=True)
    for index, (mine, other) in enumerate(pairs):
        if np.array_equal(mine, other):
            continue
        appearance = Appearance(name, index, layout.kind)
        if layout.kind is OutputKind.IMAGE:
            yield _of_images(appearance, mine[None], other[None])
        elif layout.kind is OutputKind.VIDEO:
            yield _of_images(appearance, mine, other)
        else:
            yield replace(appearance, signal_to_noise=signal_to_noise(mine, other))


def pixel_change(actual: Array, expected: Array) -> PixelChange:
    """Return how many pixels look different, and by how much.

    Args:
        actual: Images or frames of 8 bits, whose last axis is the channel.
        expected: The same of the baseline.
    """
    by_channel = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
    by_pixel = by_channel.max(axis=-1)
    squares = float(np.square(by_channel.astype(np.float64)).mean())
    psnr = 10 * math.log10(LEVELS**2 / squares) if squares else None
    return PixelChange(
        pixels=int(by_pixel.size),
        changed=int(np.count_nonzero(by_pixel)),
        over_1=int(np.count_nonzero(by_pixel > 1)),
        over_2=int(np.count_nonzero(by_pixel > 2)),
        over_8=int(np.count_nonzero(by_pixel > 8)),
        largest=int(by_pixel.max(initial=0)),
        psnr=psnr,
    )


def signal_to_noise(actual: Array, expected: Array) -> float | None:
    """Return the ratio of signal to noise in dB; None where it has no finite value."""
    wide = expected.astype(np.float64)
    signal = float(np.square(wide).sum())
    noise = float(np.square(actual.astype(np.float64) - wide).sum())
    ratio = signal / noise if noise else math.inf
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else None


def as_8_bit(image: Array) -> Array:
    """Return an image as a file of 8 bits would hold it.

    Values of floating-point types are in [0, 1], as diffusers returns them, and are rounded as
    `numpy_to_pil` of diffusers rounds them; what lies outside is cut, and NaN becomes 0.
    """
    if image.dtype == np.uint8:
        return image
    wide = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
    levels: Array = np.rint(np.clip(wide, 0.0, 1.0) * LEVELS).astype(np.uint8)
    return levels


def _of_images(appearance: Appearance, actual: Array, expected: Array) -> Appearance:
    """Return the appearance of frames, of which an image is one: axes frame, row, column, channel.

    The metrics of perception are taken of the frame that changed most.
    """
    mine, other = as_8_bit(actual), as_8_bit(expected)
    gaps = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    worst = int(gaps.reshape(len(gaps), -1).max(axis=1).argmax())
    return replace(
        appearance,
        pixels=pixel_change(mine, other),
        frame=worst if appearance.kind is OutputKind.VIDEO else None,
        ssim=perception.structural_similarity(mine[worst], other[worst]),
        flip=perception.flip(mine[worst], other[worst]),
    )
