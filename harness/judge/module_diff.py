"""Names the modules and operators that differ inside a stage, from two traces of digests alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

Entry = dict[
    str, Any
]  # of a trace: `module`, `type`, `inputs`, `outputs`; or `operator`, `inputs`, `outputs`, `shapes`, `source`


@dataclass(frozen=True)
class Suspect:
    """The first call of a module whose inputs have the same bits on both sides while its outputs differ.

    `glue` says that every module inside it gave the same bits from the same bits: its own code differs.
    """

    module: str
    type: str
    glue: bool


@dataclass(frozen=True)
class Aligned:
    """Two traces side by side: pairs of calls of one name, and what only one side has."""

    pairs: list[tuple[Entry, Entry]]
    only_now: list[str]
    only_then: list[str]


def align(
    now: list[Entry], then: list[Entry], key: str, alike: Callable[[str], str] = str
) -> Aligned:
    """Pair the entries of two traces by `key`, in order; what was inserted, removed or moved is listed, not an error.

    `alike` says which names count as one.
    """
    mine, theirs = [alike(entry[key]) for entry in now], [alike(entry[key]) for entry in then]
    if mine == theirs:
        return Aligned(list(zip(now, then, strict=True)), [], [])
    pairs: list[tuple[Entry, Entry]] = []
    only_now: list[str] = []
    only_then: list[str] = []
    for how, a, b, c, d in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if how == "equal":
            pairs += zip(now[a:b], then[c:d], strict=True)
        else:
            only_now += mine[a:b]
            only_then += theirs[c:d]
    return Aligned(pairs, only_now, only_then)


def plain(operator: str) -> str:
    """Return what an operator is called in any framework: `exp` for `aten.exp.default` and for `mindspore.exp.ops`."""
    return operator.split(".")[1]


def first_module(aligned: Aligned) -> Suspect | None:
    """Return the first module that differs by itself, in the order in which calls end: children before their parents."""
    for now, then in aligned.pairs:
        if now["inputs"] == then["inputs"] and now["outputs"] != then["outputs"]:
            prefix = now["module"].rsplit("#", 1)[0] + "."
            children = any(other["module"].startswith(prefix) for other, _ in aligned.pairs)
            strangers = any(
                name.startswith(prefix) for name in (*aligned.only_now, *aligned.only_then)
            )
            return Suspect(now["module"], now["type"], children and not strangers)
    return None


def first_operator(aligned: Aligned) -> int | None:
    """Return the index, in `aligned.pairs`, of the first operator whose inputs are the same bits and whose outputs differ."""
    for index, (now, then) in enumerate(aligned.pairs):
        if now["inputs"] == then["inputs"] and now["outputs"] != then["outputs"]:
            return index
    return None
