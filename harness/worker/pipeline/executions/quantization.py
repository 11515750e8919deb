"""Quantization by diffusers' and transformers' own configurations, and the weights that it left."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections import Counter
from typing import Any, Dict, List, Mapping, Tuple

import torch

from ...observe.tensors import dtype_name
from ...protocol import CannotRunHere, CaseError
from ..library import nearest
from ..synthetic import components_in
from .base import Execution, Seen, check_arguments, component_of

Request = Mapping[str, Mapping[str, Any]]
BACKEND = "backend"
OWN_KEYS = ("self", "kwargs")
TORCHAO = "torchao"


def quantization_of(request: Request, index: Mapping[str, Any]) -> Any:
    """Return what `from_pretrained` of a pipeline takes as `quantization_config`.

    Args:
        request: The backend of each component, and its settings.
        index: The content of the checkpoint's `model_index.json`.

    Raises:
        CannotRunHere: The package of a backend is not installed.
        CaseError: A component, a backend or one of its settings does not exist.
    """
    components = components_in(index)
    mapping: Dict[str, Any] = {}
    for component, settings in request.items():
        entry = components.get(component)
        if entry is None or entry[0] is None:
            known = list(components)
            raise CaseError(
                f"`quantize`: the checkpoint has no `{component}`{nearest(component, known)}"
            )
        mapping[component] = _configuration(component, settings, str(entry[0]))
    library: Any = importlib.import_module("diffusers")
    return library.PipelineQuantizationConfig(quant_mapping=mapping)


def _configuration(component: str, settings: Mapping[str, Any], library: str) -> Any:
    """Return the configuration of one component, of the library that loads it."""
    home = "transformers" if library == "transformers" else "diffusers"
    backend = str(settings[BACKEND])
    asked = f"quantize: {backend} of {component}"
    found = _class_of(backend, home, asked)
    given = {key: value for key, value in settings.items() if key != BACKEND}
    parameters = inspect.signature(found.__init__).parameters
    check_arguments(asked, given, [each for each in parameters if each not in OWN_KEYS])
    try:
        return found(**{key: _value(asked, backend, value) for key, value in given.items()})
    except ImportError as error:
        raise CannotRunHere(f"`{asked}`: {_first_line(error)}") from error
    except (TypeError, ValueError) as error:
        raise CaseError(f"`{asked}`: {_first_line(error)}") from error


def _class_of(backend: str, home: str, asked: str) -> Any:
    """Return the class of a backend's configuration; `bitsandbytes` stands for its widths."""
    auto: Any = importlib.import_module(f"{home}.quantizers.auto")
    known: Dict[str, Any] = auto.AUTO_QUANTIZATION_CONFIG_MAPPING
    fitting = {known[name] for name in known if name in (backend, f"{backend}_4bit")}
    if len(fitting) == 1:
        return fitting.pop()
    raise CaseError(f"`{asked}`: {home} has {', '.join(known)}{nearest(backend, known)}")


def _value(asked: str, backend: str, value: Any) -> Any:
    """Return a setting's value; for torchao the name of one of its configurations stands for it."""
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value[len("torch.") :], value)
    is_name = isinstance(value, str) and value.endswith("Config")
    is_named = isinstance(value, Mapping) and "class" in value
    if backend != TORCHAO or not (is_name or is_named):
        return value
    if importlib.util.find_spec(TORCHAO) is None:
        raise CannotRunHere(f"`{asked}` needs the package torchao")
    settings = dict(value) if is_named else {"class": value}
    name = str(settings.pop("class"))
    home = importlib.import_module("torchao.quantization")
    base = importlib.import_module("torchao.core.config").AOBaseConfig
    known = [each for each in dir(home) if _is_configuration(getattr(home, each), base)]
    if name not in known:
        raise CaseError(f"`{asked}`: torchao has {', '.join(known)}{nearest(name, known)}")
    found = getattr(home, name)
    check_arguments(f"{asked}: {name}", settings, inspect.signature(found).parameters)
    return found(**settings)


def _is_configuration(value: Any, base: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, base) and value is not base


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Quantization(Execution):
    """The quantized weights of one component; they are loaded so, and cannot be undone."""

    def __init__(self, pipeline: Any, component: str, settings: Mapping[str, Any]) -> None:
        self.asked = f"quantize: {settings[BACKEND]} of {component}"
        self._component = component_of(pipeline, component, "quantize")

    def seen(self) -> Seen:
        """Return the types of the weights, and how many are no plain floating-point tensors."""
        weights = list(_weights_of(self._component))
        quantized = [name for name, is_quantized in weights if is_quantized]
        kinds = Counter(name for name, _ in weights)
        types = ", ".join(f"{number} {name}" for name, number in sorted(kinds.items()))
        words = f"{len(quantized)} of {len(weights)} weights of layers are quantized: {types}"
        return Seen(words, took_effect=bool(quantized))


def _weights_of(component: torch.nn.Module) -> List[Tuple[str, bool]]:
    """Return the type of each layer's weight, and whether it is quantized."""
    found = []
    for module in component.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.dim() < 2:
            continue
        plain = type(weight) in (torch.Tensor, torch.nn.Parameter)
        kind = dtype_name(weight.dtype) if plain else type(weight).__name__
        is_float = weight.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        found.append((kind, not (plain and is_float)))
    return found
