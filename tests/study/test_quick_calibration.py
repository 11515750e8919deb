"""The bounds that `record` measures: kept in the baseline, held on machines of other classes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import BaselineError
from harness.scenario.reading import read
from harness.scenario.tolerance import Evidence
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import recording_folder
from harness.store.sealed import write_sealed
from harness.study import quick_calibration
from harness.study.quick_calibration import needs_bounds

POLICY = "require:\n  - {scenarios: [digits], on: [cpu]}\n"
CASE = "digits[cpu-float32]"
BOUNDS = f"{CASE}: a quick calibration bounds other classes by local_rel_l2 of noise "
NONE = "; other classes owe the same bits until harness calibrate measures bounds"


def evidence(shop) -> dict[str, object] | None:
    """Return the evidence of the one baseline."""
    return json.loads(shop.baseline().read_text(encoding="utf-8"))["evidence"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which what `calibrated` recorded is kept for the next test."""
    return tmp_path_factory.mktemp("kept") / "recorded"


@pytest.fixture
def calibrated(shop, kept: Path):
    """A scenario without bounds, recorded with a quick calibration."""
    shop.scenario()
    if not kept.exists():
        done = shop.harness("record", "--out", "first")
        assert done.code == 0, done.err
        assert BOUNDS in done.out
        shutil.copytree(shop.root, kept)
    else:
        shutil.copytree(kept, shop.root, dirs_exist_ok=True)
    return shop


def test_a_scenario_without_bounds_passes_on_another_class_from_its_first_day(
    calibrated, monkeypatch
):
    """By what its baseline holds, which a gate knows too; one unit more would not pass."""
    found = evidence(calibrated)
    assert (found["platforms"], found["seeds"], found["device"]) == (2, 1, "cpu")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    done = calibrated.harness("run", "--out", "elsewhere")
    assert done.code == 0, done.out
    assert "1 case: 1 within" in done.out
    (calibrated.root / "policy.yaml").write_text(POLICY, encoding="utf-8")
    gate = calibrated.harness("gate", "elsewhere", "--policy", "policy.yaml")
    assert gate.code == 0, gate.out
    tight = {**found, "bounds": {"local_rel_l2": {"scheduler.step": 1e-12}}}
    store = Store(calibrated.root / "baselines")
    store.annotate(calibrated.baseline(), evidence=Evidence.from_yaml(tight))
    done = calibrated.harness("run", "--out", "later")
    assert done.code == 1
    assert "bound 1e-12" in done.out


def test_without_a_quick_calibration_another_class_owes_the_same_bits(shop, monkeypatch):
    """As the option asks; the baseline has no evidence."""
    shop.scenario()
    done = shop.harness("record", "--no-calibrate")
    assert "quick calibration" not in done.out
    assert evidence(shop) is None
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    done = shop.harness("run")
    assert done.code == 1
    assert "the scenario sets no `tolerance.cross-class`" in done.out


@pytest.mark.parametrize(
    "tolerance", ["{cross-class: {rel_l2: 1.0e-3}}", "{cross-class: identical}"]
)
def test_a_scenario_that_says_what_it_owes_is_not_calibrated(shop, tolerance: str):
    """Also where that is the same bits."""
    recorded = shop.recorded(tolerance=tolerance)
    (case,) = read(recorded).cases()
    baseline = Store(shop.root / "baselines").read(shop.baseline())
    assert not needs_bounds(case, baseline)
    (plain,) = read(shop.scenario("other")).cases()
    assert needs_bounds(plain, baseline)
    assert not needs_bounds(plain, replace(baseline, reference=False))
    assert not needs_bounds(plain, replace(baseline, stages=()))


def test_what_takes_too_long_gets_no_bounds_and_says_so(shop, monkeypatch):
    """A run of minutes is not repeated five times by a command that was to record it."""
    monkeypatch.setattr(quick_calibration, "SECONDS", 0.0)
    shop.scenario()
    done = shop.harness("record")
    assert done.code == 0
    assert f"{CASE}: one run takes too long for a quick calibration{NONE}" in done.out
    assert evidence(shop) is None


def test_an_accepted_baseline_keeps_its_bounds_and_another_scenario_loses_them(calibrated):
    """The bounds of what one scenario computes say nothing of another one."""
    before = evidence(calibrated)
    store = Store(calibrated.root / "baselines")
    (case,) = read(calibrated.root / "scenarios" / "digits.yaml").cases()
    recording = Recording.read(recording_folder(calibrated.root / "first", case))
    store.write(case, recording, "again")
    assert evidence(calibrated) == before
    (other,) = read(calibrated.scenario(seed="5")).cases()
    store.write(other, recording, "another seed")
    assert evidence(calibrated) is None


@pytest.mark.parametrize(
    "forged",
    [
        {"bounds": {"local_rel_l2": -1.0}},
        {"bounds": {"local_rel_l2": "much"}},
        {"bounds": {"nonsense": 1.0}},
        {"platforms": 3},
        {"bounds": 3, "other": 1},
    ],
    ids=["negative", "text", "metric", "without", "shape"],
)
def test_evidence_that_cannot_be_read_damages_the_baseline(calibrated, forged):
    """It judges nothing, and the message says what to do."""
    store = Store(calibrated.root / "baselines")
    path = calibrated.baseline()
    write_sealed(path, replace(store.read(path), evidence=forged))
    scenario = read(calibrated.root / "scenarios" / "digits.yaml")
    with pytest.raises(BaselineError, match=r"has evidence .*\n.*restore both files"):
        store.read(path).tolerance(scenario)


def test_a_run_that_meets_such_evidence_is_an_error_of_its_case(calibrated, monkeypatch):
    """The others go on."""
    store = Store(calibrated.root / "baselines")
    path = calibrated.baseline()
    write_sealed(path, replace(store.read(path), evidence={"bounds": 3}))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    done = calibrated.harness("run", "--out", "elsewhere")
    assert done.code == 1, done.err
    assert "has evidence without bounds" in done.out
