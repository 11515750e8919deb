"""What is noted of clamps: those to two numbers, and whether they decide most elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from harness.worker.observe.clamps import Clamps

LARGE = torch.tensor([400.0, -300.0, 0.5])


@pytest.mark.parametrize(
    "clamp",
    [
        lambda tensor: torch.clamp(tensor, -1, 1),
        lambda tensor: tensor.clamp(min=-1.0, max=1.0),
        lambda tensor: torch.clip(input=tensor, min=-1.0, max=1.0),
        lambda tensor: tensor.clone().clamp_(-1, 1),
    ],
    ids=["function", "method", "by-name", "in-place"],
)
def test_a_clamp_is_noted_with_what_went_in(clamp: Callable[[torch.Tensor], torch.Tensor]):
    """However it is written; its result is the one that it has unobserved."""
    clamps = Clamps()
    with clamps.noting():
        result = clamp(LARGE)
    found = clamps.take(result)
    assert torch.equal(result, clamp(LARGE))
    assert found is not None
    assert torch.equal(found.tensor, LARGE)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert found.decides
    assert clamps.take(result) is None


@pytest.mark.parametrize(
    "clamp",
    [
        lambda tensor: tensor.clamp(min=0.0),
        lambda tensor: tensor.clamp(-torch.ones(3), torch.ones(3)),
        lambda tensor: tensor[:2].clamp(-1, 1),
        lambda tensor: tensor.long().clamp(-1, 1),
    ],
    ids=["one-limit", "limits-of-each-element", "another-shape", "whole-numbers"],
)
def test_another_clamp_is_not_noted(clamp: Callable[[torch.Tensor], torch.Tensor]):
    """Nothing is left out of the comparison on its account."""
    clamps = Clamps()
    with clamps.noting():
        clamp(LARGE)
    assert clamps.take(LARGE) is None


def test_a_clamp_of_one_step_is_none_of_the_next():
    """A step without a clamp follows one that had one."""
    clamps = Clamps()
    with clamps.noting():
        LARGE.clamp(-1, 1)
    with clamps.noting():
        pass
    assert clamps.take(LARGE) is None


@pytest.mark.parametrize(("size", "decides"), [(1.0, False), (7.0, False), (9.0, True)])
def test_a_clamp_decides_where_what_goes_in_is_far_larger_than_its_limits(
    size: float, decides: bool
):
    """A sample of ordinary size is not decided by a clamp to its range."""
    clamps = Clamps()
    with clamps.noting():
        result = torch.full((4,), size).clamp(-1, 1)
    found = clamps.take(result)
    assert found is not None
    assert found.decides is decides
