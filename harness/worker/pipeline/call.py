"""One loaded pipeline of diffusers or of its like, called as a case says, with what the call returned as arrays."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any, Dict, Optional

import numpy as np
import torch

from ..conditions import noise
from ..observe import stages
from ..observe.tensors import tensors_in
from ..protocol import CaseError
from . import checkpoints
from .components import is_tensor
from .torch_ import Torch


class Pipeline:
    """A pipeline on its device, ready to be called again and again; every run gets fresh schedulers and generators."""

    def __init__(
        self, case: Dict[str, Any], checkpoint: checkpoints.Checkpoint, framework: Torch
    ) -> None:
        self.case, self.framework = case, framework
        _check_call(checkpoint.pipeline, case["call"])
        self.pipeline = framework.placed(checkpoint.pipeline, case.get("enable", ()))
        native = framework.numpy_generators
        self.source = noise.Source(
            case["generator"], case["seeds"], framework.device, numpy_generators=native
        )
        self.stored_schedulers = stages.schedulers_of(self.pipeline)

    def run(
        self,
        on_stage: Optional[stages.OnStage] = None,
        on_draw: Optional[noise.OnDraw] = None,
        around: stages.Around = stages.nothing_around,
        on_step: Optional[stages.OnStep] = None,
    ) -> Dict[str, torch.Tensor]:
        """Call the pipeline once and return its outputs by name, watched where `on_stage` is given, or step by step."""
        self._fresh_schedulers()
        with contextlib.ExitStack() as stack:
            draw = self.source.drawing()
            if draw is not None or on_draw is not None:
                stack.enter_context(noise.drawn_by(draw, on_draw, around, self.framework.door))
            if on_stage is not None:
                stack.enter_context(stages.watched(self.pipeline, on_stage, around))
            if on_step is not None:
                stack.enter_context(stages.stepped(self.pipeline, on_step))
            result = self.pipeline(**self.case["call"], generator=self.source.fresh())
        return outputs_of(result)

    def scheduler_configuration(self) -> Dict[str, Dict[str, Any]]:
        """Return the configuration in effect of every scheduler, by component name."""
        return {
            name: {
                "class": type(part).__name__,
                **{k: v for k, v in part.config.items() if not k.startswith("_")},
            }
            for name, part in stages.schedulers_of(self.pipeline).items()
        }

    def scheduler_tensors(self, name: str) -> Dict[str, torch.Tensor]:
        """Return what a scheduler holds now: its timesteps, sigmas, betas and what it made of them."""
        return tensors_in(
            {
                key: value
                for key, value in vars(getattr(self.pipeline, name)).items()
                if _is_array(value)
            }
        )

    def close(self) -> None:
        """Give the pipeline its own schedulers back, so that the next case finds it as it was loaded."""
        for name, scheduler in self.stored_schedulers.items():
            setattr(self.pipeline, name, scheduler)

    def _fresh_schedulers(self) -> None:
        replacement = self.case.get("scheduler")
        for name, stored in self.stored_schedulers.items():
            mine = replacement if name == "scheduler" else None
            setattr(
                self.pipeline,
                name,
                checkpoints.make_scheduler(stored, mine, self.framework.library),
            )


def _check_call(pipeline: Any, call: Dict[str, Any]) -> None:
    """Raise CaseError for an argument that the pipeline does not name: many take `**kwargs` and ignore what they do not know."""
    parameters = inspect.signature(type(pipeline).__call__).parameters.values()
    known = [
        parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD
    ]
    for name in call:
        if name not in known:
            hint = checkpoints.nearest(name, known) or f"; it takes {', '.join(known[1:])}"
            raise CaseError(f"`call`: {type(pipeline).__name__} takes no `{name}`{hint}")


def _is_array(value: Any) -> bool:
    return is_tensor(value) or isinstance(value, np.ndarray)


def outputs_of(result: Any) -> Dict[str, torch.Tensor]:
    """Return a pipeline's arrays by the name that the pipeline gives them, in the singular; images of PIL come as uint8.

    A tuple (`return_dict: false`) has its first element as `image`, as every image pipeline orders it.
    """
    fields = (
        result.items()
        if hasattr(result, "items")
        else zip(["image", *map(str, range(1, 9))], result)
    )
    found: Dict[str, torch.Tensor] = {}
    for name, value in fields:
        singular = name.removesuffix("s")
        if isinstance(value, (list, tuple)) and value and hasattr(value[0], "convert"):
            found[singular] = torch.from_numpy(np.stack([np.asarray(image) for image in value]))
        elif "nsfw" not in name:
            found.update(
                {
                    path: tensor.detach().to("cpu")
                    for path, tensor in tensors_in(value, singular).items()
                }
            )
    return found
