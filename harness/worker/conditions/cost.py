"""What a run costs: seconds, seconds per step, peak memory, and how the machine ran meanwhile.

Nothing is waited for inside the run: a GPU's steps are timed by events in its queue.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch

from ..protocol import ConditionsRecord

CORES = Path("/sys/devices/system/cpu")
PROCESS = Path("/proc/self")
# What holds a GPU's clock down, by the bits of NVML. Idling is not among them, and neither are
# clocks that the GPU's owner set.
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
        seconds: Wall seconds, until the device had finished its work.
        peak_bytes: The most memory that the process (cpu) or the allocator (cuda) held; 0 where
            nothing tells. Only Linux tells it of the block alone, others of the process's life.
        conditions: How the machine ran, as far as it tells.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self.conditions: ConditionsRecord = {}
        self._is_gpu = device.type == "cuda"
        self._moments: Dict[str, List[Any]] = {}

    def mark(self, scheduler: str) -> None:
        """Note that a step of a scheduler is over, without waiting for a GPU to reach it."""
        moment: Any = time.perf_counter()
        if self._is_gpu:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._moments.setdefault(scheduler, []).append(moment)

    def steps(self) -> Dict[str, List[float]]:
        """Return the seconds from the end of each step to the end of the next, by scheduler.

        They are known only after the block.
        """
        return {
            scheduler: [self._seconds_between(*pair) for pair in zip(moments, moments[1:])]
            for scheduler, moments in self._moments.items()
        }

    def _seconds_between(self, start: Any, end: Any) -> float:
        if self._is_gpu:
            return float(start.elapsed_time(end)) / 1000
        return float(end - start)


def step_seconds(meters: Sequence[Meter]) -> Dict[str, float]:
    """Return the median seconds of a step over all blocks, by scheduler.

    A scheduler that makes a single step is left out: nothing tells when that step began.
    """
    found: Dict[str, List[float]] = {}
    for meter in meters:
        for scheduler, seconds in meter.steps().items():
            found.setdefault(scheduler, []).extend(seconds)
    return {scheduler: median(seconds) for scheduler, seconds in found.items() if seconds}


@contextmanager
def measured(device: torch.device) -> Iterator[Meter]:
    """Measure the block; the meter's figures are filled in when it ends without an error."""
    meter = Meter(device)
    is_gpu = device.type == "cuda"
    gc.collect()
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak_memory()
    waited = _waited_seconds()
    started = time.perf_counter()
    yield meter
    if is_gpu:
        torch.cuda.synchronize(device)
    meter.seconds = time.perf_counter() - started
    # At once: the clock of a GPU that idles goes down.
    meter.conditions = _gpu_conditions(device) if is_gpu else _cpu_conditions()
    meter.conditions["waited"] = max(0.0, _waited_seconds() - waited)
    meter.peak_bytes = torch.cuda.max_memory_allocated(device) if is_gpu else _peak_memory()


def _reset_peak_memory() -> None:
    """Set the process's high-water mark to what it holds now, which only Linux can."""
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")


def _peak_memory() -> int:
    """Return the most bytes of memory that the process held, or 0 where nothing tells.

    Linux's file tells it since the mark was reset. Other systems tell it since the process began:
    Unix by `resource`, Windows by psutil, where that is installed.
    """
    try:
        text = (PROCESS / "status").read_text(encoding="ascii")
    except OSError:
        text = ""
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    if match is not None:
        return int(match.group(1)) * 1024
    return _peak_of_unix() or _peak_of_psutil()


def _peak_of_unix() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on every other Unix
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_of_psutil() -> int:
    """Return the peak that psutil knows, or else what the process holds now; 0 without psutil."""
    try:
        import psutil
    except ImportError:
        return 0
    memory: Any = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def _waited_seconds() -> float:
    """Return for how long this process's threads were ready while others had the processor.

    Linux alone tells; elsewhere it is 0.
    """
    nanoseconds = 0
    for path in (PROCESS / "task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread that has just ended
            nanoseconds += int(path.read_text(encoding="ascii").split()[1])
    return nanoseconds / 1e9


def _cpu_conditions() -> ConditionsRecord:
    """Return the machine's load, and its clocks where the system tells them."""
    found: ConditionsRecord = {}
    # A virtual machine knows no clock, and another system than Unix no load.
    with suppress(OSError, ValueError, AttributeError):
        found["load"] = os.getloadavg()[0]
        found["mhz"] = _fastest_core("scaling_cur_freq")
        found["most_mhz"] = _fastest_core("cpuinfo_max_freq")
    return found


def _fastest_core(file: str) -> int:
    """Return the highest of all cores' clocks, in MHz; the system's files hold kHz."""
    paths = CORES.glob(f"cpu[0-9]*/cpufreq/{file}")
    return max(int(path.read_text(encoding="ascii")) for path in paths) // 1000


def _gpu_conditions(device: torch.device) -> ConditionsRecord:
    """Return what nvidia-ml-py, where it is installed, tells of a GPU: clocks, heat and power.

    Of a slice of a GPU, it tells the whole GPU's. What a GPU does not tell is left out.
    """
    found: ConditionsRecord = {}
    nvml = _nvml()
    if nvml is None:
        return found
    with suppress(nvml.NVMLError, AttributeError):  # an older torch knows no addresses
        gpu = nvml.nvmlDeviceGetHandleByPciBusId(_pci_address(device))
        with suppress(nvml.NVMLError):
            found["slowed_by"] = _reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
        with suppress(nvml.NVMLError):
            found["mhz"] = nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)
        with suppress(nvml.NVMLError):
            found["most_mhz"] = nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)
        with suppress(nvml.NVMLError):
            found["celsius"] = nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
        with suppress(nvml.NVMLError):
            found["watts"] = nvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return found


def _pci_address(device: torch.device) -> bytes:
    """Return the address by which NVML finds a GPU."""
    properties: Any = torch.cuda.get_device_properties(device)
    domain = properties.pci_domain_id
    bus = properties.pci_bus_id
    slot = properties.pci_device_id
    return f"{domain:08x}:{bus:02x}:{slot:02x}.0".encode()


def _reasons(bits: int) -> List[str]:
    return [name for bit, name in SLOWING.items() if bits & bit]


@lru_cache(maxsize=None)
def _nvml() -> Optional[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver of this maker: nothing is known then
        return None
    return pynvml
