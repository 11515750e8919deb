"""Tones of paper and ink."""

import numpy as np

PAPER = 0.02


def on_paper(image):
    """Return an image, an array with values from 0 to 1, as it looks on paper."""
    printed = image * (1 - PAPER)
    printed = printed + PAPER
    return np.clip(printed, 0, 1)


def fade(latents, index, steps):
    """Return latents that fade a little in the second half of the steps."""
    if index < steps // 2:
        return latents
    weight = 1 - 0.01 * index / steps
    return latents * weight
