"""Where a fault is injected: components of a pipeline, their modules, and methods to replace.

Whatever is replaced is put onto a stack that puts it back.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Type

import torch

Fault = Mapping[str, Any]
# Takes the arguments of one call by their names, and may change them in place.
OnArguments = Callable[[Dict[str, Any]], None]
# Takes the arguments of one call by their names, and its result; returns the result to go on with.
OnResult = Callable[[Dict[str, Any], Any], Any]

MODULES: Dict[str, Tuple[Type[torch.nn.Module], ...]] = {
    "convolution": (torch.nn.Conv2d,),
    "linear": (torch.nn.Linear,),
    "norm": (torch.nn.GroupNorm, torch.nn.LayerNorm),
    "matrix": (torch.nn.Conv2d, torch.nn.Linear),
    "any": (torch.nn.Module,),
}
FORWARD = "forward"


class Host(NamedTuple):
    """The pipeline that a fault is injected into.

    Attributes:
        pipeline: A loaded pipeline of diffusers.
        components: Its components by name.
        scheduler_classes: The class of each scheduler that the runs are made with, by the name of
            the component; a case may replace the stored one.
    """

    pipeline: Any
    components: Mapping[str, Any]
    scheduler_classes: Mapping[str, type]

    def part(self, name: str) -> Any:
        """Return a component, the class of a scheduler, or what else the pipeline holds; or None.

        An image processor is no component.
        """
        if name in self.scheduler_classes:
            return self.scheduler_classes[name]
        return self.components.get(name, getattr(self.pipeline, name, None))


# Injects a fault into a pipeline and puts onto the stack what removes it. Returns the proof of its
# effect in words, or nothing where the fault does not apply or changes nothing.
Injector = Callable[[Host, Fault, ExitStack], str]


class Found(NamedTuple):
    """A module inside a component, and its path."""

    path: str
    module: Any


def component_of(host: Host, fault: Fault) -> Optional[torch.nn.Module]:
    """Return the component that a fault names, if it is one of torch with weights."""
    component = host.components.get(fault["component"])
    return component if isinstance(component, torch.nn.Module) else None


def modules_of(host: Host, fault: Fault) -> List[Found]:
    """Return the modules that a fault means.

    They are of one group of `MODULES`, or those whose class has a name that ends with `modules`.
    With `path` their own path ends with it, with `every` N only every N-th is meant, and with `at`
    only the one at that fraction of the depth.
    """
    component = component_of(host, fault)
    if component is None:
        return []
    kind, end = fault["modules"], fault.get("path", "")
    found = [
        Found(path, module)
        for path, module in component.named_modules()
        if _is_of_kind(module, kind) and path.endswith(end)
    ]
    if not found or fault.get("at") is None:
        return found[:: fault.get("every", 1)]
    index = int(fault["at"] * len(found))
    return [found[min(len(found) - 1, index)]]


def _is_of_kind(module: Any, kind: str) -> bool:
    if kind in MODULES:
        return isinstance(module, MODULES[kind])
    return type(module).__name__.endswith(kind)


def where(paths: List[str]) -> str:
    """Return the path of one module, or how many there are."""
    return paths[0] if len(paths) == 1 else f"{len(paths)} modules"


def put(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    """Set an attribute, and put onto the stack what brings back exactly what was there."""
    held = vars(owner)
    inherited = inspect.getattr_static(type(owner), name, None)
    if isinstance(owner, type):
        inherited = inspect.getattr_static(owner, name, None)
    if name in held:
        undo.callback(setattr, owner, name, held[name])
    elif hasattr(owner, name) and (inherited is None or hasattr(inherited, "__set__")):
        undo.callback(setattr, owner, name, getattr(owner, name))  # a buffer or a property
    else:
        undo.callback(delattr, owner, name)
    setattr(owner, name, value)


def replace_method(
    owner: Any,
    method: str,
    undo: ExitStack,
    on_arguments: Optional[OnArguments] = None,
    on_result: Optional[OnResult] = None,
) -> bool:
    """Let a method's calls pass through two functions; return whether the owner has the method.

    Args:
        owner: A module, whose method is replaced on the instance; a class; or any other object,
            such as a tokenizer, whose method is replaced on its class.
        method: The name of the method.
        undo: Gets what puts it back.
        on_arguments: Called with the arguments of each call before it.
        on_result: Called with the arguments and the result of each call.
    """
    holder = owner if isinstance(owner, (torch.nn.Module, type)) else type(owner)
    original = getattr(holder, method, None)
    if not callable(original):
        return False
    signature = inspect.signature(original)
    others_in = next(
        (each.name for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD), ""
    )

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        others = given.pop(others_in, {})  # what a method takes without naming it
        given.update(others)
        if on_arguments is not None:
            on_arguments(given)
            bound.arguments = {key: given[key] for key in signature.parameters if key in given}
            others = {key: given[key] for key in given if key not in signature.parameters}
            if others:
                bound.arguments[others_in] = others
        result = original(*bound.args, **bound.kwargs)
        return result if on_result is None else on_result(given, result)

    is_static = isinstance(inspect.getattr_static(holder, method), staticmethod)
    put(holder, method, staticmethod(call) if is_static else call, undo)
    return True
