"""Emulated products: each equal, bit by bit, to its definition in exact arithmetic of fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch

from harness.worker.conditions.emulation.products import Product, Step, multiply
from harness.worker.conditions.emulation.rounding import to_half, to_odd, to_tf32

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# The bits of the significand, and the exponent of the least normal number.
FORMATS = {F32: (24, -126), F16: (11, -14), BF16: (8, -126)}
Round = Callable[[Fraction, int], int]


def exponent_of(value: Fraction) -> int:
    """Return floor(log2(|value|)), exactly."""
    magnitude = abs(value)
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if Fraction(2) ** guess <= magnitude else guess - 1


def rounded(value: Fraction, dtype: torch.dtype = F32) -> Fraction:
    """Return a fraction rounded to nearest even in a type; it must not overflow."""
    if not value:
        return value
    bits, least = FORMATS[dtype]
    unit = Fraction(2) ** (max(exponent_of(value), least) - bits + 1)
    return round(value / unit) * unit  # Python rounds fractions to nearest even


def cut_off(value: Fraction, unit: Fraction) -> Fraction:
    """Return a fraction rounded towards zero to a multiple of `unit`."""
    return math.trunc(value / unit) * unit


def fused(factors: Sequence[tuple[Fraction, Fraction]], dtype: torch.dtype = F32) -> Fraction:
    total = Fraction(0)
    for left, right in factors:
        total = rounded(total + left * right, dtype)
    return total


def stepwise(factors: Sequence[tuple[Fraction, Fraction]]) -> Fraction:
    total = Fraction(0)
    for left, right in factors:
        total = rounded(total + rounded(left * right))
    return total


def in_tensor_core(factors: Sequence[tuple[Fraction, Fraction]]) -> Fraction:
    """Add eight products at once: aligned to the largest exponent, cut off, towards zero."""
    total = Fraction(0)
    for first in range(0, len(factors), 8):
        block = [pair for pair in factors[first : first + 8] if pair[0] and pair[1]]
        exponents = [exponent_of(left) + exponent_of(right) for left, right in block]
        exponents += [exponent_of(total)] if total else []
        if not exponents:
            continue
        unit = Fraction(2) ** (max(exponents) - 24)
        summands = [total, *(left * right for left, right in block)]
        total = sum((cut_off(each, unit) for each in summands), Fraction(0))
        if total:
            total = cut_off(total, Fraction(2) ** (exponent_of(total) - 23))
    return total


def in_tf32(value: Fraction) -> Fraction:
    """Round to 11 bits of significand, to nearest, ties away from zero."""
    if not value:
        return value
    unit = Fraction(2) ** (max(exponent_of(value), -126) - 10)
    steps = math.floor(abs(value) / unit + Fraction(1, 2))
    return steps * unit if value > 0 else -steps * unit


def defined(left: torch.Tensor, right: torch.Tensor, product: Product) -> torch.Tensor:
    """Return a product of two matrices by its definition, element by element."""
    dtype = left.dtype
    rows = [[Fraction(float(each)) for each in row] for row in left.to(F64)]
    columns = [[Fraction(float(each)) for each in column] for column in right.to(F64).T]
    if product.tf32:
        rows = [[in_tf32(each) for each in row] for row in rows]
        columns = [[in_tf32(each) for each in column] for column in columns]
    found = [[element(row, column, product, dtype) for column in columns] for row in rows]
    return torch.tensor([[float(each) for each in row] for row in found], dtype=F64).to(F32)


def element(
    row: Sequence[Fraction], column: Sequence[Fraction], product: Product, dtype: torch.dtype
) -> Fraction:
    pairs = list(zip(row, column, strict=True))
    length = product.tile or math.ceil(len(pairs) / min(product.slices, len(pairs)))
    slices = [pairs[first : first + length] for first in range(0, len(pairs), length)]
    of_slice = {
        Step.FUSED: fused,
        Step.ROUNDED: stepwise,
        Step.TENSOR_CORE: in_tensor_core,
        Step.FUSED_FLOAT16: lambda factors: fused(factors, F16),
    }[product.step]
    kind = dtype if product.narrow_slices else F32
    sums = [rounded(of_slice(each), kind) for each in slices]
    total = sums[0]
    for each in sums[1:]:
        total = rounded(total + each, kind)
    return total


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return values over 2^-12 to 2^12, a tenth of them zero, and many of few bits."""
    generator = torch.Generator().manual_seed(seed)
    powers = torch.randint(-12, 13, shape, generator=generator).double()
    steps = torch.randint(-64, 65, shape, generator=generator).double() / 32
    return (steps * 2.0**powers * (torch.rand(shape, generator=generator) > 0.1)).to(F32)


PRODUCTS = {
    "fused": Product(),
    "rounded": Product(Step.ROUNDED),
    "tf32": Product(Step.ROUNDED, tf32=True),
    "split-k": Product(slices=4),
    "tiles": Product(tile=8),
}
HALF_PRODUCTS = {
    "fused": Product(),
    "tensor-core": Product(Step.TENSOR_CORE),
    "half-reduction": Product(slices=4, narrow_slices=True),
}


@pytest.mark.parametrize("make", [drawn, spread])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_float32_is_its_definition(name: str, make: Callable[..., torch.Tensor]):
    """Random values, and values of few bits over many powers of two, with zeros among them."""
    left, right = make(5, 37, seed=1), make(37, 6, seed=2)
    actual = multiply(left[None], right[None], PRODUCTS[name])[0]
    assert torch.equal(actual, defined(left, right, PRODUCTS[name]))


@pytest.mark.parametrize("make", [drawn, spread])
@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("name", HALF_PRODUCTS)
def test_a_product_of_halves_is_its_definition(
    name: str, dtype: torch.dtype, make: Callable[..., torch.Tensor]
):
    """The result is of float32; whoever asked for it rounds it to the type of the operands."""
    left = (make(4, 37, seed=3) / 64).to(dtype)  # no sum exceeds the largest float16
    right = (make(37, 5, seed=4) / 64).to(dtype)
    actual = multiply(left[None], right[None], HALF_PRODUCTS[name])[0]
    assert torch.equal(actual, defined(left, right, HALF_PRODUCTS[name]))


@pytest.mark.parametrize("scale", [1.0, 2.0**-6])
def test_sums_in_float16_are_their_definition(scale: float):
    """The smaller ones come to the numbers of float16 that have fewer bits."""
    left = (drawn(4, 37, seed=3) * scale).to(F16)
    right = (drawn(37, 5, seed=4) * scale).to(F16)
    product = Product(Step.FUSED_FLOAT16)
    actual = multiply(left[None], right[None], product)[0]
    assert torch.equal(actual, defined(left, right, product))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_fused_step_rounds_once_where_two_roundings_would_go_wrong(sign: float, direction: float):
    """A sum that lies halfway between two values of float32 in float64, but not exactly.

    (1 + 2^-23) (1 - 2^-23) is 1 - 2^-46, and float64 loses that part beside the running sum.
    """
    unit = 2.0**-23
    left = torch.tensor([[sign * (1 + unit), sign * direction * 2.0**-12 * (1 + unit)]])
    right = torch.tensor([[1.0], [2.0**-12 * (1 - unit)]])
    found = multiply(left[None], right[None], Product())[0]
    assert torch.equal(found, defined(left, right, Product()))
    assert found.item() == sign * (1 + unit)
    rounded_twice = (left.double() @ right.double()).to(F32)
    assert rounded_twice.item() != found.item()


@pytest.mark.parametrize("power", [-60, -70, -74, -75])
def test_subnormal_sums_are_rounded_once(power: int):
    """Numbers of float32 below 2^-126 have fewer bits."""
    left, right = drawn(4, 21, seed=5) * 2.0**power, drawn(21, 3, seed=6) * 2.0**power
    actual = multiply(left[None], right[None], Product())[0]
    assert torch.equal(actual, defined(left, right, Product()))


def test_rounding_to_odd_keeps_what_a_second_rounding_needs():
    """Held to fractions over random pairs of very different size."""
    generator = np.random.default_rng(0)
    left = generator.standard_normal(500)
    right = generator.standard_normal(500) * 2.0 ** generator.integers(-90, 12, 500)
    first, second = torch.from_numpy(left), torch.from_numpy(right)
    odd = to_odd(first + second, first, second)
    expected = [rounded(Fraction(a) + Fraction(b)) for a, b in zip(left, right, strict=True)]
    assert odd.to(F32).tolist() == [float(each) for each in expected]
    in_half = [rounded(Fraction(a) + Fraction(b), F16) for a, b in zip(left, right, strict=True)]
    assert to_half(odd).tolist() == [float(each) for each in in_half]


def test_tf32_rounds_ties_away_from_zero():
    """10 bits are kept; a half of the last one goes away from zero, NaN and infinity stay."""
    unit = 2.0**-10
    values = torch.tensor([1 + unit / 2, -1 - unit / 2, 1 + 0.49 * unit, 2 - unit / 4, 0.0, -0.0])
    assert to_tf32(values).tolist() == [1 + unit, -1 - unit, 1.0, 2.0, 0.0, -0.0]
    many = spread(400, seed=7) * (1 + drawn(400, seed=8))
    assert to_tf32(many).tolist() == [float(in_tf32(Fraction(float(each)))) for each in many]
    special = to_tf32(torch.tensor([math.inf, -math.inf, math.nan]))
    assert special[:2].tolist() == [math.inf, -math.inf]
    assert math.isnan(special[2])


@pytest.mark.parametrize("shape", [(1, 1, 1), (70, 3, 2), (2, 3, 400), (3, 0, 2)])
def test_work_arrays_and_order_of_operands_change_no_bit(shape, monkeypatch: pytest.MonkeyPatch):
    """Large products are computed in pieces; a batch gives what its matrices give alone."""
    rows, inner, columns = shape
    left, right = drawn(3, rows, inner, seed=9), drawn(3, inner, columns, seed=10)
    whole = multiply(left, right, Product(slices=3))
    monkeypatch.setattr("harness.worker.conditions.emulation.products.CHUNK", 64)
    assert torch.equal(multiply(left, right, Product(slices=3)), whole)
    assert whole.shape == (3, rows, columns)
    for index in range(3):
        alone = multiply(left[index : index + 1], right[index : index + 1], Product(slices=3))
        assert torch.equal(alone[0], whole[index])


def test_infinity_and_nan_pass_through():
    """An overflow stays one, and is no error."""
    left = torch.tensor([[[math.inf, 1.0], [math.nan, 1.0], [3e38, 3e38]]])
    right = torch.tensor([[[1.0], [1.0]]])
    assert multiply(left, right, Product())[0, 0].item() == math.inf
    assert math.isnan(multiply(left, right, Product())[0, 1].item())
    assert multiply(left, right, Product())[0, 2].item() == math.inf
