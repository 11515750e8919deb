"""The Python API: the same results as the command line, for scripts and notebooks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline
from PIL import Image

import harness
from harness.errors import ScenarioError, UsageError
from harness.records import ChangeKind, Verdict
from harness.scenario.weights import DATA

NAMES = [
    "Case", "Drift", "DriftError", "Outcome", "Scenario", "Session", "Store", "__version__",
    "check", "compare", "load", "record", "run",
]  # fmt: skip
CALL = {"num_inference_steps": 1, "output_type": "np"}


@pytest.fixture(scope="module")
def pipeline() -> DDIMPipeline:
    return DDIMPipeline.from_pretrained(DATA / "bundled" / "digits-ddpm")


def test_the_public_names_are_these():
    """Whoever removes one breaks somebody's notebook."""
    assert harness.__all__ == NAMES
    assert all(getattr(harness, name) is not None for name in NAMES)


def test_what_was_recorded_runs_identically(shop):
    """`load`, `record` and `run` by paths, scenarios and cases."""
    path = shop.scenario("x")
    shop.scenario("y", tags="[other]")
    (written,) = harness.record(path)
    assert written.parts[-3:-1] == ("x", "cpu-float32")
    assert harness.record(path) == []
    (scenario,) = harness.load(path)
    by_scenario = harness.run(scenario)
    by_case = harness.run(scenario.cases())
    assert [each.verdict for each in (*by_scenario, *by_case)] == [Verdict.IDENTICAL] * 2
    assert [each.case for each in harness.run(keyword="other")] == ["y[cpu-float32]"]


def test_a_notebook_below_the_root_takes_the_project_s_folders(shop, monkeypatch):
    """Scenarios, baselines and runs are those of the project, as on the command line."""
    shop.scenario("x")
    notebooks = shop.root / "notebooks"
    notebooks.mkdir()
    monkeypatch.chdir(notebooks)
    (written,) = harness.record()
    assert written.is_relative_to(shop.root / "baselines" / "x")
    assert [each.verdict for each in harness.run()] == [Verdict.IDENTICAL]
    made = harness.check(np.ones(2), baseline="ones", update=True)
    assert (made.verdict, (shop.root / "baselines" / "ones").is_dir()) == (Verdict.MISSING, True)
    assert list(notebooks.iterdir()) == []


def test_mistakes_are_raised_and_nothing_runs(shop):
    """As the errors that the command line prints."""
    shop.scenario("x", seed="one")
    with pytest.raises(ScenarioError, match="a whole number"):
        harness.load("scenarios")
    with pytest.raises(UsageError):
        harness.run("nowhere")
    assert not (shop.root / "runs").exists()


def test_arrays_tensors_and_images_are_compared():
    """Without a verdict."""
    assert harness.compare(np.array([1.0, 2.5]), np.array([1.0, 2.0])).l_inf == 0.5
    moved = harness.compare(torch.ones(3, dtype=torch.bfloat16), torch.zeros(3))
    assert (moved.l_inf, moved.differing) == (1.0, 3)
    red, black = (Image.new("RGB", (2, 2), colour) for colour in ("red", "black"))
    assert harness.compare(red, black).l_inf == 255
    with pytest.raises(ValueError, match="shapes differ"):
        harness.compare(np.ones(2), np.ones(3))


def test_a_notebook_checks_a_pipeline(tmp_path: Path, pipeline: DDIMPipeline):
    """Missing, written, identical, stale after another call, and accepted with a reason."""
    where = {"baseline": "digit", "baselines": tmp_path}
    missing = harness.check(pipeline, CALL, **where, update=True)
    assert missing.verdict is Verdict.MISSING
    assert harness.check(pipeline, CALL, **where).verdict is Verdict.IDENTICAL
    other = {**CALL, "eta": 0.5}
    assert harness.check(pipeline, other, **where).verdict is Verdict.STALE
    assert harness.check(pipeline, other, **where, accept="eta").verdict is Verdict.STALE
    assert harness.check(pipeline, other, **where).verdict is Verdict.IDENTICAL


def test_a_value_that_is_not_finite_is_never_accepted(tmp_path: Path):
    """Whatever reason is given: no run could be held against it."""
    where = {"baseline": "ramp", "baselines": tmp_path}
    harness.check(np.arange(4.0), **where, update=True)
    broken = np.array([0.0, np.nan, 2.0, 3.0])
    outcome = harness.check(broken, **where, accept="it is what it is")
    assert outcome.verdict is Verdict.INCOMPARABLE
    assert harness.check(broken, **where, update=True).verdict is Verdict.INCOMPARABLE
    assert harness.check(np.arange(4.0), **where).verdict is Verdict.IDENTICAL


def test_a_weight_that_changed_in_memory_is_named(tmp_path: Path):
    """Of the pipeline as it is now, not as its files have it."""
    pipeline = DDIMPipeline.from_pretrained(DATA / "bundled" / "digits-ddpm")
    where = {"baseline": "digit", "baselines": tmp_path}
    harness.check(pipeline, CALL, **where, update=True)
    with torch.no_grad():
        pipeline.unet.conv_in.weight[0, 0, 0, 0] += 1e-3
    outcome = harness.check(pipeline, CALL, **where)
    assert outcome.verdict is Verdict.STALE
    assert "unet" in outcome.message


OWN_CLASS = """
from diffusers import DDIMPipeline


class InkPipeline(DDIMPipeline):
    \"\"\"A pipeline of the project.\"\"\"

    def __call__(self, num_inference_steps, output_type, generator=None):
        call = dict(num_inference_steps=num_inference_steps, output_type=output_type)
        made = super().__call__(**call, generator=generator)
        made.images = made.images * FACTOR
        return made
"""


def test_own_code_that_changed_is_named_for_a_pipeline_that_is_held(shop, monkeypatch):
    """Of the packages that the project trusts; what was imported stays imported."""
    table = '[tool.harness]\nscenarios = ["scenarios"]\ntrust = ["inkworks"]\n'
    (shop.root / "pyproject.toml").write_text(table, encoding="utf-8")
    package = shop.root / "inkworks.py"
    package.write_text(f"FACTOR = 1.0\n{OWN_CLASS}", encoding="utf-8")
    monkeypatch.syspath_prepend(shop.root)
    module = importlib.import_module("inkworks")
    monkeypatch.setitem(sys.modules, "inkworks", module)
    pipe = module.InkPipeline.from_pretrained(DATA / "bundled" / "digits-ddpm")
    harness.check(pipe, CALL, baseline="ink", update=True)
    package.write_text(f"FACTOR = 1.5\n{OWN_CLASS}", encoding="utf-8")
    module.FACTOR = 1.5
    outcome = harness.check(pipe, CALL, baseline="ink")
    assert outcome.verdict is Verdict.DRIFTED
    (change,) = outcome.environment_changes
    assert (change.name, change.kind) == ("inkworks/inkworks.py", ChangeKind.OWN_CODE)
    assert sys.modules["inkworks"] is module


def test_a_notebook_checks_an_array(tmp_path: Path):
    """Of any shape and type; on this class the same bits are owed."""
    where = {"baseline": "ramp", "baselines": tmp_path, "tolerance": {"rel_l2": 1e-3}}
    harness.check(np.arange(4.0), **where, update=True)
    assert harness.check(np.arange(4.0), **where).verdict is Verdict.IDENTICAL
    assert harness.check(np.arange(4.0) * (1 + 1e-9), **where).verdict is Verdict.DRIFTED
    with pytest.raises(UsageError, match="has no stages"):
        harness.check(np.ones(2), baseline="x", baselines=tmp_path, tolerance={"local_rel_l2": 1})
