"""Trains the two bundled checkpoints on handwritten digits; on the CPU, from fixed seeds.

    python training/train_digits.py ddpm               # digits-ddpm: 20 minutes on one core
    python training/train_digits.py sd --steps 8000    # digits-sd: 35 minutes on one core
    python training/train_digits.py check              # what docs/checkpoints.md shows: one minute

Checkpoints are written into `harness/data/bundled`. The data is `sklearn.datasets.load_digits`,
which ships inside scikit-learn: 1,797 images of 8x8 pixels with 17 grey levels. They are enlarged
to 16x16 pixels (bilinear) and scaled to [-1, 1].
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from sklearn.datasets import load_digits
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

Images = np.ndarray[tuple[int, ...], np.dtype[Any]]

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "harness" / "data" / "bundled"

SEED = 0
BATCH = 64
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
TRAIN_TIMESTEPS = 1000
UNCONDITIONAL_SHARE = 0.1  # of prompts that are left empty, so that guidance has a counterpart
KL_WEIGHT = 1e-4
PROMPT_TOKENS = 16
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a handwritten {}",
    "a handwritten digit {}",
    "the number {}",
    "{}",
    "a {} on black paper",
)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the data.

    Returns:
        Images, shape (1797, 1, 16, 16), float32 in [-1, 1]; labels, shape (1797,), int64.
    """
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8.0 - 1.0
    images = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    return images, torch.tensor(data.target, dtype=torch.int64)


# Training.


def batches(count: int, size: int, steps: int) -> Iterator[torch.Tensor]:
    """Walk through shuffled epochs of the samples.

    Args:
        count: How many samples there are.
        size: How many samples a batch has.
        steps: How many batches to make.

    Yields:
        The indices of one batch, shape (size,).
    """
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count)])
        yield order[:size]
        order = order[size:]


class Average:
    """An exponential moving average of a model's parameters: it samples better than the last step.

    Args:
        model: The model that is trained.
        decay: The weight of the average so far.
    """

    def __init__(self, model: torch.nn.Module, decay: float = 0.995) -> None:
        self._model = model
        self._decay = decay
        self._values = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's parameters into the average."""
        for value, parameter in zip(self._values, self._model.parameters(), strict=True):
            value.lerp_(parameter, 1.0 - self._decay)

    @torch.no_grad()
    def write_back(self) -> None:
        """Replace the model's parameters by the average."""
        for value, parameter in zip(self._values, self._model.parameters(), strict=True):
            parameter.copy_(value)


def fit(
    name: str,
    models: list[torch.nn.Module],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    count: int,
    steps: int,
) -> None:
    """Minimise a loss with AdamW, a warm-up and a cosine decay; leave averaged weights.

    Args:
        name: What progress is printed for.
        models: The models that are trained.
        loss_of: Returns the loss of the samples with the given indices.
        count: How many samples there are.
        steps: How many batches to train on.
    """
    parameters = [parameter for model in models for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-4)
    averages = [Average(model) for model in models]
    started = time.monotonic()
    recent: list[float] = []
    for step, index in enumerate(batches(count, BATCH, steps)):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate_scale(step, steps)
        loss = loss_of(index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for average in averages:
            average.update()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            mean = np.mean(recent)
            print(f"{name} {step + 1}/{steps} loss {mean:.4f} {seconds:.0f} s", flush=True)
            recent.clear()
    for average in averages:
        average.write_back()


def rate_scale(step: int, steps: int) -> float:
    """Return by which the learning rate is multiplied at a step."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm_up * 0.5 * (1 + math.cos(math.pi * step / steps))


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


# digits-ddpm.


def train_ddpm(steps: int) -> None:
    """Train `digits-ddpm`: an unconditional UNet that predicts the noise of a linear-beta DDPM."""
    images, _ = digits()
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(32, 64, 64),
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    print("parameters", count_parameters(unet))
    scheduler = DDPMScheduler(num_train_timesteps=TRAIN_TIMESTEPS)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        clean = images[index]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, TRAIN_TIMESTEPS, (len(index),))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        return F.mse_loss(unet(noisy, timesteps).sample, noise)

    fit("ddpm", [unet], loss_of, count=len(images), steps=steps)
    sampler = DDIMScheduler.from_config(scheduler.config)
    DDIMPipeline(unet.eval(), sampler).save_pretrained(BUNDLED / "digits-ddpm")


# digits-sd.


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write CLIP's own tokenizer with a vocabulary of letters and of the templates' words.

    Args:
        folder: Where to write it.

    Raises:
        SystemExit: A word is not one token.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = words_of_templates()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in words:
        left = word[0] if len(word) > 1 else f"{word}</w>"
        for position, letter in enumerate(word[1:], 1):
            right = letter + ("</w>" if position == len(word) - 1 else "")
            merges.append(f"{left} {right}")
            left += right
            tokens.append(left)
    merges = list(dict.fromkeys(merges))
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=PROMPT_TOKENS)
    for word in words:
        if len(tokenizer(word).input_ids) != 3:  # the word, between the two special tokens
            raise SystemExit(f"{word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def words_of_templates() -> list[str]:
    found = set(WORDS)
    for template in TEMPLATES:
        found.update(template.replace("{}", "").split())
    return sorted(found)


def train_sd(vae_steps: int, unet_steps: int) -> None:
    """Train `digits-sd`: first the VAE on images, then text encoder and UNet on its latents."""
    images, labels = digits()
    vae = train_vae(images, vae_steps)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 4))
    latents *= vae.config.scaling_factor

    folder = BUNDLED / "digits-sd"
    tokenizer = make_tokenizer(folder / "tokenizer")
    text_encoder = make_text_encoder(tokenizer)
    unet = make_conditional_unet()
    parameters = count_parameters(unet)
    print("unet parameters", parameters, "text", count_parameters(text_encoder))
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    prompts = torch.tensor(
        [[token_ids(tokenizer, each.format(word)) for each in TEMPLATES] for word in WORDS]
    )
    empty = torch.tensor(token_ids(tokenizer, ""))

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        clean = latents[index]
        template = torch.randint(0, len(TEMPLATES), (len(index),))
        is_empty = torch.rand(len(index), 1) < UNCONDITIONAL_SHARE
        tokens = torch.where(is_empty, empty, prompts[labels[index], template])
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, TRAIN_TIMESTEPS, (len(index),))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        hidden = text_encoder(tokens)[0]
        return F.mse_loss(unet(noisy, timesteps, encoder_hidden_states=hidden).sample, noise)

    fit("sd", [unet, text_encoder], loss_of, count=len(latents), steps=unet_steps)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def train_vae(images: torch.Tensor, steps: int) -> AutoencoderKL:
    """Train the VAE on images, shape (n, 1, 16, 16); return it frozen."""
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    print("vae parameters", count_parameters(vae))

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(images[index]).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        return F.mse_loss(decoded, images[index]) + KL_WEIGHT * posterior.kl().mean() / 256

    fit("vae", [vae], loss_of, count=len(images), steps=steps)
    vae.eval().requires_grad_(False)
    return vae


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder for the tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_conditional_unet() -> UNet2DConditionModel:
    """Return an untrained UNet for latents of shape (n, 4, 8, 8)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=64,
        block_out_channels=(48, 72),
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def token_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    found: list[int] = tokenizer(prompt, padding="max_length", max_length=PROMPT_TOKENS).input_ids
    return found


# Checking.


def check() -> None:
    """Print how many of ten images per digit a classifier reads right; draw both models' images.

    The classifier is trained on the real digits.
    """
    from sklearn.svm import SVC

    data = load_digits()
    classifier = SVC(gamma=0.001).fit(data.data, data.target)
    pipeline = StableDiffusionPipeline.from_pretrained(BUNDLED / "digits-sd", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for label, word in enumerate(WORDS):
        images = sample_sd(pipeline, word, range(10))
        small = images.reshape(10, 8, 2, 8, 2).mean(axis=(2, 4)) * 16.0
        right = int((classifier.predict(small.reshape(10, 64)) == label).sum())
        print(f"digits-sd: 'a handwritten {word}': {right} of 10 read as {label}")
        rows.append(side_by_side(images))
    save_picture("digits-sd", np.concatenate(rows))
    squares = sample_ddpm(range(16)).reshape(4, 4, 16, 16)
    save_picture("digits-ddpm", np.concatenate([side_by_side(row) for row in squares]))


def sample_sd(pipeline: StableDiffusionPipeline, word: str, seeds: range) -> Images:
    """Return one image per seed for a prompt, shape (n, 16, 16), float32 in [0, 1]."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prompts = [f"a handwritten {word}"] * len(seeds)
    result = pipeline(
        prompts, num_inference_steps=30, guidance_scale=4.0, generator=generators, output_type="np"
    )
    images: Images = result.images[..., 0]
    return images


def sample_ddpm(seeds: range) -> Images:
    """Return one image per seed, shape (n, 16, 16), float32 in [0, 1]."""
    pipeline = DDIMPipeline.from_pretrained(BUNDLED / "digits-ddpm", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    result = pipeline(
        batch_size=len(seeds), generator=generators, num_inference_steps=50, output_type="np"
    )
    images: Images = result.images[..., 0]
    return images


def side_by_side(images: Images) -> Images:
    """Return images, shape (n, height, width), as one, shape (height, n * width)."""
    return np.concatenate(list(images), axis=1)


def save_picture(name: str, picture: Images) -> None:
    """Save a picture, shape (height, width) in [0, 1], three times as large, below `docs`."""
    from PIL import Image

    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    size = (image.width * 3, image.height * 3)
    image.resize(size, Image.Resampling.NEAREST).save(ROOT / "docs" / f"{name}.png")


def main() -> None:
    """Train a checkpoint, or check both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("ddpm", "sd", "check"))
    parser.add_argument(
        "--steps", type=int, default=4000, help="training steps of the UNet (default %(default)s)"
    )
    parser.add_argument(
        "--vae-steps",
        type=int,
        default=2000,
        help="training steps of the VAE (default %(default)s)",
    )
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    if arguments.what == "check":
        check()
    elif arguments.what == "ddpm":
        train_ddpm(arguments.steps)
    else:
        train_sd(arguments.vae_steps, arguments.steps)


if __name__ == "__main__":
    main()
