"""The environment of a run: versions, hardware, driver and settings, as the libraries report them.

Reports show it, and compare it with a baseline's to explain a difference. It decides no verdict.
"""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from ..protocol import VARIABLES, EnvironmentRecord, NumericsClassRecord
from . import determinism

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "safetensors",
    "huggingface_hub",
    "tokenizers",
    "accelerate",
    "mindspore",
    "mindone",
)


def describe(
    device: torch.device, numerics_class: NumericsClassRecord, unobserved: List[str]
) -> EnvironmentRecord:
    """Return the environment of this process, with the settings of torch in effect now.

    Args:
        device: Where the case runs.
        numerics_class: The class of this process for the case.
        unobserved: What the libraries here hide from the worker.
    """
    return {
        "numerics_class": numerics_class,
        "framework": "torch",
        "device_kind": device_kind(device),
        "versions": _versions(),
        "hardware": _hardware(device),
        "flags": _flags(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "unobserved": unobserved,
    }


def device_kind(device: torch.device) -> str:
    """Return the kind that release policies name: `cpu`, or a GPU's model as `nvidia-h200`."""
    if device.type == "cpu":
        return "cpu"
    model = torch.cuda.get_device_properties(device).name.lower()
    return re.sub(r"[^a-z0-9]+", "-", model).strip("-")


# Cached: versions stay while the process lives, and reading them takes as long as half a small run.
@lru_cache(maxsize=None)
def _versions() -> Dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    return found


def _hardware(device: torch.device) -> Dict[str, Any]:
    found: Dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "architecture": platform.machine(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        found["gpu"] = _gpu(device)
    return found


def _flags() -> Dict[str, Any]:
    found = determinism.effective()
    found["num_interop_threads"] = torch.get_num_interop_threads()
    if hasattr(torch.backends, "cpu"):  # an older torch does not tell
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def _cores() -> Optional[int]:
    """Return how many processors this process may use, or else how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if match is not None:
        return match.group(1).strip()
    return platform.processor() or platform.machine()


def _gpu(device: torch.device) -> Dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
    }


def _driver() -> Optional[str]:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"Kernel Module.*?(\d+\.\d+[.\d]*)", text)
    return match.group(1) if match else None
