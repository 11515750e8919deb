"""Tensors as bytes: their digests, and the tensors inside whatever a component takes or returns."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Tuple

import numpy as np
import torch

from ..pipeline.components import as_tensor, call_of, is_tensor, state_of
from .digest import BLOCK, BLOCK_BYTES, DIGITS, MULTIPLIERS, digest, digest_sums

Tensors = Dict[str, torch.Tensor]
PendingDigest = Callable[[], str]  # returns a digest, after waiting for the device that computes it

# Blocks that a device sums at once: 16 MiB of data, for which it takes 64 MiB of its memory.
AT_ONCE = 512
# Objects of these libraries are looked into; those of any other are not.
LIBRARIES = ("diffusers.", "transformers.", "mindone.")


def _integers_of_equal_width() -> Dict[torch.dtype, torch.dtype]:
    """Return an integer type for each floating-point type that numpy lacks and this torch has."""
    found = {torch.bfloat16: torch.int16}
    for name in ("float8_e4m3fn", "float8_e5m2"):
        if hasattr(torch, name):
            found[getattr(torch, name)] = torch.uint8
    return found


_AS_INTEGERS = _integers_of_equal_width()


def dtype_name(dtype: torch.dtype) -> str:
    """Return `float32` for torch.float32, and so on."""
    return str(dtype).rsplit(".", 1)[-1]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array; a type that numpy lacks comes as integers of its width."""
    on_host = tensor.detach().to("cpu").contiguous()
    if on_host.dtype in _AS_INTEGERS:
        on_host = on_host.view(_AS_INTEGERS[on_host.dtype])
    return on_host.numpy()


def digest_tensor(tensor: torch.Tensor) -> str:
    """Return the digest of a tensor: of its values in row-major order, its dtype and its shape.

    It is the same on every device.
    """
    return digest(to_numpy(tensor), dtype_name(tensor.dtype), tuple(tensor.shape))


def digest_later(tensor: torch.Tensor) -> PendingDigest:
    """Start the digest of a tensor as it is now.

    On the CPU the digest is computed at once. Another device computes it while the run goes on, so
    that nothing waits inside the run.
    """
    if tensor.device.type != "cpu":
        return digest_on_device(tensor)
    known = digest_tensor(tensor)
    return lambda: known


def digest_on_device(tensor: torch.Tensor) -> PendingDigest:
    """Start the digest of a tensor where it lies.

    Only the sums of its blocks cross to the host, when the digest is asked for. They are the same
    integers that `digest.digest_bytes` adds, because int64 wraps as uint64 does.
    """
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    data = real.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 4:  # cannot be viewed as 32-bit words
        data = data.clone()
    multipliers = _multipliers(tensor.device)
    end = len(data) // BLOCK_BYTES * BLOCK_BYTES
    sums = [
        (_words(part).view(-1, BLOCK) * multipliers).sum(dim=1)
        for part in data[:end].split(BLOCK_BYTES * AT_ONCE)
        if len(part)
    ]
    rest = _words(torch.nn.functional.pad(data[end:], (0, -len(data) % 4)))
    tail = (rest * multipliers[: len(rest)]).sum()
    length = len(data)
    head = f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"

    def finish() -> str:  # refers to the sums alone: a tensor would stay in the device's memory
        on_host = torch.cat(sums).cpu().numpy() if sums else np.empty(0, np.int64)
        last = np.int64(tail.item()).astype(np.uint64)
        return digest_sums(length, head, on_host.view(np.uint64), last)

    return finish


def _words(data: torch.Tensor) -> torch.Tensor:
    """Return bytes as the unsigned 32-bit words that they make, in int64."""
    return data.view(torch.int32).to(torch.int64) & 0xFFFFFFFF


@lru_cache(maxsize=None)
def _multipliers(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(MULTIPLIERS.view(np.int64)).to(device)


def digest_state(component: Any) -> Dict[str, str]:
    """Return the digests of every parameter and persistent buffer of a component, by name.

    A quantized weight that holds several tensors has a digest for each.
    """
    found: Dict[str, str] = {}
    for name, tensor in sorted(state_of(component).items()):
        found.update({key: digest_tensor(part) for key, part in _plain(name, tensor)})
    return found


def _plain(name: str, tensor: torch.Tensor) -> Iterable[Tuple[str, torch.Tensor]]:
    """Return a tensor by its name, or those inside a tensor that only stands for them."""
    if not hasattr(tensor, "__tensor_flatten__") or isinstance(tensor, torch.nn.Buffer):
        return [(name, tensor)]
    inner, _ = tensor.__tensor_flatten__()
    parts = [(f"{name}.{key}", getattr(tensor, key)) for key in inner]
    return [plain for key, part in parts for plain in _plain(key, part)]


def digest_digests(state: Mapping[str, str]) -> str:
    """Return one digest of named digests, in their order."""
    lines = [f"{name} {digest}\n" for name, digest in state.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:DIGITS]


def tensors_in(value: Any, name: str = "") -> Tensors:
    """Return the tensors inside a value by their paths, such as `hidden_states.0`.

    Args:
        value: A tensor, an array, a number, or a sequence, a mapping or an object of the libraries
            that holds such values. Anything else holds no tensor.
        name: The path of `value` itself; a value without one that is a tensor has the path `0`.

    Returns:
        Tensors of torch; a number becomes one of float64 or int64, without dimensions.
    """
    return {path or "0": _tensor_of(leaf) for path, leaf in leaves_in(value, name)}


def leaves_in(value: Any, name: str = "") -> Iterator[Tuple[str, Any]]:
    """Yield the tensors, arrays and numbers inside a value as they are, each with its path.

    Args:
        value: As for `tensors_in`.
        name: The path of `value` itself.
    """
    if _is_leaf(value):
        yield name, value
        return
    for key, item in _members(value):
        yield from leaves_in(item, f"{name}.{key}" if name else key)


def _is_leaf(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub"
    is_number = isinstance(value, (int, float))
    # A switch is no number, although Python counts it among the integers.
    return is_tensor(value) or (is_number and not isinstance(value, bool))


def _tensor_of(leaf: Any) -> torch.Tensor:
    """Return a tensor, an array or a number as a tensor of torch."""
    if is_tensor(leaf):
        return as_tensor(leaf)
    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(leaf))
    return torch.tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else torch.int64)


def _members(value: Any) -> Iterable[Tuple[str, Any]]:
    """Return the values inside a value, each with its name or index."""
    if hasattr(value, "items"):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(index), item) for index, item in enumerate(value)]
    if type(value).__module__.startswith(LIBRARIES) and not call_of(value):
        return [(key, item) for key, item in sorted(vars(value).items()) if is_tensor(item)]
    return []
