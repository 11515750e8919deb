"""The files of a recording: sealed, the same for the same content, and without NaN or infinity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import FileError
from harness.store.recording import Recording
from harness.worker.files import digest_json
from harness.worker.observe.digest import digest_bytes
from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE
from harness.worker.recording import finite_json, tensor_record

INF = math.inf


def change_byte(path: Path, index: int) -> None:
    """Replace one byte of a file by another one."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


def test_a_recording_is_sealed(ask):
    """One digest is over the bytes of the tensor file, and one over everything else."""
    folder = ask().recording.tensors_path.parent
    content = json.loads((folder / RECORDING_FILE).read_text(encoding="utf-8"))
    tensors = np.frombuffer((folder / TENSORS_FILE).read_bytes(), np.uint8)
    assert content["tensors_file"] == {"file": TENSORS_FILE, "digest": digest_bytes(tensors)}
    assert content["digest"] == digest_json(content)
    content["repeat"]["distinct"] += 1
    assert content["digest"] != digest_json(content)


def test_a_recording_with_a_changed_tensor_is_refused(ask):
    """The last byte belongs to a tensor."""
    recording = ask().recording
    recording.verify_tensors()
    change_byte(recording.tensors_path, -1)
    with pytest.raises(FileError):
        recording.verify_tensors()


def test_a_recording_with_a_changed_fact_is_refused(ask):
    """Here another number of distinct outputs is written into it."""
    folder = ask().recording.tensors_path.parent
    path = folder / RECORDING_FILE
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"distinct": 1', '"distinct": 2'), encoding="utf-8")
    with pytest.raises(FileError):
        Recording.read(folder)


def test_two_runs_of_a_case_leave_the_same_tensor_file(ask):
    """The second run replaces the folder of the first, byte for byte by the same tensors."""
    first = ask().recording.tensors_path.read_bytes()
    second = ask().recording.tensors_path.read_bytes()
    assert second == first


def test_a_recording_replaces_the_folder_as_a_whole(ask, tmp_path: Path):
    """Nothing of what lay there before stays, and no temporary file either."""
    folder = ask().recording.tensors_path.parent
    (folder / "somebody's").write_text("own", encoding="utf-8")
    ask()
    assert sorted(path.name for path in folder.iterdir()) == [RECORDING_FILE, TENSORS_FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recording", "scenario.yaml"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"lambda_min_clipped": -INF}, {"lambda_min_clipped": "-inf"}),
        ({"sigmas": (0.5, INF)}, {"sigmas": [0.5, "inf"]}),
        ({"nested": [{"eta": math.nan}]}, {"nested": [{"eta": "nan"}]}),
        ({"class": "DDIMScheduler", "steps": 3, "clip": True, "betas": None, "end": 0.1}, None),
    ],
)
def test_a_number_that_json_lacks_becomes_text(value: Any, expected: Any):
    """Every other value of JSON stays as it is."""
    assert finite_json(value) == (value if expected is None else expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, -4.0], {"finite": True, "abs_sum": 7.0, "l2": 5.0, "min": -4.0, "max": 3.0}),
        ([], {"finite": True, "abs_sum": 0.0, "l2": 0.0, "min": None, "max": None}),
        ([1.0, INF], {"finite": False, "abs_sum": None, "l2": None, "min": None, "max": None}),
        ([math.nan], {"finite": False, "abs_sum": None, "l2": None, "min": None, "max": None}),
        ([1e200], {"finite": True, "abs_sum": 1e200, "l2": None, "min": 1e200, "max": 1e200}),
    ],
    ids=["finite", "empty", "infinite", "not-a-number", "overflowing"],
)
def test_a_statistic_that_is_not_finite_has_no_value(values: list[float], expected: dict[str, Any]):
    """A sum of squares may overflow although every element is finite."""
    record = tensor_record(torch.tensor(values, dtype=torch.float64))
    assert {name: record[name] for name in expected} == expected
    assert (record["shape"], record["dtype"]) == ([len(values)], "float64")


def test_the_statistics_of_bfloat16_are_those_of_its_values():
    """numpy lacks the type, but float32 holds every value of it exactly."""
    record = tensor_record(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert (record["dtype"], record["abs_sum"], record["min"]) == ("bfloat16", 3.5, -2.0)
