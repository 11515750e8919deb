"""A release policy: what it may hold, and the rules by which outcomes are held against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from harness.judge import reasons
from harness.judge.accuracy import deciding
from harness.records import AccuracyVerdict, CostVerdict, Device, Outcome
from harness.scenario.located_yaml import Number, OneOrMore, Record, Text, load
from harness.scenario.model import Case

POLICY = Record(
    {
        "description": Text(),
        "max-age-days": Number(above=0),
        "require": OneOrMore(
            Record(
                {
                    "scenarios": OneOrMore(Text()),
                    "on": OneOrMore(Text()),
                    "dtype": OneOrMore(Text()),
                    "cost": Text(("ok",)),
                    "accuracy": Text(("no-worse",)),
                    "detection-rate": Number(above=0),
                },
                required=("scenarios", "on"),
            )
        ),
    },
    required=("require",),
)


class State(StrEnum):
    """How a requirement stands."""

    PASSES = "passes"
    FAILS = "fails"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Requirement:
    """What a policy asks of one scenario on one kind of device.

    `scenario` is a pattern where no scenario of the release fits it; `cases` are the ids of all its
    cases there, each of which must have been seen. `detection_rate` is the least share of known
    faults that the scenario's bounds must be proven to catch; 0 asks for none.
    """

    scenario: str
    on: str
    cases: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    wants_cost: bool = False
    wants_accuracy: bool = False
    detection_rate: float = 0.0

    def covers(self, outcome: Outcome) -> bool:
        """Whether an outcome is one of those that the requirement is about."""
        if outcome.scenario != self.scenario or not _runs_on(outcome, self.on):
            return False
        return not self.dtypes or outcome.target.dtype in self.dtypes


@dataclass(frozen=True)
class Objection:
    """Why a requirement does not pass."""

    state: State
    reason: str


@dataclass(frozen=True)
class Finding:
    """One line of a release's verdict: what was required where, how it stands, and why."""

    scenario: str
    on: str
    state: State
    reason: str


Rule = Callable[[Requirement, Sequence[Outcome]], Objection | None]


@dataclass(frozen=True)
class Policy:
    """What a release requires; `max_age_days` is how old a run may be, None for any age."""

    requirements: tuple[Requirement, ...]
    max_age_days: float | None = None


def read_policy(path: Path, cases: Sequence[Case]) -> Policy:
    """Return a policy, with its patterns resolved against the cases of the release.

    A pattern stands for every scenario that it fits and that has a case on the device in question.
    One that fits none stays as it is, and nothing verifies it: a gate must not open on what it
    never saw.

    Raises:
        ScenarioError: The policy file has a mistake.
    """
    content, _ = load(path, POLICY)
    requirements = [
        Requirement(
            scenario=scenario,
            on=on,
            cases=covered,
            dtypes=tuple(required.get("dtype", ())),
            wants_cost="cost" in required,
            wants_accuracy="accuracy" in required,
            detection_rate=required.get("detection-rate", 0.0),
        )
        for required in content["require"]
        for pattern in required["scenarios"]
        for on in required["on"]
        for scenario, covered in _fitting(pattern, on, required.get("dtype"), cases)
    ]
    return Policy(tuple(requirements), content.get("max-age-days"))


def hold(policy: Policy, outcomes: Sequence[Outcome]) -> list[Finding]:
    """Return how every scenario that `policy` requires stands on every device that it requires.

    Args:
        policy: What is required.
        outcomes: Those that count for the release; see `judge.trust`.
    """
    return [_hold_one(requirement, outcomes) for requirement in policy.requirements]


def _fitting(
    pattern: str, on: str, dtypes: Sequence[str] | None, cases: Sequence[Case]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return each scenario that a pattern fits, with the ids of its cases on a kind of device."""
    found: dict[str, list[str]] = {}
    for case in cases:
        fits = fnmatchcase(case.scenario.name, pattern) and _device_of(on) is case.target.device
        if fits and (dtypes is None or case.target.dtype in dtypes):
            found.setdefault(case.scenario.name, []).append(case.id)
    if not found:
        return [(pattern, ())]
    return [(scenario, tuple(ids)) for scenario, ids in sorted(found.items())]


def _device_of(on: str) -> Device:
    """Return the device of a kind of device: a name that is no device is a GPU's model."""
    return Device(on) if on in list(Device) else Device.CUDA


def _hold_one(requirement: Requirement, outcomes: Sequence[Outcome]) -> Finding:
    covered = [outcome for outcome in outcomes if requirement.covers(outcome)]
    for rule in RULES:
        objection = rule(requirement, covered)
        if objection is not None:
            return Finding(requirement.scenario, requirement.on, objection.state, objection.reason)
    verdicts = ", ".join(sorted({outcome.verdict for outcome in covered if outcome.passes}))
    return Finding(requirement.scenario, requirement.on, State.PASSES, verdicts)


# The rules, each one question; the first that objects decides.


def _nothing_fails(_: Requirement, outcomes: Sequence[Outcome]) -> Objection | None:
    for outcome in outcomes:
        if outcome.fails:
            reason = f"{outcome.case}: {outcome.verdict}: {outcome.message}"
            return Objection(State.FAILS, reason)
    return None


def _nothing_is_slower(requirement: Requirement, outcomes: Sequence[Outcome]) -> Objection | None:
    for outcome in outcomes if requirement.wants_cost else ():
        cost = outcome.cost
        if cost is not None and cost.verdict is CostVerdict.SLOWER:
            ratio = "" if cost.ratio is None else f", {cost.ratio:.2f} times the baseline"
            return Objection(State.FAILS, f"{outcome.case}: slower{ratio}")
    return None


def _every_cost_is_known(requirement: Requirement, outcomes: Sequence[Outcome]) -> Objection | None:
    for outcome in outcomes if requirement.wants_cost else ():
        cost = outcome.cost
        if not outcome.passes or (cost is not None and cost.verdict is not CostVerdict.UNKNOWN):
            continue
        why = reasons.cost_is_unknown(cost) if cost is not None else "none was measured"
        return Objection(State.UNVERIFIED, f"{outcome.case}: its cost was not compared: {why}")
    return None


def _nothing_is_less_accurate(
    requirement: Requirement, outcomes: Sequence[Outcome]
) -> Objection | None:
    for outcome in outcomes if requirement.wants_accuracy else ():
        worst = deciding(outcome.accuracy)
        if worst is not None and worst.verdict is AccuracyVerdict.WORSE:
            ratio = f"{worst.ratio:.3g} times the baseline's error"
            return Objection(State.FAILS, f"{outcome.case}: less accurate: {worst.name}, {ratio}")
    return None


def _every_accuracy_is_known(
    requirement: Requirement, outcomes: Sequence[Outcome]
) -> Objection | None:
    """Object where a case moved and nobody knows whether it became less accurate."""
    for outcome in outcomes if requirement.wants_accuracy else ():
        if not any(drift.differing for drift in outcome.outputs.values()):
            continue
        worst = deciding(outcome.accuracy)
        if worst is None:
            why = "no stage was evaluated in float64; `harness run --accuracy` does that"
            return Objection(State.UNVERIFIED, f"{outcome.case}: {why}")
        if worst.verdict is AccuracyVerdict.UNKNOWN:
            why = f"{worst.name}: {reasons.accuracy_is_unknown(worst)}"
            return Objection(State.UNVERIFIED, f"{outcome.case}: its accuracy is unknown: {why}")
    return None


def _every_case_passes_somewhere(_: Requirement, outcomes: Sequence[Outcome]) -> Objection | None:
    for case in sorted({outcome.case for outcome in outcomes}):
        of_case = [outcome for outcome in outcomes if outcome.case == case]
        if not any(outcome.passes for outcome in of_case):
            return Objection(State.UNVERIFIED, f"{case}: {of_case[0].message}")
    return None


def _everything_was_seen(requirement: Requirement, outcomes: Sequence[Outcome]) -> Objection | None:
    """Object where a dtype that is asked for, or a case of the scenario, is not in any run."""
    if not outcomes:
        return Objection(State.UNVERIFIED, "no run of it among the results")
    dtypes = {outcome.target.dtype for outcome in outcomes}
    cases = {outcome.case for outcome in outcomes}
    missed = [f"it in {dtype}" for dtype in requirement.dtypes if dtype not in dtypes]
    missed = missed or [case for case in requirement.cases if case not in cases]
    if missed:
        reason = f"no run of {', '.join(missed)} among the results"
        return Objection(State.UNVERIFIED, reason)
    return None


def _detection_rate_is_reached(
    requirement: Requirement, outcomes: Sequence[Outcome]
) -> Objection | None:
    """Object where the bounds of a baseline are not proven to catch enough known faults."""
    least = requirement.detection_rate
    for outcome in outcomes if least else ():
        if outcome.baseline is None:
            continue
        rate = outcome.baseline.detection_rate
        if rate is None:
            remedy = "`harness challenge --write` measures one"
            reason = f"{outcome.case}: its baseline has no detection rate; {remedy}"
            return Objection(State.UNVERIFIED, reason)
        if rate.cross_class_caught < least * rate.above_noise:
            caught = f"{rate.cross_class_caught} of {rate.above_noise} known faults"
            reason = f"{outcome.case}: its bounds catch {caught}; {least:.0%} are required"
            return Objection(State.UNVERIFIED, reason)
    return None


RULES: tuple[Rule, ...] = (
    _nothing_fails,
    _nothing_is_slower,
    _every_cost_is_known,
    _nothing_is_less_accurate,
    _every_accuracy_is_known,
    _every_case_passes_somewhere,
    _everything_was_seen,
    _detection_rate_is_reached,
)


def _runs_on(outcome: Outcome, on: str) -> bool:
    """Whether an outcome is of the device kind `on`.

    That is `cpu`, `cuda` for any GPU, or a model such as `nvidia-h200`. A case that left no
    recording does not know its GPU's model; it counts for every model, so that an error blocks.
    """
    device = outcome.target.device
    if on in (outcome.device_kind, device):
        return True
    return device is Device.CUDA and not outcome.device_kind and on != Device.CPU
