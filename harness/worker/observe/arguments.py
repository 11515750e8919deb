"""The arguments of one operator as JSON and tensors, so that it can be called again elsewhere.

What JSON cannot express is an object with one key: a tensor and a generator name the tensor that
holds their values, and a type, device, layout or memory format its name.
"""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence

import torch

from ..protocol import Json
from .tensors import Tensors


class NotExpressibleError(Exception):
    """An argument is of a type that this module does not know."""


def arguments_as_json(
    args: Sequence[Any], kwargs: Mapping[str, Any], prefix: str, tensors: Tensors
) -> Json:
    """Return the arguments of a call as JSON, and put the tensors among them into `tensors`.

    Args:
        args: The positional arguments.
        kwargs: The others.
        prefix: What the names of the tensors begin with.
        tensors: Copies of them are added here, on the CPU and contiguous.

    Returns:
        An object with `args` and `kwargs`. A tensor's strides stand beside its name, because the
        layout in memory may decide which code an operator runs.

    Raises:
        NotExpressibleError: An argument is of a type that is not known here.
    """

    def plain(value: Any) -> Json:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, torch.Tensor):
            return {"tensor": keep(value), "strides": list(value.stride())}
        if isinstance(value, torch.Generator):
            return {"generator": keep(value.get_state()), "device": str(value.device)}
        for kind, word in _NAMED.items():
            if isinstance(value, kind):
                return {word: str(value).rpartition(".")[2]}
        raise NotExpressibleError(type(value).__name__)

    def keep(tensor: Any) -> str:
        name = f"{prefix}{len(tensors)}"
        tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return name

    positional = [plain(value) for value in args]
    return {"args": positional, "kwargs": {name: plain(value) for name, value in kwargs.items()}}


_NAMED = {
    torch.dtype: "dtype",
    torch.device: "device",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}
