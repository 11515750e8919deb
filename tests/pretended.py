"""A pretended GPU: it has the facts of a real one and does its work on the CPU.

So the way of a case on CUDA can be walked on a machine without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode

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


FETCHING = (
    torch.Tensor.cpu,
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.__bool__,
)


class OnTheCpu(TorchFunctionMode):
    """Does on the CPU whatever is asked of a GPU.

    `log` has every tensor that is fetched to the host, for which a GPU must wait.
    """

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self._log = log

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args)
        if func in FETCHING or (func is torch.Tensor.to and "cpu" in map(str, args[1:])):
            self._log.append("fetch")
        return func(
            *map(here, args), **{name: here(value) for name, value in (kwargs or {}).items()}
        )


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
        moment.record = lambda: (
            self.log.append("event") or vars(moment).update(at=time.perf_counter())
        )
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


def told(gpu: Gpu) -> list[tuple[Any, str, Any]]:
    """Return what torch says on a machine with this GPU: whose attribute, its name, its value."""
    cuda = {
        "is_available": lambda: True,
        "get_device_properties": lambda device: gpu.facts,
        "synchronize": gpu.noted("wait"),
        "reset_peak_memory_stats": gpu.noted("reset"),
        "max_memory_allocated": gpu.noted("peak", 4096),
        "Event": gpu.event,
    }
    return [
        *((torch.cuda, name, value) for name, value in cuda.items()),
        (torch.version, "cuda", "13.0"),
        (torch, "Generator", Generator),
    ]
