"""Challenge: faults are injected, prove their effect, are caught or missed, and leave nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import numpy as np
import pytest
import torch

from harness.judge import drift
from harness.judge.first_difference import by_value
from harness.records import Check, DetectionRate, Metric, Stage, StageDrift
from harness.scenario.reading import read
from harness.scenario.tolerance import Evidence, Tolerance
from harness.session import Session
from harness.store.baselines import Store
from harness.study import challenge as study
from harness.study.challenge import Challenge, Shift, Trial
from harness.study.fault_catalogue import catalogue
from harness.study.other_methods import METHODS, unseen_by
from harness.study.platforms import PLATFORMS
from harness.worker.faults import injected
from harness.worker.protocol import CaseError
from harness.worker.tensor_changes import changed, reordered

ROOT = Path(__file__).resolve().parents[2]
LARGE, SMALL = "last convolution x1.001", "one weight by one unit in the last place"
BOUNDS = Tolerance.from_yaml({"rel_l2": 1e-5, "local_rel_l2": {"scheduler.step": 1e-6}})


class Denoiser(torch.nn.Module):
    """One module of each kind that a fault can mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(1, 1, 1)
        self.linear = torch.nn.Linear(3, 3)
        self.norm = torch.nn.GroupNorm(1, 1)

    def forward(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
        return self.norm(self.linear(self.convolution(sample))) + timestep


CHANGES: dict[str, dict[str, Any]] = {
    "scaled": {
        "kind": "weights",
        "modules": "convolution",
        "at": 0.5,
        "how": "scale",
        "factor": 1.5,
    },
    "one weight": {"kind": "weights", "modules": "linear", "at": 0.5, "how": "one", "factor": 1.5},
    "rounded": {"kind": "weights", "modules": "matrix", "at": None, "how": "bfloat16"},
    "epsilon": {"kind": "epsilon", "modules": "norm", "at": None, "factor": 1e5},
    "results": {"kind": "outputs", "modules": "linear", "at": 0.5, "dtype": "float16"},
    "operands": {"kind": "operands", "modules": "matrix", "at": None, "bits": 10},
    "timestep": {"kind": "timestep", "by": 1},
}


@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_a_fault_takes_effect_and_is_taken_out(name: str):
    """While it is in, the module computes otherwise; afterwards it has every bit back."""
    model, sample = Denoiser(), torch.linspace(-1, 1, 9).reshape(1, 1, 3, 3)
    pipeline = SimpleNamespace(components={"unet": model})
    before = model(sample, 1)
    with injected(pipeline, {"component": "unet", **CHANGES[name]}) as proof:
        assert proof
        assert not torch.equal(model(sample, 1), before)
    assert torch.equal(model(sample, 1), before)
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    "fault",
    [
        {**CHANGES["rounded"], "component": "unet", "how": "float32"},
        {**CHANGES["scaled"], "component": "vae"},
    ],
    ids=["rounded-to-its-own-type", "no-such-component"],
)
def test_a_fault_without_effect_is_refused(fault: dict[str, Any]):
    """It would be counted as missed."""
    pipeline = SimpleNamespace(components={"unet": Denoiser()})
    with pytest.raises(CaseError, match="changes nothing"), injected(pipeline, fault):
        pass


# The kinds of faults that releases bring.


class Attention(torch.nn.Module):
    """Scaled dot products of two heads, with a mask."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        heads = values.reshape(1, 2, 8, 9)
        mask = torch.ones(8, 8, dtype=torch.bool).tril()
        mixed = torch.nn.functional.scaled_dot_product_attention(
            heads, heads, heads, attn_mask=mask
        )
        return mixed.reshape(values.shape)


class Network(torch.nn.Module):
    """Calls each function of torch that a fault can change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.group = torch.nn.GroupNorm(2, 4)
        self.linear = torch.nn.Linear(6, 6)
        self.layer = torch.nn.LayerNorm(6)
        self.attention = Attention()

    def forward(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        hidden = torch.nn.functional.silu(self.group(self.convolution(sample)))
        hidden = hidden + self.attention(hidden)
        hidden = torch.nn.functional.interpolate(hidden, scale_factor=1.5, mode="nearest")
        hidden = torch.nn.functional.gelu(hidden[..., :6])
        return self.layer(self.linear(hidden)) + timestep / 7


class Tokenizer:
    """Pads on a side, as one of transformers does."""

    padding_side = "right"

    def __call__(self, text: str, padding: bool = True) -> list[int]:
        found = [ord(letter) for letter in text]
        added = [0] * (6 - len(found)) if padding else []
        return found + added if self.padding_side == "right" else added + found


class Scheduler:
    """Holds a table, and makes another one of it."""

    def __init__(self) -> None:
        self.alphas = torch.linspace(1, 0.1, 10)
        self.sigmas: torch.Tensor | None = None
        self.steps = 0

    def set_timesteps(self, steps: int) -> None:
        self.steps = steps
        self.sigmas = 1 - self.alphas[:steps]

    def step(self, sample: torch.Tensor, order: list[int]) -> dict[str, Any]:
        assert self.sigmas is not None
        held = sample * self.sigmas.sum() + self.alphas.sum() / self.steps
        return {"sample": held + order[-1]}


class Processor:
    """A static method, as image processors have."""

    @staticmethod
    def to_levels(images: np.ndarray) -> np.ndarray:
        return (images * 255).round()


def made_pipeline() -> SimpleNamespace:
    """Return a pipeline with one part of each kind."""
    parts = {"unet": Network(), "tokenizer": Tokenizer(), "scheduler": Scheduler()}
    return SimpleNamespace(components=parts, image_processor=Processor())


@torch.no_grad()
def result_of(pipeline: SimpleNamespace) -> list[np.ndarray]:
    """Return what every part gives, with a fresh scheduler as in every run."""
    scheduler = Scheduler()
    scheduler.set_timesteps(4)
    sample = torch.linspace(-1, 1, 144).reshape(1, 4, 6, 6)
    both = torch.cat((sample, 2 * sample))
    unet = pipeline.components["unet"]
    given = [
        unet(sample, 901),
        unet(both[:1], 1),
        scheduler.step(sample, [1, 2])["sample"],
        torch.tensor(pipeline.components["tokenizer"]("abc")),
        torch.from_numpy(pipeline.image_processor.to_levels(np.linspace(0, 1, 99))),
    ]
    return [tensor.numpy().copy() for tensor in given]


ATTENTION = "scaled_dot_product_attention"
RELEASE_FAULTS: dict[str, dict[str, Any]] = {
    "argument of a component": {
        "kind": "argument",
        "component": "unet",
        "argument": "timestep",
        "how": "add",
        "by": 1,
    },
    "argument of one call": {
        "kind": "argument",
        "component": "unet",
        "argument": "timestep",
        "how": "scale",
        "factor": 2.0,
        "calls": [1],
    },
    "argument of a module": {
        "kind": "argument",
        "component": "unet",
        "modules": "linear",
        "argument": "input",
        "how": "round",
        "dtype": "bfloat16",
    },
    "list in reverse": {
        "kind": "argument",
        "component": "scheduler",
        "method": "step",
        "argument": "order",
        "how": "reverse",
    },
    "argument of a tokenizer": {
        "kind": "argument",
        "component": "tokenizer",
        "method": "__call__",
        "argument": "padding",
        "how": "set",
        "value": False,
    },
    "static method of a processor": {
        "kind": "argument",
        "component": "image_processor",
        "method": "to_levels",
        "argument": "images",
        "how": "whole-levels",
    },
    "result of a component": {
        "kind": "result",
        "component": "unet",
        "how": "round",
        "dtype": "float16",
    },
    "result of a step": {
        "kind": "result",
        "component": "scheduler",
        "method": "step",
        "how": "clip",
        "limit": 1.0,
    },
    "result of the call before": {
        "kind": "result",
        "component": "unet",
        "how": "repeat",
        "calls": [1],
    },
    "module skipped": {
        "kind": "result",
        "component": "unet",
        "modules": "Norm",
        "path": "layer",
        "how": "skip",
    },
    "attribute of a module": {
        "kind": "attribute",
        "component": "unet",
        "modules": "convolution",
        "name": "padding_mode",
        "how": "set",
        "value": "replicate",
    },
    "attribute of a class": {
        "kind": "attribute",
        "component": "tokenizer",
        "name": "padding_side",
        "how": "set",
        "value": "left",
    },
    "table": {
        "kind": "table",
        "component": "scheduler",
        "name": "sigmas",
        "how": "round",
        "dtype": "float16",
    },
    "table that others follow from": {
        "kind": "table",
        "component": "scheduler",
        "name": "alphas",
        "how": "next-index",
    },
    "number of a scheduler": {
        "kind": "table",
        "component": "scheduler",
        "name": "steps",
        "how": "add",
        "by": -1,
    },
    "bias": {
        "kind": "weights",
        "component": "unet",
        "modules": "convolution",
        "at": 0.0,
        "parameter": "bias",
        "how": "add",
        "by": 1e-3,
    },
    "another average": {
        "kind": "weights",
        "component": "unet",
        "modules": "matrix",
        "at": None,
        "every": 2,
        "how": "mix",
        "share": 1e-2,
    },
    "norm in bfloat16": {
        "kind": "wide",
        "component": "unet",
        "modules": "norm",
        "dtype": "bfloat16",
    },
    "gelu": {"kind": "operator", "component": "unet", "function": "gelu", "how": "other-gelu"},
    "gelu by a sigmoid": {
        "kind": "operator",
        "component": "unet",
        "function": "gelu",
        "how": "quick",
    },
    "hard silu": {"kind": "operator", "component": "unet", "function": "silu", "how": "hard"},
    "narrow silu": {
        "kind": "operator",
        "component": "unet",
        "function": "silu",
        "how": "narrow",
        "dtype": "bfloat16",
    },
    "upsampling": {
        "kind": "operator",
        "component": "unet",
        "function": "interpolate",
        "how": "arguments",
        "arguments": {"mode": "nearest-exact"},
    },
    "unbiased group norm": {
        "kind": "operator",
        "component": "unet",
        "function": "group_norm",
        "how": "unbiased",
    },
    "unbiased layer norm of one module": {
        "kind": "operator",
        "component": "unet",
        "modules": "LayerNorm",
        "at": 0.0,
        "function": "layer_norm",
        "how": "unbiased",
    },
    **{
        f"attention: {how}": {
            "kind": "operator",
            "component": "unet",
            "function": ATTENTION,
            "how": how,
            **details,
        }
        for how, details in (
            ("scale", {"factor": 1.01}),
            ("head", {"factor": 1.01}),
            ("last-key-dropped", {}),
            ("mask-of-first-head", {}),
            ("mask-dropped", {}),
            ("mask-finite", {"limit": 1.0}),
            ("mask-as-numbers", {}),
            ("operands", {"dtype": "bfloat16"}),
        )
    },
}


@pytest.mark.parametrize("name", RELEASE_FAULTS)
def test_a_fault_of_a_release_takes_effect_and_leaves_no_bit_changed(name: str):
    """Whatever it replaces: a method of an instance or of a class, an attribute, a weight."""
    pipeline = made_pipeline()
    before = result_of(pipeline)
    held = [dict(vars(part)) for part in (*pipeline.components.values(), Tokenizer, Scheduler)]
    static = vars(Processor)["to_levels"]
    classes = {"scheduler": Scheduler}
    with injected(pipeline, RELEASE_FAULTS[name], classes) as proof:
        assert proof
        inside = result_of(pipeline)
    assert any(not np.array_equal(one, other) for one, other in zip(inside, before, strict=True))
    after = result_of(pipeline)
    assert all(np.array_equal(one, other) for one, other in zip(after, before, strict=True))
    found = [dict(vars(part)) for part in (*pipeline.components.values(), Tokenizer, Scheduler)]
    assert [each.keys() for each in found] == [each.keys() for each in held]
    assert vars(Processor)["to_levels"] is static


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        ("halves-swapped", [[3.0, 4.0], [1.0, 2.0]]),
        ("second-half-twice", [[3.0, 4.0], [3.0, 4.0]]),
        ("first-place-twice", [[1.0, 1.0], [3.0, 3.0]]),
        ("next-index", [[3.0, 4.0], [3.0, 4.0]]),
        ("frames-swapped", [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_a_batch_is_rearranged(how: str, changes: list[list[float]]):
    """A change that does not fit the shape leaves the tensor as it is."""
    batch = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert changed((batch,), {"how": how})[0].tolist() == changes


def test_frames_of_a_video_are_swapped():
    """The second and the third of four."""
    video = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    assert changed(video, {"how": "frames-swapped"}).flatten().tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("how", ["reversed", "channels-last"])
def test_noise_in_another_order_has_the_same_numbers(how: str):
    """They stand at other places."""
    drawn = torch.randn(2, 3, 4, 4)
    other = reordered(drawn, how)
    assert other is not None
    assert not torch.equal(other, drawn)
    assert torch.equal(other.flatten().sort().values, drawn.flatten().sort().values)


def test_what_the_first_call_of_a_scheduler_leaves_is_changed_for_the_second_only():
    """State that is left between two calls shows in the second call of one object."""
    fault = {**RELEASE_FAULTS["table"], "from_call": 1}
    pipeline = made_pipeline()
    with injected(pipeline, fault, {"scheduler": Scheduler}):
        scheduler = Scheduler()
        scheduler.set_timesteps(4)
        first = scheduler.sigmas
        scheduler.set_timesteps(4)
        assert not torch.equal(first, scheduler.sigmas)


def test_the_catalogue_is_long_and_its_names_are_its_own():
    """At least a hundred faults, each told apart by its name."""
    names = [fault.name for fault in catalogue("unet")]
    assert len(names) == len(set(names)) >= 100


@pytest.mark.parametrize(
    ("name", "call", "changed"),
    [
        ("guidance scale + 1", {"guidance_scale": 3.0}, {"guidance_scale": 4.0}),
        ("guidance scale + 1", {}, None),
        ("one step more", {"num_inference_steps": 2}, {"num_inference_steps": 3}),
        ("eta 0.001", {}, {"eta": 0.001}),
        ("another word in the prompt", {"prompt": "a cat"}, {"prompt": "a one"}),
        ("one token more in the prompt", {"prompt": ["a", "b"]}, {"prompt": ["a s", "b s"]}),
    ],
)
def test_a_fault_of_the_call_changes_one_argument_where_the_call_has_it(name, call, changed):
    """It does not apply to a call without that argument, unless the pipeline has a default."""
    (fault,) = [fault for fault in catalogue("unet") if fault.name == name]
    carrier = fault.apply(builders.case(call=call))
    assert (None if carrier is None else carrier.scenario.call) == changed


@pytest.mark.parametrize(
    ("weights", "denoiser"),
    [
        ({"unet": "w", "vae": "w"}, "unet"),
        ({"decoder": "w", "prior": "w"}, "decoder"),
        ({"transformer": "w"}, "transformer"),
        ({"text_proj": "w"}, "unet"),
    ],
)
def test_the_denoiser_is_the_component_that_the_recorded_pipeline_has(tmp_path, weights, denoiser):
    """A pipeline with neither is challenged all the same, by the faults that apply to it."""
    inputs = {**builders.inputs(), "weights": weights}
    assert study._denoiser(builders.recording(tmp_path, inputs=inputs)) == denoiser


# What is said of a fault.


def trial(effect: float, *checks: Check, fault: str = "fault") -> Trial:
    """Return a trial."""
    return Trial(fault, "proof", effect, checks, fault)


def test_a_detection_rate_counts_what_another_class_can_tell():
    """A fault below the noise is no miss; one above it that no bound catches is, by name."""
    over = Check("image", Metric.REL_L2, 2.0, 1.0)
    trials = (trial(1e-9, fault="below"), trial(1e-3, fault="above"), trial(1e-3, over))
    rate = Challenge("x", "portable", 1e-6, trials, {}).detection_rate()
    assert rate == DetectionRate(
        faults=3,
        same_class_caught=3,
        above_noise=2,
        cross_class_caught=1,
        missed=("above",),
        platform="portable",
    )


def test_a_challenge_is_kept_with_every_trial():
    """What has no finite size is null in JSON."""
    checks = (Check("image", Metric.REL_L2, 3.0, 1.5), Check("image", Metric.L_INF, 1.0, 0.0))
    found = Challenge("x", "portable", 1e-6, (trial(math.inf, *checks),), {"idle": "no effect"})
    content = found.as_json()
    assert content["without_effect"] == {"idle": "no effect"}
    assert content["trials"] == [
        {
            "fault": "fault",
            "proof": "proof",
            "effect": None,
            "ratio": 2.0,
            "caught": True,
            "caught_by": ["l_inf", "rel_l2"],
            "caught_by_norms": True,
            "shift": None,
            "folder": "fault",
            "unseen_by": [],
            "above_noise": True,
        }
    ]


def local_evidence(noise: dict[str, Any], worst: dict[str, Any]) -> Evidence:
    """Return evidence with this noise of local figures."""
    return Evidence(Tolerance(), noise=Tolerance.from_yaml(noise), worst=Tolerance.from_yaml(worst))


STEP_DRIFT = StageDrift(
    Stage("scheduler.step", 1), "sample", 1e-3, 3e-6, gain=0.0, bias=-2e-6, channel_bias=4e-6
)


def test_a_fault_is_above_the_noise_of_the_same_statistic():
    """The figure farthest above what platforms and perturbations gave, of those with a noise."""
    noise = {"local_rel_l2": {"scheduler.step": 1e-6}, "local_bias": {"scheduler.step": 2e-7}}
    worst = {"local_rel_l2": {"scheduler.step": 2e-6}, "local_bias": {"scheduler.step": 1e-7}}
    known = study._local_noise(local_evidence(noise, worst))
    found = study._shift((STEP_DRIFT,), known)
    assert found == Shift("scheduler.step#1/sample", Metric.LOCAL_BIAS, 2e-6, 2e-7)
    assert found.ratio == pytest.approx(10)


@pytest.mark.parametrize(
    ("value", "noise", "ratio"), [(0.0, 0.0, 0.0), (1.0, 0.0, math.inf), (math.nan, 1.0, math.inf)]
)
def test_what_has_no_noise_or_no_value_is_far_above_it(value: float, noise: float, ratio: float):
    """And what did not move is not."""
    assert Shift("x", Metric.LOCAL_REL_L2, value, noise).ratio == ratio


def test_without_evidence_of_local_noise_the_drift_of_the_output_decides():
    """Evidence of an older release says nothing of the figures that it lacks."""
    assert study._shift((STEP_DRIFT,), study._local_noise(None)) is None
    below = replace(trial(1.0), shift=Shift("x", Metric.LOCAL_REL_L2, 1e-7, 1e-6))
    found = Challenge("x", "portable", 1e-6, (trial(1e-3), trial(1e-9), below), {})
    assert found.above_noise == [trial(1e-3)]


def test_what_the_systematic_figures_add_is_told():
    """A fault that only a bound on them catches would pass by norms alone."""
    bias = Check("x", Metric.LOCAL_BIAS, 2.0, 1.0)
    assert not trial(1.0, bias).caught_by_norms
    assert trial(1.0, bias).caught_by == (Metric.LOCAL_BIAS,)
    assert trial(1.0, bias, Check("x", Metric.LOCAL_REL_L2, 2.0, 1.0)).caught_by_norms


def stages_of(tmp_path: Path, name: str, image: np.ndarray, step: np.ndarray, count: int = 2):
    """Return a recording with one kept scheduler step and `count` stages."""
    kept = {"scheduler.step#0/prev_sample": step}
    stages = builders.STAGES[:count]
    return builders.recording(tmp_path / name, image, kept=kept, stages=stages)


def test_the_checks_of_a_fault_are_those_of_its_outputs_and_of_its_stages(tmp_path):
    """Free drift comes from the free run, local drift from the teacher-forced one."""
    step = builders.NOISE
    base = stages_of(tmp_path, "base", builders.IMAGE, step)
    free = stages_of(tmp_path, "free", builders.IMAGE * np.float32(2), step)
    forced = stages_of(tmp_path, "forced", builders.IMAGE, step * np.float32(1.5))
    assert study._checks(free, forced, base, BOUNDS) == [
        Check("image", Metric.REL_L2, 1.0, 1e-5),
        Check("scheduler.step#0/prev_sample", Metric.LOCAL_REL_L2, 0.5, 1e-6),
    ]


def test_another_structure_or_count_of_stages_is_caught(tmp_path):
    """Neither has a drift."""
    step = builders.NOISE
    short = stages_of(tmp_path, "short", builders.IMAGE, step, count=1)
    base = stages_of(tmp_path, "base", builders.IMAGE, step)
    wide = stages_of(tmp_path, "wide", np.zeros((1, 4, 4, 1), np.float32), step)
    (check,) = study._checks(wide, base, base, BOUNDS)
    assert (check.metric, check.passed) == (Metric.STRUCTURE, False)
    count = study._checks(base, base, short, BOUNDS)[-1]
    assert (count.metric, count.value, count.bound) == (Metric.STAGE_COUNT, 2.0, 1.0)
    assert study._effect(wide, base) == math.inf


def test_methods_in_use_elsewhere_are_blind_where_they_look_away():
    """To a change outside nine pixels, and to a permutation under a sum; never to another shape."""
    image = np.linspace(0, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 8, 8, 3)
    other = image.copy()
    other[0, 0, 0, 0] += 0.5
    assert {"nine pixels, 1e-2", "nine pixels, 1e-3"} <= set(unseen_by(other, image))
    assert "abs-sum, 1e-2" in unseen_by(image[:, ::-1], image)
    assert "torch.testing.assert_close" not in unseen_by(other, image)
    assert unseen_by(image[:, :4], image) == []
    assert unseen_by(image, image) == list(METHODS)


# The command.


def test_a_platform_that_a_case_cannot_be_carried_to_is_refused(shop):
    """The case has no GPU among its devices; the message says which platforms it has."""
    done = shop.harness("challenge", str(shop.scenario()), "--platform", "cuda")
    assert done.code == 2
    known = ", ".join(PLATFORMS)
    assert f"digits[cpu-float32] has no platform `cuda`; expected one of {known}" in done.err


@pytest.mark.parametrize("tolerance", ["{batch: {l_inf: 1.0}}", "{cross-class: identical}"])
def test_a_scenario_without_cross_class_bounds_cannot_be_challenged(shop, tolerance: str):
    """There is nothing whose detection rate could be measured."""
    done = shop.harness("challenge", str(shop.scenario(tolerance=tolerance)))
    assert done.code == 2
    assert "digits[cpu-float32] sets no `tolerance.cross-class` to challenge" in done.err


def test_the_command_injects_judges_and_keeps_the_detection_rate(shop, monkeypatch):
    """The large one of two faults is caught, and the baseline keeps the rate for the gate."""
    names = (LARGE, SMALL, "VAE: one convolution x1.001")
    chosen = [fault for fault in catalogue("unet") if fault.name in names]
    monkeypatch.setattr(study, "catalogue", lambda denoiser: chosen)
    bounds = "{rel_l2: 1.0e-5, local_rel_l2: {scheduler.step: 1.0e-5}}"
    path = shop.recorded(tolerance=f"{{cross-class: {bounds}}}")
    options = ("--platform", "aten-default", "--write", "--out", "out")
    done = shop.harness("challenge", str(path), *options)
    assert f"\n{LARGE}" in done.out
    assert "no effect: VAE: one convolution x1.001: " in done.out
    assert "harness, same class" in done.out
    found = json.loads((shop.root / "out" / "challenge.json").read_text(encoding="utf-8"))
    caught = {trial["fault"]: trial["caught"] for trial in found["trials"]}
    assert caught[LARGE]
    rate = json.loads(shop.baseline().read_text(encoding="utf-8"))["detection_rate"]
    assert rate["faults"] == len(caught)
    assert LARGE not in rate["missed"]
    assert rate["platform"] == "aten-default"


@pytest.mark.parametrize(("expect", "trials"), [("stateless", 1), ("repeatable", 0)])
def test_what_a_first_call_leaves_is_caught_where_a_second_one_is_expected(
    shop, monkeypatch, expect: str, trials: int
):
    """No bound sees it, because the first call has the same bits."""
    name = "alphas_cumprod x1.0001 after the first call"
    chosen = [fault for fault in catalogue("unet") if fault.name == name]
    monkeypatch.setattr(study, "catalogue", lambda denoiser: chosen)
    bounds = "{cross-class: {local_rel_l2: {scheduler.step: 1.0e-5}}}"
    case = read(shop.scenario(tolerance=bounds, expect=f"[{expect}]")).cases()[0]
    with Session(Store(shop.root), shop.root / "run") as session:
        platform = "aten-default", PLATFORMS["aten-default"]
        found = study.challenge(session, case, platform, on_step=lambda *_: None)
    assert [trial.caught for trial in found.trials] == [True] * trials


@pytest.mark.slow
def test_a_fault_in_each_part_of_unclip_is_named_by_its_stage_in_another_class(shop):
    """Free drift hides what platforms do anyway; local drift names the stage of the fault."""
    case = read(ROOT / "scenarios" / "unclip-synthetic.yaml").cases()[0]
    bounds = case.scenario.tolerances.cross_class
    elsewhere = PLATFORMS["portable"].carry(case)
    parts = {
        "prior": (0.5, "prior_scheduler.step"),
        "decoder": (0.5, "decoder_scheduler.step"),
        "super_res_first": (0.5, "super_res_scheduler.step"),
        "super_res_last": (0.999, "super_res_scheduler.step"),
        "text_proj": (0.5, "text_proj"),
    }
    faults = {
        part: {
            "kind": "weights",
            "component": part,
            "modules": "matrix",
            "at": at,
            "how": "scale",
            "factor": 1.01,
        }
        for part, (at, _) in parts.items()
    }
    with Session(Store(shop.root), shop.root / "run") as session:
        base = session.record(case, folder=shop.root / "base")

        def first_outside(fault: dict[str, Any] | None) -> Stage | None:
            carrier = replace(elsewhere, fault=fault, teacher_tensors=base.tensors_path)
            forced = session.record(carrier, folder=shop.root / "local")
            outside = by_value(drift.of_teacher_forced(forced, base), (), bounds).outside
            return None if outside is None else outside.drift.stage

        assert first_outside(None) is None
        found = {part: first_outside(fault) for part, fault in faults.items()}
    assert {part: stage.kind for part, stage in found.items()} == {
        part: kind for part, (_, kind) in parts.items()
    }
    assert (found["super_res_first"].index, found["super_res_last"].index) == (0, 2)
