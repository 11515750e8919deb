"""MindSpore beside torch: the same noise, an environment of its own, and, where that is made, the same recording.

The slow tests make the environment (about a minute and 3 GB), which the nightly keeps.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
import torch

from harness.judge import module_diff as inside
from harness.judge.cost import judge_cost
from harness.judge.environment_diff import list_changes
from harness.launch import sandbox
from harness.launch.process import variables
from harness.scenario.model import read
from harness.session import Session
from harness.store.baselines import Store
from harness.study.revert import candidates
from harness.worker.conditions import noise

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = ROOT / "scenarios" / "ddim-digits-mindspore.yaml"
CASE = "ddim-digits-mindspore[cpu-float32]"


def test_a_generator_of_numpy_draws_what_torch_is_fed():
    """Per image in float64 and cast, as mindone does; so the two frameworks start from the same bits."""
    cpu = torch.device("cpu")
    given = noise.Source("numpy", [3, 4], cpu, numpy_generators=True)
    fed = noise.Source("numpy", [3, 4], cpu).drawing()
    assert given.drawing() is None
    for _ in range(2):  # made anew for every run
        drawn = np.concatenate(
            [generator.standard_normal((1, 2, 2)) for generator in given.fresh()]
        ).astype(np.float32)
    assert fed is not None
    assert fed((2, 2, 2)).tolist() == drawn.tolist()


def test_a_reference_may_be_another_scenario_s(tmp_path):
    """The twin in torch judges; its own class would be named, were there one."""
    store = Store(tmp_path)
    case = builders.case(framework="mindspore", reference="twin/cpu-float32")
    assert store.match(case, builders.numerics_class("m")) is None
    twin = builders.case(name="twin")
    store.write(twin, builders.recording(tmp_path / "twin", letter="a"), "first")
    match = store.match(case, builders.numerics_class("a"))
    assert (match.same_class, match.why) == (
        False,
        "class cpu-a, the reference of twin/cpu-float32",
    )
    assert match.baseline.fingerprint == case.scenario.fingerprint


def test_without_its_environment_a_case_is_unverified_and_says_how_to_make_it(shop, monkeypatch):
    """Nothing of 3 GB is installed unasked."""
    monkeypatch.setenv("HARNESS_CACHE", str(shop.root / "cache"))
    shop.scenario(framework="mindspore", generator="numpy")
    assert "no: make it so by harness env --make mindspore" in " ".join(
        shop.harness("list").out.split()
    )
    done = shop.harness("run", "--out", "run")
    assert done.code == 3
    assert (
        "no environment with mindspore here; make it with: harness env --make mindspore" in done.out
    )
    assert not (shop.root / "cache").exists()


def test_its_devices_can_be_chosen_on_the_command_line(shop):
    """A case on Ascend is found by its device, as one on CUDA is."""
    path = shop.scenario(framework="mindspore", generator="numpy", cases="{device: [cpu, ascend]}")
    assert "digits[cpu-float32]" not in shop.harness("list", str(path), "--device", "ascend").out
    assert "digits[ascend-float32]" in shop.harness("list", str(path), "--device", "ascend").out


def test_packages_of_torch_s_side_are_not_put_beside_mindspore(shop):
    """Its pins go together; a case that asks for others is not verified, whatever was made."""
    shop.scenario(framework="mindspore", generator="numpy")
    done = shop.harness("run", "--env", "diffusers==0.30.3", "--out", "run")
    assert done.code == 3
    assert "diffusers==0.30.3 is for scenarios in torch; mindspore has pins of its own" in done.out


def test_a_reference_that_is_not_there_is_named(shop):
    """A misspelt twin would else look like a case that nobody recorded."""
    done = shop.harness("run", str(shop.scenario(reference="dgits/cpu-float32")), "--out", "run")
    assert "no baseline for this case, nor one of dgits/cpu-float32, its reference" in done.out


def test_one_command_makes_a_framework_s_environment(shop, monkeypatch):
    """With the pins of `launch/sandbox.py`; what this environment has itself needs none."""
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(sandbox, "interpreter", made.append)
    done = shop.harness("env", "--make", "mindspore")
    assert (done.code, made) == (0, [sandbox.PINS["mindspore"]])


def test_mindspore_starts_with_instructions_that_it_is_fast_with():
    """A case's own variable wins; torch is left alone."""
    assert variables("full", {}, framework="mindspore")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert (
        variables("full", {"ONEDNN_MAX_CPU_ISA": "SSE41"}, framework="mindspore")[
            "ONEDNN_MAX_CPU_ISA"
        ]
        == "SSE41"
    )
    assert "ONEDNN_MAX_CPU_ISA" not in variables("full", {})


def operator(name: str, inputs: str, outputs: str) -> dict[str, object]:
    return {"operator": name, "inputs": {"0": inputs}, "outputs": {"0": outputs}}


def test_operators_of_two_frameworks_are_paired_by_what_they_do():
    """The first with equal inputs and another result is found across them; within one, a form is a difference."""
    theirs = [operator("aten.div.Tensor", "a", "b"), operator("aten.exp.default", "b", "c")]
    mine = [operator("mindspore.div.Tensor", "a", "b"), operator("mindspore.exp.ops", "b", "X")]
    assert inside.first_operator(inside.align(mine, theirs, "operator", inside.plain)) == 1
    assert inside.align(mine, theirs, "operator").pairs == []


def test_another_framework_is_the_first_change_and_says_nothing_of_cost(tmp_path):
    """A library that computes otherwise outweighs every version, and its seconds are another machine's."""
    environment = builders.environment("m", framework="mindspore")
    mine = builders.recording(tmp_path / "mine", environment=environment, cost=builders.cost(1.0))
    theirs = builders.recording(tmp_path / "theirs", cost=builders.cost(1.0))
    changed = list_changes(mine.content["environment"], theirs.content["environment"])
    assert changed[0] == "framework torch -> mindspore"
    assert judge_cost(mine, theirs, {"slower": 1.5})["verdict"] == "unknown"
    case = builders.case(framework="mindspore")
    as_now, as_then, _ = candidates(case, mine, theirs, packages=False)
    assert (as_now.scenario.framework, as_then.scenario.framework) == ("mindspore", "torch")


@pytest.mark.slow
def test_mindspore_runs_repeats_and_lies_within_its_tolerance_of_torch(tmp_path, monkeypatch):
    """On the CPU, in an environment made by one command; fed the baseline's inputs, each step is as close as it was measured."""
    monkeypatch.chdir(ROOT)
    sandbox.interpreter(sandbox.PINS["mindspore"])
    case = read(SCENARIO).cases()[0]
    with Session(Store(ROOT / "baselines"), tmp_path) as session:
        outcome = session.run(case)
        again = session.record(replace(case, scenario=replace(case.scenario, cost={"rounds": 1})))
    assert (outcome.verdict, outcome.repeat_l_inf) == ("within", 0.0), outcome.reason
    assert outcome.baseline["why"].endswith("the reference of ddim-digits-numpy/cpu-float32")
    assert again.content["environment"]["class"]["name"].startswith("cpu-mindspore-")
    assert again.content["repeat"]["distinct"] == 1
    assert [stage["name"] for stage in again.stages] == [
        "unet#0",
        "scheduler.step#0",
        "unet#1",
        "scheduler.step#1",
    ]


@pytest.mark.slow
def test_the_operator_between_the_two_frameworks_is_named(shop):
    """The exponential of the timestep's embedding, whose results differ from torch's in all but one of the frequencies."""
    for path in (SCENARIO, SCENARIO.with_name("ddim-digits-numpy.yaml")):
        shutil.copy(path, shop.root / path.name)
    assert shop.harness("record", "ddim-digits-numpy.yaml", "--device", "cpu").code == 0
    assert shop.harness("run", SCENARIO.name, "--device", "cpu", "--out", "run").code == 0
    done = shop.harness("explain", "run", CASE, "--roots", "1")
    assert "module:   time_proj#0 (Timesteps): " in done.out
    assert "operator: mindspore.exp.ops of float32 [16]: " in done.out
