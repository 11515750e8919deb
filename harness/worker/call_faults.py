"""Faults in what passes between the parts of a pipeline: arguments, results, tables and noise."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Dict, List, Mapping, Optional

import torch

from .conditions import noise
from .fault_sites import (
    FORWARD,
    Fault,
    Found,
    Host,
    modules_of,
    put,
    replace_method,
    where,
)
from .observe.stages import Stage
from .tensor_changes import changed, reordered

SET_TIMESTEPS = "set_timesteps"  # the method in which a scheduler makes its tables
NOTHING = object()


def inject_argument(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Change one argument of a method, of a component or of modules in it.

    `argument` is its name, `method` that of the method, `forward` without one. `calls` names the
    calls, counted from 0 over the run; without it all are meant. An argument that a call does not
    give is left out, but with `how: set` it is given.
    """
    argument = fault["argument"]

    def replaced(owner: Any) -> bool:
        is_meant = _Calls(fault)

        def on_arguments(given: Dict[str, Any]) -> None:
            has_it = given.get(argument) is not None or fault["how"] == "set"
            if is_meant.now() and has_it:
                given[argument] = changed(given.get(argument), fault)

        return replace_method(owner, _method(fault), undo, on_arguments=on_arguments)

    found = [each for each in _owners(host, fault) if replaced(each.module)]
    return f"{argument} of {_where(found, fault)}: {fault['how']}" if found else ""


def inject_result(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Change what a method gives; see `inject_argument`.

    `how` is one of `tensor_changes`, or `repeat`, the result of the call before, or `skip`, the
    first argument as it is.
    """

    def replaced(owner: Any) -> bool:
        is_meant = _Calls(fault)
        before: List[Any] = []

        def on_result(given: Dict[str, Any], result: Any) -> Any:
            found = _changed_result(fault, given, result, before) if is_meant.now() else result
            before[:] = [_kept(result)] if fault["how"] == "repeat" else []
            return found

        return replace_method(owner, _method(fault), undo, on_result=on_result)

    found = [each for each in _owners(host, fault) if replaced(each.module)]
    return f"result of {_where(found, fault)}: {fault['how']}" if found else ""


def _changed_result(fault: Fault, given: Dict[str, Any], result: Any, before: List[Any]) -> Any:
    if fault["how"] == "repeat":
        return before[0] if before else result
    if fault["how"] == "skip":
        return next((each for each in given.values() if isinstance(each, torch.Tensor)), result)
    return changed(result, fault)


def _kept(result: Any) -> Any:
    """Return a copy of a result that the pipeline may write into."""
    if isinstance(result, torch.Tensor):
        return result.clone()
    if type(result) in (tuple, list):
        return type(result)(_kept(each) for each in result)
    if isinstance(result, dict):
        return type(result)(**{key: _kept(each) for key, each in result.items()})
    return result


class _Calls:
    """Counts the calls of a method, and says of each whether a fault means it."""

    def __init__(self, fault: Fault) -> None:
        self._wanted = fault.get("calls")
        self._count = 0

    def now(self) -> bool:
        """Count one call; return whether it is meant."""
        index = self._count
        self._count += 1
        return self._wanted is None or index in self._wanted


def _method(fault: Fault) -> str:
    return str(fault.get("method", FORWARD))


def _owners(host: Host, fault: Fault) -> List[Found]:
    """Return the modules that a fault means, or else its component."""
    if "modules" in fault:
        return modules_of(host, fault)
    part = host.part(fault["component"])
    return [] if part is None else [Found(fault["component"], part)]


def _where(found: List[Found], fault: Fault) -> str:
    place = where([path for path, _ in found])
    return place if _method(fault) == FORWARD else f"{place}.{_method(fault)}"


def inject_attribute(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Change the attribute `name` of a component, or of the modules in it that have one.

    The values of a dictionary are changed each, such as the scales of adapters.
    """
    name = fault["name"]
    found = [each for each in _owners(host, fault) if hasattr(each.module, name)]
    touched = []
    for path, owner in found:
        value = getattr(owner, name)
        after = _changed_attribute(value, fault)
        if not _equal(after, value):
            put(owner, name, after, undo)
            touched.append(path)
    return f"{name} of {where(touched)}: {fault['how']}" if touched else ""


def _changed_attribute(value: Any, fault: Fault) -> Any:
    if isinstance(value, dict):
        return {key: changed(each, fault) for key, each in value.items()}
    return changed(value, fault)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def inject_table(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Change a table or a number that a scheduler holds after `set_timesteps`, such as its sigmas.

    A table that `set_timesteps` only reads is changed before it too, because others follow from it.
    With `from_call` N, the first N calls of the method leave it as it is: what is left behind by
    them shows in a further call of the same pipeline object.
    """
    own_class = host.scheduler_classes.get(fault["component"])
    if own_class is None:
        return ""
    tables = _Tables(fault)
    if not replace_method(own_class, SET_TIMESTEPS, undo, tables.before, tables.after):
        return ""
    return f"{fault['name']} of {own_class.__name__}: {fault['how']}"


class _Tables:
    """Changes the tables of schedulers, each once, however often `set_timesteps` is called."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._name = fault["name"]
        self._own: Any = None  # the scheduler of the last call
        self._calls = 0  # how many that scheduler got
        self._made: Any = NOTHING  # what stands there as it was changed

    def before(self, given: Dict[str, Any]) -> None:
        scheduler = given["self"]
        if scheduler is not self._own:
            self._own, self._calls, self._made = scheduler, 0, NOTHING
        self._calls += 1
        self._change(scheduler)

    def after(self, given: Dict[str, Any], result: Any) -> Any:
        self._change(given["self"])
        return result

    def _change(self, scheduler: Any) -> None:
        value = getattr(scheduler, self._name, None)
        is_early = self._calls <= self._fault.get("from_call", 0)
        if value is None or value is self._made or is_early:
            return
        self._made = changed(value, self._fault)
        setattr(scheduler, self._name, self._made)


def inject_noise(_host: Host, fault: Fault, undo: ExitStack) -> str:
    """Draw noise in another type than the pipeline's, in another order, or after another draw."""
    how = fault.get("how", fault.get("dtype"))
    own = noise.library_draw()
    if own is None:
        return ""
    undo.enter_context(noise.intercepted_draws(_draw(own, how), _on_draw(fault)))
    return f"noise: {how}"


def _draw(own: noise.Draw, how: Any) -> Optional[noise.Draw]:
    if how != "second":
        return None

    def draw(*args: Any, **kwargs: Any) -> torch.Tensor:
        own(*args, **kwargs)
        return own(*args, **kwargs)

    return draw


def _on_draw(fault: Mapping[str, Any]) -> noise.OnDraw:
    """Return what rewrites noise that was drawn."""

    def rewrite(_stage: Stage, drawn: torch.Tensor) -> None:
        if "dtype" in fault:
            drawn.copy_(drawn.to(getattr(torch, fault["dtype"])))
        after = reordered(drawn, fault.get("how", ""))
        if after is not None:
            drawn.copy_(after.clone())

    return rewrite
