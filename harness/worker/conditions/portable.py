"""Numbers whose bits are the same on every machine and with every version of numpy and torch, and weights made of them.

Integers from a counter, scaled by exact float32 operations: torch's own normal generator gives other bits under another
CPU dispatch, so neither weights nor probe inputs may come from it.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Iterator, Tuple

import numpy as np

from ..observe.digest import mix

CHUNK = 1 << 14  # words mixed at a time: stays in the second-level cache


def uniform_chunks(name: str, count: int) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield (offset, values) until `count` float32 values in [-1, 1) are given; `name` chooses the stream.

    Each value is a signed 24-bit integer times 2**-23, which float32 holds exactly. The array is reused: copy from it.
    """
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], dtype="<u8").astype(np.uint64)
    counter = np.arange(CHUNK, dtype="<u8")
    words, values = np.empty_like(counter), np.empty(2 * CHUNK, dtype=np.float32)
    for offset in range(0, count, 2 * CHUNK):
        np.add(counter, np.uint64(offset // 2), out=words)
        np.bitwise_xor(words, key, out=words)
        halves = mix(words).view("<i4")
        np.right_shift(halves, 8, out=halves)
        np.multiply(halves, np.float32(2.0**-23), out=values, casting="unsafe", dtype=np.float32)
        yield offset, values[: count - offset]


def uniform(name: str, shape: Tuple[int, ...]) -> np.ndarray:
    """Return float32 values in [-1, 1), shape `shape`, from the stream `name`."""
    out = np.empty(math.prod(shape), dtype=np.float32)
    for offset, values in uniform_chunks(name, out.size):
        out[offset : offset + len(values)] = values
    return out.reshape(shape)


def spread(name: str, shape: Tuple[int, ...]) -> Tuple[float, float]:
    """Return (centre, half-width) of the values that a parameter gets: activations then neither die nor explode.

    Matrices and kernels get half-width 1/sqrt(fan-in), as torch's own layers start; gains lie around one.
    """
    last = name.rsplit(".", 1)[-1]
    if len(shape) >= 2:
        return 0.0, 1.0 / math.sqrt(math.prod(shape[1:]))
    if last in ("weight", "clip_std"):
        return 1.0, 0.125
    return 0.0, 0.0625


def fill(component: str, parameters: "dict[str, Any]") -> None:
    """Overwrite every tensor of torch in `parameters`, by name, in place with portable values; holds no second copy."""
    import torch

    with torch.no_grad():
        for name, parameter in sorted(parameters.items()):
            shape = tuple(parameter.shape)
            centre, width = (np.float32(number) for number in spread(name, shape))
            flat = parameter.view(-1)
            for offset, values in uniform_chunks(f"{component}.{name}", parameter.numel()):
                flat[offset : offset + len(values)] = torch.from_numpy(values * width + centre)
