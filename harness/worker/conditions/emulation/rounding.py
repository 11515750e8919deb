"""Rounding, exactly: to TF32, to odd, and of a fused multiply-add, which rounds once."""

from __future__ import annotations

import torch

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# Bits of the mantissa that are stored: 23 in float32, 10 in TF32, 52 in float64.
TF32_DROPPED = 23 - 10
F32_DROPPED = 52 - 23
F32_BITS = 24  # of the significand
LEAST_INTEGER = -(2**63)
LEAST_NORMAL = 2.0**-126  # of float32


def to_tf32(values: torch.Tensor) -> torch.Tensor:
    """Return float32 values rounded to TF32, to nearest, ties away from zero.

    That is what the instruction `cvt.rna.tf32.f32` does, which adds half of the last kept bit to
    the bits of the magnitude and drops the rest. Source: NVIDIA, Parallel Thread Execution ISA,
    "cvt", rounding modifier `.rna`. Infinity and NaN stay.
    """
    half = 1 << (TF32_DROPPED - 1)
    bits = values.contiguous().view(torch.int32)
    rounded = ((bits + half) >> TF32_DROPPED << TF32_DROPPED).view(F32)
    return torch.where(torch.isfinite(values), rounded, values)


def to_odd(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `left + right` in float64, rounded to odd.

    A sum that is not exact gets the neighbour whose last bit is 1. Rounded once more, to a type
    with at least two bits fewer, it becomes what the exact sum would have become. Source: S. Boldo
    and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using
    rounding to odd", IEEE Transactions on Computers 57 (2008).

    Args:
        total: The same sum, rounded to nearest.
        left: The first summand, in float64.
        right: The second summand, in float64.
    """
    # The rounding error of the sum, exactly: Knuth's TwoSum.
    virtual = total - left
    error = (left - (total - virtual)) + (right - virtual)
    bits = total.contiguous().view(torch.int64)
    is_inexact = torch.isfinite(total) & torch.isfinite(error) & (error != 0)
    is_even = bits & 1 == 0
    towards = torch.where((error > 0) == (total > 0), 1, -1)  # of the magnitude's bits
    odd = torch.where(is_inexact & is_even, bits + towards, bits)
    return odd.view(F64)


def to_half(odd: torch.Tensor) -> torch.Tensor:
    """Return float64 values, which were rounded to odd, rounded to float16 to nearest even.

    They pass through float32, as torch's own conversion does, but with what that would round off
    kept as an odd last bit.
    """
    bits = odd.contiguous().view(torch.int64)
    mask = (1 << F32_DROPPED) - 1
    sticky = torch.where(bits & mask != 0, 1 << F32_DROPPED, 0)
    kept = torch.where(torch.isfinite(odd), bits & ~mask | sticky, bits)
    return kept.view(F64).to(F32).to(F16)


def truncated(values: torch.Tensor) -> torch.Tensor:
    """Return float64 values rounded towards zero to values of float32, in float64.

    For values in the normal range of float32.
    """
    bits = values.contiguous().view(torch.int64)
    return (bits & ~((1 << F32_DROPPED) - 1)).view(F64)


class FusedSteps:
    """Adds products to running sums of float32, each with one rounding: fused multiply-adds.

    A product of two float32 values is exact in float64. Its sum with a third one may be rounded
    there, and rounding it again to float32 would go wrong where the first result lies halfway
    between two values of float32. Only then is the sum rounded to odd before.

    Args:
        shape: Of the running sums.
        may_be_subnormal: Whether a sum may be so small that float32 has fewer bits for it, which
            makes every step slower.
    """

    def __init__(self, shape: torch.Size, *, may_be_subnormal: bool) -> None:
        self._total = torch.zeros(shape, dtype=F64)  # with values of float32
        self._wide = torch.empty(shape, dtype=F64)
        self._bits = torch.empty(shape, dtype=torch.int64)
        self._narrow = torch.empty(shape, dtype=F32)
        self._is_always_careful = may_be_subnormal

    def add(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add the products of two tensors, which are broadcast to the shape of the sums."""
        wide = torch.addcmul(self._total, left, right, out=self._wide)
        if self._is_always_careful or self._has_halfway(wide):
            wide = to_odd(wide, left * right, self._total)
        self._narrow.copy_(wide)
        self._total.copy_(self._narrow)

    def _has_halfway(self, wide: torch.Tensor) -> bool:
        """Whether any value lies halfway between two normal values of float32."""
        after_halfway_bit = 64 - F32_DROPPED
        bits = torch.bitwise_left_shift(wide.view(torch.int64), after_halfway_bit, out=self._bits)
        return int(bits.min()) == LEAST_INTEGER

    def sums(self) -> torch.Tensor:
        """Return the sums in float32."""
        return self._total.to(F32)


def may_be_subnormal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether a running sum of products of two tensors may be subnormal in float32.

    Every sum is a multiple of the last bit of the least product, so that it is zero or no smaller.

    Args:
        left: The first factors, in float64 with values of float32.
        right: The second factors, likewise.
    """
    last_bit = _least(left) * _least(right) * 2.0 ** -(2 * F32_BITS)
    return not last_bit >= LEAST_NORMAL


def _least(values: torch.Tensor) -> float:
    """Return the least magnitude that is not zero; infinite where all are."""
    magnitudes = values.abs()
    magnitudes = torch.where(magnitudes == 0, torch.inf, magnitudes)
    return float(magnitudes.min()) if magnitudes.numel() else float("inf")
