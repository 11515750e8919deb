"""What a scenario enables, and types and backends of its own: it takes effect or is refused."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.scenario.reading import read
from harness.scenario.weights import DATA
from harness.store.baselines import Store
from harness.store.recording import Recording, Repeat
from harness.worker.conditions import compiler, determinism, numerics
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.enable import enable, place
from harness.worker.pipeline.executions.compilation import compilations_of
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere, CaseError

TORCH = Torch("cpu")


@functools.cache
def loaded(**dtypes: str) -> Any:
    """Return a small pipeline with a text encoder, a denoiser and a VAE."""
    source = {"kind": "bundled", "folder": str(DATA / "bundled" / "digits-sd")}
    types = {"default": "float32", **dtypes}
    return checkpoints.load(source, "StableDiffusionPipeline", types, TORCH).pipeline


def test_one_component_can_have_a_type_of_its_own():
    """It is loaded in that type, not converted afterwards; the others keep the case's."""
    pipeline = loaded(vae="bfloat16")
    assert (pipeline.vae.dtype, pipeline.unet.dtype) == (torch.bfloat16, torch.float32)


def test_a_type_for_a_component_that_is_not_there_is_refused():
    """diffusers itself would ignore it."""
    with pytest.raises(
        CaseError, match=r"no component `vea` in .*digits-sd, .* did you mean `vae`"
    ):
        loaded(vea="bfloat16")


def test_what_runs_in_every_step_is_compiled(monkeypatch):
    """That is the denoiser; encoders and decoders run once."""
    pipeline, compiled = loaded(), []
    monkeypatch.setattr(torch, "compile", lambda part: compiled.append(part) or part)
    monkeypatch.setattr(compiler, "missing", lambda _: "")
    (found,) = compilations_of(pipeline, {}, torch.device("cpu"))
    found.apply()
    found.undo()
    assert compiled == [pipeline.unet]


def test_memory_savers_take_effect():
    """Newer releases of diffusers have those of the VAE on the VAE, older ones on the pipeline."""
    pipeline = loaded()
    assert (pipeline.vae.use_tiling, pipeline.vae.use_slicing) == (False, False)
    try:
        enable(pipeline, ["attention_slicing", "vae_tiling", "vae_slicing"])
        assert (pipeline.vae.use_tiling, pipeline.vae.use_slicing) == (True, True)
    finally:
        pipeline.vae.disable_tiling()
        pipeline.vae.disable_slicing()
        pipeline.disable_attention_slicing()


def test_only_the_pipeline_s_own_savers_are_called_on_it():
    """A switch of torch is no method of it, and offloading waits for a device."""
    called: list[str] = []
    names = ["tf32", "model_cpu_offload", "vae_tiling"]
    methods = {f"enable_{name}": functools.partial(called.append, name) for name in names}
    enable(SimpleNamespace(components={}, **methods), names)
    assert called == ["vae_tiling"]


def test_a_saver_that_a_pipeline_lacks_is_an_error():
    """The case must not run without it."""
    with pytest.raises(
        CaseError,
        match="`enable: vae_tiling` means nothing to SimpleNamespace in this release of diffusers",
    ):
        enable(SimpleNamespace(components={}), ["vae_tiling"])


def test_a_pipeline_with_3d_convolutions_has_no_channels_last():
    """It says which component; those before it stay as they are."""
    image, video = torch.nn.Conv2d(2, 2, 3), torch.nn.Conv3d(2, 2, 3)
    pipeline = SimpleNamespace(components={"image": image, "video": video})
    with pytest.raises(
        CaseError, match="`enable: channels_last` does not apply: `video` has 3-D convolutions"
    ):
        enable(pipeline, ["channels_last"])
    assert image.weight.is_contiguous()


def test_weights_are_laid_out_in_channels_last():
    """Of convolutions in two dimensions."""
    image = torch.nn.Conv2d(2, 2, 3)
    enable(SimpleNamespace(components={"image": image}), ["channels_last"])
    assert image.weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_offloaded_from_the_cpu():
    """Such a case is unverified, and says why."""
    with pytest.raises(
        CannotRunHere, match="`model_cpu_offload` moves parts between the CPU and another device"
    ):
        place(loaded(), ["model_cpu_offload"], torch.device("cpu"))


def test_one_attention_backend_is_chosen_in_either_mode():
    """It alone is on; in default mode no other switch is touched."""
    own = determinism.chosen("flash", tf32=False)
    before = determinism.effective()
    for mode in ("full", "default"):
        with determinism.settings(mode, own):
            found = determinism.effective()
        assert [name for name in determinism.BACKENDS if found[f"sdpa.{name}"]] == ["flash"]
        others = {name: value for name, value in found.items() if name not in own}
        assert (others == {name: before[name] for name in others}) == (mode == "default")
    assert determinism.effective() == before


def test_tf32_is_on_for_the_gpu_alone():
    """Its matrix products and convolutions round; those of the CPU stay as they are."""
    with determinism.settings("full", determinism.chosen(None, tf32=True)):
        found = determinism.effective()
    assert {name for name, value in found.items() if value == "tf32"} == {
        "cuda.matmul.fp32_precision",
        "cudnn.conv.fp32_precision",
        "cudnn.rnn.fp32_precision",
    }


def test_a_component_s_type_is_part_of_the_numerics_class():
    """Machines that agree in float32 may differ in bfloat16."""
    classes = {dtype: TORCH.numerics_class(dtype) for dtype in ("float32", "bfloat16")}
    both = numerics.combine_classes(classes)
    assert numerics.combine_classes({"float32": classes["float32"]}) == classes["float32"]
    assert both["hash"] not in {one["hash"] for one in classes.values()}
    assert both["name"].startswith("cpu-")
    assert both["operators"]["bfloat16 bmm"] == classes["bfloat16"]["operators"]["bmm"]


def test_an_axis_makes_another_version_of_a_scenario_and_none_leaves_it(shop):
    """A scenario without these keys keeps its fingerprint; each key changes it."""
    plain = read(shop.scenario()).fingerprint
    changes = ({"attention": "flash"}, {"component_dtype": "{unet: bfloat16}"}, {"enable": "tf32"})
    prints = [read(shop.scenario(**change)).fingerprint for change in changes]
    assert len({plain, *prints}) == 4
    assert plain == "8faccc0b6ea98d4a"


def test_another_backend_gives_other_bits_and_is_in_the_recording(shop):
    """Here flash attention takes the place of math, through the whole harness."""
    changes = {
        "pipeline": "StableDiffusionPipeline",
        "checkpoint": "{bundled: digits-sd}",
        "call": "{prompt: a handwritten two, num_inference_steps: 1, output_type: latent}",
    }
    assert shop.harness("record", str(shop.scenario(**changes))).code == 0
    expected = Store(shop.root / "baselines").read(shop.baseline())
    shop.harness("run", str(shop.scenario(**changes, attention="flash")), "--out", "run")
    actual = Recording.read(shop.root / "run" / "recordings" / "digits" / "cpu-float32")
    assert actual.environment.flags["sdpa.flash"]
    assert actual.output_digests != expected.output_digests


@pytest.mark.slow
def test_a_compiled_denoiser_repeats_and_its_run_is_observed(take):
    """The compiled result is observed as one piece, and observing it changes no bit.

    Compiling takes seconds to a minute.
    """
    recording = take(enable="compile")
    repeat = Repeat(runs=2, distinct=1, l_inf=0.0, instrumented_equals_plain=True)
    assert recording.repeat == repeat
    assert recording.stages[0].name == "unet#0"
    assert recording.output_digests != take().output_digests
