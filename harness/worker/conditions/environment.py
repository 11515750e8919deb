"""The environment: versions, hardware, driver and flags, as the libraries report them. Shown, and compared to explain."""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Optional

import torch

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
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_CBWR", "MKL_DYNAMIC",
    "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OMP_DYNAMIC", "NPY_DISABLE_CPU_FEATURES", "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DISABLED", "PYTORCH_CUDA_ALLOC_CONF", "PYTHONHASHSEED",
)  # fmt: skip


@lru_cache(
    maxsize=None
)  # they stay while the process lives, and reading them takes as long as half a small run
def _versions() -> Dict[str, str]:
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    return found


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _driver() -> Optional[str]:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"Kernel Module.*?(\d+\.\d+[.\d]*)", text)
    return match.group(1) if match else None


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


def device_kind(device: torch.device) -> str:
    """Return the kind that release policies and cost figures name: `cpu`, or the GPU's model such as `nvidia-h200`."""
    if device.type == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_properties(device).name.lower()).strip(
        "-"
    )


def describe(device: torch.device) -> Dict[str, Any]:
    """Return the environment of this process for `device`, with the switches in effect now."""
    hardware: Dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        hardware["gpu"] = _gpu(device)
    flags = {**determinism.effective(), "num_interop_threads": torch.get_num_interop_threads()}
    if hasattr(torch.backends, "cpu"):
        flags["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return {
        "device_kind": device_kind(device),
        "versions": _versions(),
        "hardware": hardware,
        "flags": flags,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
