"""Components with weights, of torch or of MindSpore: told from the others, and asked for their call, their parts and weights.

MindSpore is known by what its cells offer, so that this imports torch alone. Its tensors are seen as torch's, over the same memory.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Optional, Tuple

import torch


def call_of(component: Any) -> Optional[str]:
    """Return the name of the method in which a component with weights, or a class of such, works; None for any other."""
    if isinstance(component, torch.nn.Module) or (
        isinstance(component, type) and issubclass(component, torch.nn.Module)
    ):
        return "forward"
    return "construct" if hasattr(component, "cells_and_names") else None


def parts_of(component: Any) -> Iterator[Tuple[str, Any]]:
    """Yield (path, module) of everything inside a component, without itself; a compiled one is one piece."""
    if hasattr(component, "_orig_mod"):
        return iter(())
    found = (
        component.named_modules()
        if isinstance(component, torch.nn.Module)
        else component.cells_and_names()
    )
    return ((path, part) for path, part in found if path)


def parameters_of(component: Any) -> Dict[str, torch.Tensor]:
    """Return the parameters of a component by name; what is written into them is written into the component."""
    if isinstance(component, torch.nn.Module):
        return dict(component.named_parameters())
    return {name: as_tensor(parameter) for name, parameter in component.parameters_and_names()}


def state_of(component: Any) -> Dict[str, torch.Tensor]:
    """Return the parameters and persistent buffers of a component by name; MindSpore keeps the latter elsewhere."""
    return (
        dict(component.state_dict())
        if isinstance(component, torch.nn.Module)
        else parameters_of(component)
    )


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of torch or of MindSpore."""
    return isinstance(value, torch.Tensor) or hasattr(value, "asnumpy")


def as_tensor(value: Any) -> torch.Tensor:
    """Return a tensor of either framework as torch's; MindSpore's on the CPU over the same memory."""
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(value.asnumpy())
