"""What a scenario enables on a loaded pipeline: memory formats and memory savers."""

from __future__ import annotations

import importlib.util
from typing import Any, Callable, List, Sequence, Tuple

import torch

from ..protocol import CannotRunHere, CaseError
from .components import call_of

CHANNELS_LAST = "channels_last"
VIDEO_DIMENSIONS = 5  # of the weights of a 3-D convolution: output, input, time, height, width
COMPILE = "compile"
TF32 = "tf32"
SWITCHES = (TF32,)  # of torch instead of the pipeline: see `determinism`
OFFLOADS = ("model_cpu_offload", "sequential_cpu_offload")  # need a device: see `place`
ELSEWHERE = (COMPILE, *SWITCHES, *OFFLOADS)  # compiling is one of `executions`


def enable(pipeline: Any, names: Sequence[str]) -> None:
    """Change a pipeline on the CPU as a case's `enable` asks.

    Raises:
        CaseError: A memory saver exists neither on the pipeline nor on its VAE.
    """
    for name in names:
        if name == CHANNELS_LAST:
            _use_channels_last(pipeline)
        elif name not in ELSEWHERE:
            turn_on = _memory_saver(pipeline, name)
            turn_on()


def place(pipeline: Any, names: Sequence[str], device: torch.device) -> Any:
    """Return a pipeline on its device: moved there, or set up to be offloaded from it.

    Args:
        pipeline: A pipeline on the CPU.
        names: What the case enables.
        device: Where the case runs.

    Raises:
        CannotRunHere: There is nothing to offload from, or accelerate, which does it, is missing.
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
    offload = getattr(pipeline, f"enable_{asked[0]}")
    offload(device=device)
    return pipeline


def _use_channels_last(pipeline: Any) -> None:
    """Lay out every component's weights as NHWC.

    Raises:
        CaseError: A component has weights of five dimensions, of 3-D convolutions, for which torch
            has no such format. No component is changed then.
    """
    models = _models(pipeline)
    for name, model in models:
        if any(weights.dim() == VIDEO_DIMENSIONS for weights in model.parameters()):
            raise CaseError(
                f"`enable: {CHANNELS_LAST}` does not apply: `{name}` has 3-D convolutions, and the "
                "memory format channels-last is of weights with four dimensions"
            )
    for _, model in models:
        model.to(memory_format=torch.channels_last)


def _memory_saver(pipeline: Any, name: str) -> Callable[[], Any]:
    """Return the method that turns a memory saver on.

    It is the pipeline's, as `enable_vae_tiling`; in newer releases of diffusers it is the VAE's, as
    `enable_tiling`.
    """
    component, _, what = name.partition("_")
    on_pipeline = getattr(pipeline, f"enable_{name}", None)
    on_component = getattr(pipeline.components.get(component), f"enable_{what}", None)
    for method in (on_pipeline, on_component):
        if callable(method):
            return method
    raise CaseError(
        f"`enable: {name}` means nothing to {type(pipeline).__name__} in this release of diffusers"
    )


def _models(pipeline: Any) -> List[Tuple[str, Any]]:
    """Return torch's components by name, in a list: the pipeline may change meanwhile."""
    return [
        (name, component)
        for name, component in pipeline.components.items()
        if call_of(component) == "forward"
    ]
