"""Whose code a scenario may name: what the nearest project trusts, and nothing else."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from harness.errors import ScenarioError
from harness.scenario import reading
from harness.scenario.project import Project, project_of
from harness.scenario.weights import CheckpointKind

TRUSTING = '[tool.harness]\ntrust = ["inkworks"]\n'


def trusting(folder: Path, text: str = TRUSTING) -> Path:
    """Write a project's file; return where a scenario of it lies."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    scenarios = folder / "scenarios"
    scenarios.mkdir(exist_ok=True)
    return scenarios / "ink.yaml"


def test_the_nearest_project_of_the_harness_counts(tmp_path: Path):
    """One without `[tool.harness]` is passed over; the nearest table decides alone."""
    outer = trusting(tmp_path)
    inner = trusting(tmp_path / "part", '[project]\nname = "harness-part"\n')
    assert project_of(outer) == project_of(inner) == Project(tmp_path, ("inkworks",))
    trusting(tmp_path / "part", "[tool.harness]\n")
    assert project_of(inner) == Project(tmp_path / "part", ())


def test_a_scenario_may_name_code_of_a_trusted_package(tmp_path: Path):
    """Its request says which packages are trusted, and from which folder they come."""
    path = trusting(tmp_path)
    text = builders.scenario_text(
        pipeline="inkworks.pipelines:InkPipeline",
        scheduler="{class: 'inkworks:InkScheduler'}",
        components="{unet: {bundled: digits-ddpm, class: 'inkworks.models:InkModel'}}",
    )
    path.write_text(text, encoding="utf-8")
    scenario = reading.read(path)
    request = scenario.cases()[0].request()
    assert request["pipeline"] == "inkworks.pipelines:InkPipeline"
    assert request["trust"] == {"root": str(tmp_path), "packages": ["inkworks"]}
    assert request["components"]["unet"][0]["class_name"] == "inkworks.models:InkModel"


def test_what_is_trusted_is_no_part_of_the_fingerprint(tmp_path: Path):
    """Trusting one more package moves no number."""
    path = trusting(tmp_path)
    path.write_text(builders.scenario_text(), encoding="utf-8")
    first = reading.read(path).fingerprint
    trusting(tmp_path, '[tool.harness]\ntrust = ["inkworks", "other"]\n')
    assert reading.read(path).fingerprint == first


def test_a_pipeline_may_be_built_by_a_function(tmp_path: Path):
    """The function stands in place of the pipeline and the checkpoint."""
    path = trusting(tmp_path)
    text = builders.scenario_text(pipeline=None, checkpoint=None, build="inkworks.make:ink")
    path.write_text(text, encoding="utf-8")
    scenario = reading.read(path)
    assert (scenario.checkpoint.kind, scenario.pipeline) == (CheckpointKind.BUILD, "")
    assert str(scenario.checkpoint) == "build: inkworks.make:ink"
    other = text.replace("inkworks.make:ink", "inkworks.make:inkier")
    path.write_text(other, encoding="utf-8")
    assert reading.read(path).fingerprint != scenario.fingerprint


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("[project]\n[tool.harness]\ntrust = 'inkworks'\n", 3, "a list of top-level packages"),
        ("[tool.harness]\ntrust = ['ink.works']\n", 2, "a list of top-level packages"),
        ("[tool.harness\n", 1, "a readable file of TOML"),
        ("[tool]\nharness = 3\n", 1, "a list of top-level packages"),
    ],
)
def test_a_malformed_project_is_refused(text: str, line: int, expected: str, tmp_path: Path):
    """With its own file and line, before any scenario is judged by it."""
    path = trusting(tmp_path, text)
    path.write_text(builders.scenario_text(), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    assert (caught.value.path.name, caught.value.line) == ("pyproject.toml", line)
    assert expected in caught.value.expected


def test_an_untrusted_package_is_refused_and_the_error_says_how_to_trust_it(tmp_path: Path):
    """With the file that the project has."""
    path = trusting(tmp_path)
    text = builders.scenario_text(pipeline="inkworks2.pipelines:InkPipeline")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    assert caught.value.expected == "code of a trusted package (`inkworks`)"
    assert f'`trust = ["inkworks2"]` under `[tool.harness]` in {tmp_path}' in caught.value.hint
