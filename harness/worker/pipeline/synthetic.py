"""Synthetic checkpoints: pipelines made of configurations alone, whose weights are made here.

The weights are portable numbers, so that they have the same bits on every machine.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

import torch

from ..conditions import portable
from ..protocol import CaseError
from .components import call_of, parameters_of
from .framework import Framework

INDEX_FILE = "model_index.json"
INITIALISERS = (
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "uniform_",
    "normal_",
    "trunc_normal_",
)


def read_index(folder: Path) -> Dict[str, Any]:
    """Return a checkpoint's index: classes of components, and settings of the pipeline, by name."""
    found: Dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    return found


def components_in(index: Mapping[str, Any]) -> Dict[str, List[Any]]:
    """Return the entries of an index that name the classes of components.

    Every list does, but one of numbers, which is a setting of the pipeline and can name no code.
    """
    return {
        name: entry
        for name, entry in index.items()
        if isinstance(entry, list) and not name.startswith("_") and not _has_only_numbers(entry)
    }


def _has_only_numbers(entry: List[Any]) -> bool:
    return bool(entry) and all(isinstance(value, (int, float)) for value in entry)


def synthesize(
    folder: Path,
    pipeline_class: Any,
    dtypes: Mapping[str, str],
    framework: Framework,
    replaced: Optional[Mapping[str, Any]] = None,
) -> Any:
    """Build a pipeline from its configurations and fill its weights in place.

    Args:
        folder: The configurations, in the format of diffusers.
        pipeline_class: The class of the pipeline.
        dtypes: The floating-point type of each component; `default` is that of those unnamed.
        framework: Whose pipeline it is.
        replaced: Components that are given to the pipeline in place of those of the folder.

    Raises:
        CaseError: The framework's libraries here lack the class of a component.
    """
    index = read_index(folder)
    components = components_in(index)
    arguments: Dict[str, Any] = {}
    for name, entry in index.items():
        if name in (replaced or {}) or name.startswith("_"):
            continue
        if name not in components:
            arguments[name] = entry
            continue
        library, class_name = entry
        if library is None:  # an optional component that this pipeline goes without
            arguments[name] = None
            continue
        component_class = _component_class(library, class_name, pipeline_class, framework)
        dtype = dtypes.get(name, dtypes["default"])
        arguments[name] = make_component(name, component_class, folder / name, dtype, framework)
    return pipeline_class(**arguments, **(replaced or {}))


def _component_class(library: str, name: str, pipeline_class: Any, framework: Framework) -> Any:
    """Return the class that an index means.

    It is one of diffusers, one of transformers, or one that the pipeline's module imports.
    """
    homes = {"diffusers": framework.library, "transformers": framework.transformers}
    home = importlib.import_module(homes.get(library, pipeline_class.__module__))
    found = getattr(home, name, None)
    if not inspect.isclass(found):
        raise CaseError(f"{library} has no component class `{name}` in this environment")
    return found


def make_component(
    name: str, component_class: Any, folder: Path, dtype: str, framework: Framework
) -> Any:
    """Return a component made from its configuration; weights are those of its name."""
    if not call_of(component_class):  # a tokenizer or a scheduler
        return component_class.from_pretrained(folder)
    component = _build(component_class, folder)
    portable.fill(name, parameters_of(component))
    return framework.prepared(component, dtype)


def _build(component_class: Any, folder: Path) -> Any:
    """Build a component; its weights are what torch left in memory."""
    with _uninitialised():
        if getattr(component_class, "config_class", None) is not None:  # as transformers has it
            configuration = component_class.config_class.from_pretrained(folder)
            return component_class(configuration)
        return component_class.from_config(component_class.load_config(folder))


@contextlib.contextmanager
def _uninitialised() -> Iterator[None]:
    """Skip torch's random initialisation, which is slow and would be overwritten at once."""

    def leave(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return tensor

    own = {name: getattr(torch.nn.init, name) for name in INITIALISERS}
    for name in INITIALISERS:
        setattr(torch.nn.init, name, leave)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(torch.nn.init, name, function)
