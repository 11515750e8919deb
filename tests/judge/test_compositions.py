"""The search over compositions of a batch: what is tried, and how what is found is shrunk."""

from __future__ import annotations

from itertools import product

import pytest

from harness.judge.compositions import number_of, planned, search


class Oracle:
    """Answers by a rule on a batch and a slot, and notes what it was asked."""

    def __init__(self, rule):
        self.asked = []
        self._rule = rule

    def __call__(self, images):
        self.asked.append(images)
        return [slot for slot in range(len(images)) if self._rule(images, slot)]


def never(images, slot):
    """No image depends on its batch."""
    return False


# id: (which slot of which batch changes, images of the scenario, the smallest batch and slot)
PLANTED = {
    "any-batch": (lambda images, slot: True, 4, ((0, 0), 0)),
    "at-least-three": (lambda images, slot: len(images) >= 3, 4, ((0, 0, 0), 0)),
    "four-alone": (lambda images, slot: len(images) == 4, 4, ((0, 0, 0, 0), 0)),
    "an-even-batch": (lambda images, slot: len(images) % 2 == 0, 5, ((0, 0), 0)),
    "the-last-slot": (lambda images, slot: slot == len(images) - 1, 4, ((0, 0), 1)),
    "the-third-slot": (lambda images, slot: slot == 2, 4, ((0, 0, 0), 2)),
    "beside-image-3": (lambda images, slot: images[slot] != 3 and 3 in images, 4, ((0, 3), 0)),
    "image-3-in-the-third-slot": (
        lambda images, slot: len(images) > 2 and images[2] == 3 and slot == 0 and images[0] != 3,
        4,
        ((0, 0, 3), 0),
    ),
    "two-neighbours-at-once": (
        lambda images, slot: images[slot] == 0 and {1, 2} <= set(images),
        4,
        ((0, 1, 2), 0),
    ),
    "one-image-of-eight": (lambda images, slot: images[slot] == 5 and 2 in images, 8, ((5, 2), 0)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_changes_an_image_is_found_and_shrunk(name):
    """The smallest batch first, then neighbours that are the image itself, then the lowest slot."""
    rule, images, expected = PLANTED[name]
    oracle = Oracle(rule)
    searched = search(images, 40, oracle)
    assert (searched.found.images, searched.found.slot) == expected
    assert searched.is_smallest
    assert len(oracle.asked) == len(set(oracle.asked))


@pytest.mark.parametrize("name", PLANTED)
def test_no_smaller_batch_than_the_one_that_was_found_changes_an_image(name):
    """Every composition of fewer images is tried here by brute force."""
    rule, images, _ = PLANTED[name]
    found = search(images, 40, Oracle(rule)).found
    for size in range(2, len(found.images)):
        for smaller in product(range(images), repeat=size):
            assert not any(rule(smaller, slot) for slot in range(size))


@pytest.mark.parametrize("images", [2, 3, 4, 7, 16])
def test_the_plan_is_the_same_every_time_and_as_long_as_was_stated(images):
    """No composition comes twice, none is larger than the own batch, which comes first."""
    plan = planned(images, 16)
    assert plan == planned(images, 16)
    assert len(plan) == len(set(plan)) == min(16, number_of(images))
    assert plan[0] == tuple(range(images))
    assert {len(each) for each in plan} <= set(range(2, images + 1))
    assert all(0 <= image < images for each in plan for image in each)


def test_a_longer_plan_begins_with_the_shorter_one():
    """Whoever raises the bound tries more, and not something else."""
    assert planned(4, 60)[:16] == planned(4, 16)


def test_the_plan_puts_each_image_into_each_slot():
    """Rotations do; and parts of the batch, single images repeated and other orders are there."""
    plan = planned(4, 16)
    whole = [each for each in plan if len(each) == 4]
    assert {(slot, image) for each in whole for slot, image in enumerate(each)} == set(
        product(range(4), repeat=2)
    )
    assert {(0, 0), (1, 1, 1), (2, 2, 2, 2), (0, 1), (2, 3), (0, 1, 2), (3, 2, 1, 0)} <= set(plan)


def test_where_few_compositions_exist_all_are_tried_and_that_is_said():
    """Two images make four batches of two."""
    searched = search(2, 16, Oracle(never))
    assert set(searched.tried) == set(product(range(2), repeat=2))
    assert searched.is_exhaustive
    assert searched.found is None
    assert not search(3, 16, Oracle(never)).is_exhaustive


@pytest.mark.parametrize(("most", "asked"), [(1, 1), (5, 5), (16, 16)])
def test_no_more_compositions_are_tried_than_was_stated(most, asked):
    oracle = Oracle(never)
    searched = search(4, most, oracle)
    assert len(oracle.asked) == len(searched.tried) == asked


def test_a_search_that_ends_before_its_end_says_that_a_simpler_one_may_do():
    """With a bound of one, one simpler composition is tried after the first that changed."""
    oracle = Oracle(lambda images, slot: len(images) == 4)
    searched = search(4, 1, oracle)
    assert len(oracle.asked) == 2
    assert searched.found.images == (0, 1, 2, 3)
    assert not searched.is_smallest
