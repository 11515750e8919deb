"""The numerics class: what about 25 small operators return, bit for bit, on fixed inputs, under the settings in effect.

Two machines of one class owe each other the same bits. A processor's or GPU's name cannot say this: dispatch, library
versions, thread counts and settings decide, and the same name may hide two of them.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from ..observe.digest import combine
from ..observe.tensors import digest_tensor
from .portable import uniform


def _operators(device: torch.device, dtype: torch.dtype) -> Dict[str, Callable[[], torch.Tensor]]:
    """Return the operators by name; their shapes are large enough to be blocked and split among threads."""

    def fixed(name: str, *shape: int) -> torch.Tensor:
        return torch.from_numpy(uniform(name, shape)).to(device=device, dtype=dtype)

    def generator(kind: str) -> torch.Generator:
        return torch.Generator(kind).manual_seed(0)

    image, kernel, point = (
        fixed("image", 2, 64, 32, 32),
        fixed("kernel", 64, 64, 3, 3),
        fixed("point", 96, 64, 1, 1),
    )
    rows, matrix, bias = fixed("rows", 256, 320), fixed("matrix", 512, 320), fixed("bias", 512)
    left, right = fixed("left", 8, 64, 80), fixed("right", 8, 80, 96)
    query, key, value = (fixed(name, 2, 8, 77, 40) for name in ("query", "key", "value"))
    line = fixed("line", 70_000)
    half = torch.float32 if dtype == torch.float32 else dtype
    return {
        "conv3x3": lambda: F.conv2d(image, kernel, padding=1),
        "conv3x3-stride2": lambda: F.conv2d(image, kernel, stride=2, padding=1),
        "conv1x1": lambda: F.conv2d(image, point),
        "conv-transpose": lambda: F.conv_transpose2d(image, kernel, stride=2),
        "linear": lambda: F.linear(rows, matrix, bias),
        "linear-row": lambda: F.linear(rows[:1], matrix, bias),
        "bmm": lambda: torch.bmm(left, right),
        "sdpa": lambda: F.scaled_dot_product_attention(query, key, value),
        "softmax": lambda: torch.softmax(rows * 8, dim=-1),
        "group-norm": lambda: F.group_norm(image, 8),
        "layer-norm": lambda: F.layer_norm(rows, (320,)),
        "silu": lambda: F.silu(line),
        "gelu": lambda: F.gelu(line),
        "gelu-tanh": lambda: F.gelu(line, approximate="tanh"),
        "sigmoid": lambda: torch.sigmoid(line),
        "tanh": lambda: torch.tanh(line),
        "exp": lambda: torch.exp(line),
        "log": lambda: torch.log(line.abs() + 1),
        "sin": lambda: torch.sin(line * 100),
        "sqrt": lambda: torch.sqrt(line.abs()),
        "divide": lambda: line / (line.abs() + 1),
        "sum": line.sum,
        "mean-rows": lambda: rows.mean(dim=0),
        "cumprod": lambda: torch.cumprod(1 - rows.abs() / 50, dim=1),
        "bilinear": lambda: F.interpolate(image, scale_factor=2.0, mode="bilinear"),
        "nearest": lambda: F.interpolate(image, scale_factor=2.0, mode="nearest"),
        "randn-cpu": lambda: torch.randn(1000, generator=generator("cpu"), dtype=half),
        "randn-device": lambda: torch.randn(
            100_000, generator=generator(device.type), dtype=half, device=device
        ),
        "rand-device": lambda: torch.rand(
            1000, generator=generator(device.type), dtype=half, device=device
        ),
    }


def _one(operator: Callable[[], torch.Tensor]) -> str:
    try:
        return digest_tensor(operator())[:12]
    except (
        RuntimeError,
        NotImplementedError,
    ) as error:  # an operator that this device or dtype lacks
        return f"none: {str(error).splitlines()[0][:60]}"


def _readable(device: torch.device) -> str:
    if device.type != "cpu":
        properties = torch.cuda.get_device_properties(device)
        model = re.sub(r"[^a-z0-9]+", "-", properties.name.lower().replace("nvidia", "")).strip("-")
        return f"{device.type}-{model}-sm{properties.major}{properties.minor}"
    capability = (
        torch.backends.cpu.get_cpu_capability().lower()
        if hasattr(torch.backends, "cpu")
        else "unknown"
    )
    blas = "mkl" if torch.backends.mkl.is_available() else "blas"
    return f"cpu-{capability.replace(' ', '-')}-{blas}-t{torch.get_num_threads()}"


def numerics_class(device: torch.device, dtype: torch.dtype) -> Dict[str, Any]:
    """Measure torch's class in this process."""
    facts = {}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["device"] = (
            f"{properties.major}.{properties.minor} {properties.multi_processor_count} {torch.version.cuda}"
        )
    return class_of(_operators(device, dtype), _readable(device), facts)


def of_all(classes: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
    """Return the class of a case that computes in several types, from the class of each; its name begins as the first's."""
    first = next(iter(classes.values()))
    if len(classes) == 1:
        return first
    operators = {
        f"{dtype} {name}": digest
        for dtype, one in classes.items()
        for name, digest in one["operators"].items()
    }
    hashed = combine({dtype: str(one["hash"]) for dtype, one in classes.items()})
    return {
        "name": f"{first['name'].rsplit('-', 1)[0]}-{hashed[:8]}",
        "hash": hashed,
        "operators": operators,
    }


def class_of(
    operators: Dict[str, Callable[[], torch.Tensor]], readable: str, facts: Dict[str, str]
) -> Dict[str, Any]:
    """Run the operators and return the class: its `name`, its `hash`, and each operator's digest by name.

    Args:
        operators: By name.
        readable: What the name begins with.
        facts: What belongs to the class besides: operators of other shapes depend on it.
    """
    with torch.no_grad():
        digests = {name: _one(operator) for name, operator in operators.items()}
    hashed = combine({**digests, **facts})
    return {"name": f"{readable}-{hashed[:8]}", "hash": hashed, "operators": digests}
