"""The first thing that differs between two recordings, by their digests and by sizes of drifts."""

from __future__ import annotations

import json
import math

import builders
import numpy as np
import pytest
from builders import MOVED, NOISE, OTHER_UNET, STAGES
from safetensors.numpy import save

from harness.judge import origins, reasons
from harness.judge.first_difference import (
    ByValue,
    besides_settings,
    by_value,
    first,
    first_stage,
    other_tensors,
    other_weights,
)
from harness.records import Difference, DifferenceKind, Stage, StageDrift
from harness.scenario.tolerance import Tolerance

UNET, STEP = STAGES
OTHER_STEP = ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "S"})


def tables(**digests: str) -> dict[str, object]:
    """Return a recording's inputs whose scheduler holds tables with these digests."""
    return {**builders.inputs(), "tables": {"scheduler": digests}}


def arguments(decoded: str, file: str) -> dict[str, object]:
    """Return a recording's inputs whose call refers to an image with these digests."""
    image = {
        "name": "image#0",
        "kind": "image",
        "argument": "image",
        "digest": decoded,
        "file": file,
    }
    return {**builders.inputs(), "arguments": [image]}


# id: (this run, the baseline, the first difference)
DIFFERENT = {
    "nothing": ({}, {}, None),
    "weights": (
        {"inputs": builders.inputs(unet="W", eta=0.5), "noise": [NOISE * 2]},
        {},
        Difference(DifferenceKind.WEIGHTS, "unet"),
    ),
    "configuration": (
        {
            "inputs": builders.inputs(timestep_spacing="trailing", eta=0.5),
            "noise": [NOISE * 2],
            "stages": OTHER_UNET,
        },
        {},
        Difference(
            DifferenceKind.CONFIGURATION,
            "scheduler",
            ("eta None -> 0.5", "timestep_spacing 'leading' -> 'trailing'"),
        ),
    ),
    "configuration-of-many-settings": (
        {"inputs": builders.inputs(a=1, b=2, c=3, d=4, e=5)},
        {},
        Difference(
            DifferenceKind.CONFIGURATION,
            "scheduler",
            ("a None -> 1", "b None -> 2", "c None -> 3"),
            more=2,
        ),
    ),
    "another-file": (
        {"inputs": arguments("D", "F"), "noise": [NOISE * 2], "stages": OTHER_UNET},
        {"inputs": arguments("d", "f")},
        Difference(DifferenceKind.INPUT_FILE, "image#0", ("image",)),
    ),
    "the-same-file-by-another-decoder": (
        {"inputs": arguments("D", "f"), "stages": OTHER_UNET},
        {"inputs": arguments("d", "f")},
        Difference(DifferenceKind.INPUT_DECODING, "image#0", ("image",)),
    ),
    "another-file-of-the-same-content": (
        {"inputs": arguments("d", "F")},
        {"inputs": arguments("d", "f")},
        None,
    ),
    "noise": (
        {"noise": [NOISE * 2], "stages": OTHER_UNET},
        {},
        Difference(DifferenceKind.NOISE, "noise#0"),
    ),
    "later-noise": (
        {"noise": [NOISE, NOISE * 2]},
        {"noise": [NOISE, NOISE]},
        Difference(DifferenceKind.NOISE, "noise#1"),
    ),
    "more-noise": (
        {"noise": [NOISE, NOISE]},
        {},
        Difference(DifferenceKind.NOISE_COUNT, "", expected="1", actual="2"),
    ),
    "tables": (
        {"inputs": tables(sigmas="S", timesteps="t"), "stages": OTHER_UNET},
        {"inputs": tables(sigmas="s", timesteps="t")},
        Difference(DifferenceKind.SCHEDULER_TABLES, "scheduler", ("sigmas",)),
    ),
    "a-table-that-only-one-side-has": (
        {"inputs": tables(sigmas="s", new="n"), "stages": OTHER_UNET},
        {"inputs": tables(sigmas="s", old="o")},
        Difference(DifferenceKind.STAGE_OUTPUT, "unet#0"),
    ),
    "stage": ({"stages": OTHER_UNET}, {}, Difference(DifferenceKind.STAGE_OUTPUT, "unet#0")),
    "input": (
        {"stages": [("unet#0", {"sample": "n", "timestep": "t"}, {"sample": "U"}), STEP]},
        {},
        Difference(DifferenceKind.STAGE_INPUT, "unet#0", ("timestep",)),
    ),
    "two-inputs": (
        {"stages": [UNET, ("scheduler.step#0", {"sample": "N", "eta": "e"}, {"prev_sample": "s"})]},
        {},
        Difference(DifferenceKind.STAGE_INPUT, "scheduler.step#0", ("eta", "sample")),
    ),
    "later-stage": (
        {"stages": [UNET, OTHER_STEP]},
        {},
        Difference(DifferenceKind.STAGE_OUTPUT, "scheduler.step#0"),
    ),
    "order": (
        {"stages": [STEP, UNET]},
        {},
        Difference(
            DifferenceKind.STAGE_ORDER,
            "scheduler.step#0",
            expected="unet#0",
            actual="scheduler.step#0",
        ),
    ),
    "fewer": (
        {"stages": [UNET]},
        {},
        Difference(DifferenceKind.STAGE_COUNT, "", expected="2", actual="1"),
    ),
    "outputs": ({"outputs": MOVED}, {}, Difference(DifferenceKind.OUTPUTS, "", ("image",))),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_first_thing_that_differs_is_named(made, name):
    """In the order of the run: weights, schedulers, noise, tables, stages, outputs."""
    actual, expected, difference = DIFFERENT[name]
    assert first(made(**actual), made(**expected)) == difference


def test_the_table_above_has_every_kind_of_difference():
    """A new kind needs a pair of recordings there."""
    found = {difference.kind for *_, difference in DIFFERENT.values() if difference is not None}
    assert found == set(DifferenceKind)


def test_noise_that_cannot_be_seen_on_one_side_is_no_difference(made):
    """Some releases draw noise where nobody can observe it; what follows from it is compared."""
    blind = builders.environment(unobserved=("noise",))
    actual = made(noise=[], environment=blind, stages=OTHER_UNET)
    expected = Difference(DifferenceKind.STAGE_OUTPUT, "unet#0")
    assert first(actual, made()) == first(
        made(stages=OTHER_UNET), made(noise=[], environment=blind)
    )
    assert first(actual, made()) == expected


def test_settings_and_weights_can_be_left_out(made):
    """A release that adds a setting to a configuration need not move anything by it."""
    actual = made(inputs=builders.inputs(unet="W", eta=0.5), stages=OTHER_UNET)
    assert first(actual, made()).kind is DifferenceKind.WEIGHTS
    assert besides_settings(actual, made()) == Difference(DifferenceKind.STAGE_OUTPUT, "unet#0")
    assert besides_settings(made(inputs=builders.inputs(eta=0.5)), made()) is None


# id: (this run, the baseline, the first stage with other bits from the same bits)
STAGES_THAT_DIFFER = {
    "nothing": ({}, {}, None),
    "noise": ({"noise": [NOISE * 2], "stages": OTHER_UNET}, {}, Stage("noise", 0)),
    "stage": ({"stages": OTHER_UNET}, {}, Stage("unet", 0)),
    "later-stage": ({"stages": [UNET, OTHER_STEP]}, {}, Stage("scheduler.step", 0)),
    "other-inputs": (
        {"stages": [("unet#0", {"sample": "N"}, {"sample": "U"}), STEP]},
        {},
        None,
    ),
    "other-order": ({"stages": [STEP, UNET]}, {}, None),
    "only-the-output": ({"outputs": MOVED}, {}, None),
}


@pytest.mark.parametrize("name", STAGES_THAT_DIFFER)
def test_a_stage_is_accused_only_if_it_got_the_same_bits(made, name):
    """What got other inputs is not to blame for its output."""
    actual, expected, stage = STAGES_THAT_DIFFER[name]
    assert first_stage(made(**actual), made(**expected)) == stage


def test_components_with_other_weights_are_named_also_when_new_or_gone(made):
    """By name, in alphabetical order; the checkpoint's configuration is one of them."""
    weights = {
        "weights": {"vae": "v", "configuration": "C", "unet": "w"},
        "commit": None,
        "schedulers": {},
    }
    assert other_weights(made(inputs=weights), made()) == ["configuration", "vae"]


def with_weights(recording, **digests: str):
    """Write the short digests of the U-Net's tensors beside a recording's tensors."""
    metadata = {"weights": json.dumps({"unet": digests})}
    packed = save({"output/image": np.zeros(1, np.float32)}, metadata=metadata)
    recording.tensors_path.write_bytes(packed)
    return recording


def test_tensors_with_other_weights_are_named_where_both_sides_recorded_them(made):
    """Three by name, the rest by count; no name where one side does not know."""
    actual = with_weights(made(inputs=builders.inputs(unet="W")), a="A", b="B", c="C", d="D", e="e")
    expected = with_weights(made(), a="a", b="b", c="c", d="d", e="e")
    assert other_tensors(actual, expected, "unet") == ["a", "b", "c", "d"]
    assert other_tensors(actual, made(), "unet") == []
    assert first(actual, expected) == Difference(
        DifferenceKind.WEIGHTS, "unet", ("a", "b", "c"), more=1
    )


def sizes(**figures: float) -> tuple[StageDrift, ...]:
    """Return drifts: `step1=2e-6` is the relative L2 of `scheduler.step#1/sample`."""
    return tuple(
        StageDrift(Stage("scheduler.step", int(name[-1])), "sample", 0.0, size)
        for name, size in figures.items()
    )


BOUNDS = Tolerance.from_yaml({"local_rel_l2": {"scheduler.step": 1e-6}})


def test_sizes_name_the_stage_nearest_to_its_bound_and_the_largest_jump():
    """Only steps of one scheduler are compared with each other."""
    encoder = StageDrift(Stage("text_encoder", 0), "0", 0.0, 1e-3)
    free = (*sizes(step0=1e-9, step1=2e-9, step2=8e-9), encoder)
    found = by_value(sizes(step0=1e-7, step1=5e-7), free, BOUNDS)
    assert found.outside is None
    assert (found.nearest.check.subject, found.nearest.check.value) == (
        "scheduler.step#1/sample",
        5e-7,
    )
    assert found.jump == Stage("scheduler.step", 2)
    assert found.growth == pytest.approx(4.0)


@pytest.mark.parametrize("size", [2e-6, math.nan], ids=["over", "nan"])
def test_sizes_name_the_first_stage_outside_its_bound(size):
    """A later stage that is farther outside is not the first; what is missing counts as outside."""
    found = by_value(sizes(step0=1e-7, step1=size, step2=3e-6), (), BOUNDS)
    assert found.outside.check.subject == "scheduler.step#1/sample"
    assert (found.nearest, found.jump) == (None, None)


def test_sizes_say_nothing_without_bounds_and_without_growth():
    """Drift that shrinks has no jump."""
    free = sizes(step0=4e-9, step1=2e-9, step2=2e-9)
    assert by_value(sizes(step0=1.0), free, Tolerance()) == ByValue()


def test_a_stage_without_drift_is_no_start_of_a_jump():
    """From nothing to something is no growth that has a number."""
    assert by_value((), sizes(step0=0.0, step1=1e-9, step2=3e-9), BOUNDS).growth == pytest.approx(3)


def test_schedulers_do_not_feed_each_other():
    """The prior's last step is no predecessor of the decoder's first one."""
    decoder = StageDrift(Stage("decoder_scheduler.step", 0), "sample", 0.0, 1.0)
    assert by_value((), (*sizes(step0=1e-9), decoder), BOUNDS).jump is None


def test_an_edited_configuration_is_one_cause_and_names_where_it_shows(tmp_path):
    """And not the stage beside it, which computes with that configuration."""
    moved = (UNET[0], UNET[1], {"sample": "other"})
    other = builders.inputs()
    other["weights"] = {**other["weights"], "configuration": "edited"}
    base = builders.recording(tmp_path / "base")
    edited = builders.recording(tmp_path / "edited", inputs=other, stages=(moved, STEP))
    (found,) = origins.same_class(edited, base)
    assert reasons.difference(found) == (
        "configuration of the checkpoint, which shows first in unet#0"
    )
