"""Writes the configurations of the synthetic checkpoints, and the digests that their weights have.

A synthetic checkpoint is a folder in the format of diffusers without weights, which the worker
makes. The architectures are those of the published configurations of google/ddpm-cifar10-32 and
stable-diffusion-v1-5, a small UnCLIP and a small LTX-Video; the tokenizers are our own and know
letters only.

    python training/make_synthetic.py                   # all; the largest needs 5 GiB of memory
    python training/make_synthetic.py unclip-small      # one of them

It takes about a minute.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXVideoTransformer3DModel,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from harness.worker.observe.tensors import digest_digests
from harness.worker.pipeline.checkpoints import digest_states
from harness.worker.pipeline.library import pipeline_class
from harness.worker.pipeline.synthetic import synthesize
from harness.worker.pipeline.torch_ import Torch

SYNTHETIC = Path(__file__).resolve().parent.parent / "harness" / "data" / "synthetic"

# What `model_index.json` says of a pipeline: its class, its components, and its own settings.
Parts = dict[str, Any]


def make_tokenizer(folder: Path, size: int, length: int) -> CLIPTokenizer:
    """Write a CLIP tokenizer that knows letters.

    Args:
        folder: Where to write it.
        size: The size of its vocabulary; its two special tokens are the last, as in CLIP.
        length: The number of tokens of a prompt.
    """
    letters = [chr(code) for code in range(33, 127)]
    names = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens = {token: index for index, token in enumerate(names)}
    tokens |= {"<|startoftext|>": size - 2, "<|endoftext|>": size - 1}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def make_t5_tokenizer(words: list[str], length: int) -> T5TokenizerFast:
    """Return a T5 tokenizer that knows letters and some words.

    Args:
        words: Each of them is one token.
        length: The number of tokens of a prompt.
    """
    costs = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    costs |= {f"▁{word}": -1.0 for word in words}  # less than what their letters cost
    costs |= {"▁": -3.0} | dict.fromkeys("abcdefghijklmnopqrstuvwxyz", -4.0)
    tokenizer = Tokenizer(models.Unigram(list(costs.items()), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106 (a token of the vocabulary)
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        extra_ids=0,
        model_max_length=length,
    )


def ddpm_cifar10(_folder: Path) -> Parts:
    """Return the parts of google/ddpm-cifar10-32."""
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    return {
        "_class_name": "DDPMPipeline",
        "unet": unet,
        "scheduler": DDPMScheduler(variance_type="fixed_large"),
    }


def stable_diffusion(folder: Path) -> Parts:
    """Return the parts of stable-diffusion-v1-5; the tokenizer is written into `folder`."""
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return {
        "_class_name": "StableDiffusionPipeline",
        "tokenizer": make_tokenizer(folder / "tokenizer", 49408, 77),
        "text_encoder": CLIPTextModel(text),
        "unet": UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            block_out_channels=(128, 256, 512, 512),
            latent_channels=4,
            sample_size=512,
            scaling_factor=0.18215,
        ),
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


def unclip(folder: Path) -> Parts:
    """Return the parts of a small UnCLIP; the tokenizer is written into `folder`."""
    return {
        "_class_name": "UnCLIPPipeline",
        "prior": PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            embedding_dim=32,
            num_layers=2,
            num_embeddings=77,
        ),
        "decoder": _unclip_decoder(),
        "text_encoder": _unclip_text_encoder(),
        "tokenizer": make_tokenizer(folder / "tokenizer", 1000, 77),
        "text_proj": UnCLIPTextProjModel(
            clip_embeddings_dim=32, time_embed_dim=128, cross_attention_dim=64
        ),
        "super_res_first": _unclip_upscaler(),
        "super_res_last": _unclip_upscaler(),
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


def _unclip_text_encoder() -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
        max_position_embeddings=77,
        bos_token_id=998,
        eos_token_id=999,
        pad_token_id=999,
    )
    return CLIPTextModelWithProjection(config)


def _unclip_decoder() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=3,
        out_channels=6,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        attention_head_dim=4,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )


def _unclip_upscaler() -> UNet2DModel:
    return UNet2DModel(
        sample_size=64,
        in_channels=6,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
    )


def ltx(_folder: Path) -> Parts:
    """Return the parts of a small LTX-Video: latents of 8 channels, a quarter in each direction."""
    tokenizer = make_t5_tokenizer([], 32)
    text = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
    )
    widths = (32, 32, 32, 32)
    scaling = (True, True, False, False)
    return {
        "_class_name": "LTXPipeline",
        "tokenizer": tokenizer,
        "text_encoder": T5EncoderModel(text),
        "transformer": LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=16,
            cross_attention_dim=64,
            num_layers=3,
            caption_channels=32,
        ),
        "vae": AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=widths,
            decoder_block_out_channels=widths,
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
            spatio_temporal_scaling=scaling,
            decoder_spatio_temporal_scaling=scaling,
            patch_size=1,
            patch_size_t=1,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


RECIPES: dict[str, Callable[[Path], Parts]] = {
    "ddpm-cifar10-32": ddpm_cifar10,
    "stable-diffusion-v1-5": stable_diffusion,
    "unclip-small": unclip,
    "ltx-small": ltx,
}


def write(name: str) -> None:
    """Replace a synthetic checkpoint by one that is made anew, and print its digests."""
    folder = SYNTHETIC / name
    shutil.rmtree(folder, ignore_errors=True)
    index = {
        part: _write_part(folder / part, value) for part, value in RECIPES[name](folder).items()
    }
    _write_json(folder / "model_index.json", index)
    _remove_spare_vocabulary(folder / "tokenizer")
    found_class = pipeline_class(index["_class_name"])
    pipeline = synthesize(folder, found_class, {"default": "float32"}, Torch("cpu"))
    digests = {part: digest_digests(state) for part, state in digest_states(pipeline).items()}
    _write_json(folder / "digests.json", digests)
    print(name, digests)


def _write_part(folder: Path, value: Any) -> Any:
    """Write a component without weights, and return what `model_index.json` says of it."""
    if value is None:
        return [None, None]
    if isinstance(value, str | bool):
        return value
    library = type(value).__module__.split(".")[0]
    if isinstance(value, torch.nn.Module) and library == "transformers":
        value.config.save_pretrained(folder)
    elif isinstance(value, torch.nn.Module):
        value.save_config(folder)
    else:
        value.save_pretrained(folder)
    if isinstance(value, UnCLIPTextProjModel):
        library = "unclip"
    return [library, type(value).__name__]


def _remove_spare_vocabulary(folder: Path) -> None:
    """Remove the files that a newer tokenizer has in one file, `tokenizer.json`."""
    if (folder / "tokenizer.json").is_file():
        (folder / "vocab.json").unlink(missing_ok=True)
        (folder / "merges.txt").unlink(missing_ok=True)


def _write_json(path: Path, content: Parts) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RECIPES:
        write(chosen)
