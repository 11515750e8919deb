"""The pytest plugin: items, verdicts, options, reports, and the life of a baseline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET  # the file is pytest's own
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inner import Run, path_of_pytester, run_in_project  # noqa: F401 (two are fixtures)
from printed import verdicts

from harness.records import Verdict
from harness.report import wording
from harness.session import Session
from harness.store.baselines import Store
from harness.store.run_folder import RunOwner, read_results
from harness.store.shared_runs import fetch_run

BOTH = "{device: [cpu, cuda]}"


def collected(result: pytest.RunResult) -> list[str]:
    """Return the ids that `--collect-only -q` printed."""
    return [line for line in result.outlines if "::" in line]


def test_every_case_is_an_item_with_its_file_and_its_id(run: Run, shop):
    """One per device and dtype, whether it can run here or not."""
    shop.scenario("x", cases=BOTH)
    shop.scenario("y", folder="scenarios/deeper")
    assert collected(run("--collect-only", "-q")) == [
        "scenarios/deeper/y.yaml::y[cpu-float32]",
        "scenarios/x.yaml::x[cpu-float32]",
        "scenarios/x.yaml::x[cuda-float32]",
    ]
    assert collected(run("--collect-only", "-q", "scenarios/x.yaml::x[cuda-float32]")) == [
        "scenarios/x.yaml::x[cuda-float32]"
    ]


def test_items_are_chosen_by_id_and_by_tag(run: Run, shop):
    """`-k` knows a scenario's tags."""
    shop.scenario("x", tags="[slow]")
    shop.scenario("y")
    assert collected(run("--collect-only", "-q", "-k", "slow")) == [
        "scenarios/x.yaml::x[cpu-float32]"
    ]
    assert collected(run("--collect-only", "-q", "-k", "y and not slow")) == [
        "scenarios/y.yaml::y[cpu-float32]"
    ]


def test_other_yaml_is_left_alone(run: Run, shop):
    """A project's own YAML is no scenario, unless its first lines say so."""
    shop.scenario("x")
    shop.scenario("elsewhere", folder="tests")
    marked = shop.scenario("marked", folder="tests")
    marked.write_text(f"# harness: scenario\n{marked.read_text(encoding='utf-8')}", "utf-8")
    (shop.root / "compose.yaml").write_text("services: {}\n", encoding="utf-8")
    assert collected(run("--collect-only", "-q")) == [
        "scenarios/x.yaml::x[cpu-float32]",
        "tests/marked.yaml::marked[cpu-float32]",
    ]


def test_a_folder_that_happens_to_be_called_scenarios_is_left_alone(run: Run, shop):
    """No project of the harness is here, so that a broken YAML file is not its business."""
    (shop.root / "pyproject.toml").unlink()
    (shop.root / "scenarios").mkdir()
    (shop.root / "scenarios" / "login.yaml").write_text("steps: [\n", encoding="utf-8")
    (shop.root / "test_own.py").write_text("def test_own(): pass\n", encoding="utf-8")
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*results and recordings*")


def test_a_project_names_its_folders_of_scenarios(run: Run, shop):
    """In `pyproject.toml`, relative to it."""
    shop.scenario("x", folder="reproducibility")
    shop.scenario("ignored")
    table = '[tool.harness]\nscenarios = ["reproducibility"]\n'
    (shop.root / "pyproject.toml").write_text(table, encoding="utf-8")
    assert collected(run("--collect-only", "-q")) == ["reproducibility/x.yaml::x[cpu-float32]"]


def test_a_mistake_in_a_scenario_is_a_collection_error_with_its_line(run: Run, shop):
    """What the command line prints, without a traceback of the harness."""
    path = shop.scenario("x", seed="one")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting scenarios/x.yaml*",
            f"{path}:5: `seed`",
            "  expected: a whole number >= 0",
            "  found: *'one' (a string)",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_cases_that_share_a_checkpoint_follow_each_other(run: Run, shop):
    """So that it loads once; other tests keep their places."""
    for name, checkpoint in (("a", "digits-ddpm"), ("b", "digits-sd"), ("c", "digits-ddpm")):
        shop.scenario(name, checkpoint=f"{{bundled: {checkpoint}}}")
    (shop.root / "test_own.py").write_text("def test_own(): pass\n", encoding="utf-8")
    order = [line.rpartition("::")[2] for line in collected(run("--collect-only", "-q"))]
    assert order == ["a[cpu-float32]", "c[cpu-float32]", "b[cpu-float32]", "test_own"]


def test_a_baseline_lives_from_missing_to_accepted(run: Run, shop):
    """Missing fails, recorded passes, a change fails, accepted passes."""
    shop.scenario("x")
    run().assert_outcomes(failed=1)
    assert shop.harness("record").code == 0
    run().assert_outcomes(passed=1)
    shop.scenario("x", seed="1")
    run("--harness-out", "changed").assert_outcomes(failed=1)
    assert shop.harness("accept", "changed", "--reason", "seed 1 it is").code == 0
    run().assert_outcomes(passed=1)


def test_a_failure_prints_the_cause_and_what_the_command_line_prints(run: Run, shop):
    """The paragraph of the verdict, and no traceback; the short summary says the cause."""
    shop.recorded("x")
    shop.scenario("x", seed="1")
    result = run("--harness-out", "out")
    result.assert_outcomes(failed=1)
    (outcome,) = read_results(shop.root / "out").outcomes
    _, _, *rest = wording.paragraph(outcome, Path("out")).splitlines()
    assert "\n".join(["  case:     x[cpu-float32]", *rest]) in result.stdout.str()
    assert outcome.verdict is Verdict.STALE
    assert "Traceback" not in result.stdout.str()
    assert "CaseFailedError" not in result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "stale: the baseline belongs to another version of the scenario*",
            "1 case: 1 stale",
            "results and recordings: out",
            "pictures: out/report.html",
            "FAILED scenarios/x.yaml::x[[]cpu-float32] - stale: the baseline belongs to *",
        ]
    )


def test_a_case_that_cannot_run_here_is_skipped_with_the_reason(run: Run, shop):
    """What is not tested says why."""
    shop.recorded("x", cases=BOTH)
    result = run("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["2 cases: 1 identical, 1 unverified", "SKIPPED *: no CUDA device on this machine"]
    )


def test_in_strict_mode_a_case_that_cannot_run_here_fails(run: Run, shop):
    """For a machine that must be able to."""
    shop.recorded("x", cases=BOTH)
    result = run("--harness-strict")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["unverified: no CUDA device on this machine", "  case: *x[[]cuda-float32]"]
    )


@pytest.mark.parametrize(
    ("options", "ini", "expected"),
    [((), "", "CHEAP"), (("--harness-accuracy",), "", "ALWAYS"), ((), "true", "ALWAYS")],
    ids=["neither", "option", "ini-key"],
)
def test_accuracy_can_be_asked_for_of_every_case_that_moved(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch, options, ini: str, expected: str
):
    """As `harness run --accuracy` does; without it, only cheap cases that drifted are evaluated."""
    asked = []
    own = Session.__init__

    def watched(self: Session, *args: Any, **kwargs: Any) -> None:
        asked.append(kwargs["evaluated"].name)
        own(self, *args, **kwargs)

    monkeypatch.setattr(Session, "__init__", watched)
    shop.recorded("x")
    asked.clear()  # the command line recorded it
    if ini:
        (shop.root / "pytest.ini").write_text(f"[pytest]\nharness_accuracy = {ini}\n")
    run(*options).assert_outcomes(passed=1)
    assert asked == [expected]


def test_every_option_has_a_key_in_the_ini_file(run: Run, shop):
    """Scenarios, baselines, output and strictness of a project that keeps them elsewhere."""
    shop.recorded("x", folder="reproducibility", cases=BOTH)
    (shop.root / "baselines").rename(shop.root / "accepted")
    shop.scenario("ignored")
    ini = """\
[pytest]
harness_scenarios = reproducibility
harness_baselines = accepted
harness_out = out
harness_strict = true
"""
    (shop.root / "pytest.ini").write_text(ini, encoding="utf-8")
    result = run("-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["reproducibility/x.yaml::x[[]cpu-float32] PASSED*"])
    assert "ignored" not in result.stdout.str()
    assert verdicts(shop.root / "out") == {
        "x[cpu-float32]": "identical",
        "x[cuda-float32]": "unverified",
    }


def test_an_option_outweighs_the_key_in_the_ini_file(run: Run, shop):
    """As pytest users expect."""
    shop.recorded("x")
    (shop.root / "pytest.ini").write_text(
        "[pytest]\nharness_baselines = nowhere\nharness_out = out\n", encoding="utf-8"
    )
    run("--harness-baselines", "baselines", "--harness-out", "other").assert_outcomes(passed=1)
    assert (shop.root / "other" / "results.json").is_file()
    assert not (shop.root / "out").exists()


def test_keys_of_the_ini_file_count_from_its_folder(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch
):
    """pytest may be started anywhere below: the same cases find the same baselines."""
    shop.recorded("x")
    (shop.root / "pytest.ini").write_text("[pytest]\nharness_out = out\n", encoding="utf-8")
    monkeypatch.chdir(shop.root / "scenarios")
    run("x.yaml").assert_outcomes(passed=1)
    assert (shop.root / "out" / "results.json").is_file()


def test_places_may_be_urls_and_may_be_named_by_the_project(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch
):
    """Baselines are read from there, and the run is sent there when the session is over."""
    monkeypatch.setenv("HARNESS_CACHE", str(shop.root / "cache"))
    there = f"file://{shop.root}/there"
    (shop.root / "pyproject.toml").write_text(
        f'[tool.harness]\nbaselines = "{there}/baselines"\nruns = "{there}/runs"\n',
        encoding="utf-8",
    )
    shop.scenario()
    assert shop.harness("record", "--out", "recorded").code == 0
    result = run("scenarios")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*recordings: {there}/runs/2*"])
    (sent,) = (shop.root / "there" / "runs").glob("2*")
    fetched = fetch_run(f"{there}/runs/{sent.name}", recordings=True)
    assert verdicts(fetched) == {"digits[cpu-float32]": "identical"}
    result = run("scenarios", "--harness-baselines", "baselines", "--harness-out", f"{there}/mine")
    result.assert_outcomes(failed=1)
    assert verdicts(fetch_run(f"{there}/mine", recordings=False)) == {
        "digits[cpu-float32]": "missing"
    }


def test_two_scenarios_of_one_name_are_refused(run: Run, shop):
    """They would share a baseline and a recording; the command line refuses them too."""
    shop.scenario("x")
    shop.scenario("x", folder="scenarios/deeper", seed="1")
    result = run("--collect-only")
    assert result.ret != 0
    assert "`x` is also the name of" in result.stdout.str() + result.stderr.str()


def test_junit_holds_verdict_drift_and_cost(run: Run, shop):
    """For a CI that draws trends."""
    shop.recorded("x")
    run("--junitxml", "junit.xml").assert_outcomes(passed=1)
    (case,) = ET.parse(shop.root / "junit.xml").iter("testcase")  # noqa: S314 (written by the line above)
    assert (case.get("classname"), case.get("name")) == ("scenarios.x.yaml", "x[cpu-float32]")
    found = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert (found["verdict"], found["image.l_inf"], found["image.rel_l2"]) == (
        "identical",
        "0.0",
        "0.0",
    )
    assert float(found["seconds"]) > 0
    assert int(found["peak_bytes"]) > 1_000_000


def test_a_job_of_github_gets_annotations_and_causes_once(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch
):
    """One for all cases of a cause, at a line of a scenario; elsewhere none is printed."""
    for name in ("x", "y"):
        shop.scenario(name)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    plain = run()
    plain.stdout.no_fnmatch_line("::error*")
    plain.stdout.fnmatch_lines(["2 missing: no baseline for this case"])
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = [line for line in run().outlines if line.startswith("::error ")]
    assert len(lines) == 1
    # The example of a cause is the case that ran fastest, which may be either.
    expected = r"::error file=scenarios/[xy]\.yaml,line=2,title=harness%3A 2 missing"
    assert re.match(expected, lines[0])


def test_an_exception_that_is_no_verdict_keeps_its_traceback(
    run: Run, shop, monkeypatch: pytest.MonkeyPatch
):
    """A defect of the harness is not dressed up as a finding."""
    shop.scenario("x")
    monkeypatch.setattr("harness.session.judge", lambda *arguments: 1 // 0)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError*"])


def test_without_scenarios_the_plugin_is_silent(run: Run, shop):
    """It is loaded wherever the harness is installed, and must not disturb anybody."""
    (shop.root / "test_own.py").write_text("def test_own(): pass\n", encoding="utf-8")
    result = run()
    result.assert_outcomes(passed=1)
    assert "results and recordings" not in result.stdout.str()
    assert not (shop.root / "runs").exists()


# Several processes.

WORKERS_REPLAY = """\
import os, sys
if "PYTEST_XDIST_WORKER" in os.environ:
    sys.executable = {script!r}
"""


@pytest.fixture
def replayed(shop, script: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Return a function that runs two cases, which have baselines, on two processes of xdist.

    Their workers replay a recording.
    """
    (shop.root / "pyproject.toml").write_text("[tool.harness]\n", encoding="utf-8")
    shop.recorded("x")
    shop.recorded("y")
    shop.harness("run", "scenarios/x.yaml", "--out", "first")
    conftest = WORKERS_REPLAY.format(script=str(script))
    (shop.root / "conftest.py").write_text(conftest, encoding="utf-8")
    made = shop.root / "first" / "recordings" / "x" / "cpu-float32"
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")
    }
    environment["PRETENDER_RECORDS"] = str(made)
    options = ["-n", "2", "-v", "-p", "no:cacheprovider", "--harness-out", "out"]

    def run_both() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=shop.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_both


def files_of(run: Path) -> list[str]:
    """Return what lies in a run's folder, without hidden files."""
    return sorted(path.name for path in run.iterdir() if not path.name.startswith("."))


def test_processes_of_xdist_judge_the_same_and_leave_one_run(replayed, shop):
    """Both cases pass, in one folder with one `results.json`."""
    done = replayed()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "2 cases: 2 identical\nresults and recordings: out" in done.stdout
    assert files_of(shop.root / "out") == ["logs", "recordings", "report.html", "results.json"]
    assert verdicts(Path("out")) == {"x[cpu-float32]": "identical", "y[cpu-float32]": "identical"}


def test_what_a_killed_run_left_is_not_among_the_results(replayed, shop):
    """A process of an earlier run wrote its part, and nobody gathered it."""
    Session(Store(shop.root / "baselines"), shop.root / "out", part="gw7").write_results()
    done = replayed()
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(shop.root / "out") == ["logs", "recordings", "report.html", "results.json"]


def test_processes_of_xdist_do_not_write_into_another_run(replayed, shop):
    """The controller owns the folder for them; nothing runs where it belongs to another run."""
    owner = RunOwner(shop.root / "out")
    owner.acquire()
    done = replayed()
    owner.release()
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "another run is writing there now" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert files_of(shop.root / "out") == []


def test_a_folder_in_which_another_run_writes_is_refused(run: Run, shop):
    """The item says so in a sentence, and what the other run wrote stays."""
    shop.recorded("x")
    owner = RunOwner(shop.root / "out")
    owner.acquire()
    result = run("--harness-out", "out")
    owner.release()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*another run is writing there now*"])
    assert "Traceback" not in result.stdout.str()


def test_hostile_files_cannot_control_the_terminal(run: Run, shop):
    """A key and a reason may hold any character."""
    shop.scenario("x", checkpoint='{path: "a\\e[2Jb"}')
    shop.scenario("wrong", tags='["\\e[2J", "\\e[2J"]')
    result = run("-rs", "--continue-on-collection-errors")
    result.assert_outcomes(failed=1, errors=1)
    assert "\\x1b[2Jb" in result.stdout.str()
    assert "\x1b[2J" not in result.stdout.str()
