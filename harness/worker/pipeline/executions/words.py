"""The words of `enable`: memory savers, the memory format and TF32, each with its proof.

`pipeline.enable` switches them on when a checkpoint is loaded; here they are watched.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from typing import Any, Dict, List, Type

import torch

from ...protocol import CannotRunHere
from .base import NOT_COUNTED, Count, Execution, Seen, counted

IMAGE_DIMENSIONS = 4  # of a weight or an activation that can lie channels-last
# TF32 keeps 10 bits of mantissa, so that this is 1 there; float32 keeps it.
NOT_IN_TF32 = 1 + 2.0**-12


class _OfPipeline(Execution):
    """A word of `enable` that changes what a pipeline's components do."""

    word: str
    is_inside: bool = True  # whether what is watched is inside components, which may be compiled

    def __init__(self, pipeline: Any) -> None:
        self.asked = f"enable: {self.word}"
        self._pipeline = pipeline
        self._calls = Count()
        self._inner = Count()

    def watch(self, undo: ExitStack) -> None:
        """Count calls anew."""
        self._calls, self._inner = Count(), Count()
        if not (self.beside_compiled and self.is_inside):
            self._observe(undo)

    @abstractmethod
    def _observe(self, undo: ExitStack) -> None:
        """Count what a run does, until `undo` is closed."""


class SlicedAttention(_OfPipeline):
    """Attention computed in slices of its heads."""

    word = "attention_slicing"

    def _observe(self, undo: ExitStack) -> None:
        self._calls.of_modules(self._sliced(), undo)

    def seen(self) -> Seen:
        """Return how many modules compute attention in slices, and how often they did."""
        sliced, calls = len(self._sliced()), self._calls.calls
        ran = NOT_COUNTED if self.beside_compiled else f"called {counted(calls, 'time')}"
        words = f"{counted(sliced, 'module')} with attention in slices, {ran}"
        return Seen(words, took_effect=sliced > 0 and (self.beside_compiled or calls > 0))

    def _sliced(self) -> List[Any]:
        parts = self._pipeline.components.values()
        modules = [each for part in parts if hasattr(part, "modules") for each in part.modules()]
        return [each for each in modules if _slices(each)]


def _slices(module: Any) -> bool:
    """Whether a module computes its attention in slices: by its processor, or by its own size."""
    processor = getattr(module, "processor", None)
    return getattr(processor, "slice_size", None) is not None


class SlicedVae(_OfPipeline):
    """A VAE that encodes and decodes one image of the batch at a time."""

    word = "vae_slicing"
    is_inside = False

    def _observe(self, undo: ExitStack) -> None:
        _count(self._pipeline, ("encode", "decode"), self._calls, undo)
        _count(self._pipeline, ("_encode", "_decode"), self._inner, undo)

    def seen(self) -> Seen:
        """Return how many slices the calls of the VAE were split into."""
        calls, slices = self._calls.calls, self._inner.calls
        words = f"{counted(calls, 'call')} of the VAE in {counted(slices, 'slice')}"
        return Seen(words, took_effect=slices > calls)


class TiledVae(_OfPipeline):
    """A VAE that encodes and decodes images in overlapping tiles."""

    word = "vae_tiling"
    is_inside = False

    def _observe(self, undo: ExitStack) -> None:
        _count(self._pipeline, ("encode", "decode"), self._calls, undo)
        _count(self._pipeline, TILED, self._inner, undo)

    def seen(self) -> Seen:
        """Return how many calls of the VAE were split into tiles."""
        calls, tiled = self._calls.calls, self._inner.calls
        words = f"{tiled} of {counted(calls, 'call')} of the VAE in tiles; smaller ones need none"
        return Seen(words, took_effect=tiled > 0)


TILED = ("tiled_encode", "_tiled_encode", "tiled_decode", "_tiled_decode")


def _count(pipeline: Any, methods: Any, count: Count, undo: ExitStack) -> None:
    vae = pipeline.components.get("vae")
    for method in methods:
        if callable(getattr(vae, method, None)):
            count.of_method(vae, method, undo)


class ChannelsLast(_OfPipeline):
    """Weights and activations of convolutions with their channels last."""

    word = "channels_last"

    def _observe(self, undo: ExitStack) -> None:
        def look(_module: Any, _inputs: Any, output: Any) -> None:
            self._calls.add()
            if isinstance(output, torch.Tensor) and _is_last(output):
                self._inner.add()

        for module in self._convolutions():
            undo.callback(module.register_forward_hook(look).remove)

    def seen(self) -> Seen:
        """Return how many weights lie so, and how many convolutions gave such a result."""
        weights = [each.weight for each in self._convolutions()]
        lying = sum(_is_last(each) for each in weights)
        results = f"{self._inner.calls} of {self._calls.calls} results lay so"
        ran = NOT_COUNTED if self.beside_compiled else results
        words = f"{lying} of {len(weights)} weights of convolutions lie channels-last; {ran}"
        return Seen(words, lying > 0 and (self.beside_compiled or self._inner.calls > 0))

    def _convolutions(self) -> List[Any]:
        parts = self._pipeline.components.values()
        modules = [each for part in parts if hasattr(part, "modules") for each in part.modules()]
        return [each for each in modules if _has_format(each)]


def _has_format(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == IMAGE_DIMENSIONS


def _is_last(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies channels-last; one that lies in both formats at once does not count."""
    if tensor.dim() != IMAGE_DIMENSIONS or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)


class TensorFloat(Execution):
    """TF32 on a GPU."""

    asked = "enable: tf32"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def apply(self) -> None:
        """Refuse a device without TF32."""
        if self._device.type != "cuda":
            raise CannotRunHere(
                f"`{self.asked}` changes the arithmetic of a GPU; this case computes on the CPU"
            )
        if torch.cuda.get_device_capability(self._device) < (8, 0):
            raise CannotRunHere(f"`{self.asked}` needs a GPU of compute capability 8.0 or later")

    def seen(self) -> Seen:
        """Return whether a product of matrices that TF32 cannot hold rounded its operands."""
        ones = torch.ones(256, 256, device=self._device)
        product = float((ones * NOT_IN_TF32 @ torch.eye(256, device=self._device)).max())
        words = f"a matrix product gave {product:.9g} where float32 gives {NOT_IN_TF32:.9g}"
        return Seen(words, took_effect=product != NOT_IN_TF32)


WORDS: Dict[str, Type[_OfPipeline]] = {
    each.word: each for each in (SlicedAttention, SlicedVae, TiledVae, ChannelsLast)
}
