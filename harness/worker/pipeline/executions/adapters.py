"""Adapters in effect: how many layers hold each one, and how often these ran.

`pipeline.adapters` loads them. What is seen here is seen in a run, and stands in the recording.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any, Iterator, List, Sequence, Tuple

import torch

from .base import NOT_COUNTED, Count, Execution, Seen, counted

FUSE, UNFUSE, UNLOAD = "fuse", "unfuse", "unload"  # what is done with LoRAs after they are loaded


class Lora(Execution):
    """One LoRA.

    Args:
        pipeline: The pipeline that it is loaded into.
        name: By which diffusers knows it.
        asked: The key of the scenario, and the LoRA.
        scale: By which what it adds is multiplied.
        then: What was done with it after it was loaded, in order.
    """

    def __init__(
        self, pipeline: Any, name: str, asked: str, scale: float, then: Sequence[str] = ()
    ) -> None:
        self.asked = ", then ".join((asked, *then))
        self._pipeline = pipeline
        self._name = name
        self._scale = scale
        self._last = then[-1] if then else ""
        self._calls = Count()

    def watch(self, undo: ExitStack) -> None:
        """Count the calls of the layers that hold it."""
        self._calls = Count()
        if not self.beside_compiled:
            self._calls.of_modules(self._layers(), undo)

    def seen(self) -> Seen:
        """Return how many layers hold it or are fused with it, and how often they ran."""
        layers, calls = self._layers(), self._calls.calls
        if self._last == UNLOAD:
            words = f"{counted(len(layers), 'layer')} with it after it was unloaded"
            return Seen(words, took_effect=not layers)
        fused = sum(self._name in layer.merged_adapters for layer in layers)
        ran = NOT_COUNTED if self.beside_compiled else f"called {counted(calls, 'time')}"
        words = f"{counted(len(layers), 'layer')} with it at scale {self._scale:g}, {ran}"
        if self._last:
            words = f"{words}; fused into {fused}"
        as_asked = fused == (len(layers) if self._last == FUSE else 0)
        ran_at_all = self.beside_compiled or calls > 0
        return Seen(words, took_effect=bool(layers) and as_asked and ran_at_all)

    def _layers(self) -> List[Any]:
        return [layer for _, layer in lora_layers(self._pipeline, self._name)]


class IpAdapter(Execution):
    """One IP-Adapter.

    Args:
        asked: The key of the scenario, and its file.
        layers: The layers of attention that make values of its image.
    """

    def __init__(self, asked: str, layers: Sequence[torch.nn.Module]) -> None:
        self.asked = asked
        self._layers = layers
        self._calls = Count()

    def watch(self, undo: ExitStack) -> None:
        """Count the calls of its layers."""
        self._calls = Count()
        if not self.beside_compiled:
            self._calls.of_modules(self._layers, undo)

    def seen(self) -> Seen:
        """Return how many layers of attention it has, and how often these ran."""
        calls = self._calls.calls
        ran = NOT_COUNTED if self.beside_compiled else f"called {counted(calls, 'time')}"
        words = f"{counted(len(self._layers), 'layer')} of attention with it, {ran}"
        return Seen(words, took_effect=self.beside_compiled or calls > 0)


class TextualInversion(Execution):
    """One textual inversion.

    Args:
        asked: The key of the scenario, and its file.
        encoder: The text encoder that knows its tokens.
        tokens: The numbers of its tokens.
    """

    def __init__(self, asked: str, encoder: torch.nn.Module, tokens: Sequence[int]) -> None:
        self.asked = asked
        self._encoder: Any = encoder
        self._tokens = torch.tensor(tokens)
        self._found = 0

    def watch(self, undo: ExitStack) -> None:
        """Count its tokens among those that are embedded."""
        self._found = 0

        def look(_module: Any, inputs: Tuple[Any, ...]) -> None:
            self._found += int(torch.isin(inputs[0].cpu(), self._tokens).sum())

        if not self.beside_compiled:
            embeddings = self._encoder.get_input_embeddings()
            undo.callback(embeddings.register_forward_pre_hook(look).remove)

    def seen(self) -> Seen:
        """Return how many of its tokens were embedded."""
        found = counted(self._found, "token")
        words = NOT_COUNTED if self.beside_compiled else f"{found} of it embedded"
        return Seen(words, took_effect=self.beside_compiled or self._found > 0)


def models_of(pipeline: Any) -> List[Tuple[str, torch.nn.Module]]:
    """Return the components with weights, by name."""
    return [
        (name, component)
        for name, component in pipeline.components.items()
        if isinstance(component, torch.nn.Module)
    ]


def lora_layers(pipeline: Any, name: str) -> Iterator[Tuple[str, Any]]:
    """Yield the layers that hold a LoRA of this name, by their paths."""
    layer_class = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    for component_name, component in models_of(pipeline):
        for path, module in component.named_modules():
            if isinstance(module, layer_class) and name in loras_of(module):
                yield f"{component_name}.{path}", module


def loras_of(layer: Any) -> List[str]:
    """Return the names of the LoRAs that a layer holds: each as often as it has tensors of it."""
    kinds = (getattr(layer, attribute, {}) for attribute in layer.adapter_layer_names)
    return [name for adapters in kinds for name in adapters]
