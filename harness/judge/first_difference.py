"""Names the first thing that differs between two recordings, from their digests alone.

The order is that of a run: weights, inputs, the schedulers' configurations, noise, the schedulers'
tables, then the stages, then the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.judge.checks import LocalCheck, check_local
from harness.records import Change, Difference, DifferenceKind, Stage, StageDrift
from harness.scenario.tolerance import Tolerance
from harness.store.recording import Observed, ObservedStage

CONFIGURATION = "configuration"  # among the weights: every file of the checkpoint that is none
SHOWN = 3  # names in a difference; the rest is counted
NOISE_IS_UNOBSERVED = "noise"
INSIDE_IS_UNOBSERVED = "inside"  # of a served engine, nothing but outputs is seen


def other_weights(actual: Observed, expected: Observed) -> list[str]:
    """Return the components of the checkpoint whose digests differ, in alphabetical order.

    The list is empty where one side alone tells of its weights.
    """
    if hides_inside(actual) != hides_inside(expected):
        return []
    return _differing(actual.weights, expected.weights)


def other_tensors(actual: Observed, expected: Observed, component: str) -> list[str]:
    """Return the tensors of a component's weights whose digests differ.

    The list is empty where a recording does not hold them.
    """
    mine, others = actual.weight_digests(component), expected.weight_digests(component)
    return _differing(mine, others) if mine and others else []


def first(actual: Observed, expected: Observed) -> Difference | None:
    """Return the first difference; None if nothing differs."""
    if hides_inside(actual) or hides_inside(expected):
        for found in weights(actual, expected):
            return found
        return _outputs(actual, expected)
    for found in (*weights(actual, expected), *arguments(actual, expected)):
        return found
    return configuration(actual, expected) or besides_settings(actual, expected)


def besides_settings(actual: Observed, expected: Observed) -> Difference | None:
    """Return the first difference, leaving out weights and the schedulers' configurations.

    A release that adds a setting to a configuration need not move anything by it.
    """
    return (
        noise(actual, expected)
        or next(iter(tables(actual, expected)), None)
        or _stages(actual.stages, expected.stages)
        or _outputs(actual, expected)
    )


def first_stage(actual: Observed, expected: Observed) -> Stage | None:
    """Return the first draw of noise or stage that gave other bits from the same bits, or None."""
    for index, (mine, other) in enumerate(zip(actual.noise, expected.noise, strict=False)):
        if mine.digest != other.digest:
            return Stage("noise", index)
    for own, its in zip(actual.stages, expected.stages, strict=False):
        if own.name != its.name or own.inputs != its.inputs:
            return None
        if own.outputs != its.outputs:
            return own.stage
    return None


def configuration(actual: Observed, expected: Observed) -> Difference | None:
    """Return the first scheduler whose configuration differs, with up to three of its settings."""
    mine, others = actual.inputs.schedulers, expected.inputs.schedulers
    for scheduler in sorted({*mine, *others}):
        own, its = mine.get(scheduler, {}), others.get(scheduler, {})
        changed = _differing(own, its)
        if changed:
            words = [f"{key} {its.get(key)!r} -> {own.get(key)!r}" for key in changed[:SHOWN]]
            more = len(changed) - len(words)
            return Difference(DifferenceKind.CONFIGURATION, scheduler, tuple(words), more)
    return None


@dataclass(frozen=True)
class ByValue:
    """What the sizes of drifts say where every stage has other bits, as across classes.

    `outside` is the first stage that leaves its local bound, else `nearest` is the one whose bound
    has the least margin; `jump` is the scheduler step at which free drift grows most, by `growth`.
    """

    outside: LocalCheck | None = None
    nearest: LocalCheck | None = None
    jump: Stage | None = None
    growth: float = 0.0


def by_value(
    local: Sequence[StageDrift], free: Sequence[StageDrift], tolerance: Tolerance
) -> ByValue:
    """Return which stage leaves its local bound first, and where free drift jumps.

    Args:
        local: The drift of each stage in the teacher-forced run, in order.
        free: The drift of each stage in the free run, in order.
        tolerance: The scenario's cross-class bounds.
    """
    checks = [
        check
        for drift in local
        for check in check_local([drift], tolerance)
        if check.drift is not None
    ]
    outside = next((each for each in checks if not each.check.passed), None)
    nearest = None
    if outside is None and checks:
        nearest = min(checks, key=lambda each: each.check.margin)
    jump, growth = _jump(free)
    return ByValue(outside, nearest, jump, growth)


def _jump(free: Sequence[StageDrift]) -> tuple[Stage | None, float]:
    """Return the step at which free drift grows most, and how many times; None where it never does.

    Only the steps of one scheduler feed each other, so only they are compared.
    """
    steps: dict[str, list[StageDrift]] = {}
    for drift in free:
        if drift.stage.is_scheduler_step and drift.rel_l2 > 0:
            steps.setdefault(drift.stage.kind, []).append(drift)
    growths = [
        (after.rel_l2 / before.rel_l2, after.stage)
        for same in steps.values()
        for before, after in pairwise(same)
    ]
    if not growths or max(growths)[0] <= 1:
        return None, 0.0
    growth, stage = max(growths)
    return stage, growth


def hides_inside(side: Observed) -> bool:
    """Whether a recording is of a served engine, which shows nothing but its outputs."""
    return INSIDE_IS_UNOBSERVED in side.environment.unobserved


def weights(actual: Observed, expected: Observed) -> list[Difference]:
    """Return a difference for each component of the checkpoint whose weights differ.

    Of the configuration, recordings hold one digest; its `names` are the stage, or the scheduler
    with its tables, in which an edit of it shows first.
    """
    return [
        _named(
            DifferenceKind.WEIGHTS,
            component,
            _shows_first(actual, expected)
            if component == CONFIGURATION
            else other_tensors(actual, expected, component),
        )
        for component in other_weights(actual, expected)
    ]


def _shows_first(actual: Observed, expected: Observed) -> list[str]:
    found = besides_settings(actual, expected)
    return [] if found is None or not found.subject else [found.subject]


def arguments(actual: Observed, expected: Observed) -> list[Difference]:
    """Return the inputs of the call that differ: another file, or the same decoded differently."""
    found = []
    for own, its in zip(actual.inputs.arguments, expected.inputs.arguments, strict=False):
        if own.digest != its.digest:
            same_file = own.file == its.file and own.file
            kind = DifferenceKind.INPUT_DECODING if same_file else DifferenceKind.INPUT_FILE
            found.append(Difference(kind, own.name, (own.argument,)))
    return found


def edited_settings(actual: Observed, expected: Observed) -> list[Difference]:
    """Return the schedulers whose configuration has another value for a setting of both sides.

    A release adds settings without moving anything by them; those are left out.
    """
    mine, others = actual.inputs.schedulers, expected.inputs.schedulers
    found = []
    for scheduler in sorted({*mine} & {*others}):
        own, its = mine[scheduler], others[scheduler]
        names = [name for name in _differing(own, its) if name in own and name in its]
        words = [f"{name} {its[name]!r} -> {own[name]!r}" for name in names]
        if words:
            found.append(_named(DifferenceKind.CONFIGURATION, scheduler, words))
    return found


def edited_schedulers(actual: Observed, expected: Observed) -> list[Change]:
    """Return the settings of schedulers that have another value, such as `scheduler.clip_sample`.

    As in `edited_settings`, those that one side alone has are left out.
    """
    mine, others = actual.inputs.schedulers, expected.inputs.schedulers
    return [
        Change(f"{scheduler}.{name}", str(others[scheduler][name]), str(mine[scheduler][name]))
        for scheduler in sorted({*mine} & {*others})
        for name in _differing(mine[scheduler], others[scheduler])
        if name in mine[scheduler] and name in others[scheduler]
    ]


def tables(actual: Observed, expected: Observed) -> list[Difference]:
    """Return the schedulers whose tables differ; a table that only one side has moves nothing."""
    mine, others = actual.inputs.tables, expected.inputs.tables
    found = []
    for scheduler in sorted({*mine} & {*others}):
        own, its = mine[scheduler], others[scheduler]
        changed = sorted(name for name in {*own} & {*its} if own[name] != its[name])
        if changed:
            found.append(_named(DifferenceKind.SCHEDULER_TABLES, scheduler, changed))
    return found


def noise(actual: Observed, expected: Observed) -> Difference | None:
    """Return the first draw of noise that differs, or that their counts do.

    There is none where a release draws noise where it cannot be seen.
    """
    for side in (actual, expected):
        if NOISE_IS_UNOBSERVED in side.environment.unobserved:
            return None
    mine, others = actual.noise, expected.noise
    for index, (own, its) in enumerate(zip(mine, others, strict=False)):
        if own.digest != its.digest:
            return Difference(DifferenceKind.NOISE, str(Stage("noise", index)))
    return _counts(DifferenceKind.NOISE_COUNT, len(mine), len(others))


def _outputs(actual: Observed, expected: Observed) -> Difference | None:
    changed = _differing(actual.output_digests, expected.output_digests)
    return Difference(DifferenceKind.OUTPUTS, "", tuple(changed)) if changed else None


def _stages(
    actual: Sequence[ObservedStage], expected: Sequence[ObservedStage]
) -> Difference | None:
    for own, its in zip(actual, expected, strict=False):
        if own.name != its.name:
            return Difference(
                DifferenceKind.STAGE_ORDER, own.name, expected=its.name, actual=own.name
            )
        inputs = _differing(own.inputs, its.inputs)
        if inputs:
            return Difference(DifferenceKind.STAGE_INPUT, own.name, tuple(inputs))
        if own.outputs != its.outputs:
            return Difference(DifferenceKind.STAGE_OUTPUT, own.name)
    return _counts(DifferenceKind.STAGE_COUNT, len(actual), len(expected))


def _counts(kind: DifferenceKind, actual: int, expected: int) -> Difference | None:
    if actual == expected:
        return None
    return Difference(kind, "", expected=str(expected), actual=str(actual))


def _named(kind: DifferenceKind, subject: str, names: Sequence[str]) -> Difference:
    return Difference(kind, subject, tuple(names[:SHOWN]), max(0, len(names) - SHOWN))


def _differing(actual: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    names = {*actual, *expected}
    return sorted(name for name in names if actual.get(name) != expected.get(name))
