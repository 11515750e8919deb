"""How the runs of one case compare: how many outputs are distinct, and how far they lie apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.worker.observe.repeat import compare_runs


def image(*values: float) -> dict[str, torch.Tensor]:
    """Return the outputs of a run: one image."""
    return {"image": torch.tensor(values)}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([image(1, 2)], {"distinct": 1, "l_inf": 0.0, "instrumented_equals_plain": True}),
        ([image(1, 4)], {"distinct": 2, "l_inf": 2.0, "instrumented_equals_plain": False}),
        (
            [image(1, 2), image(0, 2), image(1, 5)],
            {"distinct": 3, "l_inf": 3.0, "instrumented_equals_plain": True},
        ),
        ([], {"distinct": 1, "l_inf": 0.0, "instrumented_equals_plain": None}),
    ],
    ids=["same", "other", "several", "none"],
)
def test_the_largest_difference_from_the_instrumented_run_is_told(
    others: list[dict[str, torch.Tensor]], expected: dict[str, Any]
):
    """The first of the other runs is the plain one that must equal the instrumented one."""
    found = compare_runs(image(1, 2), others)
    assert {name: found[name] for name in expected} == expected
    assert found["runs"] == 1 + len(others)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {**image(1, 2), "mask": torch.tensor([1.0])},
        image(1, 2, 3),
        image(1, math.inf),
        image(1, math.nan),
    ],
    ids=["missing", "one-more", "longer", "infinite", "not-a-number"],
)
def test_runs_that_no_number_compares_have_no_difference(other: dict[str, torch.Tensor]):
    """JSON could not hold infinity or NaN, and a missing output has no distance at all.

    A later run that can be compared does not hide it.
    """
    assert compare_runs(image(1, 2), [other, image(1, 3)])["l_inf"] is None


def test_empty_outputs_of_other_types_differ_by_nothing():
    """Their digests differ, but no element does."""
    found = compare_runs({"image": torch.zeros(0)}, [{"image": torch.zeros(0, dtype=torch.int64)}])
    assert (found["distinct"], found["l_inf"]) == (2, 0.0)
