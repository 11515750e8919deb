"""The certificate that no composition of a batch changes an image, from recordings alone."""

from __future__ import annotations

import builders
import numpy as np
import pytest

from harness.judge import reasons
from harness.judge.batch_certificate import certify
from harness.judge.expectations import hold_all
from harness.judge.verdict import judge
from harness.records import Against, Metric, Verdict
from harness.scenario.fields import Expectation

IMAGES = [np.full((1, 2, 2, 1), 0.25 * (image + 1), np.float32) for image in range(3)]
EXPECTED = {
    "call": {"prompt": ["one", "two", "three"], "output_type": "np"},
    "seeds": (7, 8, 9),
    "expect": (Expectation.REPEATABLE, Expectation.BATCH_INVARIANT),
}


def batch_of(images, change=None):
    """Return the array of a batch, after `change` to it where there is one."""
    array = np.concatenate([IMAGES[image] for image in images])
    if change is not None:
        change(array, images)
    return array


@pytest.fixture
def certified(made):
    """Return a function that certifies a scenario whose batches `change` changes."""

    def certify_with(change=None, **changes):
        case = builders.case(**{**EXPECTED, **changes})
        requests = []

        def make(composed):
            requests.append(composed.images)
            return made(batch_of(composed.images, change))

        own = made(batch_of((0, 1, 2), change))
        found = certify(case, own, make)
        return found, requests, case, own

    return certify_with


def from_three(array, _images):
    """A sum in another order from three images on: the first image moves by one unit."""
    if len(array) >= 3:
        array[0] = np.nextafter(array[0], np.float32(1))


def test_where_no_batch_changes_an_image_it_is_said_what_was_tried(certified):
    """Nine, then 27 compositions exist; 16 are tried, and each image is made alone once."""
    found, requests, case, own = certified()
    certificate = found.certificate
    assert (certificate.compositions, certificate.largest) == (16, 3)
    assert certificate.counterexample is None
    assert not certificate.is_exhaustive
    assert certificate.runs == len(requests) == len(set(requests)) == 15 + 3
    assert [(check.value, check.bound, check.metric) for check in found.checks] == [
        (0.0, 0.0, Metric.L_INF)
    ]
    broken, checks = hold_all(case.scenario, own, [], found)
    assert broken is None
    assert checks == found.checks


def test_a_batch_that_changes_an_image_is_named_with_a_call_that_makes_it(certified):
    """The smallest batch with the change, the image's slot, and what was measured."""
    found, _, case, own = certified(from_three)
    counterexample = found.certificate.counterexample
    assert (counterexample.images, counterexample.slot) == ((0, 0, 0), 0)
    assert counterexample.call == (
        "pipeline(prompt=['one', 'one', 'one'], output_type='np', "
        "generator=[torch.Generator('cpu').manual_seed(seed) for seed in (7, 7, 7)])"
    )
    assert counterexample.is_smallest
    (check,) = found.checks
    assert check.against is Against.SAME_IMAGE_ALONE
    assert check.subject == "image[0] of batch [0, 0, 0]"
    outcome = judge(case, own, None, [], None, found)
    assert outcome.verdict is Verdict.UNREPEATABLE
    assert outcome.batch == found.certificate
    assert outcome.message.startswith(
        "expected `batch-invariant`: image[0] of batch [0, 0, 0] against the same image alone: "
        "l_inf = 2.98e-08 (bound 0)"
    )
    assert reasons.measured(check).endswith("against the same image alone: l_inf")


def test_a_bound_of_the_scenario_takes_the_place_of_bits(certified):
    """What is inside of it is certified, with the worst of what was measured."""
    found, *_ = certified(from_three, tolerance={"batch": {"l_inf": 1e-6}})
    assert found.certificate.counterexample is None
    (worst,) = found.checks
    assert worst.passed
    assert worst.value > 0


def test_other_bits_of_equal_numbers_are_found_where_bits_are_owed(certified):
    """Minus zero is equal to zero, and another bit."""

    def zero_alone(array, _images):
        array[...] = 0.0
        if len(array) > 1:
            array[0, 0, 0, 0] = -0.0

    found, *_ = certified(zero_alone)
    assert found.certificate.counterexample.images == (0, 0)
    assert [check.metric for check in found.checks if not check.passed] == [Metric.BITS]


def test_a_value_that_is_no_number_is_a_change(certified):
    """A batch whose last image is NaN holds no certificate, whatever the bound."""

    def spoil(array, images):
        if len(images) > 1:
            array[-1] = np.nan

    found, *_ = certified(spoil, tolerance={"batch": {"l_inf": 1.0}})
    assert found.certificate.counterexample.slot == 1


def test_a_batch_of_another_length_than_was_asked_for_is_a_change(certified, made):
    """A pipeline that drops an image has no slot to compare."""
    case = builders.case(**EXPECTED)

    def make(composed):
        return made(batch_of(composed.images[:2]))

    found = certify(case, made(batch_of((0, 1, 2))), make)
    assert [check.metric for check in found.checks] == [Metric.SHAPE]
    assert len(found.certificate.counterexample.images) == 3


def test_the_bound_on_compositions_is_the_scenario_s(certified):
    """The own batch counts, and is not made again."""
    found, requests, *_ = certified(compositions=4)
    assert found.certificate.compositions == 4
    assert len([images for images in requests if len(images) > 1]) == 3


def test_without_a_search_the_expectation_is_not_held(made):
    """Two runs that are compared afterwards have no other batches."""
    scenario = builders.scenario(**EXPECTED)
    broken, checks = hold_all(scenario, made(batch_of((0, 1, 2))), [])
    assert broken is None
    assert checks == ()
