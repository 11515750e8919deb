"""MindSpore beside torch: the same noise, an environment of its own, and a recording like torch's.

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

from harness.judge import module_diff
from harness.judge.cost import judge_cost
from harness.judge.environment_diff import list_changes
from harness.launch import sandbox
from harness.launch.process import variables
from harness.records import Comparison, CostReason, Verdict
from harness.scenario.fields import Determinism, Framework
from harness.scenario.model import CostBounds, Reference
from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import OperatorCall
from harness.store.run_folder import read_results
from harness.study.revert import candidates
from harness.worker.conditions import noise

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = ROOT / "scenarios" / "ddim-digits-mindspore.yaml"
CASE = "ddim-digits-mindspore[cpu-float32]"


def test_a_generator_of_numpy_draws_what_torch_is_fed():
    """Both draw each image in float64 and cast it, so both frameworks start from the same bits."""
    cpu = torch.device("cpu")
    given = noise.Source("numpy", [3, 4], cpu, numpy_generators=True)
    fed = noise.Source("numpy", [3, 4], cpu).drawing()
    assert given.drawing() is None
    for _ in range(2):  # made anew for every run
        images = [generator.standard_normal((1, 2, 2)) for generator in given.fresh()]
        drawn = np.concatenate(images).astype(np.float32)
    assert fed is not None
    assert fed((2, 2, 2)).tolist() == drawn.tolist()


def test_a_reference_may_be_another_scenario_s(tmp_path):
    """The same scenario in torch judges, as a baseline of another class."""
    store = Store(tmp_path)
    reference = Reference(builders.CPU, "in-torch")
    case = builders.case(framework=Framework.MINDSPORE, reference=reference)
    assert store.match(case, builders.numerics_class("m")) is None
    in_torch = builders.case(name="in-torch")
    store.write(in_torch, builders.recording(tmp_path / "recording", letter="a"), "first")
    match = store.match(case, builders.numerics_class("a"))
    assert match is not None
    assert (match.comparison, match.reference) == (Comparison.CROSS_CLASS, reference)
    assert match.baseline.fingerprint == case.scenario.fingerprint


def test_without_its_environment_a_case_is_unverified_and_says_how_to_make_it(shop, monkeypatch):
    """Nothing of 3 GB is installed without being asked for."""
    monkeypatch.setenv("HARNESS_CACHE", str(shop.root / "cache"))
    shop.scenario(backend="mindspore", generator="numpy")
    missing = "no environment with mindspore here; make it with: harness env --make mindspore"
    assert f"no: {missing}" in " ".join(shop.harness("list").out.split())
    done = shop.harness("run", "--out", "run")
    assert done.code == 3
    assert missing in done.out
    assert not (shop.root / "cache").exists()


def test_its_devices_can_be_chosen_on_the_command_line(shop):
    """A case on Ascend is found by its device, as one on CUDA is."""
    path = shop.scenario(backend="mindspore", generator="numpy", cases="{device: [cpu, ascend]}")
    assert "digits[cpu-float32]" not in shop.harness("list", str(path), "--device", "ascend").out
    assert "digits[ascend-float32]" in shop.harness("list", str(path), "--device", "ascend").out


def test_packages_of_torch_s_side_are_not_put_beside_mindspore(shop):
    """Its pins go together; a case that asks for others is unverified, whatever was made."""
    shop.scenario(backend="mindspore", generator="numpy")
    done = shop.harness("run", "--env", "diffusers==0.30.3", "--out", "run")
    assert done.code == 3
    refusal = "diffusers==0.30.3 is for scenarios in torch; the packages of mindspore are pinned"
    assert refusal in done.out


def test_a_reference_that_is_not_there_is_named(shop):
    """A misspelt reference would otherwise look like a case that nobody recorded."""
    reference = "{scenario: dgits, device: cpu, dtype: float32}"
    shop.harness("run", str(shop.scenario(reference=reference)), "--out", "run")
    (outcome,) = read_results(shop.root / "run").outcomes
    assert "nor one of dgits[cpu-float32], its reference" in outcome.message


def test_one_command_makes_a_framework_s_environment(shop, monkeypatch):
    """It has the pins of `launch/sandbox.py`."""
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(sandbox, "interpreter", made.append)
    done = shop.harness("env", "--make", "mindspore")
    assert (done.code, made) == (0, [sandbox.PINS[Framework.MINDSPORE]])


def test_mindspore_starts_with_instructions_that_it_is_fast_with():
    """A case's own variable wins; torch is left alone."""
    name = "ONEDNN_MAX_CPU_ISA"

    def of_mindspore(own: dict[str, str]) -> dict[str, str | None]:
        return variables(Determinism.FULL, own, framework=Framework.MINDSPORE)

    assert of_mindspore({})[name] == "AVX2"
    assert of_mindspore({name: "SSE41"})[name] == "SSE41"
    assert name not in variables(Determinism.FULL, {})


def operator(name: str, inputs: str, outputs: str) -> OperatorCall:
    """Return a call of an operator with one input and one output, by their digests."""
    return OperatorCall(name, {"0": inputs}, {"0": outputs}, shapes=(), source="")


def test_operators_of_two_frameworks_are_paired_by_what_they_do():
    """The first one with equal inputs and another result is found across them.

    Within one framework, the form of an operator belongs to its name.
    """
    expected = [operator("aten.div.Tensor", "a", "b"), operator("aten.exp.default", "b", "c")]
    actual = [operator("mindspore.div.Tensor", "a", "b"), operator("mindspore.exp.ops", "b", "X")]
    aligned = module_diff.align(actual, expected, module_diff.plain_operator_name)
    assert module_diff.first_operator(aligned) == 1
    assert module_diff.align(actual, expected, module_diff.operator_name).pairs == []


def test_another_framework_is_the_first_change_and_says_nothing_of_cost(tmp_path):
    """Another library outweighs every version, and its seconds are those of another machine."""
    environment = builders.environment("m", framework="mindspore")
    actual = builders.recording(tmp_path / "actual", environment=environment)
    expected = builders.recording(tmp_path / "expected")
    changes = list_changes(actual.environment, expected.environment)
    assert str(changes[0]) == "framework torch -> mindspore"
    cost = judge_cost(actual, expected, CostBounds(slower=1.5))
    assert cost.reason is CostReason.OTHER_MACHINE
    case = builders.case(framework=Framework.MINDSPORE)
    found = candidates(case, actual, builders.baseline(expected))
    assert found.actual.scenario.framework is Framework.MINDSPORE
    assert found.expected.scenario.framework is Framework.TORCH


@pytest.mark.slow
def test_mindspore_runs_repeats_and_lies_within_its_tolerance_of_torch(tmp_path, monkeypatch):
    """It runs on the CPU, in an environment that one command makes.

    With the baseline's inputs, each step is as close to torch's as it was measured to be.
    """
    monkeypatch.chdir(ROOT)
    sandbox.interpreter(sandbox.PINS[Framework.MINDSPORE])
    case = read(SCENARIO).cases()[0]
    with Session(Store(ROOT / "baselines"), tmp_path) as session:
        outcome = session.run(case)
        once = replace(case, scenario=replace(case.scenario, cost=CostBounds(rounds=1)))
        again = session.record(once)
    assert (outcome.verdict, outcome.repeat_l_inf) == (Verdict.WITHIN, 0.0), outcome.message
    assert outcome.baseline.reference == "ddim-digits-numpy[cpu-float32]"
    assert again.numerics_class.name.startswith("cpu-mindspore-")
    assert again.repeat.distinct == 1
    names = [stage.name for stage in again.stages]
    assert names == ["unet#0", "scheduler.step#0", "unet#1", "scheduler.step#1"]


@pytest.mark.slow
def test_the_operator_between_the_two_frameworks_is_named(shop):
    """It is the exponential of the timestep's embedding.

    Its results differ from torch's in all but one of the frequencies.
    """
    for path in (SCENARIO, SCENARIO.with_name("ddim-digits-numpy.yaml")):
        shutil.copy(path, shop.root / path.name)
    assert shop.harness("record", "ddim-digits-numpy.yaml", "--device", "cpu").code == 0
    assert shop.harness("run", SCENARIO.name, "--device", "cpu", "--out", "run").code == 0
    done = shop.harness("explain", "run", CASE, "--root-causes", "1")
    assert "module:   time_proj#0 (Timesteps): " in done.out
    assert "operator: mindspore.exp.ops of float32 [16]: " in done.out
