"""Changes a JSON value as a person who means harm would: one place at a time, into odd values.

A fuzzer that flips bytes seldom gets past a parser of JSON. JSON is YAML too, so that this serves
scenarios and policies as well.
"""

from __future__ import annotations

import json
import random
from typing import Any

LENGTH_BYTES = 8  # of a safetensors file: the length of its header
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 1e308, 5e-324, "", "0",
    "NaN", "a\x1b[31m", "\n::error::x", "\u202e|`", "\ud800", "../../x", "/etc/passwd",
    "unet#0", "noise#0", "a" * 300,
    "scheduler.step#3/sample", "identical", "slower", "unknown", "error", "drifted", [], {}, [[]],
    {"": {}}, [None], {"image": "a.png"}, {"noise": {"shape": [1], "seed": 0}}, {"object": "os"},
)  # fmt: skip


def mutate(data: bytes, most: int, seed: int) -> bytes | None:
    """Return `data` with one to three places changed; None if it is no JSON or grew too large."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    draw = random.Random(seed)  # noqa: S311 (nothing is secret)
    holder = [content]
    for _ in range(draw.randint(1, 3)):
        _change(holder, draw)
    try:
        text = json.dumps(holder[0]).encode()
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= most else None


def mutate_safetensors(data: bytes, most: int, seed: int) -> bytes | None:
    """Return a safetensors file whose header was changed as `mutate` changes JSON."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    text = mutate(data[LENGTH_BYTES : LENGTH_BYTES + length], most, seed)
    if text is None:
        return None
    changed = len(text).to_bytes(LENGTH_BYTES, "little") + text + data[LENGTH_BYTES + length :]
    return changed if len(changed) <= most else None


def _change(holder: list[Any], draw: random.Random) -> None:
    """Walk to a random place below `holder`, and change what stands there."""
    parent: Any = holder
    key: Any = 0
    while draw.random() < 0.8 and isinstance(parent[key], dict | list) and parent[key]:
        parent = parent[key]
        key = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    choice = draw.randrange(5)
    if choice == 0 and parent is not holder:
        del parent[key]
    elif choice == 1 and isinstance(parent, dict):
        parent[str(draw.choice(ODD))[:40]] = parent[key]
    elif choice == 2 and isinstance(parent[key], list):
        parent[key] = parent[key] * 2
    elif choice == 3:
        parent[key] = _near(parent[key], draw)
    else:
        parent[key] = draw.choice(ODD)


def _near(value: object, draw: random.Random) -> object:
    """Return another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + draw.choice((-1, 1, 2**31, -value))
    if isinstance(value, float):
        return draw.choice((value * 1e300, -value, value / 2, 5e-324))
    if isinstance(value, str) and value:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice(("", "#", "/", "\n", "9", "|")) + value[at + 1 :]
    return draw.choice(ODD)
