"""Adapters change what they are loaded into, are digested, or are an error that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapter_files
import pytest
import torch
from safetensors.torch import save_file

from harness.worker.pipeline import adapters, checkpoints
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere, CaseError

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
