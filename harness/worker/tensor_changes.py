"""The ways in which a fault changes a value that passes by: an argument, a result, or a table."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Mapping, Optional

import numpy as np
import torch

# Takes a tensor and what the fault says of the change; returns the changed tensor.
TensorChange = Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]

VIDEO_DIMENSIONS = 5  # batch, channel, frame, height, width


def round_to(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the values rounded to a type, in their own type."""
    return tensor.to(dtype).to(tensor.dtype)


def changed(value: Any, fault: Mapping[str, Any]) -> Any:
    """Return a value with every tensor inside changed as the fault's `how` says.

    Numbers are added to and multiplied, `set` replaces any value, `reverse` a list, and
    `whole-levels` rounds an array of numpy in [0, 1] down to 255 levels. What the change does not
    fit is returned as it is.
    """
    how = fault["how"]
    if how == "set":
        return fault["value"]
    if isinstance(value, torch.Tensor):
        return CHANGES[how](value, fault) if how in CHANGES else value
    if isinstance(value, np.ndarray):
        return _changed_array(value, how, fault)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _changed_number(value, how, fault)
    if how == "reverse" and isinstance(value, list):
        return value[::-1]
    return _changed_container(value, fault)


def _changed_container(value: Any, fault: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):  # an output of diffusers or transformers is one too
        for key, each in list(value.items()):
            value[key] = changed(each, fault)
        return value
    if type(value) in (tuple, list):
        return type(value)(changed(each, fault) for each in value)
    return value


def _changed_number(value: Any, how: str, fault: Mapping[str, Any]) -> Any:
    if how == "add":
        return value + fault["by"]
    return value * fault["factor"] if how == "scale" else value


def _changed_array(value: Any, how: str, fault: Mapping[str, Any]) -> Any:
    if how == "whole-levels":
        return np.floor(value * 255) / 255
    if not np.issubdtype(value.dtype, np.number) or how not in CHANGES:
        return value
    return CHANGES[how](torch.from_numpy(value), fault).numpy()


def _round(tensor: torch.Tensor, fault: Mapping[str, Any]) -> torch.Tensor:
    return round_to(tensor, getattr(torch, fault["dtype"]))


def _scale(tensor: torch.Tensor, fault: Mapping[str, Any]) -> torch.Tensor:
    return (tensor * fault["factor"]).to(tensor.dtype)


def _add(tensor: torch.Tensor, fault: Mapping[str, Any]) -> torch.Tensor:
    return (tensor + fault["by"]).to(tensor.dtype)


def _next_index(tensor: torch.Tensor, _fault: Mapping[str, Any]) -> torch.Tensor:
    """Give every index what stands at the next one; the last keeps its own."""
    return torch.cat((tensor[1:], tensor[-1:])) if tensor.dim() else tensor


def _halves_swapped(tensor: torch.Tensor, _fault: Mapping[str, Any]) -> torch.Tensor:
    """Swap the two halves of a batch, such as those without and with the prompt."""
    if not tensor.dim() or len(tensor) % 2:
        return tensor
    one, other = tensor.chunk(2)
    return torch.cat((other, one))


def _second_half_twice(tensor: torch.Tensor, _fault: Mapping[str, Any]) -> torch.Tensor:
    """Let both halves of a batch be the second, so that guidance has no effect."""
    if not tensor.dim() or len(tensor) % 2:
        return tensor
    other = tensor.chunk(2)[1]
    return torch.cat((other, other))


def _frames_swapped(tensor: torch.Tensor, _fault: Mapping[str, Any]) -> torch.Tensor:
    """Swap the second and the third frame of a video."""
    if tensor.dim() != VIDEO_DIMENSIONS or tensor.shape[2] < 3:
        return tensor
    order = [0, 2, 1, *range(3, tensor.shape[2])]
    return tensor[:, :, order]


def _first_place_twice(tensor: torch.Tensor, _fault: Mapping[str, Any]) -> torch.Tensor:
    """Move the places of a sequence by one; the first stands twice, and the last is lost."""
    if tensor.dim() < 2:
        return tensor
    return torch.cat((tensor[:, :1], tensor[:, :-1]), dim=1)


def _clipped(tensor: torch.Tensor, fault: Mapping[str, Any]) -> torch.Tensor:
    return tensor.clamp(-fault["limit"], fault["limit"])


CHANGES: Dict[str, TensorChange] = {
    "round": _round,
    "scale": _scale,
    "add": _add,
    "next-index": _next_index,
    "halves-swapped": _halves_swapped,
    "second-half-twice": _second_half_twice,
    "frames-swapped": _frames_swapped,
    "first-place-twice": _first_place_twice,
    "clip": _clipped,
}


def reordered(drawn: torch.Tensor, how: str) -> Optional[torch.Tensor]:
    """Return noise as if it had been drawn in another order; None for an unknown `how`.

    Args:
        drawn: Of any shape, with the batch first.
        how: `reversed`, the last number first; or `channels-last`, as if the channels had come
            last in memory.
    """
    if how == "reversed":
        return drawn.flatten().flip(0).view(drawn.shape)
    if how == "channels-last" and drawn.dim() > 2:
        batch, channels, *places = drawn.shape
        return drawn.reshape(batch, *places, channels).movedim(-1, 1)
    return None


def attention_scale(query: torch.Tensor) -> float:
    """Return the scale of scaled dot products without another: one over the root of the width."""
    return 1 / math.sqrt(query.shape[-1])
