"""Components in place of a checkpoint's own: loaded by its rules, digested, refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from harness.scenario.weights import DATA
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere, CaseError

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

SD = DATA / "bundled" / "digits-sd"


def source(folder: Path, kind: str = "path", **more: str) -> dict[str, str]:
    """Return the request for a component."""
    names = {"kind": kind, "name": folder.name, "folder": str(folder)}
    return {**names, "class_name": "", "subfolder": "", **more}


def load(
    kind: str = "bundled",
    folder: Path = SD,
    pipeline: str = "StableDiffusionPipeline",
    dtypes: dict[str, str] | None = None,
    **components: Any,
) -> checkpoints.Checkpoint:
    """Load a pipeline with components in place of its own."""
    extras = checkpoints.Extras(components=components)
    checkpoint = {"kind": kind, "name": folder.name, "folder": str(folder)}
    types = dtypes or {"default": "float32"}
    return checkpoints.load(checkpoint, pipeline, types, Torch("cpu"), (), extras)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """Return the folder of a VAE with another last bias."""
    folder = Path(shutil.copytree(SD / "vae", tmp_path / "vae"))
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    weights["decoder.conv_out.bias"] += 0.5
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def test_another_vae_is_loaded_and_digested(vae: Path):
    """Its weights and its configuration are its own; everything else stays."""
    plain, other = load(), load(vae=[source(vae)])
    differing = {name for name in other.weights if other.weights[name] != plain.weights.get(name)}
    assert differing == {"vae", "vae.configuration", "configuration"}
    assert other.weights["unet"] == plain.weights["unet"]
    assert not other.pipeline.vae.training


def test_a_component_of_another_pipeline_is_found_by_its_name(tmp_path: Path):
    """Or by its folder, where it has another name there."""
    same = load(vae=[source(SD, "bundled")])
    assert same.weights["vae"] == load().weights["vae"]
    shutil.copytree(SD, tmp_path / "pipeline")
    (tmp_path / "pipeline" / "vae").rename(tmp_path / "pipeline" / "decoder")
    renamed = load(vae=[source(tmp_path / "pipeline", subfolder="decoder")])
    assert renamed.weights["vae"] == same.weights["vae"]


def test_every_kind_of_component_may_be_replaced():
    """A text encoder, a tokenizer and a scheduler are found by what their own files name."""
    parts = ("unet", "text_encoder", "tokenizer", "scheduler")
    sources = {name: [source(SD / name)] for name in parts}
    replaced = load(**sources).pipeline
    own = load().pipeline
    for name in parts:
        assert type(getattr(replaced, name)) is type(getattr(own, name))


def test_a_component_may_have_a_type_of_its_own(vae: Path):
    """`component-dtype` holds for it as for any other."""
    types = {"default": "float32", "vae": "float64"}
    assert str(load(dtypes=types, vae=[source(vae)]).pipeline.vae.dtype) == "torch.float64"


def test_a_component_is_made_of_numbers_where_it_is_synthetic():
    """In a pipeline of real weights too; the digests of the others are still checked."""
    small = DATA / "synthetic" / "ldm-small"
    mixed = load("synthetic", small, "LDMPipeline", unet=[source(small, "synthetic")])
    plain = load("synthetic", small, "LDMPipeline")
    assert mixed.weights["unet"] == plain.weights["unet"]


def test_a_component_may_be_left_out():
    """As guides do with the safety checker."""
    assert load(safety_checker=[]).pipeline.safety_checker is None


def test_several_components_come_as_a_list(tmp_path: Path):
    """As a pipeline takes several ControlNets; each is added to what the checkpoint has."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(SD / "unet")
    ControlNetModel.from_unet(unet, conditioning_channels=1).save_pretrained(tmp_path / "control")
    control = source(tmp_path / "control")
    name = "StableDiffusionControlNetPipeline"
    one = load(pipeline=name, controlnet=[control])
    assert type(one.pipeline.controlnet).__name__ == "ControlNetModel"
    two = load(pipeline=name, controlnet=[control, control])
    assert len(two.pipeline.controlnet.nets) == 2
    assert one.weights["controlnet"] != two.weights["controlnet"]


@pytest.mark.parametrize(
    ("components", "problem"),
    [
        ({"vea": [source(SD)]}, "StableDiffusionPipeline takes no `vea`; did you mean `vae`"),
        ({"colour": [source(SD)]}, "takes no `colour`; it takes vae, text_encoder, tokenizer"),
        (
            {"image_encoder": [source(SD, "bundled")]},
            "the pipeline in .*digits-sd has no such component; did you mean `text_encoder`",
        ),
        ({"vae": [source(SD / "vae", class_name="AutoencoderK")]}, "no class `AutoencoderK`"),
        ({"vae": [source(SD / "vae", class_name="DDIMPipeline")]}, "`DDIMPipeline` is a pipeline"),
    ],
)
def test_a_component_that_fits_nowhere_is_refused(components: dict[str, Any], problem: str):
    """With the nearest right spelling."""
    with pytest.raises(CaseError, match=problem):
        load(**components)


def test_a_component_that_is_not_here_cannot_run_here(tmp_path: Path):
    """A path that exists only on another machine is no failure of the pipeline."""
    with pytest.raises(CannotRunHere, match=r"`components\.vae`: no folder .*absent"):
        load(vae=[source(tmp_path / "absent")])


def test_a_component_without_safetensors_or_with_a_missing_weight_is_refused(vae: Path):
    """By the rules of a checkpoint's own components."""
    (path,) = vae.glob("*.safetensors")
    weights = load_file(path)
    del weights["decoder.conv_out.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CaseError, match=r"does not hold 1 weight \(decoder.conv_out.bias\)"):
        load(vae=[source(vae)])
    path.rename(vae / "diffusion_pytorch_model.bin")
    with pytest.raises(CaseError, match=r"`components\.vae`: .* cannot be loaded"):
        load(vae=[source(vae)])


def test_a_folder_that_names_no_class_says_so(vae: Path):
    """`class` names one then."""
    path = vae / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["_class_name"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CaseError, match=r"nothing in .* names its class"):
        load(vae=[source(vae)])
    named = load(vae=[source(vae, class_name="AutoencoderKL")])
    assert type(named.pipeline.vae).__name__ == "AutoencoderKL"
