"""The worker's recordings: the bits of plain diffusers, the noise that a scenario asks for, and what is refused."""

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

from harness.launch.process import variables
from harness.records import Recording
from harness.scenario.model import DATA
from harness.worker.observe.digest import digest
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere, CaseError

TORCH_DTYPE = "ignore:`torch_dtype` is deprecated:FutureWarning"

# What a user writes who never heard of the harness: the switches that torch documents, then the pipelines.
TORCH = Torch("cpu")
PLAIN = """
import sys
import numpy, torch
from diffusers import DDIMPipeline, DDIMScheduler, StableDiffusionPipeline

cifar10, digits, out = sys.argv[1:]
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
torch.backends.mkldnn.deterministic = True
torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.conv.fp32_precision = "ieee"
torch.backends.cuda.enable_flash_sdp(False)
torch.backends.cuda.enable_mem_efficient_sdp(False)

pipe = DDIMPipeline.from_pretrained(cifar10, use_safetensors=True)
images = pipe(num_inference_steps=2, output_type="np", generator=torch.Generator("cpu").manual_seed(0)).images
numpy.save(f"{out}/ddim-cifar10-synthetic.npy", images)

pipe = StableDiffusionPipeline.from_pretrained(digits, use_safetensors=True)
seeds = [torch.Generator("cpu").manual_seed(seed) for seed in range(4)]
call = dict(num_images_per_prompt=4, num_inference_steps=20, guidance_scale=4.0, output_type="np")
numpy.save(f"{out}/sd-digits-batch.npy", pipe("a handwritten seven", generator=seeds, **call).images)

pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
call = dict(num_inference_steps=50, output_type="latent", generator=torch.Generator("cpu").manual_seed(0))
numpy.save(f"{out}/sd-digits-latents.npy", pipe("a handwritten seven", **call).images.numpy())

assert not [name for name in sys.modules if name.partition(".")[0] == "harness"]
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What plain diffusers makes of three scenarios, in a process with a full worker's environment."""
    from diffusers import DDIMPipeline

    out = tmp_path_factory.mktemp("plain")
    saved = out / "ddpm-cifar10-32"
    checkpoints.synthesize(
        DATA / "synthetic" / saved.name, DDIMPipeline, {"default": "float32"}, TORCH
    ).save_pretrained(saved)
    command = [
        sys.executable,
        "-c",
        PLAIN,
        str(saved),
        str(DATA / "bundled" / "digits-sd"),
        str(out),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, **variables("full", {})},
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
    """Through weights, noise, scheduler, batch and every switch, no bit differs from a user's own ten lines."""
    expected = np.load(plain / f"{name}.npy")
    recording = take(name)
    actual = recording.tensors()["output/image"]
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes()
    assert recording.outputs["image"]["digest"] == digest(expected)


def test_garbage_is_collected_again_once_a_checkpoint_is_loaded():
    """A worker imports without collecting; a process that never collected would keep every pipeline that it dropped."""
    gc.disable()
    try:
        checkpoints.load(
            {"kind": "path", "folder": DATA / "bundled" / "digits-ddpm"},
            "DDIMPipeline",
            {"default": "float32"},
            TORCH,
        )
        assert gc.isenabled()
    finally:
        gc.enable()


def images(recording: Recording) -> np.ndarray:
    return recording.tensors()["output/image"]


def noise(recording: Recording) -> np.ndarray:
    return recording.tensors()["noise/0"]


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
    """With the nearest right spelling, or with all there are."""
    event = ask(call=call).event
    assert event["event"] == "failed"
    assert event["reason"].startswith(f"`call`: {problem}")


def test_an_argument_that_the_pipeline_would_swallow_is_refused(ask):
    """Stable Diffusion takes any name and ignores it: the default would become the baseline."""
    event = ask(**SD, call="{prompt: a two, guidance_scal: 9.0, num_inference_steps: 1}").event
    assert (
        event["reason"]
        == "`call`: StableDiffusionPipeline takes no `guidance_scal`; did you mean `guidance_scale`?"
    )


BATCH = "{num_inference_steps: 1, batch_size: 3, output_type: np}"


def test_without_a_generator_every_run_varies(take):
    """The control: three runs, three outputs."""
    repeat = take(generator="none", seed=None, cost="{rounds: 3}").content["repeat"]
    assert repeat["runs"] == repeat["distinct"] == 3
    assert repeat["l_inf"] > 0


def test_a_generator_that_is_reused_goes_on_where_it_stopped(take):
    """Every run varies: the first, which is watched, has the noise of the seed's first draw."""
    recording = take(generator="reused", cost="{rounds: 3}")
    assert recording.content["repeat"]["distinct"] == 3
    generator = torch.Generator("cpu").manual_seed(0)
    assert np.array_equal(
        noise(recording), torch.randn(noise(recording).shape, generator=generator).numpy()
    )


def test_one_generator_for_all_images_gives_distinct_images_that_repeat(take):
    """The trap of the guide: a list that holds one object four times."""
    recording = take(generator="shared", seed="[0, 0, 0]", call=BATCH)
    assert recording.content["repeat"]["runs"] == 2
    assert recording.content["repeat"]["distinct"] == 1
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
    """Float64 normals of one generator per seed, cast to float32: what the MindSpore port of the guide draws."""
    drawn = noise(take(generator="numpy", seed="[3, 1, 2]", call=BATCH))
    for image, seed in zip(drawn, (3, 1, 2), strict=True):
        expected = (
            np.random.Generator(np.random.PCG64(seed))
            .standard_normal((1, 16, 16))
            .astype(np.float32)
        )
        assert np.array_equal(image, expected)


def test_the_device_of_a_cpu_case_draws_as_the_cpu(take):
    """`generator: device` on the CPU is `generator: cpu`."""
    assert np.array_equal(noise(take(generator="device")), noise(take()))


def test_images_of_pil_are_recorded_as_eight_bits(take):
    """As a user saves them: the float image scaled to 255 and rounded."""
    eight = take(call="{num_inference_steps: 1, output_type: pil}")
    assert eight.outputs["image"]["dtype"] == "uint8"
    assert np.array_equal(images(eight), (images(take())[..., 0] * 255).round().astype(np.uint8))


def test_a_replaced_scheduler_is_the_one_that_the_recording_names(take):
    """Class and settings in effect, those of the checkpoint included."""
    recording = take(
        scheduler="{class: DDIMScheduler, timestep_spacing: trailing, steps_offset: 1}"
    )
    found = recording.content["inputs"]["schedulers"]["scheduler"]
    assert (
        found.items()
        >= {"class": "DDIMScheduler", "timestep_spacing": "trailing", "steps_offset": 1}.items()
    )
    assert found["num_train_timesteps"] == 1000
    assert recording.outputs["image"]["digest"] != take().outputs["image"]["digest"]


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
    """diffusers itself would ignore the setting, and the scenario would test something else than it says."""
    from diffusers import DDIMScheduler

    with pytest.raises(CaseError) as caught:
        checkpoints.make_scheduler(DDIMScheduler(), replacement)
    assert expected in str(caught.value)


def test_a_case_that_names_an_unknown_setting_leaves_no_recording(ask, tmp_path: Path):
    """The refusal reaches the launcher as the reason of a failure, without a traceback."""
    reason = "`DDIMScheduler` has no setting `step_offset`; did you mean `steps_offset`?"
    answer = ask(scheduler="{class: DDIMScheduler, step_offset: 1}")
    assert answer.event == {"event": "failed", "reason": reason, "traceback": ""}
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.yaml"]


def test_an_exception_inside_the_pipeline_is_kept_with_its_traceback_and_the_worker_serves_on(
    ask, take
):
    """A stranger's pipeline may raise anything; the next case runs in the same process."""
    event = ask(call="{num_inference_steps: 5000}").event
    assert event["event"] == "failed"
    assert event["reason"].startswith("ValueError: ")
    assert "num_inference_steps" in event["reason"]
    assert "Traceback" in event["traceback"]
    assert ask().recording.outputs == take().outputs


def test_a_checkpoint_stays_loaded_while_cases_share_it(ask):
    """One load for two cases in a row, another one after a case with other weights."""
    other = {"pipeline": "StableDiffusionPipeline", "checkpoint": "{bundled: digits-sd}"}
    other |= {"call": "{prompt: one, num_inference_steps: 1}"}
    ask(**other)
    said = [ask(**changes).doing for changes in ({}, {"seed": "1"}, other)]
    assert ["loading the checkpoint" in doing for doing in said] == [True, False, True]
    assert said[1] == ["recording", "run 1 of 1"]


def test_a_case_leaves_the_shared_pipeline_as_it_found_it(ask):
    """Another scheduler, other noise and another dtype in between change nothing of a case that comes again."""
    found = []
    changed = {
        "scheduler": "{timestep_spacing: trailing}",
        "generator": "numpy",
        "call": "{num_inference_steps: 3}",
    }
    for changes in ({}, changed, {"cases": "{dtype: float64}"}, {}):
        recording = ask(**changes).recording
        found.append((recording.outputs, recording.stages, recording.content["inputs"]))
    assert found[3] == found[0]
    assert found[1] != found[0]
    assert found[2] != found[0]


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """A copy of a small synthetic checkpoint, to be changed."""
    return Path(shutil.copytree(DATA / "synthetic" / "unclip-small", tmp_path / "unclip-small"))


def load_synthetic(folder: Path) -> checkpoints.Checkpoint:
    return checkpoints.load(
        {"kind": "synthetic", "folder": str(folder)},
        "UnCLIPPipeline",
        {"default": "float32"},
        TORCH,
    )


def test_synthetic_weights_have_the_digests_that_are_written_beside_them(synthetic: Path):
    """They are made on every machine anew, and must be the same bits everywhere."""
    expected = json.loads((synthetic / "digests.json").read_text(encoding="utf-8"))
    weights = load_synthetic(synthetic).weights
    assert weights == {**expected, "configuration": weights["configuration"]}


@pytest.mark.parametrize("edit", [lambda digest: digest[::-1], lambda digest: None])
def test_synthetic_weights_with_other_digests_are_refused(edit, synthetic: Path):
    """A changed or missing digest names its component."""
    path = synthetic / "digests.json"
    digests = json.loads(path.read_text(encoding="utf-8"))
    digests["decoder"] = edit(digests["decoder"])
    path.write_text(json.dumps(digests), encoding="utf-8")
    with pytest.raises(
        CaseError, match=r"unclip-small: decoder have other digests than digests\.json says"
    ):
        load_synthetic(synthetic)


def test_a_changed_configuration_of_a_synthetic_checkpoint_makes_other_weights(synthetic: Path):
    """Another width gives another shape, which the digests notice."""
    path = synthetic / "text_proj" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "clip_extra_context_tokens": 2}), encoding="utf-8")
    with pytest.raises(CaseError, match="text_proj have other digests"):
        load_synthetic(synthetic)


@pytest.mark.filterwarnings(TORCH_DTYPE)
def test_a_folder_without_a_model_index_cannot_run_here(tmp_path: Path):
    """A path that exists on another machine only is no failure of the pipeline."""
    with pytest.raises(
        CannotRunHere,
        match=r"no checkpoint in .*: expected a folder in diffusers' format, with model_index.json",
    ):
        checkpoints.load(
            {"kind": "path", "folder": str(tmp_path)}, "DDIMPipeline", {"default": "float32"}, TORCH
        )


@pytest.mark.parametrize("name", ["DDIMPipelne", "torch", "os.system", "DDIMScheduler"])
def test_only_a_pipeline_of_diffusers_can_be_named(name: str):
    """No dotted path, no module, no other class."""
    with pytest.raises(CaseError, match=f"has no pipeline `{name}`"):
        checkpoints.named("pipeline", name)


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
