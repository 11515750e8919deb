"""Emulated operators: what they stand for, what they leave alone, and what they count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as nn

from harness.study.emulations import EMULATIONS as CATALOGUE
from harness.worker.conditions.emulation import sums
from harness.worker.conditions.emulation.functions import gelu, moved, rounded
from harness.worker.conditions.emulation.operators import (
    EMULATIONS,
    EmulatedOperators,
    Emulation,
    emulating,
)
from harness.worker.conditions.emulation.products import Product, Step, multiply
from harness.worker.conditions.emulation.sums import Affine, Arithmetic, sum_as_tree, sum_in_float64

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def emulated(
    emulation: str | Emulation, call: Callable[[], torch.Tensor]
) -> tuple[torch.Tensor, EmulatedOperators]:
    """Return what a call gives under an emulation, and what was counted."""
    chosen = EMULATIONS[emulation] if isinstance(emulation, str) else emulation
    operators = EmulatedOperators(chosen)
    with torch.no_grad(), emulating(operators):
        return call(), operators


X, W, B = drawn(6, 40, seed=1), drawn(5, 40, seed=2), drawn(5, seed=3)
PRODUCT = Product(slices=4)


@pytest.mark.parametrize(
    ("name", "call", "expected"),
    [
        ("mm", lambda: X @ W.T, lambda: multiply(X[None], W.T[None], PRODUCT)[0]),
        ("addmm", lambda: nn.linear(X, W, B), lambda: multiply(X[None], W.T[None], PRODUCT)[0] + B),
        (
            "bmm",
            lambda: torch.bmm(X[None], W.T[None]),
            lambda: multiply(X[None], W.T[None], PRODUCT),
        ),
        (
            "baddbmm",
            lambda: torch.baddbmm(B[None, None], X[None], W.T[None], beta=0.5, alpha=3.0),
            lambda: multiply(X[None], W.T[None], PRODUCT) * 3.0 + B * 0.5,
        ),
        (
            "baddbmm",
            lambda: torch.baddbmm(torch.full((1, 6, 5), torch.nan), X[None], W.T[None], beta=0),
            lambda: multiply(X[None], W.T[None], PRODUCT),
        ),
    ],
)
def test_a_matrix_product_is_the_emulated_one(name: str, call, expected):
    """The bias is added to the sum over k, in float32."""
    found, operators = emulated("split-k", call)
    assert torch.equal(found, expected())
    assert operators.emulated == {name: 1}


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_a_product_of_halves_is_rounded_to_their_type_at_the_end(dtype: torch.dtype):
    """Once, after the bias was added."""
    x, w, b = X.to(dtype), W.to(dtype), B.to(dtype)
    found, _ = emulated("tensor-core", lambda: nn.linear(x, w, b))
    product = multiply(x[None], w.T[None], Product(Step.TENSOR_CORE))[0]
    assert torch.equal(found, (product + b.to(F32)).to(dtype))


CONVOLUTIONS = {
    "plain": (nn.conv2d, (2, 4, 7, 6), (6, 4, 3, 3), {}),
    "strided": (nn.conv2d, (2, 4, 8, 9), (6, 4, 3, 2), {"stride": (2, 3), "padding": (1, 2)}),
    "dilated": (nn.conv2d, (1, 4, 9, 9), (6, 4, 3, 3), {"dilation": 2, "padding": 2}),
    "grouped": (nn.conv2d, (2, 4, 6, 6), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "1 by 1": (nn.conv2d, (2, 4, 5, 5), (6, 4, 1, 1), {}),
    "1d": (nn.conv1d, (2, 4, 11), (6, 4, 3), {"padding": 1, "stride": 2}),
    "3d": (nn.conv3d, (1, 4, 4, 5, 6), (6, 4, 2, 3, 3), {"padding": (0, 1, 1)}),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_a_product_over_channels_and_kernel_positions(kind: str):
    """Whole numbers, of which every order of sums gives the same: equal to torch's own."""
    function, shape, kernel, options = CONVOLUTIONS[kind]
    values, weight = (drawn(*shape, seed=4) * 4).round(), (drawn(*kernel, seed=5) * 4).round()
    bias = torch.arange(6.0)
    found, operators = emulated("fma", lambda: function(values, weight, bias, **options))
    assert torch.equal(found, function(values, weight, bias, **options))
    assert operators.emulated == {"convolution": 1}


def test_the_products_of_a_convolution_are_emulated():
    """Of numbers that round, one position is the emulated product of its patch."""
    values, weight = drawn(1, 3, 5, 5, seed=6), drawn(4, 3, 3, 3, seed=7)
    found, _ = emulated("fma", lambda: nn.conv2d(values, weight))
    patch = values[0, :, 1:4, 2:5].reshape(1, -1, 1)
    assert torch.equal(
        found[0, :, 1, 2], multiply(weight.reshape(1, 4, -1), patch, Product())[0, :, 0]
    )


TREE, MOVED = Arithmetic(sum_as_tree, rounded), Arithmetic(sum_in_float64, moved)
SHAPED = drawn(2, 6, 3, 5, seed=8)
SIX = drawn(6, seed=9)


@pytest.mark.parametrize(
    ("emulation", "by"), [("tree-sums", TREE), ("ulp", MOVED)], ids=["tree-sums", "ulp"]
)
def test_norms_and_softmax_take_both_parts(emulation: str, by: Arithmetic):
    """What an emulation leaves out is computed in float64 and rounded."""
    found, operators = emulated(emulation, lambda: nn.group_norm(SHAPED, 3, SIX, SIX))
    rows = SHAPED.reshape(2, 6, 15)
    expected = sums.group_norm(by, rows, Affine(SIX, SIX), 3, 1e-5).values
    assert torch.equal(found, expected.reshape(SHAPED.shape))
    found, _ = emulated(emulation, lambda: nn.layer_norm(SHAPED, (3, 5)))
    expected = sums.layer_norm(by, SHAPED.reshape(-1, 15), Affine(None, None), 1e-5).values
    assert torch.equal(found, expected.reshape(SHAPED.shape))
    found, _ = emulated(emulation, lambda: SHAPED.softmax(1))
    expected = sums.softmax(by, SHAPED.movedim(1, -1), safe=False).movedim(-1, 1)
    assert torch.equal(found, expected)
    assert operators.emulated == {"native_group_norm": 1}


def test_sums_and_means_over_any_dimensions():
    """With and without the dimensions that are summed."""
    for dims, keepdim in (((1,), False), ((0, 3), True), ((-1,), True), (None, False)):
        kept = {"keepdim": keepdim} if dims else {}
        found, operators = emulated("tree-sums", lambda d=dims, k=kept: SHAPED.mean(d, **k))
        assert found.shape == SHAPED.mean(dims, **kept).shape
        assert torch.allclose(found, SHAPED.mean(dims, **kept), atol=1e-6)
        assert operators.emulated == {"mean": 1}
    found, _ = emulated("tree-sums", lambda: SHAPED.sum((1, 2)))
    rows = SHAPED.permute(0, 3, 1, 2).reshape(-1, 18)
    assert torch.equal(found, sum_as_tree(rows).reshape(2, 5))


def test_functions_are_moved_also_in_place():
    """An operator that writes into its argument still does."""
    found, operators = emulated("ulp", lambda: nn.gelu(X))
    assert torch.equal(found, gelu(moved, X))
    written = X.clone()
    found, operators = emulated("ulp", written.exp_)
    assert found is written
    assert torch.equal(written, moved("exp", X))
    assert operators.emulated == {"exp_": 1}


def test_functions_of_halves_are_computed_in_float32():
    """As CUDA does: rounded to the type once, at the end."""
    half = X.to(BF16)
    found, _ = emulated("ulp", half.exp)
    assert torch.equal(found, moved("exp", half.to(F32)).to(BF16))


def test_attention_by_blocks_stands_for_the_whole_function():
    """Close to torch's own, with each kind of mask, and other bits."""
    query, key, value = (drawn(2, 3, 70, 8, seed=seed) for seed in (10, 11, 12))
    seen = torch.ones(70, 70, dtype=torch.bool).tril(3)
    for options in ({}, {"is_causal": True}, {"attn_mask": seen}, {"attn_mask": drawn(70, 70)}):

        def call(options=options) -> torch.Tensor:
            return nn.scaled_dot_product_attention(query, key, value, **options)

        found, operators = emulated("online-softmax", call)
        assert torch.allclose(found, call(), atol=2e-6)
        assert not torch.equal(found, call())
        assert operators.emulated == {"scaled_dot_product_attention": 1}


def test_attention_shows_its_products_to_the_other_emulations():
    """Kernels that fuse them are switched off meanwhile, and on again afterwards."""
    before = torch.backends.cuda.flash_sdp_enabled()
    query = drawn(1, 2, 5, 8)
    _, operators = emulated("fma", lambda: nn.scaled_dot_product_attention(query, query, query))
    assert operators.emulated == {"bmm": 2}
    assert torch.backends.cuda.flash_sdp_enabled() == before


def test_dropout_and_transposed_convolutions_are_left_and_counted():
    """What an emulation does not know it leaves to torch, and says so."""
    query = drawn(1, 2, 5, 8)
    call = nn.scaled_dot_product_attention
    _, operators = emulated("online-softmax", lambda: call(query, query, query, dropout_p=0.5))
    assert (operators.emulated, operators.left) == ({}, {"scaled_dot_product_attention": 1})
    values, weight = drawn(1, 3, 5, 5), drawn(3, 2, 3, 3)
    found, operators = emulated("fma", lambda: nn.conv_transpose2d(values, weight))
    assert torch.equal(found, nn.conv_transpose2d(values, weight))
    assert (operators.emulated, operators.left) == ({}, {"convolution": 1})


def test_other_types_are_left():
    """float64 is no type of a tensor core, and float32 none of an emulation for halves."""
    _, operators = emulated("fma", lambda: X.double() @ W.double().T)
    assert (operators.emulated, operators.left) == ({}, {"mm": 1})
    found, operators = emulated("tensor-core", lambda: X @ W.T)
    assert torch.equal(found, X @ W.T)
    assert (operators.emulated, operators.left) == ({}, {"mm": 1})


def test_inference_mode_hides_no_product():
    """There torch shows a linear layer as one operator, which is taken apart."""
    operators = EmulatedOperators(EMULATIONS["split-k"])
    with torch.inference_mode(), emulating(operators):
        found = nn.linear(X, W, B)
    assert torch.equal(found, multiply(X[None], W.T[None], PRODUCT)[0] + B)
    assert operators.emulated == {"addmm": 1}


class Small(torch.nn.Module):
    """A convolution, norms, attention and activations, as a denoiser has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 3, padding=1)
        self.norm = torch.nn.GroupNorm(4, 32)
        self.inner = torch.nn.Linear(100, 300)
        self.last = torch.nn.LayerNorm(100)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = nn.silu(self.norm(self.conv(values))).flatten(2)
        query, key, value = self.inner(hidden).unflatten(-1, (3, 4, 25)).permute(2, 0, 3, 1, 4)
        seen = nn.scaled_dot_product_attention(query, key, value)
        return self.last(seen.movedim(1, 2).flatten(2))


@pytest.mark.parametrize("name", EMULATIONS)
def test_every_emulation_moves_what_it_emulates(name: str):
    """One small model: other bits, and close."""
    torch.manual_seed(0)
    dtype = EMULATIONS[name].dtypes[0]
    model, values = Small().to(dtype), drawn(1, 3, 10, 10, seed=13).to(dtype)
    with torch.no_grad():
        expected = model(values)
    found, operators = emulated(name, lambda: model(values))
    assert sum(operators.emulated.values()) >= 1
    # torch's attention multiplies halves in float32, on a GPU too.
    assert operators.left == ({} if F32 in EMULATIONS[name].dtypes else {"bmm": 2})
    assert not torch.equal(found, expected)
    bound = 1e-5 if dtype is F32 and name != "tf32" else 5e-2
    assert (found - expected).abs().max() < bound


def test_the_judge_knows_the_emulations_of_the_worker():
    """Both halves have the same names, for the same types."""
    assert list(CATALOGUE) == list(EMULATIONS)
    for name, each in CATALOGUE.items():
        types = {getattr(torch, str(dtype)) for dtype in each.dtypes}
        assert types == set(EMULATIONS[name].dtypes), name
