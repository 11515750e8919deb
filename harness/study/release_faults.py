"""Faults of the kinds that come with a release of a library, as rows of data.

Each row names a component and what happens to it; `worker/faults.py` says what the kinds mean. A
row that does not fit a pipeline, because it lacks the component or never calls the function, is not
counted.
"""

from __future__ import annotations

from functools import partial

from harness.study.fault_forms import Fault, called_with, default_changed, injected, slightly_more

ATTENTION = "scaled_dot_product_attention"
ENCODERS = ("text_encoder", "text_encoder_2")
HALF, BFLOAT16, DOUBLE = "float16", "bfloat16", "float64"
MASK_LIMIT = 1e4  # what stands for minus infinity in masks that fit float16


def release_faults(denoiser: str) -> list[Fault]:
    """Return the faults for a pipeline.

    Args:
        denoiser: The component that removes noise.
    """
    return [
        *_defaults_of_the_call(),
        *_tokens(),
        *_text_embeddings(),
        *_masks(denoiser),
        *_attention(denoiser),
        *_missing_upcasts(denoiser),
        *_narrow_results(denoiser),
        *_timesteps(denoiser),
        *_schedules(),
        *_left_by_the_first_call(),
        *_variances(),
        *_steps(),
        *_guidance(denoiser),
        *_biases(denoiser),
        *_norms(denoiser),
        *_activations(denoiser),
        *_layers(denoiser),
        *_positions(denoiser),
        *_weights_of_a_release(denoiser),
        *_latents(),
        *_images(),
        *_noise(denoiser),
    ]


def _defaults_of_the_call() -> list[Fault]:
    return [
        default_changed("guidance_rescale", 0.0, 0.05),
        default_changed("clip_skip", 0, 1),
        default_changed("negative_prompt", "", "blurry"),
        default_changed("controlnet_conditioning_scale", 1.0, 1.001),
        default_changed("control_guidance_end", 1.0, 0.9),
        default_changed("guess_mode", False, True),
        default_changed("strength", 0.8, 0.85),
        default_changed("frame_rate", 25, 24),
        default_changed("decode_timestep", 0.0, 0.05),
        default_changed("decode_noise_scale", 0.0, 0.025),
        default_changed("use_clipped_model_output", False, True),
        default_changed("prior_guidance_scale", 4.0, 4.004),
        default_changed("decoder_guidance_scale", 8.0, 8.008),
        called_with("true guidance scale x1.001", "true_cfg_scale", slightly_more),
    ]


def _tokens() -> list[Fault]:
    argument = partial(injected, how="set", method="__call__")
    return [
        argument(
            "tokens padded to the longest prompt",
            "argument",
            "tokenizer",
            argument="padding",
            value="longest",
        ),
        argument("tokens cut at three", "argument", "tokenizer", argument="max_length", value=3),
        injected(
            "tokens padded on the left",
            "attribute",
            "tokenizer",
            name="padding_side",
            how="set",
            value="left",
        ),
        injected(
            "tokens cut on the left",
            "attribute",
            "tokenizer",
            name="truncation_side",
            how="set",
            value="left",
        ),
        injected(
            "the longest prompt one token shorter",
            "attribute",
            "tokenizer",
            name="model_max_length",
            how="add",
            by=-1,
        ),
        argument(
            "no special tokens", "argument", "tokenizer", argument="add_special_tokens", value=False
        ),
        injected(
            "T5's longest prompt one token shorter",
            "argument",
            "tokenizer_2",
            method="__call__",
            argument="max_length",
            how="add",
            by=-1,
        ),
    ]


def _text_embeddings() -> list[Fault]:
    found = []
    for encoder in ENCODERS:
        found += [
            injected(f"{encoder}: result in {HALF}", "result", encoder, how="round", dtype=HALF),
            injected(
                f"{encoder}: last norm skipped",
                "result",
                encoder,
                how="skip",
                modules="Norm",
                path="final_layer_norm",
            ),
            injected(
                f"{encoder}: positions shifted by one",
                "weights",
                encoder,
                modules="Embedding",
                path="position_embedding",
                how="next-position",
            ),
        ]
    return found


def _masks(denoiser: str) -> list[Fault]:
    found = []
    for component in (denoiser, *ENCODERS):
        mask = partial(injected, function=ATTENTION)
        found += [
            mask(
                f"{component}: additive mask of -1e4",
                "operator",
                component,
                how="mask-finite",
                limit=MASK_LIMIT,
            ),
            mask(
                f"{component}: additive mask of -10",
                "operator",
                component,
                how="mask-finite",
                limit=10.0,
            ),
            mask(
                f"{component}: boolean mask taken for numbers",
                "operator",
                component,
                how="mask-as-numbers",
            ),
            mask(f"{component}: mask dropped", "operator", component, how="mask-dropped"),
        ]
    return found


def _attention(denoiser: str) -> list[Fault]:
    """Faults in scaled dot products: of one attention, and of all in a component."""
    one = partial(injected, function=ATTENTION, modules="Attention", at=0.5)
    every = partial(injected, function=ATTENTION)
    return [
        one("one attention head x1.001", "operator", denoiser, how="head", factor=1.001),
        one("one attention head x1.01", "operator", denoiser, how="head", factor=1.01),
        one("one key dropped in one attention", "operator", denoiser, how="last-key-dropped"),
        one("one key masked for one head", "operator", denoiser, how="mask-of-first-head"),
        one("scale of one attention x1.001", "operator", denoiser, how="scale", factor=1.001),
        every("scale of all attention x1.0001", "operator", denoiser, how="scale", factor=1.0001),
        every("VAE: scale of attention x1.01", "operator", "vae", how="scale", factor=1.01),
        every(
            "text encoder: scale of attention x1.001",
            "operator",
            "text_encoder",
            how="scale",
            factor=1.001,
        ),
        one(
            "operands of one attention in bfloat16",
            "operator",
            denoiser,
            how="operands",
            dtype=BFLOAT16,
        ),
    ]


def _missing_upcasts(denoiser: str) -> list[Fault]:
    return [
        *(
            injected(
                f"attention computed in {dtype}",
                "operator",
                denoiser,
                function=ATTENTION,
                how="narrow",
                dtype=dtype,
            )
            for dtype in (HALF, BFLOAT16)
        ),
        injected(f"norms computed in {BFLOAT16}", "wide", denoiser, modules="norm", dtype=BFLOAT16),
        injected(
            f"one norm computed in {HALF}", "wide", denoiser, modules="norm", at=0.5, dtype=HALF
        ),
        injected(
            f"RMS norms computed in {BFLOAT16}",
            "operator",
            denoiser,
            function="rms_norm",
            how="narrow",
            dtype=BFLOAT16,
        ),
        *(
            injected(
                f"time embedding computed in {dtype}",
                "wide",
                denoiser,
                modules="TimestepEmbedding",
                dtype=dtype,
            )
            for dtype in (HALF, BFLOAT16)
        ),
        *(
            injected(
                f"sines of the timestep in {dtype}",
                "result",
                denoiser,
                modules="Timesteps",
                how="round",
                dtype=dtype,
            )
            for dtype in (HALF, BFLOAT16)
        ),
        injected(
            f"VAE: decoder computed in {BFLOAT16}", "wide", "vae", modules="Decoder", dtype=BFLOAT16
        ),
        injected(f"VAE: norms computed in {HALF}", "wide", "vae", modules="norm", dtype=HALF),
    ]


def _narrow_results(denoiser: str) -> list[Fault]:
    return [
        injected(
            f"VAE: result in {HALF}", "result", "vae", method="decode", how="round", dtype=HALF
        ),
        injected(f"result of the denoiser in {HALF}", "result", denoiser, how="round", dtype=HALF),
        injected(
            f"activations computed in {BFLOAT16}",
            "operator",
            denoiser,
            function="silu",
            how="narrow",
            dtype=BFLOAT16,
        ),
    ]


def _timesteps(denoiser: str) -> list[Fault]:
    """Faults in the timestep that the denoiser gets, and in what it makes of that."""
    return [
        *(
            injected(
                f"timestep in {dtype}",
                "argument",
                denoiser,
                argument="timestep",
                how="round",
                dtype=dtype,
            )
            for dtype in (HALF, BFLOAT16)
        ),
        injected(
            "timestep off by one in one step",
            "argument",
            denoiser,
            argument="timestep",
            how="add",
            by=1,
            calls=[1],
        ),
        injected(
            "timestep's sines and cosines swapped",
            "attribute",
            denoiser,
            modules="Timesteps",
            name="flip_sin_to_cos",
            how="set",
            value=False,
        ),
        injected(
            "timestep's frequencies shifted",
            "attribute",
            denoiser,
            modules="Timesteps",
            name="downscale_freq_shift",
            how="add",
            by=1,
        ),
    ]


def _schedules() -> list[Fault]:
    """Faults in the tables of a scheduler: in another precision, or read at a wrong index."""
    found = []
    for table in ("alphas_cumprod", "sigmas", "timesteps"):
        found += [
            injected(
                f"{table} in {dtype}", "table", "scheduler", name=table, how="round", dtype=dtype
            )
            for dtype in (HALF, BFLOAT16)
        ]
    return [
        *found,
        injected(
            "alphas_cumprod read at the next index",
            "table",
            "scheduler",
            name="alphas_cumprod",
            how="next-index",
        ),
        injected("sigmas x1.0001", "table", "scheduler", name="sigmas", how="scale", factor=1.0001),
        injected(
            "previous timestep from one step less",
            "table",
            "scheduler",
            name="num_inference_steps",
            how="add",
            by=-1,
        ),
        injected(
            f"UnCLIP's alphas_cumprod in {HALF}",
            "table",
            "decoder_scheduler",
            name="alphas_cumprod",
            how="round",
            dtype=HALF,
        ),
        injected(
            "UnCLIP's alphas_cumprod read at the next index",
            "table",
            "decoder_scheduler",
            name="alphas_cumprod",
            how="next-index",
        ),
        injected(
            "shift of the schedule x1.001",
            "argument",
            "scheduler",
            method="set_timesteps",
            argument="mu",
            how="scale",
            factor=1.001,
        ),
    ]


def _left_by_the_first_call() -> list[Fault]:
    """Faults that show where a pipeline object is called twice: `expect: stateless`."""
    return [
        injected(
            f"{table} x1.0001 after the first call",
            "table",
            "scheduler",
            name=table,
            how="scale",
            factor=1.0001,
            from_call=1,
        )
        for table in ("alphas_cumprod", "sigmas")
    ]


def _variances() -> list[Fault]:
    """Faults in what a step takes for the previous timestep, its variance or the outputs before."""
    return [
        injected(
            "variance of the previous timestep off by one",
            "argument",
            "scheduler",
            method="_get_variance",
            argument="prev_timestep",
            how="add",
            by=1,
        ),
        injected(
            "UnCLIP's variance of the previous timestep off by one",
            "argument",
            "decoder_scheduler",
            method="_get_variance",
            argument="prev_timestep",
            how="add",
            by=1,
        ),
        injected(
            "variance of the next timestep",
            "argument",
            "scheduler",
            method="_get_variance",
            argument="timestep",
            how="add",
            by=1,
        ),
        injected(
            "order of a multistep scheduler's model outputs swapped",
            "argument",
            "scheduler",
            method="multistep_dpm_solver_second_order_update",
            argument="model_output_list",
            how="reverse",
        ),
    ]


def _steps() -> list[Fault]:
    """Faults in the samples that the steps of a scheduler give."""
    step = partial(injected, method="step")
    return [
        step(
            "sample rounded to float16 after each step",
            "result",
            "scheduler",
            how="round",
            dtype=HALF,
        ),
        step(
            "sample rounded to float16 after one step",
            "result",
            "scheduler",
            how="round",
            dtype=HALF,
            calls=[1],
        ),
        step("sample clipped to 1", "result", "scheduler", how="clip", limit=1.0),
        step(
            "sample x1.0001 after one step",
            "result",
            "scheduler",
            how="scale",
            factor=1.0001,
            calls=[0],
        ),
        injected(
            "prediction x1.0001 in one step",
            "argument",
            "scheduler",
            method="step",
            argument="model_output",
            how="scale",
            factor=1.0001,
            calls=[1],
        ),
    ]


def _guidance(denoiser: str) -> list[Fault]:
    return [
        injected(
            "guidance swapped in one step", "result", denoiser, how="halves-swapped", calls=[1]
        ),
        injected("guidance swapped in all steps", "result", denoiser, how="halves-swapped"),
        injected(
            "one step without guidance", "result", denoiser, how="second-half-twice", calls=[1]
        ),
        injected("one prediction used twice", "result", denoiser, how="repeat", calls=[1]),
        injected(
            "prompts swapped in one step",
            "argument",
            denoiser,
            how="halves-swapped",
            argument="encoder_hidden_states",
            calls=[1],
        ),
        injected(
            "embeddings of the prompt x1.001",
            "argument",
            denoiser,
            how="scale",
            argument="encoder_hidden_states",
            factor=1.001,
        ),
        injected(
            "pooled embedding of the prompt x1.001",
            "argument",
            denoiser,
            how="scale",
            argument="pooled_projections",
            factor=1.001,
        ),
        injected(
            "pooled embedding of the prompt shifted",
            "argument",
            denoiser,
            how="add",
            argument="pooled_projections",
            by=1e-3,
        ),
    ]


def _biases(denoiser: str) -> list[Fault]:
    """Faults that shift one channel of one convolution or linear layer."""
    places = (
        ("first convolution", denoiser, "convolution", 0.0),
        ("a middle convolution", denoiser, "convolution", 0.5),
        ("last convolution", denoiser, "convolution", 0.999),
        ("first linear layer", denoiser, "linear", 0.0),
        ("a middle linear layer", denoiser, "linear", 0.5),
        ("last linear layer", denoiser, "linear", 0.999),
        ("VAE: last convolution", "vae", "convolution", 0.999),
        ("VAE: a late convolution", "vae", "convolution", 0.8),
    )
    return [
        injected(
            f"{place}: bias of one channel + {by:g}",
            "weights",
            component,
            modules=modules,
            at=at,
            parameter="bias",
            how="add",
            by=by,
        )
        for place, component, modules, at in places
        for by in (1e-5, 1e-4)
    ]


def _norms(denoiser: str) -> list[Fault]:
    return [
        *(
            injected(
                f"{function} with unbiased variance",
                "operator",
                component,
                function=function,
                how="unbiased",
            )
            for component, function in (
                (denoiser, "group_norm"),
                (denoiser, "layer_norm"),
            )
        ),
        injected(
            "one group_norm with unbiased variance",
            "operator",
            denoiser,
            modules="GroupNorm",
            at=0.5,
            function="group_norm",
            how="unbiased",
        ),
        injected(
            "text encoder: layer_norm with unbiased variance",
            "operator",
            "text_encoder",
            function="layer_norm",
            how="unbiased",
        ),
        injected(
            "VAE: group_norm with unbiased variance",
            "operator",
            "vae",
            function="group_norm",
            how="unbiased",
        ),
        injected("VAE: norms' epsilon x10", "epsilon", "vae", modules="norm", at=None, factor=10.0),
        injected(
            "RMS norms' epsilon x10",
            "attribute",
            denoiser,
            modules="RMSNorm",
            name="eps",
            how="scale",
            factor=10.0,
        ),
        injected(
            "text encoder: norms' epsilon x10",
            "epsilon",
            "text_encoder",
            modules="norm",
            at=None,
            factor=10.0,
        ),
    ]


def _activations(denoiser: str) -> list[Fault]:
    return [
        injected(
            "GELU by tanh, or exact in its place",
            "operator",
            denoiser,
            function="gelu",
            how="other-gelu",
        ),
        injected("GELU by a sigmoid", "operator", denoiser, function="gelu", how="quick"),
        injected(
            "text encoder: exact GELU",
            "operator",
            "text_encoder",
            function="gelu",
            how="other-gelu",
        ),
        injected(
            "one SiLU in bfloat16",
            "operator",
            denoiser,
            modules="ResnetBlock2D",
            at=0.5,
            function="silu",
            how="narrow",
            dtype=BFLOAT16,
        ),
        injected(
            "one block's SiLU piecewise linear",
            "operator",
            denoiser,
            modules="ResnetBlock2D",
            at=0.5,
            function="silu",
            how="hard",
        ),
        injected(
            "VAE: SiLU in bfloat16",
            "operator",
            "vae",
            function="silu",
            how="narrow",
            dtype=BFLOAT16,
        ),
    ]


def _layers(denoiser: str) -> list[Fault]:
    """Faults in resampling and padding."""
    bilinear = {"mode": "bilinear", "align_corners": False}
    corners = {"mode": "bilinear", "align_corners": True}
    resized = partial(injected, function="interpolate", how="arguments")
    return [
        resized(
            "upsampling nearest-exact", "operator", denoiser, arguments={"mode": "nearest-exact"}
        ),
        resized("upsampling bilinear", "operator", denoiser, arguments=bilinear),
        resized("VAE: upsampling bilinear", "operator", "vae", arguments=bilinear),
        resized("VAE: upsampling bilinear, corners aligned", "operator", "vae", arguments=corners),
        *(
            injected(
                f"{name}: one convolution pads by replication",
                "attribute",
                component,
                modules="convolution",
                at=at,
                name="padding_mode",
                how="set",
                value="replicate",
            )
            for name, component, at in (("denoiser", denoiser, 0.5), ("VAE", "vae", 0.999))
        ),
    ]


def _positions(denoiser: str) -> list[Fault]:
    """Faults in the embeddings of positions."""
    return [
        *(
            injected(
                f"rotary embedding in {dtype}",
                "result",
                denoiser,
                modules=modules,
                how="round",
                dtype=dtype,
            )
            for modules, dtype in (("PosEmbed", BFLOAT16), ("PosEmbed", HALF))
        ),
        injected(
            "positions of the image shifted by one",
            "argument",
            denoiser,
            argument="img_ids",
            how="add",
            by=1,
        ),
        injected(
            "positions of the text shifted by one",
            "argument",
            denoiser,
            argument="txt_ids",
            how="add",
            by=1,
        ),
        injected(
            "rotary base x1.001",
            "attribute",
            denoiser,
            modules="PosEmbed",
            name="theta",
            how="scale",
            factor=1.001,
        ),
        *(
            injected(
                f"{encoder}: relative positions shifted by one",
                "weights",
                encoder,
                modules="Embedding",
                path="relative_attention_bias",
                how="next-position",
            )
            for encoder in ENCODERS
        ),
    ]


def _weights_of_a_release(denoiser: str) -> list[Fault]:
    return [
        injected(
            "half the layers of another average",
            "weights",
            denoiser,
            modules="matrix",
            at=None,
            every=2,
            how="mix",
            share=1e-3,
        ),
        injected(
            "scale of the LoRA x1.01",
            "attribute",
            denoiser,
            modules="any",
            name="scaling",
            how="scale",
            factor=1.01,
        ),
        injected("ControlNet: result x1.001", "result", "controlnet", how="scale", factor=1.001),
        injected(
            f"ControlNet: condition in {BFLOAT16}",
            "argument",
            "controlnet",
            argument="controlnet_cond",
            how="round",
            dtype=BFLOAT16,
        ),
    ]


def _latents() -> list[Fault]:
    return [
        injected(
            "vae.shift_factor = 0.001", "configuration", "vae", name="shift_factor", value=1e-3
        ),
        *(
            injected(
                f"scheduler.{name} = x1.001", "configuration", "scheduler", name=name, factor=1.001
            )
            for name in ("shift", "base_shift")
        ),
        injected(
            "VAE: mean of the latents + 0.001",
            "attribute",
            "vae",
            name="latents_mean",
            how="add",
            by=1e-3,
        ),
        injected(
            "VAE: deviation of the latents x1.001",
            "attribute",
            "vae",
            name="latents_std",
            how="scale",
            factor=1.001,
        ),
        injected(
            f"VAE: latents in {BFLOAT16}",
            "argument",
            "vae",
            method="decode",
            argument="z",
            how="round",
            dtype=BFLOAT16,
        ),
        injected(
            "start image noised at the next timestep",
            "argument",
            "scheduler",
            method="add_noise",
            argument="timesteps",
            how="add",
            by=1,
        ),
        injected(
            "frames of a video swapped", "result", "vae", method="decode", how="frames-swapped"
        ),
    ]


def _images() -> list[Fault]:
    """Faults in what is done to images before and after the model."""
    processor = "image_processor"
    return [
        injected(
            "image cut to levels, not rounded",
            "argument",
            processor,
            method="numpy_to_pil",
            argument="images",
            how="whole-levels",
        ),
        injected(
            "image scaled by 1.001 before the clamp",
            "argument",
            processor,
            method="denormalize",
            argument="images",
            how="scale",
            factor=1.001,
        ),
        injected(
            "image in float16 before the clamp",
            "argument",
            processor,
            method="denormalize",
            argument="images",
            how="round",
            dtype=HALF,
        ),
        injected(
            "start image normalised by 128",
            "result",
            processor,
            method="normalize",
            how="scale",
            factor=127.5 / 128,
        ),
        injected(
            "start image in bfloat16",
            "argument",
            "vae",
            method="encode",
            argument="x",
            how="round",
            dtype=BFLOAT16,
        ),
        injected(
            "start image resized by another filter",
            "configuration",
            processor,
            name="resample",
            value="nearest",
        ),
        injected(
            "mask not binarised", "configuration", "mask_processor", name="do_binarize", value=False
        ),
    ]


def _noise(denoiser: str) -> list[Fault]:
    return [
        injected(f"noise {how}", "noise", denoiser, how=kind)
        for how, kind in (
            ("drawn in reverse order", "reversed"),
            ("drawn channels last", "channels-last"),
            ("of the second draw", "second"),
        )
    ]
