"""What a scenario expects of its runs, apart from any baseline.

That is whether they repeat or vary, and how the images of a batch relate to each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.judge import drift
from harness.judge.batch_certificate import Certified
from harness.judge.checks import check_output, failed
from harness.records import Against, Check, Metric
from harness.scenario.fields import Expectation
from harness.scenario.model import Scenario
from harness.scenario.tolerance import NO_DIFFERENCE, Tolerance
from harness.store.recording import Recording, Repeat


@dataclass(frozen=True)
class Held:
    """How one expectation was held.

    `problem` is what broke it, in words, where no check says so; `checks` are all that were made.
    """

    expectation: Expectation
    problem: str = ""
    checks: tuple[Check, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether the expectation does not hold."""
        return bool(self.problem or failed(self.checks))


@dataclass(frozen=True)
class Subject:
    """What an expectation is held of: a recording, and the batches and images beside it.

    `tolerance` is `tolerance.batch`. `certified` is None where no compositions were searched.
    """

    recording: Recording
    singles: Sequence[Recording]
    tolerance: Tolerance
    certified: Certified | None = None


def hold_all(
    scenario: Scenario,
    recording: Recording,
    singles: Sequence[Recording],
    certified: Certified | None = None,
) -> tuple[Held | None, tuple[Check, ...]]:
    """Hold each expectation of a scenario until one is broken.

    Args:
        scenario: Names the expectations.
        recording: The case's recording.
        singles: For `batch-equals-single`: the recording of each image made alone, in order.
        certified: For `batch-invariant`: what came of the search; None where nothing was searched,
            so that this expectation is not held.

    Returns:
        The broken expectation, None if all hold; and every check that was made.
    """
    subject = Subject(recording, singles, scenario.tolerances.batch or NO_DIFFERENCE, certified)
    checks: list[Check] = []
    for expectation in scenario.expect:
        held = HOLDERS[expectation](subject)
        checks += held.checks
        if held.broken:
            return held, tuple(checks)
    return None, tuple(checks)


def _repeatable(subject: Subject) -> Held:
    repeat = subject.recording.repeat
    problem = "" if repeat.distinct <= 1 else _differing_runs(repeat)
    return Held(Expectation.REPEATABLE, problem)


def _differing_runs(repeat: Repeat) -> str:
    plain_runs_agree = repeat.runs > 2 and repeat.distinct == 2
    if plain_runs_agree and not repeat.instrumented_equals_plain:
        return "the instrumented run differs from the plain runs"
    return (
        f"{repeat.runs} runs gave {repeat.distinct} different outputs, "
        f"L-inf between runs {repeat.l_inf}"
    )


def _varies(subject: Subject) -> Held:
    repeat = subject.recording.repeat
    problem = ""
    if repeat.distinct < repeat.runs:
        problem = (
            f"{repeat.runs} runs gave {repeat.distinct} different outputs; every run must differ"
        )
    return Held(Expectation.VARIES, problem)


def _batch_equals_single(subject: Subject) -> Held:
    checks: list[Check] = []
    for name, batch in subject.recording.output_tensors.items():
        for index, single in enumerate(subject.singles):
            image = batch[index : index + 1]
            alone = single.output_tensors[name]
            label, against = f"{name}[{index}]", Against.SAME_IMAGE_ALONE
            if image.shape != alone.shape:
                checks.append(Check(label, Metric.SHAPE, math.nan, 0.0, against))
            else:
                moved = drift.measure(image, alone)
                checks += check_output(label, moved, subject.tolerance, against)
    return Held(Expectation.BATCH_EQUALS_SINGLE, checks=tuple(checks))


def _identical_images(subject: Subject) -> Held:
    """Hold every image against the first.

    Another place in a batch may round differently, by as much as `tolerance.batch` admits.
    """
    checks: list[Check] = []
    for name, batch in subject.recording.output_tensors.items():
        for index in range(1, len(batch)):
            moved = drift.measure(batch[index], batch[0])
            label = f"{name}[{index}]"
            checks += check_output(label, moved, subject.tolerance, Against.FIRST_IMAGE)
    problem = "" if checks else "there is no second image"
    return Held(Expectation.IDENTICAL_IMAGES, problem, tuple(checks))


def _distinct_images(subject: Subject) -> Held:
    """Find two images that are the same.

    Those are the same that lie nearer than `tolerance.batch`, by which equal images of a batch may
    differ.
    """
    within = "" if subject.tolerance.exact else " within `tolerance.batch`"
    for name, batch in subject.recording.output_tensors.items():
        for one, other in combinations(range(len(batch)), 2):
            moved = drift.measure(batch[one], batch[other])
            if not failed(check_output(name, moved, subject.tolerance)):
                same = f"{name}[{one}] and {name}[{other}] are the same{within}"
                return Held(Expectation.DISTINCT_IMAGES, same)
        if len(batch) < 2:
            few = f"{name} holds {len(batch)} image; there must be several"
            return Held(Expectation.DISTINCT_IMAGES, few)
    return Held(Expectation.DISTINCT_IMAGES)


def _identical_noise(subject: Subject) -> Held:
    draws = subject.recording.noise_tensors
    problem = ""
    if not draws or len(draws[0]) < 2:
        problem = "no noise of several images was drawn"
    else:
        noise = draws[0]
        odd = [index for index in range(len(noise)) if not np.array_equal(noise[index], noise[0])]
        if odd:
            problem = f"the noise of image {odd[0]} differs from that of image 0"
    return Held(Expectation.IDENTICAL_NOISE, problem)


def _stateless(subject: Subject) -> Held:
    problem = ""
    if subject.recording.repeat.reused_equals_fresh is False:
        problem = (
            "a second call of the same pipeline object gives another output; "
            "the first one left something behind, on a scheduler or a component"
        )
    return Held(Expectation.STATELESS, problem)


def _batch_invariant(subject: Subject) -> Held:
    certified = subject.certified
    checks = () if certified is None else certified.checks
    return Held(Expectation.BATCH_INVARIANT, checks=checks)


HOLDERS = {
    Expectation.REPEATABLE: _repeatable,
    Expectation.VARIES: _varies,
    Expectation.BATCH_EQUALS_SINGLE: _batch_equals_single,
    Expectation.IDENTICAL_IMAGES: _identical_images,
    Expectation.DISTINCT_IMAGES: _distinct_images,
    Expectation.IDENTICAL_NOISE: _identical_noise,
    Expectation.STATELESS: _stateless,
    Expectation.BATCH_INVARIANT: _batch_invariant,
}
