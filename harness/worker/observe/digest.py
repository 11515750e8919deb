"""Digests of arrays: of their bytes, dtype and shape, several times as fast as SHA-256 alone.

The bytes are read as unsigned 32-bit little-endian words, in blocks of `BLOCK` words. Each block
gives one number: the sum over its words of word times multiplier, modulo 2**64. Every position of a
block has a fixed odd multiplier of its own. The length in bytes, the dtype, the shape and the sums
then go through SHA-256, of which `DIGITS` hexadecimal digits (128 bits) are kept. Integer
arithmetic does not round, so that equal bytes have equal digests on every machine and device.

What a sum cannot overlook:

- A change within one word of a block. An odd number has an inverse modulo 2**64, so that the sum
  changes with the word.
- Two different words of one block that change places. No two multipliers agree in their lowest 31
  bits, so that the product of the two differences is no multiple of 2**64.

Other changes of several words in one block can cancel, but do so by accident alone. The chance is
about 2**-64 where the words change anyhow, and about 2**-32 where only their highest bits change,
as when every sign flips, because a highest bit reaches only the upper 33 bits of the sum. Words of
64 bits would be worse: any two changes of the highest bit would cancel, as 2**63 times the sum of
two odd numbers is 0 modulo 2**64. The sums are no protection against bytes that are chosen in order
to collide.
"""

from __future__ import annotations

import hashlib
from typing import Mapping, Optional, Sequence

import numpy as np

BLOCK = 8192  # words, which are 32 KiB; their multipliers are 64 KiB
BLOCK_BYTES = 4 * BLOCK
DIGITS = 32  # hexadecimal digits of every digest: the first 128 of the 256 bits of SHA-256


def mix(words: np.ndarray) -> np.ndarray:
    """Replace each value of `words` by the output of SplitMix64 at that index; return the array.

    Args:
        words: Indices or other integers, as uint64 of any shape, which are overwritten.

    The value n becomes the output number n, counted from 0, of the generator with the seed 0.

    Source: Vigna, `splitmix64.c`, 2015, after Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", 2014, with Stafford's mixer 13.
    """
    shifted = np.empty_like(words)
    np.add(words, np.uint64(1), out=words)
    np.multiply(words, np.uint64(0x9E3779B97F4A7C15), out=words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(words, np.uint64(shift), out=shifted)
        np.bitwise_xor(words, shifted, out=words)
        np.multiply(words, np.uint64(factor), out=words)
    np.right_shift(words, np.uint64(31), out=shifted)
    return np.bitwise_xor(words, shifted, out=words)


MULTIPLIERS = mix(np.arange(BLOCK, dtype=np.uint64)) | np.uint64(1)


def digest_bytes(data: np.ndarray, head: str = "") -> str:
    """Return the digest of bytes together with a text that says what they are.

    Args:
        data: The bytes, a flat array of uint8. A last word that is not whole is filled with zeros.
        head: What the bytes are, such as their dtype and shape.

    Returns:
        32 hexadecimal digits.
    """
    end = len(data) // BLOCK_BYTES * BLOCK_BYTES
    blocks = data[:end].view("<u4").reshape(end // BLOCK_BYTES, BLOCK)
    sums = np.einsum("ij,j->i", blocks, MULTIPLIERS)
    rest = data[end:]
    if len(rest) % 4:
        rest = np.append(rest, np.zeros(-len(rest) % 4, dtype=np.uint8))
    words = rest.view("<u4")
    tail = np.einsum("i,i->", words, MULTIPLIERS[: len(words)])
    return digest_sums(len(data), head, sums, np.uint64(tail))


def digest_sums(length: int, head: str, sums: np.ndarray, tail: np.uint64) -> str:
    """Return the digest of bytes whose sums are known.

    Args:
        length: How many bytes there are.
        head: What the bytes are, such as their dtype and shape.
        sums: The sum of each whole block, as uint64 of shape (blocks,).
        tail: The sum of the words after the last whole block; 0 where there are none.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.sha256(f"{length} {head}\n".encode())
    state.update(sums.astype("<u8").tobytes())
    state.update(tail.astype("<u8").tobytes())
    return state.hexdigest()[:DIGITS]


def digest(
    array: np.ndarray, dtype: Optional[str] = None, shape: Optional[Sequence[int]] = None
) -> str:
    """Return the digest of an array of any memory layout: of its elements in row-major order.

    Bits decide, not values: 0.0 and -0.0 have different digests, and so have two NaNs of different
    payload.

    Args:
        array: The elements. Those of a dtype that numpy lacks come as integers of equal width.
        dtype: The name of the dtype, such as `bfloat16`; None for the array's own.
        shape: The shape; None for the array's own.

    Returns:
        32 hexadecimal digits.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    lengths = list(array.shape if shape is None else shape)
    return digest_bytes(flat, f"{dtype or array.dtype.name} {lengths}")


def combine(digests: Mapping[str, str]) -> str:
    """Return one digest of named digests, which does not depend on their order."""
    lines = [f"{name} {digests[name]}" for name in sorted(digests)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:DIGITS]
