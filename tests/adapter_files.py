"""Small adapters for the bundled checkpoints, made of fixed numbers and saved as safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from harness.scenario.weights import DATA

SD = DATA / "bundled" / "digits-sd"
RANK = 2


def lora(path: Path, scale: float = 0.2, prefix: str = "unet", projection: str = "to_q") -> Path:
    """Write a LoRA for every self-attention of the U-Net of `digits-sd`.

    Args:
        path: Where it goes.
        scale: The size of what it adds; zero makes it add nothing.
        prefix: The component that its names begin with.
        projection: The layers that its names end with.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in sorted(_weights("unet").items()):
        if not name.endswith("attn1.to_q.weight"):
            continue
        stem = f"{prefix}.{name.removesuffix('to_q.weight')}{projection}"
        numbers = torch.arange(RANK * weight.shape[1]) % 7 - 3.0
        tensors[f"{stem}.lora_A.weight"] = (numbers / 7).reshape(RANK, -1)
        tensors[f"{stem}.lora_B.weight"] = torch.ones(weight.shape[0], RANK) * scale
    return _save(tensors, path)


def ip_adapter(path: Path, values: float = 0.1, width: int = 32, tokens: int = 4) -> Path:
    """Write an IP-Adapter for the U-Net of `digits-sd`, for image embeddings of `width` numbers."""
    weights = _weights("unet")
    cross = [name for name in sorted(weights) if name.endswith("attn2.to_k.weight")]
    text = weights[cross[0]].shape[1]
    numbers = torch.arange(tokens * text * width) % 11 - 5.0  # equal ones would be normed away
    tensors = {
        "image_proj.proj.weight": numbers.reshape(tokens * text, width) / width,
        "image_proj.proj.bias": torch.zeros(tokens * text),
        "image_proj.norm.weight": torch.ones(text),
        "image_proj.norm.bias": torch.linspace(-1, 1, text),
    }
    for index in range(len(cross)):
        shape = weights[_in_processors_order(cross)[index]].shape
        for kind in ("k", "v"):
            tensors[f"ip_adapter.{2 * index + 1}.to_{kind}_ip.weight"] = torch.full(shape, values)
    return _save(tensors, path)


def embedding(path: Path, value: float = 0.1, token: str = "<ink>") -> Path:  # noqa: S107
    """Write a textual inversion of one token for the text encoder of `digits-sd`."""
    width = _weights("text_encoder")["embeddings.token_embedding.weight"].shape[1]
    return _save({token: torch.full((1, width), value)}, path)


def _in_processors_order(names: list[str]) -> list[str]:
    """Return layers as diffusers numbers them: down, up, mid."""
    return sorted(names, key=lambda name: (("down", "up", "mid").index(name.split("_")[0]), name))


def _weights(component: str) -> dict[str, torch.Tensor]:
    (path,) = (SD / component).glob("*.safetensors")
    return load_file(path)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
