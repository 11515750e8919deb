"""Trains the bundled `digits-flux`: a flow-matching transformer on handwritten digits, on the CPU.

    python training/train_digits_flux.py train    # 12 minutes on one core
    python training/train_digits_flux.py check    # what docs/checkpoints.md shows: one minute

The checkpoint is a `FluxPipeline`. It shares the data, the VAE and the CLIP text encoder of
`digits-sd`, which `train_digits.py` trains first; the transformer and the T5 encoder are its own.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
)
from make_synthetic import make_t5_tokenizer
from sklearn.datasets import load_digits
from train_digits import (
    BUNDLED,
    PROMPT_TOKENS,
    SEED,
    TEMPLATES,
    UNCONDITIONAL_SHARE,
    WORDS,
    Images,
    count_parameters,
    digits,
    fit,
    save_picture,
    side_by_side,
    words_of_templates,
)
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

FOLDER = BUNDLED / "digits-flux"
TEXT_WIDTH = 48  # of the T5 encoder's hidden states
POOLED_WIDTH = 64  # of the CLIP text encoder of `digits-sd`


def make_t5_encoder(vocabulary: int) -> T5EncoderModel:
    """Return an untrained T5 encoder."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=TEXT_WIDTH,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


def make_transformer() -> FluxTransformer2DModel:
    """Return an untrained transformer for latents of shape (n, 4, 8, 8), packed two by two."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=24,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 8, 8),
    )


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return latents, shape (n, 4, 8, 8), as tokens of two by two, shape (n, 16, 16)."""
    count, channels, height, width = latents.shape
    blocks = latents.view(count, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * 4)


def token_places() -> torch.Tensor:
    """Return the row and column of each token of 8x8 latents, shape (16, 3); the first is zero."""
    places = torch.zeros(4, 4, 3)
    places[..., 1] = torch.arange(4)[:, None]
    places[..., 2] = torch.arange(4)[None, :]
    return places.reshape(16, 3)


def train(steps: int) -> None:
    """Train transformer and T5 encoder to predict the velocity from an image to noise."""
    images, labels = digits()
    base = StableDiffusionPipeline.from_pretrained(BUNDLED / "digits-sd", use_safetensors=True)
    vae = base.vae.eval().requires_grad_(False)
    vae.register_to_config(shift_factor=0.0)
    with torch.no_grad():
        latents = pack(vae.encode(images).latent_dist.mean * vae.config.scaling_factor)

    prompts = [each.format(word) for word in WORDS for each in TEMPLATES] + [""]
    tokenizer = make_t5_tokenizer(words_of_templates(), PROMPT_TOKENS)
    text_encoder = make_t5_encoder(len(tokenizer))
    transformer = make_transformer()
    print("parameters", count_parameters(transformer), "text", count_parameters(text_encoder))
    tokens = _padded(tokenizer, prompts)
    with torch.no_grad():
        pooled = base.text_encoder(_padded(base.tokenizer, prompts)).pooler_output
    text_places = torch.zeros(PROMPT_TOKENS, 3)

    def loss_of(index: torch.Tensor) -> torch.Tensor:
        clean = latents[index]
        template = torch.randint(0, len(TEMPLATES), (len(index),))
        is_empty = torch.rand(len(index)) < UNCONDITIONAL_SHARE
        prompt = torch.where(is_empty, len(prompts) - 1, labels[index] * len(TEMPLATES) + template)
        noise = torch.randn_like(clean)
        share = torch.sigmoid(torch.randn(len(index)))  # of noise
        noisy = torch.lerp(clean, noise, share[:, None, None])
        velocity = transformer(
            hidden_states=noisy,
            timestep=share,
            encoder_hidden_states=text_encoder(tokens[prompt])[0],
            pooled_projections=pooled[prompt],
            img_ids=token_places(),
            txt_ids=text_places,
            return_dict=False,
        )[0]
        return F.mse_loss(velocity, noise - clean)

    fit("flux", [transformer, text_encoder], loss_of, count=len(latents), steps=steps)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        text_encoder_2=text_encoder.eval(),
        tokenizer_2=tokenizer,
        transformer=transformer.eval(),
    )
    pipeline.save_pretrained(FOLDER)


def _padded(tokenizer: T5TokenizerFast, prompts: list[str]) -> torch.Tensor:
    found: torch.Tensor = tokenizer(
        prompts, padding="max_length", max_length=PROMPT_TOKENS, return_tensors="pt"
    ).input_ids
    return found


def check() -> None:
    """Print how many of ten images per digit a classifier reads right, and draw them.

    The classifier is trained on the real digits.
    """
    from sklearn.svm import SVC

    data = load_digits()
    classifier = SVC(gamma=0.001).fit(data.data, data.target)
    pipeline = FluxPipeline.from_pretrained(FOLDER, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for label, word in enumerate(WORDS):
        images = sample(pipeline, word, range(10))
        small = images.reshape(10, 8, 2, 8, 2).mean(axis=(2, 4)) * 16.0
        right = int((classifier.predict(small.reshape(10, 64)) == label).sum())
        print(f"digits-flux: 'a handwritten {word}': {right} of 10 read as {label}")
        rows.append(side_by_side(images))
    save_picture("digits-flux", np.concatenate(rows))


def sample(pipeline: FluxPipeline, word: str, seeds: range) -> Images:
    """Return one image per seed for a prompt, shape (n, 16, 16), float32 in [0, 1]."""
    result = pipeline(
        [f"a handwritten {word}"] * len(seeds),
        negative_prompt=[""] * len(seeds),
        true_cfg_scale=3.0,
        height=16,
        width=16,
        num_inference_steps=20,
        max_sequence_length=PROMPT_TOKENS,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    )
    images: Images = result.images[..., 0]
    return images


def main() -> None:
    """Train the checkpoint, or check it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "check"))
    parser.add_argument("--steps", type=int, default=2200, help="(default %(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    if arguments.what == "check":
        check()
    else:
        train(arguments.steps)


if __name__ == "__main__":
    main()
