"""Challenge: faults are planted, prove their effect, are caught or missed by the bounds, and leave nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.judge import drift
from harness.judge.first_difference import by_value
from harness.scenario.model import read
from harness.session import Session
from harness.store.baselines import Store
from harness.study import challenge as study
from harness.study.challenge import Challenge, Trial
from harness.study.fault_catalogue import catalogue
from harness.study.other_methods import unseen_by
from harness.study.platforms import PLATFORMS
from harness.worker.faults import planted
from harness.worker.protocol import CaseError

ROOT = Path(__file__).resolve().parents[2]
LARGE, SMALL = "last convolution x1.001", "one weight by one unit in the last place"


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
    """The module computes otherwise while the fault is in, says what was changed, and has every bit back afterwards."""
    model, sample = Denoiser(), torch.linspace(-1, 1, 9).reshape(1, 1, 3, 3)
    pipeline = SimpleNamespace(components={"unet": model})
    before = model(sample, 1)
    with planted(pipeline, {"component": "unet", **CHANGES[name]}) as proof:
        assert proof
        assert not torch.equal(model(sample, 1), before)
    assert torch.equal(model(sample, 1), before)
    assert "forward" not in vars(model)


def test_a_fault_without_effect_is_refused():
    """Rounding to the type that a weight has changes nothing; nor does a component that is not there."""
    pipeline = SimpleNamespace(components={"unet": Denoiser()})
    for fault in (
        {**CHANGES["rounded"], "how": "float32"},
        {**CHANGES["scaled"], "component": "vae"},
    ):
        with (
            pytest.raises(CaseError, match="changes nothing"),
            planted(pipeline, {"component": "unet", **fault}),
        ):
            pass


def test_the_catalogue_is_long_and_its_names_are_its_own():
    """At least forty faults, each told apart by its name."""
    names = [fault.name for fault in catalogue("unet")]
    assert len(names) == len(set(names)) >= 40


def test_a_certificate_counts_what_another_class_can_tell():
    """A fault below the noise is no miss; one above it that no bound catches is, by name."""
    trials = tuple(
        Trial(name, "proof", effect, (), name)
        for name, effect in (("below", 1e-9), ("above", 1e-3))
    )
    certificate = Challenge("x", "portable", 1e-6, trials, {}).certificate()
    assert certificate == {
        "faults": 2, "same_class_caught": 2, "above_noise": 1, "cross_class_caught": 0, "missed": ["above"], "platform": "portable",
    }  # fmt: skip


def test_methods_in_use_elsewhere_are_blind_where_they_look_away():
    """A change outside nine pixels, a permutation under a sum, and shapes that differ."""
    image = np.linspace(0, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 8, 8, 3)
    other = image.copy()
    other[0, 0, 0, 0] += 0.5
    assert {"nine pixels, 1e-2", "nine pixels, 1e-3"} <= set(unseen_by(other, image))
    assert "abs-sum, 1e-2" in unseen_by(image[:, ::-1], image)
    assert "torch.testing.assert_close" not in unseen_by(other, image)
    assert unseen_by(image[:, :4], image) == []
    assert len(unseen_by(image, image)) == 5


def test_a_platform_that_a_case_cannot_be_carried_to_is_refused(shop):
    """The case has no GPU among its devices; the message says which platforms it has."""
    done = shop.harness("challenge", str(shop.scenario()), "--platform", "cuda")
    assert done.code == 2
    assert (
        f"digits[cpu-float32] has no platform `cuda`; expected one of {', '.join(PLATFORMS)}"
        in done.err
    )


def test_the_command_plants_judges_and_keeps_the_certificate(shop, monkeypatch):
    """Two faults of the catalogue: the large one is caught by a bound, and the baseline keeps the certificate for the gate."""
    chosen = [
        fault
        for fault in catalogue("unet")
        if fault.name in (LARGE, SMALL, "VAE: one convolution x1.001")
    ]
    monkeypatch.setattr(study, "catalogue", lambda denoiser: chosen)
    path = shop.recorded(
        tolerance="{cross-class: {rel_l2: 1.0e-5, local_rel_l2: {scheduler.step: 1.0e-5}}}"
    )
    done = shop.harness(
        "challenge", str(path), "--platform", "aten-default", "--write", "--out", "out"
    )
    assert f"\n{LARGE}" in done.out
    assert "no effect: VAE: one convolution x1.001: " in done.out
    assert "harness, same class" in done.out
    found = json.loads((shop.root / "out" / "challenge.json").read_text(encoding="utf-8"))
    assert {trial["fault"]: trial["caught"] for trial in found["trials"]}[LARGE]
    certificate = json.loads(shop.baseline().read_text(encoding="utf-8"))["certificate"]
    assert LARGE not in certificate["missed"]
    assert certificate["platform"] == "aten-default"


@pytest.mark.slow
def test_a_fault_in_each_part_of_unclip_is_named_by_its_stage_in_another_class(shop):
    """Prior, decoder, both super-resolution models: free drift hides what platforms do anyway, local drift names the stage."""
    case = read(ROOT / "scenarios" / "unclip-synthetic.yaml").cases()[0]
    bounds, there = case.scenario.tolerance["cross-class"], PLATFORMS["portable"].carry(case)
    parts = {
        "prior": 0.5,
        "decoder": 0.5,
        "super_res_first": 0.5,
        "super_res_last": 0.999,
        "text_proj": 0.5,
    }
    with Session(Store(shop.root), shop.root / "run") as session:
        base = session.record(case, folder=shop.root / "base")
        named = {}
        for part, at in {"": 0.0, **parts}.items():
            fault = {
                "kind": "weights",
                "component": part,
                "modules": "matrix",
                "at": at,
                "how": "scale",
                "factor": 1.01,
            }
            carrier = replace(there, fault=fault if part else None, anchors=base.tensors_path)
            local = drift.of_stages(session.record(carrier, folder=shop.root / "local"), base)
            named[part] = by_value(local, {}, bounds)[0]
    assert named.pop("").startswith("no stage leaves its envelope")
    steps = (
        "prior_scheduler.step#",
        "decoder_scheduler.step#",
        "super_res_scheduler.step#0",
        "super_res_scheduler.step#2",
    )
    for said, stage in zip(named.values(), (*steps, "text_proj#0"), strict=True):
        assert said.startswith(stage), said
        assert " is the first outside its envelope" in said
