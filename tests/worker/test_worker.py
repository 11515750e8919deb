"""The worker's recordings: the bits of plain diffusers, the noise asked for, what is refused."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.launch.events import Failed
from harness.launch.process import variables
from harness.scenario.fields import Determinism
from harness.scenario.weights import DATA
from harness.store.recording import Recording
from harness.worker.observe.digest import digest
from harness.worker.pipeline import checkpoints, library, schedulers
from harness.worker.pipeline.synthetic import synthesize
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CaseError

TORCH_DTYPE = "ignore:`torch_dtype` is deprecated:FutureWarning"

TORCH = Torch("cpu")
# What a user writes who does not know the harness: the switches that torch documents, then the
# pipelines.
PLAIN = """
import sys
import numpy, torch
from diffusers import DDIMPipeline, DDIMScheduler, StableDiffusionPipeline

cifar10, digits, out = sys.argv[1:]
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
torch.backends.mkldnn.deterministic = True
torch.backends.mkldnn.matmul.fp32_precision = "ieee"
torch.backends.mkldnn.conv.fp32_precision = "ieee"
torch.backends.cuda.enable_flash_sdp(False)
torch.backends.cuda.enable_mem_efficient_sdp(False)

pipe = DDIMPipeline.from_pretrained(cifar10, use_safetensors=True)
generator = torch.Generator("cpu").manual_seed(0)
images = pipe(num_inference_steps=2, output_type="np", generator=generator).images
numpy.save(f"{out}/ddim-cifar10-synthetic.npy", images)

pipe = StableDiffusionPipeline.from_pretrained(digits, use_safetensors=True)
seeds = [torch.Generator("cpu").manual_seed(seed) for seed in range(4)]
call = dict(num_images_per_prompt=4, num_inference_steps=20, guidance_scale=4.0, output_type="np")
images = pipe("a handwritten seven", generator=seeds, **call).images
numpy.save(f"{out}/sd-digits-batch.npy", images)

pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
generator = torch.Generator("cpu").manual_seed(0)
call = dict(num_inference_steps=50, output_type="latent", generator=generator)
images = pipe("a handwritten seven", **call).images
numpy.save(f"{out}/sd-digits-latents.npy", images.numpy())

assert not [name for name in sys.modules if name.partition(".")[0] == "harness"]
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of what plain diffusers makes of three scenarios, in its own process."""
    from diffusers import DDIMPipeline

    out = tmp_path_factory.mktemp("plain")
    saved = out / "ddpm-cifar10-32"
    configuration = DATA / "synthetic" / saved.name
    pipeline = synthesize(configuration, DDIMPipeline, {"default": "float32"}, TORCH)
    pipeline.save_pretrained(saved)
    digits = DATA / "bundled" / "digits-sd"
    settings = {**os.environ, **variables(Determinism.FULL, {})}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(saved), str(digits), str(out)],
        env={name: value for name, value in settings.items() if value is not None},
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    yield out
    shutil.rmtree(saved)


@pytest.mark.parametrize("name", ["ddim-cifar10-synthetic", "sd-digits-latents", "sd-digits-batch"])
def test_a_recording_has_the_bits_of_plain_diffusers(name: str, plain: Path, take):
    """Weights, noise, scheduler, batch and every switch give the bits of a user's own ten lines."""
    expected = np.load(plain / f"{name}.npy")
    recording = take(name)
    actual = images(recording)
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes()
    assert recording.outputs["image"].digest == digest(expected)


def test_garbage_is_collected_again_once_a_checkpoint_is_loaded():
    """A worker imports without collecting.

    A process that never collected would keep every pipeline that it dropped.
    """
    gc.disable()
    try:
        checkpoints.load(
            {"kind": "path", "folder": str(DATA / "bundled" / "digits-ddpm")},
            "DDIMPipeline",
            {"default": "float32"},
            TORCH,
        )
        assert gc.isenabled()
    finally:
        gc.enable()


def images(recording: Recording) -> np.ndarray:
    return recording.output_tensors["image"]


def noise(recording: Recording) -> np.ndarray:
    return recording.noise_tensors[0]


SD = {"pipeline": "StableDiffusionPipeline", "checkpoint": "{bundled: digits-sd}"}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            "{num_inference_step: 1}",
            "DDIMPipeline takes no `num_inference_step`; did you mean `num_inference_steps`?",
        ),
        ("{colour: red}", "DDIMPipeline takes no `colour`; it takes batch_size, generator, "),
    ],
)
def test_an_argument_that_the_pipeline_does_not_name_is_refused(call: str, problem: str, ask):
    """The message offers the nearest right spelling, or names every argument."""
    event = ask(call=call).event
    assert isinstance(event, Failed)
    assert event.reason.startswith(f"`call`: {problem}")


def test_an_argument_that_the_pipeline_would_swallow_is_refused(ask):
    """Stable Diffusion takes any name and ignores it: the default would become the baseline."""
    event = ask(**SD, call="{prompt: a two, guidance_scal: 9.0, num_inference_steps: 1}").event
    problem = "StableDiffusionPipeline takes no `guidance_scal`; did you mean `guidance_scale`?"
    assert event.reason == f"`call`: {problem}"


BATCH = "{num_inference_steps: 1, batch_size: 3, output_type: np}"


def test_without_a_generator_every_run_varies(take):
    """This is the control: three runs give three outputs."""
    repeat = take(generator="none", seed=None, cost="{rounds: 3}").repeat
    assert repeat.runs == repeat.distinct == 3
    assert repeat.l_inf > 0


def test_a_generator_that_is_reused_goes_on_where_it_stopped(take):
    """Every run varies; the first, instrumented one has the noise of the seed's first draw."""
    recording = take(generator="reused", cost="{rounds: 3}")
    assert recording.repeat.distinct == 3
    generator = torch.Generator("cpu").manual_seed(0)
    expected = torch.randn(noise(recording).shape, generator=generator).numpy()
    assert np.array_equal(noise(recording), expected)


def test_one_generator_for_all_images_gives_distinct_images_that_repeat(take):
    """The trap of the guide is a list that holds one object several times."""
    recording = take(generator="shared", seed="[0, 0, 0]", call=BATCH)
    assert recording.repeat.runs == 2
    assert recording.repeat.distinct == 1
    assert len({image.tobytes() for image in images(recording)}) == 3


def test_a_generator_of_its_own_gives_every_image_the_noise_of_its_seed_alone(take):
    """Image i of a batch starts from what seed i draws for a single image, bit for bit."""
    batch = take(seed="[5, 0, 7]", call=BATCH)
    for index, seed in enumerate((5, 0, 7)):
        single = take(seed=str(seed))
        assert np.array_equal(noise(batch)[index : index + 1], noise(single))


def test_equal_seeds_give_equal_noise(take):
    """Three generators of one seed are not one generator three times."""
    drawn = noise(take(seed="[4, 4, 4]", call=BATCH))
    assert np.array_equal(drawn[1], drawn[0])
    assert np.array_equal(drawn[2], drawn[0])


def test_numpy_noise_is_that_of_pcg64(take):
    """They are float64 normals of one generator per seed, cast to float32.

    The MindSpore port of the guide draws in the same way.
    """
    drawn = noise(take(generator="numpy", seed="[3, 1, 2]", call=BATCH))
    for image, seed in zip(drawn, (3, 1, 2), strict=True):
        generator = np.random.Generator(np.random.PCG64(seed))
        expected = generator.standard_normal((1, 16, 16)).astype(np.float32)
        assert np.array_equal(image, expected)


def test_the_device_of_a_cpu_case_draws_as_the_cpu(take):
    """`generator: device` on the CPU is `generator: cpu`."""
    assert np.array_equal(noise(take(generator="device")), noise(take()))


def test_images_of_pil_are_recorded_as_eight_bits(take):
    """They are what a user saves: the float image scaled to 255 and rounded."""
    eight = take(call="{num_inference_steps: 1, output_type: pil}")
    assert eight.outputs["image"].dtype == "uint8"
    assert np.array_equal(images(eight), (images(take())[..., 0] * 255).round().astype(np.uint8))


def test_a_replaced_scheduler_is_the_one_that_the_recording_names(take):
    """The settings in effect are recorded, those of the checkpoint included."""
    asked = {"class": "DDIMScheduler", "timestep_spacing": "trailing", "steps_offset": 1}
    recording = take(scheduler=json.dumps(asked))  # JSON is YAML
    found = recording.inputs.schedulers["scheduler"]
    assert found.items() >= asked.items()
    assert found["num_train_timesteps"] == 1000
    assert recording.output_digests != take().output_digests


def test_a_scheduler_s_infinite_bound_is_recorded_as_text(take):
    """JSON has no infinity, but this scheduler clips nothing unless it is told to."""
    scheduler = "{class: DPMSolverMultistepScheduler}"
    recording = take(**SD, call="{prompt: one, num_inference_steps: 1}", scheduler=scheduler)
    assert recording.inputs.schedulers["scheduler"]["lambda_min_clipped"] == "-inf"


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (
            {"timestep_spacng": "trailing"},
            "`DDIMScheduler` has no setting `timestep_spacng`; did you mean `timestep_spacing`?",
        ),
        ({"use_karras_sigmas": True}, "`DDIMScheduler` has no setting `use_karras_sigmas`"),
        (
            {"class": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "eta": 1},
            "`EulerDiscreteScheduler` has no setting `eta`",
        ),
        (
            {"class": "DDIMSchedular"},
            "has no scheduler `DDIMSchedular`; did you mean `DDIMScheduler`?",
        ),
        ({"class": "DDIMPipeline"}, "has no scheduler `DDIMPipeline`"),
    ],
)
def test_a_scheduler_or_setting_that_does_not_exist_is_refused(
    replacement: dict[str, object], expected: str
):
    """diffusers would ignore the setting, and the scenario would test something else."""
    from diffusers import DDIMScheduler

    with pytest.raises(CaseError) as caught:
        schedulers.make_scheduler(DDIMScheduler(), replacement)
    assert expected in str(caught.value)


def test_a_case_that_names_an_unknown_setting_leaves_no_recording(ask, tmp_path: Path):
    """The refusal reaches the launcher as the reason of a failure, without a traceback."""
    reason = "`DDIMScheduler` has no setting `step_offset`; did you mean `steps_offset`?"
    answer = ask(scheduler="{class: DDIMScheduler, step_offset: 1}")
    assert answer.event == Failed("failed", reason, traceback="")
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.yaml"]


def test_an_exception_inside_the_pipeline_is_kept_with_its_traceback_and_the_worker_serves_on(
    ask, take
):
    """A stranger's pipeline may raise anything; the next case runs in the same process."""
    event = ask(call="{num_inference_steps: 5000}").event
    assert isinstance(event, Failed)
    assert event.reason.startswith("ValueError: ")
    assert "num_inference_steps" in event.reason
    assert "Traceback" in event.traceback
    assert ask().recording.outputs == take().outputs


def test_a_checkpoint_stays_loaded_while_cases_share_it(ask):
    """There is one load for two cases in a row, and another after a case with other weights."""
    other = {**SD, "call": "{prompt: one, num_inference_steps: 1}"}
    ask(**other)
    said = [ask(**changes).doing for changes in ({}, {"seed": "1"}, other)]
    assert ["loading the checkpoint" in doing for doing in said] == [True, False, True]
    assert said[1] == ["recording", "run 1 of 1"]


def test_a_case_leaves_the_shared_pipeline_as_it_found_it(ask):
    """Another scheduler, other noise and another dtype in between change nothing afterwards."""
    found = []
    changed = {
        "scheduler": "{timestep_spacing: trailing}",
        "generator": "numpy",
        "call": "{num_inference_steps: 3}",
    }
    for changes in ({}, changed, {"cases": "{dtype: float64}"}, {}):
        recording = ask(**changes).recording
        found.append((recording.outputs, recording.stages, recording.inputs))
    assert found[3] == found[0]
    assert found[1] != found[0]
    assert found[2] != found[0]


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """A copy of a small synthetic checkpoint, to be changed."""
    return Path(shutil.copytree(DATA / "synthetic" / "unclip-small", tmp_path / "unclip-small"))


def load_synthetic(folder: Path) -> checkpoints.Checkpoint:
    source = {"kind": "synthetic", "folder": str(folder)}
    return checkpoints.load(source, "UnCLIPPipeline", {"default": "float32"}, TORCH)


def test_synthetic_weights_have_the_digests_that_are_written_beside_them(synthetic: Path):
    """They are made on every machine anew, and must be the same bits everywhere."""
    expected = json.loads((synthetic / "digests.json").read_text(encoding="utf-8"))
    weights = load_synthetic(synthetic).weights
    assert weights == {**expected, "configuration": weights["configuration"]}


@pytest.mark.parametrize("written", ["0" * 32, None])
def test_synthetic_weights_with_other_digests_are_refused(written: str | None, synthetic: Path):
    """A changed or missing digest names its component."""
    path = synthetic / "digests.json"
    digests = json.loads(path.read_text(encoding="utf-8"))
    digests["decoder"] = written
    path.write_text(json.dumps(digests), encoding="utf-8")
    problem = r"unclip-small: decoder have other digests than digests\.json says"
    with pytest.raises(CaseError, match=problem):
        load_synthetic(synthetic)


def test_a_changed_configuration_of_a_synthetic_checkpoint_makes_other_weights(synthetic: Path):
    """Another width gives another shape, which the digests notice."""
    path = synthetic / "text_proj" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "clip_extra_context_tokens": 2}), encoding="utf-8")
    with pytest.raises(CaseError, match="text_proj have other digests"):
        load_synthetic(synthetic)


@pytest.mark.filterwarnings(TORCH_DTYPE)
def test_a_folder_without_a_model_index_is_an_error(tmp_path: Path):
    """A mistyped path must not look like a machine that lacks something."""
    source = {"kind": "path", "folder": str(tmp_path)}
    problem = r"no checkpoint in .*: expected a folder in diffusers' format, with model_index.json"
    with pytest.raises(CaseError, match=problem):
        checkpoints.load(source, "DDIMPipeline", {"default": "float32"}, TORCH)


@pytest.mark.parametrize("name", ["DDIMPipelne", "torch", "os.system", "DDIMScheduler"])
def test_only_a_pipeline_of_diffusers_can_be_named(name: str):
    """A dotted path, a module and any other class are refused."""
    with pytest.raises(CaseError, match=f"has no pipeline `{name}`"):
        library.pipeline_class(name)


@pytest.mark.filterwarnings(TORCH_DTYPE)
@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("AutoPipelineForText2Image", "StableDiffusionPipeline"),
        ("AutoPipelineForImage2Image", "StableDiffusionImg2ImgPipeline"),
        ("AutoPipelineForInpainting", "StableDiffusionInpaintPipeline"),
    ],
)
def test_an_automatic_pipeline_is_the_class_that_it_chooses(name: str, resolved: str):
    """By the class that the checkpoint's index names, as diffusers itself resolves it."""
    found = library.automatic_class(name, "StableDiffusionPipeline")
    assert found.__name__ == resolved


@pytest.mark.parametrize(
    ("name", "stored", "problem"),
    [
        ("AutoPipelineForText2Imge", "DDIMPipeline", "did you mean `AutoPipelineForText2Image`"),
        ("AutoPipelineForText2Image", "DDIMPipeline", "knows no pipeline for .* DDIMPipeline"),
        ("AutoPipelineForText2Audio", "StableDiffusionPipeline", "name the class itself"),
    ],
)
def test_an_automatic_pipeline_without_a_class_says_why(name: str, stored: str, problem: str):
    """It is never said to need a package that is missing."""
    with pytest.raises(CaseError, match=problem):
        library.automatic_class(name, stored)


def test_a_scenario_may_name_an_automatic_pipeline(ask):
    """Its stages and bits are those of the class that it stands for."""
    changes = {
        "checkpoint": "{bundled: digits-sd}",
        "call": "{prompt: a handwritten seven, num_inference_steps: 1, output_type: np}",
    }
    automatic = ask(pipeline="AutoPipelineForText2Image", **changes).recording
    named = ask(pipeline="StableDiffusionPipeline", **changes).recording
    assert automatic.output_digests == named.output_digests


def test_weights_are_digested_by_name_and_value():
    """Two components with swapped values differ, and so does one with a changed buffer."""
    first = torch.nn.BatchNorm1d(2)
    second = torch.nn.BatchNorm1d(2)
    pipeline = SimpleNamespace(
        components={"a": first, "b": second, "tokenizer": object(), "safety_checker": None}
    )
    same = checkpoints.digest_states(pipeline)
    assert same["a"] == same["b"]
    assert set(same) == {"a", "b"}
    second.running_mean[0] = 1
    assert checkpoints.digest_states(pipeline)["b"] != same["b"]
