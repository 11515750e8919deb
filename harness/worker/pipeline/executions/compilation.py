"""`torch.compile`: how many graphs were compiled, and whether anything fell back to eager code."""

from __future__ import annotations

import importlib
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple

import torch

from ...conditions import compiler
from ...observe.stages import Stage
from ...protocol import CannotRunHere, CaseError, CompileRequest
from .base import Execution, Seen, component_of, counted, denoisers_of

UNTRACED = "Unsupported"  # torch's error for code that it cannot trace, where a graph breaks
LIMIT_FAILS = "fail_on_recompile_limit_hit"
MOST_SHOWN = 160  # characters of the reason why a graph broke


def compilations_of(
    pipeline: Any, request: CompileRequest, device: torch.device
) -> List[Execution]:
    """Return one compilation for each component: those that are named, or the denoisers.

    Raises:
        CannotRunHere: This machine has no compiler for the device.
        CaseError: A component does not exist, or nothing runs in every step.
    """
    missing = compiler.missing(device)
    if missing:
        raise CannotRunHere(f"`compile` needs {missing}")
    names = list(request.get("components", denoisers_of(pipeline)))
    if not names:
        raise CaseError(
            f"`compile`: {type(pipeline).__name__} has no component that runs in every step; name "
            "its `components`"
        )
    return [Compilation(pipeline, name, request) for name in names]


class _Failure(NamedTuple):
    """Something that was not compiled; `is_break` is true for what the compiler cannot trace."""

    reason: str
    is_break: bool


def _failure(metrics: Any) -> _Failure:
    return _Failure(str(metrics.fail_reason or metrics.fail_type), metrics.fail_type == UNTRACED)


class _Figures:
    """What the compiler counted so far in this process."""

    def __init__(self) -> None:
        utils: Any = importlib.import_module("torch._dynamo.utils")
        counters = utils.counters
        self.graphs: int = counters["stats"]["unique_graphs"]
        self.breaks: Dict[str, int] = Counter(counters["graph_break"])
        self.metrics: List[Any] = list(utils.get_compilation_metrics())

    def compiled_since(self, before: _Figures) -> List[Any]:
        """Return the compiler's notes that are new; torch keeps the last ones only."""
        known = {id(each) for each in before.metrics}
        return [each for each in self.metrics if id(each) not in known]


class Compilation(Execution):
    """The compilation of one component.

    A graph that breaks is no effect, unless the scenario says `fullgraph: false`, which admits it.
    """

    def __init__(self, pipeline: Any, component: str, request: CompileRequest) -> None:
        self.asked = f"compile: {component}"
        self._pipeline = pipeline
        self._name = component
        self._original: Any = component_of(pipeline, component, "compile")
        self._arguments: Mapping[str, Any] = {
            key: value for key, value in request.items() if key != "components"
        }
        self._graphs = 0
        self._breaks: Dict[str, int] = Counter()
        self._failures: List[_Failure] = []
        self._recompilations = 0
        self._calls = 0
        self._last = _Figures()
        self._undo = ExitStack()

    def apply(self) -> None:
        """Put the compiled component in the place of the original."""
        torch._dynamo.reset()  # code that was compiled under other switches must not be used again
        config: Any = importlib.import_module("torch._dynamo.config")
        # Or else further shapes would quietly run eagerly. torch refuses both settings at once.
        if hasattr(config, LIMIT_FAILS) and not config.suppress_errors:
            self._undo.enter_context(config.patch({LIMIT_FAILS: True}))
        try:
            compiled = torch.compile(self._original, **self._arguments)
        except (RuntimeError, TypeError) as error:
            raise CaseError(f"`{self.asked}`: {str(error)[:600]}") from error
        setattr(self._pipeline, self._name, compiled)

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        """Note what the compiler did in the stages of this component."""
        if stage.kind.split(".")[0] != self._name:
            yield
            return
        before = _Figures()
        try:
            yield
        finally:
            self._calls += 1
            self._note(before)

    def seen(self) -> Seen:
        """Return how many graphs were compiled, how many broke, and what failed."""
        self._note(self._last)  # what the runs after the watched one added
        broken = sum(self._breaks.values())
        words = (
            f"{counted(self._graphs, 'graph')} compiled for {counted(self._calls, 'call')}, "
            f"{counted(broken, 'graph break')}, {counted(self._recompilations, 'recompilation')}"
        )
        reasons = [*self._breaks, *(failure.reason for failure in self._failures)]
        if reasons:
            first = " ".join(str(reasons[0]).split())
            words += f"; first reason: {first[:MOST_SHOWN]}"
        return Seen(words, took_effect=self._graphs > 0 and not self._fell_back())

    def _fell_back(self) -> bool:
        """Whether something ran eagerly that the scenario does not admit."""
        if self._arguments.get("fullgraph") is False:
            return not all(failure.is_break for failure in self._failures)
        return bool(self._breaks) or bool(self._failures)

    def undo(self) -> None:
        """Give the pipeline its own component back, and forget the compiled code."""
        setattr(self._pipeline, self._name, self._original)
        self._undo.close()
        torch._dynamo.reset()

    def _note(self, before: _Figures) -> None:
        """Add what the compiler did since `before`."""
        after = _Figures()
        self._graphs += after.graphs - before.graphs
        self._breaks = Counter(self._breaks) + (Counter(after.breaks) - Counter(before.breaks))
        new = after.compiled_since(before)
        self._failures += [_failure(each) for each in new if each.fail_type]
        self._recompilations += sum(1 for each in new if each.recompile_reason)
        self._last = after
