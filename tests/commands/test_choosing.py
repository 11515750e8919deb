"""Which cases run: of all files that can be read, of past failures, and up to the first failure."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from printed import verdicts

from harness.store.run_folder import read_results

BROKEN = {"seed": "x", "generator": "gpu"}


@pytest.fixture
def moved(shop):
    """A project with three cases, of which two fail: their seed was edited."""
    for name in ("one", "two", "three"):
        shop.recorded(name)
    for name in ("one", "three"):
        shop.scenario(name, seed="1")
    return shop


# Files with mistakes.


def test_listing_goes_on_past_broken_files_and_tells_all_mistakes_of_all_files(shop):
    """The others are listed; the code is that of a mistake."""
    shop.scenario("good")
    shop.scenario("bad", **BROKEN)
    shop.scenario("worse", generator="disk")
    done = shop.harness("list")
    assert done.code == 2
    assert "good[cpu-float32]" in done.out
    told = re.findall(r"^(?:harness: )?scenarios/(\S+):(?: `(\w+)`)?$", done.err, re.MULTILINE)
    assert [field for file, field in told if file.startswith("bad")] == ["seed", "generator"]
    assert [field for file, field in told if file.startswith("worse")] == ["generator"]
    assert done.err.count("expected: ") == len(told)
    assert "bad.yaml" not in done.out


def test_a_run_goes_on_past_broken_files_and_never_exits_with_0(shop):
    """What passes is kept, and the results say which files were not read."""
    shop.recorded("good")
    shop.scenario("bad", **BROKEN)
    done = shop.harness("run", "--out", "run")
    assert done.code == 2
    assert "1 case: 1 identical" in done.out
    assert "files with mistakes, none of whose cases ran: scenarios/bad.yaml" in done.out
    assert "expected:" in done.err
    assert done.err.rstrip().endswith(
        "1 file has mistakes, and none of their cases ran: scenarios/bad.yaml"
    )
    assert verdicts(shop.root / "run") == {"good[cpu-float32]": "identical"}
    assert read_results(shop.root / "run").scope.unread == ("scenarios/bad.yaml",)
    assert "scenarios/bad.yaml" in (shop.root / "run" / "summary.md").read_text(encoding="utf-8")
    again = shop.harness("report", "run")
    assert "none of whose cases ran: scenarios/bad.yaml" in again.out


def test_two_files_of_one_name_are_a_mistake_of_the_second(shop):
    """The first one runs."""
    shop.scenario("same")
    shop.scenario("same", folder="scenarios/below")
    done = shop.harness("list")
    assert done.code == 2
    assert "same[cpu-float32]" in done.out
    assert "rename one file" in done.err


def test_where_no_file_can_be_read_the_mistakes_are_all_that_is_said(shop):
    """Nothing runs."""
    shop.scenario("bad", **BROKEN)
    shop.scenario("worse", **BROKEN)
    done = shop.harness("run")
    assert (done.code, done.out) == (2, "")
    assert {"bad.yaml", "worse.yaml"} <= set(re.findall(r"\w+\.yaml", done.err))
    assert not (shop.root / "runs").exists()


def test_a_selection_that_fits_nothing_tells_the_mistakes_too(shop):
    """The case that was meant may be that of the broken file."""
    shop.scenario("good")
    shop.scenario("bad", **BROKEN)
    done = shop.harness("run", "-k", "bad")
    assert done.code == 2
    assert "none of 1 cases fits -k 'bad'" in done.err
    assert "bad.yaml:" in done.err


def test_a_bisection_of_git_ends_at_a_broken_file(shop):
    """The verdict on the other cases is not that on the commit."""
    shop.recorded("good")
    shop.scenario("bad", **BROKEN)
    done = shop.harness("run", "--git-bisect")
    assert done.code == 128
    assert done.out == ""


def test_other_commands_refuse_all_broken_files_at_once(shop):
    """What writes baselines does not begin with half a project."""
    shop.scenario("good")
    shop.scenario("bad", **BROKEN)
    shop.scenario("worse", **BROKEN)
    done = shop.harness("record")
    assert done.code == 2
    assert {"bad.yaml", "worse.yaml"} <= set(re.findall(r"\w+\.yaml", done.err))
    assert not (shop.root / "baselines").exists()


# Past failures.


def test_the_cases_that_failed_last_run_again_alone(moved):
    """Then, of those, what still fails."""
    assert moved.harness("run").code == 1
    done = moved.harness("run", "--lf", "--out", "runs/second")
    assert "2 cases that failed in runs/" in done.err
    assert set(verdicts(moved.root / "runs" / "second")) == {
        "one[cpu-float32]", "three[cpu-float32]",
    }  # fmt: skip
    scope = read_results(moved.root / "runs" / "second").scope
    assert scope.failed_from.startswith("runs/")
    moved.scenario("one")
    assert moved.harness("run", "--last-failed", "--out", "runs/third").code == 1
    done = moved.harness("run", "--lf")
    assert "1 cases that failed in runs/third" in done.err


def test_without_a_failure_or_a_run_all_cases_run_and_that_is_said(shop):
    """As in pytest."""
    shop.recorded()
    shutil.rmtree(shop.root / "runs", ignore_errors=True)
    first = shop.harness("run", "--lf")
    assert (first.code, "there is no run in runs, so all cases run" in first.err) == (0, True)
    second = shop.harness("run", "--lf")
    assert second.code == 0
    assert "no case failed in runs/" in second.err
    assert "1 case: 1 identical" in second.out


def test_the_failures_of_a_named_run_are_chosen(moved):
    """Within what other options choose."""
    moved.harness("run", "--out", "nightly")
    done = moved.harness("run", "--failed-from", "nightly", "-k", "one", "--out", "again")
    assert verdicts(moved.root / "again") == {"one[cpu-float32]": "stale"}
    assert "1 cases that failed in nightly; 1 more failed there" in done.err
    assert read_results(moved.root / "again").scope.failed_from == "nightly"
    nothing = moved.harness("run", "--failed-from", "nightly", "-k", "two")
    assert nothing.code == 2
    assert "none of 1 chosen cases is among the 2 that failed in nightly" in nothing.err


def test_a_named_run_without_failures_is_refused(shop):
    """Whoever names it expects some."""
    shop.recorded()
    shop.harness("run", "--out", "green")
    done = shop.harness("run", "--failed-from", "green")
    assert (done.code, done.err.strip()) == (2, "harness: no case failed in green")
    both = shop.harness("run", "--failed-from", "green", "--lf")
    assert (both.code, "not allowed with argument" in both.err) == (2, True)


def test_last_failed_needs_runs_in_a_folder(shop):
    """Behind a URL, the user names one."""
    shop.scenario()
    (shop.root / "pyproject.toml").write_text("[tool.harness]\nruns = 'memory://runs'\n")
    done = shop.harness("run", "--lf")
    assert done.code == 2
    assert "name one by --failed-from RUN" in done.err


# The first failure.


def test_no_case_begins_after_the_first_failure(moved):
    """What was not run is named, in the report and in the results."""
    done = moved.harness("run", "-x", "--out", "run")
    assert done.code == 1
    results = read_results(moved.root / "run")
    assert sum(outcome.fails for outcome in results.outcomes) == 1
    assert len(results.outcomes) + len(results.scope.not_run) == 3
    assert results.scope.not_run
    left = f"did not begin, because the run ended before: {', '.join(results.scope.not_run)}"
    assert left in done.out
    assert left in moved.harness("report", "run").out


def test_without_a_failure_every_case_runs(shop):
    """`-x` alone leaves nothing out."""
    shop.recorded()
    assert shop.harness("run", "-x", "--out", "run").code == 0
    assert read_results(shop.root / "run").scope.not_run == ()


def test_what_was_chosen_stands_in_the_results(shop):
    """Whoever gets the file sees that it is not everything."""
    shop.recorded()
    shop.harness("run", "-k", "digits", "--device", "cpu", "--out", "run")
    content = json.loads(Path("run/results.json").read_text(encoding="utf-8"))
    assert content["scope"] == {
        "device": "cpu", "expression": "digits", "failed_from": "", "not_run": [], "unread": [],
    }  # fmt: skip


# Progress.


def test_a_line_for_each_case_that_ends_where_standard_error_is_no_terminal(moved):
    """Its number, its verdict, its id and its seconds; standard output has the report alone."""
    done = moved.harness("run", "--json")
    lines = [line for line in done.err.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in lines] == ["[1/3]", "[2/3]", "[3/3]"]
    found = {line.split()[2]: line.split()[1] for line in lines}
    assert found == {
        "one[cpu-float32]": "stale", "two[cpu-float32]": "identical", "three[cpu-float32]": "stale",
    }  # fmt: skip
    assert all(re.search(r"  \d+\.\d s$", line) for line in lines)
    assert json.loads(done.out)["runs"]


def test_recording_tells_what_was_recorded_as_it_ends(shop):
    """Not that a baseline is missing, which is why it runs."""
    shop.scenario()
    done = shop.harness("record")
    assert re.search(r"^\[1/1\] recorded +digits\[cpu-float32\]  ", done.err, re.MULTILINE)
