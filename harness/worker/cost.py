"""What a run costs: seconds by the wall clock and peak memory, with the device's work waited for."""

from __future__ import annotations

import gc
import re
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

import torch


class Meter:
    """The figures of one measured block; filled when the block ends."""

    seconds: float = 0.0
    peak_bytes: int = 0


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
    """Measure the block: wall seconds, and the peak of the process (cpu) or of the allocator (cuda) in bytes."""
    meter = Meter()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak_rss()
    started = time.perf_counter()
    yield meter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    meter.seconds = time.perf_counter() - started
    meter.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_rss()
