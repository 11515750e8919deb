"""Calibration: bounds follow from what was measured, each kind of stage has its own, and the file keeps the evidence."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import builders
import numpy as np
import pytest
import torch

from harness.commands.studies import _check_writable
from harness.errors import LaunchError, NotRecordedError, ScenarioError, UsageError
from harness.judge.checks import check_local
from harness.scenario.model import read
from harness.scenario.tolerance import flat, nested
from harness.scenario.write_tolerance import write_tolerance
from harness.study.calibrate import Calibration, _elsewhere, _is_comparable, compact
from harness.study.platforms import CUDA, PLATFORMS, Platform, platforms_of
from harness.worker.observe.capture import nudged

STEP, NOISE = ("local_rel_l2", "scheduler.step#0"), ("local_rel_l2", "noise#0")
FOUND = Calibration(
    case="x[cpu-float32]",
    on="cpu-a",
    seeds=3,
    perturbations=8,
    noise={("rel_l2",): 1e-6, ("l_inf",): 1e-5, STEP: 2e-7, NOISE: 0.0},
    platforms={
        "mild": {("rel_l2",): 2e-6, ("l_inf",): 2e-5, STEP: 1e-7, NOISE: 0.0},
        "wild": {("rel_l2",): 1.23e-5, ("l_inf",): 3e-5, STEP: 4e-7, NOISE: 0.0},
    },
    last_place=2.0**-23,
)


def test_a_bound_is_eight_nudges_or_twice_the_worst_platform():
    """Whichever is larger, rounded up to two digits; a stage that nothing moved gets one unit in the last place."""
    assert FOUND.limits() == {
        ("l_inf",): 8e-5,  # of the nudge
        NOISE: 1.2e-7,
        STEP: 1.6e-6,
        ("rel_l2",): 2.5e-5,  # of the wild platform
    }


def test_a_platform_left_out_is_held_against_what_the_others_say():
    """The wild one exceeds eight nudges, so that the bounds without it do not admit it."""
    assert FOUND.left_out() == {"mild": True, "wild": False}
    assert FOUND.limits(without="wild")["rel_l2",] == 8e-6


def test_a_stage_far_above_its_kind_gets_a_bound_of_its_own():
    """The others keep theirs: one badly conditioned step does not open the gate for all."""
    limits = {
        ("local_rel_l2", f"scheduler.step#{index}"): limit
        for index, limit in enumerate((9e-4, 2e-6, 1e-6, 3e-6))
    }
    bounds = compact({("rel_l2",): 1e-5, **limits})
    assert nested(bounds) == {
        "rel_l2": 1e-5,
        "local_rel_l2": {"scheduler.step#0": 9e-4, "scheduler.step": 3e-6},
    }
    moved = {f"scheduler.step#{index}/sample": {"rel_l2": 1e-5, "l_inf": 0.0} for index in range(3)}
    checks = check_local(moved, nested(bounds))
    assert [(check.what, check.passed) for check in checks] == [
        ("local rel_l2 of scheduler.step#0/sample", True),
        ("local rel_l2 of scheduler.step#1/sample", False),
    ]


def test_whole_numbers_may_move_by_one_level():
    """An image of 255 levels flips at a half, however small the drift."""
    assert replace(FOUND, quantum=1.0).limits()["l_inf",] == 1.0


def test_bounds_go_into_the_file_and_come_back(shop):
    """Every other line stays as it is; the scenario reads the bounds and holds them against the evidence."""
    path = shop.scenario(tolerance="{batch: {l_inf: 1.0e-5}, reason: R}")
    path.write_text(
        path.read_text(encoding="utf-8") + "\n# kept, too\ntags: [kept]\n", encoding="utf-8"
    )
    write_tolerance(path, FOUND.bounds(), FOUND.evidence())
    scenario = read(path)
    assert flat(scenario.tolerance["cross-class"]) == compact(FOUND.limits())
    assert scenario.tolerance["batch"] == {"l_inf": 1e-5}
    assert scenario.tolerance["evidence"]["platforms"] == 2
    assert scenario.tags == ("kept",)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n\n# kept, too\ntags: [kept]\n")
    write_tolerance(path, FOUND.bounds(), FOUND.evidence())
    assert path.read_text(encoding="utf-8") == text


def test_a_figure_without_a_size_is_refused(shop, monkeypatch):
    """A stage that is zero in one run and not in the other has no relative distance; the message names it."""
    from harness.study import calibrate, platforms

    figures = {("rel_l2",): 0.0, ("l_inf",): 0.0, STEP: math.inf}
    monkeypatch.setattr(calibrate, "_figures", lambda free, anchored, base: figures)
    monkeypatch.setattr(platforms, "PLATFORMS", {})
    done = shop.harness("calibrate", str(shop.recorded()), "--seeds", "1", "--perturbations", "1")
    assert done.code == 2
    assert (
        "digits[cpu-float32], nudges: local_rel_l2 of scheduler.step#0 is inf, of which no bound follows"
        in done.err
    )


@pytest.mark.parametrize(
    "loose", ["5.0e-6", "{scheduler.step: 5.0e-6}", "{scheduler.step#3: 5.0e-6}"]
)
def test_a_bound_looser_than_its_evidence_needs_a_reason_however_it_is_written(shop, loose: str):
    """One number for all stages, one for a kind, one for a stage that has no evidence of its own."""
    evidence = "{bounds: {local_rel_l2: {scheduler.step: 1.0e-6}}}"
    tolerance = f"{{cross-class: {{local_rel_l2: {loose}}}, evidence: {evidence}}}"
    with pytest.raises(ScenarioError, match="at most 4 times the measured 1e-06"):
        read(shop.scenario(tolerance=tolerance))
    read(shop.scenario(tolerance=tolerance[:-1] + ", reason: R}"))


def test_flat_and_nested_are_inverse():
    """Bounds by the path of their keys, and as a scenario holds them."""
    assert flat(nested(FOUND.limits())) == FOUND.limits()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_nudge_moves_every_number_by_one_unit_in_the_last_place(dtype):
    """Some up, some down; zeros, infinities and NaN stay, and the same seed nudges the same way."""
    still = torch.tensor([0.0, math.inf, -math.inf, math.nan], dtype=dtype)
    moving = torch.linspace(-3, 3, 40, dtype=torch.float64).to(dtype)
    moved = nudged(torch.cat([still, moving]), "seed 1")
    assert torch.equal(moved[:4].isnan(), still.isnan())
    assert torch.equal(moved[:3], still[:3])
    up = torch.nextafter(moving, torch.full_like(moving, math.inf))
    down = torch.nextafter(moving, torch.full_like(moving, -math.inf))
    assert ((moved[4:] == up) | (moved[4:] == down)).all()
    assert (moved[4:] == up).any()
    assert (moved[4:] == down).any()
    assert torch.equal(nudged(moving, "seed 1"), nudged(moving, "seed 1"))
    assert not torch.equal(nudged(moving, "seed 1"), nudged(moving, "seed 2"))


def test_a_nudge_leaves_whole_numbers_alone():
    """Token ids and timesteps have no last place."""
    tokens = torch.arange(4)
    assert torch.equal(nudged(tokens, "seed"), tokens)


def test_a_platform_adds_its_variables_and_its_memory_format(shop):
    """Beside those that the case has; a variable of the platform wins."""
    case = replace(read(shop.scenario()).cases()[0], knobs=(("A", "1"), ("B", "1")))
    carried = Platform({"B": "2"}, ("channels_last",)).carry(case)
    assert carried.knobs == (("A", "1"), ("B", "2"))
    assert carried.scenario.enable == ("channels_last",)
    assert len(PLATFORMS) >= 10


def test_a_platform_may_be_another_device_with_another_attention():
    """The rest of the case goes along."""
    carried = CUDA["cuda-mem-efficient"].carry(builders.case(devices=("cpu", "cuda")))
    assert (carried.id, carried.scenario.attention, carried.knobs) == (
        "digits[cuda-float32]",
        "mem_efficient",
        (),
    )


BOTH = ("cpu", "cuda")


@pytest.mark.parametrize(
    ("device", "devices", "changes", "expected"),
    [
        ("cpu", ("cpu",), {}, [*PLATFORMS]),
        ("cpu", BOTH, {}, [*PLATFORMS]),
        ("cpu", BOTH, {"reference": "cpu-float32"}, [*PLATFORMS, *CUDA]),
        ("cpu", BOTH, {"reference": "cpu-bfloat16"}, [*PLATFORMS]),
        ("cpu", BOTH, {"reference": "other/cpu-float32"}, [*PLATFORMS]),
        ("cpu", BOTH, {"reference": "cpu-float32", "generator": "device"}, [*PLATFORMS]),
        ("cuda", BOTH, {"reference": "cpu-float32"}, ["cpu", *list(CUDA)[1:]]),
        ("cuda", BOTH, {}, list(CUDA)[1:]),
        ("cuda", ("cuda",), {}, list(CUDA)[1:]),
    ],
)
def test_another_device_is_a_platform_where_it_is_held_against_this_one(
    device, devices, changes, expected
):
    """By the scenario's reference and on the same noise; a device is never held against itself."""
    assert list(platforms_of(builders.case(device, devices=devices, **changes))) == expected


def missed(error: NotRecordedError, platform: Platform) -> dict[str, str]:
    """Return what is not measured where a platform fails, beside one that does not."""

    def measure(name: str, platform: Platform) -> dict[tuple[str, ...], float]:
        if name != "well":
            raise error
        return {("rel_l2",): 1.0}

    measured, found = _elsewhere({"one": platform, "two": platform, "well": Platform()}, measure)
    assert measured == {"well": {("rel_l2",): 1.0}}
    return found


def test_a_device_that_is_not_here_is_asked_once():
    """What the platforms that are here say is said all the same."""
    assert missed(NotRecordedError("no GPU", "unverified"), CUDA["cuda"]) == {"one": "no GPU"}


def test_an_attention_backend_may_lack_a_kernel():
    """For this GPU or this dtype; its reason is told for each."""
    assert missed(NotRecordedError("no kernel"), CUDA["cuda-mem-efficient"]) == {
        "one": "no kernel",
        "two": "no kernel",
    }


def test_a_platform_that_crashes_ends_the_calibration():
    """Bounds that miss it would be too tight."""
    with pytest.raises(LaunchError, match="killed"):
        missed(LaunchError("killed"), PLATFORMS["portable"])


def test_bounds_may_be_written_where_their_device_was_measured():
    """The first ever, those of this device, and those of another one that was measured too."""
    for found, on in (
        (FOUND, ""),
        (FOUND, "cpu-avx2-t1-a"),
        (replace(FOUND, platforms={"cuda": {}}), "cuda-h200-sm90-a"),
    ):
        _check_writable(builders.case(tolerance={"evidence": {"on": on}}), found)


@pytest.mark.parametrize(
    ("found", "on", "problem"),
    [
        (replace(FOUND, platforms={}), "", "no platform could be measured"),
        (
            FOUND,
            "cuda-h200-sm90-a",
            "its bounds were measured on cuda, and would be replaced by those of cpu alone",
        ),
    ],
)
def test_bounds_are_not_written_over_those_of_a_device_that_was_not_measured(found, on, problem):
    """Nor where they follow from nothing but nudges."""
    with pytest.raises(UsageError, match=problem):
        _check_writable(builders.case(tolerance={"evidence": {"on": on}}), found)


@pytest.mark.parametrize(
    ("then", "same"),
    [("2.13.0+cpu", True), ("2.13.0+cu130", True), ("2.12.0+cpu", False), (None, False)],
)
def test_two_builds_of_a_release_are_comparable_and_two_releases_are_not(tmp_path, then, same):
    """A GPU's torch is another build; what a release moved is no noise."""
    sides = [builders.recording(tmp_path / which) for which in ("now", "then")]
    for side, version in zip(sides, ("2.13.0+cpu", then), strict=True):
        side.content["environment"]["versions"]["torch"] = version
    assert _is_comparable(sides[1], sides[0]) == same


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_names_a_device_that_is_not_here(shop, monkeypatch):
    """What the platforms that are here say is said all the same."""
    from harness.study import platforms

    monkeypatch.setattr(platforms, "PLATFORMS", {"aten-default": PLATFORMS["aten-default"]})
    path = shop.recorded(cases="{device: [cpu, cuda]}", reference="cpu-float32")
    done = shop.harness(
        "calibrate", str(path), "--device", "cpu", "--seeds", "1", "--perturbations", "1"
    )
    assert re.search("leaving one platform out: [01] of 1 are admitted", done.out)
    assert done.out.endswith("not measured: cuda: no CUDA device on this machine\n")


def test_the_command_derives_bounds_from_runs_and_writes_them(shop, monkeypatch):
    """One nudge and one platform, for speed: the evidence names the class, and the scenario then judges by its bounds."""
    from harness.study import platforms

    monkeypatch.setattr(platforms, "PLATFORMS", {"aten-default": PLATFORMS["aten-default"]})
    path = shop.recorded()
    done = shop.harness("calibrate", str(path), "--seeds", "1", "--perturbations", "1", "--write")
    assert "leaving one platform out: " in done.out
    bounds = read(path).tolerance["cross-class"]
    assert set(bounds) == {"rel_l2", "l_inf", "local_rel_l2"}
    assert set(bounds["local_rel_l2"]) == {"noise", "scheduler.step"}
    assert all(0 < most < 1e-3 for most in np.array(list(flat(bounds).values())))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    done = shop.harness("run")
    assert done.code == 0
    assert "1 case: 1 within" in done.out


def test_a_case_that_must_vary_has_nothing_to_calibrate(shop):
    """A usage error that says so."""
    done = shop.harness("calibrate", str(shop.scenario(generator="none", expect="varies")))
    assert done.code == 2
    assert "there is no tolerance to calibrate" in done.err
