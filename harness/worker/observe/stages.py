"""Observing any pipeline without code for it: every component's call and every scheduler's step, in order.

Found on the pipeline object, wrapped on the instances, and taken off again. Nested calls belong to the outer stage.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Callable, ContextManager, Dict, Iterator, Tuple

from ..pipeline.components import call_of

METHODS = (
    "encode",
    "decode",
    "generate",
    "get_text_features",
    "get_image_features",
)  # work that is not in `forward`

OnStage = Callable[
    [str, Dict[str, Any], Any], Any
]  # (name, inputs by parameter, result) -> the result to go on with
OnStep = Callable[[str], None]  # (name of the scheduler)
Around = Callable[
    [str, Any], ContextManager[Any]
]  # (name, component) -> what the stage's own call runs within


def nothing_around(_stage: str, _owner: Any) -> ContextManager[Any]:
    """Look into no stage."""
    return nullcontext()


def schedulers_of(pipeline: Any) -> Dict[str, Any]:
    """Return the pipeline's schedulers by component name."""
    return {
        name: component
        for name, component in pipeline.components.items()
        if callable(getattr(component, "step", None)) and hasattr(component, "config")
    }


def _points(pipeline: Any) -> Iterator[Tuple[str, Any, str]]:
    """Yield (stage, owner, method) for everything to wrap."""
    for name, component in pipeline.components.items():
        call = call_of(component)
        if call:
            yield name, component, call
            for method in METHODS:
                if callable(getattr(component, method, None)):
                    yield f"{name}.{method}", component, method
    for name, scheduler in schedulers_of(pipeline).items():
        yield f"{name}.step", scheduler, "step"


@contextmanager
def wrapped(owner: Any, method: str, wrapper: Callable[[Any], Any]) -> Iterator[None]:
    """Put `wrapper(original)` on the owner, an instance, a class or a module; what it inherits from stays as it is."""
    had = method in vars(owner)
    original = getattr(owner, method)
    setattr(owner, method, wrapper(original))
    try:
        yield
    finally:
        if had:
            setattr(owner, method, original)
        else:
            delattr(owner, method)


@contextmanager
def watched(pipeline: Any, on_stage: OnStage, around: Around = nothing_around) -> Iterator[None]:
    """Call `on_stage` after every stage of the pipeline, named `unet#0`, `scheduler.step#0`, `vae.decode#0` and so on."""
    counts: Dict[str, int] = {}
    depth = 0

    def wrapper_for(stage: str, owner: Any) -> Callable[[Any], Any]:
        def wrapper(original: Any) -> Any:
            signature = inspect.signature(original)

            @functools.wraps(
                original
            )  # keeps the signature visible: pipelines ask it which arguments a step takes
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal depth
                if depth:
                    return original(*args, **kwargs)
                index = counts.get(stage, 0)
                counts[stage], name = index + 1, f"{stage}#{index}"
                depth += 1
                try:
                    with around(name, owner):
                        result = original(*args, **kwargs)
                finally:
                    depth -= 1
                return on_stage(name, _by_name(signature, args, kwargs), result)

            return call

        return wrapper

    with ExitStack() as stack:
        for stage, owner, method in _points(pipeline):
            stack.enter_context(wrapped(owner, method, wrapper_for(stage, owner)))
        yield


@contextmanager
def stepped(pipeline: Any, on_step: OnStep) -> Iterator[None]:
    """Call `on_step` after every step of a scheduler, and look at nothing: what it takes is timed too."""

    def telling(name: str, original: Any) -> Any:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            on_step(name)
            return result

        return step

    with ExitStack() as stack:
        for name, scheduler in schedulers_of(pipeline).items():
            stack.enter_context(wrapped(scheduler, "step", functools.partial(telling, name)))
        yield


def _by_name(
    signature: inspect.Signature, args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> Dict[str, Any]:
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
