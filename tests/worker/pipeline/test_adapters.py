"""Adapters change what they are loaded into, are digested, or are an error that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapter_files
import builders
import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from harness.store.recording import Recording
from harness.worker.pipeline import adapters, checkpoints
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere, CaseError
from harness.worker.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

SOURCE = {"kind": "bundled", "name": "digits-sd", "folder": str(adapter_files.SD)}
WORD = "<ink>"
CALL = {"prompt": "a handwritten seven by <ink>"}


def load(*requests: dict[str, Any], name: str = "StableDiffusionPipeline") -> Any:
    """Load the pipeline of `digits-sd` with adapters."""
    extras = checkpoints.Extras(adapters=requests, call=CALL)
    return checkpoints.load(SOURCE, name, {"default": "float32"}, Torch("cpu"), (), extras)


def adapter(kind: str, path: Path, **settings: Any) -> dict[str, Any]:
    """Return the request for an adapter in a file or folder."""
    source = {"kind": "path", "name": path.name, "folder": str(path)}
    return {"kind": kind, "source": source, "settings": settings}


def noise_of(pipeline: Any) -> torch.Tensor:
    """Return what the U-Net makes of fixed inputs."""
    unet = pipeline.unet
    sample = torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, -1, 8, 8)
    width = unet.config.cross_attention_dim
    with torch.no_grad():
        return unet(sample[:, : unet.config.in_channels], 10, torch.ones(1, 4, width)).sample


def test_a_lora_acts_by_its_scale_and_is_digested(tmp_path: Path):
    """Scale 0 gives the bits of the checkpoint alone; the components keep their own digests."""
    path = adapter_files.lora(tmp_path / "ink.safetensors")
    plain = load()
    inked = load(adapter("lora", path, adapter="ink", scale=0.8))
    off = load(adapter("lora", tmp_path, adapter="ink", scale=0.0))
    assert not torch.equal(noise_of(inked.pipeline), noise_of(plain.pipeline))
    assert torch.equal(noise_of(off.pipeline), noise_of(plain.pipeline))
    assert {**plain.weights, "lora.ink": inked.weights["lora.ink"]} == inked.weights
    assert off.weights == inked.weights
    stronger = adapter_files.lora(tmp_path / "other" / "ink.safetensors", scale=0.3)
    other = load(adapter("lora", stronger, adapter="ink"))
    assert other.weights["lora.ink"] != inked.weights["lora.ink"]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_two_loras_act_together(tmp_path: Path):
    """Each by its own name and scale."""
    first = adapter("lora", adapter_files.lora(tmp_path / "a.safetensors"))
    second = adapter(
        "lora", adapter_files.lora(tmp_path / "b.safetensors", projection="to_v"), scale=0.5
    )
    both = load(first, second)
    assert {"lora.0", "lora.1"} < set(both.weights)
    assert not torch.equal(noise_of(both.pipeline), noise_of(load(first).pipeline))


def _zero(path: Path) -> Path:
    return adapter_files.lora(path, scale=0.0)


def _of_no_component(path: Path) -> Path:
    return adapter_files.lora(path, prefix="transformer")


def _of_no_layer(path: Path) -> Path:
    return adapter_files.lora(path, projection="to_nothing")


def _no_names_of_a_lora(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file({"unet.conv_in.weight": torch.ones(2)}, path)
    return path


def _damaged(path: Path) -> Path:
    path.write_bytes(b"no safetensors")
    return path


def _empty(path: Path) -> Path:
    save_file({}, path)
    return path


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_zero, r"has no effect: what it adds to each of its \d+ layers is zero"),
        (_of_no_component, r"of no component of StableDiffusionPipeline, whose names .* `unet\.`"),
        (_of_no_layer, r"cannot be loaded into StableDiffusionPipeline: .*to_nothing"),
        (_no_names_of_a_lora, r"cannot be loaded into StableDiffusionPipeline"),
        (_damaged, r"is no file of safetensors"),
        (_empty, r"holds no tensor"),
    ],
)
def test_a_lora_without_effect_is_an_error(
    make: Callable[[Path], Path], problem: str, tmp_path: Path
):
    """It says what was seen; the library itself would go on with the checkpoint alone."""
    with pytest.raises(CaseError, match=f"`lora`: .*{problem}"):
        load(adapter("lora", make(tmp_path / "ink.safetensors")))


def test_a_lora_of_which_a_part_matches_no_layer_is_an_error(tmp_path: Path):
    """diffusers leaves it out without a word."""
    from safetensors.torch import load_file

    path = adapter_files.lora(tmp_path / "ink.safetensors")
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("lora_A.weight"))
    tensors[name.replace(".0.", ".9.", 1)] = tensors[name].clone()
    save_file(tensors, path)
    problem = (
        r"`lora`: ink.safetensors has no effect in part: 1 of its \d+ tensors reached no layer"
    )
    with pytest.raises(CaseError, match=problem):
        load(adapter("lora", path))


def test_a_pipeline_without_a_text_or_adapters_refuses_them(tmp_path: Path):
    """It is said what the pipeline cannot load."""
    path = adapter_files.lora(tmp_path / "ink.safetensors")
    folder = adapter_files.DATA / "bundled" / "digits-ddpm"
    source = {"kind": "bundled", "name": "digits-ddpm", "folder": str(folder)}
    extras = checkpoints.Extras(adapters=[adapter("lora", path)])
    with pytest.raises(CaseError, match="`lora`: DDIMPipeline loads none"):
        checkpoints.load(source, "DDIMPipeline", {"default": "float32"}, Torch("cpu"), (), extras)


def test_without_peft_a_lora_cannot_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reason holds the command that installs it."""
    path = adapter_files.lora(tmp_path / "ink.safetensors")
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotRunHere, match=r"pip install 'diffusion-harness\[lora\]'"):
        load(adapter("lora", path))


def test_which_file_of_a_folder_is_meant_must_be_plain(tmp_path: Path):
    """One file is found; of several, one must be named; a pickle is none of them."""
    adapter_files.lora(tmp_path / "a.safetensors")
    adapter_files.lora(tmp_path / "b.safetensors")
    (tmp_path / "c.bin").write_bytes(b"a pickle")
    with pytest.raises(CaseError, match=r"found a.safetensors, b.safetensors; `weight_name`"):
        load(adapter("lora", tmp_path))
    with pytest.raises(CaseError, match=r"c.bin is no file .safetensors"):
        load(adapter("lora", tmp_path / "c.bin"))
    with pytest.raises(CannotRunHere, match=r"no file .*absent\.safetensors"):
        load(adapter("lora", tmp_path / "absent.safetensors"))
    assert "lora.0" in load(adapter("lora", tmp_path, weight_name="b.safetensors")).weights


def test_an_ip_adapter_acts_and_is_digested(tmp_path: Path):
    """Its layers are in every cross-attention."""
    path = adapter_files.ip_adapter(tmp_path / "ip.safetensors")
    loaded = load(adapter("ip-adapter", path, scale=0.5))
    assert "ip-adapter.0" in loaded.weights
    scales = {
        scale
        for processor in loaded.pipeline.unet.attn_processors.values()
        for scale in getattr(processor, "scale", [])
    }
    assert scales == {0.5}


def _without_keys(path: Path) -> Path:
    save_file({"something.else": torch.ones(1)}, path)
    return path


def _ip_of_zeros(path: Path) -> Path:
    return adapter_files.ip_adapter(path, values=0.0)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_without_keys, "has no effect: none of its 1 tensor .* begins with `image_proj.`"),
        (_ip_of_zeros, "has no effect: its values are zero in each of"),
        (adapter_files.lora, "has no effect: none of its"),
    ],
)
def test_an_ip_adapter_without_effect_is_an_error(
    make: Callable[[Path], Path], problem: str, tmp_path: Path
):
    """diffusers leaves out the names that it does not know."""
    with pytest.raises(CaseError, match=f"`ip-adapter`: ip.safetensors {problem}"):
        load(adapter("ip-adapter", make(tmp_path / "ip.safetensors")))


def test_an_embedding_of_a_token_acts_and_is_digested(tmp_path: Path):
    """The tokenizer knows the token afterwards, and another file has another digest."""
    path = adapter_files.embedding(tmp_path / "a" / "ink.safetensors")
    loaded = load(adapter("textual-inversion", path, token=WORD))
    assert "<ink>" in loaded.pipeline.tokenizer.get_vocab()
    other = adapter_files.embedding(tmp_path / "b" / "ink.safetensors", value=0.2)
    again = load(adapter("textual-inversion", other, token=WORD))
    key = "textual-inversion.<ink>"
    assert loaded.weights[key] != again.weights[key]


@pytest.mark.parametrize(
    ("value", "token", "problem"),
    [
        (0.0, "<ink>", "its embedding of <ink> is zero"),
        (0.1, "<pen>", "no text of `call` holds its token <pen>"),
    ],
)
def test_an_embedding_without_effect_is_an_error(
    value: float, token: str, problem: str, tmp_path: Path
):
    """Also where the prompt never says its token."""
    path = adapter_files.embedding(tmp_path / "ink.safetensors", value, token)
    with pytest.raises(CaseError, match=f"ink.safetensors has no effect: {problem}"):
        load(adapter("textual-inversion", path, token=token))


# In a run.


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Recording]:
    """Record two steps of `digits-sd` with adapters and other changes to the request."""
    recorder = Recorder(lambda *_, **__: None)

    def record(*requests: dict[str, Any], call: dict[str, Any] = {}, **changes: Any) -> Recording:  # noqa: B006 (it is not changed)
        request: Any = {
            **builders.case(pipeline="StableDiffusionPipeline").request(),
            "checkpoint": SOURCE,
            "call": {**CALL, "num_inference_steps": 2, "output_type": "np", **call},
            "inputs_folder": str(tmp_path),
            "adapters": list(requests),
            "rounds": 1,
            **changes,
        }
        recorder.record(request, tmp_path / "recording")
        return Recording.read(tmp_path / "recording")

    return record


def image_of(recording: Recording) -> str:
    """Return the digest of the image."""
    return recording.output_digests["image"]


@pytest.mark.parametrize(
    ("settings", "then", "seen", "equals"),
    [
        ({"scale": 0.5}, [], "4 layers with it at scale 0.5, called 8 times", None),
        ({"scale": 0.0}, [], "4 layers with it at scale 0, called 8 times", "plain"),
        ({}, ["fuse"], "4 layers with it at scale 1, called 8 times; fused into 4", None),
        ({}, ["fuse", "unfuse"], "4 layers with it at scale 1, called 8 times; fused into 0", None),
        ({}, ["unload"], "0 layers with it after it was unloaded", "plain"),
    ],
    ids=["on", "off", "fused", "taken-out-again", "unloaded"],
)
def test_a_recording_says_what_was_seen_of_a_lora(
    settings: Any, then: list[str], seen: str, equals: str | None, tmp_path: Path, recorded
):
    """At scale 0, and unloaded, it leaves the bits of the checkpoint alone."""
    path = adapter_files.lora(tmp_path / "ink.safetensors")
    recording = recorded(adapter("lora", path, adapter="ink", **settings), lora_then=then)
    (effect,) = recording.effects
    assert effect.asked == ", then ".join(["lora: ink", *then])
    assert (effect.seen, effect.took_effect) == (seen, True)
    assert (image_of(recorded()) == image_of(recording)) is (equals == "plain")


def test_a_lora_that_does_not_leave_when_it_is_unloaded_had_no_effect(
    tmp_path: Path, recorded, monkeypatch: pytest.MonkeyPatch
):
    """What was asked for is looked for, and not believed."""
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "unload_lora_weights", lambda _: None)
    path = adapter_files.lora(tmp_path / "ink.safetensors")
    (effect,) = recorded(adapter("lora", path), lora_then=["unload"]).effects
    assert effect.seen == "4 layers with it after it was unloaded"
    assert not effect.took_effect


def test_a_lora_that_is_not_fused_is_an_error(
    tmp_path: Path, recorded, monkeypatch: pytest.MonkeyPatch
):
    """diffusers skips layers that peft does not know how to fuse."""
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "fuse_lora", lambda *_, **__: None)
    path = adapter_files.lora(tmp_path / "ink.safetensors")
    with pytest.raises(CaseError, match="was not fused into 4 layers"):
        recorded(adapter("lora", path), lora_then=["fuse"])


def test_a_recording_says_how_often_a_token_was_embedded(tmp_path: Path, recorded):
    """The prompt holds it once; it is encoded once."""
    path = adapter_files.embedding(tmp_path / "ink.safetensors")
    (effect,) = recorded(adapter("textual-inversion", path, token=WORD)).effects
    assert (effect.asked, effect.seen) == (f"textual-inversion: {WORD}", "1 token of it embedded")
    assert effect.took_effect


@pytest.fixture
def image_encoder(tmp_path: Path) -> dict[str, Any]:
    """Save a small image encoder with its processor, and return them as components of a case."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=32,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "vision" / "image_encoder")
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessor(**sizes).save_pretrained(tmp_path / "vision" / "feature_extractor")
    return {name: [_part(tmp_path, name)] for name in ("image_encoder", "feature_extractor")}


def _part(folder: Path, name: str) -> dict[str, str]:
    classes = {
        "image_encoder": "CLIPVisionModelWithProjection",
        "feature_extractor": "CLIPImageProcessor",
    }
    home = str(folder / "vision" / name)
    source = {"kind": "path", "name": name, "folder": home}
    return {**source, "class_name": classes[name], "subfolder": ""}


def test_an_ip_adapter_runs_from_an_image_to_an_image(
    tmp_path: Path, recorded, image_encoder: dict[str, Any]
):
    """It repeats, its effect is seen, another image gives another, and at scale 0 none matters."""
    for name, level in (("dark", 40), ("light", 220)):
        Image.new("RGB", (16, 16), (level, 90, 255 - level)).save(tmp_path / f"{name}.png")
    path = adapter_files.ip_adapter(tmp_path / "ip.safetensors")

    def by(name: str, scale: float) -> Recording:
        asked = adapter("ip-adapter", path, scale=scale)
        call = {"ip_adapter_image": {"image": f"{name}.png"}}
        return recorded(asked, call=call, components=image_encoder)

    first = by("dark", 0.8)
    (effect,) = first.effects
    assert effect.asked == "ip-adapter: 0"
    assert effect.seen == "4 layers of attention with it, called 8 times"
    assert effect.took_effect
    assert [record.name for record in first.inputs.arguments] == ["image#0"]
    assert "image_encoder#0" in [stage.name for stage in first.stages]
    assert image_of(by("dark", 0.8)) == image_of(first)
    assert image_of(by("light", 0.8)) != image_of(first)
    assert image_of(by("light", 0.0)) == image_of(by("dark", 0.0))
