"""Portable numbers, whose bits are the same on every machine and with every version of a library.

They are integers from a counter, scaled by exact float32 operations. Weights and probe inputs are
made of them, because torch's own normal generator gives other bits under another CPU dispatch.
"""

from __future__ import annotations

import hashlib
import math
from typing import Iterator, Mapping, Sequence, Tuple

import numpy as np
import torch

from ..observe.digest import mix

CHUNK = 1 << 14  # words mixed at a time: stays in the second-level cache
CHUNK_VALUES = 2 * CHUNK  # each word of 64 bits gives two values
GAINS = ("weight", "clip_std")  # names of parameters that scale, where they have one dimension


def uniform_chunks(name: str, count: int) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield `count` values of a stream in parts.

    Each value is a signed 24-bit integer times 2**-23, which float32 holds exactly.

    Args:
        name: Chooses the stream.
        count: How many values to give.

    Yields:
        An offset, and the float32 values in [-1, 1) from there on. The array is reused: copy it.
    """
    seed = hashlib.sha256(name.encode()).digest()[:8]
    key = np.frombuffer(seed, dtype="<u8").astype(np.uint64)
    counter = np.arange(CHUNK, dtype="<u8")
    words = np.empty_like(counter)
    values = np.empty(CHUNK_VALUES, dtype=np.float32)
    for offset in range(0, count, CHUNK_VALUES):
        np.add(counter, np.uint64(offset // 2), out=words)
        np.bitwise_xor(words, key, out=words)
        halves = mix(words).view("<i4")
        np.right_shift(halves, 8, out=halves)
        np.multiply(halves, np.float32(2.0**-23), out=values, casting="unsafe", dtype=np.float32)
        yield offset, values[: count - offset]


def uniform(name: str, shape: Sequence[int]) -> np.ndarray:
    """Return float32 values in [-1, 1) of the given shape from the stream `name`."""
    flat = np.empty(math.prod(shape), dtype=np.float32)
    for offset, values in uniform_chunks(name, flat.size):
        flat[offset : offset + len(values)] = values
    return flat.reshape(shape)


def spread(name: str, shape: Sequence[int]) -> Tuple[float, float]:
    """Return the centre and the half-width of the values that a parameter gets.

    Matrices and kernels get the half-width 1 / sqrt(fan-in), as torch's own layers start, so that
    activations neither vanish nor explode. Gains lie around one.

    Args:
        name: The parameter's name, such as `conv_in.weight`.
        shape: The parameter's shape; the first dimension is that of the outputs.
    """
    if len(shape) >= 2:
        return 0.0, 1.0 / math.sqrt(math.prod(shape[1:]))
    if name.rsplit(".", 1)[-1] in GAINS:
        return 1.0, 0.125
    return 0.0, 0.0625


def fill(component: str, parameters: Mapping[str, torch.Tensor]) -> None:
    """Overwrite a component's parameters, by name, with portable values; no second copy is held."""
    with torch.no_grad():
        for name, parameter in sorted(parameters.items()):
            centre, half_width = map(np.float32, spread(name, parameter.shape))
            flat = parameter.view(-1)
            for offset, values in uniform_chunks(f"{component}.{name}", parameter.numel()):
                placed = torch.from_numpy(values * half_width + centre)
                flat[offset : offset + len(values)] = placed
