"""What a scenario enables on a loaded pipeline: memory formats, compilation, offloading, and the pipeline's own memory savers."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any, Iterator, Sequence, Tuple

import torch

from ..protocol import CannotRunHere, CaseError
from .components import call_of

SWITCHES = ("tf32",)  # of torch, not of the pipeline: see `determinism`
OFFLOADS = ("model_cpu_offload", "sequential_cpu_offload")  # need a device: see `place`


def enable(pipeline: Any, names: Sequence[str]) -> None:
    """Change a pipeline on the CPU as a case's `enable` asks."""
    for name in names:
        if name == "channels_last":
            for _, part in _models(pipeline):
                part.to(memory_format=torch.channels_last)
        elif name == "compile":
            torch._dynamo.reset()  # what was compiled under other switches is not asked for again
            for key, part in _models(pipeline):
                if (
                    "timestep" in inspect.signature(part.forward).parameters
                ):  # a denoiser: it runs in every step
                    setattr(pipeline, key, torch.compile(part))
        elif name not in (*SWITCHES, *OFFLOADS):
            _saver(pipeline, name)()


def _saver(pipeline: Any, name: str) -> Any:
    """Return the method that turns a memory saver on: the pipeline's, or in newer releases of diffusers that of its VAE."""
    part, _, what = name.partition("_")
    for owner, method in (
        (pipeline, f"enable_{name}"),
        (pipeline.components.get(part), f"enable_{what}"),
    ):
        if callable(getattr(owner, method, None)):
            return getattr(owner, method)
    raise CaseError(
        f"`enable: {name}` means nothing to {type(pipeline).__name__} in this release of diffusers"
    )


def place(pipeline: Any, names: Sequence[str], device: torch.device) -> Any:
    """Return the pipeline on its device: moved there, or to be offloaded from it.

    Raises:
        CannotRunHere: There is nothing to offload from, or accelerate, which does it, is not here.
    """
    asked = [name for name in OFFLOADS if name in names]
    if not asked:
        return pipeline.to(device)
    if device.type == "cpu":
        raise CannotRunHere(
            f"`{asked[0]}` moves parts between the CPU and another device; this case has none"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise CannotRunHere(f"`{asked[0]}` needs the package accelerate")
    getattr(pipeline, f"enable_{asked[0]}")(device=device)
    return pipeline


def _models(pipeline: Any) -> Iterator[Tuple[str, Any]]:
    return (
        (name, part)
        for name, part in list(pipeline.components.items())
        if call_of(part) == "forward"
    )
