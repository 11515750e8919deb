"""How the runs of one case compare: how many of them differ, and by how much."""

from __future__ import annotations

import json
import math
from typing import Dict, List, Mapping, Optional, Sequence

import torch

from ..protocol import RepeatRecord
from .tensors import Tensors, digest_tensor


def digests_of(outputs: Mapping[str, torch.Tensor]) -> Dict[str, str]:
    """Return the digests of a run's outputs by name."""
    return {name: digest_tensor(tensor) for name, tensor in outputs.items()}


def compare_runs(
    instrumented: Tensors, others: Sequence[Tensors], reused: Optional[Tensors] = None
) -> RepeatRecord:
    """Compare the instrumented run of a case with its other runs.

    Args:
        instrumented: The outputs of the instrumented run, by name.
        others: The outputs of every other run; the first of them was a plain run.
        reused: The outputs of a second call of the same pipeline object; None without one.

    Returns:
        The record; its `l_inf` is 0.0 where all bits are the same, and None where any output is
        missing, has another shape, or differs by no finite number.
    """
    expected = digests_of(instrumented)
    actual = [digests_of(run) for run in others]
    distances = [
        _largest_difference(run, digests, instrumented, expected)
        for run, digests in zip(others, actual)
    ]
    distinct = {json.dumps(digests, sort_keys=True) for digests in [expected, *actual]}
    return {
        "runs": 1 + len(others),
        "distinct": len(distinct),
        "l_inf": _largest(distances),
        "instrumented_equals_plain": actual[0] == expected if actual else None,
        "reused_equals_fresh": None if reused is None else digests_of(reused) == expected,
    }


def _largest_difference(
    run: Tensors,
    run_digests: Mapping[str, str],
    instrumented: Tensors,
    instrumented_digests: Mapping[str, str],
) -> Optional[float]:
    """Return the largest difference over all outputs of two runs; None where one has no value."""
    changed = [
        name
        for name in {**run_digests, **instrumented_digests}
        if run_digests.get(name) != instrumented_digests.get(name)
    ]
    return _largest([_difference(run.get(name), instrumented.get(name)) for name in changed])


def _difference(
    actual: Optional[torch.Tensor], expected: Optional[torch.Tensor]
) -> Optional[float]:
    """Return the largest absolute difference of two outputs, in float64, if it is finite."""
    if actual is None or expected is None or actual.shape != expected.shape:
        return None
    if not actual.numel():
        return 0.0
    difference = actual.to(torch.float64) - expected.to(torch.float64)
    largest = float(difference.abs().max().item())
    return largest if math.isfinite(largest) else None


def _largest(distances: List[Optional[float]]) -> Optional[float]:
    """Return the largest distance, 0.0 if there is none; None where any has no value."""
    largest = 0.0
    for distance in distances:
        if distance is None:
            return None
        largest = max(largest, distance)
    return largest
