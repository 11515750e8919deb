"""What a scenario enables, and types and backends of its own: each takes effect, or is refused with its reason."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.records import Recording
from harness.scenario.model import DATA, read
from harness.store.baselines import Store
from harness.worker.conditions import determinism, numerics
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.enable import enable, place
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere, CaseError

TORCH = Torch("cpu")


@functools.cache
def loaded(**dtypes: str) -> Any:
    """A small pipeline with a text encoder, a denoiser and a VAE."""
    source = {"kind": "bundled", "folder": str(DATA / "bundled" / "digits-sd")}
    return checkpoints.load(
        source, "StableDiffusionPipeline", {"default": "float32", **dtypes}, TORCH
    ).pipeline


def test_one_component_can_have_a_type_of_its_own():
    """It is loaded in it, not converted afterwards; the others keep the case's."""
    pipeline = loaded(vae="bfloat16")
    assert (pipeline.vae.dtype, pipeline.unet.dtype) == (torch.bfloat16, torch.float32)


def test_a_type_for_a_component_that_is_not_there_is_refused():
    """Diffusers itself would ignore it."""
    with pytest.raises(
        CaseError, match=r"no component `vea` in .*digits-sd, .* did you mean `vae`"
    ):
        loaded(vea="bfloat16")


def test_what_runs_in_every_step_is_compiled(monkeypatch):
    """The denoiser; encoders and decoders run once."""
    pipeline, compiled = loaded(), []
    monkeypatch.setattr(torch, "compile", lambda part: compiled.append(part) or part)
    enable(pipeline, ["compile"])
    assert compiled == [pipeline.unet]


def test_memory_savers_take_effect():
    """Today's diffusers has those of the VAE on the VAE, older releases on the pipeline."""
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
    methods = {
        f"enable_{name}": lambda name=name: called.append(name)
        for name in ("tf32", "model_cpu_offload", "vae_tiling")
    }
    enable(SimpleNamespace(components={}, **methods), ["tf32", "model_cpu_offload", "vae_tiling"])
    assert called == ["vae_tiling"]


def test_a_saver_that_a_pipeline_lacks_is_an_error():
    """It must not run without it."""
    with pytest.raises(
        CaseError,
        match="`enable: vae_tiling` means nothing to SimpleNamespace in this release of diffusers",
    ):
        enable(SimpleNamespace(components={}), ["vae_tiling"])


def test_nothing_is_offloaded_from_the_cpu():
    """Such a case is not verified, with the reason."""
    with pytest.raises(
        CannotRunHere, match="`model_cpu_offload` moves parts between the CPU and another device"
    ):
        place(loaded(), ["model_cpu_offload"], torch.device("cpu"))


def test_one_attention_backend_is_chosen_in_either_mode():
    """It alone is on; in default mode nothing else is touched."""
    own = determinism.chosen("flash", tf32=False)
    before = determinism.effective()
    for mode in ("full", "default"):
        with determinism.settings(mode, own):
            now = determinism.effective()
        assert [name for name in determinism.BACKENDS if now[f"sdpa.{name}"]] == ["flash"]
        others = {name: value for name, value in now.items() if name not in own}
        assert (others == {name: before[name] for name in others}) == (mode == "default")
    assert determinism.effective() == before


def test_tf32_is_on_for_the_gpu_alone():
    """Matrix products and convolutions of CUDA; what the CPU's library rounds stays as it is."""
    with determinism.settings("full", determinism.chosen(None, tf32=True)):
        now = determinism.effective()
    assert {name for name, value in now.items() if value == "tf32"} == {
        "cuda.matmul.fp32_precision",
        "cudnn.conv.fp32_precision",
        "cudnn.rnn.fp32_precision",
    }


def test_a_component_s_type_is_part_of_the_numerics_class():
    """Machines that agree in float32 may differ in bfloat16."""
    classes = {dtype: TORCH.numerics_class(dtype) for dtype in ("float32", "bfloat16")}
    both = numerics.of_all(classes)
    assert numerics.of_all({"float32": classes["float32"]}) == classes["float32"]
    assert both["hash"] not in {one["hash"] for one in classes.values()}
    assert both["name"].startswith("cpu-")
    assert both["operators"]["bfloat16 bmm"] == classes["bfloat16"]["operators"]["bmm"]


def test_an_axis_makes_another_version_of_a_scenario_and_none_leaves_it(shop):
    """Baselines of scenarios without the keys keep fitting; each key makes those of others stale."""
    plain = read(shop.scenario()).fingerprint
    changes = ({"attention": "flash"}, {"component_dtype": "{unet: bfloat16}"}, {"enable": "tf32"})
    prints = [read(shop.scenario(**change)).fingerprint for change in changes]
    assert len({plain, *prints}) == 4
    assert plain == "8faccc0b6ea98d4a"


def test_another_backend_gives_other_bits_and_is_in_the_recording(shop):
    """Through the whole harness: flash attention in place of math."""
    changes = {
        "pipeline": "StableDiffusionPipeline",
        "checkpoint": "{bundled: digits-sd}",
        "call": "{prompt: a handwritten two, num_inference_steps: 1, output_type: latent}",
    }
    assert shop.harness("record", str(shop.scenario(**changes))).code == 0
    then = Store(shop.root / "baselines").read(shop.baseline()).recording
    shop.harness("run", str(shop.scenario(**changes, attention="flash")), "--out", "run")
    now = Recording.read(shop.root / "run" / "recordings" / "digits" / "cpu-float32")
    assert now.content["environment"]["flags"]["sdpa.flash"]
    assert now.outputs["image"]["digest"] != then.outputs["image"]["digest"]


@pytest.mark.slow
def test_a_compiled_denoiser_repeats_and_its_run_is_watched(take):
    """Compiling takes seconds to a minute; the result is watched as one piece, bit for bit as unwatched."""
    recording = take(enable="compile")
    assert recording.content["repeat"] == {
        "runs": 2,
        "distinct": 1,
        "l_inf": 0.0,
        "watched_as_plain": True,
    }
    assert recording.stages[0]["name"] == "unet#0"
    plain = take()
    assert recording.outputs["image"]["digest"] != plain.outputs["image"]["digest"]
