"""Two traces side by side: which module or operator turned the same bits into others."""

from __future__ import annotations

from harness.judge.first_difference import by_value
from harness.judge.module_diff import Suspect, align, first_module, first_operator


def call(module: str, inputs: str = "a", outputs: str = "b") -> dict[str, str]:
    return {"module": module, "type": "Conv2d", "inputs": inputs, "outputs": outputs}


def test_the_first_module_with_equal_inputs_and_other_outputs_is_the_one():
    """What comes after it got other inputs, and is not accused."""
    then = [call("one#0"), call("two#0", "b", "c"), call("three#0", "c", "d")]
    now = [call("one#0"), call("two#0", "b", "X"), call("three#0", "X", "Y")]
    assert first_module(align(now, then, "module")) == Suspect("two#0", "Conv2d", glue=False)


def test_a_child_is_named_before_its_parent():
    """Calls end from the inside out."""
    then = [call("block.conv#0", "a", "b"), call("block#0", "a", "c")]
    now = [call("block.conv#0", "a", "X"), call("block#0", "a", "Y")]
    assert first_module(align(now, then, "module")) == Suspect("block.conv#0", "Conv2d", glue=False)


def test_a_parent_whose_children_agree_differs_by_its_own_code():
    """Two children that gave the same, and a third that was called with something else."""
    then = [
        call("block.conv#0", "a", "b"),
        call("block.norm#0", "b", "c"),
        call("block#0", "a", "d"),
    ]
    now = [
        call("block.conv#0", "a", "b"),
        call("block.norm#0", "X", "Y"),
        call("block#0", "a", "Z"),
    ]
    assert first_module(align(now, then, "module")) == Suspect("block#0", "Conv2d", glue=True)


def test_equal_traces_accuse_nobody():
    """Nor do traces in which only what was fed in differs."""
    then = [call("one#0"), call("two#0", "b", "c")]
    assert first_module(align(then, then, "module")) is None
    assert first_module(align([call("one#0", "X", "Y")], then, "module")) is None


def test_another_structure_is_aligned_and_listed():
    """A module that was added, one that is gone; what is left is compared."""
    then = [call("one#0"), call("gone#0", "b", "c"), call("two#0", "c", "d")]
    now = [call("one#0"), call("new#0", "b", "c"), call("two#0", "c", "X")]
    aligned = align(now, then, "module")
    assert (aligned.only_now, aligned.only_then) == (["new#0"], ["gone#0"])
    assert first_module(aligned) == Suspect("two#0", "Conv2d", glue=False)


def test_the_first_operator_is_found_by_its_place():
    """By the digests of all that goes in and comes out."""
    then = [
        {"operator": "mul", "inputs": {"0": "a"}, "outputs": {"0": "b"}},
        {"operator": "add", "inputs": {}, "outputs": {"0": "c"}},
    ]
    now = [then[0], {**then[1], "outputs": {"0": "X"}}]
    assert first_operator(align(now, then, "operator")) == 1
    assert first_operator(align(then, then, "operator")) is None


def test_a_parent_with_a_strange_child_is_not_called_glue():
    """A module that was put inside may be at fault itself."""
    then = [
        call("block.conv#0", "a", "b"),
        call("block.old#0", "b", "c"),
        call("block#0", "a", "c"),
    ]
    now = [call("block.conv#0", "a", "b"), call("block.new#0", "b", "X"), call("block#0", "a", "X")]
    assert first_module(align(now, then, "module")) == Suspect("block#0", "Conv2d", glue=False)


def sizes(**figures: float) -> dict[str, dict[str, float]]:
    return {
        name.replace("step", "scheduler.step#") + "/sample": {"rel_l2": size, "l_inf": 0.0}
        for name, size in figures.items()
    }


def test_sizes_name_the_first_stage_outside_its_envelope_and_the_largest_jump():
    """Of the steps of one scheduler; what is missing counts as outside."""
    bounds = {"local_rel_l2": {"scheduler.step": 1e-6}}
    free = sizes(step0=1e-9, step1=2e-9, step2=8e-9) | {
        "text_encoder#0/0": {"rel_l2": 1e-3, "l_inf": 0.0}
    }
    assert by_value(sizes(step0=1e-7, step1=5e-7), free, bounds) == [
        "no stage leaves its envelope; nearest is scheduler.step#1/sample: 5.00e-07, bound 1.00e-06",
        "free drift grows most at scheduler.step#2/sample: 4 times what it was",
    ]
    outside = "scheduler.step#1/sample is the first outside its envelope: "
    assert by_value(sizes(step0=1e-7, step1=2e-6, step2=3e-6), {}, bounds) == [
        outside + "2.00e-06, bound 1.00e-06"
    ]
    assert by_value(sizes(step0=1e-7, step1=float("nan")), {}, bounds) == [
        outside + "nan, bound 1.00e-06"
    ]
