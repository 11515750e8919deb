"""torch and diffusers on one device, as a `Framework`."""

from __future__ import annotations

from typing import Any, ContextManager, Sequence

import torch

from ..conditions import noise, numerics
from ..observe.operators import OperatorLog, TorchOperators
from ..protocol import CannotRunHere, NumericsClassRecord
from .enable import place
from .framework import Framework


class Torch(Framework):
    """torch and diffusers.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        CannotRunHere: There is no such device.
    """

    library = "diffusers"
    transformers = "transformers"
    draw_module = noise.DRAW_MODULE
    takes_numpy_generators = False
    can_feed = True
    can_evaluate = True

    def __init__(self, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise CannotRunHere("no CUDA device on this machine")
        self.device = torch.device(device)

    def settle(self, mode: str) -> None:
        """Do nothing: every setting of torch is one of `determinism.switches`."""

    def dtype(self, name: str) -> torch.dtype:
        """Return torch's type with a name such as `float32`."""
        found: torch.dtype = getattr(torch, name)
        return found

    def dtype_argument(self) -> str:
        """Return `dtype`, or `torch_dtype` for a diffusers that does not know the newer name.

        Newer releases warn of the old one.
        """
        from diffusers.pipelines import pipeline_utils

        return "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"

    def prepared(self, component: Any, dtype: str) -> Any:
        """Return a component in a type, set up to infer."""
        if dtype != "float32":
            component = component.to(self.dtype(dtype))
        return component.eval()

    def placed(self, pipeline: Any, enabled: Sequence[str]) -> Any:
        """Return a pipeline on its device, or set up to be offloaded from it."""
        return place(pipeline, enabled, self.device)

    def observe_operators(self, log: OperatorLog) -> ContextManager[Any]:
        """Return torch's dispatch mode that writes every operator to `log`."""
        return TorchOperators(log)

    def numerics_class(self, dtype: str) -> NumericsClassRecord:
        """Measure torch's numerics class of this process for a type such as `float32`."""
        return numerics.numerics_class(self.device, self.dtype(dtype))
