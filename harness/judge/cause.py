"""Groups failing outcomes by what caused them: the place that moved, and what may explain it.

A night with 72 failing cases often has one cause. Cases belong together when the same places moved
by themselves (`Outcome.origins`) and the same changes of the environment may explain that. A group
is one thing to explain and one thing to accept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.judge.origins import component_of
from harness.records import (
    ChangeKind,
    Comparison,
    Difference,
    DifferenceKind,
    EnvironmentChange,
    Outcome,
    Reason,
    Verdict,
)
from harness.scenario.tolerance import LOCAL_METRICS

# What a place must be for a change of the environment to be able to explain it.
LIBRARY_CODE = (
    DifferenceKind.CONFIGURATION,
    DifferenceKind.SCHEDULER_TABLES,
    DifferenceKind.NOISE_COUNT,
    DifferenceKind.STAGE_ORDER,
    DifferenceKind.STAGE_INPUT,
    DifferenceKind.STAGE_COUNT,
)
ARITHMETIC = (DifferenceKind.NOISE, DifferenceKind.STAGE_OUTPUT, DifferenceKind.OUTPUTS)
TORCH = "torch"
CODE_OF_SCHEDULERS = (TORCH, "diffusers")  # transformers holds no scheduler
# What makes another machine. The bounds between classes admit what such a change does.
MACHINE = (ChangeKind.GPU, ChangeKind.MACHINE, ChangeKind.OPERATOR, ChangeKind.VARIABLE)
SETTINGS = (ChangeKind.FRAMEWORK, ChangeKind.OWN_CODE, ChangeKind.FLAG, ChangeKind.STATED)


@dataclass(frozen=True)
class Cause:
    """One cause: the places that moved by it, and the changes that may explain them.

    `places` holds one difference for each component, scheduler or input; there are several only
    where one change of the arithmetic, such as another torch, may explain all of them. Without
    `changes`, nothing in the environment explains them. Local parts of versions, such as `+cpu`,
    are left out of `changes`.
    """

    places: tuple[Difference, ...]
    changes: tuple[EnvironmentChange, ...]


@dataclass(frozen=True)
class CauseGroup:
    """Failing outcomes that have everything in common which is known of their causes.

    Attributes:
        verdict: That of all of them.
        causes: What moved; several where each of these cases shows several causes at once, empty
            where no output was compared.
        outcomes: In the order of their cases.
    """

    verdict: Verdict
    causes: tuple[Cause, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def id(self) -> str:
        """The name of the cause; see `cause_id`."""
        return cause_id(self.outcomes[0])

    @property
    def has_several_causes(self) -> bool:
        """Whether each of these cases moved for more than one reason."""
        return len(self.causes) > 1

    @property
    def example(self) -> Outcome:
        """The outcome to explain first: of those with a drift, the one whose case runs fastest."""
        return min(self.outcomes, key=_effort)


def by_cause(outcomes: Iterable[Outcome]) -> tuple[CauseGroup, ...]:
    """Return the failing outcomes in groups, the largest group first."""
    groups: dict[object, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=_case_of):
        if outcome.fails:
            groups.setdefault(_key(outcome), []).append(outcome)
    found = [
        CauseGroup(same[0].verdict, causes_of(same[0]), tuple(same)) for same in groups.values()
    ]
    return tuple(sorted(found, key=_size, reverse=True))


def causes_of(outcome: Outcome) -> tuple[Cause, ...]:
    """Return the causes that one outcome shows; there are none where no output was compared.

    Places whose arithmetic changed are one cause where a change of all arithmetic may explain them:
    another torch, another framework or another flag. Any other place is a cause of its own.
    """
    shared = _changes_all_arithmetic(outcome)
    merged = [place for place in _places(outcome) if shared and place.kind in ARITHMETIC]
    causes: list[Cause] = []
    for place in _places(outcome):
        if place not in merged:
            causes.append(Cause((place,), _explaining(place, outcome)))
        elif place is merged[0]:
            causes.append(Cause(tuple(merged), _explaining(place, outcome)))
    return tuple(causes)


def cause_id(outcome: Outcome) -> str:
    """Return a short name for the cause of a failing outcome; those of one group have it in common.

    It is the same in every run and on every machine, so that people can choose a cause by it.
    """
    return hashlib.sha256(_stable(_key(outcome)).encode()).hexdigest()[:8]


def _stable(value: object) -> str:
    """Return a text of nested tuples, sets and values that does not depend on a set's order."""
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(_stable, value))) + "}"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_stable, value)) + ")"
    return repr(value)


def _places(outcome: Outcome) -> tuple[Difference, ...]:
    """Return what moved by itself; an older file of results knows the first difference alone."""
    first = outcome.first_difference
    return outcome.origins or (() if first is None else (first,))


def _key(outcome: Outcome) -> object:
    """Return what outcomes of one group have in common.

    Those that have no place in common may still fail for the same stated reason.
    """
    causes = causes_of(outcome)
    if outcome.reason is Reason.CONTRACT_BROKEN:  # another case of the run moved, not the release
        return outcome.verdict, outcome.reason, outcome.message
    if outcome.edits or not causes:
        return outcome.verdict, outcome.reason, outcome.edits or outcome.message
    return outcome.verdict, frozenset(map(_identity, causes))


def _identity(cause: Cause) -> object:
    """Return by what two causes are the same.

    Where a change of the environment may explain them, that change and the kind of place tell them
    apart, because one release moves the tables of many schedulers. Where none does, the names of
    what differs tell more.
    """
    places = frozenset(_place_identity(place, named=not cause.changes) for place in cause.places)
    return places, frozenset(cause.changes)


def _place_identity(place: Difference, *, named: bool) -> object:
    names = (place.names, place.more) if named else ()
    return place.kind, component_of(place), names


def _explaining(place: Difference, outcome: Outcome) -> tuple[EnvironmentChange, ...]:
    """Return the changes of the environment that may explain why a place moved."""
    baseline = outcome.baseline
    other_class = baseline is not None and baseline.comparison is Comparison.CROSS_CLASS
    beyond_bounds = any(check.metric in LOCAL_METRICS for check in outcome.failed_checks)
    admitted = MACHINE if other_class and beyond_bounds else ()
    rounding = MACHINE if other_class and not beyond_bounds else ()
    changes = [
        change
        for change in outcome.environment_changes
        if change.kind not in admitted
        and (_may_explain(place.kind, change) or _may_round(place.kind, change, rounding))
    ]
    return tuple(map(_of_release, changes))


def _may_explain(kind: DifferenceKind, change: EnvironmentChange) -> bool:
    """Whether a change of the environment can move a place of this kind.

    Weights and files of inputs are no part of the environment.
    """
    if kind in LIBRARY_CODE:
        is_code = change.kind is ChangeKind.LIBRARY and change.name in CODE_OF_SCHEDULERS
        return is_code or change.kind in SETTINGS
    if kind is DifferenceKind.INPUT_DECODING:
        return change.kind in (ChangeKind.PACKAGE, ChangeKind.STATED)
    if kind in ARITHMETIC:
        return change.kind in (ChangeKind.LIBRARY, *MACHINE, *SETTINGS)
    return False


def _may_round(
    kind: DifferenceKind, change: EnvironmentChange, rounding: Sequence[ChangeKind]
) -> bool:
    """Whether another machine can have rounded what a library computes, such as a table."""
    return kind in LIBRARY_CODE and change.kind in rounding


def _changes_all_arithmetic(outcome: Outcome) -> bool:
    """Whether the environment has a change by which every stage may compute otherwise."""
    arithmetic = Difference(DifferenceKind.STAGE_OUTPUT, "")
    return any(
        change.kind is not ChangeKind.LIBRARY or change.name == TORCH
        for change in _explaining(arithmetic, outcome)
    )


def _of_release(change: EnvironmentChange) -> EnvironmentChange:
    """Return a change of versions without their local parts, where the releases differ.

    `2.12.0+cpu` and `2.12.0+cu130` are builds of one release, and an upgrade of both is one change.
    """
    before, after = (side.partition("+")[0] for side in (change.expected, change.actual))
    if change.kind is not ChangeKind.LIBRARY or before == after:
        return change
    return EnvironmentChange(change.name, before, after, change.kind)


def _effort(outcome: Outcome) -> tuple[bool, float, str]:
    seconds = 0.0 if outcome.cost is None else outcome.cost.figures.seconds
    return not outcome.outputs, seconds, outcome.case


def _case_of(outcome: Outcome) -> str:
    return outcome.case.removesuffix("]")  # a variant comes after its base


def _size(group: CauseGroup) -> int:
    return len(group.outcomes)
