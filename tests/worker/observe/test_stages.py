"""Observing a pipeline: every stage is seen in order, no bit changes, and nothing stays behind."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from harness.scenario.weights import DATA
from harness.store.baselines import Store
from harness.store.recording import Recording, Repeat
from harness.worker.conditions import determinism, noise
from harness.worker.observe import stages
from harness.worker.observe.stages import Stage
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.torch_ import Torch

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

TORCH = Torch("cpu")
SMALL = {
    "digits-ddpm": ("bundled", "DDIMPipeline", {"num_inference_steps": 2}),
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
    source = {"kind": kind, "folder": str(DATA / kind / name)}
    return checkpoints.load(source, pipeline, {"default": "float32"}, TORCH)


@pytest.fixture
def opened() -> Iterator[Callable[..., Pipeline]]:
    """Make a small pipeline as the recorder would, with changes to its case.

    Its own schedulers are back afterwards.
    """
    made = []

    def make(name: str, **changes: Any) -> Pipeline:
        case: Any = {
            "call": {**SMALL[name][2], "output_type": "np"},
            "seeds": [0],
            "generator": "cpu",
            "scheduler": None,
            "enable": [],
            "inputs_folder": ".",
            **changes,
        }
        made.append(Pipeline(case, loaded(name), TORCH))
        return made[-1]

    yield make
    for pipeline in reversed(made):
        pipeline.close()


def seeded(pipeline: Pipeline, *callbacks: Any, **options: Any) -> torch.Tensor:
    """Run the pipeline as the recorder does and return its image."""
    with determinism.settings("full"):
        determinism.seed_global_streams(0)
        return pipeline.run(*callbacks, **options)["image"]


def wrappers(pipeline: Any) -> dict[str, Any]:
    """Return every method that is replaced on an instance, or a scheduler's on its class.

    That is how stages are observed.
    """
    names = ("forward", *stages.METHODS)
    found: dict[str, Any] = {}
    for name, part in pipeline.components.items():
        replaced = getattr(part, "__dict__", {})
        found |= {f"{name}.{method}": replaced[method] for method in names if method in replaced}
        step = getattr(type(part), "step", None)
        if hasattr(step, "__wrapped__"):
            found[f"{name}.step"] = step
    return found


def library_draws() -> dict[str, Any]:
    """Return every name `randn_tensor` inside diffusers, by module."""
    return {
        name: vars(module)["randn_tensor"]
        for name, module in sys.modules.items()
        if name.startswith("diffusers.") and "randn_tensor" in vars(module)
    }


def keep(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
    """Observe a stage and go on with its own result."""
    return result


def ignore(stage: Stage, drawn: torch.Tensor) -> None:
    """Observe a draw of noise."""


@pytest.mark.parametrize("name", SMALL)
def test_observing_changes_no_bit_and_leaves_nothing_behind(name: str, opened):
    """A plain, an instrumented and another plain run are the same; all methods are restored."""
    pipeline = opened(name)
    drawn: list[Stage] = []
    plain = seeded(pipeline)
    own = library_draws()
    instrumented = seeded(pipeline, keep, lambda stage, _: drawn.append(stage))
    assert wrappers(pipeline.pipeline) == {}
    assert len(set(own.values())) == 1
    assert library_draws().items() >= own.items()
    assert set(library_draws().values()) == set(own.values())
    assert torch.equal(instrumented, plain)
    assert torch.equal(seeded(pipeline), plain)
    assert drawn == [Stage("noise", index) for index in range(len(drawn))]
    assert drawn


@pytest.mark.parametrize("name", SMALL)
def test_a_timed_run_tells_of_every_step_and_of_nothing_else(name: str, opened):
    """Schedulers alone are wrapped, the bits stay, and nothing is left behind."""
    pipeline = opened(name)
    plain = seeded(pipeline)
    told: list[str] = []
    observed: list[Stage] = []

    def on_step(scheduler: str) -> None:
        told.append(scheduler)
        schedulers = stages.schedulers_of(pipeline.pipeline)
        assert set(wrappers(pipeline.pipeline)) == {f"{name}.step" for name in schedulers}

    def on_stage(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        observed.append(stage)
        return result

    assert torch.equal(seeded(pipeline, on_step=on_step), plain)
    assert wrappers(pipeline.pipeline) == {}
    seeded(pipeline, on_stage)
    assert told == [stage.scheduler for stage in observed if stage.scheduler is not None]


@pytest.mark.parametrize("name", SMALL)
def test_while_a_run_is_observed_the_wrappers_are_there(name: str, opened):
    """They stand on every model and scheduler, and on every name `randn_tensor`."""
    pipeline, seen, own = opened(name), {}, set(library_draws().values())

    def look(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        seen["wrappers"], seen["draws"] = wrappers(pipeline.pipeline), library_draws()
        return result

    seeded(pipeline, look, ignore)
    parts = pipeline.pipeline.components.items()
    models = {f"{part}.forward" for part, model in parts if isinstance(model, torch.nn.Module)}
    steps = {f"{part}.step" for part in stages.schedulers_of(pipeline.pipeline)}
    assert models | steps <= set(seen["wrappers"])
    assert own.isdisjoint(seen["draws"].values())


@pytest.mark.parametrize("at", ["text_encoder#0", "unet#1", "scheduler.step#1", "vae.decode#0"])
def test_a_run_that_fails_leaves_nothing_behind(at: str, opened):
    """Whichever stage raises, the next run is a plain one with the same bits."""
    pipeline = opened("digits-sd")
    plain, own = seeded(pipeline), library_draws()

    def fail(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        if stage.name == at:
            raise CutShort
        return result

    with pytest.raises(CutShort):
        seeded(pipeline, fail, ignore)
    assert wrappers(pipeline.pipeline) == {}
    assert library_draws() == own
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


def test_an_observed_step_shows_its_own_signature(opened):
    """Pipelines ask it whether `eta` and `generator` may be passed; else they would leave them."""
    pipeline = opened("digits-sd", scheduler={"class": "DDIMScheduler"})
    seeded(pipeline)
    scheduler = pipeline.pipeline.scheduler
    own = scheduler.step
    for observing in (
        stages.observed(pipeline.pipeline, keep),
        stages.observed_steps(pipeline.pipeline, print),
    ):
        with observing:
            assert scheduler.step != own
            assert inspect.signature(scheduler.step) == inspect.signature(own)
            assert {"eta", "generator"} <= set(inspect.signature(scheduler.step).parameters)


def test_a_step_of_a_copied_scheduler_is_observed_and_works_on_the_copy(opened):
    """Some pipelines copy their scheduler within a call; the original must not make the step."""
    pipeline = opened("digits-ddpm")
    seeded(pipeline)
    scheduler = pipeline.pipeline.scheduler
    own_class = type(scheduler)
    seen: list[str] = []

    def note(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        seen.append(stage.name)
        return result

    with stages.observed(pipeline.pipeline, note):
        copied = copy.deepcopy(scheduler)
        copied.set_timesteps(5)
        noise_like = torch.ones(1, 1, 4, 4)
        step = copied.step(noise_like, copied.timesteps[0], noise_like)
        assert isinstance(scheduler, own_class)
    assert seen == ["scheduler.step#0"]
    assert (copied.num_inference_steps, scheduler.num_inference_steps) == (5, 2)
    assert type(scheduler) is own_class
    expected = own_class.from_config(scheduler.config)
    expected.set_timesteps(5)
    again = expected.step(noise_like, expected.timesteps[0], noise_like)
    assert torch.equal(step.prev_sample, again.prev_sample)


def test_an_observed_scheduler_keeps_its_class(opened):
    """Some pipelines ask for `type(self.scheduler)`; a subclass would be another class to them."""
    pipeline = opened("digits-ddpm")
    scheduler = pipeline.pipeline.scheduler
    own_class, own_step = type(scheduler), type(scheduler).step
    for observing in (
        stages.observed(pipeline.pipeline, keep),
        stages.observed_steps(pipeline.pipeline, print),
    ):
        with observing:
            assert type(scheduler) is own_class
            assert own_class.step is not own_step
        assert own_class.step is own_step


def test_two_schedulers_of_one_class_keep_their_names():
    """The method is one, and belongs to the class."""

    class Scheduler:
        config: ClassVar[dict[str, Any]] = {}

        def step(self, sample: torch.Tensor) -> torch.Tensor:
            return sample

    first, second = Scheduler(), Scheduler()
    pipeline = SimpleNamespace(components={"first": first, "second": second})
    seen: list[str] = []

    def note(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        seen.append(stage.name)
        return result

    with stages.observed(pipeline, note):
        for scheduler in (second, first, second):
            scheduler.step(torch.ones(1))
    assert seen == ["second.step#0", "first.step#0", "second.step#1"]


def test_what_the_observer_returns_is_what_the_pipeline_goes_on_with(opened):
    """A teacher-forced run rests on this: another prediction of the model gives another image."""
    pipeline = opened("digits-ddpm")

    def replace(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        if stage.name == "unet#0":
            return type(result)(sample=torch.zeros_like(result.sample))
        return result

    assert not torch.equal(seeded(pipeline, replace), seeded(pipeline))


def test_the_inputs_of_a_stage_come_by_the_names_of_its_parameters(opened):
    """They do however the pipeline passed them: by position or by name."""
    seen = {}

    def note(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        seen[stage.name] = set(inputs)
        return result

    seeded(opened("digits-ddpm"), note)
    assert {"sample", "timestep"} <= seen["unet#0"]
    assert {"model_output", "timestep", "sample", "generator"} <= seen["scheduler.step#0"]


def test_only_a_step_of_a_scheduler_carries_the_scheduler_s_name(opened):
    """What is kept of a run rests on it, not on the wording of a stage's name."""
    seen: dict[str, Stage] = {}

    def note(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        seen[stage.name] = stage
        return result

    seeded(opened("digits-sd"), note)
    assert seen["scheduler.step#1"] == Stage("scheduler.step", 1, scheduler="scheduler")
    assert seen["vae.decode#0"] == Stage("vae.decode", 0)
    assert seen["unet#1"] == Stage("unet", 1)


@pytest.mark.parametrize("name", ["ddim-digits", "ddpm-digits", "sd-digits", "unclip-synthetic"])
def test_a_recording_says_that_its_instrumented_run_equals_its_plain_one(name: str, take):
    """A plain run and the instrumented one gave the same bits."""
    repeat = Repeat(runs=2, distinct=1, l_inf=0.0, instrumented_equals_plain=True)
    assert take(name).repeat == repeat


@pytest.mark.parametrize(
    ("cost", "runs"), [(None, 2), ("{slower: 1.5}", 2), ("{slower: 1.5, rounds: 3}", 3)]
)
def test_a_case_whose_bits_are_new_runs_instrumented_and_plain_and_as_often_as_its_cost_asks(
    cost, runs, take
):
    """The instrumented run comes first and warms up; those that are timed are steady."""
    repeat = Repeat(runs=runs, distinct=1, l_inf=0.0, instrumented_equals_plain=True)
    assert take(cost=cost).repeat == repeat


def test_the_bits_of_a_baseline_need_no_second_run_and_other_bits_are_looked_into(
    shop, monkeypatch
):
    """The baseline's process is the first of two that agree.

    A baseline, and a run with other bits, hold the inside of stages.
    """
    scenario = shop.recorded()
    baseline = shop.baseline()

    def run(name: str) -> tuple[int, bool]:
        shop.harness("run", str(scenario), "--out", name)
        recording = Recording.read(shop.root / name / "recordings" / "digits" / "cpu-float32")
        return recording.repeat.runs, recording.has_modules_inside("unet#0")

    def pretend(known: dict[str, dict[str, str]]) -> None:
        monkeypatch.setattr(Store, "known", lambda self, case: known)

    assert Store(shop.root / "baselines").read(baseline).has_modules_inside("unet#0")
    assert run("same") == (1, False)
    pretend({baseline.stem: {"image": "0" * 32}})
    assert run("other") == (3, True)  # instrumented, plain, and instrumented with the inside
    pretend({"another-class": {}})
    assert run("elsewhere") == (2, True)


def loop(model: str, scheduler: str, count: int) -> list[str]:
    """Return the names of `count` predictions and steps in turn."""
    return [f"{part}#{index}" for index in range(count) for part in (model, f"{scheduler}.step")]


def test_the_stages_of_text_to_image_come_in_their_order(take):
    """Prompt and empty prompt, a prediction and a step for each of twenty steps, the decoder."""
    names = [stage.name for stage in take("sd-digits").stages]
    steps = loop("unet", "scheduler", 20)
    assert names == ["text_encoder#0", "text_encoder#1", *steps, "vae.decode#0"]


def test_a_pipeline_with_several_schedulers_has_all_their_steps_in_order(take):
    """UnCLIP: text, prior, projection, decoder, and two upscalers that share a scheduler."""
    names = [stage.name for stage in take("unclip-synthetic").stages]
    assert names == [
        "text_encoder#0",
        "text_encoder#1",
        *loop("prior", "prior_scheduler", 5),
        "text_proj#0",
        *loop("decoder", "decoder_scheduler", 5),
        *loop("super_res_first", "super_res_scheduler", 2),
        "super_res_last#0",
        "super_res_scheduler.step#2",
    ]


def test_every_draw_is_seen_in_the_order_of_the_run(take):
    """A DDIM run draws once; ten ancestral steps draw at the start and at each but the last."""
    assert len(take().noise) == 1
    assert len(take("ddpm-digits").noise) == 10


def test_noise_can_be_replaced_and_the_library_s_own_is_back_after_an_exception(opened):
    """The pipeline computes with what the replacement drew, even if the run then fails."""
    own, pipeline = library_draws(), opened("digits-ddpm").pipeline
    asked: list[Any] = []

    def fail(shape: Any, **_: Any) -> torch.Tensor:
        asked.append(shape)
        raise CutShort

    with pytest.raises(CutShort), noise.intercepted_draws(fail):
        pipeline(num_inference_steps=1, output_type="np")
    assert asked == [(1, 1, 16, 16)]
    assert library_draws() == own


class Renderer(torch.nn.Module):
    """Works as ShapE's renderer does: it has no call, and one public method calls the other."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def _rays(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layer(latents)

    def render(self, latents: torch.Tensor) -> torch.Tensor:
        return self._rays(latents)

    def decode_to_image(self, latents: torch.Tensor) -> torch.Tensor:
        return self.render(latents) * 2

    def to(self, *args: Any) -> Renderer:
        return super().to(*args)


def test_a_component_without_a_call_is_a_stage_in_its_public_methods():
    """Not in what it overrides of torch, and a method inside another one is no stage of its own."""
    renderer = Renderer()
    pipeline = type("Pipeline", (), {"components": {"renderer": renderer}})()
    seen: list[str] = []

    def note(stage: Stage, inputs: dict[str, Any], result: Any) -> Any:
        seen.append(f"{stage.name} {sorted(inputs)}")
        return result

    with stages.observed(pipeline, note):
        renderer.to("cpu")
        renderer.decode_to_image(torch.ones(1, 2))
        renderer.render(torch.ones(1, 2))
    assert seen == ["renderer.decode_to_image#0 ['latents']", "renderer.render#0 ['latents']"]
    assert not {"render", "decode_to_image"} & set(vars(renderer))
