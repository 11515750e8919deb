"""Torch values as bytes: digests of tensors and modules, and the tensors inside whatever a component returns."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Callable, Dict

import numpy as np
import torch

from ..pipeline.components import as_tensor, call_of, is_tensor, state_of
from .digest import BLOCK, MULTIPLIERS, digest, sealed

Later = Callable[[], str]  # gives a digest; waits for the device that works on it
AT_ONCE = (
    512  # blocks that a device digests at once: 16 MiB, for which it takes 64 MiB of its memory
)
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


def digest_later(tensor: torch.Tensor) -> Later:
    """Return what gives the digest of a tensor as it is now: on the CPU it is known, a device works on it meanwhile."""
    if tensor.device.type != "cpu":
        return digest_on_device(tensor)
    known = digest_tensor(tensor)
    return lambda: known


def digest_on_device(tensor: torch.Tensor) -> Later:
    """Start the digest of a tensor where it lies; only the sums of its blocks cross to the host, when it is asked for.

    The same integers as `digest.digest_bytes` adds; int64 wraps as uint64 does.
    """
    whole = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    data = whole.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 4:
        data = data.clone()
    factors = _multipliers(tensor.device)
    end = len(data) // (4 * BLOCK) * (4 * BLOCK)
    sums = [
        (_words(part).view(-1, BLOCK) * factors).sum(dim=1)
        for part in data[:end].split(4 * BLOCK * AT_ONCE)
        if len(part)
    ]
    rest = torch.nn.functional.pad(data[end:], (0, -len(data) % 4))
    tail = (_words(rest) * factors[: len(rest) // 4]).sum()
    length, head = len(data), f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"

    def finish() -> str:  # holds no tensor but the sums
        blocks = torch.cat(sums).cpu().numpy() if sums else np.empty(0, np.int64)
        return sealed(length, head, blocks.view(np.uint64), np.int64(tail.item()).astype(np.uint64))

    return finish


def _words(data: torch.Tensor) -> torch.Tensor:
    return data.view(torch.int32).to(torch.int64) & 0xFFFFFFFF


@lru_cache(maxsize=None)
def _multipliers(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(MULTIPLIERS.view(np.int64)).to(device)


def digest_state(component: Any) -> Dict[str, str]:
    """Return the digest of every parameter and persistent buffer of a component, by name."""
    return {name: digest_tensor(tensor) for name, tensor in sorted(state_of(component).items())}


def digest_digests(state: Dict[str, str]) -> str:
    """Return one digest of named digests, in their order."""
    return hashlib.sha256(
        "".join(f"{name} {digest}\n" for name, digest in state.items()).encode()
    ).hexdigest()[:32]


def tensors_in(value: Any, name: str = "") -> Dict[str, torch.Tensor]:
    """Return the tensors inside `value` by path: a tensor, numbers, sequences, mappings, and plain objects of the libraries."""
    if is_tensor(value):
        return {name or "0": as_tensor(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return {name or "0": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return {}
    if isinstance(value, (int, float)):
        return {
            name or "0": torch.tensor(
                value, dtype=torch.float64 if isinstance(value, float) else torch.int64
            )
        }
    if hasattr(value, "items"):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    elif type(value).__module__.startswith(
        ("diffusers.", "transformers.", "mindone.")
    ) and not call_of(value):
        pairs = [(key, item) for key, item in sorted(vars(value).items()) if is_tensor(item)]
    else:
        return {}
    found: Dict[str, torch.Tensor] = {}
    for key, item in pairs:
        found.update(tensors_in(item, f"{name}.{key}" if name else str(key)))
    return found
