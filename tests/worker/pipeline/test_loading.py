"""Weights that no file holds are refused by name, whichever way the library would make them up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness.scenario.weights import DATA
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.loading import complete_weights
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CaseError

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch_dtype` is deprecated:FutureWarning",
)

SOURCE = DATA / "bundled" / "digits-sd"
Weights = dict[str, object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of a checkpoint, to be changed."""
    return Path(shutil.copytree(SOURCE, tmp_path / "checkpoint"))


def load(folder: Path) -> checkpoints.Checkpoint:
    source = {"kind": "path", "name": "checkpoint", "folder": str(folder)}
    return checkpoints.load(source, "StableDiffusionPipeline", {"default": "float32"}, Torch("cpu"))


def change(folder: Path, component: str, edit: Callable[[Weights], object]) -> None:
    """Change the weights of a component on the disk."""
    (path,) = (folder / component).glob("*.safetensors")
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_list_of_numbers_in_an_index_is_a_setting_and_no_component(folder: Path):
    """As Krea2's layers of its text encoder; a list that names code is refused."""
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**content, "select_layers": [0, 1, 2]}), encoding="utf-8")
    assert load(folder).pipeline.components["unet"] is not None
    index.write_text(json.dumps({**content, "select_layers": ["evil", 1]}), encoding="utf-8")
    with pytest.raises(CaseError, match="asks for code that is no part of the libraries"):
        load(folder)


def remove_a_bias(weights: Weights) -> None:
    del weights[next(name for name in sorted(weights) if name.endswith("bias"))]


@pytest.mark.parametrize(
    ("component", "name", "library"),
    [
        ("unet", "conv_in.bias", "diffusers"),
        ("vae", "decoder.conv_in.bias", "diffusers"),
        ("text_encoder", "encoder.layers.0.layer_norm1.bias", "transformers"),
    ],
)
def test_one_missing_weight_is_refused_by_name(
    component: str, name: str, library: str, folder: Path
):
    """diffusers logs a warning and transformers a table; both go on with random numbers."""
    change(folder, component, remove_a_bias)
    problem = rf"{component} does not hold 1 weight \({name}\) .* release of {library} would make"
    with pytest.raises(CaseError, match=problem):
        load(folder)


def test_weights_under_names_of_another_release_are_refused(folder: Path):
    """As transformers before 5.6 finds no name that it knows in the bundled text encoder."""

    def rename(weights: Weights) -> None:
        for name in list(weights):
            weights[f"text_model_of_before.{name}"] = weights.pop(name)

    change(folder, "text_encoder", rename)
    problem = r"36 weights .* it holds 36 names \(text_model_of_before\..* does not know"
    with pytest.raises(CaseError, match=problem):
        load(folder)


def test_weights_of_another_shape_are_refused(folder: Path):
    """The library's own error says so."""

    def double(weights: Weights) -> None:
        weights["conv_in.bias"] = weights["conv_in.bias"].repeat(2)

    change(folder, "unet", double)
    with pytest.raises(ValueError, match=r"conv_in\.bias expected shape"):
        load(folder)


def test_a_denoiser_that_was_saved_with_an_adapter_active_is_refused(folder: Path):
    """Its own layers lie under other names, and would start from random numbers."""

    def wrap(weights: Weights) -> None:
        name = next(name for name in sorted(weights) if name.endswith("attn1.to_q.weight"))
        stem = name.removesuffix("weight")
        weights[f"{stem}base_layer.weight"] = weights.pop(name)
        weights[f"{stem}lora_A.ink.weight"] = weights[f"{stem}base_layer.weight"][:2].clone()

    change(folder, "unet", wrap)
    with pytest.raises(CaseError, match=r"to_q\.weight.* saved with adapters active: save it wit"):
        load(folder)


def test_a_text_encoder_that_was_saved_with_an_adapter_active_is_refused(folder: Path):
    """transformers saves the adapter alone, and would look for the weights elsewhere."""
    (folder / "text_encoder" / "adapter_config.json").write_text("{}", encoding="utf-8")
    problem = r"text_encoder holds an adapter of CLIPTextModel and no weights of its own"
    with pytest.raises(CaseError, match=problem):
        load(folder)


def test_the_libraries_are_left_as_they_were_found(folder: Path):
    """Also after an error, and a caller that asks for the findings itself still gets them."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.modeling_utils import ModelMixin

    own = vars(ModelMixin)["from_pretrained"]
    with complete_weights("diffusers") as whole:
        unet, findings = UNet2DConditionModel.from_pretrained(
            folder / "unet", output_loading_info=True
        )
    assert whole == [unet]
    assert findings["missing_keys"] == []
    change(folder, "unet", remove_a_bias)
    with pytest.raises(CaseError):
        load(folder)
    assert vars(ModelMixin)["from_pretrained"] is own
