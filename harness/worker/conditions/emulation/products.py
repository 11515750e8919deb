"""Matrix products whose sums over k are taken in an order that is written down."""

from __future__ import annotations

from enum import Enum
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

import torch

from .rounding import (
    F32,
    F64,
    FusedSteps,
    may_be_subnormal,
    to_half,
    to_odd,
    to_tf32,
    truncated,
)

# Elements of a work array: 512 KiB of float64, which stays in the cache of a core.
CHUNK = 1 << 16
# One instruction of a tensor core of an A100 adds 8 products of 16-bit factors and the running sum,
# aligned to the largest exponent and cut off one bit below the last one of float32. Source: M.
# Fasi, N. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ
# Computer Science 7:e330 (2021).
TENSOR_CORE_PRODUCTS = 8
TENSOR_CORE_BITS = 24  # of the fraction that alignment keeps
NO_EXPONENT = -5000  # of zero: below that of every product
LEAST_EXPONENT = -900  # below that of every product, and of which float64 has a power of two
F64_BIAS, F64_MANTISSA = 1023, 52

Factors = Tuple[torch.Tensor, torch.Tensor]


class Step(Enum):
    """How products are added to a running sum.

    Attributes:
        FUSED: The product is exact, and each sum is rounded to float32.
        ROUNDED: The product is rounded to float32, then the sum.
        TENSOR_CORE: Eight exact products at once, aligned, cut off, and rounded towards zero.
        FUSED_FLOAT16: The product is exact, and each sum is rounded to float16.
    """

    FUSED = "fused"
    ROUNDED = "rounded"
    TENSOR_CORE = "tensor-core"
    FUSED_FLOAT16 = "fused-float16"


class Product(NamedTuple):
    """How a product of two matrices is computed.

    Attributes:
        step: How products are added within a slice of k, one after the other from k = 0.
        slices: Into how many slices k is cut, as even as can be with the last one shorter.
        tile: The length of a slice; 0 where `slices` says it.
        tf32: Whether both operands are rounded to TF32 before.
        narrow_slices: Whether the sum of each slice is rounded to the operands' type, and the
            slices are added in that type.
    """

    step: Step = Step.FUSED
    slices: int = 1
    tile: int = 0
    tf32: bool = False
    narrow_slices: bool = False


def multiply(left: torch.Tensor, right: torch.Tensor, product: Product) -> torch.Tensor:
    """Return the matrix product in float32, by the definition of `product`.

    The sum of each slice of k starts from zero; then the slices are added in order, each sum
    rounded to float32.

    Args:
        left: A batch of matrices (batch, m, k) of float32, float16 or bfloat16.
        right: As many (batch, k, n) of the same type; either batch may be expanded.
        product: How it is computed.

    Returns:
        The products (batch, m, n), not yet rounded to the type of the operands.
    """
    if left.shape[-2] > right.shape[-1]:  # the innermost loop runs over the longer side
        return multiply(right.mT, left.mT, product).mT
    dtype = left.dtype
    left, right = left.to(F32), right.to(F32)
    if product.tf32:
        left, right = to_tf32(left), to_tf32(right)
    left, right = _sliced(left, product), _sliced(right.mT, product).mT
    if product.step is not Step.ROUNDED:
        left, right = left.to(F64), right.to(F64)
    careful = product.step is Step.FUSED and may_be_subnormal(left, right)
    batch, slices, rows, _ = left.shape
    columns = right.shape[-1]
    kind = dtype if product.narrow_slices else F32
    found = torch.zeros((batch, rows, columns), dtype=F32)
    at_once = _pieces_of(batch, slices, rows, columns)
    for of_batch in _pieces(batch, at_once.batch):
        for of_rows in _pieces(rows, at_once.rows):
            for of_slices in _pieces(slices, at_once.slices):
                factors = left[of_batch, of_slices, of_rows], right[of_batch, of_slices]
                sums = SUMS[product.step](*factors, careful)
                total = found[of_batch, of_rows]
                total.copy_(_added(total, sums, kind))
    return found


class _Extents(NamedTuple):
    """How much of each dimension one work array holds."""

    batch: int
    slices: int
    rows: int


def _pieces_of(batch: int, slices: int, rows: int, columns: int) -> _Extents:
    """Return pieces of at most about `CHUNK` elements: of rows first, then slices, then batch."""
    of_rows = min(rows, max(1, CHUNK // max(1, columns)))
    of_slices = min(slices, max(1, CHUNK // max(1, columns * of_rows)))
    of_batch = min(batch, max(1, CHUNK // max(1, columns * of_rows * of_slices)))
    return _Extents(max(1, of_batch), max(1, of_slices), max(1, of_rows))


def _pieces(extent: int, most: int) -> Iterator[slice]:
    """Yield slices that cover an extent, of at most `most` each."""
    for first in range(0, extent, most):
        yield slice(first, first + most)


def _sliced(matrices: torch.Tensor, product: Product) -> torch.Tensor:
    """Return (batch, m, k) as (batch, slices, m, length), the last slice filled up with zeros.

    A product of zeros added to a running sum leaves it as it is.
    """
    batch, rows, inner = matrices.shape
    slices = -(-inner // product.tile) if product.tile else min(product.slices, inner)
    length = product.tile or -(-inner // max(1, slices))
    missing = slices * length - inner
    filled = torch.nn.functional.pad(matrices, (0, missing)) if missing else matrices
    return filled.reshape(batch, rows, slices, length).transpose(1, 2)


def _added(total: torch.Tensor, sums: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a running total (batch, m, n) with the sums (batch, slices, m, n) added in order.

    Each is rounded to `dtype`. A sum of two values of float16 or bfloat16 in float32, rounded to
    their type, is rounded as if once: S. Figueroa, "When is double rounding innocuous?", ACM
    SIGNUM Newsletter 30 (1995).
    """
    total = total.to(dtype)
    for index in range(sums.shape[1]):
        total = total + sums[:, index].to(dtype)
    return total.to(F32)


# Sums within the slices: of (batch, slices, m, length) and (batch, slices, length, n).


def _sum_fused(left: torch.Tensor, right: torch.Tensor, careful: bool) -> torch.Tensor:
    steps = FusedSteps(_shape_of(left, right), may_be_subnormal=careful)
    for index in range(left.shape[-1]):
        steps.add(*_factors(left, right, index))
    return steps.sums()


def _sum_rounded(left: torch.Tensor, right: torch.Tensor, _careful: bool) -> torch.Tensor:
    total = torch.zeros(_shape_of(left, right), dtype=F32)
    product = torch.empty_like(total)
    for index in range(left.shape[-1]):
        torch.mul(*_factors(left, right, index), out=product)
        total.add_(product)
    return total


def _sum_fused_in_float16(left: torch.Tensor, right: torch.Tensor, _careful: bool) -> torch.Tensor:
    total = torch.zeros(_shape_of(left, right), dtype=F64)
    for index in range(left.shape[-1]):
        first, second = _factors(left, right, index)
        product = first * second
        total = to_half(to_odd(product + total, product, total)).to(F64)
    return total.to(F32)


def _sum_in_tensor_core(left: torch.Tensor, right: torch.Tensor, _careful: bool) -> torch.Tensor:
    left_exponents, right_exponents = _exponents(left), _exponents(right)
    total = torch.zeros(_shape_of(left, right), dtype=F64)  # with values of float32
    for of_k in _pieces(left.shape[-1], TENSOR_CORE_PRODUCTS):
        indices = range(*of_k.indices(left.shape[-1]))
        exponents = _exponents(total)
        for index in indices:
            first, second = _factors(left_exponents, right_exponents, index)
            exponents = torch.maximum(exponents, first + second)
        scale = TENSOR_CORE_BITS - exponents.clamp(min=LEAST_EXPONENT)
        power = _power_of_two(scale)
        aligned = torch.trunc(total * power)
        for index in indices:
            first, second = _factors(left, right, index)
            aligned += (first * second).mul_(power).trunc_()
        total = truncated(aligned * _power_of_two(-scale))
    return total.to(F32)


SUMS: Dict[Step, Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]] = {
    Step.FUSED: _sum_fused,
    Step.ROUNDED: _sum_rounded,
    Step.TENSOR_CORE: _sum_in_tensor_core,
    Step.FUSED_FLOAT16: _sum_fused_in_float16,
}


def _shape_of(left: torch.Tensor, right: torch.Tensor) -> torch.Size:
    return torch.Size((*left.shape[:-1], right.shape[-1]))


def _factors(
    left: torch.Tensor, right: torch.Tensor, index: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the column and the row whose products belong to one k."""
    return left[..., index : index + 1], right[..., index : index + 1, :]


def _exponents(values: torch.Tensor) -> torch.Tensor:
    """Return floor(log2(|x|)) of each value; far below all others for zero."""
    _, exponents = torch.frexp(values)
    return torch.where(values == 0, NO_EXPONENT, exponents - 1)


def _power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """Return two to each power, exactly, in float64."""
    return ((exponents.to(torch.int64) + F64_BIAS) << F64_MANTISSA).view(F64)
