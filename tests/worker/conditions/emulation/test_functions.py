"""Emulated functions, sums, norms and attention: equal to their definitions, element by element."""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction

import pytest
import torch

from harness.worker.conditions.emulation.attention import Attention, online_attention
from harness.worker.conditions.emulation.functions import (
    BOUNDED,
    MOST_ULP,
    gelu,
    gelu_by_tanh,
    moved,
    rounded,
    sigmoid,
    silu,
    steps,
)
from harness.worker.conditions.emulation.products import Product, multiply
from harness.worker.conditions.emulation.sums import (
    Affine,
    Arithmetic,
    group_norm,
    layer_norm,
    softmax,
    sum_as_tree,
    sum_in_float64,
)

F16, F32, F64 = torch.float16, torch.float32, torch.float64
PRECISE = Context(prec=60)
TREE = Arithmetic(sum_as_tree, rounded)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def f32(value: float) -> float:
    """Return a number rounded to float32."""
    return float(torch.tensor(value, dtype=F64).to(F32))


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Return whole numbers that count the float32 values in their order."""
    bits = values.view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


# Functions.


def nearest_float32(exact: Decimal) -> float:
    """Return the value of float32 that is nearest to a decimal, by comparing neighbours."""
    guess = torch.tensor(float(exact), dtype=F64).to(F32)
    below = torch.nextafter(guess, torch.tensor(-math.inf))
    above = torch.nextafter(guess, torch.tensor(math.inf))
    candidates = [float(each) for each in (guess, below, above)]
    return min(candidates, key=lambda each: abs(Decimal(each) - exact))


def test_the_functions_are_rounded_correctly():
    """Against 60 decimal digits: exp, log, and the reciprocal of the root."""
    values = drawn(300, seed=1) * 8
    expected = [nearest_float32(PRECISE.exp(Decimal(float(each)))) for each in values]
    assert rounded("exp", values).tolist() == expected
    values = values.abs()
    expected = [nearest_float32(PRECISE.ln(Decimal(float(each)))) for each in values]
    assert rounded("log", values).tolist() == expected
    expected = [
        nearest_float32(PRECISE.divide(Decimal(1), PRECISE.sqrt(Decimal(float(each)))))
        for each in values
    ]
    assert rounded("rsqrt", values).tolist() == expected


@pytest.mark.parametrize("name", MOST_ULP)
def test_a_function_is_moved_by_as_many_units_as_its_argument_says(name: str):
    """Never by more than CUDA documents, by each such number somewhere, and always by the same."""
    values = drawn(4000, seed=2).abs() + 0.01
    most = MOST_ULP[name]
    found, exact = moved(name, values), rounded(name, values)
    by = steps(values, most).to(torch.int64)
    expected = ordered(exact.abs()) + torch.where(exact.abs() == 1, 0, by)
    if name in BOUNDED:
        expected = expected.clamp(max=int(ordered(torch.ones(1))))
    assert torch.equal(ordered(found.abs()), expected)
    assert torch.equal(found.sign(), exact.sign())
    assert set(by.tolist()) == set(range(-most, most + 1))
    assert torch.equal(moved(name, values), found)


def test_what_is_exact_everywhere_stays():
    """The function of zero, results of 1 and -1, infinity, NaN and what is subnormal."""
    values = torch.tensor([0.0, -0.0, math.inf, -math.inf, -100.0])
    assert torch.equal(moved("exp", values), rounded("exp", values))
    assert torch.equal(moved("tanh", torch.tensor([20.0, -20.0])), torch.tensor([1.0, -1.0]))
    assert math.isnan(moved("exp", torch.tensor([math.nan])).item())
    assert moved("rsqrt", torch.tensor([0.0])).item() == math.inf
    many = drawn(5000) * 3
    for name in ("tanh", "erf"):
        assert moved(name, many).abs().max() <= 1


@pytest.mark.parametrize("kind", [sigmoid, silu, gelu, gelu_by_tanh])
def test_activations_are_composed_step_by_step(kind):
    """Each operation rounded to float32, on one value after the other."""
    values = drawn(200, seed=3) * 3

    def one(value: float) -> float:
        def call(name: str, argument: float) -> float:
            return float(moved(name, torch.tensor([argument]))[0])

        if kind is sigmoid:
            return f32(1 / f32(1 + call("exp", -value)))
        if kind is silu:
            return f32(value / f32(1 + call("exp", -value)))
        if kind is gelu:
            inner = call("erf", f32(value * f32(math.sqrt(0.5))))
            return f32(f32(value * 0.5) * f32(1 + inner))
        cube = f32(f32(value * value) * value)
        inside = f32(value + f32(f32(0.044715) * cube))
        scale = f32(math.sqrt(2) * (2 / math.sqrt(math.pi)) * 0.5)
        return f32(f32(0.5 * value) * f32(1 + call("tanh", f32(scale * inside))))

    assert kind(moved, values).tolist() == [one(float(each)) for each in values]


# Sums.


def tree(values: list[float]) -> float:
    whole = 1 << (len(values) - 1).bit_length()
    values = values + [0.0] * (whole - len(values))
    while len(values) > 1:
        half = len(values) // 2
        pairs = zip(values[:half], values[half:], strict=True)
        values = [f32(float(Fraction(a) + Fraction(b))) for a, b in pairs]
    return values[0]


@pytest.mark.parametrize("extent", [1, 2, 3, 8, 37])
def test_a_tree_of_sums_adds_halves_upon_each_other(extent: int):
    """Two values of float32 are added in float64 exactly enough to be rounded once."""
    values = drawn(4, extent, seed=4)
    assert sum_as_tree(values).tolist() == [tree(row.tolist()) for row in values]


def test_a_sum_in_float64_is_the_exact_one_rounded():
    """Of values whose exact sum float64 can hold."""
    values = drawn(5, 200, seed=5)
    exact = [float(sum(Fraction(float(each)) for each in row)) for row in values]
    assert sum_in_float64(values).tolist() == [f32(each) for each in exact]


def test_softmax_is_its_definition():
    """Distance to the largest, exponentials, a tree of sums, and a division."""
    values = drawn(3, 11, seed=6) * 4
    for row, found in zip(values, softmax(TREE, values, safe=False), strict=True):
        largest = float(row.max())
        powers = [float(rounded("exp", torch.tensor([f32(float(x) - largest)]))) for x in row]
        total = tree(powers)
        assert found.tolist() == [f32(each / total) for each in powers]


def test_a_row_of_minus_infinity_is_zeros_where_it_is_safe():
    """As torch's attention has it for a query that may see no key."""
    values = torch.tensor([[-math.inf, -math.inf], [0.0, -math.inf]])
    assert softmax(TREE, values, safe=True).tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert softmax(TREE, values, safe=False)[0].isnan().all()


def moments(row: list[float], epsilon: float) -> tuple[float, float]:
    mean = f32(tree(row) / len(row))
    squares = [f32(f32(x - mean) * f32(x - mean)) for x in row]
    variance = f32(tree(squares) / len(row))
    return mean, float(rounded("rsqrt", torch.tensor([f32(variance + f32(epsilon))])))


def test_a_layer_norm_is_its_definition():
    """Element by element, each operation rounded to float32."""
    values, weight, bias = drawn(3, 10, seed=7), drawn(10, seed=8), drawn(10, seed=9)
    found = layer_norm(TREE, values, Affine(weight, bias), 1e-5)
    for index, row in enumerate(values.tolist()):
        mean, rstd = moments(row, 1e-5)
        expected = [
            f32(f32(f32(f32(x - mean) * rstd) * w) + b)
            for x, w, b in zip(row, weight.tolist(), bias.tolist(), strict=True)
        ]
        assert found.values[index].tolist() == expected
        assert (found.mean[index].item(), found.rstd[index].item()) == (mean, rstd)


def test_a_group_norm_is_its_definition():
    """A scale and a shift of each channel; the mean is that of its group."""
    values, weight, bias = drawn(2, 4, 5, seed=10), drawn(4, seed=11), drawn(4, seed=12)
    found = group_norm(TREE, values, Affine(weight, bias), 2, 1e-6).values
    for image in range(2):
        for channel in range(4):
            group = channel // 2 * 2
            mean, rstd = moments(values[image, group : group + 2].flatten().tolist(), 1e-6)
            scale = f32(rstd * weight[channel].item())
            shift = f32(f32(-scale * mean) + bias[channel].item())
            expected = [f32(f32(x * scale) + shift) for x in values[image, channel].tolist()]
            assert found[image, channel].tolist() == expected


# Attention.


def scalar_attention(of: Attention, row: int, keys: int) -> list[float]:
    """Return one query's attention, by the definition, with numbers of Python."""
    query, key, value = (each[0].to(F32) for each in (of.query, of.key, of.value))

    def exp(argument: float) -> float:
        return float(rounded("exp", torch.tensor([argument])))

    largest, total, found = -math.inf, 0.0, [0.0] * value.shape[1]
    for first in range(0, len(key), keys):
        block = range(first, min(first + keys, len(key)))
        scores = []
        for index in block:
            score = float(
                multiply(query[None, row : row + 1], key[None, index, :, None], Product())
            )
            score = f32(score * of.scale)
            scores.append(score if of.mask is None else f32(score + of.mask[0, row, index].item()))
        now = max(largest, *scores)
        subtracted = 0.0 if now == -math.inf else now
        powers = [exp(f32(score - subtracted)) for score in scores]
        rescale = exp(largest - subtracted)
        total = f32(f32(total * rescale) + tree(powers))
        weights = torch.tensor([powers]).to(of.value.dtype)
        added = multiply(weights[None], of.value[:, first : first + keys], Product())[0, 0].tolist()
        found = [f32(f32(x * rescale) + y) for x, y in zip(found, added, strict=True)]
        largest = now
    return [f32(x / total) if total else 0.0 for x in found]


@pytest.mark.parametrize("dtype", [F32, F16])
@pytest.mark.parametrize("keys", [3, 4, 64])
@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_by_blocks_is_its_definition(dtype: torch.dtype, keys: int, is_masked: bool):
    """The largest score comes late, early, and not at all: a query sees no key of some blocks."""
    query, key, value = (drawn(1, 9, 4, seed=seed).to(dtype) * 2 for seed in (13, 14, 15))
    mask = None
    if is_masked:
        mask = torch.zeros(1, 9, 9).masked_fill(torch.ones(9, 9).tril(-1) == 0, -math.inf)
    of = Attention(query, key, value, mask, 0.5)
    found = online_attention(of, Product(), TREE, keys)[0]
    assert found.tolist() == [scalar_attention(of, row, keys) for row in range(9)]


def test_one_block_and_many_agree_but_for_rounding():
    """What flash attention rests on: the blocks give the softmax of all keys."""
    of = Attention(*(drawn(2, 130, 8, seed=seed) for seed in (16, 17, 18)), None, 8**-0.5)
    exact = torch.softmax(of.query.double() @ of.key.double().mT * of.scale, -1) @ of.value.double()
    found = online_attention(of, Product(), TREE)
    assert (found - exact).abs().max() < 2e-6
    assert not torch.equal(found, online_attention(of, Product(), TREE, 130))
