"""What every kind of execution has in common: to apply, to be watched, to say what was seen, undo.

A library may accept a setting and ignore it. So no execution believes what it asked for: it
observes an instrumented run, and says what it saw there.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from contextlib import ExitStack, nullcontext
from typing import Any, Callable, ContextManager, Iterable, NamedTuple

import torch

from ...observe.stages import Stage, wrapped
from ...protocol import CaseError
from ..components import call_of
from ..library import nearest

HOOKS = "_diffusers_hook"  # the attribute in which a module of diffusers has its registry of hooks


class Seen(NamedTuple):
    """What was observed of an execution, in words, and whether it took effect."""

    words: str
    took_effect: bool


class Execution(ABC):
    """One thing that a case asks for, of one component or of the whole pipeline.

    Attributes:
        asked: The key of the scenario, the component and what was asked for.
        beside_compiled: Whether the case compiles components too. Calls of modules inside compiled
            code cannot be counted: to observe them would compile other code.
    """

    asked: str
    beside_compiled: bool = False

    def apply(self) -> None:  # noqa: B027 (what is done at load has nothing to do here)
        """Switch it on.

        Raises:
            CannotRunHere: This machine lacks a device or a package for it.
            CaseError: This release of the libraries, or this pipeline, has no such thing.
        """

    def watch(self, undo: ExitStack) -> None:  # noqa: B027 (some look at the end alone)
        """Observe the run that follows, until `undo` is closed; observing changes no bit."""

    def around(self, stage: Stage) -> ContextManager[Any]:  # noqa: ARG002 (for those that look)
        """Return what a stage of the watched run runs within."""
        return nullcontext()

    @abstractmethod
    def seen(self) -> Seen:
        """Return what was observed."""

    def undo(self) -> None:  # noqa: B027 (what is done at load is not undone)
        """Leave the pipeline and the libraries as they were before `apply`."""


class Count:
    """Counts the calls of methods and modules."""

    def __init__(self) -> None:
        self.calls = 0

    def add(self, *_: Any) -> None:
        """Count one call."""
        self.calls += 1

    def of_method(self, owner: Any, method: str, undo: ExitStack) -> None:
        """Count the calls of a method of an instance, until `undo` is closed."""

        def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
            # `wraps` keeps the signature visible: a stage names its inputs by it.
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                self.add()
                return original(*args, **kwargs)

            return call

        undo.enter_context(wrapped(owner, method, wrapper))

    def of_modules(self, modules: Iterable[torch.nn.Module], undo: ExitStack) -> None:
        """Count the calls of modules, until `undo` is closed."""
        for module in modules:
            undo.callback(module.register_forward_pre_hook(self.add).remove)


def component_of(pipeline: Any, name: str, asked: str) -> torch.nn.Module:
    """Return a component with weights.

    Raises:
        CaseError: The pipeline has no such component, or it has no weights.
    """
    component = pipeline.components.get(name)
    if isinstance(component, torch.nn.Module):
        return component
    known = [each for each, part in pipeline.components.items() if call_of(part) == "forward"]
    raise CaseError(
        f"`{asked}`: {type(pipeline).__name__} has no component `{name}` with weights; it has "
        f"{', '.join(known)}{nearest(name, known)}"
    )


def denoisers_of(pipeline: Any) -> Iterable[str]:
    """Return the components that run in every step, which a parameter `timestep` tells."""
    import inspect

    return [
        name
        for name, component in pipeline.components.items()
        if call_of(component) == "forward"
        and "timestep" in inspect.signature(component.forward).parameters
    ]


def hooks_in(component: torch.nn.Module, name: str) -> Iterable[Any]:
    """Return the hooks of diffusers with this name on the modules of a component."""
    registries = [getattr(module, HOOKS, None) for module in component.modules()]
    return [each.hooks[name] for each in registries if each is not None and name in each.hooks]


def check_arguments(asked: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an argument that a library would not know.

    Raises:
        CaseError: The error lists those that it knows.
    """
    offered = list(known)
    for name in given:
        if name not in offered:
            raise CaseError(
                f"`{asked}` has no `{name}`; it has {', '.join(offered)}{nearest(name, offered)}"
            )


NOT_COUNTED = "calls inside compiled code are not counted"


def counted(number: int, noun: str) -> str:
    """Return a number and a noun, as `1 call` or `3 calls`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
