"""Commands work from any folder of a project, and its table stands for what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.commands.main import build_parser
from harness.commands.places import fill_in_project
from harness.store.run_folder import read_results


def test_a_whole_life_from_a_folder_below_the_root(shop, monkeypatch: pytest.MonkeyPatch):
    """Recorded, run, reported and explained from `scenarios/`; everything lies at the root."""
    shop.scenario()
    monkeypatch.chdir(shop.root / "scenarios")
    recorded = shop.harness("record")
    assert (recorded.code, "1 written" in recorded.out) == (0, True)
    assert shop.baseline().is_file()
    shop.scenario(seed="1")
    done = shop.harness("run")
    assert done.code == 1
    (run, *_) = sorted((shop.root / "runs").glob("2*"), reverse=True)
    assert f"results and recordings: {run}" in done.out
    (outcome,) = read_results(run).outcomes
    assert (outcome.path, outcome.store) == ("scenarios/digits.yaml", "baselines")
    # Paths that a user would type again are those of the working directory.
    assert f"--baselines {shop.root / 'baselines'} --scenarios digits.yaml" in done.out
    assert sorted(path.name for path in (shop.root / "scenarios").iterdir()) == ["digits.yaml"]
    told = shop.harness("explain", str(run), "digits")
    assert (told.code, "digits[cpu-float32]" in told.out) == (0, True)
    page = shop.root / "page.html"
    shop.harness("report", str(run), "--html", str(page))
    assert "The baseline is gone" not in page.read_text(encoding="utf-8")


def test_listing_below_the_root_shows_the_cases_and_baselines_of_the_project(
    shop, monkeypatch: pytest.MonkeyPatch
):
    """Also from a folder that has nothing to do with scenarios."""
    shop.recorded()
    (shop.root / "src").mkdir()
    monkeypatch.chdir(shop.root / "src")
    done = shop.harness("list")
    assert done.code == 0
    assert "digits[cpu-float32]" in done.out
    assert shop.baseline().stem in done.out


def filled(*words: str):
    """Return the arguments of a command, with what the project of the working directory says."""
    arguments = build_parser().parse_args(words)
    fill_in_project(arguments)
    return arguments


TABLE = """\
[tool.harness]
scenarios = ["cases"]
baselines = "goldens"
history = "s3://bucket/history"
runs = "out"
device = "cpu"
profile = "portable"
jobs = 2
strict = true
accuracy = true
"""


def test_the_table_stands_for_options_that_are_left_out(tmp_path: Path, monkeypatch):
    """Paths of the table are relative to its file."""
    (tmp_path / "pyproject.toml").write_text(TABLE, encoding="utf-8")
    below = tmp_path / "cases" / "slow"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    found = filled("run")
    assert found.paths == [str(tmp_path / "cases")]
    assert (found.baselines, found.runs_in) == (str(tmp_path / "goldens"), str(tmp_path / "out"))
    assert (found.history, found.device, found.profile) == (
        "s3://bucket/history",
        "cpu",
        "portable",
    )
    assert (found.jobs, found.strict, found.accuracy) == (2, True, True)


def test_options_override_the_table(tmp_path: Path, monkeypatch):
    """Every one of them, switches by their `--no-` form, and paths as they are typed."""
    (tmp_path / "pyproject.toml").write_text(TABLE, encoding="utf-8")
    (tmp_path / "cases").mkdir()
    monkeypatch.chdir(tmp_path / "cases")
    words = "run x.yaml --baselines b --history h --device any --profile native -j auto"
    found = filled(*words.split(), "--no-strict", "--no-accuracy")
    assert (found.paths, found.baselines, found.history) == (["x.yaml"], "b", "h")
    assert (found.device, found.profile, found.jobs) == (None, "native", 0)
    assert (found.strict, found.accuracy) == (False, False)
    assert filled("run", "--device", "cuda").device == "cuda"


def test_a_command_with_a_device_of_its_own_gives_way_to_the_table(shop):
    """`calibrate` and others are about the CPU, unless the project or the user says otherwise."""
    shop.scenario()
    assert filled("calibrate", "x.yaml").device == "cpu"
    (shop.root / "pyproject.toml").write_text("[tool.harness]\ndevice = 'cuda'\n")
    assert filled("calibrate", "x.yaml").device == "cuda"
    assert filled("run").device == "cuda"


def test_a_mistake_in_the_table_ends_every_command(shop):
    """With the line, and the key that was meant."""
    shop.scenario()
    (shop.root / "pyproject.toml").write_text("[tool.harness]\nscenario = ['x']\n")
    done = shop.harness("list")
    assert done.code == 2
    assert "pyproject.toml:2: `tool.harness.scenario`" in done.err
    assert "did you mean `scenarios`?" in done.err


def test_without_a_project_the_places_that_were_searched_are_named(shop):
    """Both ends of the search."""
    (shop.root / ".git").mkdir()
    below = shop.root / "src"
    below.mkdir()
    done = shop.harness("run")
    assert done.code == 2
    assert "no scenarios: there is neither a pyproject.toml with [tool.harness]" in done.err
    assert f"in {shop.root};" in done.err


def test_folders_of_scenarios_that_are_not_there_are_named_with_the_file_that_names_them(
    shop, monkeypatch: pytest.MonkeyPatch
):
    """It may be a slip in the file."""
    (shop.root / "pyproject.toml").write_text("[tool.harness]\nscenarios = ['cases']\n")
    (shop.root / "src").mkdir()
    monkeypatch.chdir(shop.root / "src")
    done = shop.harness("list")
    assert done.code == 2
    assert f"{shop.root / 'cases'} is not there, which {shop.root / 'pyproject.toml'}" in done.err


def test_a_missing_baseline_names_the_store_that_was_searched(shop):
    """Whoever is in the wrong folder sees it."""
    shop.scenario()
    done = shop.harness("run", "--baselines", "elsewhere")
    assert done.code == 1
    assert "  searched: elsewhere" in done.out


def test_a_missing_run_names_where_it_was_looked_for_and_the_newest_runs(
    shop, monkeypatch: pytest.MonkeyPatch
):
    """A path that is typed is relative to the working directory, below the root too."""
    shop.scenario()
    (shop.root / "runs" / "nightly" / "logs").mkdir(parents=True)
    monkeypatch.chdir(shop.root / "scenarios")
    done = shop.harness("report", "runs/nightly")
    assert done.code == 2
    assert f"runs/nightly: does not exist in {shop.root / 'scenarios'}" in done.err
    assert f"they are in {shop.root / 'runs'}, such as {shop.root / 'runs' / 'nightly'}" in done.err


def test_old_runs_of_the_project_are_removed_from_below_its_root(
    shop, monkeypatch: pytest.MonkeyPatch
):
    """`clean` means the project's runs."""
    shop.scenario()
    for name in ("a", "b"):
        (shop.root / "runs" / name / "logs").mkdir(parents=True)
    monkeypatch.chdir(shop.root / "scenarios")
    done = shop.harness("clean", "--keep", "1")
    assert "1 of 2 runs are older" in done.out
    assert len(list((shop.root / "runs").iterdir())) == 1


def test_results_are_json_that_names_files_from_the_root(shop, monkeypatch: pytest.MonkeyPatch):
    """They may be read in another copy of the project."""
    shop.recorded()
    monkeypatch.chdir(shop.root / "baselines")
    done = shop.harness("run", "--json")
    ((outcome,),) = [each["outcomes"] for each in json.loads(done.out)["runs"]]
    assert (outcome["path"], outcome["store"]) == ("scenarios/digits.yaml", "baselines")


def test_the_history_of_the_project_is_shown_unasked(shop, monkeypatch: pytest.MonkeyPatch):
    """`run` adds itself to it; without one, the message says where to name one."""
    shop.recorded()
    refused = shop.harness("history")
    assert refused.code == 2
    assert f"under [tool.harness] in {shop.root / 'pyproject.toml'}" in refused.err
    (shop.root / "pyproject.toml").write_text("[tool.harness]\nhistory = 'nights'\n")
    monkeypatch.chdir(shop.root / "scenarios")
    assert shop.harness("run").code == 0
    assert (shop.root / "nights").is_dir()
    done = shop.harness("history")
    assert (done.code, "digits[cpu-float32]" in done.out) == (0, True)
