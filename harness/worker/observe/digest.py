"""Digests of arrays: byte-exact, sensitive to position, dtype and shape, and as fast as memory.

The bytes are read as 32-bit little-endian words, in blocks of `BLOCK` words. Each block gives one
number, the sum of its words times fixed odd 64-bit multipliers, modulo 2**64. A change within one
word always changes that sum, because an odd number has an inverse. A permutation, a sign or a
duplicated half changes it too, because each position has its own multiplier. The words are half as
wide as the sum, so that even their highest bits move 33 bits of it. Words of 64 bits would not do:
two changes of the highest bit would cancel, as 2**63 times the sum of two odd numbers is 0.

The sums of the blocks, the dtype and the shape then go through SHA-256. Integer arithmetic has no
rounding, so the digest is the same on every machine and device.
"""

from __future__ import annotations

import hashlib
from typing import Mapping, Optional, Sequence

import numpy as np

BLOCK = 8192  # words: 32 KiB, which stays in the first-level caches
BLOCK_BYTES = 4 * BLOCK
DIGITS = 32  # hexadecimal, of every digest


def mix(words: np.ndarray) -> np.ndarray:
    """Turn each uint64 of `words` into 64 well-mixed bits, in place, and return the array.

    Source: the finaliser of SplitMix64; Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014.
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
    """Return the digest of bytes that are bound to a text.

    Args:
        data: The bytes, a flat array of uint8.
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
        sums: The sums of all whole blocks, as uint64.
        tail: The sum of what is left after the last whole block.

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
    """Return the digest of an array of any layout: of its values in row-major order.

    Args:
        array: The values; types that numpy lacks come as integers of their width.
        dtype: The name of the type where the array's own does not say it, such as `bfloat16`.
        shape: The shape where the array's own does not say it.

    Returns:
        32 hexadecimal digits.
    """
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    lengths = list(array.shape if shape is None else shape)
    return digest_bytes(flat, f"{dtype or array.dtype.name} {lengths}")


def combine(digests: Mapping[str, str]) -> str:
    """Return one digest of named digests, whatever their order."""
    lines = [f"{name} {digests[name]}" for name in sorted(digests)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:DIGITS]
