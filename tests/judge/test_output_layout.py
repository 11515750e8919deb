"""What an output is, for every form that the pipelines of diffusers return."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge.output_layout import Axis, Layout, layout_of
from harness.records import OutputKind

CASES = [
    ("image", (2, 32, 24, 3), "np", OutputKind.IMAGE, "BHWC", [(32, 24, 3)] * 2),
    ("image", (2, 3, 32, 24), "pt", OutputKind.IMAGE, "BCHW", [(32, 24, 3)] * 2),
    ("image", (1, 3, 32, 3), "pt", OutputKind.IMAGE, "BCHW", [(32, 3, 3)]),
    ("image", (1, 28, 28), "pil", OutputKind.IMAGE, "BHW", [(28, 28, 1)]),
    ("image", (2, 3, 32, 24), None, OutputKind.IMAGE, "BCHW", [(32, 24, 3)] * 2),
    ("image.0", (32, 24, 3), "np", OutputKind.IMAGE, "HWC", [(32, 24, 3)]),
    ("image", (2, 4, 8, 6), "latent", OutputKind.LATENTS, "BCHW", [(4, 8, 6)] * 2),
    ("frame", (1, 16, 5, 8, 6), "latent", OutputKind.LATENTS, "BCFHW", [(16, 5, 8, 6)]),
    ("image", (1, 256, 64), "latent", OutputKind.LATENTS, "BNC", [(256, 64)]),
    ("frame", (2, 5, 32, 24, 3), "np", OutputKind.VIDEO, "BFHWC", [(5, 32, 24, 3)] * 2),
    ("frame", (1, 5, 3, 32, 24), "pt", OutputKind.VIDEO, "BFCHW", [(5, 32, 24, 3)]),
    ("frame.0", (5, 32, 24, 3), "pil", OutputKind.VIDEO, "FHWC", [(5, 32, 24, 3)]),
    ("audio", (2, 16000), None, OutputKind.AUDIO, "BT", [(1, 16000)] * 2),
    ("audio", (2, 2, 16000), "pt", OutputKind.AUDIO, "BCT", [(2, 16000)] * 2),
    ("image_embedding", (2, 768), "pt", OutputKind.OTHER, "", [(2, 768)]),
    ("image", (2, 32, 24, 7), "np", OutputKind.OTHER, "", [(2, 32, 24, 7)]),
    ("image", (0, 32, 24, 3), "np", OutputKind.OTHER, "", [(0, 32, 24, 3)]),
]


@pytest.mark.parametrize(("name", "shape", "output_type", "kind", "axes", "samples"), CASES)
def test_an_output_is_told_by_its_name_its_shape_and_the_output_type(
    name, shape, output_type, kind, axes, samples
):
    """And its samples have their axes in one order, whatever the pipeline's is."""
    layout = layout_of(name, shape, output_type)
    assert layout == Layout(kind, tuple(map(Axis, axes)))
    assert [sample.shape for sample in layout.samples(np.zeros(shape))] == samples


def test_samples_hold_the_values_of_their_places():
    """Channel 1, row 2, column 0 of the second image, whether channels come first or last."""
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    channels_first = layout_of("image", array.shape, "pt")
    assert channels_first.samples(array)[1][2, 0, 1] == array[1, 1, 2, 0]
    last = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    assert layout_of("image", last.shape, "np").samples(last)[1][2, 0, 1] == array[1, 1, 2, 0]
