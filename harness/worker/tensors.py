"""Torch values as bytes: digests of tensors and modules, and the tensors inside whatever a component returns."""

from __future__ import annotations

import hashlib
from typing import Any, Dict

import numpy as np
import torch

from .components import as_tensor, call_of, is_tensor, state_of
from .digest import digest

_BITS = {torch.bfloat16: torch.int16}
for _name in ("float8_e4m3fn", "float8_e5m2"):
    if hasattr(torch, _name):
        _BITS[getattr(torch, _name)] = torch.uint8


def dtype_name(dtype: torch.dtype) -> str:
    """Return `float32` for torch.float32, and so on."""
    return str(dtype).rsplit(".", 1)[-1]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return the tensor's bytes as an array; types that numpy lacks come as integers of their width."""
    tensor = tensor.detach().to("cpu").contiguous()
    return tensor.view(_BITS[tensor.dtype]).numpy() if tensor.dtype in _BITS else tensor.numpy()


def digest_tensor(tensor: torch.Tensor) -> str:
    """Return the digest of a tensor on any device: of its values in row-major order, its dtype and its shape."""
    return digest(to_numpy(tensor), dtype_name(tensor.dtype), tuple(tensor.shape))


def digest_state(component: Any) -> Dict[str, str]:
    """Return the digest of every parameter and persistent buffer of a component, by name."""
    return {name: digest_tensor(tensor) for name, tensor in sorted(state_of(component).items())}


def digest_digests(state: Dict[str, str]) -> str:
    """Return one digest of named digests, in their order."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in state.items()).encode()).hexdigest()[:32]


def tensors_in(value: Any, name: str = "") -> Dict[str, torch.Tensor]:
    """Return the tensors inside `value` by path: a tensor, numbers, sequences, mappings, and plain objects of the libraries."""
    if is_tensor(value):
        return {name or "0": as_tensor(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return {name or "0": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return {}
    if isinstance(value, (int, float)):
        return {name or "0": torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)}
    if hasattr(value, "items"):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    elif type(value).__module__.startswith(("diffusers.", "transformers.", "mindone.")) and not call_of(value):
        pairs = [(key, item) for key, item in sorted(vars(value).items()) if is_tensor(item)]
    else:
        return {}
    found: Dict[str, torch.Tensor] = {}
    for key, item in pairs:
        found.update(tensors_in(item, f"{name}.{key}" if name else str(key)))
    return found
