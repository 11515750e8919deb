"""pytest-benchmark: costs of cases in its JSON, stored by machine type; no trace without it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inner import Run, path_of_pytester  # noqa: F401 (the second is a fixture)

from harness.pytest_plugin import machine
from harness.store.run_folder import read_results

CASE = "scenarios/x.yaml::x[cpu-float32]"


@pytest.fixture
def run(shop, pytester: pytest.Pytester) -> Run:
    """Run pytest in this process on a case of three rounds that has a baseline."""
    (shop.root / "pyproject.toml").write_text("[tool.harness]\n", encoding="utf-8")
    shop.recorded("x", cost="{rounds: 3}", call="{num_inference_steps: 2, output_type: np}")
    return lambda *arguments: pytester.runpytest_inprocess(
        "-pno:cacheprovider", "-pno:unraisableexception", *arguments
    )


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give this machine a GPU, as the driver tells of it."""
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "driver")

    def fit(model: str) -> None:
        path = tmp_path / "driver" / "0000:01:00.0" / "information"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Model: \t\t {model}\nIRQ:   \t\t 43\n", encoding="utf-8")

    return fit


class Absent:
    """A finder that knows no pytest-benchmark and lets no other find it."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "pytest_benchmark":
            raise ModuleNotFoundError(name)


def stored(root: Path) -> dict[str, dict[str, Any]]:
    """Return what pytest-benchmark saved, by path."""
    paths = sorted((root / ".benchmarks").rglob("*.json"))
    return {
        str(path.relative_to(root / ".benchmarks")): json.loads(path.read_text(encoding="utf-8"))
        for path in paths
    }


def names(folder: str) -> str:
    """Return a folder's machine type, without what pytest-benchmark says of Python and system."""
    return (
        Path(folder)
        .parts[0]
        .removeprefix(f"Linux-CPython-{sys.version_info[0]}.{sys.version_info[1]}-64bit")
        .strip("-")
    )


def test_costs_land_in_its_json(run: Run, shop, gpu):
    """The steady rounds in its own schema; verdict, drift, memory and device beside them."""
    gpu("NVIDIA H200")
    run("--benchmark-json", "out.json", "--harness-out", "run").assert_outcomes(passed=1)
    content = json.loads((shop.root / "out.json").read_text(encoding="utf-8"))
    (made,) = content["benchmarks"]
    (outcome,) = read_results(shop.root / "run").outcomes
    figures = outcome.cost.figures
    assert (made["name"], made["fullname"], made["group"]) == (
        "x[cpu-float32]",
        CASE,
        "cpu-float32",
    )
    assert made["stats"]["data"] == list(figures.rounds_seconds)
    assert (made["stats"]["rounds"], made["stats"]["median"]) == (2, figures.seconds)
    assert made["extra_info"] == {
        "verdict": "identical",
        "device": "cpu",
        "peak_bytes": figures.peak_bytes,
        "first_seconds": figures.first_seconds,
        "load_seconds": figures.load_seconds,
        "step_seconds.scheduler": figures.step_seconds["scheduler"],
        "image.l_inf": 0.0,
        "image.rel_l2": 0.0,
    }
    assert content["machine_info"]["gpu"] == ["NVIDIA H200"]


def test_its_own_commands_compare_saved_runs(run: Run, shop):
    """`pytest-benchmark compare` and `--benchmark-compare` find them, untold of the machine."""
    run("--benchmark-save", "first").assert_outcomes(passed=1)
    second = run("--benchmark-save", "second", "--benchmark-compare")
    second.assert_outcomes(passed=1)
    second.stderr.fnmatch_lines(["Comparing against benchmarks from: *0001_first.json"])
    second.stdout.fnmatch_lines_random(
        ["*x[[]cpu-float32] (0001_first)*", "*x[[]cpu-float32] (NOW)*"]
    )
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "--columns", "median,rounds"]
    done = subprocess.run(command, cwd=shop.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "x[cpu-float32] (0001_first)" in done.stdout
    assert "x[cpu-float32] (0002_second)" in done.stdout


def test_a_regression_fails_by_its_own_option(run: Run, shop):
    """`--benchmark-compare-fail` holds for cases as for any benchmark."""
    run("--benchmark-save", "first")
    ((path, content),) = stored(shop.root).items()
    content["benchmarks"][0]["stats"]["mean"] = 1e-9
    (shop.root / ".benchmarks" / path).write_text(json.dumps(content), encoding="utf-8")
    result = run("--benchmark-compare", "--benchmark-compare-fail", "mean:50%")
    assert result.ret != 0
    assert "Performance has regressed" in result.stderr.str() + result.stdout.str()


def test_two_gpu_types_never_share_a_folder(run: Run, shop, gpu):
    """What was saved on one is not what the other is compared with."""
    gpu("NVIDIA H200")
    run("--benchmark-save", "night").assert_outcomes(passed=1)
    gpu("NVIDIA L4")
    with pytest.warns(Warning, match="Can't compare. No benchmark files"):
        run("--benchmark-save", "night", "--benchmark-compare").assert_outcomes(passed=1)
    assert [names(path) for path in stored(shop.root)] == ["nvidia-h200", "nvidia-l4"]


def test_without_a_gpu_the_processor_is_the_machine_type(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Two CPU types are two machine types as well."""
    (tmp_path / "cpuinfo").write_text(
        "model name\t: AMD EPYC 9B45\nmodel name\t: AMD EPYC 9B45\n", encoding="utf-8"
    )
    monkeypatch.setattr(machine, "CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "CONTROL", tmp_path / "none")
    run("--benchmark-autosave").assert_outcomes(passed=1)
    assert [names(path) for path in stored(shop.root)] == ["amd-epyc-9b45"]


def test_a_gpu_of_unknown_model_shares_with_no_other_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A device without a name in /proc and without nvidia-smi counts as this one machine."""
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "none")
    monkeypatch.setattr(machine, "CONTROL", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == [f"gpu of {platform.node()}"]


def test_a_project_without_scenarios_keeps_its_storage(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    """Whoever merely has the harness installed finds saved benchmarks where they were."""
    monkeypatch.delenv(
        "PYTEST_XDIST_WORKER", raising=False
    )  # under which pytest-benchmark disables itself
    pytester.makepyfile("def test_own(benchmark): assert benchmark.pedantic(int, rounds=2) == 0")
    for options in (
        ["--benchmark-save", "first"],
        ["--benchmark-save", "second", "--benchmark-compare"],
    ):
        result = pytester.runpytest_inprocess("-pno:cacheprovider", *options)
        result.assert_outcomes(passed=1)
    result.stderr.fnmatch_lines(["Comparing against benchmarks from: *0001_first.json"])
    assert [names(path) for path in stored(pytester.path)] == ["", ""]


def test_where_it_is_blocked_nothing_of_it_is_needed(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch
):
    """`-p no:benchmark`, with a package that cannot even be imported."""
    for module in [name for name in sys.modules if name.split(".")[0] == "pytest_benchmark"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    run("-pno:benchmark").assert_outcomes(passed=1)
    assert not (shop.root / ".benchmarks").exists()


@pytest.mark.parametrize("options", [["--benchmark-disable"], ["--benchmark-skip"], []])
def test_where_it_is_not_asked_for_cases_run_and_add_nothing(run: Run, shop, options: list[str]):
    """The verdict is the point of a case; its cost is kept only where benchmarks are wanted."""
    result = run(*options)
    result.assert_outcomes(passed=1)
    assert "Rounds" in run("--benchmark-autosave").stdout.str()
    assert "Rounds" not in result.stdout.str()


def test_a_case_that_did_not_run_adds_nothing(run: Run, shop):
    """An error has no cost."""
    shop.scenario("y", call="{no_such_argument: 1}")
    run("--benchmark-json", "out.json").assert_outcomes(passed=1, failed=1)
    content = json.loads((shop.root / "out.json").read_text(encoding="utf-8"))
    assert [made["fullname"] for made in content["benchmarks"]] == [CASE]
