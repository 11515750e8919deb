"""Whether a case can run here: told from files alone, without a framework."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from harness.launch import availability as module
from harness.launch.availability import Availability, availability
from harness.records import Device
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.scenario.weights import (
    Adapter,
    AdapterKind,
    Checkpoint,
    CheckpointKind,
    Component,
)

HUB = Checkpoint(
    CheckpointKind.HUB, repository="stable-diffusion/v1-5", revision="0123456789abcdef"
)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty folder that stands for `/dev`."""
    real = Path

    def moved(*parts: str) -> Path:
        path = real(*parts)
        return tmp_path / path.relative_to("/dev") if path.is_relative_to("/dev") else path

    moved.home = real.home
    monkeypatch.setattr(module, "Path", moved)
    return tmp_path


def on(device: str, **changes) -> Case:
    """Return the smallest case on a device."""
    return builders.case(device, **changes)


def test_a_bundled_checkpoint_runs_on_every_cpu(devices: Path):
    """Its weights come with the package."""
    assert availability(on("cpu")) == Availability(can_run=True)
    assert str(availability(on("cpu"))) == "yes"


@pytest.mark.parametrize(
    ("device", "file", "reason"),
    [
        ("cuda", "nvidiactl", "no CUDA device"),
        ("ascend", "davinci0", "no Ascend device"),
    ],
)
def test_a_device_is_here_where_its_driver_left_a_file(devices: Path, device, file, reason):
    """No framework is imported to ask it."""
    assert str(availability(on(device))) == f"no: {reason}"
    (devices / file).touch()
    assert availability(on(device)).can_run


def test_a_folder_of_weights_must_be_there(devices: Path, tmp_path: Path):
    """A checkpoint by path is nobody's to fetch."""
    folder = tmp_path / "weights"
    checkpoint = Checkpoint(CheckpointKind.PATH, "weights", str(folder))
    assert str(availability(on("cpu", checkpoint=checkpoint))) == f"no: no folder {folder}"
    folder.mkdir()
    assert availability(on("cpu", checkpoint=checkpoint)) == Availability(can_run=True)


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HUB_CACHE", ""), ("HF_HOME", "hub")], ids=["cache", "home"]
)
def test_only_a_run_can_tell_whether_the_hub_gives_its_weights(
    devices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
):
    """Unless the Hub's client has them in its cache."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    found = availability(on("cpu", checkpoint=HUB))
    assert (found.can_run, found.certain) == (True, False)
    assert str(found) == "if the Hub gives its weights"
    cached = tmp_path / "cache" / below / "models--stable-diffusion--v1-5" / "snapshots"
    cached.mkdir(parents=True)
    assert availability(on("cpu", checkpoint=HUB)) == Availability(can_run=True)


@pytest.mark.parametrize("made", [True, False])
def test_a_framework_with_pins_needs_its_environment(
    devices: Path, monkeypatch: pytest.MonkeyPatch, made: bool
):
    """It is large, and is never made unasked."""
    monkeypatch.setattr("harness.launch.sandbox.is_made", lambda _pins: made)
    found = availability(on("cpu", framework=Framework.MINDSPORE))
    reason = (
        ""
        if made
        else "no environment with mindspore here; make it with: harness env --make mindspore"
    )
    assert (found.can_run, found.reason) == (made, reason)


def test_the_first_thing_that_is_missing_is_named(devices: Path):
    """A device comes before weights: without it they are of no use."""
    assert availability(on("cuda", checkpoint=HUB)).reason == "no CUDA device"


def test_every_device_beside_the_cpu_is_looked_for(devices: Path):
    """A new device must be given a file to look for."""
    without_file = (Device.CPU, Device.ENDPOINT)
    elsewhere = [device for device in Device if device not in without_file]
    assert not any(availability(on(device)).can_run for device in elsewhere)


def test_a_server_must_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    """Whether it answers, only a run can tell."""
    served = Checkpoint(CheckpointKind.ENDPOINT, "ENGINE_URL")
    monkeypatch.delenv("ENGINE_URL", raising=False)
    found = availability(on("endpoint", checkpoint=served))
    assert (found.can_run, found.reason) == (
        False,
        "the environment variable ENGINE_URL names no server",
    )
    monkeypatch.setenv("ENGINE_URL", "http://127.0.0.1:1/v1")
    assert availability(on("endpoint", checkpoint=served)).can_run


def test_components_and_adapters_must_be_here_too(devices: Path, tmp_path: Path):
    """What is missing comes before what only a run can tell."""
    absent = Checkpoint(CheckpointKind.PATH, "ink", str(tmp_path / "ink.safetensors"))
    lora = Adapter(AdapterKind.LORA, absent)
    components = {"vae": (Component(HUB),), "safety_checker": ()}
    assert availability(on("cpu", components=components)).certain is False
    found = availability(on("cpu", components=components, adapters=(lora,)))
    assert (found.can_run, found.reason) == (False, f"no file {absent.folder}")
    (tmp_path / "ink.safetensors").touch()
    assert availability(on("cpu", adapters=(lora,))).can_run
    folder = Component(Checkpoint(CheckpointKind.PATH, "vae", str(tmp_path / "vae")))
    assert not availability(on("cpu", components={"vae": (folder,)})).can_run


@pytest.mark.parametrize(
    ("has_driver", "said"), [(True, "if torch finds a GPU"), (False, "no: no CUDA device")]
)
def test_on_windows_a_library_of_the_driver_says_that_there_may_be_a_gpu(
    devices: Path, monkeypatch: pytest.MonkeyPatch, has_driver: bool, said: str
):
    """There is no file for a device; only torch can tell."""
    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setenv("SYSTEMROOT", str(devices))
    library = devices / "System32" / "nvcuda.dll"
    library.parent.mkdir()
    if has_driver:
        library.touch()
    assert str(availability(on("cuda"))) == said
