"""The two forms of a fault: the worker injects it, or the scenario asks for something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from harness.records import Facts
from harness.scenario.model import Case

Change = Callable[[object], object]  # of one argument of a pipeline's call


@dataclass(frozen=True)
class Fault:
    """One realistic fault: its name, and the case that carries it, None where it does not apply."""

    name: str
    apply: Callable[[Case], Case | None]


def injected(name: str, kind: str, component: str, /, **details: object) -> Fault:
    """Return a fault that is injected into a component of the loaded pipeline.

    Args:
        name: Of the fault.
        kind: One of `INJECTORS` in `worker/faults.py`.
        component: Into which it is injected.
        details: What that kind needs.
    """
    fault: Facts = {"kind": kind, "component": component, **details}

    def apply(case: Case) -> Case:
        return replace(case, fault=fault)

    return Fault(name, apply)


def called_with(name: str, argument: str, change: Change, default: object = None) -> Fault:
    """Return a fault that changes one argument of the call.

    It does not apply where the call has none, and `default` is None.
    """

    def apply(case: Case) -> Case | None:
        call = case.scenario.call
        before = call.get(argument, default)
        if before is None:
            return None
        changed = {**call, argument: change(before)}
        return replace(case, scenario=replace(case.scenario, call=changed))

    return Fault(name, apply)


def default_changed(argument: str, before: object, after: object) -> Fault:
    """Return a fault that changes the default of an argument of the call.

    It does not apply where the call gives the argument, and has no effect where the pipeline has no
    such argument.
    """

    def apply(case: Case) -> Case | None:
        call = case.scenario.call
        if argument in call:
            return None
        changed = {**call, argument: after}
        return replace(case, scenario=replace(case.scenario, call=changed))

    return Fault(f"default of {argument} {before} -> {after}", apply)


def slightly_more(value: object) -> object:
    """Return a number times 1.001."""
    return cast("float", value) * 1.001


def one_more(value: object) -> object:
    """Return a number plus one."""
    return cast("float", value) + 1
