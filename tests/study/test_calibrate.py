"""Calibration: bounds follow from what was measured, and the file keeps the evidence for them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import builders
import numpy as np
import pytest
import torch

from harness.errors import LaunchError, NotRecordedError, ScenarioError, UsageError
from harness.judge.checks import check_local
from harness.records import Device, Metric, Stage, StageDrift, Verdict
from harness.scenario.fields import Expectation, Generator
from harness.scenario.model import Reference
from harness.scenario.reading import read
from harness.scenario.tolerance import BoundKey, Evidence, Kind, Tolerance, Tolerances
from harness.scenario.write_tolerance import write_tolerance
from harness.session import Session
from harness.store.baselines import Store
from harness.study import budget, calibrate, kept_drifts, platforms
from harness.study.budget import Budget
from harness.study.calibrate import (
    L_INF,
    REL_L2,
    Calibration,
    Effort,
    Figure,
    Figures,
    Known,
    check_writable,
    compact,
    is_comparable,
    measure_platforms,
    worst_of,
)
from harness.study.platforms import CUDA, PLATFORMS, Platform, platforms_of
from harness.worker.observe.capture import perturbed


def local(pattern: str) -> BoundKey:
    """Return the key of a bound on the relative local drift of a stage, or of a kind of stage."""
    return BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, pattern)


STEP, NOISE = local("scheduler.step#0"), local("noise#0")
FOUND = Calibration(
    case="x[cpu-float32]",
    on="cpu-a",
    device=Device.CPU,
    seeds=3,
    perturbations=8,
    noise={REL_L2: 1e-6, L_INF: 1e-5, STEP: 2e-7, NOISE: 0.0},
    draws={
        "mild": [{REL_L2: 2e-6, L_INF: 2e-5, STEP: 1e-7, NOISE: 0.0}],
        "wild": [{REL_L2: 1.23e-5, L_INF: 3e-5, STEP: 4e-7, NOISE: 0.0}],
    },
    devices=frozenset({Device.CPU}),
    last_place=2.0**-23,
)


# From figures to bounds.


def test_a_bound_is_seven_perturbations_or_twice_the_worst_platform():
    """Whichever is larger, rounded up to two digits.

    A stage that nothing moved gets two units in the last place.
    """
    assert FOUND.limits() == {
        L_INF: 7e-5,  # of the perturbation
        NOISE: 2.4e-7,
        STEP: 1.4e-6,  # of the perturbation
        REL_L2: 2.5e-5,  # of the wild platform
    }


def test_a_platform_left_out_is_held_against_what_the_others_say():
    """The wild one exceeds seven perturbations, so that the bounds without it do not admit it."""
    assert FOUND.left_out() == {"mild": True, "wild": False}
    assert FOUND.limits(without="wild")[REL_L2] == 7e-6


def test_a_stage_far_above_its_kind_gets_a_bound_of_its_own():
    """The others keep theirs: one badly conditioned step does not open the gate for all."""
    measured = (9e-4, 2e-6, 1e-6, 3e-6)
    steps = {local(f"scheduler.step#{index}"): limit for index, limit in enumerate(measured)}
    bounds = compact({REL_L2: 1e-5, **steps})
    kind, first = local("scheduler.step"), local("scheduler.step#0")
    assert bounds == {REL_L2: 1e-5, first: 9e-4, kind: 3e-6}
    drifts = [StageDrift(Stage("scheduler.step", i), "sample", 0.0, 1e-5) for i in range(3)]
    checks = check_local(drifts, Tolerance.from_keys(bounds))
    assert [(each.check.subject, each.check.passed) for each in checks] == [
        ("scheduler.step#0/sample", True),
        ("scheduler.step#1/sample", False),
    ]


def test_a_stage_of_which_nothing_can_be_said_is_not_held_by_the_bound_of_another():
    """Five runs of the first step spread too far to bound anything; the second step is held."""
    rel_l2 = {0: 8e-7, 1: 9e-8}
    shares = {0: (0.35, 0.08, 0.18, 0.26, 0.5), 1: (0.04, 0.05, 0.03, 0.03, 0.04)}
    runs = [
        {
            replace(local(f"scheduler.step#{index}"), metric=metric): share * rel_l2[index]
            for index in rel_l2
            for metric, share in (
                (Metric.LOCAL_REL_L2, 1.0),
                (Metric.LOCAL_GAIN, 0.02),
                (Metric.LOCAL_CHANNEL_BIAS, shares[index][run]),
            )
        }
        for run in range(5)
    ]
    sizes = {
        replace(local(f"scheduler.step#{index}"), metric=metric): size
        for index in rel_l2
        for metric, size in ((Metric.LOCAL_GAIN, 4096), (Metric.LOCAL_CHANNEL_BIAS, 1024))
    }
    found = replace(FOUND, noise={}, draws={"platform": runs}, sizes=sizes, last_place=1e-12)
    bounds = Tolerance.from_keys(compact(found.limits()))
    moved = [
        StageDrift(Stage("scheduler.step", index), "sample", 0.0, size, channel_bias=2 * size)
        for index, size in rel_l2.items()
    ]
    checks = [each.check for each in check_local(moved, bounds)]
    assert [
        (check.subject, check.passed)
        for check in checks
        if check.metric is Metric.LOCAL_CHANNEL_BIAS
    ] == [("scheduler.step#0/sample", True), ("scheduler.step#1/sample", False)]


def test_what_goes_into_a_clamp_is_not_held_by_a_bound_on_what_comes_out():
    """A few runs say nothing of the bias of what goes in; the step's own bound is far smaller."""
    stages = {"scheduler.step.clamped#0": (1e-5, 0.4), "scheduler.step#0": (1e-6, 0.01)}
    run = {
        replace(local(stage), metric=metric): share * rel_l2
        for stage, (rel_l2, bias) in stages.items()
        for metric, share in (
            (Metric.LOCAL_REL_L2, 1.0),
            (Metric.LOCAL_GAIN, 0.01),
            (Metric.LOCAL_BIAS, bias),
        )
    }
    sizes = {
        replace(local(stage), metric=metric): 4096
        for stage in stages
        for metric in (Metric.LOCAL_GAIN, Metric.LOCAL_BIAS)
    }
    found = replace(FOUND, noise={}, draws={"platform": [run] * 6}, sizes=sizes, last_place=1e-12)
    bounds = Tolerance.from_keys(compact(found.limits()))
    moved = StageDrift(Stage("scheduler.step", 0), "clamped", 0.0, 1e-5, bias=4e-6)
    checks = [each.check for each in check_local([moved], bounds) if each.drift is not None]
    (bias,) = (check for check in checks if check.metric is Metric.LOCAL_BIAS)
    assert bias.passed


def test_a_stage_far_below_its_kind_gets_a_bound_of_its_own():
    """A step that a clamp decides hardly rounds, and is held to that."""
    measured = (2.4e-7, 8e-6, 9e-6, 1e-5)
    steps = {local(f"scheduler.step#{index}"): limit for index, limit in enumerate(measured)}
    kind, first = local("scheduler.step"), local("scheduler.step#0")
    assert compact(steps) == {first: 2.4e-7, kind: 1e-5}


def test_bounds_on_systematic_drift_are_split_as_those_on_relative_l2():
    """A stage of its own keeps both: its gain is no measure of what the others may be scaled by."""
    measured = (9e-4, 2e-6, 1e-6, 3e-6)
    limits = {}
    for index, limit in enumerate(measured):
        stage = local(f"scheduler.step#{index}")
        limits |= {stage: limit, replace(stage, metric=Metric.LOCAL_GAIN): limit / 2}
    kind, first = local("scheduler.step"), local("scheduler.step#0")
    gain = Metric.LOCAL_GAIN
    assert compact(limits) == {
        first: 9e-4,
        kind: 3e-6,
        replace(first, metric=gain): 4.5e-4,
        replace(kind, metric=gain): 1.5e-6,
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (local("scheduler.step"), Figure(local("scheduler.step#2"), 3e-6)),
        (local("scheduler.step#0"), Figure(local("scheduler.step#0"), 9e-4)),
        (REL_L2, Figure(REL_L2, 1e-5)),
        (local("vae.decode"), Figure(local("vae.decode"), 0.0)),
    ],
)
def test_the_worst_figure_under_a_bound_comes_with_its_own_key(key: BoundKey, expected: Figure):
    """A bound on a kind of stages does not cover the stage that has a bound of its own."""
    measured = (9e-4, 2e-6, 3e-6)
    steps = {local(f"scheduler.step#{index}"): value for index, value in enumerate(measured)}
    bounds = {REL_L2: 1.0, local("scheduler.step#0"): 1.0, local("scheduler.step"): 1.0}
    assert worst_of(key, {REL_L2: 1e-5, **steps}, bounds) == expected


def test_whole_numbers_may_move_by_one_level():
    """An image of 255 levels flips at a half, however small the drift."""
    assert replace(FOUND, quantum=1.0).limits()[L_INF] == 1.0


def test_the_evidence_has_what_was_measured_and_where():
    """Of local drift it keeps the worst of each kind of stage."""
    evidence = FOUND.evidence()
    assert (evidence.on, evidence.device) == ("cpu-a", Device.CPU)
    assert (evidence.platforms, evidence.seeds) == (2, 3)
    assert evidence.bounds == FOUND.bounds()[Kind.CROSS_CLASS]
    assert evidence.batch is None
    assert evidence.noise == Tolerance(
        free={Metric.REL_L2: 1e-6, Metric.L_INF: 1e-5},
        local={Metric.LOCAL_REL_L2: {"scheduler.step": 2e-7, "noise": 0.0}},
    )
    assert evidence.worst is not None
    assert evidence.worst.free == {Metric.REL_L2: 1.3e-5, Metric.L_INF: 3e-5}


BATCH = BoundKey(Kind.BATCH, Metric.L_INF)


def test_images_of_a_batch_get_a_bound_of_their_own():
    """It may be smaller than one unit in the last place, and is no part of the evidence's noise."""
    noise = {**FOUND.noise, BATCH: 1e-9}
    found = replace(FOUND, noise=noise)
    assert found.bounds()[Kind.BATCH] == Tolerance(free={Metric.L_INF: 7e-9})
    assert found.evidence().batch == found.bounds()[Kind.BATCH]
    assert found.evidence().noise == FOUND.evidence().noise


# The scenario's file.


def test_bounds_go_into_the_file_and_come_back(shop):
    """Every other line stays as it is; the scenario reads the bounds and what they follow from."""
    path = shop.scenario(tolerance="{batch: {l_inf: 1.0e-5}, reason: R}")
    others = "\n# kept, too\ntags: [kept]\n"
    path.write_text(path.read_text(encoding="utf-8") + others, encoding="utf-8")
    write_tolerance(path, FOUND.bounds(), FOUND.evidence())
    scenario = read(path)
    bounds = scenario.tolerances.of(Kind.CROSS_CLASS)
    assert bounds.by_key(Kind.CROSS_CLASS) == compact(FOUND.limits())
    assert scenario.tolerances.batch == Tolerance(free={Metric.L_INF: 1e-5})
    assert scenario.tolerances.evidence == FOUND.evidence()
    assert scenario.tags == ("kept",)
    text = path.read_text(encoding="utf-8")
    assert text.endswith(f"\n{others}")
    write_tolerance(path, FOUND.bounds(), FOUND.evidence())
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "loose", ["5.0e-6", "{scheduler.step: 5.0e-6}", "{scheduler.step#3: 5.0e-6}"]
)
def test_a_bound_looser_than_its_evidence_needs_a_reason_however_it_is_written(shop, loose: str):
    """One number for all stages, one for a kind, one for a stage without evidence of its own."""
    evidence = "{bounds: {local_rel_l2: {scheduler.step: 1.0e-6}}}"
    tolerance = f"{{cross-class: {{local_rel_l2: {loose}}}, evidence: {evidence}}}"
    with pytest.raises(ScenarioError, match="at most 4 times the measured 1e-06"):
        read(shop.scenario(tolerance=tolerance))
    read(shop.scenario(tolerance=tolerance[:-1] + ", reason: R}"))


def with_evidence(device: Device | None) -> Tolerances:
    """Return tolerances whose bounds were measured on a device."""
    return Tolerances(evidence=Evidence(bounds=Tolerance(), device=device))


@pytest.mark.parametrize(
    ("devices", "device"),
    [
        ({Device.CPU}, None),
        ({Device.CPU}, Device.CPU),
        ({Device.CPU, Device.CUDA}, Device.CUDA),
    ],
)
def test_bounds_may_be_written_where_their_device_was_measured(devices, device):
    """The first ever, those of this device, and those of another one that was measured too."""
    case = builders.case(tolerances=with_evidence(device))
    check_writable(case, replace(FOUND, devices=frozenset(devices)))


@pytest.mark.parametrize(
    ("found", "device", "problem"),
    [
        (replace(FOUND, draws={}), None, "no platform could be measured"),
        (
            FOUND,
            Device.CUDA,
            "its bounds were measured on cuda, and would be replaced by those of cpu alone",
        ),
    ],
)
def test_bounds_are_not_written_over_those_of_a_device_that_was_not_measured(
    found, device, problem
):
    """Nor where they follow from nothing but perturbations."""
    with pytest.raises(UsageError, match=problem):
        check_writable(builders.case(tolerances=with_evidence(device)), found)


# Perturbations.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_perturbation_moves_every_number_by_one_unit_in_the_last_place(dtype):
    """Some up, some down; zeros, infinities and NaN stay, and a seed moves them the same way."""
    still = torch.tensor([0.0, math.inf, -math.inf, math.nan], dtype=dtype)
    moving = torch.linspace(-3, 3, 40, dtype=torch.float64).to(dtype)
    moved = perturbed(torch.cat([still, moving]), "seed 1")
    assert torch.equal(moved[:4].isnan(), still.isnan())
    assert torch.equal(moved[:3], still[:3])
    up = torch.nextafter(moving, torch.full_like(moving, math.inf))
    down = torch.nextafter(moving, torch.full_like(moving, -math.inf))
    assert ((moved[4:] == up) | (moved[4:] == down)).all()
    assert (moved[4:] == up).any()
    assert (moved[4:] == down).any()
    assert torch.equal(perturbed(moving, "seed 1"), perturbed(moving, "seed 1"))
    assert not torch.equal(perturbed(moving, "seed 1"), perturbed(moving, "seed 2"))


def test_a_perturbation_leaves_whole_numbers_alone():
    """Token ids and timesteps have no last place."""
    tokens = torch.arange(4)
    assert torch.equal(perturbed(tokens, "seed"), tokens)


# Platforms.


def test_a_platform_adds_its_variables_and_its_memory_format():
    """Beside those that the case has; a variable of the platform wins."""
    case = replace(builders.case(), settings=(("A", "1"), ("B", "1")))
    carried = Platform({"B": "2"}, ("channels_last",)).carry(case)
    assert carried.settings == (("A", "1"), ("B", "2"))
    assert carried.scenario.enable == ("channels_last",)
    assert len(PLATFORMS) >= 10


def test_a_platform_may_be_another_device_with_another_attention():
    """The rest of the case goes along."""
    carried = CUDA["cuda-mem-efficient"].carry(builders.case(devices=BOTH))
    assert carried.id == "digits[cuda-float32]"
    assert carried.scenario.attention == "mem_efficient"
    assert carried.settings == ()


BOTH = (Device.CPU, Device.CUDA)
DEVICE_NOISE = {"generator": Generator.DEVICE}


def referring_to(target: str, scenario: str = "") -> dict[str, Reference]:
    """Return the change that gives a scenario a reference."""
    return {"reference": Reference(builders.target(target), scenario)}


@pytest.mark.parametrize(
    ("device", "devices", "changes", "expected"),
    [
        ("cpu", (Device.CPU,), {}, [*PLATFORMS]),
        ("cpu", BOTH, {}, [*PLATFORMS]),
        ("cpu", BOTH, referring_to("cpu-float32"), [*PLATFORMS, *CUDA]),
        ("cpu", BOTH, referring_to("cpu-bfloat16"), [*PLATFORMS]),
        ("cpu", BOTH, referring_to("cpu-float32", "other"), [*PLATFORMS]),
        ("cpu", BOTH, {**referring_to("cpu-float32"), **DEVICE_NOISE}, [*PLATFORMS]),
        ("cuda", BOTH, referring_to("cpu-float32"), ["cpu", *list(CUDA)[1:]]),
        ("cuda", BOTH, {}, list(CUDA)[1:]),
        ("cuda", (Device.CUDA,), {}, list(CUDA)[1:]),
    ],
)
def test_another_device_is_a_platform_where_it_is_held_against_this_one(
    device, devices, changes, expected
):
    """By the scenario's reference and on the same noise; no device is held against itself."""
    assert list(platforms_of(builders.case(device, devices=devices, **changes))) == expected


def missed(error: NotRecordedError, platform: Platform) -> dict[str, str]:
    """Return what is not measured where a platform fails, beside one that does not."""

    def measure(name: str, platform: Platform) -> Figures:
        if name != "well":
            raise error
        return [{REL_L2: 1.0}]

    found = measure_platforms({"one": platform, "two": platform, "well": Platform()}, measure)
    assert found.measured == {"well": [{REL_L2: 1.0}]}
    assert found.devices == frozenset()
    return found.missed


def test_a_device_that_is_not_here_is_asked_once():
    """What the platforms that are here say is said all the same."""
    error = NotRecordedError("no GPU", Verdict.UNVERIFIED)
    assert missed(error, CUDA["cuda"]) == {"one": "no GPU"}


def test_an_attention_backend_may_lack_a_kernel():
    """For this GPU or this dtype; its reason is told for each."""
    found = missed(NotRecordedError("no kernel"), CUDA["cuda-mem-efficient"])
    assert found == {"one": "no kernel", "two": "no kernel"}


def test_a_memory_format_may_not_apply_to_a_pipeline():
    """Torch has no channels-last for the weights of 3-D convolutions; other platforms still run."""
    found = missed(NotRecordedError("3-D convolutions"), PLATFORMS["channels-last"])
    assert found == {"one": "3-D convolutions", "two": "3-D convolutions"}


def test_a_platform_that_could_not_run_hides_no_other_of_this_device():
    """Only another device that is not here is asked once."""
    error = NotRecordedError("no format", Verdict.UNVERIFIED)
    found = missed(error, PLATFORMS["channels-last"])
    assert found == {"one": "no format", "two": "no format"}


def test_the_evidence_names_the_platforms_that_were_skipped():
    """Without them the bounds rest on fewer platforms, which a reader should see."""
    found = replace(FOUND, missed={"channels-last": "3-D convolutions"}).evidence()
    assert found.skipped == ("channels-last",)
    assert Evidence.from_yaml(found.as_yaml()) == found
    assert "skipped" not in FOUND.evidence().as_yaml()


def test_the_devices_on_which_something_was_measured_are_known():
    """By the platforms that ran; the case's own device is none of theirs."""
    found = measure_platforms(
        {"cuda": CUDA["cuda"], "portable": PLATFORMS["portable"]}, lambda name, platform: [{}]
    )
    assert found.devices == {Device.CUDA}


def test_a_platform_that_crashes_ends_the_calibration():
    """Bounds that miss it would be too tight."""
    with pytest.raises(LaunchError, match="killed"):
        missed(LaunchError("killed"), PLATFORMS["portable"])


def test_the_command_skips_a_platform_that_does_not_apply_and_says_so(shop, monkeypatch):
    """The worker refuses it for the pipeline; the scenario's evidence names it."""
    chosen = {
        "slices": Platform(enable=("vae_slicing",)),
        "aten-default": PLATFORMS["aten-default"],
    }
    monkeypatch.setattr(platforms, "PLATFORMS", chosen)
    path = shop.recorded()  # its pipeline has no VAE
    done = shop.harness("calibrate", str(path), "--seeds", "1", "--perturbations", "1", "--write")
    assert "not measured: slices: `enable: vae_slicing` means nothing to" in " ".join(
        done.out.split()
    )
    evidence = read(path).tolerances.evidence
    assert (evidence.platforms, evidence.skipped) == (1, ("slices",))


@pytest.mark.parametrize(
    ("expected", "same"),
    [("2.13.0+cpu", True), ("2.13.0+cu130", True), ("2.12.0+cpu", False), (None, False)],
)
def test_two_builds_of_a_release_are_comparable_and_two_releases_are_not(tmp_path, expected, same):
    """A GPU's torch is another build; what a release moved is no noise."""
    sides = [
        builders.recording(tmp_path / name, environment=builders.environment(versions=versions))
        for name, versions in (
            ("actual", {"torch": "2.13.0+cpu"}),
            ("expected", {} if expected is None else {"torch": expected}),
        )
    ]
    assert is_comparable(sides[1], sides[0]) is same


def test_a_build_of_one_s_own_is_comparable_with_itself_alone(tmp_path):
    """Its version need not be one that an installer reads."""
    sides = [
        builders.recording(
            tmp_path / name, environment=builders.environment(versions={"torch": name})
        )
        for name in ("my build", "your build")
    ]
    assert is_comparable(sides[0], sides[0])
    assert not is_comparable(sides[0], sides[1])


def of_class(folder, letter: str, **changes):
    """Return a baseline that a machine of another numerics class left."""
    return builders.baseline(builders.recording(folder / letter, letter=letter, **changes))


def test_baselines_of_other_machines_are_platforms_where_they_computed_the_same_thing(
    tmp_path, monkeypatch
):
    """One of other weights says nothing, and one of a class that was measured nothing new."""
    others = [
        of_class(tmp_path, "b"),
        of_class(tmp_path, "c", inputs=builders.inputs(unet="other")),
        of_class(tmp_path, "d"),
    ]
    monkeypatch.setattr(Store, "of_other_classes", lambda *_args: others)
    base = builders.recording(tmp_path / "base")
    of_d = builders.recording(tmp_path / "run", letter="d")
    monkeypatch.setattr(Session, "record", lambda *_args, **_options: of_d)
    with Session(Store(tmp_path / "baselines"), tmp_path / "out") as session:
        found = calibrate.calibrate(
            session,
            builders.case(),
            {"synthetic": Platform()},
            effort=Effort(seeds=1, perturbations=0),
            on_step=print,
            known=Known(base),
        )
    assert list(found.platforms) == ["synthetic", "cpu-b"]
    assert found.machines == 1
    reason = "its baseline is of other weights, another structure or other releases"
    assert found.missed == {"cpu-c": reason}


def test_other_machines_are_measured_as_far_as_the_budget_affords(tmp_path, monkeypatch):
    """They are named among what is missed."""
    monkeypatch.setattr(Store, "of_other_classes", lambda *_args: [of_class(tmp_path, "b")])
    base = builders.recording(tmp_path / "base")
    with Session(Store(tmp_path / "baselines"), tmp_path / "out") as session:
        found = calibrate.calibrate(
            session,
            builders.case(),
            {},
            effort=Effort(seeds=1, budget=Budget(0.0)),
            on_step=print,
            known=Known(base),
        )
    assert (found.machines, found.missed) == (0, {"cpu-b": "the budget was spent"})


def test_images_that_should_be_alike_are_measured_whatever_their_bound(tmp_path):
    """The worst of all images counts, by each metric; a scenario without `batch` asks for none."""
    images = np.stack([builders.IMAGE[0], builders.IMAGE[0] + np.float32(0.25)])
    batch = builders.recording(tmp_path / "batch", images)
    singles = [builders.recording(tmp_path / str(index), builders.IMAGE) for index in range(2)]
    expect = (Expectation.REPEATABLE, Expectation.BATCH_EQUALS_SINGLE)
    scenario = builders.scenario(seeds=(0, 1), expect=expect, tolerance={"batch": {"rel_l2": 1e-9}})
    figures = calibrate._batch_figures(scenario, batch, singles)
    assert figures[BATCH] == 0.25
    assert figures[replace(BATCH, metric=Metric.REL_L2)] == pytest.approx(0.5 / np.sqrt(1.875))
    assert calibrate._batch_figures(builders.scenario(), batch, singles) == {}


@pytest.mark.parametrize(("dtype", "quantum"), [(np.uint8, 1.0), (np.float32, 0.0)])
def test_the_quantum_is_that_of_outputs_of_whole_numbers(tmp_path, dtype, quantum):
    """One level of 255; a float has none."""
    recording = builders.recording(tmp_path, np.zeros((1, 2, 2, 1), dtype))
    assert calibrate._quantum(recording) == quantum


# The command.


def test_a_figure_without_a_size_is_refused(shop, monkeypatch):
    """A stage that is zero in one run alone has no relative distance; the message names it."""
    monkeypatch.setattr(calibrate, "local_figures", lambda stages: {STEP: math.inf})
    monkeypatch.setattr(platforms, "PLATFORMS", {})
    done = shop.harness("calibrate", str(shop.recorded()), "--seeds", "1", "--perturbations", "1")
    assert done.code == 2
    stage = "local_rel_l2 of scheduler.step#0"
    problem = f"perturbations: {stage} is inf, of which no bound follows"
    assert f"digits[cpu-float32], {problem}" in done.err


@pytest.mark.parametrize("place", [0, 1])
def test_no_figure_without_a_value_is_lost_among_others(place: int):
    """Neither over the seeds of a platform nor over perturbations, wherever it stands."""
    values = [1.0, 1.0]
    values[place] = math.nan
    found = calibrate._largest([{REL_L2: value} for value in values])
    assert math.isnan(found[REL_L2])
    assert math.isnan(calibrate._median(values))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_names_a_device_that_is_not_here(shop, monkeypatch):
    """What the platforms that are here say is said all the same."""
    monkeypatch.setattr(platforms, "PLATFORMS", {"aten-default": PLATFORMS["aten-default"]})
    reference = "{device: cpu, dtype: float32}"
    path = shop.recorded(cases="{device: [cpu, cuda]}", reference=reference)
    options = ("--device", "cpu", "--seeds", "1", "--perturbations", "1")
    done = shop.harness("calibrate", str(path), *options)
    assert re.search("leaving one platform out: [01] of 1 are admitted", done.out)
    assert done.out.endswith("not measured: cuda: no CUDA device on this machine\n")


def test_the_command_derives_bounds_from_runs_and_writes_them(shop, monkeypatch):
    """One perturbation and one platform, for speed: the scenario then judges by its bounds."""
    monkeypatch.setattr(platforms, "PLATFORMS", {"aten-default": PLATFORMS["aten-default"]})
    path = shop.recorded()
    done = shop.harness("calibrate", str(path), "--seeds", "1", "--perturbations", "1", "--write")
    assert "leaving one platform out: " in done.out
    tolerances = read(path).tolerances
    bounds = tolerances.cross_class
    assert Metric.LOCAL_REL_L2 in bounds.metrics
    assert not bounds.free  # it depends on the seed
    assert set(bounds.local[Metric.LOCAL_REL_L2]) == {"noise", "scheduler.step", "output"}
    values = np.array(list(bounds.by_key(Kind.CROSS_CLASS).values()))
    assert ((values > 0) & (values < 1e-3)).all()
    assert tolerances.evidence.device is Device.CPU
    assert tolerances.evidence.on == shop.baseline().stem
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    done = shop.harness("run")
    assert done.code == 0
    assert "1 case: 1 within" in done.out


@pytest.fixture
def few(shop, monkeypatch):
    """Have one platform, and a scenario with a baseline; return a short calibration of it.

    It returns what was printed, and how many cases a worker ran for it.
    """
    monkeypatch.setattr(platforms, "PLATFORMS", {"aten-default": PLATFORMS["aten-default"]})
    path = shop.recorded()
    ran: list[str] = []
    record = Session.record

    def counted(session, case, *arguments, **named):
        ran.append(case.id)
        return record(session, case, *arguments, **named)

    monkeypatch.setattr(Session, "record", counted)

    def run(*options: str, perturbations: int = 1):
        ran.clear()
        amounts = ("--seeds", "1", "--perturbations", str(perturbations))
        done = shop.harness("calibrate", str(path), *amounts, *options)
        return done, len(ran)

    return run


KEPT = " measurements are of an earlier calibration, which was of the same: "
FOLDER = "runs/calibrate-digits-cpu-float32"


def test_writing_after_a_look_measures_nothing_again(few, shop):
    """Only the base runs, which shows that its bits are still those; the bounds are the same."""
    look, ran = few()
    assert (look.code, ran) == (0, 3)
    assert KEPT not in look.out
    table = look.out
    written, ran = few("--write")
    assert (written.code, ran) == (0, 1)
    assert f"2{KEPT}{FOLDER}\n" in written.out
    assert written.out.startswith(table)
    assert read(shop.root / "scenarios" / "digits.yaml").tolerances.cross_class is not None


def test_a_calibration_that_was_cut_short_goes_on_where_it_stopped(few, monkeypatch):
    """What was measured before Ctrl-C is on the disk, also where more is asked for."""
    measured = calibrate._Runs._measured

    def interrupted(runs, case, base, name):
        if name == "perturbation-1":
            raise KeyboardInterrupt
        return measured(runs, case, base, name)

    with monkeypatch.context() as patch:
        patch.setattr(calibrate._Runs, "_measured", interrupted)
        assert few(perturbations=2)[0].code == 130
    done, ran = few(perturbations=2)
    assert f"1{KEPT}" in done.out
    assert ran == 1 + 2


@pytest.mark.parametrize("change", ["scenario", "seed", "harness", "damage"])
def test_what_was_measured_of_something_else_is_measured_again(few, shop, monkeypatch, change: str):
    """Another call, another seed, other code of the harness, a file that is damaged."""
    few()
    if change == "scenario":
        shop.scenario(call="{num_inference_steps: 2, output_type: np}")
    elif change == "seed":
        shop.scenario(seed="7")
    elif change == "harness":
        monkeypatch.setattr(kept_drifts, "digest_of_harness", lambda folders: "other")
    else:
        kept = shop.root / FOLDER / kept_drifts.FILE
        kept.write_text(kept.read_text("utf-8").replace("rel_l2", "l_inf", 1), encoding="utf-8")
    done, ran = few()
    assert KEPT not in done.out
    assert ran == 3


def test_what_an_infinite_drift_was_measured_from_is_not_kept(tmp_path):
    """No bound follows from it, and JSON has no such number."""
    keeper = kept_drifts.DriftKeeper(tmp_path)
    keeper.keep("x", kept_drifts.KeptDrifts.of("class", {REL_L2: math.inf}))
    assert keeper.get("x") is None
    keeper.keep("x", kept_drifts.KeptDrifts.of("class", {REL_L2: 1e-7, STEP: 0.0}))
    kept = kept_drifts.DriftKeeper(tmp_path).get("x")
    assert kept is not None
    assert kept.figures == {REL_L2: 1e-7, STEP: 0.0}


def test_a_case_that_must_vary_has_nothing_to_calibrate(shop):
    """A usage error that says so."""
    done = shop.harness("calibrate", str(shop.scenario(generator="none", expect="varies")))
    assert done.code == 2
    assert "there is no tolerance to calibrate" in done.err


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock by which budgets are spent."""
    found = Clock()
    monkeypatch.setattr(budget.time, "monotonic", found)
    return found


def test_a_budget_affords_what_the_longest_step_so_far_would_take(clock):
    """Ten seconds: three steps of three seconds, and no fourth one."""
    spent = Budget(10.0)
    steps = 0
    while spent.affords():
        with spent.step():
            clock.now += 3.0
        steps += 1
    assert steps == 3
    assert Budget().affords()
    assert not Budget().is_limited


def test_a_budget_measures_every_platform_with_one_seed_first(shop, monkeypatch, clock):
    """What it did not afford is said, and the evidence counts what was measured."""
    chosen = {name: PLATFORMS[name] for name in ("aten-default", "onednn-sse41", "threads-2")}
    monkeypatch.setattr(platforms, "PLATFORMS", chosen)
    measured = calibrate._Runs._measured
    ran = []

    def slow(runs, case, base, name):
        clock.now += 60.0
        ran.append(name)
        return measured(runs, case, base, name)

    monkeypatch.setattr(calibrate._Runs, "_measured", slow)
    path = shop.recorded()
    options = ("--seeds", "2", "--perturbations", "2", "--write")
    done = shop.harness("calibrate", str(path), *options, "--budget", "3m")
    assert ran == ["perturbation-0", "aten-default-0", "onednn-sse41-0"]
    assert "not measured: threads-2: the budget was spent" in done.out
    evidence = read(path).tolerances.evidence
    assert (evidence.platforms, evidence.seeds) == (2, 1)
    assert evidence.skipped == ("threads-2",)
    done = shop.harness("calibrate", str(path), *options, "--budget", "4m")
    assert ran[3:] == ["threads-2-0", "perturbation-1", "aten-default-1", "onednn-sse41-1"]
    evidence = read(path).tolerances.evidence
    assert (evidence.platforms, evidence.seeds, evidence.skipped) == (3, 1, ())


def test_a_tensor_without_elements_gets_no_systematic_bound(tmp_path, monkeypatch):
    """Such as an empty list of tokens; it has no gain to bound, and others have."""
    kept = {"unet#0/ids": np.zeros((1, 0), np.float32), "vae.decode#0/0": builders.IMAGE}
    base = builders.recording(tmp_path / "base", kept=kept)
    monkeypatch.setattr(Session, "record", lambda *_args, **_options: base)
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        effort = Effort(seeds=1, perturbations=2)
        known = Known(base)
        found = calibrate.calibrate(
            session, builders.case(), {}, effort=effort, on_step=print, known=known
        )
    assert {key.pattern for key in found.sizes} == {"noise#0", "vae.decode#0", "output#0"}
    assert found.limits()


def test_what_is_kept_costs_no_time_of_a_budget(tmp_path, monkeypatch):
    """A second call within a spent budget says what the first one measured."""
    base = builders.recording(tmp_path / "base")
    monkeypatch.setattr(Session, "record", lambda *_args, **_options: base)
    found = []
    for spent in (Budget(), Budget(0.0)):
        with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
            found.append(
                calibrate.calibrate(
                    session,
                    builders.case(),
                    {"synthetic": Platform()},
                    effort=Effort(seeds=1, perturbations=1, budget=spent),
                    on_step=print,
                    known=Known(base),
                )
            )
    first, second = found
    assert second.draws == first.draws
    assert (first.kept, second.kept) == (0, 2)
