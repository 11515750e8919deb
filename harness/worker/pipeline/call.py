"""One loaded pipeline, called as a case says; what the call returned comes as tensors by name."""

from __future__ import annotations

import contextlib
import copy
import inspect
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np
import torch

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
from .own_code import OwnCode
from .schedulers import make_scheduler

REPLACEABLE = "scheduler"  # the component that a case's `scheduler` replaces
FIRST_OUTPUT = "image"  # the name of the first element of a tuple, as every image pipeline has it

# Takes a pipeline of the library; returns what a call of it runs within.
Within = Callable[[Any], ContextManager[Any]]


def nothing_within(_pipeline: Any) -> ContextManager[Any]:
    """Let the call run as it is."""
    return contextlib.nullcontext()


class Pipeline:
    """A pipeline on its device, ready to be called again and again.

    Every run gets fresh schedulers and generators.

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
    ) -> None:
        _check_call(checkpoint.pipeline, case["call"])
        self.framework = framework
        self.executions = executions or Executions(case, checkpoint.pipeline, framework.device)
        self.pipeline = framework.placed(checkpoint.pipeline, case["enable"])
        inputs = Inputs(Path(case["inputs_folder"]), framework.library, framework.device)
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
        renew_schedulers: bool = True,
    ) -> Tensors:
        """Call the pipeline once.

        Args:
            on_stage: Called after every stage; None leaves the stages unobserved.
            on_draw: Called after every draw of noise.
            around: What every stage and every draw runs within.
            on_step: Called after every step of a scheduler.
            within: What the call as a whole runs within, for the pipeline with its fresh
                schedulers.
            renew_schedulers: Whether the schedulers are made anew, as for every run that is
                compared with others, or stay as the last call left them.

        Returns:
            The outputs by name, on the CPU.
        """
        if renew_schedulers:
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
            call = copy.deepcopy(self._call)  # a pipeline may write into its inputs
            result = self.pipeline(**call, generator=self._source.fresh())
        return outputs_of(result)

    def scheduler_configuration(self) -> Dict[str, Dict[str, Any]]:
        """Return the configuration in effect of every scheduler, by component name."""
        found: Dict[str, Dict[str, Any]] = {}
        for name, scheduler in stages.schedulers_of(self.pipeline).items():
            settings = {
                key: value for key, value in scheduler.config.items() if not key.startswith("_")
            }
            found[name] = {"class": type(scheduler).__name__, **settings}
        return found

    def scheduler_tensors(self, name: str) -> Tensors:
        """Return what a scheduler holds now: timesteps, sigmas, betas and what it made of them."""
        held = vars(getattr(self.pipeline, name))
        return tensors_in({key: value for key, value in held.items() if _is_array(value)})

    def close(self) -> None:
        """Give the pipeline its own schedulers back: the next case finds it as it was loaded."""
        for name, scheduler in self._stored_schedulers.items():
            self._put(name, scheduler)

    def _renew_schedulers(self) -> None:
        for name, stored in self._stored_schedulers.items():
            replacement = self._replacement if name == REPLACEABLE else None
            fresh = make_scheduler(stored, replacement, self.framework.library, self._code)
            self._put(name, fresh)

    def _put(self, name: str, scheduler: Any) -> None:
        """Put a scheduler wherever the pipeline, or a pipeline inside it, held the stored one."""
        for holder, attribute in self._holders[name]:
            setattr(holder, attribute, scheduler)


def _holders_of(pipeline: Any, name: str, scheduler: Any) -> List[Tuple[Any, str]]:
    """Return the pipelines that hold a scheduler, each with the attribute that it has there.

    Combined pipelines keep other pipelines inside, which share their components.
    """
    inner = [value for value in vars(pipeline).values() if _is_pipeline(value)]
    found = [(pipeline, name)]
    for holder in inner:
        shared = [key for key, part in holder.components.items() if part is scheduler]
        found += [(holder, key) for key in shared]
    return found


def _is_pipeline(value: Any) -> bool:
    return callable(value) and isinstance(getattr(value, "components", None), dict)


def outputs_of(result: Any) -> Tensors:
    """Return a pipeline's outputs by the names that the pipeline gives them, in the singular.

    Args:
        result: What a pipeline returned: an object with named fields, or with
            `return_dict: false` a tuple.

    Returns:
        Tensors on the CPU; images of PIL come as uint8, shape (batch, height, width[, channel]),
        and videos of such images with one more dimension.
    """
    found: Tensors = {}
    for name, value in _fields(result):
        singular = name.removesuffix("s")
        images = _images_in(value)
        if images is not None:
            found[singular] = torch.from_numpy(images)
        elif "nsfw" not in name:  # flags of a safety checker
            for path, tensor in tensors_in(value, singular).items():
                found[path] = tensor.detach().to("cpu")
    return found


def _fields(result: Any) -> Iterable[Tuple[str, Any]]:
    if hasattr(result, "items"):
        return result.items()
    return [(FIRST_OUTPUT if not index else str(index), item) for index, item in enumerate(result)]


def _images_in(value: Any) -> Optional[np.ndarray]:
    """Return PIL's images as one array: of an image, a list of them, or the frames of videos.

    Returns:
        uint8, shape ([video, frame or batch,] height, width[, channel]); None for any other value.
    """
    if hasattr(value, "convert"):
        return np.array(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    images = [_images_in(item) for item in value]
    if any(image is None for image in images):
        return None
    return np.stack([image for image in images if image is not None])


def _is_array(value: Any) -> bool:
    return is_tensor(value) or isinstance(value, np.ndarray)


def _check_call(pipeline: Any, call: Mapping[str, Any]) -> None:
    """Refuse an argument that the pipeline does not name.

    Many pipelines take `**kwargs` and ignore what they do not know.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    known = [
        parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD
    ]
    for name in call:
        if name not in known:
            hint = nearest(name, known) or f"; it takes {', '.join(known[1:])}"
            raise CaseError(f"`call`: {type(pipeline).__name__} takes no `{name}`{hint}")
