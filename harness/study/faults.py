"""The catalogue of faults that a tolerance is challenged with: changes of weights, modules, schedulers, calls and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.scenarios import Case


@dataclass(frozen=True)
class Fault:
    """One realistic fault: its name, and the case that carries it (None where it does not apply)."""

    name: str
    apply: Callable[[Case], Case | None]


UNCLIP_PARTS = ("prior", "super_res_first", "super_res_last", "text_proj")


def catalogue(denoiser: str) -> list[Fault]:
    """Return the faults for a pipeline whose denoising component is `denoiser`: `unet`, or `decoder` of UnCLIP."""

    def planted(title: str, kind: str, component: str = denoiser, **what: Any) -> Fault:
        fault = {"kind": kind, "component": component, **what}
        return Fault(title, lambda case: replace(case, fault=fault))

    def weights(title: str, at: float | None, how: str, modules: str = "matrix", component: str = denoiser, **what: Any) -> Fault:
        return planted(title, "weights", component, modules=modules, at=at, how=how, **what)

    def setting(component: str, name: str, **what: Any) -> Fault:
        after = what.get("value", f"x{what.get('factor')}")
        return planted(f"{component}.{name} = {after}", "configuration", component, name=name, **what)

    return [
        *(weights(f"one convolution x{1 + e:g}", 0.5, "scale", "convolution", factor=1 + e) for e in (1e-4, 1e-3, 1e-2)),
        *(weights(f"one linear x{1 + e:g}", 0.5, "scale", "linear", factor=1 + e) for e in (1e-4, 1e-3, 1e-2)),
        weights("first convolution x1.001", 0.0, "scale", "convolution", factor=1.001),
        weights("last convolution x1.001", 0.999, "scale", "convolution", factor=1.001),
        weights("all weights x1.0001", None, "scale", factor=1.0001),
        weights("one weight x1.1", 0.5, "one", "convolution", factor=1.1),
        weights("one weight x2", 0.999, "one", "convolution", factor=2.0),
        weights("one weight by one unit in the last place", 0.5, "one-ulp", "convolution"),
        weights("attention query x1.01", 0.3, "scale", "linear", factor=1.01),
        *(weights(f"one layer in {dtype}", 0.5, dtype) for dtype in ("bfloat16", "float16")),
        *(weights(f"all layers in {dtype}", None, dtype) for dtype in ("bfloat16", "float16")),
        weights("last convolution's channels reversed", 0.999, "flip", "convolution"),
        weights("one convolution zeroed", 0.5, "zero", "convolution"),
        weights("norms' gain x1.001", None, "scale", "norm", factor=1.001),
        planted("GroupNorm epsilon x10, all", "epsilon", modules="norm", at=None, factor=10.0),
        planted("GroupNorm epsilon x10, one", "epsilon", modules="norm", at=0.5, factor=10.0),
        *(planted(f"one module's results in {d}", "outputs", modules="matrix", at=0.5, dtype=d) for d in ("bfloat16", "float16")),
        planted("TF32 operands everywhere", "operands", modules="matrix", at=None, bits=10),
        planted("TF32 operands in one layer", "operands", modules="matrix", at=0.5, bits=10),
        planted("first residual skipped", "residual", at=0.0),
        planted("a middle residual skipped", "residual", at=0.5),
        planted("timestep off by one", "timestep", by=1),
        planted("timestep off by ten", "timestep", by=10),
        planted("flash attention in place of math", "attention"),
        *(planted(f"noise drawn in {dtype}", "noise", dtype=dtype) for dtype in ("bfloat16", "float16")),
        *(setting("scheduler", "steps_offset", value=value) for value in (0, 1, 2)),
        *(setting("scheduler", "timestep_spacing", value=value) for value in ("leading", "trailing", "linspace")),
        *(setting("scheduler", "beta_end", factor=factor) for factor in (1.0001, 1.01)),
        setting("scheduler", "beta_start", factor=1.01),
        *(setting("scheduler", "set_alpha_to_one", value=value) for value in (True, False)),
        *(setting("scheduler", "clip_sample", value=value) for value in (True, False)),
        setting("scheduler", "thresholding", value=True),
        setting("scheduler", "rescale_betas_zero_snr", value=True),
        setting("vae", "scaling_factor", factor=1.001),
        setting("vae", "scaling_factor", factor=1.01),
        weights("text encoder: one linear x1.001", 0.5, "scale", "linear", "text_encoder", factor=1.001),
        weights("text encoder in bfloat16", None, "bfloat16", "linear", "text_encoder"),
        weights("VAE: one convolution x1.001", 0.9, "scale", "convolution", "vae", factor=1.001),
        *(weights(f"{part}: one matrix x1.01", 0.5, "scale", "matrix", part, factor=1.01) for part in UNCLIP_PARTS),
        setting("prior_scheduler", "clip_sample_range", factor=0.1),
        setting("decoder_scheduler", "num_train_timesteps", value=999),
        _call("guidance_scale", lambda value: value * 1.001),
        _call("guidance_scale", lambda value: value + 1),
        _call("num_inference_steps", lambda value: value + 1),
        _call("eta", lambda _: 0.001, default=0.0),
        _call("prompt", _another_word),
        _call("prompt", lambda value: _each(value, lambda text: text + " s")),
        Fault("seed + 1", _other_seed),
        Fault("numpy noise in place of torch's", _other_generator),
    ]  # fmt: skip


def _call(name: str, change: Callable[[Any], Any], default: Any = None) -> Fault:
    def apply(case: Case) -> Case | None:
        call = case.scenario.call
        if call.get(name, default) is None:
            return None
        after = change(call.get(name, default))
        return replace(case, scenario=replace(case.scenario, call={**call, name: after}))

    return Fault(f"call: another {name}", apply)


def _other_seed(case: Case) -> Case:
    return replace(case, scenario=replace(case.scenario, seeds=tuple(seed + 1 for seed in case.scenario.seeds)))


def _each(value: str | list[str], change: Callable[[str], str]) -> str | list[str]:
    return change(value) if isinstance(value, str) else [change(text) for text in value]


def _another_word(value: str | list[str]) -> str | list[str]:
    """Replace the last word: the smallest change of meaning that a prompt can have."""
    return _each(value, lambda text: " ".join([*text.split()[:-1], "one"]))


def _other_generator(case: Case) -> Case | None:
    if case.scenario.generator != "cpu":
        return None
    return replace(case, scenario=replace(case.scenario, generator="numpy"))
