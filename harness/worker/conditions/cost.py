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
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

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
        conditions: How the device ran, as far as anything tells: see `_cpu`, `_gpu`, and `_waited` for `waited`.
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
        return {
            name: [_between(*pair) for pair in zip(moments, moments[1:])]
            for name, moments in self._moments.items()
        }


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
        Path("/proc/self/clear_refs").write_text(
            "5", encoding="ascii"
        )  # Linux: sets the high-water mark to now


def _peak_rss() -> int:
    try:
        match = re.search(
            r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")
        )
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
    waited, started = _waited(), time.perf_counter()
    yield meter
    if cuda:
        torch.cuda.synchronize(device)
    meter.seconds = time.perf_counter() - started
    meter.conditions = _gpu(device) if cuda else _cpu()  # at once: a GPU that idles clocks down
    meter.conditions["waited"] = max(0.0, _waited() - waited)
    meter.peak_bytes = torch.cuda.max_memory_allocated(device) if cuda else _peak_rss()


def _waited() -> float:
    """Return for how many seconds threads of this process were ready to run while other work had the processor; Linux tells."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread that has ended
            total += int(path.read_text(encoding="ascii").split()[1])
    return total / 1e9


def _cpu() -> Dict[str, Any]:
    """Return `load`, the machine's over a minute, and where the system tells its clock, `mhz` of at most `most_mhz`."""
    found: Dict[str, Any] = {}
    with suppress(
        OSError, ValueError, AttributeError
    ):  # a virtual machine knows no clock, another system no load
        found["load"] = os.getloadavg()[0]
        for key, file in (("mhz", "scaling_cur_freq"), ("most_mhz", "cpuinfo_max_freq")):
            found[key] = (
                max(
                    int(path.read_text(encoding="ascii"))
                    for path in CORES.glob(f"cpu[0-9]*/cpufreq/{file}")
                )
                // 1000
            )
    return found


def _gpu(device: torch.device) -> Dict[str, Any]:
    """Return what nvidia-ml-py, where it is installed, tells of a GPU, of a slice's whole GPU: clock, heat, power.

    That is `slowed_by`, why the clock is held down now, `mhz` of at most `most_mhz`, `celsius` and `watts`; without what this
    GPU does not tell.
    """
    nvml, found = _nvml(), {}
    if nvml is None:
        return {}
    its: Any = torch.cuda.get_device_properties(device)
    ask: Dict[str, Callable[[Any], Any]] = {
        "slowed_by": lambda gpu: _named(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
        "mhz": lambda gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "most_mhz": lambda gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "celsius": lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "watts": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    }
    with suppress(nvml.NVMLError, AttributeError):  # an older torch knows no addresses
        address = f"{its.pci_domain_id:08x}:{its.pci_bus_id:02x}:{its.pci_device_id:02x}.0"
        gpu = nvml.nvmlDeviceGetHandleByPciBusId(address.encode())
        for name, question in ask.items():
            with suppress(nvml.NVMLError):
                found[name] = question(gpu)
    return found


def _named(reasons: int) -> List[str]:
    return [name for bit, name in SLOWING.items() if reasons & bit]


@lru_cache(maxsize=None)
def _nvml() -> Optional[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver of this maker: nothing is known then
        return None
    return pynvml
