"""What commands print with `--json` is one JSON value, and says what their table says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.commands.main import build_parser
from harness.commands.parser import commands_of
from harness.errors import UsageError
from harness.launch import package_index
from harness.records import Device, Metric
from harness.report.study_report import calibration_rows
from harness.scenario.tolerance import BoundKey, Kind, Tolerances
from harness.store.run_folder import read_results
from harness.study import bisect, calibrate, challenge, forecast, overhead
from harness.study.bisect import Bisection, Change
from harness.study.calibrate import Calibration
from harness.study.challenge import Challenge
from harness.study.moves import Move
from harness.study.overhead import Overhead

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
# Commands that print no table.
WITHOUT_TABLE = {"record", "copy", "init", "new", "serve"}


def table(printed: str) -> list[list[str]]:
    """Return the cells of the first table that was printed, without its headings."""
    lines = printed.splitlines()[1:]
    end = lines.index("") if "" in lines else len(lines)
    return [re.split(r" {2,}", line.strip()) for line in lines[:end]]


def asked(shop: Any, *words: str) -> tuple[Any, str]:
    """Return what a command prints as JSON, and what it prints without."""
    plain = shop.harness(*words)
    done = shop.harness(*words, "--json")
    assert done.code == plain.code
    return json.loads(done.out), plain.out


def test_every_command_that_prints_a_table_can_print_json_and_the_page_says_what():
    """A new command with a table has both."""
    commands = commands_of(build_parser())
    with_json = {
        name for name, parser in commands.items() if "--json" in parser._option_string_actions
    }
    assert with_json == set(commands) - WITHOUT_TABLE
    section = PAGE.read_text(encoding="utf-8").partition("## JSON")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[a-z -]+`(?:, )?)+) \|", section, re.MULTILINE)
    told = {word.split()[0] for row in rows for word in re.findall(r"`([a-z -]+)`", row)}
    assert told == with_json


def test_list(shop):
    """The cases with their baselines; the mistakes of files go to both streams."""
    shop.recorded(tags="[slow, big]")
    shop.scenario("away", cases="{device: [cuda]}")
    shop.scenario("wrong", seed="x")
    content, printed = asked(shop, "list")
    shown = {row[0]: row[1:] for row in table(printed)}
    assert [each["case"] for each in content["cases"]] == list(shown)
    for each in content["cases"]:
        weights, runs_here, baselines, *tags = shown[each["case"]]
        assert each["weights"] == weights
        assert runs_here == ("yes" if each["runs_here"] else f"no: {each['why']}")
        assert baselines == (", ".join(each["baselines"]) or "none")
        assert " ".join(each["tags"]) == "".join(tags)
    (mistake,) = content["mistakes"]
    assert (mistake["file"], mistake["field"], mistake["found"]) == (
        "scenarios/wrong.yaml", "seed", "'x' (a string)",
    )  # fmt: skip


def test_run_and_report(shop):
    """The outcomes of the run's file, with their causes and what the run was asked for."""
    shop.recorded()
    shop.scenario("new")
    done = shop.harness("run", "--json", "--out", "run")
    ran = json.loads(done.out)
    content, printed = asked(shop, "report", "run")
    assert ran == content
    ((run),) = content["runs"]
    assert [[each["case"], each["verdict"]] for each in run["outcomes"]] == [
        row[:2] for row in table(printed)
    ]
    assert run["scope"]["not_run"] == []
    (cause,) = content["causes"]
    assert (cause["verdict"], cause["cases"]) == ("missing", ["new[cpu-float32]"])
    file = json.loads((shop.root / "run" / "results.json").read_text(encoding="utf-8"))
    assert run["outcomes"] == file["outcomes"]
    assert {each["cost"]["reason"] for each in run["outcomes"]} == {"no-bounds", "no-baseline"}
    assert "unknown: no bounds set" in printed
    assert "unknown: no baseline" in printed


def test_explain(recorded):
    """The first difference and the edits, as records and as lines."""
    recorded.scenario(scheduler="{steps_offset: 1}")
    recorded.harness("run", "--out", "run")
    content, printed = asked(recorded, "explain", "run")
    (case,) = content["cases"]
    assert content["run"] == "run"
    found = case["explanation"]
    assert printed.startswith(f"{found['case']}\n")
    (edit,) = found["edits"]
    words = f"{edit['name']} {edit['expected']} -> {edit['actual']}"
    assert f"  edited:   {words}\n" in printed
    assert found["first"]["kind"] == "configuration"
    (outcome,) = read_results(Path("run")).outcomes
    assert [found["case"]] == [outcome.case]


def test_accept_list(recorded):
    """Every cause with its id, its cases and their classes."""
    recorded.scenario(seed="1")
    recorded.scenario("new")
    recorded.harness("run", "--out", "run")
    content, printed = asked(recorded, "accept", "run", "--list")
    shown = [row[:3] for row in table(printed)]
    assert shown == [
        [each["id"], str(len(each["cases"])), ", ".join(each["classes"])] for each in content
    ]
    assert all(each["headline"] in printed for each in content)
    refused = recorded.harness("accept", "run", "--reason", "x", "--json")
    assert (refused.code, "--json goes with --list" in refused.err) == (2, True)


def test_prune_and_clean(shop):
    """Folders, whether they were removed, and how many there were."""
    shop.recorded("kept")
    shop.recorded("gone").unlink()
    content, printed = asked(shop, "prune", "--dry-run")
    assert content == {
        "unused": ["baselines/gone/cpu-float32"], "removed": False, "total": 2, "of_tests": [],
    }  # fmt: skip
    assert "unused: baselines/gone/cpu-float32\n1 of 2 unused" in printed
    done = json.loads(shop.harness("prune", "--json").out)
    assert done["removed"]
    assert not (shop.root / "baselines" / "gone").exists()
    for name in ("a", "b"):
        (shop.root / "old" / name / "logs").mkdir(parents=True)
    content, printed = asked(shop, "clean", "old", "--keep", "1", "--dry-run")
    assert [f"old: {run}" for run in content["old"]] == printed.splitlines()[:-1]
    assert (content["removed"], content["total"]) == (False, 2)


def test_env(shop):
    """The whole environment; the table has its facts flat."""
    content, printed = asked(shop, "env")
    environment = content["environment"]
    assert (content["device"], content["dtype"], content["determinism"]) == (
        "cpu", "float32", "full",
    )  # fmt: skip
    assert f"numerics class {environment['numerics_class']['name']} for cpu-float32" in printed
    shown = {tuple(row[:2]): row[2] for row in table(printed.partition("\n")[2]) if len(row) == 3}
    for package, version in environment["versions"].items():
        assert shown["versions", package] == version
    operators = environment["numerics_class"]["operators"]
    assert {name: shown["operator", name] for name in operators} == operators


REL_L2 = BoundKey(Kind.CROSS_CLASS, Metric.REL_L2, "")
CALIBRATION = Calibration(
    "digits[cpu-float32]",
    on="cpu-a",
    device=Device.CPU,
    seeds=3,
    perturbations=8,
    noise={REL_L2: 1e-6},
    draws={"mkl": [{REL_L2: 5e-6}], "aten": [{REL_L2: 1e-7}]},
    missed={"cuda": "no CUDA device"},
)


def test_calibrate(shop, monkeypatch: pytest.MonkeyPatch):
    """The rows of the table as numbers, and which platforms the others' bounds admit."""
    path = str(shop.scenario())
    monkeypatch.setattr(calibrate, "calibrate", lambda *_args, **_options: CALIBRATION)
    content, printed = asked(shop, "calibrate", path)
    (row,) = content["bounds"]
    texts = [row["bound"], f"{row['noise']:.1e}", f"{row['worst']:.1e}", row["platform"]]
    assert table(printed.partition("\n")[2]) == [[*texts, f"{row['derived']:.1e}"]]
    assert [[*texts, f"{row['derived']:.1e}", ""]] == [
        list(each) for each in calibration_rows(CALIBRATION, Tolerances())
    ]
    assert (content["missed"], row["current"]) == ({"cuda": "no CUDA device"}, None)
    assert set(content["left_out"]) == {"mkl", "aten"}


def test_forecast(shop, monkeypatch: pytest.MonkeyPatch):
    """What is predicted for each case, by kind of stage, and why others have no forecast."""
    path = str(shop.scenario(cases="{device: cpu, dtype: [float32, bfloat16]}"))
    fma = forecast.Predicted("fma", "", {"scheduler.step": 1.5e-6}, {"scheduler.step": 4.0}, "3 mm")
    noise, bounds = {"scheduler.step": 2e-7}, {"scheduler.step": 6e-6}
    kinds = ("scheduler.step",)

    def predicted(_session, case, *_args):
        if case.target.dtype == "bfloat16":
            raise UsageError("shows no stages")
        return forecast.Forecast(
            case.id, "cpu-a", 2, kinds, noise, (fma,), bounds, {"scheduler.step": 3e-6}
        )

    monkeypatch.setattr(forecast, "forecast", predicted)
    content, printed = asked(shop, "forecast", path)
    assert content["stated"] in printed
    (one,) = content["forecasts"]
    assert one["predicted"][0]["local"] == {"scheduler.step": 1.5e-6}
    assert one["measured"] == []
    row = next(line for line in printed.splitlines() if line.startswith("fma"))
    assert re.split(r" {2,}", row.strip()) == ["fma", "1.5e-06", "within, x4"]
    assert content["missed"] == {"digits[cpu-bfloat16]": "shows no stages"}
    assert "no forecast: digits[cpu-bfloat16]: shows no stages" in printed


def test_a_forecast_of_nothing_and_an_unknown_emulation(shop):
    """Exit codes of a command that verified nothing, and of a wrong word."""
    path = str(shop.scenario(expect="[varies]", generator="none"))
    done = shop.harness("forecast", path)
    assert done.code == 3
    assert "no forecast: digits[cpu-float32]: is expected to vary" in done.out
    done = shop.harness("forecast", path, "--emulation", "tf23")
    assert done.code == 2
    assert "--emulation is one of fma, split-k" in done.err
    assert "`tf32`" in done.err


def test_challenge(shop, monkeypatch: pytest.MonkeyPatch):
    """What is kept in the run's folder too."""
    path = str(shop.scenario())
    found = Challenge("digits[cpu-float32]", "portable", 1e-5, (), {"fault": "changes no bit"})
    monkeypatch.setattr(challenge, "challenge", lambda *_args, **_options: found)
    (shop.root / "run").mkdir()
    content, printed = asked(shop, "challenge", path, "--out", "run")
    assert content == json.loads((shop.root / "run" / "challenge.json").read_text("utf-8"))
    assert f"{content['case']}; the other class is {content['platform']}" in printed
    assert "no effect: fault: changes no bit" in printed


def test_cost(shop, monkeypatch: pytest.MonkeyPatch):
    """Each pair of settings, and why a case has none."""
    path = str(shop.scenario())
    one = Overhead("x[cpu-float32]", "full / default", 1.25, 1.0, 1.25, 1.1, 1.4, same_bits=False)
    monkeypatch.setattr(
        overhead, "measure_overheads", lambda *_args, **_options: ([one], {"y": "no GPU"})
    )
    content, printed = asked(shop, "cost", path, "--out", "run")
    (each,) = content["overheads"]
    assert table(printed)[0][:4] == [
        each["case"], each["pair"], f"{each['seconds']:.3f}", f"{each['against']:.3f}",
    ]  # fmt: skip
    assert content["missed"] == {"y": "no GPU"}


def test_bisect(shop, monkeypatch: pytest.MonkeyPatch):
    """One value for each case, as in the run's folder."""
    path = str(shop.scenario())
    change = Change("1.1", "1.0", Move(0.5, 0.25, "unet#0", ("torch 1 -> 2",)))
    found = Bisection("x", "diffusers", ("1.0", "1.1"), ("1.0", "1.1"), (change,))
    monkeypatch.setattr(package_index, "between", lambda *_args, **_options: ["1.0", "1.1"])
    monkeypatch.setattr(bisect, "search", lambda *_args, **_options: found)
    (shop.root / "run").mkdir()
    words = ("bisect", path, "--good", "1.0", "--bad", "1.1", "--out", "run")
    content, printed = asked(shop, *words)
    (each,) = content
    (moved,) = each["changes"]
    row = table(printed.partition("\n")[2])[0]
    assert row[:2] == [moved["release"], moved["against"]]
    assert row[2:5] == [
        f"{moved['move']['l_inf']:.2e}", f"{moved['move']['rel_l2']:.2e}", moved["move"]["first"],
    ]  # fmt: skip
    assert content == json.loads((shop.root / "run" / "bisect.json").read_text("utf-8"))
