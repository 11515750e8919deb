"""CUDA as far as a CPU can tell: a GPU that is only pretended, with the facts of a real one, does its work on the CPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import builders
import pytest
import torch
from torch.overrides import TorchFunctionMode

from harness.records import Recording
from harness.scenarios import DATA, read
from harness.worker import capture, cost, modules, numerics
from harness.worker.frameworks import Torch
from harness.worker.protocol import CannotRunHere
from harness.worker.recorder import Recorder
from harness.worker.tensors import digest_on_device

# As torch 2.11 and the driver told of an H200, and of a slice of one.
H200 = {
    "name": "NVIDIA H200",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "total_memory": 150_754_820_096,
    "pci_domain_id": 0,
    "pci_bus_id": 0x1B,
    "pci_device_id": 0,
}
SLICE = {**H200, "name": "NVIDIA H200 MIG 1g.18gb", "multi_processor_count": 16}
IDLE, POWER_CAP, HEAT = 0x1, 0x4, 0x20


class OnTheCpu(TorchFunctionMode):
    """Does on the CPU whatever is asked of a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args)
        return func(*map(here, args), **{name: here(value) for name, value in (kwargs or {}).items()})


def here(value: Any) -> Any:
    """Return `cpu` for a GPU, and anything else as it is."""
    named = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
    return torch.device("cpu") if named else value


class Generator(torch.Generator):
    """A GPU's generator that draws on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Self:
        return super().__new__(cls, here(device))


class Gpu:
    """What a run asks of a GPU besides arithmetic: `log` has it in order."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = SimpleNamespace(**facts)
        self.log: list[str] = []

    def noted(self, what: str, result: Any = None) -> Callable[..., Any]:
        """Return a function that notes `what`, and returns `result`."""
        return lambda *_: self.log.append(what) or result

    def event(self, *, enable_timing: bool) -> Any:
        """Return an event that a queue reaches at once."""
        assert enable_timing
        moment = SimpleNamespace()
        moment.record = lambda: self.log.append("event") or vars(moment).update(at=time.perf_counter())
        moment.elapsed_time = lambda other: 1000 * (other.at - moment.at)
        return moment


def nvml(reasons: int) -> SimpleNamespace:
    """Return what nvidia-ml-py offers, on a GPU that is held down for `reasons`."""

    def handle(address: bytes) -> str:
        assert address == b"00000000:1b:00.0"
        return "the GPU"

    return SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=handle,
        nvmlDeviceGetClockInfo=lambda of, kind: 1755,
        nvmlDeviceGetMaxClockInfo=lambda of, kind: 1980,
        nvmlDeviceGetTemperature=lambda of, sensor: 61,
        nvmlDeviceGetPowerUsage=lambda of: 412_000,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda of: reasons,
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Pretend that this machine has an H200."""
    made = Gpu(H200)
    told = {
        "is_available": lambda: True,
        "get_device_properties": lambda device: made.facts,
        "synchronize": made.noted("wait"),
        "reset_peak_memory_stats": made.noted("reset"),
        "max_memory_allocated": made.noted("peak", 4096),
        "Event": made.event,
    }
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "Generator", Generator)
    for module in (capture, modules):  # its tensors lie on the CPU, but shall be digested as a GPU's are
        monkeypatch.setattr(module, "digest_later", digest_on_device)
    cost._nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", nvml(IDLE))
    with OnTheCpu():
        yield made
    cost._nvml.cache_clear()


def recorded(folder: Path, device: str, **changes: str | None) -> Recording:
    """Record the smallest scenario, with changes to its keys, on a device, in this process."""
    path = folder / "scenario.yaml"
    path.write_text(builders.scenario_text(cases=f"{{device: {device}}}", **changes), encoding="utf-8")
    Recorder(lambda *_, **__: None).record(read(path).cases()[0].request(), folder / device)
    return Recording.read(folder / device)


SD = {
    "pipeline": "StableDiffusionPipeline",
    "checkpoint": f"{{path: {DATA / 'bundled' / 'digits-sd'}}}",
    "call": "{prompt: a handwritten two, num_images_per_prompt: 2, num_inference_steps: 3, output_type: np}",
    "seed": "[0, 1]",
}


@pytest.mark.parametrize("generator", ["cpu", "device"])
def test_a_case_goes_the_whole_way_on_a_gpu(gpu, tmp_path, generator):
    """With a list of generators of either kind: weights, noise, stages and outputs as on the CPU, which does the work."""
    on_gpu = recorded(tmp_path, "cuda", generator=generator, cost="{rounds: 3}", **SD)
    on_cpu = recorded(tmp_path, "cpu", generator=generator, cost="{rounds: 3}", **SD)
    assert on_gpu.outputs == on_cpu.outputs
    assert on_gpu.stages == on_cpu.stages
    assert on_gpu.inside("modules") == on_cpu.inside("modules")
    assert on_gpu.content["noise"] == on_cpu.content["noise"]
    assert on_gpu.content["repeat"] == {"runs": 3, "distinct": 1, "l_inf": 0.0, "watched_as_plain": True}


def test_its_facts_are_in_the_recording(gpu, tmp_path):
    """What tells one GPU type from another, and what may explain other bits."""
    environment = recorded(tmp_path, "cuda").content["environment"]
    assert environment["device_kind"] == "nvidia-h200"
    assert {name: environment["hardware"]["gpu"][name] for name in ("name", "compute_capability", "multiprocessors", "cuda")} == {
        "name": "NVIDIA H200",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "cuda": "13.0",
    }
    assert environment["class"]["name"].startswith("cuda-h200-sm90-")


def test_a_slice_of_a_gpu_is_a_class_of_its_own(gpu):
    """The operators that are tried have the same bits there; larger draws and products depend on the multiprocessors."""
    classes = []
    for facts in (H200, SLICE):
        gpu.facts = SimpleNamespace(**facts)
        classes.append(numerics.numerics_class(torch.device("cuda"), torch.float32))
    whole, part = classes
    assert whole["operators"] == part["operators"]
    assert whole["hash"] != part["hash"]
    assert part["name"].startswith("cuda-h200-mig-1g-18gb-sm90-")


def test_nothing_waits_for_it_inside_a_run(gpu, tmp_path):
    """Before and after a timed run; in between a step leaves an event in the queue. Capture waits nowhere."""
    recording = recorded(tmp_path, "cuda", call="{num_inference_steps: 3, output_type: np}", cost="{rounds: 2}")
    watched, timed = ["wait", "reset", "wait", "peak"], ["wait", "reset", "event", "event", "event", "wait", "peak"]
    assert gpu.log == [*watched, *timed]
    found = recording.content["cost"]
    assert found["peak_bytes"] == 4096
    assert 0 < 2 * found["step_seconds"]["scheduler"] < found["seconds"]


@pytest.mark.parametrize(
    ("reasons", "slowed_by"),
    [(IDLE, []), (POWER_CAP, ["power cap"]), (HEAT | POWER_CAP, ["power cap", "heat, by the driver"])],
)
def test_clocks_and_what_holds_them_down_are_recorded(gpu, tmp_path, monkeypatch, reasons, slowed_by):
    """By nvidia-ml-py, for every timed run; an idle GPU is not held down."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml(reasons))
    recording = recorded(tmp_path, "cuda", cost="{rounds: 2}")
    (condition,) = recording.content["cost"]["conditions"]
    assert condition == {"mhz": 1755, "most_mhz": 1980, "celsius": 61, "watts": 412.0, "slowed_by": slowed_by}


def test_without_its_package_nothing_is_known_of_clocks(gpu, tmp_path, monkeypatch):
    """The run is none the worse for it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert recorded(tmp_path, "cuda", cost="{rounds: 2}").content["cost"]["conditions"] == [{}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_a_case_cannot_run():
    """It is not verified; it does not fail."""
    with pytest.raises(CannotRunHere, match="no CUDA device on this machine"):
        Torch("cuda")
