"""Fused query, key and value projections: one matrix product where there were three."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, List

from ...protocol import CaseError
from .base import NOT_COUNTED, Count, Execution, Seen, component_of, counted

FUSED = ("to_qkv", "to_kv", "to_added_qkv")  # the projections that stand for several


class FusedProjections(Execution):
    """The fused projections of one component."""

    def __init__(self, pipeline: Any, component: str) -> None:
        self.asked = f"fuse-qkv: {component}"
        self._component: Any = component_of(pipeline, component, "fuse-qkv")
        self._calls = Count()

    def apply(self) -> None:
        """Fuse the projections."""
        if not hasattr(self._component, "fuse_qkv_projections"):
            name = type(self._component).__name__
            raise CaseError(f"`{self.asked}`: {name} cannot fuse its projections")
        try:
            self._component.fuse_qkv_projections()
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise CaseError(f"`{self.asked}`: {error}") from error

    def watch(self, undo: ExitStack) -> None:
        """Count the calls of fused projections."""
        self._calls = Count()
        if not self.beside_compiled:
            self._calls.of_modules(self._fused(), undo)

    def seen(self) -> Seen:
        """Return how many fused projections there are, and how often they were called."""
        fused, calls = self._fused(), self._calls.calls
        ran = NOT_COUNTED if self.beside_compiled else f"called {counted(calls, 'time')}"
        words = f"{counted(len(fused), 'fused projection')}, {ran}"
        return Seen(words, took_effect=bool(fused) and (self.beside_compiled or calls > 0))

    def undo(self) -> None:
        """Give every attention its own projections back."""
        if hasattr(self._component, "unfuse_qkv_projections"):
            self._component.unfuse_qkv_projections()

    def _fused(self) -> List[Any]:
        return [
            part
            for path, part in self._component.named_modules()
            if path.rsplit(".", 1)[-1] in FUSED
        ]
