"""Trends over a history: dated, tied to the environment, per numerics class; a year in small."""

from __future__ import annotations

import importlib.util
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import builders
import pytest

from harness.judge.change_points import Kind
from harness.judge.trends import Signal, series_of, silent_cases, trends_of
from harness.records import Check, Comparison, Drift, JudgedBy, Metric
from harness.store.history import add_run, read_history
from harness.store.run_folder import RESULTS_FORMAT, Results
from harness.store.shared_folder import open_folder

START = datetime(2026, 1, 1, 3, tzinfo=UTC)
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def everything(_words: tuple[str, ...]) -> bool:
    return True


@pytest.fixture
def year(monkeypatch):
    """The module that generates a year of nights, of which these tests take a part."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("history_benchmark", BENCHMARKS / "history.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_creep_and_a_step_are_found_on_their_nights_and_nothing_else(tmp_path, year):
    """Twenty scenarios on two machine types over 250 nights, with noise."""
    planted = year.Year(
        nights=250, scenarios=20, machines=2, creep=60, step=180, creeping=7, stepping=11
    )
    year.make(str(tmp_path), planted)
    history = read_history(open_folder(str(tmp_path)))
    series = series_of(history, everything)
    assert len(series) == 40
    found = [trend for each in series for trend in trends_of(history, each)]
    names = {(trend.case.partition("[")[0], trend.numerics_class, trend.kind) for trend in found}
    assert names == {
        ("scenario-007", "gpu-type-0", Kind.CREEP),
        ("scenario-011", "gpu-type-0", Kind.STEP),
    }
    creep = next(t for t in found if t.kind is Kind.CREEP and t.signal is Signal.FREE)
    step = next(t for t in found if t.kind is Kind.STEP and t.signal is Signal.FREE)
    assert abs((creep.first - year.FIRST_NIGHT).days - 60) <= 15
    assert abs((creep.last - year.FIRST_NIGHT).days - 120) <= 15
    assert creep.after / creep.before == pytest.approx(3, rel=0.2)
    assert creep.margin > 1
    assert (step.first - year.FIRST_NIGHT).days == 180
    assert step.changed_on == step.first
    assert step.changes == ("diffusers 0.36.0 -> 0.37.0",)
    assert len(step.commits) == 2


def night(number, drift, *, verdict="within", baseline="d", letter="a", **changes):
    """Return the results of one night with one case."""
    outcome = builders.outcome(
        verdict,
        numerics_class=f"cpu-{letter}",
        device_kind="cpu",
        baseline=JudgedBy("cpu-b", Comparison.CROSS_CLASS, "cpu-float32", baseline * 32),
        outputs={"image": Drift(drift, drift, 1.0, 1.0, 1, 1, (0,), 1.0, 1.0)},
        checks=(Check("image", Metric.REL_L2, drift, 1e-4),),
        **changes,
    )
    environment = builders.environment(letter)
    return Results(
        RESULTS_FORMAT,
        (outcome,),
        written=(START + timedelta(days=number)).isoformat(),
        digest=f"{number:032x}"[::-1],
        environments={f"cpu-{letter}": environment},
    )


def history_of(tmp_path, *nights):
    folder = open_folder(str(tmp_path))
    for each in nights:
        add_run(folder, each, "run")
    return read_history(folder)


def test_creep_that_goes_on_says_when_it_reaches_its_bound(tmp_path):
    """A hundredth of a decade a night, from 1e-6: the bound of 1e-4 comes on night 200 or so."""
    values = [1e-6 * 10 ** (max(0, n - 40) / 100) for n in range(140)]
    history = history_of(tmp_path, *(night(n, value) for n, value in enumerate(values)))
    (series,) = series_of(history, everything)
    (trend,) = trends_of(history, series)
    assert trend.kind is Kind.CREEP
    assert trend.nights_left == pytest.approx(101, rel=0.1)
    assert trend.changes == ()
    assert trend.commits == ()


def test_another_baseline_begins_another_search(tmp_path):
    """Its drift is another one, and no step."""
    values = [(1e-6, "d")] * 30 + [(5e-6, "e")] * 30
    nights = (night(n, value, baseline=seal) for n, (value, seal) in enumerate(values))
    history = history_of(tmp_path, *nights)
    (series,) = series_of(history, everything)
    assert trends_of(history, series) == []


def test_a_case_that_gave_the_same_bits_steps_when_they_differ(tmp_path):
    """No drift at all has no logarithm; it is shown as 0."""
    nights = (night(n, 0.0 if n < 30 else 1e-7) for n in range(40))
    history = history_of(tmp_path, *nights)
    (series,) = series_of(history, everything)
    (trend,) = trends_of(history, series)
    assert (trend.kind, trend.before) == (Kind.STEP, 0.0)
    assert trend.after == pytest.approx(1e-7)
    assert trend.first == START + timedelta(days=30)


def test_each_numerics_class_has_a_series_of_its_own(tmp_path):
    """The cases are chosen by their ids and tags."""
    both = history_of(tmp_path, night(0, 1e-6), night(1, 2e-6, letter="b", tags=("slow",)))
    assert [each.numerics_class for each in series_of(both, everything)] == ["cpu-a", "cpu-b"]
    slow = series_of(both, lambda words: "slow" in words)
    assert [each.numerics_class for each in slow] == ["cpu-b"]


def test_cases_without_a_result_for_some_days_are_listed(tmp_path):
    """`unverified` is no result."""
    history = history_of(tmp_path, night(0, 1e-6), night(5, math.nan, verdict="unverified"))
    now = START + timedelta(days=9)
    (found,) = silent_cases(history, everything, now, 7)
    assert (found.case, found.device_kind, found.days) == ("digits[cpu-float32]", "cpu", 9)
    assert silent_cases(history, everything, now, 9) == []
    assert silent_cases(history, lambda words: False, now, 7) == []
