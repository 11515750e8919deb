"""Safetensors files: every type comes back, and no header can make the reader fall."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from harness.errors import FileError
from harness.store.safetensors import digest_file, open_tensors, read_header
from harness.worker.observe.digest import digest_bytes

DATA = bytes(range(16))


def written(folder: Path, header: object, data: bytes = DATA) -> Path:
    """Write a safetensors file with this header; bytes are written as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "tensors.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_tensors_of_every_kind_come_back(tmp_path):
    """bfloat16 comes as the float32 of the same value; empty and 0-d arrays keep their shape."""
    bits = np.array([0x3F80, 0xC000, 0x0001], np.uint16)
    header = {
        "__metadata__": {"format": "pt"},
        "brain": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "empty": {"dtype": "F32", "shape": [0, 2], "data_offsets": [6, 6]},
        "number": {"dtype": "I64", "shape": [], "data_offsets": [6, 14]},
        "pixels": {"dtype": "U8", "shape": [1, 2], "data_offsets": [14, 16]},
    }
    path = written(tmp_path, header, bits.tobytes() + struct.pack("<q", -7) + b"\x00\xff")
    found = {
        name: (array.dtype.name, array.shape, array.tolist())
        for name, array in open_tensors(path).items()
    }
    assert found == {
        "brain": ("float32", (3,), [1.0, -2.0, 2.0**-133]),
        "empty": ("float32", (0, 2), []),
        "number": ("int64", (), -7),
        "pixels": ("uint8", (1, 2), [[0, 255]]),
    }
    assert read_header(path).metadata == {"format": "pt"}


@pytest.mark.parametrize("header", [{}, {"__metadata__": {"a": "b"}}])
def test_a_file_without_tensors_has_none(tmp_path, header):
    """Nothing was kept, or there was nothing."""
    assert open_tensors(written(tmp_path, header, b"")) == {}


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    """Empty files have one, too."""
    path = tmp_path / "file"
    for content in (b"", DATA, DATA * 10_000 + b"x"):
        path.write_bytes(content)
        assert digest_file(path) == digest_bytes(np.frombuffer(content, np.uint8))


WHOLE = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "entry",
    [
        5,
        [1],
        None,
        {},
        {**WHOLE, "dtype": "F8"},
        {**WHOLE, "dtype": ["F32"]},
        {**WHOLE, "shape": [10**30]},
        {**WHOLE, "shape": [10**18, 10**18]},
        {**WHOLE, "shape": [-1]},
        {**WHOLE, "shape": [1.5]},
        {**WHOLE, "shape": "x"},
        {**WHOLE, "shape": None},
        {**WHOLE, "shape": [5]},
        {**WHOLE, "data_offsets": [0, 15]},
        {**WHOLE, "data_offsets": [0, 20]},
        {**WHOLE, "data_offsets": [0, 10**30]},
        {**WHOLE, "data_offsets": [-4, 16]},
        {**WHOLE, "data_offsets": [8, 4], "shape": [0]},
        {**WHOLE, "data_offsets": ["0", "16"]},
        {**WHOLE, "data_offsets": [0, 8, 16]},
        {**WHOLE, "data_offsets": 16},
    ],
    ids=str,
)
def test_an_entry_that_fits_no_data_is_refused(tmp_path, entry):
    """Whoever can write the file can also write the digest of it."""
    path = written(tmp_path, {"a": entry})
    with pytest.raises(FileError, match="is damaged") as caught:
        open_tensors(path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4,
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 10**7),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 19) + b'{"__metadata__":[]}',
    ],
    ids=[
        "empty",
        "half-a-length",
        "huge-length",
        "length-beyond-the-end",
        "list",
        "no-text",
        "nested",
        "metadata-a-list",
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, content):
    """The error names the file."""
    path = tmp_path / "tensors.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"is damaged|is no readable safetensors file") as caught:
        open_tensors(path)
    assert caught.value.path == path


@pytest.mark.parametrize("read", [read_header, open_tensors, digest_file])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, read):
    """It is not there, or a folder has its name."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileError) as caught:
            read(path)
        assert caught.value.path == path
