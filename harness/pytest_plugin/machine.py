"""Owns the name of this machine's type, found without importing a framework."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")
CONTROL = Path("/dev/nvidiactl")  # it exists where a GPU can be used
CPUS = Path("/proc/cpuinfo")
QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
QUERY_SECONDS = 60
VISIBLE = "CUDA_VISIBLE_DEVICES"


def machine_type() -> str:
    """Return this machine's type, for names of files: `nvidia-h200`, `amd-epyc-9b45`.

    That is its GPU models, or its CPU model where it has no GPU.
    """
    names = sorted(set(gpus())) or [_cpu()]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(names).lower()).strip("-")


def gpus() -> list[str]:
    """Return the models of this machine's GPUs.

    A GPU whose model cannot be told has the machine's name, so that it equals no other machine's.
    """
    names = _gpus_of_driver()
    if not names and CONTROL.exists():
        names = _gpus_of_tool()
    return names


def take_own_gpu(process: str) -> None:
    """Let a process of xdist, such as `gw3`, see one GPU: each process another one in turn.

    Nothing changes without GPUs, or with one. The variable must be set before torch is imported.
    """
    visible = os.environ.get(VISIBLE)
    numbers = visible.split(",") if visible else [str(index) for index, _ in enumerate(gpus())]
    place = re.search(r"\d+", process)
    if len(numbers) > 1 and place is not None:
        os.environ[VISIBLE] = numbers[int(place[0]) % len(numbers)]


def _gpus_of_driver() -> list[str]:
    found = []
    for path in sorted(DRIVER.glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            found.append(match[1].strip())
    return found


def _gpus_of_tool() -> list[str]:
    try:
        done = subprocess.run(
            QUERY, capture_output=True, text=True, check=True, timeout=QUERY_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return [f"gpu of {platform.node()}"]
    return [name for name in done.stdout.split("\n") if name]


def _cpu() -> str:
    try:
        text = CPUS.read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()
