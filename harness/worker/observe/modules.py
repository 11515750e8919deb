"""Observing the inside of stages: every module's call, with digests of what it took and gave.

Hooks on the modules do this; they are taken off after each stage. They change no bit: the caller
checks that by the stage's own digest. A module's result can also be kept, or replaced by another.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
)

import torch

from ..pipeline.components import call_of, parts_of
from ..protocol import MODULE, DetailRequest, ModuleRecord
from .digest import combine
from .lines import LineLog
from .operators import OperatorLog
from .slot import Whole
from .stages import Stage
from .tensors import PendingDigest, Tensors, tensors_in

NO_STAGE = ""  # as the stage of a detail: no stage is looked into
MODULE_DIGITS = 16  # hexadecimal, of the digest of a module's inputs or outputs
# Shows the operators that run while it is entered to a log.
ObserveOperators = Callable[[OperatorLog], ContextManager[Any]]


class Enough(BaseException):
    """The stage that was asked for is over, and nothing after it is needed.

    No `except Exception` of a pipeline stops it.
    """


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module inside a stage: the module's path, and how many calls came before."""

    path: str
    index: int

    @property
    def label(self) -> str:
        """The name in a recording, such as `conv_in#0`."""
        return f"{self.path}#{self.index}"


# What a stage computes outside its modules; its label is `protocol.OWN_CODE`.
OWN_CALL = ModuleCall("", 0)


class ModuleSite(NamedTuple):
    """A module in all stages of one kind; a whole stage has an empty path."""

    kind: str
    path: str

    @classmethod
    def parse(cls, text: str) -> ModuleSite:
        """Read `unet/conv_in`, or `unet/` for the whole stage."""
        kind, _, path = text.partition("/")
        return cls(kind, path)


class Detail(NamedTuple):
    """What a case asks to see of the inside of a run.

    Attributes:
        stage: The name of the only stage that is looked into; `NO_STAGE` for none; None for the
            first stage of every kind.
        to_end: Whether the run goes on after that stage.
        operators: The module whose own operators are noted, with its call, such as `conv_in#0`;
            `#0` is the stage's own code outside its modules; None for no operators.
        arguments: The index of the operator, among those, whose arguments are kept.
        keep: Modules whose results are kept. A request names them as `unet/conv_in`, and a whole
            stage as `unet/`; they are meant in all stages of that kind.
        feed: Modules whose results are replaced by those among the case's teacher tensors.
        lines: Whether the statements that made values are noted: with `operators`, those of that
            module's own code; without, those of the code outside of stages.
        files: Whether the loaded files are noted that are not as their packages installed them.
        evaluation: The form of an evaluation in float64, see `float64`, in which the case runs to
            its end and no stage is looked into; None for none.
    """

    stage: Optional[str] = None
    to_end: bool = False
    operators: Optional[str] = None
    arguments: Optional[int] = None
    keep: FrozenSet[ModuleSite] = frozenset()
    feed: FrozenSet[ModuleSite] = frozenset()
    lines: bool = False
    files: bool = False
    evaluation: Optional[str] = None

    @classmethod
    def read(cls, request: DetailRequest) -> Detail:
        """Read a request; a key that is missing has the default above."""
        return cls(
            stage=request.get("stage"),
            to_end=request.get("to_end", False),
            operators=request.get("operators"),
            arguments=request.get("arguments"),
            keep=frozenset(map(ModuleSite.parse, request.get("keep", ()))),
            feed=frozenset(map(ModuleSite.parse, request.get("feed", ()))),
            lines=request.get("lines", False),
            files=request.get("files", False),
            evaluation=request.get("evaluation"),
        )

    @property
    def last_stage(self) -> Optional[str]:
        """The name of the stage after which the run ends; None where it runs to its end."""
        return None if self.to_end else self.stage

    def looks_into(self, stage: Stage) -> bool:
        """Return whether the modules of a stage are noted."""
        if self.stage is None:
            return stage.index == 0
        return stage.name == self.stage

    def handles_modules_of(self, stage: Stage) -> bool:
        """Return whether the results of any module of a stage are kept or replaced."""
        return any(site.kind == stage.kind for site in self.keep | self.feed)


class _NotedCall(NamedTuple):
    """A call of a module whose digests may still be computed by a device."""

    call: ModuleCall
    type_name: str
    inputs: PendingDigest
    outputs: PendingDigest


class Tracer:
    """Notes the modules and operators inside stages; replaces what modules gave where asked.

    Args:
        detail: What to see.
        teacher_tensors: The tensors that replace results, by their names in a recording.
        observe_operators: How the framework shows its operators.
        counts: What counts of each tensor; None for the whole.

    Attributes:
        operators: The operators of the module that `detail` names.
        lines: The statements that made values, where `detail` asks for them.
    """

    def __init__(
        self,
        detail: Detail,
        teacher_tensors: Tensors,
        observe_operators: ObserveOperators,
        counts: Optional[Whole] = None,
    ) -> None:
        self._counts = counts or Whole()
        self.operators = OperatorLog(self._runs_wanted_module, detail.arguments, self._counts)
        is_between = detail.operators is None
        is_wanted = self._is_between_stages if is_between else self._runs_wanted_module
        self.lines = LineLog(is_wanted, self._unobserved)
        self._is_busy = False  # a stage runs, or what it gave is being kept
        self._detail = detail
        self._teacher_tensors = teacher_tensors
        self._observe_operators = observe_operators
        self._noted: Dict[str, List[_NotedCall]] = {}
        self._kept: Tensors = {}
        # The calls that run now, from the stage's own code inwards; empty where nothing is noted.
        self._running: List[ModuleCall] = []

    def tracing(self) -> ContextManager[None]:
        """Return what the run as a whole runs within, for its statements to be noted if wanted."""
        return self.lines.tracing() if self._detail.lines else nullcontext()

    @contextmanager
    def between(self, stage: Stage, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Note the statement that called a stage, and none of what runs inside this context."""
        if self._detail.lines and self._detail.operators is None:
            self.lines.on_stage(stage.name, inputs)
        with self._not_between_stages():
            yield

    @contextmanager
    def around(self, stage: Stage, component: Any) -> Iterator[None]:
        """Observe one stage while it runs.

        Args:
            stage: The stage.
            component: What is called, or None where that has no modules, as for a draw of noise.
        """
        is_noted = self._detail.looks_into(stage)
        outer = self._running
        self._running = [OWN_CALL] if is_noted else []
        with ExitStack() as stack:
            stack.enter_context(self._not_between_stages())
            stack.callback(setattr, self, "_running", outer)
            if call_of(component) and (is_noted or self._detail.handles_modules_of(stage)):
                for path, module in parts_of(component):
                    self._hook(stack, stage, path, module, is_noted=is_noted)
            if is_noted and self._detail.operators is not None:
                stack.enter_context(self._observe_operators(self.operators))
            yield

    def on_result(self, stage: Stage, result: Any) -> Any:
        """Keep or replace the tensors that a whole stage gave, and return its result."""
        self._keep_or_replace(stage, OWN_CALL, tensors_in(result))
        return result

    def modules(self) -> Dict[str, List[ModuleRecord]]:
        """Return one entry per call of a module, by stage, in the order in which calls ended."""
        return {stage: [_record(noted) for noted in calls] for stage, calls in self._noted.items()}

    def tensors(self) -> Tensors:
        """Return what was kept of modules and operators, by the names that a recording uses."""
        return {**self._kept, **self.operators.tensors}

    def _runs_wanted_module(self) -> bool:
        return bool(self._running) and self._running[-1].label == self._detail.operators

    def _is_between_stages(self) -> bool:
        return not self._is_busy

    @contextmanager
    def _not_between_stages(self) -> Iterator[None]:
        before = self._is_busy
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = before

    def _hook(
        self, stack: ExitStack, stage: Stage, path: str, module: Any, *, is_noted: bool
    ) -> None:
        """Put hooks on a module that come off with `stack`."""
        indices = itertools.count()
        inputs: List[PendingDigest] = []

        def before(_module: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
            call = ModuleCall(path, next(indices))
            if is_noted:
                with self._unobserved():
                    inputs.append(self._combined_digest(tensors_in([*args, kwargs])))
            self._running.append(call)

        def after(_module: Any, _args: Any, _kwargs: Any, result: Any) -> None:
            call = self._running.pop()
            if self._detail.operators is not None:
                self.lines.after = call.label
            given = tensors_in(result)
            with self._unobserved():
                self._keep_or_replace(stage, call, given)
                if is_noted:
                    type_name = type(module).__name__
                    outputs = self._combined_digest(given)
                    noted = _NotedCall(call, type_name, inputs.pop(), outputs)
                    self._noted.setdefault(stage.name, []).append(noted)

        first = module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        stack.callback(first.remove)
        last = module.register_forward_hook(after, with_kwargs=True)
        stack.callback(last.remove)

    def _keep_or_replace(self, stage: Stage, call: ModuleCall, given: Tensors) -> None:
        site = ModuleSite(stage.kind, call.path)
        is_kept = site in self._detail.keep
        is_fed = site in self._detail.feed
        if not is_kept and not is_fed:
            return
        for key, tensor in given.items():
            name = f"{MODULE}{stage.name}/{call.label}/{key}"
            if is_kept:
                self._kept[name] = self._counts.part(tensor).detach().to("cpu", copy=True)
            replacement = self._teacher_tensors.get(name) if is_fed else None
            if replacement is not None and replacement.shape == tensor.shape:
                tensor.copy_(replacement)

    @contextmanager
    def _unobserved(self) -> Iterator[None]:
        """Attribute to no module what the tracer itself computes."""
        running = self._running
        self._running = []
        try:
            yield
        finally:
            self._running = running

    def _combined_digest(self, tensors: Mapping[str, torch.Tensor]) -> PendingDigest:
        """Start one digest of several tensors, in their order.

        Their names do not count: a parameter may have another name in another release.
        """
        started = [self._digest_once(tensor) for tensor in tensors.values()]

        def finish() -> str:
            digests = [pending() for pending in started]
            if len(digests) == 1:
                return digests[0][:MODULE_DIGITS]
            by_position = {str(index): digest for index, digest in enumerate(digests)}
            return combine(by_position)[:MODULE_DIGITS]

        return finish

    def _digest_once(self, tensor: torch.Tensor) -> PendingDigest:
        """Start a tensor's digest, or return the one that was started before.

        What one module gave and the next one takes is read once, unless it was written to since.
        """
        if tensor.is_inference():  # such a tensor does not count how often it was written to
            return self._counts.digest_later(tensor)
        version = tensor._version
        known: Optional[Tuple[int, PendingDigest]] = getattr(tensor, "_digested", None)
        if known is None or known[0] != version:
            known = (version, self._counts.digest_later(tensor))
            tensor._digested = known  # type: ignore[attr-defined]
        return known[1]


def _record(noted: _NotedCall) -> ModuleRecord:
    return {
        "module": noted.call.label,
        "type": noted.type_name,
        "inputs": noted.inputs(),
        "outputs": noted.outputs(),
    }
