"""The sentences that say why: every reason, check, difference and cost has its own."""

from __future__ import annotations

import math
from dataclasses import replace

import builders
import pytest

from harness.judge import reasons
from harness.judge.expectations import Held
from harness.judge.structure import structure
from harness.records import (
    Against,
    Check,
    ContractKind,
    ContractOutcome,
    ContractState,
    Cost,
    CostReason,
    CostVerdict,
    Difference,
    DifferenceKind,
    Effect,
    Metric,
    Reason,
    Target,
)
from harness.scenario.fields import Expectation
from harness.scenario.model import Reference
from harness.scenario.tolerance import LOCAL_METRICS

OWN, REFERENCE = builders.judged_by(), builders.judged_by("cpu-b", same_class=False)
OVER = Check("image", Metric.REL_L2, 2e-3, 1e-3)
OFF = Check(
    "image", Metric.ABS_SUM, 2.5, 0.01, Against.PUBLISHED, actual=5.0, expected=2.5, source="paper"
)
UNET = Difference(DifferenceKind.STAGE_OUTPUT, "unet#0")
ELSEWHERE = Reference(Target(builders.CPU.device, builders.CPU.dtype), "other")

HELD = ContractOutcome(
    ContractKind.IDENTICAL, "identical", "a[cpu-float32]", ContractState.HOLDS, "", same_bits=True
)
SENTENCES = {
    Reason.SAME_BITS: (
        reasons.same_bits(OWN),
        "same bits as the baseline of the same class cpu-a",
    ),
    Reason.INSIDE_TOLERANCE: (
        reasons.inside_tolerance(REFERENCE, UNET),
        (
            "inside the cross-class tolerance of class cpu-b, the reference of cpu-float32; "
            "first difference: unet#0"
        ),
    ),
    Reason.VARIES_AS_EXPECTED: (
        reasons.varies_as_expected(0.5),
        "varies as expected: L-inf between runs 0.5",
    ),
    Reason.PUBLISHED_VALUE_HOLDS: (
        reasons.published_value_holds(OFF),
        (
            "by the published value alone, there is no baseline: image abs_sum 5.0000, "
            "published 2.5000 (paper)"
        ),
    ),
    Reason.OTHER_BITS: (
        reasons.other_bits(OWN, UNET),
        "bits differ from the baseline of the same class cpu-a; first difference: unet#0",
    ),
    Reason.NO_TOLERANCE: (
        reasons.no_tolerance(REFERENCE, None),
        (
            "bits differ from the baseline of class cpu-b, the reference of cpu-float32, and the "
            "scenario sets no `tolerance.cross-class`"
        ),
    ),
    Reason.OVER_BOUND: (
        reasons.over_bound(OVER, REFERENCE, None),
        (
            "image rel_l2 = 0.002 (bound 0.001) against the baseline of class cpu-b, the reference "
            "of cpu-float32"
        ),
    ),
    Reason.OFF_PUBLISHED_VALUE: (
        reasons.off_published_value(OFF, UNET),
        (
            "image abs_sum 5.0000, published 2.5000 (paper): off by 2.5 (bound 0.01); "
            "first difference: unet#0"
        ),
    ),
    Reason.EXPECTATION_BROKEN: (
        reasons.expectation_broken(Held(Expectation.REPEATABLE, "two runs differ")),
        "expected `repeatable`: two runs differ",
    ),
    Reason.NO_BASELINE: (
        reasons.no_baseline(ELSEWHERE),
        "no baseline for this case, nor one of other[cpu-float32], its reference",
    ),
    Reason.SCENARIO_EDITED: (
        reasons.scenario_edited("2026-01-02", ["seed [0] -> [1]", "pipeline A -> B"]),
        (
            "the baseline belongs to another version of the scenario (of 2026-01-02): "
            "seed [0] -> [1], pipeline A -> B"
        ),
    ),
    Reason.OTHER_WEIGHTS: (
        reasons.other_weights(["unet", "vae"]),
        "the baseline belongs to other weights: unet, vae",
    ),
    Reason.NO_EFFECT: (
        reasons.no_effect([Effect("compile: unet", "no graph", took_effect=False)]),
        "`compile: unet` had no effect: no graph",
    ),
    Reason.CONTRACT_HOLDS: (
        reasons.contract(HELD),
        "same bits as a[cpu-float32]",
    ),
    Reason.CONTRACT_BROKEN: (
        reasons.contract(replace(HELD, checks=(OVER,), first_difference=UNET)),
        (
            "the contract `identical` with a[cpu-float32] is broken: image rel_l2 = 0.002 "
            "(bound 0.001); first difference: unet#0"
        ),
    ),
    Reason.CONTRACT_UNVERIFIED: (
        reasons.no_companion("a[cpu-float32]", "timed out"),
        ("the contract could not be held, because a[cpu-float32] left no recording: timed out"),
    ),
    Reason.NOT_FINITE: (
        reasons.not_finite(["image", "mask"]),
        "image, mask holds NaN or infinity",
    ),
}
# Worded where they arise: by `verdict.structure`, a worker or its launcher, and the store.
WORDED_ELSEWHERE = {Reason.OTHER_STRUCTURE, Reason.NOT_RECORDED, Reason.DAMAGED_BASELINE}


@pytest.mark.parametrize("reason", sorted(set(Reason) - WORDED_ELSEWHERE))
def test_every_reason_has_its_sentence(reason):
    """A new reason without words fails here."""
    sentence, expected = SENTENCES[reason]
    assert sentence == expected


def test_no_two_reasons_share_a_sentence():
    """Whoever reads the message knows the reason."""
    assert len({sentence for sentence, _ in SENTENCES.values()}) == len(SENTENCES)


def test_another_structure_is_worded_with_both_sides(made):
    """Expected comes first, then actual."""
    smaller = made(builders.IMAGE[0])
    sentence = "output `image` has another shape: [1, 2, 2, 1] -> [2, 2, 1]"
    assert structure(smaller, made()) == sentence


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (reasons.varies_as_expected(None), "varies as expected: in shape"),
        (reasons.no_baseline(None), "no baseline for this case"),
        (
            reasons.no_baseline(Reference(builders.CPU)),  # of this scenario: nothing to add
            "no baseline for this case",
        ),
        (
            reasons.scenario_edited("2026-01-02", []),
            "the baseline belongs to another version of the scenario (of 2026-01-02)",
        ),
        (
            reasons.expectation_broken(Held(Expectation.IDENTICAL_IMAGES, checks=(OVER,))),
            "expected `identical-images`: image rel_l2 = 0.002 (bound 0.001)",
        ),
    ],
)
def test_a_sentence_leaves_out_what_is_not_known(sentence, expected):
    """Nothing is printed as `None`, and no list is empty."""
    assert sentence == expected


DIFFERENCES = {
    DifferenceKind.WEIGHTS: (
        Difference(DifferenceKind.WEIGHTS, "vae", ("conv.weight", "conv.bias"), more=3),
        "weights of vae: conv.weight, conv.bias and 3 more",
    ),
    DifferenceKind.INPUT_FILE: (
        Difference(DifferenceKind.INPUT_FILE, "image#0", ("mask_image",)),
        "input image#0 of `mask_image`: other content",
    ),
    DifferenceKind.INPUT_DECODING: (
        Difference(DifferenceKind.INPUT_DECODING, "image#0", ("image",)),
        "input image#0 of `image`: the same file, decoded differently",
    ),
    DifferenceKind.CONFIGURATION: (
        Difference(DifferenceKind.CONFIGURATION, "scheduler", ("eta 0.0 -> 0.5",)),
        "configuration of scheduler: eta 0.0 -> 0.5",
    ),
    DifferenceKind.NOISE: (Difference(DifferenceKind.NOISE, "noise#1"), "noise#1"),
    DifferenceKind.NOISE_COUNT: (
        Difference(DifferenceKind.NOISE_COUNT, "", expected="1", actual="2"),
        "count of noise draws: 1 -> 2",
    ),
    DifferenceKind.SCHEDULER_TABLES: (
        Difference(DifferenceKind.SCHEDULER_TABLES, "scheduler", ("sigmas", "timesteps")),
        "sigmas, timesteps of scheduler",
    ),
    DifferenceKind.STAGE_ORDER: (
        Difference(DifferenceKind.STAGE_ORDER, "vae#0", expected="unet#0", actual="vae#0"),
        "order of stages: unet#0 -> vae#0",
    ),
    DifferenceKind.STAGE_INPUT: (
        Difference(DifferenceKind.STAGE_INPUT, "unet#0", ("sample", "timestep")),
        "unet#0, its input sample, timestep",
    ),
    DifferenceKind.STAGE_OUTPUT: (UNET, "unet#0"),
    DifferenceKind.STAGE_COUNT: (
        Difference(DifferenceKind.STAGE_COUNT, "", expected="2", actual="1"),
        "count of stages: 2 -> 1",
    ),
    DifferenceKind.OUTPUTS: (
        Difference(DifferenceKind.OUTPUTS, "", ("image",)),
        "image, after the last stage",
    ),
}


@pytest.mark.parametrize("kind", DifferenceKind)
def test_every_kind_of_difference_has_its_words(kind):
    """A new kind without words fails here."""
    found, expected = DIFFERENCES[kind]
    assert found.kind is kind
    assert reasons.difference(found) == expected


def test_weights_whose_tensors_are_not_recorded_are_named_by_their_component():
    """No colon without a list after it."""
    assert reasons.difference(Difference(DifferenceKind.WEIGHTS, "vae")) == "weights of vae"


UNKNOWN = builders.cost(verdict="unknown", side="this run", detail="heat")
COSTS = {
    CostReason.NO_BASELINE: "no baseline of this version of the scenario",
    CostReason.NO_BOUNDS: "the scenario bounds no cost",
    CostReason.OTHER_MACHINE: "the baseline is of another machine type, heat",
    CostReason.ONE_RUN_ONLY: "one run only, which warms up",
    CostReason.SLOWED_DOWN: "the GPU was slowed down in this run by heat",
    CostReason.OTHER_WORK: (
        "heat, but in this run other processes used the processor for long enough to explain it"
    ),
}


@pytest.mark.parametrize("reason", CostReason)
def test_every_reason_of_an_unknown_cost_has_its_sentence(reason):
    """A new reason without words fails here."""
    assert reasons.cost_is_unknown(replace(UNKNOWN, reason=reason)) == COSTS[reason]


def test_a_cost_that_is_known_needs_no_sentence():
    """The word says it."""
    assert reasons.cost_is_unknown(Cost(builders.figures(1.0), CostVerdict.OK)) == ""


CHECKS = {
    Against.BASELINE: (OVER, "image rel_l2 = 0.002 (bound 0.001)"),
    Against.PUBLISHED: (
        OFF,
        "image abs_sum 5.0000, published 2.5000 (paper): off by 2.5 (bound 0.01)",
    ),
    Against.SAME_IMAGE_ALONE: (
        Check("image[1]", Metric.L_INF, 0.5, 0.0, Against.SAME_IMAGE_ALONE),
        "image[1] against the same image alone: l_inf = 0.5 (bound 0)",
    ),
    Against.FIRST_IMAGE: (
        Check("image[1]", Metric.L_INF, math.nan, 0.0, Against.FIRST_IMAGE),
        "image[1] against image[0]: l_inf = nan (bound 0)",
    ),
}


@pytest.mark.parametrize("against", Against)
def test_every_kind_of_check_is_worded_by_what_it_is_held_against(against):
    """A new kind without words fails here."""
    check, expected = CHECKS[against]
    assert check.against is against
    assert reasons.exceeded(check) == expected


@pytest.mark.parametrize("metric", Metric)
def test_every_metric_is_named_in_a_check_s_words(metric):
    """A local metric is named by what it measures, of which stage."""
    words = reasons.measured(Check("unet#0/sample", metric, 1.0, 0.5))
    special = {
        **{
            local: f"local {local.removeprefix('local_')} of unet#0/sample"
            for local in LOCAL_METRICS
        },
        Metric.STRUCTURE: "structure of unet#0/sample",
        Metric.STAGE_COUNT: "count of stages",
    }
    assert words == special.get(metric, f"unet#0/sample {metric}")
