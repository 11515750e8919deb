"""The bytes of a recording's tensor file: equal for equal content, so that they can be digested.

The library safetensors orders the tensors itself, but writes the keys of the metadata in an order
that changes from call to call. The header is therefore written anew.
"""

from __future__ import annotations

import json
import struct
from typing import Mapping

import safetensors.torch
import torch

LENGTH = struct.Struct("<Q")  # of the header, in bytes; the first field of a safetensors file
ALIGNMENT = 8  # bytes: the tensors begin at a multiple of it


def pack_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file.

    Args:
        tensors: The tensors by name, on any device and of any layout; two may share memory.
        metadata: Texts that the header keeps beside the tensors.
    """
    separate = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    return canonical(safetensors.torch.save(separate, dict(metadata)))


def canonical(packed: bytes) -> bytes:
    """Return a safetensors file with its header's keys sorted.

    The offsets of the tensors stay valid, because they count from the end of the header.
    """
    (length,) = LENGTH.unpack_from(packed)
    end = LENGTH.size + length
    header = json.loads(packed[LENGTH.size : end])
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    padded = text + b" " * (-len(text) % ALIGNMENT)
    return b"".join([LENGTH.pack(len(padded)), padded, memoryview(packed)[end:]])
