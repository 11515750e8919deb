"""Which executions a case asks for, in the order in which they are applied and proven."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, ContextManager, Dict, Iterator, List, Sequence, Set

import torch

from ...observe.stages import Around, Stage
from ...protocol import CaseError, CaseRequest, EffectRecord, ExecutionsRequest
from .attention import TorchAttention, attentions_of
from .base import Execution
from .caching import caches_of
from .casting import LayerwiseCasting
from .compilation import compilations_of
from .emulation import Emulated
from .offloading import GroupOffload, PipelineOffload
from .onnx import exports_of
from .projections import FusedProjections
from .quantization import Quantization
from .words import WORDS, TensorFloat

COMPILE = "compile"
TF32 = "tf32"
OFFLOADS = ("model_cpu_offload", "sequential_cpu_offload")


# What changes weights for good. Offloading moves them to other addresses, and the alignment of an
# operand can decide which kernel of a CPU computes, and so the bits.
AT_LOAD = ("quantize", "layerwise_casting", "group_offload")
NATIVE = "native"  # the backend that leaves the choice of the kernel to torch


def backends_in(request: ExecutionsRequest) -> Set[str]:
    """Return the backends of diffusers' dispatcher that a case asks for."""
    return {choice["backend"] for choice in request.get("attention", {}).values()}


def executions_in(case: CaseRequest) -> ExecutionsRequest:
    """Return what a case asks for; the word `compile` of `enable` is short for the key."""
    found: ExecutionsRequest = {**case.get("executions", {})}
    if COMPILE in case["enable"]:
        found.setdefault("compile", {})
    return found


def at_load(pipeline: Any, request: ExecutionsRequest) -> None:
    """Apply what changes weights for good; it belongs to the loaded checkpoint.

    Raises:
        CaseError: A component, a type or the feature does not exist.
    """
    for casting in _castings(pipeline, request):
        casting.cast()


def _castings(pipeline: Any, request: ExecutionsRequest) -> List[LayerwiseCasting]:
    asked = request.get("layerwise_casting", {})
    return [LayerwiseCasting(pipeline, name, storage) for name, storage in asked.items()]


class Executions:
    """The executions of one case: applied, watched in the first instrumented run, then proven.

    Args:
        case: What to run.
        pipeline: The pipeline that was loaded for it.
        device: Where it runs.
        loaded: What was applied when it was loaded: its adapters.
    """

    def __init__(
        self,
        case: CaseRequest,
        pipeline: Any,
        device: torch.device,
        loaded: Sequence[Execution] = (),
    ) -> None:
        self._request = executions_in(case)
        self._case = case
        self._pipeline = pipeline
        self._device = device
        self._loaded = loaded
        self._all: List[Execution] = []
        self._is_watching = False
        self._was_watched = False

    def apply(self, undo: ExitStack) -> None:
        """Apply everything in order; `undo` takes it back in the opposite order.

        Raises:
            CannotRunHere: This machine lacks a device or a package.
            CaseError: This pipeline or this release of the libraries has no such thing.
        """
        if self._case["framework"] != "torch":
            return  # the others have memory savers alone, which are not watched there
        for make in (
            self._of_adapters,
            self._of_weights,
            self._of_words,
            self._of_projections,
            self._of_attention,
            self._of_caches,
            self._of_offloads,
            self._of_exports,
            self._of_compilation,
            self._of_emulation,
        ):
            for execution in make():
                execution.beside_compiled = "compile" in self._request
                undo.callback(execution.undo)
                execution.apply()
                self._all.append(execution)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch one run; only the first that is asked for is watched."""
        if self._was_watched:
            yield
            return
        self._was_watched = self._is_watching = True
        try:
            with ExitStack() as undo:
                for execution in self._all:
                    execution.watch(undo)
                yield
        finally:
            self._is_watching = False

    def around(self, inner: Around) -> Around:
        """Return what a stage runs within: every execution that watches it, and `inner`."""

        def enter(stage: Stage, component: Any, inputs: Dict[str, Any]) -> ContextManager[Any]:
            stack = ExitStack()
            if self._is_watching:
                for execution in self._all:
                    stack.enter_context(execution.around(stage))
            stack.enter_context(inner(stage, component, inputs))
            return stack

        return enter if self._all else inner

    def effects(self) -> List[EffectRecord]:
        """Return what was seen of each execution; nothing where no run was watched."""
        if not self._was_watched:
            return []
        found: List[EffectRecord] = []
        for execution in self._all:
            seen = execution.seen()
            found.append(
                {"asked": execution.asked, "seen": seen.words, "took_effect": seen.took_effect}
            )
        return found

    def _of_adapters(self) -> Sequence[Execution]:
        return self._loaded

    def _of_weights(self) -> Sequence[Execution]:
        asked = self._request.get("quantize", {})
        quantized = [Quantization(self._pipeline, name, each) for name, each in asked.items()]
        return [*quantized, *_castings(self._pipeline, self._request)]

    def _of_words(self) -> Sequence[Execution]:
        words = self._case["enable"]
        found: List[Execution] = [WORDS[each](self._pipeline) for each in words if each in WORDS]
        found += [PipelineOffload(self._pipeline, each) for each in words if each in OFFLOADS]
        return [*found, TensorFloat(self._device)] if TF32 in words else found

    def _of_projections(self) -> Sequence[Execution]:
        asked = self._request.get("fuse_qkv", [])
        return [FusedProjections(self._pipeline, name) for name in asked]

    def _of_attention(self) -> Sequence[Execution]:
        if self._case["attention"]:
            return [TorchAttention(self._case["attention"], self._device)]
        asked = self._request.get("attention", {})
        return attentions_of(self._pipeline, asked, self._device, self._dtype_of)

    def _of_caches(self) -> Sequence[Execution]:
        asked = self._request.get("cache")
        if not asked:
            return []
        if "compile" in self._request:
            raise CaseError(
                "`cache` beside `compile`: what a cache spares inside compiled code cannot be "
                "observed yet"
            )
        return caches_of(self._pipeline, asked)

    def _of_offloads(self) -> Sequence[Execution]:
        asked = self._request.get("group_offload", {})
        return [
            GroupOffload(self._pipeline, name, each, self._device) for name, each in asked.items()
        ]

    def _of_exports(self) -> Sequence[Execution]:
        return exports_of(self._pipeline, self._request.get("onnx", []), self._device)

    def _of_compilation(self) -> Sequence[Execution]:
        asked = self._request.get("compile")
        return [] if asked is None else compilations_of(self._pipeline, asked, self._device)

    def _of_emulation(self) -> Sequence[Execution]:
        asked = self._case.get("emulation")
        return [] if asked is None else [Emulated(asked, self._case["device"])]

    def _dtype_of(self, component: str) -> torch.dtype:
        types = self._case["component_dtypes"]
        found: torch.dtype = getattr(torch, types.get(component, self._case["dtype"]))
        return found
