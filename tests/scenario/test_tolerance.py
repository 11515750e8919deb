"""Tolerances as types: YAML and back, which bound covers a stage, and bounds against evidence."""

from __future__ import annotations

import pytest

from harness.records import Device, Metric, Stage
from harness.scenario.tolerance import (
    ANY_STAGE,
    LOOSE,
    NO_DIFFERENCE,
    BoundKey,
    Evidence,
    Kind,
    Tolerance,
    Tolerances,
)

FREE = {Metric.L_INF: 1e-4, Metric.REL_L2: 2e-5}
BY_STAGE = {"unet": 1e-6, "scheduler.step": 2e-6, "scheduler.step#0": 3e-6}

TOLERANCES = {
    "exact": ("identical", NO_DIFFERENCE),
    "free": ({"l_inf": 1e-4, "rel_l2": 2e-5}, Tolerance(free=FREE)),
    "zero": ({"l_inf": 0.0}, Tolerance(free={Metric.L_INF: 0.0})),
    "whole-number": ({"l_inf": 1}, Tolerance(free={Metric.L_INF: 1})),
    "one-local-bound": (
        {"local_rel_l2": 1e-6},
        Tolerance(local={Metric.LOCAL_REL_L2: {ANY_STAGE: 1e-6}}),
    ),
    "local-bounds-by-stage": (
        {"local_rel_l2": BY_STAGE},
        Tolerance(local={Metric.LOCAL_REL_L2: BY_STAGE}),
    ),
    "a-general-bound-beside-those-of-stages": (
        {"local_l_inf": {"": 1e-6, "unet": 2e-6}},
        Tolerance(local={Metric.LOCAL_L_INF: {ANY_STAGE: 1e-6, "unet": 2e-6}}),
    ),
    "everything": (
        {"l_inf": 1e-4, "rel_l2": 2e-5, "local_l_inf": 3e-6, "local_rel_l2": BY_STAGE},
        Tolerance(
            free=FREE,
            local={Metric.LOCAL_L_INF: {ANY_STAGE: 3e-6}, Metric.LOCAL_REL_L2: BY_STAGE},
        ),
    ),
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_tolerance_is_read_from_yaml_and_written_back_as_it_was(name):
    """`from_yaml` and `as_yaml` are inverse."""
    yaml, tolerance = TOLERANCES[name]
    assert Tolerance.from_yaml(yaml) == tolerance
    assert tolerance.as_yaml() == yaml


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("exact", set()),
        ("free", {Metric.L_INF, Metric.REL_L2}),
        ("one-local-bound", {Metric.LOCAL_REL_L2}),
        ("everything", {Metric.L_INF, Metric.REL_L2, Metric.LOCAL_L_INF, Metric.LOCAL_REL_L2}),
    ],
)
def test_a_tolerance_names_the_metrics_that_it_bounds(name, metrics):
    """Of free and of local drift."""
    assert TOLERANCES[name][1].metrics == metrics


@pytest.mark.parametrize(
    ("patterns", "stage", "expected"),
    [
        ({ANY_STAGE: 1.0, "unet": 2.0, "unet#7": 3.0}, Stage("unet", 7), "unet#7"),
        ({ANY_STAGE: 1.0, "unet": 2.0, "unet#7": 3.0}, Stage("unet", 8), "unet"),
        ({ANY_STAGE: 1.0, "unet": 2.0, "unet#7": 3.0}, Stage("vae.decode", 7), ANY_STAGE),
        ({"unet#7": 3.0}, Stage("unet", 77), None),
        ({"unet": 2.0}, Stage("unet_2", 0), None),
        ({"scheduler.step": 2.0}, Stage("scheduler.step", 3), "scheduler.step"),
        ({"scheduler": 2.0}, Stage("scheduler.step", 3), None),
        ({"noise": 0.0}, Stage("noise", 0), "noise"),
        ({ANY_STAGE: 9.0, "unet": 0.0}, Stage("unet", 0), "unet"),
        ({}, Stage("unet", 0), None),
    ],
)
def test_a_stage_is_bound_by_its_own_name_then_by_its_kind_then_by_the_general_bound(
    patterns, stage, expected
):
    """The closest pattern decides, also where its bound is smaller; a part of a name is none."""
    tolerance = Tolerance(local={Metric.LOCAL_REL_L2: patterns})
    assert tolerance.local_pattern(Metric.LOCAL_REL_L2, stage) == expected


def test_a_bound_on_one_metric_is_none_on_another():
    """A stage that is bounded by `local_rel_l2` alone is free in `local_l_inf`."""
    tolerance = Tolerance(free=FREE, local={Metric.LOCAL_REL_L2: {ANY_STAGE: 1.0}})
    assert tolerance.local_pattern(Metric.LOCAL_L_INF, Stage("unet", 0)) is None


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("name", [name for name in TOLERANCES if name != "exact"])
def test_bounds_by_key_make_the_same_tolerance_again(name, kind):
    """`by_key` loses nothing, and `from_keys` needs nothing else."""
    tolerance = TOLERANCES[name][1]
    keyed = tolerance.by_key(kind)
    assert {key.kind for key in keyed} == {kind}
    assert Tolerance.from_keys(keyed) == tolerance


def test_each_bound_has_a_key_of_its_own():
    """By comparison, metric and stage pattern, in the order of the tolerance."""
    assert TOLERANCES["everything"][1].by_key(Kind.CROSS_CLASS) == {
        BoundKey(Kind.CROSS_CLASS, Metric.L_INF): 1e-4,
        BoundKey(Kind.CROSS_CLASS, Metric.REL_L2): 2e-5,
        BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_L_INF): 3e-6,
        BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "unet"): 1e-6,
        BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "scheduler.step"): 2e-6,
        BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "scheduler.step#0"): 3e-6,
    }


def test_an_exact_tolerance_has_no_bounds_to_name():
    """It admits no difference, whatever is measured."""
    assert NO_DIFFERENCE.by_key(Kind.CROSS_CLASS) == {}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (BoundKey(Kind.CROSS_CLASS, Metric.REL_L2), "rel_l2"),
        (BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "unet#7"), "local_rel_l2 of unet#7"),
        (BoundKey(Kind.BATCH, Metric.L_INF), "batch l_inf"),
    ],
)
def test_a_key_says_what_it_bounds(key, text):
    """Messages show it."""
    assert str(key) == text


EVIDENCE_YAML = {
    "bounds": {"rel_l2": 3e-6, "local_rel_l2": {"unet": 1e-6, "scheduler.step": 5e-7}},
    "batch": {"l_inf": 1e-5},
    "noise": {"rel_l2": 4e-7},
    "worst": {"rel_l2": 1e-6},
    "platforms": 15,
    "seeds": 3,
    "device": "cpu",
    "on": "cpu-avx512-mkl-t1-8290d448",
    "date": "2026-11-21",
    "fingerprint": "c4c2b59b102a68f4",
}
EVIDENCE = Evidence(
    bounds=Tolerance(
        free={Metric.REL_L2: 3e-6},
        local={Metric.LOCAL_REL_L2: {"unet": 1e-6, "scheduler.step": 5e-7}},
    ),
    batch=Tolerance(free={Metric.L_INF: 1e-5}),
    noise=Tolerance(free={Metric.REL_L2: 4e-7}),
    worst=Tolerance(free={Metric.REL_L2: 1e-6}),
    platforms=15,
    seeds=3,
    device=Device.CPU,
    on="cpu-avx512-mkl-t1-8290d448",
    date="2026-11-21",
    fingerprint="c4c2b59b102a68f4",
)


def test_evidence_is_read_from_yaml_and_written_back_in_the_same_order():
    """What calibrate writes is what the next reader finds."""
    assert Evidence.from_yaml(EVIDENCE_YAML) == EVIDENCE
    assert list(EVIDENCE.as_yaml().items()) == list(EVIDENCE_YAML.items())


def test_evidence_needs_its_bounds_alone():
    """The other keys came with later versions, or are a person's to leave out."""
    evidence = Evidence.from_yaml({"bounds": {}})
    assert evidence == Evidence(Tolerance())
    assert evidence.as_yaml() == {"bounds": {}, "platforms": 0}
    assert Evidence.from_yaml(evidence.as_yaml()) == evidence


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (BoundKey(Kind.CROSS_CLASS, Metric.REL_L2), 3e-6),
        (BoundKey(Kind.CROSS_CLASS, Metric.L_INF), None),
        (BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "unet"), 1e-6),
        (BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "scheduler.step#3"), 5e-7),
        (BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "vae.decode"), 1e-6),
        (BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, ANY_STAGE), 1e-6),
        (BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_L_INF, "unet"), None),
        (BoundKey(Kind.BATCH, Metric.L_INF), 1e-5),
        (BoundKey(Kind.BATCH, Metric.REL_L2), None),
    ],
    ids=str,
)
def test_a_bound_is_held_against_what_was_measured_closest_to_it(key, expected):
    """Against its own, else against that of its stage's kind, else against the largest one."""
    assert EVIDENCE.measured_bound(key) == expected


def test_nothing_was_measured_of_a_comparison_without_evidence():
    """Evidence of calibrations without a batch has none for it."""
    key = BoundKey(Kind.BATCH, Metric.L_INF)
    assert Evidence(EVIDENCE.bounds).measured_bound(key) is None


def tolerances(**yaml: object) -> Tolerances:
    """Return tolerances beside `EVIDENCE`, or beside that which is given."""
    given = {"evidence": EVIDENCE_YAML, **yaml}
    return Tolerances.from_yaml({key.replace("_", "-"): value for key, value in given.items()})


REL_L2 = BoundKey(Kind.CROSS_CLASS, Metric.REL_L2)
UNET = BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "unet")
STEP = BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "scheduler.step#2")


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ({"cross_class": {"rel_l2": LOOSE * 3e-6}}, []),
        ({"cross_class": {"rel_l2": 1.3e-5}}, [(REL_L2, 1.3e-5, 3e-6)]),
        ({"cross_class": {"rel_l2": 1.3e-5}, "reason": "R"}, []),
        ({"cross_class": {"l_inf": 1.0}}, []),
        ({"cross_class": "identical"}, []),
        (
            {"cross_class": {"local_rel_l2": {"unet": 1e-5, "scheduler.step#2": 3e-6}}},
            [(UNET, 1e-5, 1e-6), (STEP, 3e-6, 5e-7)],
        ),
        (
            {"cross_class": {"rel_l2": 1.0}, "batch": {"l_inf": 1.0}},
            [(REL_L2, 1.0, 3e-6), (BoundKey(Kind.BATCH, Metric.L_INF), 1.0, 1e-5)],
        ),
        ({}, []),
    ],
    ids=[
        "just-not",
        "too-loose",
        "with-a-reason",
        "on-a-metric-without-evidence",
        "exact",
        "local",
        "both-comparisons",
        "no-bounds",
    ],
)
def test_a_bound_is_too_loose_above_four_times_its_evidence_unless_a_person_says_why(
    yaml, expected
):
    """Each one is named with both numbers."""
    assert tolerances(**yaml).too_loose() == expected


def test_without_evidence_no_bound_is_too_loose():
    """There is nothing to hold it against."""
    assert Tolerances.from_yaml({"cross-class": {"rel_l2": 1.0}}).too_loose() == []


def test_a_measured_zero_admits_no_other_bound_than_zero():
    """Four times nothing is nothing."""
    evidence = {"bounds": {"local_rel_l2": {"noise": 0.0}}}
    key = BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "noise")
    for bound, expected in ((0.0, []), (1e-9, [(key, 1e-9, 0.0)])):
        given = tolerances(cross_class={"local_rel_l2": {"noise": bound}}, evidence=evidence)
        assert given.too_loose() == expected


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ({}, False),
        ({"cross-class": "identical"}, False),
        ({"cross-class": {"local_rel_l2": 1.0}}, False),
        ({"batch": {"l_inf": 1.0}}, False),
        ({"cross-class": {"l_inf": 1.0}}, True),
    ],
    ids=["nothing", "exact", "local", "batch", "free"],
)
def test_free_drift_is_bounded_by_a_bound_on_outputs_across_classes_alone(yaml, expected):
    """Local bounds hold stages, and those of a batch hold images against each other."""
    assert Tolerances.from_yaml(yaml).bounds_free_drift is expected


def test_tolerances_are_found_by_the_kind_of_comparison():
    """A kind that the scenario does not set is None."""
    found = tolerances(batch="identical")
    assert (found.of(Kind.CROSS_CLASS), found.of(Kind.BATCH)) == (None, NO_DIFFERENCE)
    assert (found.evidence, found.reason) == (EVIDENCE, "")
