"""Finds what moved by itself: the differences between two recordings that no other one explains.

The first difference hides all that come after it. Here each kind of evidence is asked by itself:
the digests of what a run starts from, and for stages a run in which each of them got the baseline's
inputs. A stage that moved there, moved by its own doing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.judge import first_difference
from harness.records import OUTPUT, Check, Difference, DifferenceKind, Stage
from harness.store.recording import Observed

# Differences of the order of stages: they come of no stage, but of the code between them.
BETWEEN_STAGES = (
    DifferenceKind.NOISE_COUNT,
    DifferenceKind.STAGE_ORDER,
    DifferenceKind.STAGE_INPUT,
)


def same_class(
    actual: Observed, expected: Observed, teacher_forced: Observed | None = None
) -> tuple[Difference, ...]:
    """Return what moved by itself, where both sides owe each other the same bits.

    Args:
        actual: What a run left.
        expected: The baseline, of the same numerics class.
        teacher_forced: The recording in which every stage got the baseline's inputs; without it,
            only the stages can be told that got the same inputs anyway.

    Returns:
        At most one difference for each component or scheduler, in the order of a run.
    """
    started = _started_from(actual, expected)
    drawn = first_difference.noise(actual, expected)
    upstream = [*started, *first_difference.tables(actual, expected)]
    upstream += [drawn] if drawn is not None else []
    moved = _moved(teacher_forced or actual, expected)
    found = _without_configured(_one_of_each([*upstream, *map(_stage_output, moved)]))
    first = first_difference.besides_settings(actual, expected)
    if first is not None and first.kind in BETWEEN_STAGES and not upstream:
        found = [first, *found]
    return tuple(found) or _first(actual, expected)


def cross_class(
    actual: Observed, expected: Observed, over: Sequence[Check]
) -> tuple[Difference, ...]:
    """Return what moved by itself, where a machine of another class may round differently.

    Digests of noise, tables and stages say nothing then: all of them may differ. What is outside a
    local bound moved by more than rounding.

    Args:
        actual: What a run left.
        expected: The baseline, of another numerics class.
        over: The checks on local drift that failed.
    """
    outside = filter(None, (_outside(check.subject) for check in over))
    found = _one_of_each([*_started_from(actual, expected), *outside])
    return tuple(found) or _first(actual, expected)


def component_of(found: Difference) -> str:
    """Return the component or scheduler that a difference is in, without a stage's number.

    It is `noise` for every draw, and empty for what is in none.
    """
    if found.kind in (DifferenceKind.INPUT_FILE, DifferenceKind.INPUT_DECODING):
        return found.subject
    return found.subject.partition("#")[0].partition(".")[0]


def _started_from(actual: Observed, expected: Observed) -> list[Difference]:
    """Return what the two runs started from and no rounding changes: files and settings."""
    weights = first_difference.weights(actual, expected)
    edited = first_difference.edited_settings(actual, expected)
    if edited:  # the files of the configuration differ by these settings
        weights = [each for each in weights if not _is_configuration(each)]
    return [*weights, *first_difference.arguments(actual, expected), *edited]


def _is_configuration(found: Difference) -> bool:
    is_of_weights = found.kind is DifferenceKind.WEIGHTS
    return is_of_weights and found.subject == first_difference.CONFIGURATION


def _without_configured(found: list[Difference]) -> list[Difference]:
    """Leave out the stage in which an edit of the configuration shows: that is one cause."""
    shown = {name for each in found if _is_configuration(each) for name in each.names}
    components = {name.partition("#")[0].partition(".")[0] for name in shown}
    return [
        each
        for each in found
        if each.kind is not DifferenceKind.STAGE_OUTPUT or component_of(each) not in components
    ]


def _moved(recording: Observed, expected: Observed) -> Iterator[Stage]:
    """Yield the stages that gave other bits from the same bits, as long as both runs agree."""
    for own, its in zip(recording.stages, expected.stages, strict=False):
        if own.name != its.name:
            return
        if own.inputs == its.inputs and own.outputs != its.outputs:
            yield own.stage


def _one_of_each(found: Iterable[Difference]) -> list[Difference]:
    """Return the first difference of each component: the later ones follow from it."""
    by_component: dict[str, Difference] = {}
    for each in found:
        by_component.setdefault(component_of(each), each)
    return list(by_component.values())


def _stage_output(stage: Stage) -> Difference:
    kind = DifferenceKind.NOISE if stage.is_noise else DifferenceKind.STAGE_OUTPUT
    return Difference(kind, str(stage))


def _outside(subject: str) -> Difference | None:
    """Return that a tensor such as `scheduler.step#3/sample` differs; None for no stage's name."""
    name, _, tensor = subject.partition("/")
    try:
        stage = Stage.parse(name)
    except ValueError:
        return None
    if stage == OUTPUT:
        return Difference(DifferenceKind.OUTPUTS, "", (tensor,))
    return _stage_output(stage)


def _first(actual: Observed, expected: Observed) -> tuple[Difference, ...]:
    """Return the first difference, where nothing better is known."""
    besides = first_difference.besides_settings(actual, expected)
    found = besides or first_difference.first(actual, expected)
    return () if found is None else (found,)
