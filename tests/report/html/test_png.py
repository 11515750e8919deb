"""Pictures as PNG, read back by Pillow."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from harness.report.html.png import data_uri


@pytest.mark.parametrize("shape", [(5, 7, 1), (13, 4, 3), (1, 1, 4), (300, 200, 3)])
def test_a_picture_is_read_back_bit_for_bit(shape: tuple[int, ...]):
    """Grey, colour, and colour with opacity."""
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    head, _, encoded = data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    with image_module.open(io.BytesIO(base64.b64decode(encoded))) as found:
        found.load()
        assert np.array_equal(np.asarray(found).reshape(shape), image)
