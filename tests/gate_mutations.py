"""Changes a file of results in one random place, as damage, a mistake or a forger would."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness.records import Comparison, ContractState, Reason, Verdict
from harness.store.run_folder import Results
from harness.store.typed_json import decode
from harness.worker.files import digest_json, dumps

WORDS = [*Verdict, *Reason, *Comparison, *ContractState, "ok", "faster", "worse", "cpu", "cuda"]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**30, 0.0, -0.0, 1e-300, 1e300, 0.5, "", "a", "../../x",
    "a\x00b", "\x1b[2J", "2999-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:59", "now", [], {},
    [[]], {"a": 1}, "x" * 5000, "\u202e", "*", "[", "%s{found}", "cpu-a",
]  # fmt: skip

# What is shown to people, and decides nothing: the gate may stay open where it changes. Drifts that
# no bound is on are shown too, and so is what a result says of its baseline beside the seal.
SHOWN_ALONE = {
    "message", "tags", "log", "path", "store", "recording", "appearance", "first_difference",
    "free", "local", "origins", "edits", "environment_changes", "repeat_l_inf", "accuracy", "cost",
    "effects", "abs_sum", "abs_sum_expected", "worst_index", "worst_actual", "worst_expected",
    "size", "actual", "expected", "source", "rel_l2", "differing", "file", "reference",
    "detection_rate", "peak_bytes_expected", "gain", "bias", "channel_bias", "batch", "test",
    "spatial", "persistence",
}  # fmt: skip

# Reasons beside which only a recording can show other digests of outputs: `--recordings`.
BY_RECORDING_ALONE = ("varies-as-expected", "inside-tolerance")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Mutation:
    """A file's new bytes, what was done to it, and where; `where` is empty for raw bytes."""

    data: bytes
    kind: str
    where: Path = ()


def mutated(data: bytes, source: random.Random) -> Mutation:
    """Return a file of results with one change."""
    if source.random() < 0.15:
        return _bytes(data, source)
    content = json.loads(data)
    where = source.choice(list(_paths(content)))
    kind = source.choice(["value", "value", "word", "delete", "copy", "number", "key"])
    changed = _changed(content, where, kind, source)
    if source.random() < 0.95:
        changed["digest"] = digest_json(changed)
    return Mutation(dumps(changed).encode(errors="backslashreplace"), kind, where)


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in members:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*at, key))


def _changed(content: Any, where: Path, kind: str, source: random.Random) -> Any:
    found = copy.deepcopy(content)
    home = found
    for key in where[:-1]:
        home = home[key]
    last = where[-1]
    old = home[last]
    if kind == "delete":
        del home[last]
    elif kind == "copy" and isinstance(home, list):
        home.append(copy.deepcopy(old))
    elif kind == "key" and isinstance(home, dict):
        home[source.choice(["x", "digest", f"{last}s"])] = home.pop(last)
    elif kind == "number" and isinstance(old, int | float) and not isinstance(old, bool):
        home[last] = source.choice([old * 2, old + 1, -old, old / 3, old * 1e6])
    elif kind == "word":
        home[last] = str(source.choice(WORDS))
    else:
        home[last] = source.choice(VALUES)
    return found


def _bytes(data: bytes, source: random.Random) -> Mutation:
    changed = bytearray(data)
    at = source.randrange(len(changed))
    kind = source.choice(["flip", "cut", "insert", "swap"])
    if kind == "flip":
        changed[at] ^= 1 << source.randrange(8)
    elif kind == "cut":
        del changed[at:]
    elif kind == "insert":
        changed[at:at] = source.choice([b"\x00", b"{", b"]", b"\xff", b"NaN", b"[" * 5000])
    else:
        other = source.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
    return Mutation(bytes(changed), kind)


def may_stay_open(mutation: Mutation, before: bytes) -> bool:
    """Whether a gate may be open all the same: what was changed decides nothing."""
    where = mutation.where
    if _read(mutation.data) == _read(before):  # an empty field that is left out, or other spaces
        return True
    if not where:
        return False
    if where[0] != "outcomes" or mutation.kind == "copy":
        return True
    if any(key in SHOWN_ALONE for key in where):
        return True
    reason = json.loads(before)["outcomes"][where[1]]["reason"]
    return "output_digests" in where and reason in BY_RECORDING_ALONE


def _read(data: bytes) -> object:
    return replace(decode(Results, json.loads(data)), digest="")
