"""A release policy as a value: what is required, of which cases, where, and what is waived.

`policy_file.py` reads it from YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.specifiers import SpecifierSet

from harness.gate.findings import Problem
from harness.records import Comparison, Device, Outcome, Reason, Verdict
from harness.store.recording import Environment


class JudgedAgainst(StrEnum):
    """What a verdict rests on: a policy allows other verdicts for each.

    `same-class` and `cross-class` are baselines, `contract` another case of the same run,
    `published` a value that a scenario states, and `control` a scenario whose runs must vary.
    """

    SAME_CLASS = "same-class"
    CROSS_CLASS = "cross-class"
    CONTRACT = "contract"
    PUBLISHED = "published"
    CONTROL = "control"


Allowed = Mapping[JudgedAgainst, tuple[Verdict, ...]]

# What a policy allows where it says nothing: every verdict that passes.
ALLOWED: Allowed = {
    JudgedAgainst.SAME_CLASS: (Verdict.IDENTICAL,),
    JudgedAgainst.CROSS_CLASS: (Verdict.IDENTICAL, Verdict.WITHIN),
    JudgedAgainst.CONTRACT: (Verdict.IDENTICAL, Verdict.WITHIN),
    JudgedAgainst.PUBLISHED: (Verdict.WITHIN,),
    JudgedAgainst.CONTROL: (Verdict.VARIES,),
}


def judged_against(outcome: Outcome) -> JudgedAgainst:
    """Return what the verdict of a passing outcome rests on."""
    if outcome.reason is Reason.VARIES_AS_EXPECTED:
        return JudgedAgainst.CONTROL
    if outcome.reason is Reason.CONTRACT_HOLDS:
        return JudgedAgainst.CONTRACT
    if outcome.baseline is None:
        return JudgedAgainst.PUBLISHED
    same = outcome.baseline.comparison is Comparison.SAME_CLASS
    return JudgedAgainst.SAME_CLASS if same else JudgedAgainst.CROSS_CLASS


@dataclass(frozen=True)
class Place:
    """Where a case must have been seen.

    Attributes:
        on: A device (`cuda`), or a kind of it (`nvidia-h200`); see `Outcome.device_kind`.
        machine: A pattern of machine types, such as `*H200*`; empty for any.
        numerics_class: A pattern of numerics classes; empty for any.
    """

    on: str
    machine: str = ""
    numerics_class: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.on, self.machine, self.numerics_class)))

    @property
    def device(self) -> Device:
        """The device: a name that is no device is a GPU's model."""
        return Device(self.on) if self.on in list(Device) else Device.CUDA

    def covers(self, outcome: Outcome, environment: Environment | None) -> bool:
        """Whether an outcome was made here.

        A case that left no recording does not know its GPU's model, its machine and its class. It
        counts for all of them, so that an error blocks.
        """
        return self._covers_device(outcome) and self._covers_machine(outcome, environment)

    def _covers_device(self, outcome: Outcome) -> bool:
        device = outcome.target.device
        if self.on in (outcome.device_kind, device):
            return True
        return device is Device.CUDA and not outcome.device_kind and self.on != Device.CPU

    def _covers_machine(self, outcome: Outcome, environment: Environment | None) -> bool:
        if environment is None:
            return not outcome.numerics_class or not (self.machine or self.numerics_class)
        fits_machine = not self.machine or fnmatchcase(environment.machine_type, self.machine)
        its_class = environment.numerics_class.name
        return fits_machine and fnmatchcase(its_class, self.numerics_class or "*")


@dataclass(frozen=True)
class CostBudget:
    """What a case may cost; None sets no bound.

    `verdict` asks for a cost that the scenario's own bounds call `ok` or `faster`. `ratio` is to
    the baseline's seconds, `seconds` are of one run, `peak_mib` is of memory.
    """

    verdict: bool = False
    ratio: float | None = None
    seconds: float | None = None
    peak_mib: float | None = None


@dataclass(frozen=True)
class LeastDetectionRate:
    """The least share of known faults that a case's bounds must be proven to catch.

    `max_age_days` is how old that proof may be; None for any age.
    """

    least: float
    max_age_days: float | None = None


@dataclass(frozen=True)
class Requirement:
    """What a policy asks of some cases at one place; `cases` are the ids of all that it covers."""

    cases: tuple[str, ...]
    place: Place
    allowed: Allowed = field(default_factory=lambda: ALLOWED)
    cost: CostBudget | None = None
    wants_accuracy: bool = False
    detection_rate: LeastDetectionRate | None = None


@dataclass(frozen=True)
class Waiver:
    """Problems of some cases that a policy accepts until a day, with who answers for that.

    `cases` are their ids, `on` the places (none for all), `words` what is accepted: a problem, or
    a verdict that fails. `line` is where the policy says so.
    """

    cases: frozenset[str]
    words: frozenset[str]
    reason: str
    owner: str
    expires: date
    on: frozenset[str] = frozenset()
    line: int = 0

    def covers(self, case: str, word: str, kinds: frozenset[str]) -> bool:
        """Whether it is about a problem of a case.

        Args:
            case: The id of the case.
            word: The problem, or the verdict that fails.
            kinds: What the place is called: what the policy required, the kind of device that the
                case ran on, and the device.
        """
        return case in self.cases and word in self.words and (not self.on or bool(self.on & kinds))


WAIVER_WORDS = (
    *(str(verdict) for verdict in Verdict if verdict.fails),
    *(
        str(problem)
        for problem in Problem
        if problem.can_be_waived and problem is not Problem.FAILS
    ),
)


@dataclass(frozen=True)
class Policy:
    """What a release requires.

    Attributes:
        path: The file.
        requirements: One for each requirement of the file and each place that it names.
        waivers: In the order of the file.
        max_age_days: How old a run may be; None for any age.
        versions: Which versions each package may have in every run.
        any_commit: Whether runs of another commit than the one being released count.
        any_tree: Whether runs of a working tree that was changed count.
    """

    path: Path
    requirements: tuple[Requirement, ...]
    waivers: tuple[Waiver, ...] = ()
    max_age_days: float | None = None
    versions: Mapping[str, SpecifierSet] = field(default_factory=dict)
    any_commit: bool = False
    any_tree: bool = False

    @property
    def required(self) -> frozenset[str]:
        """The ids of all cases that a requirement covers."""
        return frozenset(case for each in self.requirements for case in each.cases)
