"""Layerwise casting: weights are stored in a small type and cast while their layer computes."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch

from ...observe.tensors import dtype_name
from ...protocol import CaseError
from .base import NOT_COUNTED, Count, Execution, Seen, component_of, counted, hooks_in

HOOK = "layerwise_casting"  # the name that diffusers gives its hooks


class LayerwiseCasting(Execution):
    """The layerwise casting of one component; it rounds the weights and cannot be undone."""

    def __init__(self, pipeline: Any, component: str, storage: str) -> None:
        self.asked = f"layerwise-casting: {storage} of {component}"
        self._component: Any = component_of(pipeline, component, "layerwise-casting")
        self._storage = storage
        self._casts = Count()

    def cast(self) -> None:
        """Store the weights in the small type, and compute in the component's own.

        Raises:
            CaseError: torch has no such type, or the component no layerwise casting.
        """
        storage = getattr(torch, self._storage, None)
        if not isinstance(storage, torch.dtype):
            raise CaseError(f"`{self.asked}`: torch has no type `{self._storage}`")
        if not hasattr(self._component, "enable_layerwise_casting"):
            name = type(self._component).__name__
            raise CaseError(f"`{self.asked}`: {name} has no layerwise casting")
        self._component.enable_layerwise_casting(
            storage_dtype=storage, compute_dtype=self._component.dtype
        )

    def watch(self, undo: ExitStack) -> None:
        """Count the calls of the hooks that cast."""
        self._casts = Count()
        if self.beside_compiled:
            return
        for hook in hooks_in(self._component, HOOK):
            self._casts.of_method(hook.fn_ref, "pre_forward", undo)

    def seen(self) -> Seen:
        """Return how many weights are stored in which type, and how often layers were cast."""
        stored = Counter(dtype_name(each.dtype) for each in self._component.parameters())
        types = ", ".join(f"{number} in {name}" for name, number in sorted(stored.items()))
        casts = self._casts.calls
        ran = NOT_COUNTED if self.beside_compiled else f"layers were cast {counted(casts, 'time')}"
        words = f"weights: {types}; {ran}"
        took_effect = stored[self._storage] > 0 and (self.beside_compiled or casts > 0)
        return Seen(words, took_effect)
