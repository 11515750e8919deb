"""Components with weights, of torch or of MindSpore: their call, their modules and their weights.

MindSpore's are known by what they offer, so that this module imports torch alone. Their tensors are
seen as torch's, over the same memory.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Optional, Tuple

import torch


def call_of(component: Any) -> Optional[str]:
    """Return the name of the method in which a component with weights works.

    Args:
        component: Any component of a pipeline, or the class of one.

    Returns:
        `forward` for torch, `construct` for MindSpore, None for a component without weights.
    """
    is_module = isinstance(component, torch.nn.Module)
    is_module_class = isinstance(component, type) and issubclass(component, torch.nn.Module)
    if is_module or is_module_class:
        return "forward"
    return "construct" if hasattr(component, "cells_and_names") else None


def parts_of(component: Any) -> Iterator[Tuple[str, Any]]:
    """Yield every module inside a component with its path, without the component itself.

    A compiled component is one piece.
    """
    if hasattr(component, "_orig_mod"):
        return
    if isinstance(component, torch.nn.Module):
        found = component.named_modules()
    else:
        found = component.cells_and_names()
    for path, part in found:
        if path:
            yield path, part


def parameters_of(component: Any) -> Dict[str, torch.Tensor]:
    """Return a component's parameters by name; what is written into them is in the component."""
    if isinstance(component, torch.nn.Module):
        return dict(component.named_parameters())
    return {name: as_tensor(parameter) for name, parameter in component.parameters_and_names()}


def state_of(component: Any) -> Dict[str, torch.Tensor]:
    """Return a component's parameters and persistent buffers by name.

    MindSpore keeps its buffers elsewhere: of its components, only the parameters are returned.
    """
    if isinstance(component, torch.nn.Module):
        return dict(component.state_dict())
    return parameters_of(component)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of torch or of MindSpore."""
    return isinstance(value, torch.Tensor) or hasattr(value, "asnumpy")


def as_tensor(value: Any) -> torch.Tensor:
    """Return a tensor of either framework as torch's; MindSpore's on the CPU share their memory."""
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(value.asnumpy())
