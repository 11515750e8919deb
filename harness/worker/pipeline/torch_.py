"""What the worker must know of a framework: where its pipelines and its noise come from, how they load, and its numerics class.

`Torch` says it of torch and diffusers, `mindspore_.MindSpore` of MindSpore and mindone.
"""

from __future__ import annotations

from typing import Any, ContextManager, Dict, Sequence

import torch

from ..conditions import environment, noise, numerics
from ..observe.modules import Operators, Tracer
from ..protocol import CannotRunHere
from .enable import place


class Torch:
    """torch and diffusers on one device.

    Attributes:
        library: The package of pipelines and schedulers; `transformers`, that of text encoders.
        door: The module whose `randn_tensor` every pipeline draws through.
        numpy_generators: Whether pipelines take numpy's generators themselves.
        feeds: Whether what is written into a stage's result reaches the next stage, as anchored runs need it.
        device: Where torch's side of the work is done.

    Raises:
        CannotRunHere: There is no such device.
    """

    library = "diffusers"
    transformers = "transformers"
    door = noise.DIFFUSERS
    numpy_generators = False
    feeds = True

    def __init__(self, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise CannotRunHere("no CUDA device on this machine")
        self.device = torch.device(device)

    def settle(self, mode: str) -> None:
        """Set what the framework sets once per process for `mode`; torch's own switches are in `determinism`."""

    def dtype(self, name: str) -> Any:
        """Return the framework's own type of the name `float32` and so on."""
        return getattr(torch, name)

    def dtype_argument(self) -> str:
        """Return what `from_pretrained` calls the type: newer releases of diffusers warn of the old name."""
        import diffusers

        return (
            "dtype"
            if hasattr(diffusers.pipelines.pipeline_utils, "_resolve_dtype")
            else "torch_dtype"
        )

    def prepared(self, part: Any, dtype: str) -> Any:
        """Return a component that was built from its configuration as `from_pretrained` would leave it."""
        return (part if dtype == "float32" else part.to(self.dtype(dtype))).eval()

    def operators(self, tracer: Tracer) -> ContextManager[Any]:
        """Return what shows every operator to `tracer` while it is entered."""
        return Operators(tracer)

    def placed(self, pipeline: Any, enabled: Sequence[str]) -> Any:
        """Return the pipeline on its device, or set to be offloaded from it."""
        return place(pipeline, enabled, self.device)

    def describe(self) -> Dict[str, Any]:
        """Return the environment of this process, with the switches in effect now."""
        return {"framework": "torch", **environment.describe(self.device)}

    def numerics_class(self, dtype: str) -> Dict[str, Any]:
        """Measure the numerics class of this process for the type `dtype`."""
        return numerics.numerics_class(self.device, self.dtype(dtype))
