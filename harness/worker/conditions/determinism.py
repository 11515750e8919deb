"""Deterministic mode: sets every switch that torch has for it, reports what is in effect, and puts back what it found.

What must be set before torch is imported (CPU dispatch, thread counts, the cuBLAS workspace) is in the environment
that the launcher gives to the worker; see `harness/launch/local.py`.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional

import numpy as np
import torch

BACKENDS = ("flash", "mem_efficient", "cudnn", "math")  # of scaled-dot-product attention


class Switch(NamedTuple):
    """One setting of torch: its name, how to read it, how to write it, and its value in deterministic mode."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    wanted: Any


def _attribute(owner: Any, name: str, path: str, wanted: Any) -> List[Switch]:
    if not hasattr(owner, name):
        return []
    return [
        Switch(
            path, lambda: getattr(owner, name), lambda value: setattr(owner, name, value), wanted
        )
    ]


def _precision() -> List[Switch]:
    """TF32 and reduced precision off, for matrix products and convolutions, by the interface that this torch has.

    The two interfaces must not be mixed: torch raises when one is read after the other was written.
    """
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        parts = (
            "cuda.matmul",
            "cudnn.conv",
            "cudnn.rnn",
            "mkldnn.matmul",
            "mkldnn.conv",
            "mkldnn.rnn",
        )
        owners = {part: attrgetter(part)(torch.backends) for part in parts}
        return [
            s
            for name, owner in owners.items()
            for s in _attribute(owner, "fp32_precision", f"{name}.fp32_precision", "ieee")
        ]
    return [
        *_attribute(torch.backends.cuda.matmul, "allow_tf32", "cuda.matmul.allow_tf32", False),
        *_attribute(torch.backends.cudnn, "allow_tf32", "cudnn.allow_tf32", False),
    ]


def _attention() -> List[Switch]:
    """One scaled-dot-product backend, `math`: the only one that every device and dtype has."""
    cuda = torch.backends.cuda
    found = []
    for name in BACKENDS:
        read, write = (
            getattr(cuda, f"{name}_sdp_enabled", None),
            getattr(cuda, f"enable_{name}_sdp", None),
        )
        if read and write:
            found.append(Switch(f"sdpa.{name}", read, write, name == "math"))
    read = getattr(cuda, "fp16_bf16_reduction_math_sdp_allowed", None)
    if read:
        found.append(
            Switch(
                "sdpa.math.reduced_precision", read, cuda.allow_fp16_bf16_reduction_math_sdp, False
            )
        )
    return found


def switches() -> List[Switch]:
    """Return every switch that this torch has, in the order in which they are set."""
    return [
        Switch(
            "deterministic_algorithms",
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
            (True, False),
        ),
        *_attribute(
            getattr(torch.utils, "deterministic", None),
            "fill_uninitialized_memory",
            "fill_uninitialized_memory",
            True,
        ),
        *_attribute(torch.backends.cudnn, "deterministic", "cudnn.deterministic", True),
        *_attribute(torch.backends.cudnn, "benchmark", "cudnn.benchmark", False),
        *_attribute(torch.backends.mkldnn, "deterministic", "mkldnn.deterministic", True),
        *_precision(),
        *_attribute(
            torch.backends.cuda.matmul,
            "allow_fp16_reduced_precision_reduction",
            "cuda.matmul.fp16_reduction",
            False,
        ),
        *_attribute(
            torch.backends.cuda.matmul,
            "allow_bf16_reduced_precision_reduction",
            "cuda.matmul.bf16_reduction",
            False,
        ),
        *_attention(),
        Switch(
            "num_threads",
            torch.get_num_threads,
            torch.set_num_threads,
            int(os.environ.get("OMP_NUM_THREADS", "1")),
        ),
    ]


def effective() -> Dict[str, Any]:
    """Return what torch reports for every switch now, as JSON values."""
    return {
        s.name: list(value) if isinstance(value := s.read(), tuple) else value for s in switches()
    }


def chosen(attention: Optional[str], *, tf32: bool) -> Dict[str, Any]:
    """Return what a case sets by itself, by the names of switches: one attention backend, TF32 on."""
    found: Dict[str, Any] = {}
    if attention:
        found.update({f"sdpa.{name}": name == attention for name in BACKENDS})
    if tf32:
        found.update(
            {
                s.name: True if s.wanted is False else "tf32"
                for s in _precision()
                if s.name.startswith("cud")
            }
        )
    return found


@contextmanager
def settings(mode: str, own: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Hold deterministic settings (`full`) or leave torch's own (`default`); restore what was there, even after an error.

    Args:
        mode: `full` or `default`.
        own: Values of switches that win, by name.
    """
    wanted = {switch.name: switch.wanted for switch in switches()} if mode == "full" else {}
    wanted.update(own)
    changed = [(switch, switch.read()) for switch in switches() if switch.name in wanted]
    try:
        for switch, _ in changed:
            switch.write(wanted[switch.name])
        yield
    finally:
        for switch, value in reversed(changed):
            switch.write(value)


def seed_global_streams(seed: int) -> None:
    """Seed python's, numpy's and torch's global streams, on every device; stray `randn_like` calls then repeat."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global stream is what is meant)
    torch.manual_seed(seed)


def scatter_global_streams() -> None:
    """Seed the same streams from the operating system, for cases that must not repeat."""
    random.seed()
    np.random.seed()  # noqa: NPY002 (the global stream is what is meant)
    torch.seed()
