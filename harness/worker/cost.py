"""What a run costs: wall seconds, seconds a step, peak memory, and how the device ran; nothing waits for it inside the run."""

from __future__ import annotations

import gc
import os
import re
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch

CORES = Path("/sys/devices/system/cpu")
# What holds a GPU's clock down, by NVML's bits. Idling, and clocks that its owner set, are not among them.
SLOWING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat, by the driver",
    0x40: "heat, by the hardware",
    0x80: "power brake",
}


class Meter:
    """The figures of one measured block.

    Attributes:
        seconds: By the wall clock, the device's work waited for at the end.
        peak_bytes: The most that the process (cpu) or the allocator (cuda) held.
        conditions: How the device ran when the block ended; see `conditions`.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds, self.peak_bytes = 0.0, 0
        self.conditions: Dict[str, Any] = {}
        self._device = device
        self._moments: Dict[str, List[Any]] = {}

    def mark(self, name: str) -> None:
        """Note that a step of the scheduler `name` is over; a GPU gets an event into its queue, for which nothing waits."""
        moment: Any = time.perf_counter()
        if self._device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._moments.setdefault(name, []).append(moment)

    def steps(self) -> Dict[str, List[float]]:
        """Return, by scheduler, the seconds from the end of each step to the end of the next; after the block."""
        return {name: [_between(*pair) for pair in zip(moments, moments[1:])] for name, moments in self._moments.items()}


def _between(one: Any, other: Any) -> float:
    return other - one if isinstance(one, float) else one.elapsed_time(other) / 1000


def step_seconds(meters: Sequence[Meter]) -> Dict[str, float]:
    """Return the median seconds of a step over all blocks, by scheduler; without those that make one step."""
    found: Dict[str, List[float]] = {}
    for meter in meters:
        for name, seconds in meter.steps().items():
            found.setdefault(name, []).extend(seconds)
    return {name: median(seconds) for name, seconds in found.items() if seconds}


def _reset_peak_rss() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: sets the high-water mark to now


def _peak_rss() -> int:
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        match = None
    if match:
        return int(match.group(1)) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def measured(device: torch.device) -> Iterator[Meter]:
    """Measure the block."""
    meter, cuda = Meter(device), device.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak_rss()
    started = time.perf_counter()
    yield meter
    if cuda:
        torch.cuda.synchronize(device)
    meter.seconds = time.perf_counter() - started
    meter.conditions = _gpu(device) if cuda else _cpu()  # at once: a GPU that idles clocks down
    meter.peak_bytes = torch.cuda.max_memory_allocated(device) if cuda else _peak_rss()


def _cpu() -> Dict[str, Any]:
    """Return `load`, the machine's over a minute, and where the system tells its clock, `mhz` of at most `most_mhz`."""
    found: Dict[str, Any] = {"load": os.getloadavg()[0]}
    with suppress(OSError, ValueError):  # a virtual machine knows no clock
        for key, file in (("mhz", "scaling_cur_freq"), ("most_mhz", "cpuinfo_max_freq")):
            found[key] = max(int(path.read_text(encoding="ascii")) for path in CORES.glob(f"cpu[0-9]*/cpufreq/{file}")) // 1000
    return found


def _gpu(device: torch.device) -> Dict[str, Any]:
    """Return `mhz` of at most `most_mhz`, `celsius`, `watts`, and why the clock is held down; empty where nvidia-ml-py is not."""
    nvml = _nvml()
    if nvml is None:
        return {}
    with suppress(nvml.NVMLError, AttributeError):  # not supported by this GPU; an older torch knows no addresses
        its: Any = torch.cuda.get_device_properties(device)
        address = f"{its.pci_domain_id:08x}:{its.pci_bus_id:02x}:{its.pci_device_id:02x}.0"
        handle = nvml.nvmlDeviceGetHandleByPciBusId(address.encode())
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return {
            "mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "most_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "celsius": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "slowed_by": [name for bit, name in SLOWING.items() if reasons & bit],
        }
    return {}


@lru_cache(maxsize=None)
def _nvml() -> Optional[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver of this maker: nothing is known then
        return None
    return pynvml
