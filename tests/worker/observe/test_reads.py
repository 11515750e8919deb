"""What a run reads of its stages' results: by torch's functions, and as inputs of stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.worker.observe.reads import Reads


def text() -> torch.Tensor:
    return torch.ones(2, 3)


def unread(use: Callable[[torch.Tensor], Any]) -> bool:
    """Return whether a watched tensor counts as unread after `use` took it."""
    reads, tensor = Reads(), text()
    reads.watch("tensor", tensor)
    with reads.noting():
        use(tensor)
    return reads.is_unread("tensor")


@pytest.mark.parametrize(
    "use",
    [
        lambda tensor: tensor + 1,
        lambda tensor: torch.cat([tensor, tensor]),
        lambda tensor: tensor[0],
        lambda tensor: tensor.to(torch.float16),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.tolist(),
        lambda tensor: torch.where(condition=tensor > 0, input=torch.ones(1), other=tensor),
        lambda tensor: tensor.mul_(2),
        list,
    ],
)
def test_what_takes_values_reads(use: Callable[[torch.Tensor], Any]):
    """Arithmetic, views, lists of tensors, and what leaves torch."""
    assert not unread(use)


@pytest.mark.parametrize(
    "use",
    [
        lambda tensor: (tensor.shape, tensor.dtype, tensor.device, tensor.size(), tensor.dim()),
        lambda tensor: [tensor, len(tensor)],
        lambda tensor: text() + 1,
    ],
)
def test_what_asks_for_the_form_reads_nothing(use: Callable[[torch.Tensor], Any]):
    """A pipeline asks for the shape of hidden states, and of nothing else in them."""
    assert unread(use)


def test_a_stage_reads_what_it_is_handed():
    """What it does with it inside is its own, and is not looked at."""
    reads, handed, left = Reads(), text(), text()
    reads.watch("handed", handed)
    reads.watch("left", left)
    with reads.noting():
        with reads.paused():
            left + handed  # the harness, which takes digests
        reads.saw({"encoder_hidden_states": [handed]})
    assert (reads.is_unread("handed"), reads.is_unread("left")) == (False, True)


def test_a_tensor_with_two_names_is_read_by_both():
    """The last of the hidden states is the encoder's first result too."""
    reads, tensor = Reads(), text()
    reads.watch("last_hidden_state", tensor)
    reads.watch("hidden_states.5", tensor)
    reads.saw(tensor)
    assert not reads.is_unread("last_hidden_state")
    assert not reads.is_unread("hidden_states.5")


def test_another_tensor_in_the_memory_of_one_that_is_gone_is_not_it():
    """Python gives an address again."""
    reads = Reads()
    reads.watch("gone", text())
    for _ in range(100):
        reads.saw(text())
    assert reads.is_unread("gone")


def test_what_is_not_watched_counts_as_read():
    assert not Reads().is_unread("anything")


def test_a_mode_of_the_pipeline_s_own_stays_where_it_is():
    """It was entered after this one, and must not be left in its place."""
    reads, tensor = Reads(), text()
    reads.watch("tensor", tensor)
    with reads.noting(), torch.device("meta"):
        with reads.paused():
            assert torch.ones(1).device.type == "meta"
            tensor + 1
        assert torch.ones(1).device.type == "meta"
    assert reads.is_unread("tensor")
    assert torch.ones(1).device.type == "cpu"
