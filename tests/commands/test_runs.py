"""Accepting, reporting and gating: what is read of runs, and what may become a baseline."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.worker.files import digest_json

Finish = Callable[..., Path]


def test_what_a_recording_run_left_can_be_accepted(recorded):
    """It times cases more often than the scenario says, which decides no bit."""
    recorded.scenario(seed="1", cost="{slower: 9.0}")
    assert recorded.harness("record", "--out", "again").code == 1
    assert recorded.harness("accept", "again", "--reason", "seed 1 shows a nicer digit").code == 0
    assert (
        len(json.loads(recorded.baseline().read_text(encoding="utf-8"))["cost"]["rounds_seconds"])
        == 5
    )


def test_accepting_names_the_baselines_that_stay_behind(recorded, monkeypatch):
    """Those of other classes, of the scenario as it was: machines of theirs must run it too."""
    own = recorded.baseline()
    recorded.scenario(tolerance="{cross-class: {rel_l2: 1.0e-3}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert recorded.harness("record").code == 0
    (other,) = set((recorded.root / "baselines").rglob("*.json")) - {own}
    recorded.scenario(seed="1")
    recorded.harness("run", "--out", "changed")
    done = recorded.harness("accept", "changed", "--reason", "seed 1 shows a nicer digit")
    assert (
        f"still of an older version of the scenario: {own.relative_to(recorded.root)}; " in done.out
    )
    assert str(other.relative_to(recorded.root)) not in done.out.partition("still of")[2]


def test_accepting_makes_a_stale_case_identical(recorded):
    """The new baseline says who, why and what it replaced."""
    old = json.loads(recorded.baseline().read_text(encoding="utf-8"))
    recorded.scenario(seed="1")
    assert recorded.harness("run", "--out", "changed").code == 1
    done = recorded.harness("accept", "changed", "--reason", "seed 1 shows a nicer digit")
    assert done.code == 0
    path = re.escape(str(recorded.baseline().relative_to(recorded.root)))
    assert re.search(
        rf"^wrote {path} and [0-9]+ KiB of tensors: .* \(stale: ", done.out, re.MULTILINE
    )
    assert recorded.harness("run").code == 0
    provenance = json.loads(recorded.baseline().read_text(encoding="utf-8"))["provenance"]
    assert provenance["reason"] == "seed 1 shows a nicer digit"
    assert provenance["replaced"] == old["digest"]
    found = sorted(path.suffix for path in recorded.baseline().parent.iterdir())
    assert found == ["", ".json", ".safetensors"]  # the first is the folder of the ledger


def test_a_stale_case_shows_its_drift_and_accepting_says_by_how_much_it_replaces(recorded):
    """Whoever accepts has looked; what was edited is named."""
    recorded.scenario(seed="1")
    done = recorded.harness("run", "--out", "changed")
    why = "  why:      the baseline belongs to another version of the scenario"
    assert why in done.out
    assert ": seed [0] -> [1]\n" in done.out
    drift = next(line for line in done.out.splitlines() if line.startswith("  image: L-inf"))
    (outcome,) = json.loads((recorded.root / "changed" / "results.json").read_text())["outcomes"]
    assert outcome["outputs"]["image"]["l_inf"] > 0.01
    assert outcome["edits"] == [{"actual": "[1]", "expected": "[0]", "name": "seed"}]
    assert outcome["checks"] == []
    said, *lines = recorded.harness("accept", "changed", "--reason", "R").out.splitlines()
    assert re.match(r"digits\[cpu-float32\]: replaces the baseline cpu-\S+ of 20", said)
    assert lines[0] == drift
    assert lines[3].startswith("  stages:   noise#0 is the first that moved; ")
    assert lines[4].startswith("wrote ")
    assert len(lines) == 5


def test_bounds_of_another_scheduler_are_not_kept_silently(recorded):
    """The new baseline holds no evidence, and the command that measures it is named."""
    evidence = "{bounds: {rel_l2: 1.0e-6}, platforms: 2, seeds: 1, date: '2026-01-02'}"
    bounds = f"{{cross-class: {{rel_l2: 1.0e-6}}, evidence: {evidence}}}"
    recorded.scenario(tolerance=bounds, seed="2")
    recorded.harness("run", "--out", "first")
    assert recorded.harness("accept", "first", "--reason", "R").code == 0
    assert json.loads(recorded.baseline().read_text())["evidence"]["date"] == "2026-01-02"
    recorded.scenario(tolerance=bounds, seed="2", scheduler="{timestep_spacing: trailing}")
    recorded.harness("run", "--out", "second")
    done = recorded.harness("accept", "second", "--reason", "R")
    assert "were measured with another version of the scenario" in done.out
    command = "harness calibrate scenarios/digits.yaml -k 'digits[cpu-float32]' --write"
    assert done.out.endswith(f"{command}\n")
    assert json.loads(recorded.baseline().read_text())["evidence"] is None


@pytest.mark.parametrize("reason", [[], ["--reason", ""], ["--reason", " "]])
def test_accepting_needs_a_reason(reason: list[str], recorded):
    """Whoever reviews the baseline must learn why."""
    before = recorded.baseline().read_bytes()
    recorded.scenario(seed="1")
    recorded.harness("run", "--out", "changed")
    done = recorded.harness("accept", "changed", *reason)
    assert done.code == 2
    assert "--reason" in done.err
    assert recorded.baseline().read_bytes() == before


def test_accepting_refuses_a_run_of_an_older_scenario(recorded):
    """What was seen is not what would be written."""
    before = recorded.baseline().read_bytes()
    recorded.scenario(seed="1")
    recorded.harness("run", "--out", "changed")
    recorded.scenario(seed="2")
    done = recorded.harness("accept", "changed", "--reason", "why not")
    assert done.code == 2
    assert done.err == (
        "harness: digits[cpu-float32]: the scenario was edited after changed; run it again, then "
        "accept that run\n"
    )
    assert recorded.baseline().read_bytes() == before


def test_what_is_refused_for_one_case_is_accepted_for_none(recorded):
    """The second of two cases was edited after the run: the first keeps its baseline too."""
    before = recorded.baseline().read_bytes()
    recorded.scenario(seed="1")
    recorded.scenario("edited")
    recorded.harness("run", "--out", "changed")
    recorded.scenario("edited", seed="2")
    done = recorded.harness("accept", "changed", "--reason", "both")
    assert done.code == 2
    assert recorded.baseline().read_bytes() == before
    assert done.out == ""


def test_what_is_not_finite_is_never_accepted(finished: Finish, shop):
    """No run could ever be held against it."""
    finished("digits", image=np.full((1, 2, 2, 1), np.nan, np.float32), verdict="incomparable")
    done = shop.harness("accept", "run", "--reason", "it is art")
    assert done.code == 2
    assert "digits[cpu-float32]: holds NaN or infinity" in done.err
    assert not (shop.root / "baselines").exists()


@pytest.mark.parametrize("file", ["recording.json", "tensors.safetensors"])
def test_a_damaged_recording_is_accepted_for_none(file: str, finished: Finish, shop):
    """The second of two was cut short on its way here: the first stays as it was, too."""
    run = finished("digits", "other")
    path = run / "recordings" / "other" / "cpu-float32" / file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = shop.harness("accept", "run", "--reason", "R")
    assert done.code == 2
    assert f"{path.relative_to(shop.root)}:" in done.err
    assert not (shop.root / "baselines").exists()


def test_a_failure_half_way_says_what_was_written(finished: Finish, shop):
    """The disk may be full by the second of three: nobody has to guess what the store holds."""
    finished("digits", "other", "third")
    (shop.root / "baselines").mkdir()
    (shop.root / "baselines" / "other").write_text("in the way", encoding="utf-8")
    done = shop.harness("accept", "run", "--reason", "R")
    assert done.code == 2
    written = "baselines/digits/cpu-float32/cpu-a.json"
    assert done.out.startswith(f"wrote {written} and ")
    how_far, error, _ = done.err.splitlines()
    left = "other[cpu-float32], third[cpu-float32]"
    assert how_far == f"harness: written: {written}; not written: {left}"
    assert error.startswith("harness: baselines/other/cpu-float32: cannot be written: ")


def test_a_run_of_another_machine_can_be_accepted_here(recorded):
    """A nightly's results come as a folder; where its files lay decides no bit."""
    recorded.scenario(seed="1")
    recorded.harness("run", "--out", "nightly")
    path = recorded.root / "nightly" / "recordings" / "digits" / "cpu-float32" / "recording.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["case"]["checkpoint"]["folder"] = "/home/runner/harness/data/bundled/digits-ddpm"
    content["case"]["inputs_folder"] = "/home/runner/scenarios"
    content["digest"] = digest_json(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    done = recorded.harness("accept", "nightly", "--reason", "the nightly's new output is right")
    assert done.code == 0, done.err


def test_accepting_what_passes_is_refused(recorded):
    """An identical case has nothing to accept."""
    recorded.harness("run", "--out", "same")
    done = recorded.harness("accept", "same", "--reason", "for nothing")
    assert done.code == 2
    assert "holds nothing to accept" in done.err


def test_a_report_of_a_run_is_what_the_run_printed(recorded):
    """Printed again from the results alone, with the same exit code."""
    recorded.scenario("other", seed="1")
    done = recorded.harness("run", "--out", "again")
    assert done.code == 1
    report = recorded.harness("report", "again")
    assert report.code == 1
    assert done.out == report.out + "results and recordings: again\n"


def moved_to(path: Path, name: str) -> str:
    """Rename a run's folder, so that another one can be made."""
    return str(path.rename(path.with_name(name)).name)


def test_several_runs_are_one_report_with_one_exit_code(finished: Finish, shop):
    """One fails, and so does the report; each is named in the table."""
    good = moved_to(finished("digits", verdict="identical"), "good")
    bad = moved_to(finished("digits", verdict="drifted"), "bad")
    done = shop.harness("report", good, bad)
    assert done.code == 1
    assert done.out.count("2 cases: 1 identical, 1 drifted") == 1
    assert [line.split()[0] for line in done.out.splitlines()[1:3]] == ["good", "bad"]


@pytest.mark.parametrize(
    ("verdicts", "options", "code"),
    [
        (("identical", "identical"), [], 0),
        (("unverified", "unverified"), [], 3),
        (("identical", "unverified"), [], 0),
        (("identical", "unverified"), ["--strict"], 0),
        (("unverified", "unverified"), ["--strict"], 3),
        (("missing", "identical"), [], 1),
    ],
)
def test_the_exit_code_of_several_runs_is_that_of_all_their_cases(
    verdicts: tuple[str, ...], options: list[str], code: int, finished: Finish, shop
):
    """A case is verified where one machine verified it."""
    runs = [
        moved_to(finished("digits", verdict=each), f"run-{i}") for i, each in enumerate(verdicts)
    ]
    assert shop.harness("report", *runs, *options).code == code


def test_a_report_as_json_holds_the_outcomes_and_their_causes(finished: Finish, shop):
    """Nothing else is printed with it, also where a job of GitHub wants annotations."""
    finished("digits", "other", verdict="drifted")
    done = shop.harness("report", "run", "--json", "--annotations", "github")
    content = json.loads(done.out)
    assert [run["run"] for run in content["runs"]] == ["run"]
    assert [each["verdict"] for each in content["runs"][0]["outcomes"]] == ["drifted"] * 2
    (cause,) = content["causes"]
    assert cause["cases"] == ["digits[cpu-float32]", "other[cpu-float32]"]
    assert done.err.startswith("::error ")
    assert len(done.err.splitlines()) == 1


def test_a_report_writes_junit_xml(finished: Finish, shop):
    """Beside what it prints."""
    finished("digits", verdict="drifted")
    done = shop.harness("report", "run", "--junit", "junit.xml")
    assert "1 case: 1 drifted" in done.out
    (case,) = ET.parse(shop.root / "junit.xml").iter("testcase")  # noqa: S314 (written above)
    assert case.get("name") == "digits[cpu-float32]"


def test_a_report_as_markdown_can_be_appended_to_a_summary(finished: Finish, shop):
    """Nothing else is printed with it."""
    finished("digits", verdict="drifted")
    done = shop.harness("report", "run", "--markdown")
    assert done.code == 1
    assert done.out.startswith("# 1 case: 1 drifted\n\n| case | verdict |\n")


def test_a_gate_over_a_run_opens_when_everything_required_passes(recorded):
    """Also from the recordings; required in a class that the run had not, it stays closed."""
    recorded.harness("run", "--out", "nights/one")
    for keys, code in (("", 0), (", classes: [another-*]", 3)):
        (recorded.root / "policy.yaml").write_text(
            f"require:\n- {{scenarios: digits, on: cpu{keys}}}\n", encoding="utf-8"
        )
        done = recorded.harness("gate", "nights", "--policy", "policy.yaml", "--recordings")
        assert done.code == code, done.out
        assert done.out.splitlines()[0] == ("blocked" if code else "open")


def test_two_runs_are_compared_with_each_other_without_baselines(recorded):
    """In every form that a report has, with the exit codes of a run."""
    recorded.harness("run", "--out", "one")
    recorded.harness("run", "--out", "two")
    shutil.rmtree(recorded.root / "baselines")
    same = recorded.harness("diff", "one", "two")
    assert same.code == 0
    assert "1 case: 1 identical" in same.out
    recorded.scenario(seed="1")
    recorded.harness("run", "--out", "three")
    files = ("--junit", "junit.xml", "--html", "page.html")
    done = recorded.harness("diff", "one", "three", "--markdown", *files)
    assert done.code == 1
    assert "stale" in (recorded.root / "page.html").read_text(encoding="utf-8")
    assert "the two runs had other settings: seeds [0] -> [1]" in done.out
    assert (recorded.root / "junit.xml").is_file()
    found = json.loads(recorded.harness("diff", "one", "three", "--json").out)
    (outcome,) = found["runs"][0]["outcomes"]
    assert (outcome["verdict"], outcome["baseline"]["run"]) == ("stale", "one")


def test_runs_without_a_common_case_are_not_verified(finished: Finish, shop):
    """And where neither has a chosen case, that is a mistake in the command."""
    one = moved_to(finished("digits"), "one")
    two = moved_to(finished("other"), "two")
    done = shop.harness("diff", one, two)
    assert done.code == 3
    assert "one holds no recording of it: other[cpu-float32]" in done.out
    assert shop.harness("diff", one, two, "-k", "nothing").code == 2
    assert shop.harness("diff", one, "not-there").code == 2
