"""Explaining edits of code: between stages and inside modules, the statement is named."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store

ROOT = Path(__file__).resolve().parents[2]
CASE = "press[cpu-float32]"
EDITED = ("guidance = text - uncond", "guidance = (text - uncond) * 1.001")


def load_benchmark():
    """Import the benchmark, whose edits and judgement these tests use too."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location("code_faults", f"{folder}/code_faults.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["code_faults"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


code_faults = load_benchmark()


@pytest.fixture
def project(shop) -> Path:
    """The project of the benchmark, as the working directory, with a baseline."""
    shutil.copytree(code_faults.OWN_CODE, shop.root, dirs_exist_ok=True)
    return shop.root


def commit(folder: Path) -> None:
    """Put everything under version control."""
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "one")):
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def edit(project: Path, old: str, new: str) -> None:
    path = project / "inkpress" / "pipelines.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_an_edit_of_own_code_under_git_is_explained_to_its_line(shop, project):
    """The baseline's side runs with the code that its digests name."""
    commit(project)
    assert shop.harness("record", "press.yaml").code == 0
    edit(project, *EDITED)
    assert shop.harness("run", "press.yaml", "--out", "run").code == 1
    done = shop.harness("explain", "run", CASE)
    assert done.code == 0
    assert (
        "between:  code after unet#0 (inkpress/pipelines.py:61-65), before scheduler.step#0 "
        "(inkpress/pipelines.py:67)" in done.out
    )
    lines = done.out.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("  line:")]
    assert "inkpress/pipelines.py:33 in guided: the first other value: guidance" in lines[at]
    assert lines[at + 1].strip() == EDITED[1]
    assert lines[at + 3].strip() == EDITED[0]
    setting = "code of the project now (inkpress/pipelines.py) -> the baseline's explains 100 %"
    assert setting in done.out
    assert "note:" not in done.out


def test_an_edit_without_version_control_names_the_code_between_two_stages(shop, project):
    """Whose earlier content is gone: the statement that made the value, and the file's digests."""
    assert shop.harness("record", "press.yaml").code == 0
    edit(project, *EDITED)
    assert shop.harness("run", "press.yaml", "--out", "run").code == 1
    done = shop.harness("explain", "run", CASE)
    assert "line:     inkpress/pipelines.py:34 in guided: made this result" in done.out
    assert "only the run's side was traced" in done.out
    assert "git has no earlier content of inkpress/pipelines.py" in done.out
    assert "no setting explains the drift: code of the project has changed since" in done.out
    assert "0 %" not in done.out


@pytest.mark.parametrize("index", [0, 5, 8, 19, 20])
def test_an_edit_between_stages_is_named(tmp_path, pooled, index):
    """Swapped values, a statement taken away, a rounding at the end, a default, a constant."""
    with Session(Store(tmp_path), tmp_path / "run") as session:
        (found,) = code_faults.between_stages(session, [code_faults.BETWEEN_STAGES[index]])
    assert found.right, found


@pytest.mark.slow
def test_every_edit_between_stages_is_named(tmp_path, pooled):
    """All of the benchmark's."""
    with Session(Store(tmp_path), tmp_path / "run") as session:
        answers = list(code_faults.between_stages(session))
    assert [each for each in answers if not each.right] == []


@pytest.mark.slow
def test_every_edit_inside_a_library_is_named(tmp_path):
    """Modules and schedulers, in a copy of the package."""
    with Session(Store(tmp_path), tmp_path / "run") as session:
        answers = list(code_faults.inside(session))
    assert [each for each in answers if not each.right] == []


def test_tracing_changes_no_bit(tmp_path, pooled):
    """Statements are noted only where that is asked for, and the stages have the same digests."""
    from dataclasses import replace

    case = code_faults.own_case(code_faults.OWN_CODE)
    with Session(Store(tmp_path), tmp_path / "run") as session:
        plain = session.record(replace(case, detail={}), folder=tmp_path / "plain")
        detail = {"stage": "", "to_end": True, "lines": True}
        traced = session.record(replace(case, detail=detail), folder=tmp_path / "traced")
    assert plain.lines == ()
    assert traced.lines
    assert traced.stages == plain.stages
    assert traced.output_digests == plain.output_digests


def test_the_project_of_the_benchmark_is_a_scenario():
    """Its pipeline is found in the package that it trusts."""
    assert read(code_faults.OWN_CODE / "press.yaml").pipeline == "inkpress.pipelines:PressPipeline"
