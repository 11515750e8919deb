"""The catalogue of faults that a tolerance is challenged with: changes of weights, modules, schedulers, calls and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.scenario.model import Case


@dataclass(frozen=True)
class Fault:
    """One realistic fault: its name, and the case that carries it (None where it does not apply)."""

    name: str
    apply: Callable[[Case], Case | None]


HALVES = ("bfloat16", "float16")
UNCLIP_PARTS = ("prior", "super_res_first", "super_res_last", "text_proj")


def catalogue(denoiser: str) -> list[Fault]:
    """Return the faults for a pipeline whose denoising component is `denoiser`: `unet`, or `decoder` of UnCLIP."""
    return [
        *_weights_faults(denoiser),
        *_module_faults(denoiser),
        *_setting_faults(),
        *_part_faults(),
        *_call_faults(),
    ]


def _planted(title: str, kind: str, component: str, **what: Any) -> Fault:
    fault = {"kind": kind, "component": component, **what}
    return Fault(title, lambda case: replace(case, fault=fault))


def _weights(
    title: str, component: str, at: float | None, how: str, modules: str = "matrix", **what: Any
) -> Fault:
    """Change weights of modules of one kind: all of them, or the one `at` a fraction of the depth."""
    return _planted(title, "weights", component, modules=modules, at=at, how=how, **what)


def _setting(component: str, name: str, **what: Any) -> Fault:
    after = what.get("value", f"x{what.get('factor')}")
    return _planted(f"{component}.{name} = {after}", "configuration", component, name=name, **what)


def _weights_faults(unet: str) -> list[Fault]:
    return [
        *(
            _weights(f"one convolution x{1 + e:g}", unet, 0.5, "scale", "convolution", factor=1 + e)
            for e in (1e-4, 1e-3, 1e-2)
        ),
        *(
            _weights(f"one linear layer x{1 + e:g}", unet, 0.5, "scale", "linear", factor=1 + e)
            for e in (1e-4, 1e-3, 1e-2)
        ),
        _weights("an early linear layer x1.01", unet, 0.3, "scale", "linear", factor=1.01),
        _weights("first convolution x1.001", unet, 0.0, "scale", "convolution", factor=1.001),
        _weights("last convolution x1.001", unet, 0.999, "scale", "convolution", factor=1.001),
        _weights("all weights x1.0001", unet, None, "scale", factor=1.0001),
        _weights("one weight x1.1", unet, 0.5, "one", "convolution", factor=1.1),
        _weights("one weight x2", unet, 0.999, "one", "convolution", factor=2.0),
        _weights("one weight by one unit in the last place", unet, 0.5, "one-ulp", "convolution"),
        *(_weights(f"one layer in {dtype}", unet, 0.5, dtype) for dtype in HALVES),
        *(_weights(f"all layers in {dtype}", unet, None, dtype) for dtype in HALVES),
        _weights("last convolution's channels reversed", unet, 0.999, "flip", "convolution"),
        _weights("one convolution zeroed", unet, 0.5, "zero", "convolution"),
        _weights("norms' gain x1.001", unet, None, "scale", "norm", factor=1.001),
    ]


def _module_faults(unet: str) -> list[Fault]:
    return [
        _planted(
            "GroupNorm epsilon x10, all", "epsilon", unet, modules="norm", at=None, factor=10.0
        ),
        _planted(
            "GroupNorm epsilon x10, one", "epsilon", unet, modules="norm", at=0.5, factor=10.0
        ),
        *(
            _planted(
                f"one module's results in {d}", "outputs", unet, modules="matrix", at=0.5, dtype=d
            )
            for d in HALVES
        ),
        _planted("TF32 operands everywhere", "operands", unet, modules="matrix", at=None, bits=10),
        _planted("TF32 operands in one layer", "operands", unet, modules="matrix", at=0.5, bits=10),
        _planted("first residual skipped", "residual", unet, at=0.0),
        _planted("a middle residual skipped", "residual", unet, at=0.5),
        _planted("timestep off by one", "timestep", unet, by=1),
        _planted("timestep off by ten", "timestep", unet, by=10),
        _planted("flash attention in place of math", "attention", unet),
        *(_planted(f"noise drawn in {dtype}", "noise", unet, dtype=dtype) for dtype in HALVES),
    ]


def _setting_faults() -> list[Fault]:
    scheduler = "scheduler"
    return [
        *(_setting(scheduler, "steps_offset", value=value) for value in (0, 1, 2)),
        *(
            _setting(scheduler, "timestep_spacing", value=value)
            for value in ("leading", "trailing", "linspace")
        ),
        *(_setting(scheduler, "final_sigmas_type", value=value) for value in ("zero", "sigma_min")),
        *(_setting(scheduler, "beta_end", factor=factor) for factor in (1.0001, 1.01)),
        _setting(scheduler, "beta_start", factor=1.01),
        *(_setting(scheduler, "set_alpha_to_one", value=value) for value in (True, False)),
        *(_setting(scheduler, "clip_sample", value=value) for value in (True, False)),
        _setting(scheduler, "thresholding", value=True),
        _setting(scheduler, "rescale_betas_zero_snr", value=True),
        _setting("vae", "scaling_factor", factor=1.001),
        _setting("vae", "scaling_factor", factor=1.01),
        _setting("prior_scheduler", "clip_sample_range", factor=0.1),
        _setting("decoder_scheduler", "num_train_timesteps", value=999),
    ]


def _part_faults() -> list[Fault]:
    """Faults in components beside the denoiser."""
    return [
        _weights(
            "text encoder: one linear layer x1.001",
            "text_encoder",
            0.5,
            "scale",
            "linear",
            factor=1.001,
        ),
        _weights("text encoder in bfloat16", "text_encoder", None, "bfloat16", "linear"),
        _weights("VAE: one convolution x1.001", "vae", 0.9, "scale", "convolution", factor=1.001),
        *(
            _weights(f"{part}: one matrix x1.01", part, 0.5, "scale", factor=1.01)
            for part in UNCLIP_PARTS
        ),
    ]


def _call_faults() -> list[Fault]:
    return [
        _call("guidance scale x1.001", "guidance_scale", lambda value: value * 1.001),
        _call("guidance scale + 1", "guidance_scale", lambda value: value + 1),
        _call("one step more", "num_inference_steps", lambda value: value + 1),
        _call("eta 0.001", "eta", lambda _: 0.001, default=0.0),
        _call("another word in the prompt", "prompt", _another_word),
        _call(
            "one token more in the prompt",
            "prompt",
            lambda value: _each(value, lambda text: text + " s"),
        ),
        Fault("seed + 1", _other_seed),
        Fault("numpy noise in place of torch's", _other_generator),
    ]


def _call(title: str, name: str, change: Callable[[Any], Any], default: Any = None) -> Fault:
    def apply(case: Case) -> Case | None:
        call = case.scenario.call
        if call.get(name, default) is None:
            return None
        after = change(call.get(name, default))
        return replace(case, scenario=replace(case.scenario, call={**call, name: after}))

    return Fault(title, apply)


def _other_seed(case: Case) -> Case:
    return replace(
        case, scenario=replace(case.scenario, seeds=tuple(seed + 1 for seed in case.scenario.seeds))
    )


def _each(value: str | list[str], change: Callable[[str], str]) -> str | list[str]:
    return change(value) if isinstance(value, str) else [change(text) for text in value]


def _another_word(value: str | list[str]) -> str | list[str]:
    """Replace the last word: the smallest change of meaning that a prompt can have."""
    return _each(value, lambda text: " ".join([*text.split()[:-1], "one"]))


def _other_generator(case: Case) -> Case | None:
    if case.scenario.generator != "cpu":
        return None
    return replace(case, scenario=replace(case.scenario, generator="numpy"))
