"""The tensor file: a safetensors file whose bytes depend on its content alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from harness.worker.observe.tensor_file import pack_tensors

METADATA = {"format": "pt", "modules": '{"unet#0": []}', "weights": "{}", "a": "1", "z": "ü"}


def header_of(packed: bytes) -> tuple[int, bytes]:
    """Return the length of a file's header as the file states it, and the header."""
    (length,) = struct.unpack_from("<Q", packed)
    return length, packed[8 : 8 + length]


def test_the_bytes_of_a_tiny_file_are_known():
    """The keys are sorted, spaces fill the header up to eight bytes, and the data follows."""
    packed = pack_tensors({"b": torch.tensor([1.0]), "a": torch.tensor([2], dtype=torch.uint8)}, {})
    header = (
        b'{"__metadata__":{},'
        b'"a":{"data_offsets":[4,5],"dtype":"U8","shape":[1]},'
        b'"b":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    assert packed == struct.pack("<Q", len(padded)) + padded + struct.pack("<fB", 1.0, 2)


def test_equal_content_gives_equal_bytes():
    """The library alone would order the keys of the metadata differently from call to call."""
    names = [f"stage/unet#{index}/0" for index in range(9)]
    tensors = {name: torch.arange(float(index)) for index, name in enumerate(names)}
    backwards = dict(reversed(METADATA.items()))
    packed = {pack_tensors(tensors, METADATA) for _ in range(20)}
    assert packed == {pack_tensors(dict(reversed(tensors.items())), backwards)}


@pytest.mark.parametrize("text", ["", "x", "xx", "xxx", "xxxx", "xxxxx", "xxxxxx", "xxxxxxx"])
def test_the_tensors_begin_at_a_multiple_of_eight_bytes(text: str):
    """They do whatever the length of the header, so that they can be mapped from the disk."""
    length, header = header_of(pack_tensors({"a": torch.zeros(3)}, {"text": text}))
    assert length % 8 == 0
    assert json.loads(header)["__metadata__"] == {"text": text}


def test_the_library_reads_tensors_and_metadata_back(tmp_path: Path):
    """Views that share memory, other layouts, and types of other widths are among them."""
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "noise/0": whole.T,
        "output/image": whole[1],
        "stage/unet#0/0": torch.tensor([1.5], dtype=torch.bfloat16),
        "stage/x#0/mask": torch.tensor([True, False, True]),
        "stage/x#0/scalar": torch.tensor(7),
        "stage/x#0/empty": torch.zeros(0, 4),
    }
    packed = pack_tensors(tensors, METADATA)
    found = load(packed)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    path = tmp_path / "tensors.safetensors"
    path.write_bytes(packed)
    with safe_open(path, "pt") as file:
        assert file.metadata() == METADATA
