"""Functions of one value, moved by as many units in the last place as a GPU may be off.

CUDA documents the largest error of each of its functions, as the distance in units in the last
place from the correctly rounded result. An emulated function is moved within that distance, by a
number that follows from the bits of its argument: the same argument always gives the same result.
"""

from __future__ import annotations

import math
from typing import Callable, Dict

import torch

from .rounding import F32, F64

# The largest error in units in the last place. Source: NVIDIA, CUDA C++ Programming Guide,
# "Mathematical Functions", table of single-precision functions with maximum ULP error. Addition,
# multiplication, division and square root are rounded correctly, as on a CPU.
MOST_ULP: Dict[str, int] = {
    "exp": 2,
    "exp2": 2,
    "expm1": 1,
    "log": 1,
    "log1p": 1,
    "sin": 2,
    "cos": 2,
    "tanh": 2,
    "erf": 2,
    "rsqrt": 2,
}
BOUNDED = frozenset({"sin", "cos", "tanh", "erf"})  # by -1 and 1
MULTIPLIER = 0x9E3779B1  # an odd number that spreads the bits of an argument; 2^32 / golden ratio
EXPONENT_OF_NORMAL = 1 << 23  # the bits of the least normal number of float32
BITS_OF_INFINITY = 0x7F800000
# Constants as torch's kernels of GELU have them.
SQRT_HALF = math.sqrt(0.5)
TANH_SCALE = math.sqrt(2.0) * (2.0 / math.sqrt(math.pi)) * 0.5
TANH_CUBE = 0.044715

# Computes a function by its name, of values of float32.
Function = Callable[[str, torch.Tensor], torch.Tensor]


def rounded(name: str, values: torch.Tensor) -> torch.Tensor:
    """Return a function of float32 values, computed in float64 and rounded."""
    found: torch.Tensor = getattr(torch, name)(values.to(F64))
    return found.to(F32)


def moved(name: str, values: torch.Tensor) -> torch.Tensor:
    """Return a function of float32 values, moved by up to `MOST_ULP` units in the last place.

    What is exact on every device stays: the function of zero, and results of 0, 1 and -1. So do
    subnormal results, infinity and NaN. No result of a function that is bounded by 1 exceeds it.
    """
    exact = rounded(name, values)
    bits = exact.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    most = MOST_ULP[name]
    may_move = (magnitude >= EXPONENT_OF_NORMAL + most) & (magnitude < BITS_OF_INFINITY - most)
    may_move &= (values != 0) & (exact.abs() != 1)
    found = torch.where(may_move, bits + steps(values, most), bits).view(F32)
    return found.clamp(-1, 1) if name in BOUNDED else found


def steps(values: torch.Tensor, most: int) -> torch.Tensor:
    """Return a whole number from -`most` to `most` for each float32 value, by its bits."""
    bits = values.contiguous().view(torch.int32).to(torch.int64)
    mixed = (bits * MULTIPLIER) & 0xFFFFFFFF
    return ((mixed >> 16) % (2 * most + 1) - most).to(torch.int32)


# Functions that consist of these, each operation of float32 rounded, as torch's kernels for CUDA
# compute them.


def sigmoid(function: Function, values: torch.Tensor) -> torch.Tensor:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + function("exp", -values))


def silu(function: Function, values: torch.Tensor) -> torch.Tensor:
    """Return x / (1 + exp(-x))."""
    return values / (1 + function("exp", -values))


def gelu(function: Function, values: torch.Tensor) -> torch.Tensor:
    """Return x / 2 * (1 + erf(x * sqrt(1/2)))."""
    return values * 0.5 * (1 + function("erf", values * SQRT_HALF))


def gelu_by_tanh(function: Function, values: torch.Tensor) -> torch.Tensor:
    """Return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    cube = values * values * values
    inner = TANH_SCALE * (values + TANH_CUBE * cube)
    return 0.5 * values * (1 + function("tanh", inner))
