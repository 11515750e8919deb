"""What a scenario expects of its runs, apart from any baseline: that they repeat or vary, and how a batch's images relate."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from harness.judge import checks as tolerance
from harness.judge import drift
from harness.records import Check, Recording
from harness.scenario.model import Scenario

if TYPE_CHECKING:
    from harness.records import Array


def broken(
    scenario: Scenario, recording: Recording, singles: list[Recording]
) -> tuple[str, list[Check]]:
    """Return why an expectation does not hold (empty if all do), and the checks made on the way.

    Args:
        scenario: Names the expectations.
        recording: The case's recording.
        singles: For `batch-equals-single`: the recording of each image made alone, in order.
    """
    repeat, checks = recording.content["repeat"], []
    for expectation in scenario.expect:
        problem = ""
        if expectation == "repeatable" and repeat["distinct"] > 1:
            problem = _unrepeatable(repeat)
        elif expectation == "varies" and repeat["distinct"] < repeat["runs"]:
            problem = f"{repeat['runs']} runs gave {repeat['distinct']} different outputs; every run must differ"
        elif expectation == "batch-equals-single":
            batch = _batch_checks(recording, singles, scenario.tolerance["batch"])
            checks += batch
            problem = _worst(batch)
        elif expectation == "identical-images":
            alike = _alike_checks(recording, scenario.tolerance.get("batch"))
            checks += alike
            problem = _worst(alike) if alike else "there is no second image"
        elif expectation == "distinct-images":
            problem = _same_images(recording, scenario.tolerance.get("batch"))
        elif expectation == "identical-noise":
            problem = _noise(recording)
        if problem:
            return f"expected `{expectation}`: {problem}", checks
    return "", checks


def _unrepeatable(repeat: dict[str, float]) -> str:
    if (
        repeat["runs"] > 2 and repeat["distinct"] == 2 and not repeat["watched_as_plain"]
    ):  # the others agree with each other
        return "the watched run differs from the plain runs"
    return f"{repeat['runs']} runs gave {repeat['distinct']} different outputs, L-inf between runs {repeat['l_inf']}"


def _batch_checks(
    recording: Recording, singles: list[Recording], bounds: dict[str, float] | str
) -> list[Check]:
    checks = []
    for name, batch in _outputs(recording).items():
        for index, single in enumerate(singles):
            what, image, alone = (
                f"{name}[{index}] against the same image alone:",
                batch[index : index + 1],
                _outputs(single)[name],
            )
            if image.shape != alone.shape:
                checks.append(
                    Check(
                        f"{what} shape {alone.shape} in place of {image.shape}, l_inf",
                        math.nan,
                        0.0,
                    )
                )
            else:
                checks += tolerance.check(what, drift.measure(image, alone), bounds)
    return checks


def _alike_checks(recording: Recording, bounds: dict[str, float] | str | None) -> list[Check]:
    """Hold every image against the first: another place in a batch may round otherwise, by as much as `tolerance.batch`."""
    checks = []
    for name, batch in _outputs(recording).items():
        for index in range(1, len(batch)):
            checks += tolerance.check(
                f"{name}[{index}] against {name}[0]:", drift.measure(batch[index], batch[0]), bounds
            )
    return checks


def _worst(checks: list[Check]) -> str:
    failed = [check for check in checks if not check.passed]
    return (
        f"{failed[0].what} = {failed[0].value:.3g} (bound {failed[0].bound:.3g})" if failed else ""
    )


def _same_images(recording: Recording, bounds: dict[str, float] | str | None) -> str:
    """Say which two images are the same: nearer than `tolerance.batch`, by which equal images may lie apart in a batch."""
    for name, batch in _outputs(recording).items():
        for first, second in combinations(range(len(batch)), 2):
            checks = tolerance.check("", drift.measure(batch[first], batch[second]), bounds)
            if all(check.passed for check in checks):
                return f"{name}[{first}] and {name}[{second}] are the same" + (
                    " within `tolerance.batch`" if bounds else ""
                )
        if len(batch) < 2:
            return f"{name} holds {len(batch)} image; there must be several"
    return ""


def _noise(recording: Recording) -> str:
    noise = recording.tensors().get("noise/0")
    if noise is None or len(noise) < 2:
        return "no noise of several images was drawn"
    odd = [index for index in range(len(noise)) if not np.array_equal(noise[index], noise[0])]
    return f"the noise of image {odd[0]} differs from that of image 0" if odd else ""


def _outputs(recording: Recording) -> dict[str, Array]:
    return {
        name[len("output/") :]: array
        for name, array in recording.tensors().items()
        if name.startswith("output/")
    }
