"""Where a project begins, what its table may say, and whose code its scenarios may name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import builders
import pytest

from harness.errors import ScenarioError
from harness.records import Device
from harness.scenario import reading
from harness.scenario.project import (
    KEYS,
    Defaults,
    FoundBy,
    Places,
    Project,
    project_at,
    project_of,
    seen_from,
)
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
        ("[tool]\nharness = 3\n", 2, "a table"),
        ("runs = 1\n[tool.harness]\n\nruns = 3\n", 4, "a folder or an fsspec URL"),
        ("[tool.harness]\ndevice = 'tpu'\n", 2, "one of cpu, cuda"),
        ("[tool.harness]\nprofile = 'fast'\n", 2, "one of native, portable"),
        ("[tool.harness]\njobs = 0\n", 2, 'a whole number >= 1, or `"auto"`'),
        ("[tool.harness]\njobs = true\n", 2, 'a whole number >= 1, or `"auto"`'),
        ("[tool.harness]\nstrict = 'yes'\n", 2, "`true` or `false`"),
        ("[tool.harness]\nscenarios = 'cases'\n", 2, "a list of folders"),
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


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_right_one(tmp_path: Path):
    """All mistakes of the table are told at once."""
    path = trusting(tmp_path, "[tool.harness]\nbaseline = 'goldens'\nstrict = 1\n")
    with pytest.raises(ScenarioError) as caught:
        project_of(path)
    first, second = caught.value.mistakes
    assert (first.line, first.found) == (2, "`baseline`")
    assert "`baselines`" in first.expected
    assert first.hint == "did you mean `baselines`?"
    assert (second.line, second.field, second.found) == (3, "tool.harness.strict", "1")


def test_a_password_in_a_url_is_not_repeated(tmp_path: Path):
    """A message may end in a log that others read."""
    path = trusting(tmp_path, "[tool.harness]\nhistory = 's3://me:secret@bucket/h'\n")
    with pytest.raises(ScenarioError) as caught:
        project_of(path)
    assert "secret" not in str(caught.value)
    assert caught.value.found == "a URL that holds a user or a password"


def test_a_table_says_where_things_are_and_what_commands_take_unasked(tmp_path: Path):
    """Every key of it."""
    text = """\
[tool.harness]
trust = ["inkworks"]
scenarios = ["cases", "more"]
baselines = "goldens"
history = "s3://bucket/history"
runs = "out"
device = "cpu"
profile = "portable"
jobs = "auto"
strict = true
accuracy = true
"""
    trusting(tmp_path, text)
    assert project_at(tmp_path / "scenarios") == Project(
        tmp_path,
        ("inkworks",),
        ("cases", "more"),
        Places("goldens", "s3://bucket/history", "out"),
        Defaults(Device.CPU, "portable", "auto", strict=True, accuracy=True),
    )


def test_a_folder_with_scenarios_is_a_project_where_no_table_says_more(tmp_path: Path):
    """A table above it comes first."""
    trusting(tmp_path / "repo", "[project]\n")
    inner = tmp_path / "repo" / "scenarios" / "slow"
    inner.mkdir()
    assert project_at(inner) == Project(tmp_path / "repo", found_by=FoundBy.FOLDER)
    (tmp_path / "pyproject.toml").write_text("[tool.harness]\n", encoding="utf-8")
    assert project_at(inner) == Project(tmp_path)


@pytest.mark.parametrize("end", ["repository", "worktree", "home"])
def test_the_search_ends_at_a_repository_and_at_the_home_of_the_user(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What lies above belongs to somebody else."""
    trusting(tmp_path)
    repository = tmp_path / "repo"
    inner = repository / "src"
    inner.mkdir(parents=True)
    assert project_at(inner).root == tmp_path
    if end == "repository":
        (repository / ".git").mkdir()
    elif end == "worktree":
        (repository / ".git").write_text("gitdir: elsewhere\n", encoding="utf-8")
    else:
        monkeypatch.setattr(Path, "home", lambda: repository)
    assert project_of(inner / "x.yaml") is None
    assert project_at(inner) == Project(inner, found_by=FoundBy.NOTHING)
    trusting(repository)
    assert project_at(inner).root == repository


def test_a_place_is_relative_below_the_working_directory_and_absolute_elsewhere(tmp_path: Path):
    """A URL stays what it is."""
    here = tmp_path / "repo" / "scenarios"
    here.mkdir(parents=True)
    root = here.parent
    assert seen_from(root, root, "baselines") == "baselines"
    assert seen_from(here, root, "scenarios/slow") == "slow"
    assert seen_from(here, root, "baselines") == str(root / "baselines")
    assert seen_from(here, root, "../goldens") == str(tmp_path / "goldens")
    assert seen_from(here, root, "s3://bucket/b") == "s3://bucket/b"
    assert seen_from(here, root, "") == ""


def test_the_table_that_the_page_shows_is_read_and_has_every_key(tmp_path: Path):
    """What docs/command-line.md tells of the table is what the harness takes."""
    page = Path(__file__).parents[2] / "docs" / "command-line.md"
    (table,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert set(tomllib.loads(table)["tool"]["harness"]) == set(KEYS)
    found = project_of(trusting(tmp_path, table))
    assert found is not None
    assert found.defaults == Defaults(Device.CPU, "portable", "auto", strict=True, accuracy=True)
