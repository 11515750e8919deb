"""Sums, means, softmax and norms, whose sums are taken in an order that is written down."""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple

import torch

from .functions import Function
from .rounding import F32, F64

# Returns the sum of float32 values over their last dimension, in float32.
Sum = Callable[[torch.Tensor], torch.Tensor]


def sum_in_float64(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over the last dimension, taken in float64 and rounded to float32."""
    return values.to(F64).sum(-1).to(F32)


def sum_as_tree(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over the last dimension, as the lanes of a GPU add: halves upon each other.

    The values are filled up with zeros to a power of two. Value i is added to value i + n / 2, and
    so on with the n / 2 sums, each rounded to float32, until one is left.
    """
    extent = values.shape[-1]
    if not extent:
        return values.sum(-1)
    whole = 1 << (extent - 1).bit_length()
    values = torch.nn.functional.pad(values, (0, whole - extent))
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


class Arithmetic(NamedTuple):
    """How sums are taken, and functions such as exp computed."""

    add: Sum
    function: Function


class Affine(NamedTuple):
    """What a norm multiplies its result by, and adds to it: one value a channel, in float32."""

    weight: Optional[torch.Tensor]
    bias: Optional[torch.Tensor]


class Normed(NamedTuple):
    """The result of a norm, and of each group the mean and 1 / (standard deviation)."""

    values: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor


def softmax(by: Arithmetic, values: torch.Tensor, *, safe: bool) -> torch.Tensor:
    """Return the softmax over the last dimension of float32 values.

    It is the exponential of the distance to the largest value, divided by the sum of all.

    Args:
        by: How it is computed.
        values: The values.
        safe: Whether a row of minus infinity alone gives zeros, and not NaN.
    """
    largest = values.amax(-1, keepdim=True)
    exponentials = by.function("exp", values - largest)
    found = exponentials / by.add(exponentials).unsqueeze(-1)
    return torch.where(largest == -torch.inf, 0.0, found) if safe else found


def layer_norm(by: Arithmetic, values: torch.Tensor, affine: Affine, epsilon: float) -> Normed:
    """Return (x - mean) * rstd * weight + bias over the last dimension of float32 values."""
    mean, rstd = _moments(by, values, epsilon)
    found = (values - mean.unsqueeze(-1)) * rstd.unsqueeze(-1)
    found = found if affine.weight is None else found * affine.weight
    return Normed(found if affine.bias is None else found + affine.bias, mean, rstd)


def group_norm(
    by: Arithmetic, values: torch.Tensor, affine: Affine, groups: int, epsilon: float
) -> Normed:
    """Return scale * x + shift of each channel.

    The scale of a channel is rstd * weight, its shift is bias - scale * mean.

    Args:
        by: How it is computed.
        values: Float32 of the shape (batch, channels, positions).
        affine: One value a channel.
        groups: How many groups the channels form.
        epsilon: Is added to the variance.
    """
    batch, channels, _ = values.shape
    mean, rstd = _moments(by, values.reshape(batch, groups, -1), epsilon)
    each = channels // groups
    scale, of_mean = rstd.repeat_interleave(each, 1), mean.repeat_interleave(each, 1)
    scale = scale if affine.weight is None else scale * affine.weight
    shift = -scale * of_mean
    shift = shift if affine.bias is None else shift + affine.bias
    return Normed(values * scale.unsqueeze(-1) + shift.unsqueeze(-1), mean, rstd)


def _moments(
    by: Arithmetic, values: torch.Tensor, epsilon: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return mean and 1 / sqrt(variance + epsilon) over the last dimension.

    The variance is the mean square of the distance to the mean. Each operation is rounded to
    float32.
    """
    extent = values.shape[-1]
    mean = by.add(values) / extent
    distance = values - mean.unsqueeze(-1)
    variance = by.add(distance * distance) / extent
    return mean, by.function("rsqrt", variance + epsilon)
