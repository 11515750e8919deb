"""Reading safetensors files without a framework: the header, and arrays mapped from the disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import FileError

if TYPE_CHECKING:
    from harness.records import Array

LENGTH_BYTES = 8  # in front of the header: its length, little-endian
MOST_HEADER_BYTES = 100_000_000  # as the format's own reader has it
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
BFLOAT16 = "BF16"  # which numpy lacks


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its metadata, the tensors' entries, where data begins."""

    metadata: Mapping[str, str]
    entries: Mapping[str, Mapping[str, object]]
    start: int


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file.

    Raises:
        FileError: The file cannot be read, or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(LENGTH_BYTES))
            if length > MOST_HEADER_BYTES:
                raise FileError(path, f"is damaged: it claims a header of {length} bytes")
            content = json.loads(file.read(length))
    except (OSError, ValueError, struct.error, RecursionError) as error:
        raise FileError(path, f"is no readable safetensors file: {error}") from error
    if not isinstance(content, dict):
        raise FileError(path, "is damaged: its header is no object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise FileError(path, "is damaged: its metadata is no object")
    return Header(metadata, content, LENGTH_BYTES + length)


def open_tensors(path: Path) -> dict[str, Array]:
    """Return the arrays of a safetensors file by name, read from the disk only where touched.

    bfloat16, which numpy lacks, comes as float32, which holds it exactly.

    Raises:
        FileError: The file cannot be read, is damaged, or holds a dtype that numpy lacks.
    """
    import numpy as np

    header = read_header(path)
    data: Array = np.zeros(0, np.uint8)
    try:
        if path.stat().st_size > header.start:
            data = np.memmap(path, dtype=np.uint8, mode="r", offset=header.start)
        return {name: _array(entry, data) for name, entry in header.entries.items()}
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileError(path, f"is damaged: {type(error).__name__} {error}") from error


def tensor_bytes(path: Path) -> dict[str, int]:
    """Return how many bytes each tensor of a safetensors file takes, by its name.

    Raises:
        FileError: The file cannot be read, or its header is damaged.
    """
    found = {}
    for name, entry in read_header(path).entries.items():
        match entry.get("data_offsets"):
            case [int(start), int(end)]:
                found[name] = end - start
            case wrong:
                raise FileError(path, f"is damaged: `{name}` lies at {wrong}")
    return found


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Return arrays as the bytes of a safetensors file, the same for the same arrays.

    Raises:
        ValueError: An array has a dtype that the format does not know by one of `DTYPES`.
    """
    import numpy as np

    names = {np.dtype(text): name for name, text in DTYPES.items()}
    parts = []
    for name, array in sorted(arrays.items()):
        if array.dtype not in names:
            raise ValueError(f"`{name}` has the dtype {array.dtype}, which cannot be written")
        data = np.ascontiguousarray(array).tobytes()
        parts.append(_Part(name, names[array.dtype], list(array.shape), data))
    return _packed(parts)


def pack_some(path: Path, names: Mapping[str, str]) -> bytes:
    """Return some tensors of a safetensors file as the bytes of another one, bit for bit.

    Args:
        path: The file.
        names: The new name of each tensor by its old one.

    Raises:
        FileError: The file cannot be read, or has no such tensor.
    """
    header = read_header(path)
    parts = []
    try:
        with path.open("rb") as file:
            for old, new in sorted(names.items()):
                entry: Mapping[str, Any] = header.entries[old]
                start, end = entry["data_offsets"]
                file.seek(header.start + start)
                parts.append(_Part(new, entry["dtype"], entry["shape"], file.read(end - start)))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(path, f"is damaged: {type(error).__name__} {error}") from error
    return _packed(parts)


@dataclass(frozen=True)
class _Part:
    """One tensor of a file in the making: its bytes, and what the header says of it."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes


def _packed(parts: Iterable[_Part]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    header: dict[str, object] = {}
    start = 0
    data = []
    for part in parts:
        end = start + len(part.data)
        offsets = [start, end]
        header[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": offsets}
        start = end
        data.append(part.data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return b"".join([struct.pack("<Q", len(text)), text, *data])


def digest_file(path: Path) -> str:
    """Return the digest of the bytes of a file, as `worker.observe.digest.digest_bytes` gives it.

    Raises:
        FileError: The file cannot be read.
    """
    import numpy as np

    from harness.worker.observe.digest import digest_bytes

    try:
        size = path.stat().st_size
        data = np.memmap(path, dtype=np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        return digest_bytes(data)
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error


def _array(entry: Mapping[str, object], data: Array) -> Array:
    import numpy as np

    offsets: Any = entry["data_offsets"]
    shape: Any = entry["shape"]
    start, end = offsets
    if not 0 <= start <= end <= data.size or min(shape, default=0) < 0:
        raise ValueError(f"{offsets} of {data.size} bytes cannot be of the shape {shape}")
    raw = np.asarray(data[start:end])
    if entry["dtype"] == BFLOAT16:
        wide = raw.view("<u2").astype(np.uint32) << 16
        values = wide.view(np.float32)
    else:
        values = raw.view(DTYPES[str(entry["dtype"])])
    array: Array = values.reshape(shape)
    return array
