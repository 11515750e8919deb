"""The scenario of a saved pipeline: what its configuration tells, what its call takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.scenario.first_call import FRAMES, PROMPT, STEPS, first_call
from harness.scenario.first_scenario import SCHEMA, first_scenario
from harness.scenario.reading import read
from harness.scenario.saved_pipeline import UNKNOWN_FRAME, Parameter, SavedPipeline, Size
from harness.scenario.weights import Checkpoint, CheckpointKind

VAE = {"block_out_channels": [32, 64, 64, 64]}  # eight pixels per latent
BUNDLED = Checkpoint(CheckpointKind.BUNDLED, "digits-sd")


def saved(*parameters: str | Parameter, **components: dict[str, object]) -> SavedPipeline:
    """Return a saved pipeline; a parameter that is given by its name is optional."""
    made = [each if isinstance(each, Parameter) else optional(each) for each in parameters]
    return SavedPipeline("StableDiffusionPipeline", "", components, tuple(made))


def optional(name: str, default: object = None) -> Parameter:
    return Parameter(name, required=False, default=default)


def required(name: str) -> Parameter:
    return Parameter(name, required=True, default=None)


def arguments(pipeline: SavedPipeline) -> dict[str, object]:
    return {each.name: each.value for each in first_call(pipeline).arguments}


SIZES = {
    "latents of a unet": ({"unet": {"sample_size": 64}, "vae": VAE}, Size(512, 512)),
    "pixels of a unet": ({"unet": {"sample_size": 16}}, Size(16, 16)),
    "latents with two sides": ({"unet": {"sample_size": [4, 6]}, "vae": VAE}, Size(32, 48)),
    "latents with frames": ({"transformer": {"sample_size": [5, 4, 6]}, "vae": VAE}, Size(32, 48)),
    "sides of their own": (
        {"transformer": {"sample_height": 60, "sample_width": 90}, "vae": VAE},
        Size(480, 720),
    ),
    "the autoencoder's own": ({"transformer": {}, "vae": {"sample_size": 1024}}, Size(1024, 1024)),
    "an autoencoder that says its ratio": (
        {"transformer": {"sample_size": 8}, "vae": {"spatial_compression_ratio": 32}},
        Size(256, 256),
    ),
    "none": ({"transformer": {}}, None),
    "no number": ({"unet": {"sample_size": "large"}}, None),
    "zero": ({"unet": {"sample_size": 0}}, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_size_is_read_from_the_configurations(name: str):
    """Of the denoiser's latents by the autoencoder's ratio, or else of the autoencoder."""
    components, size = SIZES[name]
    assert saved(**components).size == size


def test_a_call_has_what_the_pipeline_takes_and_little_else():
    """A prompt, the size, few steps, exact values; no optional argument that no rule names."""
    pipeline = saved(
        "prompt",
        "height",
        "width",
        optional("num_inference_steps", 50),
        optional("guidance_scale", 7.5),
        "negative_prompt",
        optional("output_type", "pil"),
        "ip_adapter_image",
        unet={"sample_size": 8},
        vae=VAE,
    )
    assert arguments(pipeline) == {
        "prompt": PROMPT,
        "height": 64,
        "width": 64,
        "num_inference_steps": STEPS,
        "output_type": "np",
    }


def test_images_and_masks_are_patterns_of_that_size():
    """Width comes before height, as Pillow has it."""
    pipeline = saved("image", "mask_image", unet={"sample_size": [4, 6]}, vae=VAE)
    assert arguments(pipeline) == {
        "image": {"pattern": {"size": [48, 32]}},
        "mask_image": {"pattern": {"size": [48, 32], "mode": "L"}},
    }


def test_videos_are_short_and_steps_are_few():
    """A default below the usual few steps stays, because some models know no more."""
    pipeline = saved(
        "video", optional("num_frames", 81), optional("num_inference_steps", 2), vae=VAE
    )
    found = arguments(pipeline)
    assert found["num_frames"] == FRAMES
    assert found["num_inference_steps"] == 2
    side = UNKNOWN_FRAME
    assert found["video"] == [{"pattern": {"size": [side, side]}}] * FRAMES


def test_what_only_some_pipelines_demand_is_given_only_there():
    """Embeddings are as wide as the denoiser takes them, and the two differ."""
    unet = {"encoder_hid_dim": 32}
    demanded = saved(required("image_embeds"), required("negative_image_embeds"), unet=unet)
    assert arguments(demanded) == {
        "image_embeds": {"noise": {"shape": [1, 32], "seed": 0}},
        "negative_image_embeds": {"noise": {"shape": [1, 32], "seed": 1}},
    }
    assert arguments(saved("image_embeds", unet=unet)) == {}


def test_an_argument_without_a_rule_is_named_in_the_call_and_in_the_file(tmp_path: Path):
    """Nothing is made up for it."""
    made = first_scenario(tmp_path / "x.yaml", saved(required("conditions")), BUNDLED)
    assert made.missing == ("conditions",)
    assert "  # conditions: the pipeline asks for this too; give it a value\n" in made.text


def test_an_output_type_that_rounds_nothing_is_left_alone():
    """`latent`, `pt` and `np` are exact already."""
    assert arguments(saved(optional("output_type", "latent"))) == {}


def test_the_text_is_a_scenario_that_teaches(tmp_path: Path):
    """It is read back with what was meant, and an editor finds its schema."""
    path = tmp_path / "seven.yaml"
    pipeline = saved("prompt", "image", optional("num_inference_steps", 50), vae=VAE)
    path.write_text(first_scenario(path, pipeline, BUNDLED).text, encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")
    assert "# `harness calibrate " in text
    scenario = read(path)
    assert scenario.pipeline == "StableDiffusionPipeline"
    assert str(scenario.checkpoint) == "bundled: digits-sd"
    assert scenario.seeds == (0,)
    assert scenario.call == arguments(pipeline)
    assert max(map(len, text.splitlines())) <= 100 + len(str(tmp_path))


NAMES = [
    "yes: no",
    "a #b",
    "2026-13-01",
    "no",
    "1e5",
    "it's",
    "ends ",
    "tab\tin",
    "{x}",
    "é",
    "- x",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_folder_can_change_what_the_text_means(name: str, tmp_path: Path):
    """Whatever needs quotes gets them."""
    folder = tmp_path / name
    folder.mkdir()
    path = tmp_path / "x.yaml"
    source = Checkpoint(CheckpointKind.PATH, name, str(folder))
    path.write_text(first_scenario(path, saved("prompt"), source).text, encoding="utf-8")
    assert read(path).checkpoint.folder == str(folder)


def test_a_repository_is_pinned_to_the_commit_that_was_seen(tmp_path: Path):
    """A branch would move under the baseline."""
    path = tmp_path / "x.yaml"
    source = Checkpoint(CheckpointKind.HUB, repository="org/name", revision="main")
    pipeline = SavedPipeline("DDIMPipeline", "1e5" + 37 * "0", {}, ())
    path.write_text(first_scenario(path, pipeline, source).text, encoding="utf-8")
    assert read(path).checkpoint.revision == "1e5" + 37 * "0"
