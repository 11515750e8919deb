"""Names the modules and operators that differ inside a stage, from two traces of digests alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Generic, TypeVar

from harness.store.recording import ModuleCall, OperatorCall

Call = TypeVar("Call", ModuleCall, OperatorCall)


@dataclass(frozen=True)
class Suspect:
    """The first call of a module whose inputs are the same on both sides while its outputs differ.

    `own_code` says that every module inside it gave the same output from the same inputs, so that
    its own code differs.
    """

    module: str
    type: str
    own_code: bool


@dataclass(frozen=True)
class Aligned(Generic[Call]):
    """Two traces side by side: pairs of (actual, expected) calls, and what only one side has."""

    pairs: list[tuple[Call, Call]]
    only_actual: list[str]
    only_expected: list[str]


def align(
    actual: Sequence[Call], expected: Sequence[Call], name_of: Callable[[Call], str]
) -> Aligned[Call]:
    """Pair the calls of two traces by `name_of`, in order.

    What was inserted, removed or moved is listed; it is no error.
    """
    mine, others = list(map(name_of, actual)), list(map(name_of, expected))
    if mine == others:
        return Aligned(list(zip(actual, expected, strict=True)), [], [])
    pairs: list[tuple[Call, Call]] = []
    only_actual: list[str] = []
    only_expected: list[str] = []
    matcher = SequenceMatcher(None, mine, others, autojunk=False)
    for how, start, end, other_start, other_end in matcher.get_opcodes():
        if how == "equal":
            pairs += zip(actual[start:end], expected[other_start:other_end], strict=True)
        else:
            only_actual += mine[start:end]
            only_expected += others[other_start:other_end]
    return Aligned(pairs, only_actual, only_expected)


def module_name(call: ModuleCall) -> str:
    """Return what a module's call is paired by."""
    return call.module


def operator_name(call: OperatorCall) -> str:
    """Return what an operator's call is paired by within one framework."""
    return call.operator


def plain_operator_name(call: OperatorCall) -> str:
    """Return what an operator is called in any framework.

    That is `exp` for `aten.exp.default` and for `mindspore.exp.ops`.
    """
    return call.operator.split(".")[1]


def first_module(aligned: Aligned[ModuleCall]) -> Suspect | None:
    """Return the first module that differs by itself, in the order in which calls end.

    Children come before their parents.
    """
    for actual, expected in aligned.pairs:
        if actual.inputs == expected.inputs and actual.outputs != expected.outputs:
            prefix = actual.module.rsplit("#", 1)[0] + "."
            children = any(own.module.startswith(prefix) for own, _ in aligned.pairs)
            unpaired = (*aligned.only_actual, *aligned.only_expected)
            strangers = any(name.startswith(prefix) for name in unpaired)
            return Suspect(actual.module, actual.type, children and not strangers)
    return None


def first_operator(aligned: Aligned[OperatorCall]) -> int | None:
    """Return the index, in `aligned.pairs`, of the first operator that differs by itself."""
    for index, (actual, expected) in enumerate(aligned.pairs):
        if actual.inputs == expected.inputs and actual.outputs != expected.outputs:
            return index
    return None
