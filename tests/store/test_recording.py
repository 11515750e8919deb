"""Recordings: read as attributes, and refused when a byte is not the one that was sealed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.errors import FileError
from harness.records import Stage
from harness.store.recording import TENSOR_NAME, ModuleCall, OperatorCall, Recording
from harness.store.typed_json import encode
from harness.worker.files import digest_json, dumps
from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE

OPERATOR = OperatorCall("aten.mm", {"0": "i"}, {"0": "o"}, ("2x2", "2x2"), "model.py:7")
KEPT = {
    "scheduler.step#1/sample": builders.NOISE,
    "scheduler.step#0/sample": builders.NOISE + 1,
    "unet#0/sample": builders.NOISE + 2,
}
STAGES = (
    ("unet#0", {"sample": "n"}, {"sample": "u"}),
    ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "s"}),
    ("scheduler.step#1", {"sample": "s"}, {"prev_sample": "t"}),
)


def content_of(folder: Path) -> dict:
    return json.loads((folder / RECORDING_FILE).read_text(encoding="utf-8"))


def seal(folder: Path, content: dict) -> None:
    """Write a recording's JSON, with the digest over itself."""
    sealed = {**content, "digest": digest_json(content)}
    (folder / RECORDING_FILE).write_text(dumps(sealed), encoding="utf-8")


def test_a_recording_is_read_as_it_was_written(tmp_path):
    """Every member by its name, and every tensor bit for bit, bound to its stage."""
    recording = builders.recording(
        tmp_path,
        stages=STAGES,
        kept=KEPT,
        fault="fault took effect",
        operators=[encode(OPERATOR)],
        case={"id": "digits[cpu-float32]", "perturbation": None},
    )
    assert recording.numerics_class == builders.numerics_class("a")
    assert recording.environment == builders.environment()
    assert recording.weights == {"configuration": "c", "unet": "w"}
    assert [observed.stage for observed in recording.stages] == [
        Stage("unet", 0),
        Stage("scheduler.step", 0),
        Stage("scheduler.step", 1),
    ]
    assert (recording.fault, recording.operators) == ("fault took effect", (OPERATOR,))
    assert recording.case == {"id": "digits[cpu-float32]", "perturbation": None}
    assert recording.cost == builders.figures(2.0)
    assert recording.output_digests == {"image": recording.outputs["image"].digest}
    assert recording.outputs["image"].size == builders.IMAGE.size
    assert recording.output_tensors["image"].tobytes() == builders.IMAGE.tobytes()
    assert [array.tobytes() for array in recording.noise_tensors] == [builders.NOISE.tobytes()]
    assert list(recording.stage_tensors) == [
        (Stage("noise", 0), ""),
        (Stage("unet", 0), "sample"),
        (Stage("scheduler.step", 0), "sample"),
        (Stage("scheduler.step", 1), "sample"),
    ]


def test_draws_of_noise_come_in_their_order_also_beyond_the_tenth(tmp_path):
    """Names sort `10` before `2`; draws are numbers."""
    noise = [np.full(1, index, np.float32) for index in range(12)]
    recording = builders.recording(tmp_path, noise=noise)
    assert [float(array[0]) for array in recording.noise_tensors] == list(range(12))


def test_what_has_no_value_is_nothing_or_nan(tmp_path):
    """Statistics of a tensor that is not finite are None; a figure of the cost is NaN."""
    image = np.array([np.nan, 1.0], np.float32)
    cost = replace(builders.figures(2.0), seconds=float("nan"))
    recording = builders.recording(tmp_path, image, cost=cost)
    facts = recording.outputs["image"]
    assert (facts.finite, facts.abs_sum, facts.l2) == (False, None, None)
    assert np.isnan(recording.cost.seconds)


def test_the_inside_of_a_stage_is_there_where_it_was_recorded(tmp_path):
    """Modules and digests of weights lie in the metadata of the tensor file."""
    recording = builders.recording(tmp_path)
    call = ModuleCall("down.0#0", "Conv2d", "i", "o")
    metadata = {
        "modules": json.dumps({"unet#0": [encode(call)]}),
        "weights": json.dumps({"unet": {"conv.weight": "d"}}),
    }
    save_file(load_file(tmp_path / TENSORS_FILE), tmp_path / TENSORS_FILE, metadata)
    assert recording.modules_inside(Stage("unet", 0)) == [call]
    assert recording.has_modules_inside("unet#0")
    assert recording.modules_inside("unet#1") == []
    assert not recording.has_modules_inside("unet#1")
    assert recording.weight_digests("unet") == {"conv.weight": "d"}
    assert recording.weight_digests("vae") == {}


def test_the_seal_is_over_every_member(tmp_path):
    """Whichever one is changed, the digest does not fit."""
    builders.recording(tmp_path)
    content = content_of(tmp_path)
    for key in sorted(content.keys() - {"format"}):
        (tmp_path / RECORDING_FILE).write_text(dumps({**content, key: "other"}), encoding="utf-8")
        with pytest.raises(FileError, match="its digest does not fit"):
            Recording.read(tmp_path)


def test_no_flipped_bit_of_the_json_goes_unnoticed(tmp_path):
    """Three hundred positions, drawn with one seed; the error names the file."""
    builders.recording(tmp_path)
    path = tmp_path / RECORDING_FILE
    sealed = path.read_bytes()
    draw = random.Random(0)  # noqa: S311 (nothing is secret)
    for _ in range(300):
        changed = bytearray(sealed)
        changed[draw.randrange(len(sealed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(FileError) as caught:
            Recording.read(tmp_path)
        assert caught.value.path == path


def test_no_flipped_bit_of_the_tensors_goes_unnoticed(tmp_path):
    """Three hundred positions of header and data, when verified and when first read."""
    builders.recording(tmp_path, kept=KEPT, stages=STAGES)
    path = tmp_path / TENSORS_FILE
    sealed = path.read_bytes()
    draw = random.Random(0)  # noqa: S311 (nothing is secret)
    for _ in range(300):
        changed = bytearray(sealed)
        changed[draw.randrange(len(sealed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        recording = Recording.read(tmp_path)
        for touch in (recording.verify_tensors, lambda read=recording: read.output_tensors):
            with pytest.raises(FileError, match="its bytes are not those that were recorded"):
                touch()
    path.write_bytes(sealed)
    Recording.read(tmp_path).verify_tensors()


@pytest.mark.parametrize("length", [0, 1, 8, 100, -1])
def test_tensors_that_were_cut_short_are_refused(tmp_path, length):
    """As by a disk that was full, or a copy that was interrupted."""
    recording = builders.recording(tmp_path)
    content = recording.tensors_path.read_bytes()
    recording.tensors_path.write_bytes(content[:length])
    with pytest.raises(FileError, match="its bytes are not those that were recorded"):
        recording.verify_tensors()


@pytest.mark.parametrize("extra", [b"\0", b"\0\0\0\0"])
def test_tensors_with_zeros_behind_them_are_refused(tmp_path, extra):
    """Zeros add nothing to a sum; the length is part of the digest."""
    recording = builders.recording(tmp_path)
    recording.tensors_path.write_bytes(recording.tensors_path.read_bytes() + extra)
    with pytest.raises(FileError, match="its bytes are not those that were recorded"):
        recording.verify_tensors()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_json(folder: Path) -> None:
    (folder / RECORDING_FILE).unlink()


def folder_for_json(folder: Path) -> None:
    remove_json(folder)
    (folder / RECORDING_FILE).mkdir()


def earlier_format(folder: Path) -> None:
    seal(folder, {**content_of(folder), "format": "harness-recording/1"})


def results_in_its_place(folder: Path) -> None:
    seal(folder, {"format": "harness-results/2"})


def no_object(folder: Path) -> None:
    (folder / RECORDING_FILE).write_text("7", encoding="utf-8")


def without_stages(folder: Path) -> None:
    content = content_of(folder)
    del content["stages"]
    seal(folder, content)


def text_for_a_shape(folder: Path) -> None:
    content = content_of(folder)
    content["outputs"]["image"]["shape"] = "1x2"
    seal(folder, content)


def unknown_key(folder: Path) -> None:
    seal(folder, {**content_of(folder), "colour": "blue"})


READS = "this version of the harness reads 'harness-recording/2'"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "gone": (remove_folder, "does not exist"),
    "json-gone": (remove_json, "does not exist"),
    "folder": (folder_for_json, "is no file"),
    "earlier-format": (earlier_format, f"has format 'harness-recording/1'; {READS}"),
    "results": (results_in_its_place, f"has format 'harness-results/2'; {READS}"),
    "no-object": (no_object, f"has format None; {READS}"),
    "without-stages": (without_stages, "is not a recording: $: the key `stages` is missing"),
    "text-for-a-shape": (
        text_for_a_shape,
        "is not a recording: $.outputs.image.shape: expected a list, found '1x2'",
    ),
    "unknown-key": (unknown_key, "is not a recording: $: unknown key `colour`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_recording_that_cannot_be_read_says_why(tmp_path, name):
    """Gone, of another format, or sealed around content that is no recording's."""
    folder = tmp_path / "recording"
    builders.recording(folder)
    change, problem = BROKEN[name]
    change(folder)
    with pytest.raises(FileError) as caught:
        Recording.read(folder)
    assert (caught.value.path, caught.value.problem) == (folder / RECORDING_FILE, problem)


def test_tensors_that_are_gone_are_refused_when_they_are_wanted(tmp_path):
    """The JSON alone still says what happened."""
    recording = builders.recording(tmp_path)
    recording.tensors_path.unlink()
    again = Recording.read(tmp_path)
    assert again.output_digests == recording.output_digests
    with pytest.raises(FileError, match="cannot be read: No such file or directory"):
        again.verify_tensors()
    with pytest.raises(FileError, match="cannot be read: No such file or directory"):
        _ = again.tensors


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Xeon x2"),
        (
            {"hardware": {"cpu": "Xeon", "cores": 2, "gpu": {"name": "H200"}}},
            "H200 Xeon x2",
        ),
        ({"framework": "mindspore"}, "Xeon x2 mindspore"),
        ({"hardware": {"cpu": "Xeon", "cores": 2, "gpu": None}}, "Xeon x2"),
    ],
    ids=["cpu", "gpu", "mindspore", "no-gpu"],
)
def test_a_machine_type_names_what_decides_speed(changes, expected):
    """GPU, CPU, cores in use, and a framework other than torch."""
    assert builders.environment(**changes).machine_type == expected


def test_a_recording_may_hold_tensors_of_modules_and_operators(tmp_path):
    """The search for root causes keeps them; a name of no kind is refused."""
    kept = {"unet#0/sample": builders.NOISE}
    recording = builders.recording(tmp_path / "known", kept=kept)
    named = {
        "module/vae.decode#0/conv_in#0/0": builders.NOISE,
        "operator/3/0": builders.NOISE,
        "output/image": builders.IMAGE,
    }
    for name in named:
        assert TENSOR_NAME.fullmatch(name)
    for name in ("image", "stage/unet/sample", "operator/x/0", "module/unet/0"):
        assert not TENSOR_NAME.fullmatch(name)
    assert (Stage("unet", 0), "sample") in recording.stage_tensors
