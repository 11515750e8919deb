"""Caches of diffusers: which exist, by introspection, and how much of the denoiser they spared.

Whatever a cache does inside, a step that it serves runs fewer modules than the first step. This is
what is counted, so that no cache needs code of its own here.
"""

from __future__ import annotations

import importlib
import inspect
from contextlib import ExitStack
from dataclasses import fields
from typing import Any, Dict, List, Mapping, Type

import torch

from ...protocol import CaseError
from ..library import nearest
from .base import HOOKS, Execution, Seen, check_arguments, component_of, counted

TIMESTEP = "current_timestep_callback"  # a field that asks the pipeline for its timestep
THRESHOLD = "threshold"  # a field; at 0 nothing but equal residuals may be taken from the cache


def cache_configurations() -> Dict[str, Type[Any]]:
    """Return the configurations that `enable_cache` of the installed diffusers takes, by name.

    `FirstBlockCacheConfig` is `first_block`. Which classes it takes, its own code says.
    """
    mixin: Any = importlib.import_module("diffusers.models.cache_utils").CacheMixin
    hooks = importlib.import_module("diffusers.hooks")
    imported = [each for each in mixin.enable_cache.__code__.co_consts if isinstance(each, tuple)]
    names = [name for each in imported for name in each if str(name).endswith("Config")]
    return {_word(name): getattr(hooks, name) for name in names if hasattr(hooks, name)}


def _word(class_name: str) -> str:
    stem = class_name[: -len("Config")]
    stem = stem.removesuffix("Cache")
    parts = "".join(f"_{each.lower()}" if each.isupper() else each for each in stem)
    return parts.lstrip("_")


def _squeezed(word: str) -> str:
    """Return a name as it is compared: `taylorseer` and `taylor_seer_cache` are one cache."""
    plain = word.replace("_", "").lower()
    return plain.removesuffix("cache")


def cache_configuration(name: str) -> Type[Any]:
    """Return the class of a cache's configuration.

    Raises:
        CaseError: The installed diffusers has no such cache; the error lists those that it has.
    """
    known = cache_configurations()
    for word, found in known.items():
        if _squeezed(word) == _squeezed(name):
            return found
    raise CaseError(
        f"`cache`: diffusers {importlib.import_module('diffusers').__version__} has no cache "
        f"`{name}`; it has {', '.join(known)}{nearest(name, known)}"
    )


def caches_of(pipeline: Any, request: Mapping[str, Mapping[str, Any]]) -> List[Execution]:
    """Return the caches that a case asks for: one on each component that can have one.

    Raises:
        CaseError: No component can, or the cache or one of its fields does not exist.
    """
    ((name, settings),) = request.items()
    found = cache_configuration(name)
    known = [field.name for field in fields(found)]
    check_arguments(f"cache: {name}", settings, known)
    able = [key for key, part in pipeline.components.items() if hasattr(part, "enable_cache")]
    if not able:
        raise CaseError(f"`cache`: no component of {type(pipeline).__name__} can have a cache")
    return [_Cache(pipeline, component, name, settings) for component in able]


class _Cache(Execution):
    """One cache on one component."""

    def __init__(
        self, pipeline: Any, component: str, name: str, settings: Mapping[str, Any]
    ) -> None:
        self.asked = f"cache: {name} of {component}"
        self._pipeline = pipeline
        self._component: Any = component_of(pipeline, component, "cache")
        self._class = cache_configuration(name)
        self._settings = dict(settings)
        self._modules_by_call: List[int] = []

    def apply(self) -> None:
        """Enable the cache, and give it the pipeline's timestep where it asks for that."""
        settings = {key: _value(value) for key, value in self._settings.items()}
        if TIMESTEP in inspect.signature(self._class).parameters:
            settings.setdefault(TIMESTEP, lambda: self._pipeline.current_timestep)
        try:
            configuration = self._class(**settings)
            self._component.enable_cache(configuration)
        except (TypeError, ValueError) as error:
            raise CaseError(f"`{self.asked}`: {error}") from error

    def watch(self, undo: ExitStack) -> None:
        """Count how many innermost modules each call of the component runs."""
        self._modules_by_call = []

        def begin(*_: Any) -> None:
            self._modules_by_call.append(0)

        def add(*_: Any) -> None:
            if self._modules_by_call:
                self._modules_by_call[-1] += 1

        undo.callback(self._component.register_forward_pre_hook(begin).remove)
        for module in self._component.modules():
            if not list(module.children()):
                undo.callback(module.register_forward_pre_hook(add).remove)

    def seen(self) -> Seen:
        """Return how many calls of the component ran fewer modules than the fullest one."""
        calls = self._modules_by_call
        if not calls:
            return Seen("the component was never called", took_effect=False)
        full = max(calls)
        spared = [full - each for each in calls if each < full]
        words = (
            f"{len(spared)} of {counted(len(calls), 'call')} were served from the cache, which "
            f"spared {sum(spared)} of {full * len(calls)} calls of modules"
        )
        if self._settings.get(THRESHOLD) == 0 and not spared:
            return Seen(f"{words}, as a threshold of 0 asks for", self._is_hooked())
        return Seen(words, took_effect=bool(spared))

    def undo(self) -> None:
        """Disable the cache."""
        if self._component.is_cache_enabled:
            self._component.disable_cache()

    def _is_hooked(self) -> bool:
        registries = [getattr(each, HOOKS, None) for each in self._component.modules()]
        return any(each is not None and each.hooks for each in registries)


def _value(value: Any) -> Any:
    """Return a field's value; text such as `torch.bfloat16` stands for a type of torch."""
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value[len("torch.") :], value)
    return tuple(value) if isinstance(value, list) and len(value) == 2 else value
