"""Inputs of a call: decoded as diffusers decodes them, with digests of what the pipeline gets."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from harness.worker.observe.digest import digest
from harness.worker.pipeline.inputs import Inputs, portable_noise, portable_pattern
from harness.worker.protocol import CaseError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
RAMP = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Return a reader of inputs in a folder that holds one of each kind."""
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.save(tmp_path / "ramp.npy", RAMP)
    np.savez(tmp_path / "two.npz", ramp=RAMP, other=RAMP * 2)
    save_file({"ramp": RAMP}, tmp_path / "one.safetensors")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in (10, 2, 1):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(frames / f"{index:03}.png")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array([[0, 16384], [-32768, 1]], np.int16).tobytes())
    return Inputs(tmp_path, "diffusers", torch.device("cpu"))


def test_an_image_comes_in_the_mode_that_is_asked_for(inputs: Inputs):
    """RGB unless the scenario says otherwise; the digest is of what the pipeline gets."""
    call = inputs.resolve({"image": {"image": "grey.png"}, "mask_image": {"mask": "grey.png"}})
    assert (call["image"].mode, call["mask_image"].mode) == ("RGB", "L")
    colour, mask = inputs.records
    assert (colour["name"], colour["argument"]) == ("image#0", "image")
    assert (mask["name"], mask["argument"]) == ("mask#0", "mask_image")
    assert colour["digest"] == digest(np.stack([GREY] * 3, axis=-1))
    assert mask["digest"] == digest(GREY)
    assert colour["file"] == mask["file"]


def test_several_images_of_one_kind_are_counted(inputs: Inputs):
    """So that a difference names the one that differs."""
    inputs.resolve({"image": [{"image": "grey.png"}, {"image": "grey.png", "mode": "L"}]})
    assert [record["name"] for record in inputs.records] == ["image#0", "image#1"]


def test_a_folder_of_frames_is_a_video_in_the_order_of_its_names(inputs: Inputs):
    """No decoder is needed, so that it works on every machine."""
    frames = inputs.resolve({"video": {"video": "frames"}})["video"]
    assert [frame.getpixel((0, 0))[0] for frame in frames] == [1, 2, 10]


def test_audio_is_read_as_samples_between_minus_one_and_one(inputs: Inputs):
    """Shape (channels, samples), float32, exact for the whole numbers of the file."""
    samples = inputs.resolve({"audio": {"audio": "tone.wav"}})["audio"]
    assert samples.tolist() == [[0.0, -1.0], [0.5, 2.0**-15]]


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ({"array": "ramp.npy"}, torch.Tensor),
        ({"array": "ramp.npy", "as": "numpy"}, np.ndarray),
        ({"array": "two.npz", "key": "ramp"}, torch.Tensor),
        ({"array": "one.safetensors"}, torch.Tensor),
        ({"array": "one.safetensors", "as": "numpy"}, np.ndarray),
    ],
)
def test_an_array_comes_from_every_format_with_one_digest(inputs: Inputs, reference, kind):
    """The digest is of the content, whatever the file's format and whoever gets it."""
    value = inputs.resolve({"prompt_embeds": reference})["prompt_embeds"]
    assert isinstance(value, kind)
    assert np.array_equal(np.asarray(value), RAMP)
    assert inputs.records[0]["digest"] == digest(RAMP)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"array": "two.npz"}, "two.npz holds other, ramp; name one of them as `key`"),
        ({"array": "pickled.npy"}, "the array pickled.npy cannot be read: .*pickle"),
        ({"image": "ramp.npy"}, "the image ramp.npy cannot be read"),
        ({"object": "UNet2DModel"}, "no dataclass `UNet2DModel` of conditions"),
        ({"object": "nothing"}, "no dataclass `nothing` of conditions"),
    ],
)
def test_what_cannot_be_decoded_is_the_cases_error(inputs: Inputs, reference, message: str):
    """A pickle is never loaded, and only dataclasses of conditions are built by name."""
    with pytest.raises(CaseError, match=message):
        inputs.resolve({"image": reference})


def test_made_inputs_have_the_same_bits_on_every_machine(inputs: Inputs):
    """They are made of whole numbers and exact sums; their digests are written down here."""
    noise, pattern = portable_noise(7, (1, 2, 8)), np.asarray(portable_pattern(16, 8, "RGB"))
    assert (digest(noise), digest(pattern)) == (
        "c0d6fda8c0f8d79840ad650f59504690",
        "64e24a72a12892977b8264740ff95d95",
    )
    assert abs(float(portable_noise(0, (10_000,)).std()) - 1) < 0.02


def test_a_condition_is_built_from_its_fields(inputs: Inputs):
    """Its fields may be references themselves, and an unknown one is refused."""
    reference = {"object": "LTXVideoCondition", "image": {"image": "grey.png"}, "frame_index": 3}
    condition = inputs.resolve({"conditions": [reference]})["conditions"][0]
    assert (type(condition).__name__, condition.frame_index) == ("LTXVideoCondition", 3)
    assert condition.image.mode == "RGB"
    with pytest.raises(CaseError, match="LTXVideoCondition has no field `picture`"):
        inputs.resolve({"conditions": {"object": "LTXVideoCondition", "picture": 1}})
