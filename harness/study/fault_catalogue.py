"""The catalogue of faults with which `harness challenge` tests the bounds of a scenario.

They change weights, modules, schedulers, calls and noise, each by as little as happens in practice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from harness.records import Dtype
from harness.scenario.fields import Generator
from harness.scenario.model import Case
from harness.study.fault_forms import Fault, called_with, injected, one_more, slightly_more
from harness.study.release_faults import release_faults

HALF_TYPES = (Dtype.BFLOAT16, Dtype.FLOAT16)
FACTORS = (1.0001, 1.001, 1.01)
TF32_MANTISSA = 10  # bits
UNCLIP_PARTS = ("prior", "super_res_first", "super_res_last", "text_proj")


def catalogue(denoiser: str) -> list[Fault]:
    """Return the faults for a pipeline.

    Args:
        denoiser: The component that removes noise: `unet`, `transformer`, or `decoder` of UnCLIP.
    """
    return [
        *_weight_faults(denoiser),
        *_module_faults(denoiser),
        *_configuration_faults(),
        *_faults_beside_the_denoiser(),
        *_call_faults(),
        *release_faults(denoiser),
    ]


# Faults that the worker injects; `worker.faults` says what each kind needs.


def _scaled(
    name: str, component: str, at: float | None, factor: float, modules: str = "matrix"
) -> Fault:
    """Return a fault that scales weights.

    Args:
        name: Of the fault.
        component: Whose weights.
        at: A fraction of the depth, which picks one module; None takes all.
        factor: By which they are multiplied.
        modules: Of which kind.
    """
    return injected(name, "weights", component, modules=modules, at=at, how="scale", factor=factor)


def _rewritten(
    name: str, component: str, at: float | None, how: str, modules: str = "matrix"
) -> Fault:
    """Return a fault that changes weights otherwise; the arguments are those of `_scaled`."""
    return injected(name, "weights", component, modules=modules, at=at, how=how)


def _one_weight(name: str, component: str, at: float, factor: float) -> Fault:
    """Return a fault that scales the largest weight of one convolution."""
    return injected(
        name, "weights", component, modules="convolution", at=at, how="one", factor=factor
    )


def _weight_faults(denoiser: str) -> list[Fault]:
    return [
        *(
            _scaled(f"one convolution x{factor:g}", denoiser, 0.5, factor, "convolution")
            for factor in FACTORS
        ),
        *(
            _scaled(f"one linear layer x{factor:g}", denoiser, 0.5, factor, "linear")
            for factor in FACTORS
        ),
        _scaled("an early linear layer x1.01", denoiser, 0.3, 1.01, "linear"),
        _scaled("first convolution x1.001", denoiser, 0.0, 1.001, "convolution"),
        _scaled("last convolution x1.001", denoiser, 0.999, 1.001, "convolution"),
        _scaled("all weights x1.0001", denoiser, None, 1.0001),
        _one_weight("one weight x1.1", denoiser, 0.5, 1.1),
        _one_weight("one weight x2", denoiser, 0.999, 2.0),
        _rewritten(
            "one weight by one unit in the last place", denoiser, 0.5, "one-ulp", "convolution"
        ),
        *(_rewritten(f"one layer in {dtype}", denoiser, 0.5, dtype) for dtype in HALF_TYPES),
        *(_rewritten(f"all layers in {dtype}", denoiser, None, dtype) for dtype in HALF_TYPES),
        _rewritten("last convolution's channels reversed", denoiser, 0.999, "flip", "convolution"),
        _rewritten("one convolution zeroed", denoiser, 0.5, "zero", "convolution"),
        _scaled("norms' gain x1.001", denoiser, None, 1.001, "norm"),
    ]


def _module_faults(denoiser: str) -> list[Fault]:
    return [
        *_epsilon_faults(denoiser),
        *(_rounded_results(denoiser, dtype) for dtype in HALF_TYPES),
        _rounded_operands("TF32 operands everywhere", denoiser, None),
        _rounded_operands("TF32 operands in one layer", denoiser, 0.5),
        injected("first residual skipped", "residual", denoiser, at=0.0),
        injected("a middle residual skipped", "residual", denoiser, at=0.5),
        injected("timestep off by one", "timestep", denoiser, by=1),
        injected("timestep off by ten", "timestep", denoiser, by=10),
        injected("flash attention in place of math", "attention", denoiser),
        *(
            injected(f"noise drawn in {dtype}", "noise", denoiser, dtype=dtype)
            for dtype in HALF_TYPES
        ),
    ]


def _epsilon_faults(denoiser: str) -> list[Fault]:
    places = (("all", None), ("one", 0.5))
    return [
        injected(
            f"GroupNorm epsilon x10, {which}",
            "epsilon",
            denoiser,
            modules="norm",
            at=at,
            factor=10.0,
        )
        for which, at in places
    ]


def _rounded_results(denoiser: str, dtype: Dtype) -> Fault:
    name = f"one module's results in {dtype}"
    return injected(name, "outputs", denoiser, modules="matrix", at=0.5, dtype=dtype)


def _rounded_operands(name: str, denoiser: str, at: float | None) -> Fault:
    return injected(name, "operands", denoiser, modules="matrix", at=at, bits=TF32_MANTISSA)


def _configuration_faults() -> list[Fault]:
    scheduler = "scheduler"
    return [
        *_each_value(scheduler, "steps_offset", (0, 1, 2)),
        *_each_value(scheduler, "timestep_spacing", ("leading", "trailing", "linspace")),
        *_each_value(scheduler, "final_sigmas_type", ("zero", "sigma_min")),
        _times(scheduler, "beta_end", 1.0001),
        _times(scheduler, "beta_end", 1.01),
        _times(scheduler, "beta_start", 1.01),
        *_each_value(scheduler, "set_alpha_to_one", (True, False)),
        *_each_value(scheduler, "clip_sample", (True, False)),
        *_each_value(scheduler, "thresholding", (True,)),
        *_each_value(scheduler, "rescale_betas_zero_snr", (True,)),
        _times("vae", "scaling_factor", 1.001),
        _times("vae", "scaling_factor", 1.01),
        _times("prior_scheduler", "clip_sample_range", 0.1),
        *_each_value("decoder_scheduler", "num_train_timesteps", (999,)),
    ]


def _each_value(component: str, name: str, values: Sequence[object]) -> list[Fault]:
    """Return one fault for each value that an entry of a component's configuration may have."""
    return [
        injected(
            f"{component}.{name} = {value}", "configuration", component, name=name, value=value
        )
        for value in values
    ]


def _times(component: str, name: str, factor: float) -> Fault:
    """Return a fault that multiplies an entry of a component's configuration."""
    title = f"{component}.{name} = x{factor}"
    return injected(title, "configuration", component, name=name, factor=factor)


def _faults_beside_the_denoiser() -> list[Fault]:
    encoder = "text_encoder"
    return [
        _scaled("text encoder: one linear layer x1.001", encoder, 0.5, 1.001, "linear"),
        _rewritten("text encoder in bfloat16", encoder, None, Dtype.BFLOAT16, "linear"),
        _scaled("VAE: one convolution x1.001", "vae", 0.9, 1.001, "convolution"),
        *(_scaled(f"{part}: one matrix x1.01", part, 0.5, 1.01) for part in UNCLIP_PARTS),
    ]


# Faults in what the scenario asks for.


def _call_faults() -> list[Fault]:
    return [
        called_with("guidance scale x1.001", "guidance_scale", slightly_more),
        called_with("guidance scale + 1", "guidance_scale", one_more),
        called_with("one step more", "num_inference_steps", one_more),
        called_with("eta 0.001", "eta", _a_thousandth, default=0.0),
        called_with("another word in the prompt", "prompt", _another_word),
        called_with("one token more in the prompt", "prompt", _another_token),
        Fault("seed + 1", _other_seed),
        Fault("numpy noise in place of torch's", _other_generator),
    ]


def _a_thousandth(_value: object) -> object:
    return 0.001


def _another_word(prompt: object) -> object:
    """Replace the last word: the smallest change of meaning that a prompt can have."""
    return _in_each_text(prompt, _with_another_last_word)


def _another_token(prompt: object) -> object:
    return _in_each_text(prompt, _with_a_letter_more)


def _in_each_text(prompt: object, change: Callable[[str], str]) -> object:
    """Change one prompt, or each of a list."""
    if isinstance(prompt, str):
        return change(prompt)
    return [change(text) for text in cast("list[str]", prompt)]


def _with_another_last_word(text: str) -> str:
    return " ".join([*text.split()[:-1], "one"])


def _with_a_letter_more(text: str) -> str:
    return f"{text} s"


def _other_seed(case: Case) -> Case:
    seeds = tuple(seed + 1 for seed in case.scenario.seeds)
    return replace(case, scenario=replace(case.scenario, seeds=seeds))


def _other_generator(case: Case) -> Case | None:
    if case.scenario.generator is not Generator.CPU:
        return None
    return replace(case, scenario=replace(case.scenario, generator=Generator.NUMPY))
