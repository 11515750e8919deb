"""Write the configurations of the synthetic checkpoints, and the digests of the weights that the worker makes for them.

    python training/make_synthetic.py            # all
    python training/make_synthetic.py unclip-small

A synthetic checkpoint is a folder in diffusers' format without weights. Architectures follow the published
configurations of google/ddpm-cifar10-32 and stable-diffusion-v1-5; the tokenizer is our own (letters only).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness.worker.observe.tensors import digest_digests
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.torch_ import Torch

SYNTHETIC = Path(__file__).resolve().parent.parent / "harness" / "data" / "synthetic"


def tokenizer(folder: Path, size: int, length: int) -> CLIPTokenizer:
    """Write a CLIP tokenizer that knows letters; its two special tokens are the last of `size` ids, as in CLIP."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = {
        token: index
        for index, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])
    }
    tokens |= {"<|startoftext|>": size - 2, "<|endoftext|>": size - 1}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def ddpm_cifar10(folder: Path) -> dict[str, Any]:
    unet = dict(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None, norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    )  # fmt: skip
    return {
        "_class_name": "DDPMPipeline",
        "unet": UNet2DModel(**unet),
        "scheduler": DDPMScheduler(variance_type="fixed_large"),
    }


def stable_diffusion(folder: Path) -> dict[str, Any]:
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    vae = dict(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
        block_out_channels=(128, 256, 512, 512), latent_channels=4, sample_size=512, scaling_factor=0.18215,
    )  # fmt: skip
    return {
        "_class_name": "StableDiffusionPipeline",
        "tokenizer": tokenizer(folder / "tokenizer", 49408, 77),
        "text_encoder": CLIPTextModel(text),
        "unet": UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        "vae": AutoencoderKL(**vae),
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=False,
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }


def unclip(folder: Path) -> dict[str, Any]:
    text = CLIPTextConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        projection_dim=32, max_position_embeddings=77, bos_token_id=998, eos_token_id=999, pad_token_id=999,
    )  # fmt: skip
    decoder = dict(
        sample_size=32, in_channels=3, out_channels=6, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        attention_head_dim=4, norm_num_groups=8, resnet_time_scale_shift="scale_shift", class_embed_type="identity",
    )  # fmt: skip
    upscaler = dict(
        sample_size=64, in_channels=6, out_channels=3, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D",) * 2, up_block_types=("ResnetUpsampleBlock2D",) * 2,
    )  # fmt: skip
    return {
        "_class_name": "UnCLIPPipeline",
        "prior": PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            embedding_dim=32,
            num_layers=2,
            num_embeddings=77,
        ),
        "decoder": UNet2DConditionModel(**decoder),
        "text_encoder": CLIPTextModelWithProjection(text),
        "tokenizer": tokenizer(folder / "tokenizer", 1000, 77),
        "text_proj": UnCLIPTextProjModel(
            clip_embeddings_dim=32, time_embed_dim=128, cross_attention_dim=64
        ),
        "super_res_first": UNet2DModel(**upscaler),
        "super_res_last": UNet2DModel(**upscaler),
        "prior_scheduler": UnCLIPScheduler(
            prediction_type="sample",
            num_train_timesteps=1000,
            variance_type="fixed_small_log",
            clip_sample_range=5.0,
        ),
        "decoder_scheduler": UnCLIPScheduler(
            prediction_type="epsilon", num_train_timesteps=1000, variance_type="learned_range"
        ),
        "super_res_scheduler": UnCLIPScheduler(
            prediction_type="epsilon", num_train_timesteps=1000, variance_type="fixed_small_log"
        ),
    }


RECIPES = {
    "ddpm-cifar10-32": ddpm_cifar10,
    "stable-diffusion-v1-5": stable_diffusion,
    "unclip-small": unclip,
}


def write(name: str) -> None:
    folder = SYNTHETIC / name
    shutil.rmtree(folder, ignore_errors=True)
    index: dict[str, Any] = {}
    for key, part in RECIPES[name](folder).items():
        if part is None or isinstance(part, (str, bool)):
            index[key] = [None, None] if part is None else part
            continue
        library = type(part).__module__.split(".")[0]
        index[key] = [library, type(part).__name__]
        if isinstance(part, UnCLIPTextProjModel):
            index[key][0] = "unclip"
        if isinstance(part, torch.nn.Module) and library == "transformers":
            part.config.save_pretrained(folder / key)
        elif isinstance(part, torch.nn.Module):
            part.save_config(folder / key)
        else:
            part.save_pretrained(folder / key)
    (folder / "model_index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    for extra in (folder / "tokenizer" / "vocab.json", folder / "tokenizer" / "merges.txt"):
        if (folder / "tokenizer" / "tokenizer.json").is_file():
            extra.unlink(missing_ok=True)
    pipeline = checkpoints.synthesize(
        folder,
        checkpoints.named("pipeline", index["_class_name"]),
        {"default": "float32"},
        Torch("cpu"),
    )
    weights = {
        name: digest_digests(state) for name, state in checkpoints.digest_states(pipeline).items()
    }
    (folder / "digests.json").write_text(json.dumps(weights, indent=1, sort_keys=True) + "\n")
    print(name, weights)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RECIPES:
        write(chosen)
