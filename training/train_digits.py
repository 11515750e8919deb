"""Train the two bundled checkpoints on scikit-learn's handwritten digits; CPU only, seeded.

    python training/train_digits.py ddpm     # harness/data/bundled/digits-ddpm, about 20 minutes on one core
    python training/train_digits.py sd --steps 8000    # harness/data/bundled/digits-sd, about 35 minutes on one core
    python training/train_digits.py check    # the figures and the picture that docs/checkpoints.md shows

The data is ``sklearn.datasets.load_digits``: 1,797 images of 8x8 pixels with 17 grey levels, which ships inside
scikit-learn. Images are enlarged to 16x16 (bilinear) and scaled to [-1, 1].
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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

SEED = 0
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a handwritten {}",
    "a handwritten digit {}",
    "the number {}",
    "{}",
    "a {} on black paper",
)
BUNDLED = Path(__file__).resolve().parent.parent / "harness" / "data" / "bundled"


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, shape (1797, 1, 16, 16), float32 in [-1, 1], and labels, shape (1797,), int64."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8.0 - 1.0
    images = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    return images, torch.tensor(data.target, dtype=torch.int64)


def batches(count: int, size: int, steps: int) -> Iterator[torch.Tensor]:
    """Yield `steps` index tensors, shape (size,), that walk through shuffled epochs of `count` samples."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count)])
        yield order[:size]
        order = order[size:]


class Average:
    """An exponential moving average of a model's parameters, which samples better than the last step."""

    def __init__(self, model: torch.nn.Module, decay: float = 0.995) -> None:
        self.model, self.decay = model, decay
        self.values = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        for value, parameter in zip(self.values, self.model.parameters(), strict=True):
            value.lerp_(parameter, 1.0 - self.decay)

    @torch.no_grad()
    def write_back(self) -> None:
        for value, parameter in zip(self.values, self.model.parameters(), strict=True):
            parameter.copy_(value)


def fit(
    name: str,
    models: list[torch.nn.Module],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    count: int,
    steps: int,
    size: int = 64,
    rate: float = 2e-3,
) -> None:
    """Minimise `loss_of` over `steps` batches with AdamW, a warm-up, a cosine decay and averaged weights."""
    parameters = [p for model in models for p in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    averages = [Average(model) for model in models]
    started, recent = time.monotonic(), []
    for step, index in enumerate(batches(count, size, steps)):
        scale = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * scale
        loss = loss_of(index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for average in averages:
            average.update()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            print(
                f"{name} {step + 1}/{steps} loss {np.mean(recent):.4f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
            recent.clear()
    for average in averages:
        average.write_back()


def train_ddpm(steps: int) -> None:
    """Train `digits-ddpm`: an unconditional UNet that predicts the noise of a linear-beta DDPM."""
    images, _ = digits()
    unet = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(32, 64, 64), attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    print("parameters", sum(p.numel() for p in unet.parameters()))
    scheduler = DDPMScheduler(num_train_timesteps=1000)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        clean = images[index]
        noise, t = torch.randn_like(clean), torch.randint(0, 1000, (len(index),))
        return F.mse_loss(unet(scheduler.add_noise(clean, noise, t), t).sample, noise)

    fit("ddpm", [unet], loss_of, count=len(images), steps=steps)
    DDIMPipeline(unet.eval(), DDIMScheduler.from_config(scheduler.config)).save_pretrained(
        BUNDLED / "digits-ddpm"
    )


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Build CLIP's own tokenizer with a vocabulary of letters and the templates' words, one token each."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted(
        {word for template in TEMPLATES for word in template.replace("{}", "").split()} | set(WORDS)
    )
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    for word in words:
        if len(tokenizer(word).input_ids) != 3:
            raise SystemExit(f"{word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def train_sd(vae_steps: int, unet_steps: int) -> None:
    """Train `digits-sd`: first the VAE on images, then text encoder and UNet on its latents."""
    images, labels = digits()
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, sample_size=16, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    print("vae parameters", sum(p.numel() for p in vae.parameters()))

    def vae_loss(index: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(images[index]).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        return F.mse_loss(decoded, images[index]) + 1e-4 * posterior.kl().mean() / 256

    fit("vae", [vae], vae_loss, count=len(images), steps=vae_steps)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 4))
    latents *= vae.config.scaling_factor

    target = BUNDLED / "digits-sd"
    tokenizer = make_tokenizer(target / "tokenizer")
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8, cross_attention_dim=64,
        block_out_channels=(48, 72), attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    print(
        "unet parameters",
        sum(p.numel() for p in unet.parameters()),
        "text",
        sum(p.numel() for p in text_encoder.parameters()),
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    prompts = [
        [
            tokenizer(template.format(word), padding="max_length", max_length=16).input_ids
            for template in TEMPLATES
        ]
        for word in WORDS
    ]
    tokens = torch.tensor(prompts)
    empty = torch.tensor(tokenizer("", padding="max_length", max_length=16).input_ids)

    def unet_loss(index: torch.Tensor) -> torch.Tensor:
        clean = latents[index]
        ids = tokens[labels[index], torch.randint(0, len(TEMPLATES), (len(index),))]
        ids = torch.where(
            torch.rand(len(index), 1) < 0.1, empty, ids
        )  # unconditional share, for guidance
        noise, t = torch.randn_like(clean), torch.randint(0, 1000, (len(index),))
        hidden = text_encoder(ids)[0]
        return F.mse_loss(
            unet(scheduler.add_noise(clean, noise, t), t, encoder_hidden_states=hidden).sample,
            noise,
        )

    fit("sd", [unet, text_encoder], unet_loss, count=len(latents), steps=unet_steps)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(target)  # fmt: skip


def sample_sd(pipe: StableDiffusionPipeline, word: str, seeds: range) -> np.ndarray:
    """Return one image per seed for a prompt, shape (n, 16, 16), float32 in [0, 1]."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prompt = [f"a handwritten {word}"] * len(seeds)
    images = pipe(
        prompt, num_inference_steps=30, guidance_scale=4.0, generator=generators, output_type="np"
    ).images
    return images[..., 0]


def check() -> None:
    """Print how many of ten images per digit a classifier of the real digits reads right; draw both models' grids."""
    from PIL import Image
    from sklearn.svm import SVC

    data = load_digits()
    classifier = SVC(gamma=0.001).fit(data.data, data.target)
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED / "digits-sd", use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for label, word in enumerate(WORDS):
        images = sample_sd(pipe, word, range(10))
        small = images.reshape(10, 8, 2, 8, 2).mean(axis=(2, 4)) * 16.0
        right = int((classifier.predict(small.reshape(10, 64)) == label).sum())
        print(f"digits-sd: 'a handwritten {word}': {right} of 10 read as {label}")
        rows.append(np.concatenate(list(images), axis=1))
    ddpm = DDIMPipeline.from_pretrained(BUNDLED / "digits-ddpm", use_safetensors=True)
    ddpm.set_progress_bar_config(disable=True)
    grid = ddpm(
        batch_size=16,
        generator=[torch.Generator().manual_seed(s) for s in range(16)],
        num_inference_steps=50,
        output_type="np",
    ).images[..., 0]
    pictures = {
        "digits-sd": np.concatenate(rows),
        "digits-ddpm": np.concatenate(
            [np.concatenate(list(row), axis=1) for row in grid.reshape(4, 4, 16, 16)]
        ),
    }
    for name, picture in pictures.items():
        image = Image.fromarray((picture * 255).round().astype(np.uint8))
        image.resize((image.width * 3, image.height * 3), Image.Resampling.NEAREST).save(
            BUNDLED.parent.parent.parent / "docs" / f"{name}.png"
        )


def main() -> None:
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
