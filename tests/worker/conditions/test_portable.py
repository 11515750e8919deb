"""Portable numbers: the same bits on every machine; synthetic weights are made of them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from harness.worker.conditions.portable import CHUNK, spread, uniform

WORD = (1 << 64) - 1
LONG = 4 * CHUNK + 5  # elements: two full chunks of two values a word, and a rest


def by_definition(name: str, index: int) -> float:
    """Return element `index` of the stream `name`, by the definition of SplitMix64, in integers."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    word = (((index // 2) ^ key) + 1) * 0x9E3779B97F4A7C15 & WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    word ^= word >> 31
    half = word >> 32 if index % 2 else word & 0xFFFFFFFF
    signed = half - (1 << 32) if half >= 1 << 31 else half
    return (signed >> 8) * 2.0**-23


def test_the_bits_of_a_stream_are_known():
    """The committed digests of synthetic weights depend on them."""
    assert [float(value).hex() for value in uniform("unet.conv_in.weight", (6,))] == [
        "-0x1.4e1e040000000p-1",
        "0x1.2c7e500000000p-3",
        "-0x1.78047c0000000p-1",
        "-0x1.865f000000000p-6",
        "-0x1.a5c97c0000000p-1",
        "0x1.0285f00000000p-2",
    ]


def test_all_bits_of_a_long_stream_are_known():
    """The stream has several chunks and a partial one."""
    assert (
        hashlib.sha256(uniform("probe", (LONG,)).astype("<f4").tobytes()).hexdigest()
        == "f469cfba2a0a8e92b90f6e546c99e23b866beddc8b9a3f617b8f18c7ac5a2542"
    )


@pytest.mark.parametrize(
    "index", [0, 1, 2, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 4 * CHUNK - 1, 4 * CHUNK, LONG - 1]
)
def test_an_element_is_what_the_definition_says(index):
    """Plain integer arithmetic gives the same on both sides of every chunk's border."""
    assert float(uniform("probe", (LONG,))[index]) == by_definition("probe", index)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_a_short_stream_is_the_start_of_a_long_one(size):
    """How many values are asked for does not change the first ones."""
    assert np.array_equal(uniform("probe", (size,)), uniform("probe", (LONG,))[:size])


def test_shape_only_folds_the_stream():
    """The order is row-major, the type float32; a shape without dimensions has one value."""
    values = uniform("probe", (2, 3, 5))
    assert (values.shape, values.dtype) == ((2, 3, 5), np.float32)
    assert np.array_equal(values.ravel(), uniform("probe", (30,)))
    assert uniform("probe", ()) == uniform("probe", (1,))[0]


def test_another_name_gives_another_stream():
    """Two parameters never hold the same numbers, nor is one a shifted copy of the other."""
    a, b = uniform("unet.a", (1000,)), uniform("unet.b", (1000,))
    assert len(np.intersect1d(a, b)) < 10
    assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.1


def test_values_fill_their_range_evenly():
    """The mean is near zero, the variance a third, and each tenth of the range equally full."""
    values = uniform("probe", (200_000,)).astype(np.float64)
    counts, _ = np.histogram(values, bins=10, range=(-1.0, 1.0))
    assert -1.0 <= values.min() < -0.9999
    assert 0.9999 < values.max() < 1.0
    assert abs(values.mean()) < 5 * (1 / 3 / values.size) ** 0.5
    assert values.var() == pytest.approx(1 / 3, rel=0.01)
    assert counts == pytest.approx(20_000, rel=0.04)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("conv_in.weight", (8, 4, 3, 3), (0.0, 1 / 6)),
        ("to_q.weight", (32, 16), (0.0, 0.25)),
        ("norm.weight", (32,), (1.0, 0.125)),
        ("clip_std", (32,), (1.0, 0.125)),
        ("norm.bias", (32,), (0.0, 0.0625)),
        ("scale", (), (0.0, 0.0625)),
    ],
)
def test_a_parameter_lies_around_its_centre(name, shape, expected):
    """Kernels get half-width 1/sqrt(fan-in), gains lie around one, everything else around zero."""
    assert spread(name, shape) == expected
