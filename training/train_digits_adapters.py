"""Trains what goes onto the bundled `digits-sd`: a ControlNet and a LoRA; on the CPU.

    python training/train_digits_adapters.py controlnet    # digits-controlnet: 6 minutes
    python training/train_digits_adapters.py lora          # digits-lora-bold: 6 minutes
    python training/train_digits_adapters.py check         # the pictures of docs/checkpoints.md

The ControlNet follows a silhouette: where it is white, the digit is to be. The LoRA draws digits
with bold strokes.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from train_digits import (
    BUNDLED,
    SEED,
    TEMPLATES,
    TRAIN_TIMESTEPS,
    UNCONDITIONAL_SHARE,
    WORDS,
    count_parameters,
    digits,
    fit,
    save_picture,
    side_by_side,
    token_ids,
)

BASE = BUNDLED / "digits-sd"
CONTROLNET = BUNDLED / "digits-controlnet"
LORA = BUNDLED / "digits-lora-bold"
LORA_RANK = 4
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
NEUTRAL_PROMPT = "a handwritten digit"
BRIGHT = -0.3  # pixels above it, in [-1, 1], belong to the silhouette


def silhouettes(images: torch.Tensor) -> torch.Tensor:
    """Return where digits are, shape (n, 3, 16, 16), float32 of 0 and 1.

    Args:
        images: Shape (n, 1, 16, 16), in [-1, 1].
    """
    return (images > BRIGHT).float().repeat(1, 3, 1, 1)


def bold(images: torch.Tensor) -> torch.Tensor:
    """Return images, shape (n, 1, 16, 16), with each stroke one pixel wider on each side."""
    return F.max_pool2d(images, kernel_size=3, stride=1, padding=1)


def base_pipeline() -> StableDiffusionPipeline:
    """Return `digits-sd`, frozen."""
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    return pipeline


class Batches:
    """Makes what a denoiser is trained on: noisy latents, timesteps, hidden states of prompts.

    Args:
        pipeline: `digits-sd`.
        images: What to draw, shape (n, 1, 16, 16), in [-1, 1].
        labels: The digits, shape (n,).
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        prompts = [each.format(word) for word in WORDS for each in TEMPLATES] + [""]
        tokens = torch.tensor([token_ids(pipeline.tokenizer, prompt) for prompt in prompts])
        vae = pipeline.vae
        with torch.no_grad():
            self._hidden = pipeline.text_encoder(tokens)[0]
            self._latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
        self._labels = labels
        self._scheduler = pipeline.scheduler

    def make(
        self, index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return noisy latents, timesteps, hidden states and the noise of the samples `index`."""
        count = len(index)
        template = torch.randint(0, len(TEMPLATES), (count,))
        is_empty = torch.rand(count) < UNCONDITIONAL_SHARE
        prompt = self._labels[index] * len(TEMPLATES) + template
        hidden = self._hidden[torch.where(is_empty, len(self._hidden) - 1, prompt)]
        noise = torch.randn_like(self._latents[index])
        timesteps = torch.randint(0, TRAIN_TIMESTEPS, (count,))
        noisy = self._scheduler.add_noise(self._latents[index], noise, timesteps)
        return noisy, timesteps, hidden, noise


def train_controlnet(steps: int) -> None:
    """Train a ControlNet that makes digits fill a silhouette."""
    images, labels = digits()
    pipeline = base_pipeline()
    unet: UNet2DConditionModel = pipeline.unet
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    print("parameters", count_parameters(controlnet))
    conditions = silhouettes(images)
    data = Batches(pipeline, images, labels)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        noisy, timesteps, hidden, noise = data.make(index)
        down, middle = controlnet(
            noisy,
            timesteps,
            encoder_hidden_states=hidden,
            controlnet_cond=conditions[index],
            return_dict=False,
        )
        predicted = unet(
            noisy,
            timesteps,
            encoder_hidden_states=hidden,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return F.mse_loss(predicted, noise)

    fit("controlnet", [controlnet], loss_of, count=len(images), steps=steps)
    controlnet.eval().save_pretrained(CONTROLNET)


def train_lora(steps: int) -> None:
    """Train a LoRA that draws bold strokes."""
    images, labels = digits()
    pipeline = base_pipeline()
    unet = pipeline.unet
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS)
    unet.add_adapter(config)
    layers = torch.nn.ModuleList(
        module for name, module in unet.named_modules() if name.endswith(("lora_A", "lora_B"))
    )
    print("parameters", count_parameters(layers))
    data = Batches(pipeline, bold(images), labels)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        noisy, timesteps, hidden, noise = data.make(index)
        return F.mse_loss(unet(noisy, timesteps, encoder_hidden_states=hidden).sample, noise)

    fit("lora", [layers], loss_of, count=len(images), steps=steps)
    StableDiffusionPipeline.save_lora_weights(
        LORA, unet_lora_layers=get_peft_model_state_dict(unet), safe_serialization=True
    )


def check() -> None:
    """Print how well the silhouettes are filled and how bold strokes are; draw both."""
    images, labels = digits()
    chosen = torch.tensor([int((labels == digit).nonzero()[7]) for digit in range(10)])
    conditions = silhouettes(images[chosen])
    controlnet = ControlNetModel.from_pretrained(CONTROLNET, use_safetensors=True)
    base = base_pipeline()
    follower = StableDiffusionControlNetPipeline(
        **base.components, controlnet=controlnet, requires_safety_checker=False
    )
    follower.set_progress_bar_config(disable=True)
    settings = {
        "num_inference_steps": 30,
        "guidance_scale": 2.0,
        "generator": [torch.Generator().manual_seed(seed) for seed in range(10)],
        "output_type": "np",
    }
    filled = follower([NEUTRAL_PROMPT] * 10, image=conditions, **settings).images[..., 0]
    inside = conditions[:, 0].numpy() > 0
    overlap = [
        (is_in & (drawn > 0.5 + BRIGHT / 2)).sum() / (is_in | (drawn > 0.5 + BRIGHT / 2)).sum()
        for is_in, drawn in zip(inside, filled, strict=True)
    ]
    print("intersection over union with the silhouette:", np.round(overlap, 2).tolist())
    save_picture(
        "digits-controlnet",
        np.concatenate([side_by_side(inside.astype(np.float32)), side_by_side(filled)]),
    )

    prompts = [f"a handwritten {word}" for word in WORDS]
    settings |= {"guidance_scale": 4.0}
    rows = []
    for scale in (0.0, 1.0):
        base = base_pipeline()
        base.load_lora_weights(LORA, weight_name="pytorch_lora_weights.safetensors")
        base.set_adapters(base.get_active_adapters(), scale)
        generators = [torch.Generator().manual_seed(seed) for seed in range(10)]
        drawn = base(prompts, **settings | {"generator": generators}).images[..., 0]
        print(f"LoRA at scale {scale}: mean brightness {drawn.mean():.3f}")
        rows.append(side_by_side(drawn))
    save_picture("digits-lora-bold", np.concatenate(rows))


def main() -> None:
    """Train an adapter, or check both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("controlnet", "lora", "check"))
    parser.add_argument("--steps", type=int, default=700, help="(default %(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    if arguments.what == "controlnet":
        train_controlnet(arguments.steps)
    elif arguments.what == "lora":
        train_lora(arguments.steps)
    else:
        check()


if __name__ == "__main__":
    main()
