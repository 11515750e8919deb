"""The stages of a run: every call of a component and every step of a scheduler, in order.

They are found on the pipeline object, so that a pipeline of any class is observed without code for
it. Methods are replaced on the instances, those of schedulers on their classes, and put back
afterwards. A call that happens inside another one belongs to the outer stage.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch

from ..pipeline.components import call_of

# Methods of components whose work is not in `forward`.
METHODS = ("encode", "decode", "generate", "get_text_features", "get_image_features")
STEP = "step"  # the method of a scheduler
DRAW = "noise"  # the kind of a draw of noise


@dataclass(frozen=True)
class Stage:
    """One observed call of a run.

    Attributes:
        kind: What was called, such as `unet`, `vae.decode`, `scheduler.step`, or `DRAW`.
        index: How many calls of this kind came before it.
        scheduler: The name of the scheduler whose step it is; None for any other call.
    """

    kind: str
    index: int
    scheduler: Optional[str] = None

    @property
    def name(self) -> str:
        """The name in a recording, such as `unet#7`."""
        return f"{self.kind}#{self.index}"


# Takes a stage, its inputs by parameter and its result; returns the result to go on with.
OnStage = Callable[[Stage, Dict[str, Any], Any], Any]
# Takes the name of the scheduler that made a step.
OnStep = Callable[[str], None]
# Takes a stage, the component that is called and its inputs by parameter; returns what the call
# runs within.
Around = Callable[[Stage, Any, Dict[str, Any]], ContextManager[Any]]
# Takes a method and returns what stands in its place.
Wrapper = Callable[[Any], Any]


class _EntryPoint(NamedTuple):
    """A method whose calls are stages of one kind."""

    kind: str
    owner: Any
    method: str
    scheduler: Optional[str] = None


def nothing_around(_stage: Stage, _component: Any, _inputs: Dict[str, Any]) -> ContextManager[Any]:
    """Let every stage run as it is."""
    return nullcontext()


def schedulers_of(pipeline: Any) -> Dict[str, Any]:
    """Return the pipeline's schedulers by component name."""
    return {
        name: component
        for name, component in pipeline.components.items()
        if callable(getattr(component, "step", None)) and hasattr(component, "config")
    }


def _entry_points(pipeline: Any) -> Iterator[_EntryPoint]:
    for name, component in pipeline.components.items():
        own_call = call_of(component)
        if own_call is None:
            continue
        if _is_called(component, own_call):
            yield _EntryPoint(name, component, own_call)
        for method in _methods_of(component, own_call):
            yield _EntryPoint(f"{name}.{method}", component, method)


def _is_called(component: Any, own_call: str) -> bool:
    """Return whether a component defines its call, which torch's base class only promises.

    What torch compiled has its call on the instance.
    """
    if own_call in vars(component):
        return True
    return getattr(type(component), own_call, None) is not getattr(torch.nn.Module, own_call, None)


def _methods_of(component: Any, own_call: str) -> Sequence[str]:
    """Return the methods, besides its call, in which a component works.

    A component without a call of its own, such as ShapE's renderer, works in the public methods
    that its class adds to what its bases have.
    """
    if _is_called(component, own_call):
        return [method for method in METHODS if callable(getattr(component, method, None))]
    own_class = type(component)
    inherited = {name for base in own_class.__mro__[1:] for name in vars(base)}
    return [
        name
        for name, member in vars(own_class).items()
        if inspect.isfunction(member) and not name.startswith("_") and name not in inherited
    ]


@contextmanager
def wrapped(owner: Any, method: str, wrapper: Wrapper) -> Iterator[None]:
    """Put `wrapper(original)` in the place of a method, and the original back afterwards.

    Args:
        owner: An instance, a class or a module. What it inherits from stays as it is.
        method: The name of the method or function.
        wrapper: Makes the replacement.
    """
    is_own = method in vars(owner)
    original = getattr(owner, method)
    setattr(owner, method, wrapper(original))
    try:
        yield
    finally:
        if is_own:
            setattr(owner, method, original)
        else:
            delattr(owner, method)


@contextmanager
def wrapped_steps(pipeline: Any, wrap: Callable[[str, Any], Any]) -> Iterator[None]:
    """Put `wrap(name, original)` in the place of every scheduler's `step`, for its copies too.

    The method is replaced on the scheduler's class. On the instance, a pipeline that copies its
    scheduler would call the original's bound method on the copy; and a subclass for the instance
    would be another class to a pipeline that asks for `type(scheduler)`.

    Args:
        pipeline: The pipeline.
        wrap: Takes the name of a scheduler and the function of its class. A copy counts as the
            first scheduler of its class.
    """
    by_class: Dict[type, Dict[str, Any]] = {}
    for name, scheduler in schedulers_of(pipeline).items():
        by_class.setdefault(type(scheduler), {})[name] = scheduler
    with ExitStack() as stack:
        for own_class, schedulers in by_class.items():
            wrapper = functools.partial(_step_by_instance, schedulers, wrap)
            stack.enter_context(wrapped(own_class, STEP, wrapper))
        yield


def _step_by_instance(
    schedulers: Dict[str, Any], wrap: Callable[[str, Any], Any], original: Any
) -> Any:
    """Return a method that calls the wrapper of the scheduler whose method it is."""
    calls = {id(scheduler): wrap(name, original) for name, scheduler in schedulers.items()}
    of_a_copy = next(iter(calls.values()))

    # `wraps` keeps the signature visible: pipelines ask it which arguments a step takes.
    @functools.wraps(original)
    def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        return calls.get(id(scheduler), of_a_copy)(scheduler, *args, **kwargs)

    return step


@contextmanager
def observed(pipeline: Any, on_stage: OnStage, around: Around = nothing_around) -> Iterator[None]:
    """Call `on_stage` after every stage of the pipeline, and run each stage within `around`."""
    observer = _Observer(on_stage, around)
    schedulers = schedulers_of(pipeline)

    def wrap_step(name: str, original: Any) -> Any:
        point = _EntryPoint(f"{name}.{STEP}", schedulers[name], STEP, scheduler=name)
        return observer.wrap(point, original)

    with ExitStack() as stack:
        for point in _entry_points(pipeline):
            wrapper = functools.partial(observer.wrap, point)
            stack.enter_context(wrapped(point.owner, point.method, wrapper))
        stack.enter_context(wrapped_steps(pipeline, wrap_step))
        yield


class _Observer:
    """Makes the wrappers of one run, which know of each other whether a stage is running."""

    def __init__(self, on_stage: OnStage, around: Around) -> None:
        self._on_stage = on_stage
        self._around = around
        self._is_inside_stage = False

    def wrap(self, point: _EntryPoint, original: Any) -> Any:
        signature = inspect.signature(original)
        indices = itertools.count()

        # `wraps` keeps the signature visible: pipelines ask it which arguments a step takes.
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside_stage:
                return original(*args, **kwargs)
            stage = Stage(point.kind, next(indices), point.scheduler)
            inputs = _by_parameter(signature, args, kwargs)
            inputs.pop("self", None)  # a scheduler's step is wrapped on its class
            self._is_inside_stage = True
            try:
                with self._around(stage, point.owner, inputs):
                    result = original(*args, **kwargs)
            finally:
                self._is_inside_stage = False
            return self._on_stage(stage, inputs, result)

        return call


@contextmanager
def observed_steps(pipeline: Any, on_step: OnStep) -> Iterator[None]:
    """Call `on_step` after every step of a scheduler, and look at nothing else.

    A timed run uses this: what is observed costs time.
    """

    def wrap(scheduler: str, original: Any) -> Any:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            on_step(scheduler)
            return result

        return step

    with wrapped_steps(pipeline, wrap):
        yield


def _by_parameter(
    signature: inspect.Signature, args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> Dict[str, Any]:
    """Return a call's arguments by parameter, or by position where the signature does not fit."""
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        by_position = {str(index): value for index, value in enumerate(args)}
        return {**by_position, **kwargs}
