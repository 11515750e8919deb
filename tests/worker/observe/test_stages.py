"""Observing a pipeline: every stage seen in order, no bit changed, nothing left behind."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from harness.records import Recording
from harness.scenario.model import DATA
from harness.store.baselines import Store
from harness.worker.conditions import determinism, noise
from harness.worker.observe import stages
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.torch_ import Torch

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

TORCH = Torch("cpu")
SMALL = {
    "digits-ddpm": ("bundled", "DDIMPipeline", {"num_inference_steps": 2, "output_type": "np"}),
    "digits-sd": (
        "bundled",
        "StableDiffusionPipeline",
        {"prompt": "a handwritten seven", "num_inference_steps": 2},
    ),
    "unclip-small": (
        "synthetic",
        "UnCLIPPipeline",
        {
            "prompt": "a red frog",
            "prior_num_inference_steps": 2,
            "decoder_num_inference_steps": 2,
            "super_res_num_inference_steps": 2,
        },
    ),
}


class CutShort(Exception):
    """Ends a run in the middle."""


@functools.cache
def loaded(name: str) -> checkpoints.Checkpoint:
    kind, pipeline, _ = SMALL[name]
    return checkpoints.load(
        {"kind": kind, "folder": str(DATA / kind / name)}, pipeline, {"default": "float32"}, TORCH
    )


@pytest.fixture
def opened() -> Iterator[Callable[..., Pipeline]]:
    """Make a small pipeline as the recorder would, with changes to its case; its own schedulers are back afterwards."""
    made = []

    def make(name: str, **changes: Any) -> Pipeline:
        case = {
            "call": {**SMALL[name][2], "output_type": "np"},
            "seeds": [0],
            "generator": "cpu",
            "scheduler": None,
            **changes,
        }
        made.append(Pipeline(case, loaded(name), TORCH))
        return made[-1]

    yield make
    for pipeline in reversed(made):
        pipeline.close()


def seeded(pipeline: Pipeline, *watching: Any) -> torch.Tensor:
    """Run the pipeline as the recorder does and return its image."""
    with determinism.settings("full"):
        determinism.seed_global_streams(0)
        return pipeline.run(*watching)["image"]


def wrappers(pipeline: Any) -> dict[str, Any]:
    """Return every method that stands on an instance instead of its class: that is how stages are watched."""
    names = ("forward", "step", *stages.METHODS)
    parts = {name: part for name, part in pipeline.components.items() if hasattr(part, "__dict__")}
    return {
        f"{name}.{method}": vars(part)[method]
        for name, part in parts.items()
        for method in names
        if method in vars(part)
    }


def doors() -> dict[str, Any]:
    """Return every name `randn_tensor` inside diffusers, by module."""
    modules = {
        name: module for name, module in sys.modules.items() if name.startswith("diffusers.")
    }
    return {
        name: vars(module)["randn_tensor"]
        for name, module in modules.items()
        if "randn_tensor" in vars(module)
    }


def keep(name: str, inputs: dict[str, Any], result: Any) -> Any:
    return result


@pytest.mark.parametrize("name", SMALL)
def test_watching_changes_no_bit_and_leaves_nothing_behind(name: str, opened):
    """Plain, watched and plain again are the same; instances and doors are as they were."""
    pipeline, drawn = opened(name), []
    plain = seeded(pipeline)
    own = doors()
    watched = seeded(pipeline, keep, drawn.append)
    assert wrappers(pipeline.pipeline) == {}
    assert len(set(own.values())) == 1
    assert doors().items() >= own.items()
    assert set(doors().values()) == set(own.values())
    assert torch.equal(watched, plain)
    assert torch.equal(seeded(pipeline), plain)
    assert drawn


@pytest.mark.parametrize("name", SMALL)
def test_a_timed_run_tells_of_every_step_and_of_nothing_else(name: str, opened):
    """Schedulers alone are wrapped, the bits stay, and nothing is left behind."""
    pipeline = opened(name)
    plain, told, watched = seeded(pipeline), [], []

    def look(scheduler: str) -> None:
        told.append(scheduler)
        assert set(wrappers(pipeline.pipeline)) == {
            f"{one}.step" for one in stages.schedulers_of(pipeline.pipeline)
        }

    with determinism.settings("full"):
        determinism.seed_global_streams(0)
        assert torch.equal(pipeline.run(on_step=look)["image"], plain)
    assert wrappers(pipeline.pipeline) == {}
    seeded(pipeline, lambda stage, inputs, result: watched.append(stage) or result)
    assert told == [stage.partition(".")[0] for stage in watched if ".step#" in stage]


@pytest.mark.parametrize("name", SMALL)
def test_while_watched_the_wrappers_are_there(name: str, opened):
    """What the other tests find gone was there: on every model and scheduler, and on every door."""
    pipeline, seen, own = opened(name), {}, set(doors().values())

    def look(stage: str, inputs: dict[str, Any], result: Any) -> Any:
        seen["wrappers"], seen["doors"] = wrappers(pipeline.pipeline), doors()
        return result

    seeded(pipeline, look, lambda drawn: None)
    parts = pipeline.pipeline.components.items()
    models = {f"{part}.forward" for part, model in parts if isinstance(model, torch.nn.Module)}
    assert models <= set(seen["wrappers"])
    assert {f"{part}.step" for part in stages.schedulers_of(pipeline.pipeline)} <= set(
        seen["wrappers"]
    )
    assert own.isdisjoint(seen["doors"].values())


@pytest.mark.parametrize("at", ["text_encoder#0", "unet#1", "scheduler.step#1", "vae.decode#0"])
def test_a_run_that_fails_leaves_nothing_behind(at: str, opened):
    """Whichever stage raises, the next run is a plain one with the same bits."""
    pipeline = opened("digits-sd")
    plain, own = seeded(pipeline), doors()

    def fail(name: str, inputs: dict[str, Any], result: Any) -> Any:
        if name == at:
            raise CutShort
        return result

    with pytest.raises(CutShort):
        seeded(pipeline, fail, lambda drawn: None)
    assert wrappers(pipeline.pipeline) == {}
    assert doors() == own
    assert torch.equal(seeded(pipeline), plain)


def test_a_method_that_somebody_put_on_an_instance_stays_there(opened):
    """Offloading hooks do that; the same object is back afterwards."""
    pipeline = opened("digits-ddpm")
    unet = pipeline.pipeline.unet
    somebodys = functools.partial(type(unet).forward, unet)
    unet.forward = somebodys
    try:
        seeded(pipeline, keep)
        assert wrappers(pipeline.pipeline) == {"unet.forward": somebodys}
    finally:
        del unet.forward


def test_a_watched_step_shows_its_own_signature(opened):
    """Pipelines ask it whether `eta` and `generator` may be passed; without it the run silently differs."""
    pipeline = opened("digits-sd", scheduler={"class": "DDIMScheduler"})
    seeded(pipeline)
    step = pipeline.pipeline.scheduler.step
    for seen in (stages.watched(pipeline.pipeline, keep), stages.stepped(pipeline.pipeline, print)):
        with seen:
            assert pipeline.pipeline.scheduler.step != step
            assert inspect.signature(pipeline.pipeline.scheduler.step) == inspect.signature(step)
            assert {"eta", "generator"} <= set(
                inspect.signature(pipeline.pipeline.scheduler.step).parameters
            )


def test_what_the_observer_returns_is_what_the_pipeline_goes_on_with(opened):
    """An anchored run rests on this: another prediction of the model gives another image."""
    pipeline = opened("digits-ddpm")

    def replace(name: str, inputs: dict[str, Any], result: Any) -> Any:
        return type(result)(sample=torch.zeros_like(result.sample)) if name == "unet#0" else result

    assert not torch.equal(seeded(pipeline, replace), seeded(pipeline))


def test_the_inputs_of_a_stage_come_by_the_names_of_its_parameters(opened):
    """However the pipeline passed them: by place or by name."""
    seen = {}

    def note(name: str, inputs: dict[str, Any], result: Any) -> Any:
        seen[name] = set(inputs)
        return result

    seeded(opened("digits-ddpm"), note)
    assert {"sample", "timestep"} <= seen["unet#0"]
    assert {"model_output", "timestep", "sample", "generator"} <= seen["scheduler.step#0"]


@pytest.mark.parametrize("name", ["ddim-digits", "ddpm-digits", "sd-digits", "unclip-synthetic"])
def test_a_recording_says_that_its_watched_run_is_as_its_plain_one(name: str, take):
    """A plain run and the watched one gave the same bits."""
    assert take(name).content["repeat"] == {
        "runs": 2,
        "distinct": 1,
        "l_inf": 0.0,
        "watched_as_plain": True,
    }


@pytest.mark.parametrize(
    ("cost", "runs"), [(None, 2), ("{slower: 1.5}", 2), ("{slower: 1.5, rounds: 3}", 3)]
)
def test_a_case_whose_bits_are_new_runs_watched_and_plain_and_as_often_as_its_cost_asks(
    cost, runs, take
):
    """The watched run comes first and warms up; those that are timed are steady."""
    assert take(cost=cost).content["repeat"] == {
        "runs": runs,
        "distinct": 1,
        "l_inf": 0.0,
        "watched_as_plain": True,
    }


def test_the_bits_of_a_baseline_need_no_second_run_and_other_bits_are_looked_into(
    shop, monkeypatch
):
    """The baseline's process is the first of two that agree; a baseline and a run with other bits hold the inside of stages."""
    scenario = shop.recorded()

    def run(name: str) -> tuple[int, list[str]]:
        shop.harness("run", str(scenario), "--out", name)
        recording = Recording.read(shop.root / name / "recordings" / "digits" / "cpu-float32")
        return recording.content["repeat"]["runs"], list(recording.inside("modules"))

    assert list(
        Store(shop.root / "baselines").read(shop.baseline()).recording.inside("modules")
    ) == ["unet#0"]
    assert run("same") == (1, [])
    monkeypatch.setattr(
        Store,
        "known",
        lambda self, case: {path.stem: {"image": "0" * 32} for path in [shop.baseline()]},
    )
    assert run("other") == (3, ["unet#0"])  # watched, plain, and watched once more from the inside
    monkeypatch.setattr(Store, "known", lambda self, case: {"another-class": {}})
    assert run("elsewhere") == (2, ["unet#0"])


def test_the_stages_of_text_to_image_come_in_their_order(take):
    """Prompt and empty prompt, then a prediction and a step for each of twenty steps, then the decoder."""
    names = [stage["name"] for stage in take("sd-digits").stages]
    steps = [f"{part}#{index}" for index in range(20) for part in ("unet", "scheduler.step")]
    assert names == ["text_encoder#0", "text_encoder#1", *steps, "vae.decode#0"]


def test_a_pipeline_with_several_schedulers_has_all_their_steps_in_order(take):
    """UnCLIP: text, prior, projection, decoder, and two super-resolution models that share a scheduler."""
    names = [stage["name"] for stage in take("unclip-synthetic").stages]

    def loop(model: str, scheduler: str, count: int) -> list[str]:
        return [
            f"{part}#{index}" for index in range(count) for part in (model, f"{scheduler}.step")
        ]

    assert names == [
        "text_encoder#0", "text_encoder#1",
        *loop("prior", "prior_scheduler", 5),
        "text_proj#0",
        *loop("decoder", "decoder_scheduler", 5),
        "super_res_first#0", "super_res_scheduler.step#0", "super_res_first#1", "super_res_scheduler.step#1",
        "super_res_last#0", "super_res_scheduler.step#2",
    ]  # fmt: skip


def test_every_draw_is_seen_in_the_order_of_the_run(take):
    """A DDIM run draws once; ten ancestral steps draw at the start and at every step but the last."""
    assert len(take().content["noise"]) == 1
    assert len(take("ddpm-digits").content["noise"]) == 10


def test_noise_can_be_replaced_and_the_door_closes_after_an_exception(opened):
    """The pipeline computes with what the replacement drew, and diffusers has its own again even if the run fails."""
    own, pipeline = doors(), opened("digits-ddpm").pipeline
    asked: list[Any] = []

    def fail(shape: Any, **_: Any) -> torch.Tensor:
        asked.append(shape)
        raise CutShort

    with pytest.raises(CutShort), noise.drawn_by(fail):
        pipeline(num_inference_steps=1, output_type="np")
    assert asked == [(1, 1, 16, 16)]
    assert doors() == own
