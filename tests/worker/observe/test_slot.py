"""Which part of a batch's tensors is that of one image."""

from __future__ import annotations

import pytest
import torch

from harness.worker.observe.slot import Whole, slot_of
from harness.worker.observe.tensors import digest_tensor

COPIES, SIZE, ROWS = 2, 3, 4


def alone_and_batch(copies=COPIES, rows=ROWS):
    """Return what the second image of three has in a tensor alone, and the tensor of the batch."""
    batch = torch.arange(copies * SIZE * rows * 2, dtype=torch.float32)
    batch = batch.reshape(copies, SIZE, rows, 2)
    return batch[:, 1].reshape(-1, 2), batch.reshape(-1, 2)


@pytest.fixture
def sides(tmp_path):
    """Return a function that notes tensors of the image alone, and gives the side of the batch."""
    noted = str(tmp_path / "alone.json")

    def note(*tensors):
        alone = slot_of({"index": 0, "size": 1, "noted": noted})
        for tensor in tensors:
            alone.digest(tensor)
        alone.close()
        return slot_of({"index": 1, "size": SIZE, "noted": noted})

    return note


@pytest.mark.parametrize("copies", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 4, 12])
def test_the_part_is_found_wherever_the_batch_lies_in_the_first_axis(sides, copies, rows):
    """Behind each other for guidance, with heads or positions folded in, or plainly."""
    alone, batch = alone_and_batch(copies, rows)
    side = sides(alone)
    assert side.digest(batch) == digest_tensor(alone)
    assert torch.equal(side.part(batch), alone)


def test_what_has_no_batch_counts_as_a_whole(sides):
    """Weights and positions, although their length is a multiple of the batch's; and numbers."""
    weights, number = torch.arange(12.0), torch.tensor(3)
    side = sides(weights, number)
    assert side.digest(weights) == digest_tensor(weights)
    assert side.digest(number) == digest_tensor(number)
    odd = torch.arange(5.0)
    assert side.digest(odd) == digest_tensor(odd)


def test_a_part_that_differs_is_cut_as_the_last_one_was(sides):
    """Its digest is none that was noted, and its values can be compared with those alone."""
    alone, batch = alone_and_batch()
    side = sides(alone)
    side.digest(batch)
    moved = batch.clone()
    moved[ROWS] += 1  # the first row of the second image
    assert side.digest(moved) not in (digest_tensor(alone), digest_tensor(moved))
    expected = alone.clone()
    expected[0] += 1
    assert torch.equal(side.part(moved), expected)


def test_another_image_s_change_is_not_seen(sides):
    alone, batch = alone_and_batch()
    side = sides(alone)
    batch[0] += 1
    batch[-1] += 1
    assert side.digest(batch) == digest_tensor(alone)


def test_later_runs_of_the_image_alone_add_to_what_was_noted(sides):
    """A search runs it several times, to look into other stages."""
    first, second = torch.arange(3.0), torch.arange(4.0)
    sides(first)
    side = sides(second)
    assert side.digest(torch.stack([second * 2, second, second * 3]).reshape(-1)) == digest_tensor(
        second
    )
    assert side.digest(first) == digest_tensor(first)


def test_without_a_slot_every_tensor_counts_as_it_is():
    whole, tensor = Whole(), torch.arange(6.0)
    assert whole.part(tensor) is tensor
    assert whole.digest(tensor) == digest_tensor(tensor)
