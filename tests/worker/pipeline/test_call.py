"""Calling a pipeline: which schedulers a run gets, and what is left between two calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from PIL import Image

from harness.worker.observe.stages import observed_steps
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.checkpoints import Checkpoint
from harness.worker.pipeline.outputs import outputs_of
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CaseError

NOISE = {"noise": {"shape": [1, 2], "seed": 3}}
FRAME = Image.new("RGB", (6, 4), (7, 7, 7))


class Inner:
    """A pipeline inside another one, which does the steps by the scheduler that it holds."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    @property
    def components(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler}

    def __call__(self) -> str:
        return type(self.scheduler).__name__


class Combined:
    """A combined pipeline, as diffusers has them: it shares components with the one inside."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.decoder = Inner(scheduler)

    @property
    def components(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler}

    def to(self, _device: torch.device) -> Combined:
        return self

    def __call__(self, **_: Any) -> dict[str, torch.Tensor]:
        self.used = self.decoder()
        return {"image": torch.zeros(1)}


class Unscheduled(Combined):
    """A pipeline whose scheduler is not among its components."""

    @property
    def components(self) -> dict[str, Any]:
        return {}


class Remembering(Combined):
    """A pipeline that computes something once and keeps it, as Marigold does its empty prompt."""

    kept: torch.Tensor | None = None

    def __call__(self, **_: Any) -> dict[str, torch.Tensor]:
        self.found_one = self.kept is not None
        if self.kept is None:
            self.kept = torch.zeros(1)
        return {"image": self.kept}


class Editing(DiffusionPipeline):
    """A pipeline that edits what its method `invert` took apart."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler)
        self.drawn: list[torch.Tensor] = []

    def invert(self, image: torch.Tensor, skip: float, generator: Any = None) -> None:
        self.drawn.append(torch.rand(1, generator=generator))
        self.inverted = image * skip

    def __call__(self, scale: float, **_: Any) -> dict[str, torch.Tensor]:
        return {"image": self.inverted * scale}


def case(scheduler: dict[str, Any] | None) -> Any:
    """Return the keys of a case that a pipeline reads."""
    return {
        "call": {},
        "inputs_folder": str(Path.cwd()),
        "enable": [],
        "scheduler": scheduler,
        "generator": "cpu",
        "seeds": [0],
    }


def called(pipeline: Any, scheduler: dict[str, Any] | None = None) -> Pipeline:
    """Return the harness's view of a pipeline that is loaded."""
    return Pipeline(case(scheduler), Checkpoint(pipeline, {}, {}, None), Torch("cpu"))


def test_a_scheduler_is_replaced_in_the_pipelines_inside_too():
    """What a scenario asks for takes effect wherever it is used, and is taken back afterwards."""
    pipeline = Combined(DDPMScheduler())
    own = pipeline.scheduler
    view = called(pipeline, {"class": "DDIMScheduler"})
    view.run()
    assert pipeline.used == "DDIMScheduler"
    assert view.scheduler_configuration()["scheduler"]["class"] == "DDIMScheduler"
    view.close()
    assert pipeline.scheduler is own
    assert pipeline.decoder.scheduler is own


def test_a_scheduler_that_cannot_be_replaced_is_refused():
    """It would be ignored, and the baseline would state another one than the run used."""
    with pytest.raises(CaseError, match="has no component `scheduler`"):
        called(Unscheduled(DDPMScheduler()), {"class": "DDIMScheduler"})


def test_a_call_may_keep_the_schedulers_of_the_last_one():
    """As a user does who calls one pipeline object twice; every other run gets fresh ones."""
    pipeline = Combined(DDIMScheduler())
    view = called(pipeline)
    view.run()
    first = pipeline.scheduler
    view.run(renew=False)
    assert pipeline.scheduler is first
    view.run()
    assert pipeline.scheduler is not first


def test_every_run_that_is_compared_finds_the_pipeline_as_it_was_loaded():
    """What one run kept would take a stage away from the next one, and from the next case."""
    pipeline = Remembering(DDIMScheduler())
    view = called(pipeline)
    view.run()
    view.run()
    assert not pipeline.found_one
    view.run(renew=False)
    assert pipeline.found_one
    view.close()
    assert pipeline.kept is None
    assert not hasattr(pipeline, "found_one")


def test_observing_the_steps_leaves_the_scheduler_as_it_was():
    """It has its own class throughout, whose step is its own again; the instance has none."""
    pipeline = Combined(DDIMScheduler())
    own = DDIMScheduler.step
    with observed_steps(pipeline, lambda _: None):
        assert type(pipeline.scheduler) is DDIMScheduler
        assert DDIMScheduler.step is not own
    assert DDIMScheduler.step is own
    assert "step" not in vars(pipeline.scheduler)


def test_a_second_call_of_one_object_is_made_only_where_it_is_asked_for(ask):
    """It gives the same bits where nothing is left of the first one."""
    repeat = ask(expect="[repeatable, stateless]").recording.repeat
    assert (repeat.reused_equals_fresh, repeat.distinct) == (True, 1)
    assert ask().recording.repeat.reused_equals_fresh is None


def editing(**before: Any) -> Pipeline:
    """Return the harness's view of a pipeline, one of whose methods is called before it."""
    request = {**case(None), "call": {"scale": 2.0}, "before": before}
    return Pipeline(request, Checkpoint(Editing(DDIMScheduler()), {}, {}, None), Torch("cpu"))


def test_a_method_that_is_called_before_every_run_gets_inputs_and_a_fresh_generator():
    """So that a pipeline which edits an image finds it taken apart, each time in the same way."""
    view = editing(invert={"image": NOISE, "skip": 0.5})
    first, second = view.run()["image"], view.run()["image"]
    (record,) = view.inputs
    assert (record["name"], record["argument"]) == ("noise#0", "image")
    assert first.abs().sum() > 0
    assert torch.equal(first, second)
    assert torch.equal(*view.pipeline.drawn)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ({"save_pretrained": {"save_directory": "here"}}, "no method `save_pretrained` of its own"),
        ({"__init__": {"scheduler": 1}}, "no method `__init__` of its own"),
        ({"inverse": {}}, "no method `inverse` of its own; did you mean `invert`"),
        ({"invert": {"picture": 1}}, "`before.invert`: Editing takes no `picture`"),
    ],
    ids=["of-every-pipeline", "a-special-one", "misspelt", "an-unknown-argument"],
)
def test_only_an_own_method_of_the_pipeline_s_class_is_called_before(before: Any, message: str):
    """One that every pipeline has could write files, or change how the pipeline is executed."""
    with pytest.raises(CaseError, match=message):
        editing(**before)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (FRAME, (4, 6, 3)),
        ([FRAME, FRAME], (2, 4, 6, 3)),
        ([[FRAME, FRAME], [FRAME, FRAME]], (2, 2, 4, 6, 3)),
        ([FRAME.convert("L")], (1, 4, 6)),
    ],
    ids=["image", "images", "videos", "grey"],
)
def test_images_are_one_output_however_they_are_nested(images: Any, shape: tuple[int, ...]):
    """A video with `output_type: pil` is a list of lists of frames."""
    (output,) = outputs_of({"frames": images}).items()
    assert output[0] == "frame"
    assert (output[1].dtype, tuple(output[1].shape)) == (torch.uint8, shape)
    assert int(output[1].max()) == 7


def test_a_list_of_other_values_is_no_image():
    """It is looked through for tensors, as before."""
    found = outputs_of({"frames": [torch.ones(2), FRAME], "images": []})
    assert list(found) == ["frame.0"]
