"""Deterministic mode: sets the switches of torch that move bits, and restores them afterwards.

What must be set before torch is imported (CPU dispatch, thread counts, the cuBLAS workspace) is in
the environment variables that the launcher gives to the worker's process.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import torch

BACKENDS = ("flash", "mem_efficient", "cudnn", "math")  # of scaled-dot-product attention
# The operators that may compute on float32 tensors in a lower precision (TF32, and on the CPU
# bfloat16 too). These are attributes of `torch.backends`, each with an `fp32_precision`.
PRECISE = ("cuda.matmul", "cudnn.conv", "cudnn.rnn")
PRECISE_ON_CPU = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


class Switch(NamedTuple):
    """One setting of torch.

    Attributes:
        name: What a recording calls it.
        read: Returns the value in effect.
        write: Sets a value.
        wanted: The value in deterministic mode.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    wanted: Any


def _attribute(owner: Any, attribute: str, name: str, wanted: Any) -> List[Switch]:
    """Return an attribute as a switch, or nothing where this torch lacks it."""
    if not hasattr(owner, attribute):
        return []
    read = partial(getattr, owner, attribute)
    write = partial(setattr, owner, attribute)
    return [Switch(name, read, write, wanted)]


def _has_fp32_precision() -> bool:
    """Return whether this torch has `fp32_precision`, the newer of two interfaces to TF32.

    The other one is `allow_tf32`. They must not be mixed: torch raises an error where one is read
    after the other was written.
    """
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _cuda_precision(wanted: str) -> List[Switch]:
    """Return the switches of TF32 on the GPU; `wanted` is `ieee` (full float32) or `tf32`."""
    if _has_fp32_precision():
        return _fp32_precision(PRECISE, wanted)
    allows = wanted == "tf32"
    return [
        *_attribute(torch.backends.cuda.matmul, "allow_tf32", "cuda.matmul.allow_tf32", allows),
        *_attribute(torch.backends.cudnn, "allow_tf32", "cudnn.allow_tf32", allows),
    ]


def _cpu_precision() -> List[Switch]:
    """Return the switches that hold oneDNN to full float32, which an older torch lacks."""
    return _fp32_precision(PRECISE_ON_CPU, "ieee") if _has_fp32_precision() else []


def _fp32_precision(names: Tuple[str, ...], wanted: str) -> List[Switch]:
    found: List[Switch] = []
    for name in names:
        owner = attrgetter(name)(torch.backends)
        found += _attribute(owner, "fp32_precision", f"{name}.fp32_precision", wanted)
    return found


def _attention() -> List[Switch]:
    """Return the switches that allow no backend of attention but `math`.

    Every device and dtype has `math`. The last switch makes it compute float16 and bfloat16
    attention in float32.
    """
    cuda = torch.backends.cuda
    found = []
    for name in BACKENDS:
        read = getattr(cuda, f"{name}_sdp_enabled", None)
        write = getattr(cuda, f"enable_{name}_sdp", None)
        if read and write:
            found.append(Switch(f"sdpa.{name}", read, write, name == "math"))
    read = getattr(cuda, "fp16_bf16_reduction_math_sdp_allowed", None)
    if read:
        write = cuda.allow_fp16_bf16_reduction_math_sdp
        found.append(Switch("sdpa.math.reduced_precision", read, write, wanted=False))
    return found


def _half_precision_sums() -> List[Switch]:
    """Return the switches that forbid reduced-precision sums in float16 and bfloat16 products.

    Where they are allowed, cuBLAS may round partial sums of a matrix product to 16 bits.
    """
    matmul = torch.backends.cuda.matmul
    found: List[Switch] = []
    for short in ("fp16", "bf16"):
        attribute = f"allow_{short}_reduced_precision_reduction"
        found += _attribute(matmul, attribute, f"cuda.matmul.{short}_reduction", wanted=False)
    return found


def _read_algorithms() -> Tuple[bool, bool]:
    """Return whether deterministic algorithms are required, and whether torch then only warns."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _write_algorithms(value: Tuple[bool, bool]) -> None:
    is_enabled, warns_only = value
    torch.use_deterministic_algorithms(is_enabled, warn_only=warns_only)


def switches() -> List[Switch]:
    """Return the switches above that this torch has, in the order in which they are set."""
    deterministic = getattr(torch.utils, "deterministic", None)
    filling = "fill_uninitialized_memory"
    cudnn = torch.backends.cudnn
    mkldnn = torch.backends.mkldnn
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    return [
        Switch("deterministic_algorithms", _read_algorithms, _write_algorithms, (True, False)),
        *_attribute(deterministic, filling, filling, wanted=True),
        *_attribute(cudnn, "deterministic", "cudnn.deterministic", wanted=True),
        *_attribute(cudnn, "benchmark", "cudnn.benchmark", wanted=False),
        *_attribute(mkldnn, "deterministic", "mkldnn.deterministic", wanted=True),
        *_cuda_precision("ieee"),
        *_cpu_precision(),
        *_half_precision_sums(),
        *_attention(),
        Switch("num_threads", torch.get_num_threads, torch.set_num_threads, threads),
    ]


def effective() -> Dict[str, Any]:
    """Return the value that torch reports for every switch now, as JSON values by name."""
    found: Dict[str, Any] = {}
    for switch in switches():
        value = switch.read()
        found[switch.name] = list(value) if isinstance(value, tuple) else value
    return found


def chosen(attention: Optional[str], *, tf32: bool, every_kernel: bool = False) -> Dict[str, Any]:
    """Return the values that a case itself demands of switches, by their names.

    Args:
        attention: The only backend of attention that may run, one of `BACKENDS`; None where the
            case does not choose one.
        tf32: Whether the GPU may round the float32 operands of matrix products, convolutions and
            recurrent layers to TF32 (10 bits of mantissa, sums in float32).
        every_kernel: Whether torch may choose among all of its kernels of attention.
    """
    found: Dict[str, Any] = {}
    if attention:
        found.update({f"sdpa.{name}": name == attention for name in BACKENDS})
    elif every_kernel:
        found.update({f"sdpa.{name}": True for name in BACKENDS})
    if tf32:
        found.update({switch.name: switch.wanted for switch in _cuda_precision("tf32")})
    return found


@contextmanager
def settings(mode: str, own: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Set the switches of a mode, and restore their former values at the end, also after an error.

    Args:
        mode: `full` for deterministic mode, or `default` for torch's own settings.
        own: Values of switches that take precedence over the mode's, by name.
    """
    wanted: Dict[str, Any] = {}
    if mode == "full":
        wanted.update({switch.name: switch.wanted for switch in switches()})
    wanted.update(own)
    found = [(switch, switch.read()) for switch in switches() if switch.name in wanted]
    try:
        for switch, _ in found:
            switch.write(wanted[switch.name])
        yield
    finally:
        for switch, value in reversed(found):
            switch.write(value)


def seed_global_streams(seed: int) -> None:
    """Seed the global streams of python, numpy and torch, so that stray draws repeat too."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global stream is what is meant)
    torch.manual_seed(seed)


def scatter_global_streams() -> None:
    """Seed the same streams from the operating system's entropy, for cases that must vary."""
    random.seed()
    np.random.seed()  # noqa: NPY002 (the global stream is what is meant)
    torch.seed()
