"""Owns the sentences that say why: every reason, check, difference and cost in words.

Nothing decides by these words; decisions are the fields of `records`.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge import first_difference
from harness.judge.expectations import Held
from harness.judge.origins import component_of
from harness.records import (
    OUTPUT,
    AccuracyReason,
    AccuracyVerdict,
    Against,
    Change,
    ChangeKind,
    Check,
    Comparison,
    ContractOutcome,
    Cost,
    CostReason,
    Difference,
    DifferenceKind,
    Effect,
    EnvironmentChange,
    JudgedBy,
    Metric,
    StageAccuracy,
)
from harness.scenario.model import Reference
from harness.scenario.tolerance import LOCAL_METRICS

SHOWN_FILES = 5  # of a package whose source changed; the rest is counted


def source_of(baseline: JudgedBy) -> str:
    """Return which baseline judged, and why that one; or which run judged in its place."""
    if baseline.run:
        is_same = baseline.comparison is Comparison.SAME_CLASS
        return f"the run {baseline.run}, of {'the same' if is_same else 'another'} class " + (
            baseline.numerics_class
        )
    if baseline.comparison is Comparison.SAME_CLASS:
        return f"the same class {baseline.numerics_class}"
    return f"class {baseline.numerics_class}, the reference of {baseline.reference}"


def expected_side(baseline: JudgedBy) -> str:
    """Return what a run was compared with: a baseline and which, or another run."""
    source = source_of(baseline)
    return source if baseline.run else f"the baseline of {source}"


def measured(check: Check) -> str:
    """Return what a check measured: `image rel_l2`, `local rel_l2 of scheduler.step#3/sample`."""
    if check.against is Against.PUBLISHED:
        values = f"{check.actual:.4f}, published {check.expected:.4f}"
        return f"{check.subject} abs_sum {values} ({check.source})"
    if check.metric is Metric.STRUCTURE:
        return f"structure of {check.subject}"
    if check.metric is Metric.STAGE_COUNT:
        return "count of stages"
    if check.metric in LOCAL_METRICS:
        return f"local {check.metric.removeprefix('local_')} of {_local_subject(check.subject)}"
    subject = check.subject
    if check.against is Against.SAME_IMAGE_ALONE:
        subject = f"{subject} against the same image alone:"
    if check.against is Against.FIRST_IMAGE:
        subject = f"{subject} against {subject.split('[')[0]}[0]:"
    return f"{subject} {check.metric}"


def _local_subject(subject: str) -> str:
    """Return what a local check is about; of an output, it is the code after the last stage."""
    stage, _, name = subject.partition("/")
    return f"{name}, after the last stage" if stage == str(OUTPUT) else subject


def exceeded(check: Check) -> str:
    """Return a failed check in words: what was measured, its value and its bound."""
    if check.against is Against.PUBLISHED:
        return f"{measured(check)}: off by {check.value:.3g} (bound {check.bound:.3g})"
    return f"{measured(check)} = {check.value:.3g} (bound {check.bound:.3g})"


def difference(found: Difference) -> str:
    """Return the first difference in words: `unet#0`, `weights of vae: decoder.conv_in.weight`."""
    names = ", ".join(found.names) + (f" and {found.more} more" if found.more else "")
    changed = f"{found.expected} -> {found.actual}"
    words = {
        DifferenceKind.WEIGHTS: _weights_of(found, names),
        DifferenceKind.INPUT_FILE: f"input {found.subject} of `{names}`: other content",
        DifferenceKind.INPUT_DECODING: (
            f"input {found.subject} of `{names}`: the same file, decoded differently"
        ),
        DifferenceKind.CONFIGURATION: f"configuration of {found.subject}: {names}",
        DifferenceKind.NOISE: found.subject,
        DifferenceKind.NOISE_COUNT: f"count of noise draws: {changed}",
        DifferenceKind.SCHEDULER_TABLES: f"{names} of {found.subject}",
        DifferenceKind.STAGE_ORDER: f"order of stages: {changed}",
        DifferenceKind.STAGE_INPUT: f"{found.subject}, its input {names}",
        DifferenceKind.STAGE_OUTPUT: found.subject,
        DifferenceKind.STAGE_COUNT: f"count of stages: {changed}",
        DifferenceKind.OUTPUTS: f"{names}, after the last stage",
    }
    return words[found.kind]


def _weights_of(found: Difference, names: str) -> str:
    """Return which weights differ, or that the configuration does and where that shows first."""
    if not names:
        return _weights(found.subject)
    is_configuration = found.subject == first_difference.CONFIGURATION
    link = ", which shows first in " if is_configuration else ": "
    return f"{_weights(found.subject)}{link}{names}"


def _weights(component: str) -> str:
    """Return what differs of a checkpoint: the weights of a component, or its configuration."""
    if component == first_difference.CONFIGURATION:
        return "configuration of the checkpoint"
    return f"weights of {component}"


def place(found: Difference) -> str:
    """Return what moved, without the number of a stage: `scheduler tables`, `arithmetic of unet`.

    Cases of one cause have this in common.
    """
    component = component_of(found)
    names = ", ".join(found.names) + (f" and {found.more} more" if found.more else "")
    own = "" if component == "scheduler" else f" of {component}"
    words = {
        DifferenceKind.WEIGHTS: _weights(component),
        DifferenceKind.INPUT_FILE: f"input {component} of `{names}`",
        DifferenceKind.INPUT_DECODING: f"decoding of input {component}",
        DifferenceKind.CONFIGURATION: f"scheduler settings{own}: {names}",
        DifferenceKind.NOISE: "noise",
        DifferenceKind.NOISE_COUNT: "count of noise draws",
        DifferenceKind.SCHEDULER_TABLES: f"scheduler tables{own}",
        DifferenceKind.STAGE_ORDER: "order of stages",
        DifferenceKind.STAGE_INPUT: f"code before {component}, which gives it another {names}",
        DifferenceKind.STAGE_OUTPUT: f"arithmetic of {component}",
        DifferenceKind.STAGE_COUNT: "count of stages",
        DifferenceKind.OUTPUTS: "code after the last stage",
    }
    return words[found.kind]


def environment_changes(changes: Sequence[EnvironmentChange]) -> list[str]:
    """Return a line for each change of the environment.

    There is one line for all operators, and one for all files of a package of the project.
    """
    lines = [_environment_change(change, changes) for change in changes]
    return list(dict.fromkeys(lines))


def _environment_change(change: EnvironmentChange, all_of_them: Sequence[EnvironmentChange]) -> str:
    same = [other.name for other in all_of_them if other.kind is change.kind]
    if change.kind is ChangeKind.OPERATOR:
        return f"operators with other bits: {', '.join(same)}"
    if change.kind is ChangeKind.OWN_CODE:
        return _own_code(change.name.partition("/")[0], same)
    if change.kind is ChangeKind.UNOBSERVED:
        return f"not observed in one of the two: {change.name}"
    return change.name if change.kind is ChangeKind.STATED else str(change)


def _own_code(package: str, names: Sequence[str]) -> str:
    """Return the line for all files of a package of the project; long lists are cut short."""
    prefix = f"{package}/"
    files = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"own code changed: {package}: {count}: {', '.join(files[:SHOWN_FILES])}{more}"


def and_first(found: Difference | None) -> str:
    """Return the end of a sentence that names the first difference; empty where there is none."""
    return f"; first difference: {difference(found)}" if found else ""


def same_bits(baseline: JudgedBy) -> str:
    return f"same bits as {expected_side(baseline)}"


def inside_tolerance(baseline: JudgedBy, found: Difference | None) -> str:
    words = f"inside the cross-class tolerance of {source_of(baseline)}"
    return words + and_first(found)


def other_bits(baseline: JudgedBy, found: Difference | None) -> str:
    words = f"bits differ from {expected_side(baseline)}"
    return words + and_first(found)


def no_tolerance(baseline: JudgedBy, found: Difference | None) -> str:
    words = f"bits differ from {expected_side(baseline)}"
    missing = "and the scenario sets no `tolerance.cross-class`"
    return f"{words}, {missing}{and_first(found)}"


def over_bound(check: Check, baseline: JudgedBy, found: Difference | None) -> str:
    words = f"{exceeded(check)} against {expected_side(baseline)}"
    return words + and_first(found)


def off_published_value(check: Check, found: Difference | None) -> str:
    return exceeded(check) + and_first(found)


def published_value_holds(check: Check) -> str:
    return f"by the published value alone, there is no baseline: {measured(check)}"


def expectation_broken(held: Held) -> str:
    """Return which expectation does not hold, and what breaks it."""
    broken = [exceeded(check) for check in held.checks if not check.passed]
    return f"expected `{held.expectation}`: {held.problem or broken[0]}"


def varies_as_expected(l_inf: float | None) -> str:
    distance = "in shape" if l_inf is None else f"L-inf between runs {l_inf:.3g}"
    return f"varies as expected: {distance}"


def no_baseline(reference: Reference | None) -> str:
    """Return that there is no baseline, and where else one was looked for."""
    words = "no baseline for this case"
    if reference is not None and reference.scenario:
        words += f", nor one of {reference}, its reference"
    return words


def scenario_edited(date: str, edits: list[str]) -> str:
    words = f"the baseline belongs to another version of the scenario (of {date})"
    return f"{words}: {', '.join(edits)}" if edits else words


def other_settings(edits: Sequence[Change]) -> str:
    return f"the two runs had other settings: {', '.join(map(str, edits))}"


def runs_of_other_weights(components: list[str]) -> str:
    return f"the two runs had other weights: {', '.join(components)}"


def local_bounds_not_held(run: str) -> str:
    words = f"inside the bounds on free drift against {run}; the bounds on local drift need a run"
    return f"{words} that is teacher-forced by the other, which a comparison of two runs lacks"


def not_in_run(run: str) -> str:
    return f"{run} holds no recording of it"


def other_weights(components: Sequence[str], edits: Sequence[Change] = ()) -> str:
    words = f"the baseline belongs to other weights: {', '.join(components)}"
    return f"{words}; edited: {', '.join(map(str, edits))}" if edits else words


def no_effect(effects: list[Effect]) -> str:
    """Return what was asked for and had no effect, each with what was seen."""
    told = [f"`{effect.asked}` had no effect: {effect.seen}" for effect in effects]
    return "; ".join(told)


def not_finite(outputs: list[str]) -> str:
    return f"{', '.join(outputs)} holds NaN or infinity"


def contract(held: ContractOutcome, problem: str = "") -> str:
    """Return whether a contract holds, and what breaks it.

    Args:
        held: A contract, with its state.
        problem: Why the outputs of the two cases cannot be compared; empty where they can.
    """
    over = held.failed_checks
    if not over:
        words = "same bits as" if held.same_bits else "inside the contract's bounds against"
        return f"{words} {held.against}"
    why = problem or exceeded(over[0])
    broken = f"the contract `{held.terms}` with {held.against} is broken: {why}"
    return broken + and_first(held.first_difference)


def contract_on_accuracy(held: ContractOutcome, decided: StageAccuracy | None) -> str:
    """Return whether a variant is as accurate as the case that it is held against.

    Args:
        held: The contract.
        decided: The stage with the worst accuracy; None where none was judged.
    """
    against = f"the contract `{held.terms}` with {held.against}"
    if decided is None:
        return f"{against} could not be held: outputs moved, and no stage that is kept did"
    if decided.verdict is AccuracyVerdict.UNKNOWN:
        return f"{against} could not be held: the accuracy of {decided.name} is unknown"
    times = f"{decided.ratio:.3g} times the other's error against float64"
    if decided.verdict is AccuracyVerdict.WORSE:
        return f"{against} is broken: {decided.name} has {times}{and_first(held.first_difference)}"
    return f"no worse than {held.against}: at most {times}, at {decided.name}"


def no_companion(against: str, reason: str) -> str:
    return f"the contract could not be held, because {against} left no recording: {reason}"


def cost_is_unknown(cost: Cost) -> str:
    """Return why a cost is `unknown`; empty where it is not."""
    if cost.reason is None:
        return ""
    words = {
        CostReason.NO_BASELINE: "no baseline of this version of the scenario",
        CostReason.NO_BOUNDS: "the scenario bounds no cost",
        CostReason.OTHER_MACHINE: f"the baseline is of another machine type, {cost.detail}",
        CostReason.ONE_RUN_ONLY: "one run only, which warms up",
        CostReason.SLOWED_DOWN: f"the GPU was slowed down in {cost.side} by {cost.detail}",
        CostReason.OTHER_WORK: (
            f"{cost.detail}, but in {cost.side} other processes used the processor for long enough "
            "to explain it"
        ),
    }
    return words[cost.reason]


def cost_is_unknown_in_short(reason: CostReason) -> str:
    """Return why a cost is `unknown` in as few words as the cell of a table holds."""
    words = {
        CostReason.NO_BASELINE: "no baseline",
        CostReason.NO_BOUNDS: "no bounds set",
        CostReason.OTHER_MACHINE: "another machine",
        CostReason.ONE_RUN_ONLY: "one run only",
        CostReason.SLOWED_DOWN: "GPU slowed down",
        CostReason.OTHER_WORK: "other work",
    }
    return words[reason]


def accuracy_is_unknown(found: StageAccuracy) -> str:
    """Return why an accuracy is `unknown`; empty where it is not."""
    if found.reason is None:
        return ""
    words = {
        AccuracyReason.NOT_EVALUATED: f"it was not evaluated in float64: {found.detail}",
        AccuracyReason.NOT_FINITE: "one of the sides or the evaluation holds NaN or infinity",
        AccuracyReason.LOWER_PRECISION: (
            f"its evaluation in float64 computes with less in {found.detail}"
        ),
        AccuracyReason.OWN_ERROR: (
            "the evaluation's own error is as large as what separates the two sides"
        ),
        AccuracyReason.OTHER_FUNCTION: (
            "the baseline lies farther from the evaluation than rounding explains: it was computed "
            "by other code, or with less precision than its dtype has"
        ),
        AccuracyReason.CHANCE: (
            "the errors differ, but too few elements make up the difference to tell it from chance"
        ),
    }
    return words[found.reason]
