"""What the worker must know of a framework, whichever it is.

`torch_.Torch` tells it of torch and diffusers, `mindspore_.MindSpore` of MindSpore and mindone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ContextManager, List, Sequence

import torch

from ..conditions import environment, noise
from ..observe.operators import OperatorLog
from ..protocol import EnvironmentRecord, NumericsClassRecord


class Framework(ABC):
    """A framework and its library of pipelines, on one device.

    Attributes:
        library: The package of pipelines and schedulers.
        transformers: The package of text encoders.
        draw_module: The module whose `randn_tensor` every pipeline draws through.
        takes_numpy_generators: Whether pipelines take numpy's generators themselves.
        can_feed: Whether what is written into a stage's result reaches the next stage, as
            teacher-forced runs need it.
        can_evaluate: Whether every operator can compute in float64 in place of its own type.
        device: Where torch's side of the work is done.
    """

    library: str
    transformers: str
    draw_module: str
    takes_numpy_generators: bool
    can_feed: bool
    can_evaluate: bool
    device: torch.device

    @abstractmethod
    def settle(self, mode: str) -> None:
        """Set what can be set once per process only; the switches of torch are not among it.

        Args:
            mode: `full` or `default`, as for `determinism.settings`.
        """

    @abstractmethod
    def dtype(self, name: str) -> Any:
        """Return the framework's own type with a name such as `float32`."""

    @abstractmethod
    def dtype_argument(self) -> str:
        """Return by which name `from_pretrained` takes a type."""

    @abstractmethod
    def prepared(self, component: Any, dtype: str) -> Any:
        """Return a component made from its configuration as `from_pretrained` would leave it."""

    @abstractmethod
    def placed(self, pipeline: Any, enabled: Sequence[str]) -> Any:
        """Return a pipeline on its device, or set up to be offloaded from it.

        Args:
            pipeline: A pipeline on the CPU.
            enabled: What the case enables.

        Raises:
            CannotRunHere: This device or framework lacks what is enabled.
        """

    @abstractmethod
    def observe_operators(self, log: OperatorLog) -> ContextManager[Any]:
        """Return what writes every operator to `log` while it is entered."""

    @abstractmethod
    def numerics_class(self, dtype: str) -> NumericsClassRecord:
        """Measure the numerics class of this process for a type such as `float32`."""

    def describe(self, numerics_class: NumericsClassRecord) -> EnvironmentRecord:
        """Return the environment of this process, with the settings in effect now."""
        unobserved: List[str] = []
        if noise.library_draw(self.draw_module) is None:
            unobserved.append("noise")
        return environment.describe(self.device, numerics_class, unobserved)
