"""The evaluation in float64: what is raised to it, what is kept, what is noted as beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import get_timestep_embedding

from harness.worker.observe.float64 import Float64
from harness.worker.protocol import EXACT, MOVED

F32, F64 = torch.float32, torch.float64


@contextmanager
def evaluating(form: str = EXACT, **components: Any) -> Iterator[Float64]:
    """Evaluate what runs inside, for a pipeline with these components."""
    mode = Float64(form)
    with mode.around(SimpleNamespace(components=components)):
        yield mode


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(actual: torch.Tensor, exact: np.ndarray) -> float:
    difference = actual.numpy().astype(np.float64) - exact
    return float(np.linalg.norm(difference) / np.linalg.norm(exact))


class Casting(torch.nn.Module):
    """Asks for float32 in each of the ways that components do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(64, 64)
        self.norm = torch.nn.GroupNorm(4, 64)
        self.conv = torch.nn.Conv1d(64, 64, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.inner(values.float())
        values = self.norm(values.to(torch.float32))
        values = self.conv(values.unsqueeze(-1).type(torch.FloatTensor)).squeeze(-1)
        scale = torch.full((64,), 1 / 3, dtype=torch.float32)
        return (values * scale).sum(dim=1, dtype=torch.float32).to(self.inner.weight.dtype)


def in_numpy(module: Casting, values: torch.Tensor) -> np.ndarray:
    """Return what `Casting` computes, in float64 of numpy."""
    weights = {name: each.numpy().astype(np.float64) for name, each in module.state_dict().items()}
    found = values.numpy().astype(np.float64) @ weights["inner.weight"].T + weights["inner.bias"]
    groups = found.reshape(len(found), 4, -1)
    mean, variance = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    found = ((groups - mean) / np.sqrt(variance + module.norm.eps)).reshape(found.shape)
    found = found * weights["norm.weight"] + weights["norm.bias"]
    found = found @ weights["conv.weight"][:, :, 0].T + weights["conv.bias"]
    return (found / 3).sum(1)


@pytest.mark.parametrize("dtype", [F32, torch.bfloat16, torch.float16])
def test_a_component_that_asks_for_float32_computes_in_float64(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Casting().to(dtype)
    values = drawn(8, 64).to(dtype)
    exact = in_numpy(module.float(), values.float())
    module = module.to(dtype)
    with torch.no_grad(), evaluating(module=module) as mode:
        found = module(values)
    assert found.dtype == F64
    assert relative(found, exact) < 1e-14
    assert mode.take_lower_precision() == []


def test_the_weights_keep_their_type_and_their_bits() -> None:
    module = Casting().half()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    with torch.no_grad(), evaluating(module=module) as mode:
        module(drawn(8, 64))
    after = module.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in before.items())
    assert {each.dtype for each in after.values()} == {torch.float16}
    assert not mode.wrote_weights


def test_weights_that_a_pipeline_casts_are_cast_as_ever_and_it_is_said() -> None:
    module = torch.nn.Linear(4, 4).half()
    with evaluating(module=module) as mode:
        module.to(torch.float32)
        assert module.weight.dtype == F32
    assert mode.wrote_weights


def test_a_timestep_is_embedded_in_float64() -> None:
    steps = torch.tensor([981, 20])
    with evaluating():
        found = get_timestep_embedding(steps, 32)
    angles = steps.numpy()[:, None] * np.exp(-math.log(10000) * np.arange(16) / (16 - 1))
    exact = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    assert relative(found, exact) < 1e-13
    assert relative(get_timestep_embedding(steps, 32), exact) > 1e-9


def test_whole_numbers_and_switches_stay_what_they_are() -> None:
    with evaluating():
        indices = torch.arange(4) + 1
        mask = indices > 2
        third = indices / 3
    assert (indices.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert third.dtype == F64


def test_draws_stay_the_same_numbers() -> None:
    expected = drawn(16)
    with evaluating(MOVED):
        found = drawn(16)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("make", [DDIMScheduler, FlowMatchEulerDiscreteScheduler])
def test_the_tables_of_a_scheduler_keep_their_values(make: Callable[[], Any]) -> None:
    plain, wide = make(), make()
    plain.set_timesteps(5)
    with evaluating(scheduler=wide):
        wide.set_timesteps(5)
        held = {name: each for name, each in vars(wide).items() if isinstance(each, torch.Tensor)}
    assert held
    for name, table in held.items():
        expected = getattr(plain, name)
        assert torch.equal(table, expected.to(table.dtype)), name
        assert table.dtype not in (F32, torch.float16), name


def test_a_step_of_a_scheduler_computes_in_float64() -> None:
    scheduler = DDIMScheduler()
    sample, predicted = drawn(1, 3, 8, 8), drawn(1, 3, 8, 8, seed=1)
    with evaluating(scheduler=scheduler):
        scheduler.set_timesteps(5)
        found = scheduler.step(predicted, scheduler.timesteps[0], sample).prev_sample
    betas = np.linspace(np.float32(0.0001), np.float32(0.02), 1000, dtype=np.float32)
    assert found.dtype == F64
    assert scheduler.betas.dtype == F64
    assert np.allclose(scheduler.betas.numpy(), betas, rtol=1e-6)


def test_an_operator_that_has_no_float64_is_noted_by_name() -> None:
    weight = torch.ones(32, 64, dtype=torch.int8)
    scales = torch.full((32,), 0.1, dtype=torch.bfloat16)
    with evaluating() as mode:
        found = torch._weight_int8pack_mm(drawn(4, 64).to(torch.bfloat16), weight, scales)
    assert found.dtype == F64
    assert mode.take_lower_precision() == ["aten._weight_int8pack_mm.default"]
    assert mode.take_lower_precision() == []


def test_writing_into_a_narrow_tensor_is_noted_only_where_bits_are_lost() -> None:
    narrow = torch.zeros(4)
    third = torch.full((4,), 1 / 3, dtype=F64)
    with evaluating() as mode:
        narrow.copy_(torch.ones(4, dtype=F64))
        assert mode.take_lower_precision() == []
        narrow.copy_(third)
        assert mode.take_lower_precision() == ["aten.copy_.default"]
        narrow.add_(third)
        assert mode.take_lower_precision() == ["aten.add_.Tensor"]
        third.add_(narrow)
        assert mode.take_lower_precision() == []


def test_a_moved_evaluation_shows_its_own_error_and_repeats() -> None:
    values = drawn(64, 64)
    found = []
    for form in (EXACT, MOVED, MOVED):
        with evaluating(form):
            found.append((values @ values).tanh())
    exact, moved, again = found
    assert torch.equal(moved, again)
    assert 1e-17 < relative(moved, exact.numpy()) < 1e-15


def test_what_is_paused_computes_in_its_own_type() -> None:
    with evaluating() as mode, mode.paused():
        assert (torch.ones(2) / 3).dtype == F32
    assert torch.get_default_dtype() == F32
