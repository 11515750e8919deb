"""Components of torch and of MindSpore are seen alike, over the same memory.

MindSpore is here what its cells and tensors offer.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.worker.conditions import portable
from harness.worker.observe import stages
from harness.worker.observe.stages import Stage
from harness.worker.observe.tensors import digest_state, tensors_in
from harness.worker.pipeline.components import as_tensor, call_of, parameters_of, parts_of, state_of


class Tensor:
    """A tensor like MindSpore's on the CPU: `asnumpy` shares its memory."""

    def __init__(self, *values: float) -> None:
        self._values = np.array(values, np.float32)

    def asnumpy(self) -> np.ndarray:
        return self._values


class Cell:
    """A cell like MindSpore's: it works in `construct`, and lists itself without a path."""

    def __init__(self) -> None:
        self.weight = Tensor(1.0, -2.0)

    def cells_and_names(self) -> Iterator[tuple[str, object]]:
        yield from (("", self), ("conv_in", object()))

    def parameters_and_names(self) -> Iterator[tuple[str, Tensor]]:
        yield "conv_in.weight", self.weight

    def construct(self, sample: Tensor) -> tuple[Tensor]:
        return (Tensor(*(sample.asnumpy() * self.weight.asnumpy())),)


class Module(torch.nn.Module):
    """The same in torch, with a buffer beside the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = torch.nn.Module()
        self.conv_in.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.register_buffer("steps", torch.arange(2))


@pytest.mark.parametrize(
    ("component", "call"),
    [
        (Cell(), "construct"),
        (Cell, "construct"),
        (Module(), "forward"),
        (Module, "forward"),
        (object(), None),
        (None, None),
    ],
)
def test_a_component_with_weights_is_known_by_the_method_in_which_it_works(component, call):
    """So is its class, because a checkpoint's index names classes."""
    assert call_of(component) == call


def test_both_have_parts_parameters_and_state_by_the_same_names():
    """Buffers belong to torch's state alone; equal weights have equal digests."""
    cell, module = Cell(), Module()
    assert (
        [path for path, _ in parts_of(cell)]
        == [path for path, _ in parts_of(module)]
        == ["conv_in"]
    )
    assert list(parameters_of(cell)) == list(parameters_of(module)) == ["conv_in.weight"]
    assert list(state_of(cell)) == ["conv_in.weight"]
    assert set(state_of(module)) == {"conv_in.weight", "steps"}
    assert digest_state(cell)["conv_in.weight"] == digest_state(module)["conv_in.weight"]


def test_what_is_written_into_a_view_is_written_into_the_tensor():
    """Synthetic weights come into a cell in this way, and a teacher's tensor into a result."""
    cell = Cell()
    portable.fill("unet", parameters_of(cell))
    assert cell.weight.asnumpy().tolist() != [1.0, -2.0]
    torch_side = Module()
    portable.fill("unet", parameters_of(torch_side))
    assert cell.weight.asnumpy().tolist() == torch_side.conv_in.weight.tolist()


def test_tensors_are_found_wherever_a_stage_may_hold_them():
    """They may be in sequences, in mappings, or alone; a scalar keeps its shape."""
    scalar = SimpleNamespace(asnumpy=lambda: np.array(3, np.int64))
    found = tensors_in({"sample": [Tensor(1.0)], "timestep": scalar})
    assert {name: (tensor.tolist(), list(tensor.shape)) for name, tensor in found.items()} == {
        "sample.0": ([1.0], [1]),
        "timestep": (3, []),
    }


def test_a_cell_is_observed_in_its_construct():
    """What the observer writes into the result is what the pipeline goes on with."""
    cell, seen = Cell(), []

    def on_stage(stage: Stage, inputs: dict[str, object], result: tuple[Tensor]) -> tuple[Tensor]:
        seen.append((stage.name, list(inputs)))
        as_tensor(result[0]).fill_(7.0)
        return result

    with stages.observed(SimpleNamespace(components={"unet": cell}), on_stage):
        given = cell.construct(Tensor(1.0, 1.0))
    assert given[0].asnumpy().tolist() == [7.0, 7.0]
    assert seen == [("unet#0", ["sample"])]
    assert cell.construct(Tensor(1.0, 1.0))[0].asnumpy().tolist() == [1.0, -2.0]
