"""Digests: the same bits always give the same digest, and any other bits give another one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from harness.worker.observe.digest import BLOCK, MULTIPLIERS, combine, digest, digest_bytes
from harness.worker.observe.tensors import AT_ONCE, digest_on_device, digest_tensor

# Bytes, around the borders of words and blocks.
BORDERS = [0, 1, 7, 8, 9, 63, 65535, 65536, 65537, 65544, 131072, 200001]


def noise(size: int, seed: int = 0) -> np.ndarray:
    """Return `size` bytes."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


KNOWN = {
    "empty": (np.zeros(0, np.float32), "2de752b073f751d417f86cb81eb360fe"),
    "number": (np.array(1.5, np.float64), "2e45e4082c971078fe6aa9af8dfe3926"),
    "three": (np.array([1.0, -2.0, 0.5], np.float32), "02b6c9a20f275f9609662a4cbc52f33c"),
    "pixels": (
        np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1),
        "73b6b611d99d4b8ad36b291dea401ac5",
    ),
    "halves": (np.array([[1, 2], [3, 4]], np.float16), "2f876f49af514347e335db5182001cf9"),
    "switches": (np.array([True, False]), "313809051e49f27027e4c601dae34597"),
    "one-block": (np.arange(1 << 14, dtype=np.float32), "f4ce0a2a0e667b16a86c03adc2476e55"),
    "blocks-and-a-rest": (
        np.arange(50_001, dtype=np.int64) * 0x9E3779B9,
        "28fb8964c9020194e4751e363c11585f",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_arrays_have_known_digests(name):
    """Stored baselines hold these digests, so they may never be computed in another way."""
    array, expected = KNOWN[name]
    assert digest(array) == expected


def test_known_digests_combine_to_a_known_one():
    """Names and digests decide, their order does not."""
    assert (
        combine({"b": "2", "a": "1"})
        == combine({"a": "1", "b": "2"})
        == "4ef55c4d7168c5b14453c2bb63e3454b"
    )
    assert combine({"a": "2", "b": "1"}) != combine({"a": "1", "b": "2"})


@pytest.mark.parametrize("size", BORDERS[1:])
def test_a_flipped_bit_is_found_wherever_it_is(size):
    """It is found at both ends, on both sides of each border, and at random places."""
    data = noise(size)
    own = digest_bytes(data)
    generator = np.random.default_rng(1)
    near_borders = {border + step for border in (8, 65536, 131072) for step in (-1, 0, 1)}
    at_random = {int(index) for index in generator.integers(0, size, 20)}
    candidates = {0, size - 1, size // 2, *near_borders, *at_random}
    for index in sorted(candidate for candidate in candidates if candidate < size):
        data[index] ^= 1 << int(generator.integers(0, 8))
        assert digest_bytes(data) != own, index
        data[...] = noise(size)


@pytest.mark.parametrize("size", BORDERS)
def test_a_byte_more_gives_another_digest_also_if_it_is_zero(size):
    """The last word is filled up with zeros, but the length belongs to the digest."""
    data = noise(size)
    assert digest_bytes(np.append(data, np.uint8(0))) != digest_bytes(data)


def test_the_digest_of_bytes_is_bound_to_its_head():
    """The same bytes under another name have another digest."""
    assert digest_bytes(noise(9), "a") != digest_bytes(noise(9), "b")


# 128 KiB: several blocks.
A = np.random.default_rng(2).standard_normal((4, 128, 64)).astype(np.float32)


@pytest.mark.parametrize(
    "changed",
    [
        A[::-1],
        A[[1, 0, 2, 3]],
        A.transpose(0, 2, 1).reshape(A.shape),
        np.roll(A, 1),
        -A,
        np.concatenate([A[:2], A[:2]]),
        np.concatenate([A[2:], A[2:]]),
        np.nextafter(A, np.float32(9)),
        A.reshape(4, 64, 128),
        A[np.newaxis],
        A.astype(np.float64),
        A.view(np.int32),
    ],
    ids=[
        "reversed",
        "images-swapped",
        "transposed",
        "rolled",
        "negated",
        "first-half-twice",
        "second-half-twice",
        "one-ulp-up",
        "reshaped",
        "another-dimension",
        "wider",
        "same-bits-as-integers",
    ],
)
def test_what_sums_cannot_see_gives_another_digest(changed):
    """Positions, signs, duplicates, dtype and shape all count."""
    assert digest(np.ascontiguousarray(changed)) != digest(A)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_signs_never_cancel(dtype):
    """Each of the 256 ways to sign eight numbers, zero among them, has a digest of its own."""
    ways = np.array(list(product([1, -1], repeat=8))).astype(dtype)
    assert len({digest(way * np.arange(8).astype(dtype)) for way in ways}) == 256


def test_the_highest_bits_of_two_pixels_never_cancel():
    """Here two bytes of an image, eight apart, are each off by 128."""
    image = noise(1 << 10)
    other = image.copy()
    other[[7, 15]] ^= 0x80
    assert digest(other) != digest(image)


def test_two_words_that_change_places_never_cancel():
    """No two multipliers agree in their lowest 31 bits, so that a sum tells places apart."""
    lowest = MULTIPLIERS & np.uint64(2**31 - 1)
    assert len(np.unique(lowest)) == BLOCK


def test_layout_in_memory_does_not_count():
    """Row-major or column-major, contiguous or strided: only the values at their indices count."""
    wide = np.repeat(A, 2, axis=2)
    assert digest(np.asfortranarray(A)) == digest(wide[:, :, ::2]) == digest(A)


def test_dtype_and_shape_can_be_spoken_for():
    """A tensor of bfloat16, which numpy lacks, comes as integers of its width."""
    bits = np.array([0x3F80, 0x4000], np.int16)
    assert digest(bits, "bfloat16", (2, 1)) == digest(bits.reshape(2, 1), "bfloat16")
    assert digest(bits, "bfloat16") != digest(bits)


DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (3, 5), (2, 3, 64, 64), (BLOCK,), (BLOCK * 3 + 7,)]
)
def test_a_device_computes_the_same_digest(dtype, shape):
    """Here torch adds on the CPU what it adds on a GPU; some sums wrap, some lengths are odd."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(50).to(dtype)
    assert digest_on_device(values)() == digest_tensor(values)


def test_a_device_digests_a_large_tensor_in_parts():
    """This one has two parts and a rest."""
    values = torch.from_numpy(noise(2 * 4 * BLOCK * AT_ONCE + 5))
    assert digest_on_device(values)() == digest_tensor(values)


def test_a_device_s_digest_is_of_the_tensor_as_it_was():
    """What is written into it before the digest is asked for does not count.

    A view has the digest of its own values.
    """
    tensor = torch.arange(100_000.0)
    expected, later = digest_tensor(tensor), digest_on_device(tensor)
    tensor.zero_()
    assert later() == expected
    turned = torch.arange(12.0).reshape(3, 4).T
    assert digest_on_device(turned)() == digest_tensor(turned)


def test_a_device_digests_what_lies_at_any_address_and_keeps_no_tensor():
    """A row of an odd mask and a conjugate that is not yet computed are among them.

    A tensor that a digest kept would count as memory of the run.
    """
    for tensor in (
        torch.ones(3, 4 * BLOCK + 1, dtype=torch.bool)[1],
        torch.ones(40_001).half()[1:],
        torch.full((9,), 1 + 2j).conj(),
    ):
        later = digest_on_device(tensor)
        assert later() == digest_tensor(tensor.resolve_conj())
        held = [cell.cell_contents for cell in later.__closure__]
        assert not [
            value for value in held if isinstance(value, torch.Tensor) and value.numel() > 1
        ]
