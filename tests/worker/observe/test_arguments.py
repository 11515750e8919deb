"""Arguments of operators as JSON: everything that decides what an operator computes is kept."""

from __future__ import annotations

import pytest
import torch

from harness.worker.observe.arguments import NotExpressibleError, arguments_as_json


def test_every_kind_of_argument_is_written_down():
    """Strides stand beside a tensor's name; a generator is its state before the call."""
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(7)
    kept = {}
    found = arguments_as_json(
        [tensor, [1, 2], None, True, 0.5, float("inf")],
        {"generator": generator, "dtype": torch.float16, "layout": torch.strided},
        "operator/3/argument:",
        kept,
    )
    assert found == {
        "args": [
            {"tensor": "operator/3/argument:0", "strides": list(tensor.stride())},
            [1, 2],
            None,
            True,
            0.5,
            {"float": "inf"},
        ],
        "kwargs": {
            "generator": {"generator": "operator/3/argument:1", "device": "cpu"},
            "dtype": {"dtype": "float16"},
            "layout": {"layout": "strided"},
        },
    }
    assert torch.equal(kept["operator/3/argument:0"], tensor)
    assert torch.equal(kept["operator/3/argument:1"], generator.get_state())
    tensor.zero_()  # what an operator writes into its inputs does not change what was kept
    assert kept["operator/3/argument:0"].sum() > 0


def test_what_cannot_be_written_down_is_refused():
    """Such as an object of a library."""
    with pytest.raises(NotExpressibleError, match="object"):
        arguments_as_json([object()], {}, "x", {})
