"""Forecasts: which stages are emulated, what follows from drifts, and what a GPU gave beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest

from harness.errors import UsageError
from harness.records import Device, Dtype, Metric, Stage
from harness.report.forecast_report import NOT_MEASURED, headings_of, page, rows_of
from harness.scenario.fields import Determinism, Expectation, Framework
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.scenario.tolerance import BoundKey, Kind
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.study import forecast as module
from harness.study.budget import Budget
from harness.study.calibrate import PERTURBATIONS, Calibration
from harness.study.emulations import EMULATIONS, emulations_for
from harness.study.forecast import Forecast, Plan, chosen_stages, forecast, why_not

SCENARIO = """
description: A model small enough to be emulated in seconds.
pipeline: DDIMPipeline
checkpoint: {bundled: digits-ddpm}
call: {num_inference_steps: 3, output_type: np}
tolerance: {cross-class: {local_rel_l2: 1.0e-4}}
"""


def stages(*names: str) -> list[Stage]:
    return [Stage.parse(name) for name in names]


# What is emulated.


def test_the_stages_that_lead_to_the_chosen_steps_are_emulated():
    """With guidance the denoiser is called twice a step; what follows the last step is in it."""
    run = stages(
        "text_encoder#0",
        *("unet#0", "unet#1", "scheduler.step#0"),
        *("unet#2", "unet#3", "scheduler.step#1"),
        *("unet#4", "unet#5", "scheduler.step#2"),
        "vae.decode#0",
    )
    names = [str(each) for each in run]
    assert chosen_stages(run, 1) == [*names[:4], "vae.decode#0"]
    assert chosen_stages(run, 2) == [*names[:4], *names[7:]]
    assert chosen_stages(run, 3) == names
    assert chosen_stages(run, 9) == names


def test_every_scheduler_has_its_steps():
    """A pipeline of several models has one for each of them."""
    run = stages(
        *("prior#0", "prior_scheduler.step#0", "prior#1", "prior_scheduler.step#1"),
        *("unet#0", "scheduler.step#0", "unet#1", "scheduler.step#1"),
    )
    assert chosen_stages(run, 1) == [
        *("prior#0", "prior_scheduler.step#0", "unet#0", "scheduler.step#0"),
    ]


def test_a_run_without_a_scheduler_is_emulated_as_a_whole():
    """There is nothing to choose from."""
    assert chosen_stages(stages("encoder#0", "decoder#0"), 2) == ["encoder#0", "decoder#0"]


@pytest.mark.parametrize(
    ("dtype", "alone"),
    [
        (Dtype.FLOAT32, {"tf32"}),
        (Dtype.BFLOAT16, {"tensor-core", "half-reduction"}),
        (Dtype.FLOAT16, {"tensor-core", "half-reduction", "float16-accumulate"}),
    ],
)
def test_a_type_has_its_emulations(dtype: Dtype, alone: set[str]):
    """Beside those of every type."""
    every = {"fma", "split-k", "tile-order", "tree-sums", "ulp", "together", "online-softmax"}
    assert set(emulations_for(builders.case(dtype=dtype))) == every | alone


def test_deterministic_mode_keeps_a_gpu_from_some():
    """In torch's own mode all of them are to be expected."""
    off = {"tf32", "online-softmax", "half-reduction", "float16-accumulate"}
    case = builders.case()
    assert {name for name, each in EMULATIONS.items() if not each.is_expected(case)} == off
    free = builders.case(determinism=Determinism.DEFAULT)
    assert all(each.is_expected(free) for each in EMULATIONS.values())


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (builders.case(variant="compiled"), "is a variant"),
        (builders.case(device="cuda"), "does not run on the CPU"),
        (builders.case(framework=Framework.MINDSPORE), "runs in mindspore"),
        (builders.case(expect=(Expectation.VARIES,)), "is expected to vary"),
        (builders.case(executions={"compile": {}}), "is not emulated"),
        (builders.case(dtype="float64"), "no emulation is of float64"),
        (builders.case(), ""),
    ],
)
def test_some_cases_have_no_forecast(case: Case, said: str):
    """And the reason is told."""
    assert said in why_not(case)
    assert bool(why_not(case)) == bool(said)


# What follows.


def local(stage: str) -> BoundKey:
    return BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, stage)


CALIBRATION = Calibration(
    case="digits[cpu-float32]",
    on="cpu-a",
    device=Device.CPU,
    seeds=1,
    perturbations=2,
    noise={local("noise#0"): 0.0, local("scheduler.step#0"): 2e-7, local("scheduler.step#1"): 9e-7},
    draws={
        PERTURBATIONS: [{local("scheduler.step#0"): 2e-7}],
        "fma": [{local("noise#0"): 0.0, local("scheduler.step#0"): 1e-6}],
        "tf32": [{local("noise#0"): 0.0, local("scheduler.step#0"): 1e-3}],
        "cpu-other": [{local("noise#0"): 1e-2, local("scheduler.step#0"): 1e-2}],
    },
    last_place=2.0**-23,
    missed={"online-softmax": "has no effect", "cuda": "no CUDA device"},
)


def derived(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    measured: Calibration = CALIBRATION,
) -> Forecast:
    """Return the forecast that follows from what was measured."""
    base = builders.recording(tmp_path / "base")
    monkeypatch.setattr(Session, "record", lambda *_args, **_options: base)
    monkeypatch.setattr(module, "calibrate", lambda *_args, **_options: measured)
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        return forecast(session, case, Plan(), lambda _: None)


def test_bounds_follow_from_what_a_gpu_may_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """TF32 is off in deterministic mode, and another machine is no emulation.

    Stages that no emulation reached say nothing: the noise of the second step does not count.
    """
    found = derived(builders.case(), monkeypatch, tmp_path)
    assert found.kinds == ("scheduler.step",)
    assert {each.emulation: each.local["scheduler.step"] for each in found.predicted} == {
        "fma": 1e-6,
        "tf32": 1e-3,
    }
    assert [each.emulation for each in found.expected] == ["fma"]
    assert found.noise == {"noise": 0.0, "scheduler.step": 2e-7}
    assert found.derived["scheduler.step"] == 2e-6  # twice the worst
    assert found.missed == {"online-softmax": "has no effect"}
    assert found.is_within  # where there is no bound, none is exceeded
    free = derived(builders.case(determinism=Determinism.DEFAULT), monkeypatch, tmp_path)
    assert free.derived["scheduler.step"] == 2e-3


@pytest.mark.parametrize(("bound", "margin", "is_within"), [(3e-6, 3.0, True), (5e-7, 0.5, False)])
def test_the_bounds_now_are_held_against_what_is_expected(
    bound: float, margin: float, is_within: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A bound of the stage itself comes before that of its kind; what is off counts for nothing."""
    tolerance = {
        "cross-class": {"local_rel_l2": {"scheduler.step": 9.0, "scheduler.step#0": bound}}
    }
    found = derived(builders.case(tolerance=tolerance), monkeypatch, tmp_path)
    fma, tf32 = found.predicted
    assert fma.margins == {"scheduler.step": pytest.approx(margin)}
    assert tf32.exceeds == ("scheduler.step",)
    assert found.is_within is is_within
    assert found.bounds["scheduler.step"] == bound


def test_a_bound_on_systematic_drift_holds_in_proportion_for_an_emulation_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Its drift is a quarter of the bound on relative L2, and so is the part that holds."""
    gain = replace(local("scheduler.step#0"), metric=Metric.LOCAL_GAIN)
    fma = {**CALIBRATION.draws["fma"][0], gain: 3e-7}
    measured = replace(CALIBRATION, draws={**CALIBRATION.draws, "fma": [fma]})
    bounds = {"local_rel_l2": {"scheduler.step": 4e-6}, "local_gain": {"scheduler.step": 1e-6}}
    case = builders.case(tolerance={"cross-class": bounds})
    found = derived(case, monkeypatch, tmp_path, measured)
    assert found.predicted[0].margins == {"scheduler.step": pytest.approx(0.25e-6 / 3e-7)}
    assert not found.is_within


def test_a_tolerance_that_admits_nothing_is_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """`identical` across classes owes the same bits."""
    case = builders.case(tolerance={"cross-class": "identical"})
    found = derived(case, monkeypatch, tmp_path)
    assert (found.is_within, found.bounds["scheduler.step"]) == (False, 0.0)


# What is shown.


def test_the_table_has_what_is_predicted_the_bounds_and_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Until there is a GPU, its row says so."""
    found = derived(builders.case(), monkeypatch, tmp_path)
    assert headings_of(found)[1:-1] == ("scheduler.step",)
    rows = {row[0]: row[1:] for row in rows_of(found)}
    assert rows["fma"] == ("1.0e-06", "no bound")
    assert rows["tf32 (TF32: off in deterministic mode)"] == ("1.0e-03", "no bound")
    assert rows["bound that follows"][0] == "2.0e-06"
    assert rows["measured on CUDA"][0] == NOT_MEASURED
    gpu = module.Measured("cuda-h100-b", {"scheduler.step": 1.5e-6})
    rows = {row[0]: row[1:] for row in rows_of(replace(found, measured=(gpu,)))}
    assert rows["measured: cuda-h100-b"][0] == "1.5e-06"
    assert "measured on CUDA" not in rows


def test_the_page_says_how_it_was_made_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A table over all cases, one for each, and those that have none."""
    found = derived(builders.case(), monkeypatch, tmp_path)
    text = page(
        [found], {"x[cpu-float32]": "is a | variant\nand more"}, "harness forecast", "a CPU"
    )
    assert "$ harness forecast\n" in text
    assert "none of them is a GPU" in text
    assert (
        "| `digits[cpu-float32]` | 1.0e-06 | fma, scheduler.step | no bound | not measured |"
        in text
    )
    assert "- Not run: `online-softmax`: has no effect" in text
    assert "| `x[cpu-float32]` | is a \\| variant |" in text
    prose = [line for line in text.splitlines() if not line.startswith(("|", "- "))]
    assert max(map(len, prose)) <= 100


# In a run.


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Case, Forecast, list[str]]:
    """A forecast with two emulations, whose baseline of a pretended GPU is in the store."""
    folder = tmp_path_factory.mktemp("forecast")
    path = folder / "small.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    case = read(path).cases()[0]
    said: list[str] = []
    with Session(Store(folder / "baselines"), folder / "run") as session:
        plan = Plan(("tree-sums", "ulp"), steps=2, perturbations=1)
        found = forecast(session, case, plan, said.append)
    return folder, case, found, said


def test_a_forecast_moves_only_what_it_emulates(ran):
    """The recordings prove the effect, and every drift is small and not zero."""
    folder, case, found, said = ran
    assert [each.emulation for each in found.predicted] == ["tree-sums", "ulp"]
    for each in found.predicted:
        assert 1e-8 < each.local["scheduler.step"] < 1e-5
        assert "operators emulated" in each.seen
        assert each.margins["scheduler.step"] > 10
    assert found.is_within
    assert found.measured == ()
    assert len(said) == Plan(("tree-sums", "ulp"), perturbations=1).count(case)
    recorded = folder / "run" / "recordings" / "small" / "cpu-float32"
    kept = json.loads((recorded / "ulp-0-teacher-forced" / "recording.json").read_text("utf-8"))
    asked = ["unet#0", "scheduler.step#0", "unet#2", "scheduler.step#2"]
    assert kept["case"]["emulation"] == {"name": "ulp", "stages": asked}


def test_what_was_measured_is_used_again(ran):
    """As after Ctrl-C: only the runs that others are compared with are made again."""
    folder, case, found, _ = ran
    said: list[str] = []
    with Session(Store(folder / "baselines"), folder / "run") as session:
        again = forecast(session, case, Plan(("tree-sums", "ulp"), perturbations=1), said.append)
    assert again == found
    assert [name for name in said if not name.endswith(", kept")] == ["base-0"]


def test_a_recording_of_a_gpu_is_held_beside_it(ran, monkeypatch: pytest.MonkeyPatch):
    """The case runs here by what the GPU kept; a pretended one, which is this machine itself."""
    folder, case, found, _ = ran
    run = folder / "gpu-run"
    on_gpu = run / "recordings" / "small" / "cuda-float32"
    with Session(Store(folder / "baselines"), folder / "run") as session:
        session.record(case, folder=on_gpu)
        other = replace(Recording.read(on_gpu).numerics_class, name="cuda-pretended")
        monkeypatch.setattr(
            module, "_recordings", lambda *_: [pretended(Recording.read(on_gpu), other)]
        )
        plan = Plan(("tree-sums", "ulp"), perturbations=1, runs=(run,))
        again = forecast(session, case, plan, lambda _: None)
    (measured,) = again.measured
    assert measured.numerics_class == "cuda-pretended"
    assert measured.local["scheduler.step"] == 0.0
    assert again.predicted == found.predicted


def pretended(recording: Recording, numerics_class) -> Recording:
    """Return a recording as if it were of another numerics class."""
    environment = replace(recording.environment, numerics_class=numerics_class)
    return replace(recording, environment=environment)


def test_recordings_of_a_gpu_are_found_in_runs(tmp_path: Path):
    """By the id that the case has on a GPU; a run without one has nothing to say."""
    folder = tmp_path / "gpu" / "recordings" / "digits" / "cuda-float32"
    builders.recording(folder)
    found = module._recordings(builders.case(), (tmp_path / "gpu", tmp_path / "other"))
    assert [each.tensors_path.parent for each in found] == [folder]


def test_an_emulation_that_is_not_of_the_type_is_refused(tmp_path: Path):
    """TF32 rounds operands of float32 alone."""
    with (
        Session(Store(tmp_path / "baselines"), tmp_path / "run") as session,
        pytest.raises(UsageError, match="none of tf32 is of float16"),
    ):
        forecast(session, builders.case(dtype="float16"), Plan(("tf32",)), lambda _: None)


def test_no_time_is_no_forecast(ran):
    """What the budget does not afford is not measured, and said so."""
    folder, case, _, _ = ran
    with Session(Store(folder / "baselines"), folder / "short") as session:
        plan = Plan(("ulp",), perturbations=1, budget=Budget(1e-9))
        found = forecast(session, case, plan, lambda _: None)
    assert found.predicted == ()
    assert found.missed == {"ulp": "the budget was spent"}
    assert not np.isnan(sum(found.derived.values()))
