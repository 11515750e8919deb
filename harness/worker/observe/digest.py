"""Digests of arrays: byte-exact, sensitive to position, dtype and shape, and as fast as memory.

The bytes are read as 32-bit little-endian words, in blocks of `BLOCK` words. Each block gives one word, the sum of its
words times fixed odd 64-bit multipliers modulo 2**64: a change confined to one word always changes it, because an odd
number has an inverse, and a permutation, a sign or a duplicated half does too, because each place has its own multiplier.
The words are half as wide as the sum so that even their top bits move 33 of its bits; of 64-bit words two top bits would
cancel, 2**63 times the sum of two odd numbers being 0. The block sums, the dtype and the shape then go through SHA-256.
Integer arithmetic has no rounding, so the digest is the same on every machine and device.
"""

from __future__ import annotations

import hashlib
from typing import Optional, Tuple

import numpy as np

BLOCK = 8192  # words: 32 KiB, which stays in the first-level caches


def mix(words: np.ndarray) -> np.ndarray:
    """Turn each uint64 of `words` into 64 well-mixed bits, in place, and return the array.

    Source: the finaliser of SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
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
    """Return the digest of the bytes of the flat uint8 array `data`, bound to `head`: 32 hexadecimal digits."""
    whole = len(data) // (4 * BLOCK) * (4 * BLOCK)
    sums = (
        np.einsum("ij,j->i", data[:whole].view("<u4").reshape(-1, BLOCK), MULTIPLIERS)
        if whole
        else np.empty(0, np.uint64)
    )
    rest = data[whole:]
    if len(rest) % 4:
        rest = np.append(rest, np.zeros(-len(rest) % 4, dtype=np.uint8))
    tail = np.einsum("i,i->", rest.view("<u4"), MULTIPLIERS[: len(rest) // 4])
    return sealed(len(data), head, sums, np.uint64(tail))


def sealed(length: int, head: str, sums: np.ndarray, tail: np.uint64) -> str:
    """Return the digest of `length` bytes bound to `head`, from the uint64 sums of their whole blocks and of what is left."""
    state = hashlib.sha256(f"{length} {head}\n".encode())
    state.update(sums.astype("<u8").tobytes())
    state.update(tail.astype("<u8").tobytes())
    return state.hexdigest()[:32]


def digest(
    array: np.ndarray, dtype: Optional[str] = None, shape: Optional[Tuple[int, ...]] = None
) -> str:
    """Return the digest of `array`; `dtype` and `shape` speak for types that numpy lacks, such as bfloat16."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return digest_bytes(
        flat, f"{dtype or array.dtype.name} {list(array.shape if shape is None else shape)}"
    )


def combine(digests: "dict[str, str]") -> str:
    """Return one digest of named digests, whatever their order."""
    text = "\n".join(f"{name} {digests[name]}" for name in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
