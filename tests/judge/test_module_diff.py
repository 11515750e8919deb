"""Two traces side by side: which module or operator turned the same bits into others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.judge.module_diff import (
    Aligned,
    Suspect,
    align,
    first_module,
    first_operator,
    module_name,
    operator_name,
    plain_operator_name,
)
from harness.store.recording import ModuleCall, OperatorCall


def call(module: str, inputs: str = "a", outputs: str = "b") -> ModuleCall:
    """Return one call of a module, by digests of both sides."""
    return ModuleCall(module, "Conv2d", inputs, outputs)


def computed(operator: str, output: str, *inputs: str) -> OperatorCall:
    """Return one call of an operator, by digests of both sides."""
    taken = {str(index): digest for index, digest in enumerate(inputs)}
    return OperatorCall(operator, taken, {"0": output}, (), "module.py:1")


def aligned(actual: Sequence[ModuleCall], expected: Sequence[ModuleCall]) -> Aligned[ModuleCall]:
    """Pair two traces of modules."""
    return align(actual, expected, module_name)


def test_the_first_module_with_equal_inputs_and_other_outputs_is_the_one():
    """What comes after it got other inputs, and is not accused."""
    expected = [call("one#0"), call("two#0", "b", "c"), call("three#0", "c", "d")]
    actual = [call("one#0"), call("two#0", "b", "X"), call("three#0", "X", "Y")]
    assert first_module(aligned(actual, expected)) == Suspect("two#0", "Conv2d", own_code=False)


def test_a_child_is_named_before_its_parent():
    """Calls end from the inside out."""
    expected = [call("block.conv#0", "a", "b"), call("block#0", "a", "c")]
    actual = [call("block.conv#0", "a", "X"), call("block#0", "a", "Y")]
    suspect = first_module(aligned(actual, expected))
    assert suspect == Suspect("block.conv#0", "Conv2d", own_code=False)


def test_a_parent_whose_children_agree_differs_by_its_own_code():
    """Two children that gave the same, and a third that was called with something else."""
    expected = [
        call("block.conv#0", "a", "b"),
        call("block.norm#0", "b", "c"),
        call("block#0", "a", "d"),
    ]
    actual = [
        call("block.conv#0", "a", "b"),
        call("block.norm#0", "X", "Y"),
        call("block#0", "a", "Z"),
    ]
    assert first_module(aligned(actual, expected)) == Suspect("block#0", "Conv2d", own_code=True)


def test_equal_traces_accuse_nobody():
    """Nor do traces in which only what was fed in differs."""
    expected = [call("one#0"), call("two#0", "b", "c")]
    assert first_module(aligned(expected, expected)) is None
    assert first_module(aligned([call("one#0", "X", "Y")], expected)) is None


def test_another_structure_is_aligned_and_listed():
    """A module that was added, one that is gone; what is left is compared."""
    expected = [call("one#0"), call("gone#0", "b", "c"), call("two#0", "c", "d")]
    actual = [call("one#0"), call("new#0", "b", "c"), call("two#0", "c", "X")]
    both = aligned(actual, expected)
    assert (both.only_actual, both.only_expected) == (["new#0"], ["gone#0"])
    assert [own.module for own, _ in both.pairs] == ["one#0", "two#0"]
    assert first_module(both) == Suspect("two#0", "Conv2d", own_code=False)


def test_the_first_operator_is_found_by_its_index():
    """By the digests of all that goes in and comes out."""
    expected = [computed("mul", "b", "a"), computed("add", "c")]
    actual = [expected[0], computed("add", "X")]
    assert first_operator(align(actual, expected, operator_name)) == 1
    assert first_operator(align(expected, expected, operator_name)) is None


def test_an_operator_that_got_other_inputs_is_not_accused():
    """The one before it is, or nobody."""
    expected = [computed("mul", "b", "a"), computed("add", "c", "b")]
    actual = [computed("mul", "b", "a"), computed("add", "X", "Y")]
    assert first_operator(align(actual, expected, operator_name)) is None


@pytest.mark.parametrize("operator", ["aten.exp.default", "mindspore.exp.ops"])
def test_an_operator_has_one_name_in_every_framework(operator):
    """So that the traces of two frameworks can be paired."""
    assert plain_operator_name(computed(operator, "b")) == "exp"


def test_traces_of_two_frameworks_are_paired_by_plain_names():
    """The full names differ everywhere."""
    torch, mindspore = [computed("aten.exp.default", "b")], [computed("mindspore.exp.ops", "X")]
    assert align(torch, mindspore, operator_name).pairs == []
    assert first_operator(align(torch, mindspore, plain_operator_name)) == 0


def test_a_parent_with_a_strange_child_is_not_accused_of_its_own_code():
    """A module that was put inside may be at fault itself."""
    expected = [
        call("block.conv#0", "a", "b"),
        call("block.old#0", "b", "c"),
        call("block#0", "a", "c"),
    ]
    actual = [
        call("block.conv#0", "a", "b"),
        call("block.new#0", "b", "X"),
        call("block#0", "a", "X"),
    ]
    assert first_module(aligned(actual, expected)) == Suspect("block#0", "Conv2d", own_code=False)


def test_a_module_without_children_is_not_accused_of_its_own_code():
    """`own_code` tells a parent whose children agree from a leaf, which has nothing but code."""
    expected, actual = [call("conv#0", "a", "b")], [call("conv#0", "a", "X")]
    assert first_module(aligned(actual, expected)) == Suspect("conv#0", "Conv2d", own_code=False)


def test_repeated_calls_of_one_module_are_paired_in_order():
    """A call more at the end is listed, and the earlier ones stay pairs."""
    expected = [call("conv#0"), call("conv#1", "b", "c")]
    actual = [call("conv#0"), call("conv#1", "b", "X"), call("conv#2", "X", "Y")]
    both = aligned(actual, expected)
    assert (both.only_actual, both.only_expected) == (["conv#2"], [])
    assert first_module(both) == Suspect("conv#1", "Conv2d", own_code=False)
