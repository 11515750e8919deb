"""Certifies that the composition of a batch changes no image, or finds one that does.

An image of a batch is held against the same image alone, of the same seed and arguments. Both are
of one machine, and so owe each other the same bits, unless the scenario sets `tolerance.batch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.judge import drift
from harness.judge.checks import check_output, failed
from harness.judge.compositions import Found, Searched, search
from harness.records import Against, BatchCertificate, Check, Counterexample, Metric, worst_first
from harness.records.batches import Composition
from harness.scenario.call_text import call_text
from harness.scenario.model import Case
from harness.scenario.tolerance import NO_DIFFERENCE, Tolerance
from harness.store.recording import Recording

# Runs a case, or reads the recording that it left.
Make = Callable[[Case], Recording]


@dataclass(frozen=True)
class Certified:
    """A certificate, and what was checked for it.

    `checks` are those of the counterexample. Where there is none, they are the worst of each output
    and metric over all compositions.
    """

    certificate: BatchCertificate
    checks: tuple[Check, ...]


def certify(case: Case, own: Recording, make: Make) -> Certified:
    """Search the compositions of a case's batch for one that changes an image.

    Args:
        case: A case of a scenario that expects `batch-invariant`.
        own: Its recording, of the batch as it stands.
        make: Gives the recording of the case with other `images`.
    """
    scenario = case.scenario
    trials = _Trials(case, own, make)
    searched = search(len(scenario.seeds), scenario.compositions, trials.changed)
    certificate = BatchCertificate(
        compositions=len(searched.tried),
        largest=max(map(len, searched.tried)),
        is_exhaustive=searched.is_exhaustive,
        runs=trials.runs,
    )
    if searched.found is None:
        return Certified(certificate, trials.worst())
    counterexample = _counterexample(case, searched, searched.found)
    checks = trials.checks_of(searched.found)
    return Certified(replace(certificate, counterexample=counterexample), checks)


def _counterexample(case: Case, searched: Searched, found: Found) -> Counterexample:
    call = call_text(replace(case, images=found.images))
    return Counterexample(found.images, found.slot, call, searched.is_smallest)


class _Trials:
    """Makes the images that compositions are held against, and remembers what was checked.

    Attributes:
        runs: How many recordings were asked for.
    """

    def __init__(self, case: Case, own: Recording, make: Make) -> None:
        self.runs = 0
        self._case = case
        self._make = make
        self._tolerance = case.scenario.tolerances.batch or NO_DIFFERENCE
        self._own = tuple(range(len(case.scenario.seeds)))
        self._known: dict[Composition, Recording] = {self._own: own}
        self._checks: dict[Composition, list[list[Check]]] = {}

    def changed(self, composition: Composition) -> list[int]:
        """Return the slots of a composition whose image is not what it is alone."""
        batch = self._recording(composition)
        alone = [self._alone(image) for image in composition]
        checks = [
            _check_slot(batch, slot, single, composition, self._tolerance)
            for slot, single in enumerate(alone)
        ]
        self._checks[composition] = checks
        return [slot for slot, each in enumerate(checks) if failed(each)]

    def checks_of(self, found: Found) -> tuple[Check, ...]:
        """Return what was checked of one slot of a composition that was tried."""
        return tuple(self._checks[found.images][found.slot])

    def worst(self) -> tuple[Check, ...]:
        """Return the check with the largest value for each output and metric."""
        found: dict[tuple[str, Metric], Check] = {}
        for slots in self._checks.values():
            for check in (each for slot in slots for each in slot):
                key = check.subject.partition("[")[0], check.metric
                if key not in found or _size(check) > _size(found[key]):
                    found[key] = check
        return tuple(found.values())

    def _alone(self, image: int) -> Recording:
        """Return the recording of one image alone, which is made once."""
        single = (image,)
        if single not in self._known:
            self._known[single] = self._recording(single)
        return self._known[single]

    def _recording(self, images: Composition) -> Recording:
        if images in self._known:
            return self._known[images]
        self.runs += 1
        return self._make(replace(self._case, images=images))


def _check_slot(
    batch: Recording, slot: int, alone: Recording, composition: Composition, tolerance: Tolerance
) -> list[Check]:
    """Return what is checked of the image in one slot of a batch, for every output."""
    checks: list[Check] = []
    against = Against.SAME_IMAGE_ALONE
    for name, single in alone.output_tensors.items():
        label = f"{name}[{slot}] of batch {list(composition)}"
        images = batch.output_tensors.get(name)
        if images is None or images.shape != (len(composition), *single.shape[1:]):
            checks.append(Check(label, Metric.SHAPE, math.nan, 0.0, against))
            continue
        image = images[slot : slot + 1]
        found = check_output(label, drift.measure(image, single), tolerance, against)
        if tolerance.exact and not failed(found) and image.tobytes() != single.tobytes():
            found.append(Check(label, Metric.BITS, math.nan, 0.0, against))  # such as 0.0 and -0.0
        checks += found
    return checks


def _size(check: Check) -> float:
    return worst_first(check.value)
