"""Attention: the backend that was asked for, and those that really ran.

There are two ways to choose one. torch's scaled dot product attention has four kernels, which
`conditions.determinism` switches. diffusers has a dispatcher with many backends, which some models
call and others do not. Both are observed where they run: the dispatcher by counting the calls of
its backends, torch's kernels by the profiler.
"""

from __future__ import annotations

import importlib
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
)

import torch
from torch.autograd.profiler import profile

from ...observe.stages import Stage
from ...protocol import ALL_COMPONENTS, AttentionChoice, CannotRunHere, CaseError
from ..library import nearest
from .base import Execution, Seen, component_of

# Names of torch's kernels, as the profiler shows them, by the word of a scenario.
KERNELS = {
    "math": ("_scaled_dot_product_attention_math",),
    "flash": (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    ),
    "mem_efficient": ("_scaled_dot_product_efficient_attention",),
    "cudnn": ("_scaled_dot_product_cudnn_attention",),
    "overrideable": ("_scaled_dot_product_fused_attention_overrideable",),
}
KERNEL_OF = {f"aten::{name}": word for word, names in KERNELS.items() for name in names}
MATH = "math"
ON_CPU = (MATH, "flash")  # torch's kernels that a CPU has
# The kernel of torch that a backend of the dispatcher stands for; None where it may be any.
NATIVE: Mapping[str, Optional[str]] = {
    "native": None,
    "_native_math": "math",
    "_native_flash": "flash",
    "_native_efficient": "mem_efficient",
    "_native_cudnn": "cudnn",
}
WATCHED_CALLS = 2  # of each kind of stage: the first may compile, which runs attention on the way
TRIAL = (1, 16, 2, 64)  # (images, tokens, heads, features of a head), to try a backend with


class _Kernels:
    """Torch's kernels of attention that ran in the stages of some components."""

    def __init__(self) -> None:
        self._found: Dict[str, Dict[str, int]] = {}

    @contextmanager
    def watching(self, stage: Stage) -> Iterator[None]:
        """Find the kernels of one stage; of one kind of stage, those of the last watched call."""
        with profile(use_kineto=False) as profiled:
            yield
        names = [each.name for each in profiled.function_events]
        self._found[stage.kind] = Counter(KERNEL_OF[name] for name in names if name in KERNEL_OF)

    def counts(self) -> Dict[str, int]:
        """Return how often each kernel ran, by its word, in one call of each kind of stage."""
        return dict(sum(map(Counter, self._found.values()), Counter()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in sorted(counts.items())) or "none"


def _is_watched(stage: Stage) -> bool:
    return stage.index < WATCHED_CALLS and stage.scheduler is None and stage.kind != "noise"


class TorchAttention(Execution):
    """One of torch's own kernels, for everything that calls scaled dot product attention."""

    def __init__(self, word: str, device: torch.device) -> None:
        self.asked = f"attention: {word}"
        self._word = word
        self._device = device
        self._kernels = _Kernels()

    def apply(self) -> None:
        """Refuse a kernel that this device does not have; the switch itself is set already."""
        if self._device.type == "cpu" and self._word not in ON_CPU:
            raise CannotRunHere(f"`{self.asked}` needs a GPU")

    def around(self, stage: Stage) -> ContextManager[Any]:
        """Find the kernels of the first calls of every component."""
        return self._kernels.watching(stage) if _is_watched(stage) else super().around(stage)

    def seen(self) -> Seen:
        """Return which kernels ran; only the one that was asked for may."""
        counts = self._kernels.counts()
        words = f"torch's kernels that ran: {_listed(counts)}"
        if self.beside_compiled and self._word == MATH and not counts:
            return Seen(f"{words}, because compiled code has it inlined", took_effect=True)
        return Seen(words, set(counts) == {self._word})


class DispatchedAttention(Execution):
    """One backend of diffusers' dispatcher, for one component or for all that call it."""

    def __init__(
        self,
        pipeline: Any,
        component: str,
        choice: AttentionChoice,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._backend = choice["backend"]
        self._revision = choice.get("revision")
        where = "" if component == ALL_COMPONENTS else f" of {component}"
        self.asked = f"attention: {self._backend}{where}"
        self._pipeline = pipeline
        self._probe = (device, dtype)
        self._names = self._chosen(component)
        self._undo = ExitStack()
        self._dispatched: Dict[str, int] = Counter()
        self._kernels = _Kernels()
        self._inside = False

    def apply(self) -> None:
        """Try the backend on a small input, then set it on every component that was asked for."""
        dispatch = _dispatch_module(self.asked)
        names = [each.value for each in dispatch.AttentionBackendName]
        if self._backend not in names:
            raise CaseError(
                f"`{self.asked}`: this release of diffusers has {', '.join(names)}"
                f"{nearest(self._backend, names)}"
            )
        registry = dispatch._AttentionBackendRegistry
        if self._revision is not None:
            self._pin_kernel(dispatch)
        self._try(dispatch)
        self._undo.callback(registry.set_active_backend, registry._active_backend)
        for name in self._names:
            self._set_backend(self._pipeline.components[name])
        for key, function in list(registry._backends.items()):
            self._undo.callback(registry._backends.__setitem__, key, function)
            registry._backends[key] = self._counting(key.value, function)

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        """Count what the stages of the chosen components dispatch, and find torch's kernels."""
        if stage.kind.split(".")[0] not in self._names or not _is_watched(stage):
            yield
            return
        self._inside = True
        try:
            with self._kernels.watching(stage):
                yield
        finally:
            self._inside = False

    def seen(self) -> Seen:
        """Return which backends were dispatched to, and which of torch's kernels ran."""
        kernels = set(self._kernels.counts())
        words = (
            f"the dispatcher called {_listed(self._dispatched)}; "
            f"torch's kernels that ran: {_listed(self._kernels.counts())}"
        )
        took_effect = set(self._dispatched) == {self._backend} and self._fits(kernels)
        return Seen(words, took_effect)

    def undo(self) -> None:
        """Give every attention its former backend back, and the dispatcher its functions."""
        self._undo.close()

    def _fits(self, kernels: Set[str]) -> bool:
        """Whether the kernels of torch that ran are those of the backend."""
        if self._backend not in NATIVE:
            return not kernels
        expected = NATIVE[self._backend]
        if self.beside_compiled and expected in (None, MATH) and not kernels:
            return True  # compiled code has the products of matrices inlined
        return bool(kernels) if expected is None else kernels == {expected}

    def _chosen(self, component: str) -> Tuple[str, ...]:
        """Return the components that were asked for: the one that is named, or all that can."""
        if component != ALL_COMPONENTS:
            found = component_of(self._pipeline, component, "attention")
            if not hasattr(found, "set_attention_backend"):
                name = type(found).__name__
                raise CaseError(f"`{self.asked}`: diffusers cannot set the attention of a {name}")
            return (component,)
        return tuple(
            name
            for name, part in self._pipeline.components.items()
            if hasattr(part, "set_attention_backend") and _processors_of(part)
        )

    def _set_backend(self, component: Any) -> None:
        attribute = "_attention_backend"
        for processor in _processors_of(component):
            self._undo.callback(setattr, processor, attribute, getattr(processor, attribute))
        component.set_attention_backend(self._backend)

    def _pin_kernel(self, dispatch: Any) -> None:
        """Take a revision of a kernel of the Hub in place of the one that diffusers would take."""
        known = {each.value: config for each, config in dispatch._HUB_KERNELS_REGISTRY.items()}
        if self._backend not in known:
            raise CaseError(
                f"`{self.asked}` comes from a package; `revision` is for {', '.join(known)}"
            )
        config = known[self._backend]
        pinned = {"revision": self._revision, "version": None, "kernel_fn": None}
        for key, value in pinned.items():
            if hasattr(config, key):
                self._undo.callback(setattr, config, key, getattr(config, key))
                setattr(config, key, value)

    def _try(self, dispatch: Any) -> None:
        """Refuse a backend that this machine cannot run."""
        device, dtype = self._probe
        backend = dispatch.AttentionBackendName(self._backend)
        try:
            dispatch._check_attention_backend_requirements(backend)
            dispatch._maybe_download_kernel_for_backend(backend)
            query = torch.zeros(TRIAL, device=device, dtype=dtype)
            for check in dispatch._AttentionBackendRegistry._constraints[backend]:
                check(query=query, key=query, value=query, attn_mask=None, is_causal=False)
            with torch.no_grad():
                dispatch.dispatch_attention_fn(query, query, query, backend=backend)
        except Exception as error:  # whatever a package or a driver says
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CannotRunHere(f"`{self.asked}` cannot run here: {line}") from error

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a backend's function that notes its calls inside the chosen components.

        Where it is compiled, the note is made while compiling, and is no part of the graph.
        """

        def note(*_: Any) -> None:
            if self._inside:
                self._dispatched[name] += 1

        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                from torch._dynamo.comptime import comptime

                comptime(note)
            else:
                note()
            return function(*args, **kwargs)

        return call


def _dispatch_module(asked: str) -> Any:
    try:
        return importlib.import_module("diffusers.models.attention_dispatch")
    except ImportError as error:
        raise CaseError(f"`{asked}`: this release of diffusers dispatches no attention") from error


def _processors_of(component: Any) -> List[Any]:
    """Return the processors of a component that call the dispatcher."""
    found = [getattr(module, "processor", None) for module in component.modules()]
    return [each for each in found if hasattr(each, "_attention_backend")]


def attentions_of(
    pipeline: Any,
    request: Mapping[str, AttentionChoice],
    device: torch.device,
    dtypes: Callable[[str], torch.dtype],
) -> List[Execution]:
    """Return one execution for each component whose backend is asked for.

    Raises:
        CaseError: A component does not exist, or none calls the dispatcher.
    """
    found = [
        DispatchedAttention(pipeline, component, choice, device, dtypes(component))
        for component, choice in request.items()
    ]
    return list(found)
