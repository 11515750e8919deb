"""What pytest takes from the project's table, past failures as a choice, and what stays undone."""

from __future__ import annotations

import pytest
from inner import Run, path_of_pytester  # noqa: F401 (the second is a fixture)
from printed import verdicts

from harness.store.run_folder import read_results

TABLE = """\
[tool.harness]
baselines = "goldens"
runs = "out"
device = "cpu"
strict = true
"""


@pytest.fixture
def run(shop, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in this process, in a project of the harness."""
    monkeypatch.delenv("CI", raising=False)
    (shop.root / "pyproject.toml").write_text("[tool.harness]\n", encoding="utf-8")
    without = ("cacheprovider", "benchmark", "unraisableexception")

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*(f"-pno:{plugin}" for plugin in without), *arguments)

    return run


@pytest.fixture
def moved(run: Run, shop) -> Run:
    """A project with two cases, of which one failed in the run `nightly`."""
    for name in ("one", "two"):
        shop.recorded(name)
    shop.scenario("one", seed="1")
    assert shop.harness("run", "--out", "nightly").code == 1
    return run


def test_the_cases_that_failed_in_a_run_are_chosen(moved: Run, shop):
    """Other items stay; unused baselines cannot be told then, so that none is removed."""
    (shop.root / "test_own.py").write_text("def test_own(): pass\n", encoding="utf-8")
    shop.recorded("gone").unlink()
    shop.scenario("one")
    result = moved("--harness-failed-from", "nightly", "--harness-out", "again", "--harness-prune")
    result.assert_outcomes(passed=2, deselected=1)
    assert verdicts(shop.root / "again") == {"one[cpu-float32]": "identical"}
    assert read_results(shop.root / "again").scope.failed_from == "nightly"
    assert (shop.root / "baselines" / "gone").is_dir()


def test_a_run_without_failures_or_that_is_not_there_is_refused(moved: Run, shop):
    """Whoever names it expects some."""
    shop.scenario("one")
    assert shop.harness("run", "--out", "green").code == 0
    for name, said in (("green", "no case failed in green"), ("nowhere", "does not exist")):
        result = moved("--harness-failed-from", name)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{said}*"])


def test_what_pytest_left_undone_stands_in_the_results(moved: Run, shop):
    """After `-x`; and what `-k` was given."""
    result = moved("-x", "-k", "one or two", "--harness-out", "again")
    result.assert_outcomes(failed=1)
    scope = read_results(shop.root / "again").scope
    assert scope.not_run == ("two[cpu-float32]",)
    assert scope.expression == "one or two"


def test_the_table_of_the_project_stands_for_options_and_keys_that_are_left_out(run: Run, shop):
    """Its places count from its file, also where pytest's root is a folder below."""
    shop.recorded()
    (shop.root / "baselines").rename(shop.root / "goldens")
    (shop.root / "pyproject.toml").write_text(TABLE, encoding="utf-8")
    shop.scenario("both", cases="{device: [cpu, cuda]}", checkpoint="{path: ../nowhere}")
    (shop.root / "scenarios" / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    result = run("--rootdir", "scenarios", "-c", "scenarios/pytest.ini", "scenarios")
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    (place,) = (shop.root / "out").glob("2*")
    assert verdicts(place)["digits[cpu-float32]"] == "identical"
    assert not (shop.root / "baselines").exists()


def test_a_mistake_in_the_table_ends_pytest_with_its_line(run: Run, shop):
    """It is one for the command line, too."""
    shop.scenario()
    (shop.root / "pyproject.toml").write_text("[tool.harness]\ndevise = 'cpu'\n", encoding="utf-8")
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pyproject.toml:2: `tool.harness.devise`*"])
    result.stderr.fnmatch_lines(["*did you mean `device`?*"])
