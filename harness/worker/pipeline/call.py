"""One loaded pipeline, called as a case says; what the call returned comes as tensors by name."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ..conditions import noise
from ..observe import stages
from ..observe.tensors import Tensors, tensors_in
from ..protocol import CaseError, CaseRequest
from .checkpoints import Checkpoint
from .components import is_tensor
from .executions.plan import Executions
from .framework import Framework
from .inputs import Inputs
from .library import nearest
from .outputs import outputs_of
from .own_code import OwnCode
from .schedulers import make_scheduler

REPLACEABLE = "scheduler"  # the component that a case's `scheduler` replaces
GENERATOR = "generator"  # the argument that draws noise

# Takes a pipeline of the library; returns what a call of it runs within.
Within = Callable[[Any], ContextManager[Any]]


def nothing_within(_pipeline: Any) -> ContextManager[Any]:
    """Let the call run as it is."""
    return contextlib.nullcontext()


class Pipeline:
    """A pipeline on its device, ready to be called again and again.

    Every run gets fresh schedulers and generators, and a pipeline that holds nothing of an earlier
    run: some keep what they computed once, such as the embedding of the empty prompt.

    Attributes:
        executions: How the pipeline is executed, applied already.
        inputs: What is recorded of the inputs that the call refers to.

    Raises:
        CaseError: The pipeline does not name an argument of the case's `call`, an input cannot be
            decoded, or the scheduler that is to be replaced does not exist.
        CannotRunHere: This device or framework lacks what the case enables.
    """

    def __init__(
        self,
        case: CaseRequest,
        checkpoint: Checkpoint,
        framework: Framework,
        executions: Optional[Executions] = None,
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        _check_call(checkpoint.pipeline, case["call"])
        for method, arguments in case.get("before", {}).items():
            _check_method(checkpoint.pipeline, method, framework.library)
            _check_call(checkpoint.pipeline, arguments, method)
        self.framework = framework
        self.executions = executions or Executions(case, checkpoint.pipeline, framework.device)
        self.pipeline = framework.placed(checkpoint.pipeline, case["enable"])
        folder = Path(case["inputs_folder"])
        inputs = Inputs(folder, framework.library, framework.device, given)
        self._before = {
            method: inputs.resolve(arguments)
            for method, arguments in case.get("before", {}).items()
        }
        self._call = inputs.resolve(case["call"])
        self.inputs = inputs.records
        self._replacement = case["scheduler"]
        self._code = OwnCode.of(case)
        self._source = noise.Source(
            case["generator"],
            case["seeds"],
            framework.device,
            numpy_generators=framework.takes_numpy_generators,
        )
        self._stored_state = [
            (each, dict(vars(each))) for each in (self.pipeline, *_pipelines_inside(self.pipeline))
        ]
        self._stored_schedulers = stages.schedulers_of(self.pipeline)
        self._holders = {
            name: _holders_of(self.pipeline, name, scheduler)
            for name, scheduler in self._stored_schedulers.items()
        }
        if self._replacement is not None and REPLACEABLE not in self._stored_schedulers:
            known = ", ".join(self._stored_schedulers) or "none that can be replaced"
            raise CaseError(
                f"`scheduler`: {type(self.pipeline).__name__} has no component `{REPLACEABLE}`; "
                f"its schedulers are {known}"
            )

    def run(
        self,
        on_stage: Optional[stages.OnStage] = None,
        on_draw: Optional[noise.OnDraw] = None,
        around: stages.Around = stages.nothing_around,
        on_step: Optional[stages.OnStep] = None,
        within: Within = nothing_within,
        *,
        renew: bool = True,
    ) -> Tensors:
        """Call the pipeline once.

        Args:
            on_stage: Called after every stage; None leaves the stages unobserved.
            on_draw: Called after every draw of noise.
            around: What every stage and every draw runs within.
            on_step: Called after every step of a scheduler.
            within: What the call as a whole runs within, for the pipeline with its fresh
                schedulers.
            renew: Whether the pipeline is as it was loaded and its schedulers are made anew, as
                for every run that is compared with others, or both stay as the last call left them.

        Returns:
            The outputs by name, on the CPU.
        """
        if renew:
            self._restore()
            self._renew_schedulers()
        draw = self._source.drawing()
        with contextlib.ExitStack() as stack:
            stack.enter_context(within(self.pipeline))
            if draw is not None or on_draw is not None:
                module = self.framework.draw_module
                stack.enter_context(noise.intercepted_draws(draw, on_draw, around, module))
            if on_stage is not None:
                stack.enter_context(stages.observed(self.pipeline, on_stage, around))
            if on_step is not None:
                stack.enter_context(stages.observed_steps(self.pipeline, on_step))
            for method, arguments in self._before.items():
                self._call_before(method, arguments)
            call = copy.deepcopy(self._call)  # a pipeline may write into its inputs
            result = self.pipeline(**call, generator=self._source.fresh())
        return outputs_of(result)

    def _call_before(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Call a method for what it leaves in the pipeline, with generators if it takes any."""
        call = getattr(self.pipeline, method)
        given = copy.deepcopy(dict(arguments))
        if GENERATOR in inspect.signature(call).parameters:
            given[GENERATOR] = self._source.fresh()
        call(**given)

    def scheduler_configuration(self) -> Dict[str, Dict[str, Any]]:
        """Return the configuration in effect of every scheduler, by component name."""
        found: Dict[str, Dict[str, Any]] = {}
        for name, scheduler in stages.schedulers_of(self.pipeline).items():
            settings = {
                key: value for key, value in scheduler.config.items() if not key.startswith("_")
            }
            found[name] = {"class": type(scheduler).__name__, **settings}
        return found

    def scheduler_classes(self) -> Dict[str, type]:
        """Return the class of the schedulers that every run gets, by component name."""
        return {name: type(self._fresh(name)) for name in self._stored_schedulers}

    def scheduler_tensors(self, name: str) -> Tensors:
        """Return what a scheduler holds now: timesteps, sigmas, betas and what it made of them."""
        held = vars(getattr(self.pipeline, name))
        return tensors_in({key: value for key, value in held.items() if _is_array(value)})

    def close(self) -> None:
        """Leave the pipeline as it was loaded, with its own schedulers, for the next case."""
        self._restore()

    def _restore(self) -> None:
        """Give the pipeline, and those inside it, the attributes that they had at first."""
        for pipeline, state in self._stored_state:
            held = vars(pipeline)
            held.clear()
            held.update(state)

    def _renew_schedulers(self) -> None:
        for name in self._stored_schedulers:
            self._put(name, self._fresh(name))

    def _fresh(self, name: str) -> Any:
        """Return a fresh scheduler for a component: as it was stored, or in its place."""
        replacement = self._replacement if name == REPLACEABLE else None
        stored = self._stored_schedulers[name]
        return make_scheduler(stored, replacement, self.framework.library, self._code)

    def _put(self, name: str, scheduler: Any) -> None:
        """Put a scheduler wherever the pipeline, or a pipeline inside it, held the stored one."""
        for holder, attribute in self._holders[name]:
            setattr(holder, attribute, scheduler)


def _holders_of(pipeline: Any, name: str, scheduler: Any) -> List[Tuple[Any, str]]:
    """Return the pipelines that hold a scheduler, each with the attribute that it has there.

    Combined pipelines keep other pipelines inside, which share their components.
    """
    found = [(pipeline, name)]
    for holder in _pipelines_inside(pipeline):
        shared = [key for key, part in holder.components.items() if part is scheduler]
        found += [(holder, key) for key in shared]
    return found


def _pipelines_inside(pipeline: Any) -> List[Any]:
    return [value for value in vars(pipeline).values() if _is_pipeline(value)]


def _is_pipeline(value: Any) -> bool:
    return callable(value) and isinstance(getattr(value, "components", None), dict)


def _is_array(value: Any) -> bool:
    return is_tensor(value) or isinstance(value, np.ndarray)


def _check_method(pipeline: Any, method: str, library: str) -> None:
    """Refuse a method that is not the own one of a pipeline's class.

    What every pipeline has could write files, fetch them, or change how the pipeline is executed.
    """
    base = importlib.import_module(library).DiffusionPipeline
    own = [
        name
        for each in type(pipeline).__mro__
        if issubclass(each, base) and each is not base
        for name, member in vars(each).items()
        if inspect.isfunction(member) and not name.startswith("_")
    ]
    if method not in own:
        raise CaseError(
            f"`before`: {type(pipeline).__name__} has no method `{method}` of its own"
            f"{nearest(method, own)}"
        )


def _check_call(pipeline: Any, call: Mapping[str, Any], method: str = "__call__") -> None:
    """Refuse an argument that the pipeline, or a method of it, does not name.

    Many pipelines take `**kwargs` and ignore what they do not know.
    """
    parameters = inspect.signature(getattr(type(pipeline), method)).parameters.values()
    known = [
        parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD
    ]
    said = "call" if method == "__call__" else f"before.{method}"
    for name in call:
        if name not in known:
            hint = nearest(name, known) or f"; it takes {', '.join(known[1:])}"
            raise CaseError(f"`{said}`: {type(pipeline).__name__} takes no `{name}`{hint}")
