"""Derives a verdict again from the checks, drifts and digests beside it; names what does not fit.

A gate reads what runs on other machines left. Somebody may have edited it, another version may have
written it, a script may have merged it. So no passing verdict is believed: it must follow from the
figures of its own outcome, from the scenario as it lies in the repository, and from the digests of
the baseline that the store holds. A failing verdict is not questioned: it closes the gate anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.gate.findings import Contradiction
from harness.judge import reasons
from harness.judge.accuracy import follows
from harness.judge.checks import check_local, check_output
from harness.judge.compositions import planned
from harness.judge.cost import word_for
from harness.records import (
    Against,
    Check,
    Comparison,
    ContractKind,
    ContractState,
    CostVerdict,
    Drift,
    Metric,
    Outcome,
    Reason,
    StageDrift,
    Verdict,
)
from harness.scenario.fields import Expectation
from harness.scenario.model import Case
from harness.scenario.tolerance import Tolerance
from harness.store.baselines import Baseline

# Which reasons a passing verdict can have; every other reason belongs to a failure.
PASSING_REASONS = {
    Verdict.IDENTICAL: (Reason.SAME_BITS, Reason.CONTRACT_HOLDS),
    Verdict.WITHIN: (
        Reason.INSIDE_TOLERANCE,
        Reason.PUBLISHED_VALUE_HOLDS,
        Reason.CONTRACT_HOLDS,
    ),
    Verdict.VARIES: (Reason.VARIES_AS_EXPECTED,),
}
NEED_NO_BASELINE = (
    Reason.VARIES_AS_EXPECTED,
    Reason.PUBLISHED_VALUE_HOLDS,
    Reason.CONTRACT_HOLDS,
)
MEASURED_COSTS = (CostVerdict.OK, CostVerdict.FASTER)


@dataclass(frozen=True)
class Objection:
    """How an outcome contradicts itself; `detail` is what the contradiction is about."""

    what: Contradiction
    detail: str = ""


Rule = Callable[[Outcome], Objection | None]
RuleOfCase = Callable[[Outcome, Case], Objection | None]


def contradiction(outcome: Outcome) -> Objection | None:
    """Return what in an outcome does not fit its passing verdict; None where all does."""
    if not outcome.passes:
        return None
    return _first(rule(outcome) for rule in RULES)


def contradicts_release(
    outcome: Outcome, case: Case, baseline: Baseline | None
) -> Objection | None:
    """Return why a passing verdict does not follow from the scenario and from the baseline.

    Args:
        outcome: What `contradiction` does not object to.
        case: Its case, as the repository has it.
        baseline: The one that judged it; None where none did.
    """
    if not outcome.passes:
        return None
    found = _first(rule(outcome, case) for rule in RULES_OF_CASE)
    if found is None and baseline is not None:
        found = (
            _bounds(outcome, case, baseline)
            or _digests(outcome, baseline)
            or _seconds(outcome, baseline)
        )
    return found


def _first(found: Iterable[Objection | None]) -> Objection | None:
    return next((each for each in found if each is not None), None)


def _objection(objects: object, what: Contradiction, detail: str = "") -> Objection | None:
    return Objection(what, detail) if objects else None


# What an outcome alone shows, each one question; the first that objects decides.


def _another_reason(outcome: Outcome) -> Objection | None:
    fitting = outcome.reason in PASSING_REASONS[outcome.verdict]
    return _objection(not fitting, Contradiction.OTHER_REASON, outcome.reason)


def _a_failed_check(outcome: Outcome) -> Objection | None:
    failed = outcome.failed_checks
    return _objection(
        failed, Contradiction.FAILED_CHECK, reasons.exceeded(failed[0]) if failed else ""
    )


def _no_effect(outcome: Outcome) -> Objection | None:
    without = [effect for effect in outcome.effects if not effect.took_effect]
    return _objection(without, Contradiction.NO_EFFECT, reasons.no_effect(without))


def _no_baseline(outcome: Outcome) -> Objection | None:
    needs_one = outcome.reason not in NEED_NO_BASELINE
    return _objection(needs_one and outcome.baseline is None, Contradiction.NO_BASELINE)


def _no_output(outcome: Outcome) -> Objection | None:
    return _objection(outcome.baseline is not None and not outcome.outputs, Contradiction.NO_OUTPUT)


def _an_output_that_is_not_finite(outcome: Outcome) -> Objection | None:
    names = [name for name, drift in outcome.outputs.items() if not _is_finite(drift)]
    return _objection(names, Contradiction.NOT_FINITE, ", ".join(names))


def _an_output_that_moved(outcome: Outcome) -> Objection | None:
    moved = [name for name, drift in outcome.outputs.items() if _has_moved(drift)]
    is_same = outcome.verdict is Verdict.IDENTICAL and outcome.reason is Reason.SAME_BITS
    return _objection(is_same and moved, Contradiction.OUTPUT_MOVED, ", ".join(moved))


def _no_check(outcome: Outcome) -> Objection | None:
    stated: Sequence[object] = outcome.checks
    if outcome.reason is Reason.CONTRACT_HOLDS and outcome.contract is not None:
        stated = outcome.contract.checks or outcome.contract.accuracy
    unchecked = outcome.verdict is Verdict.WITHIN and not stated
    return _objection(unchecked, Contradiction.NO_CHECK)


def _a_contract_that_does_not_hold(outcome: Outcome) -> Objection | None:
    held = outcome.contract
    if held is None:
        return _objection(outcome.reason is Reason.CONTRACT_HOLDS, Contradiction.NO_CONTRACT)
    if held.state is not ContractState.HOLDS or held.failed_checks:
        return Objection(Contradiction.CONTRACT_BROKEN, held.terms)
    must_be_same = held.kind is ContractKind.IDENTICAL or (
        outcome.reason is Reason.CONTRACT_HOLDS and outcome.verdict is Verdict.IDENTICAL
    )
    moved = any(map(_has_moved, held.outputs.values()))
    differs = must_be_same and (moved or not held.same_bits)
    return _objection(differs, Contradiction.CONTRACT_MOVED, held.against)


def _bits_that_are_owed(outcome: Outcome) -> Objection | None:
    baseline = outcome.baseline
    same_class = baseline is not None and baseline.comparison is Comparison.SAME_CLASS
    return _objection(outcome.verdict is Verdict.WITHIN and same_class, Contradiction.BITS_OWED)


def _an_accuracy_that_does_not_follow(outcome: Outcome) -> Objection | None:
    wrong = [found.name for found in outcome.accuracy if not follows(found)]
    return _objection(wrong, Contradiction.ACCURACY, ", ".join(wrong))


RULES: tuple[Rule, ...] = (
    _another_reason,
    _a_failed_check,
    _no_effect,
    _no_baseline,
    _no_output,
    _an_output_that_is_not_finite,
    _an_output_that_moved,
    _no_check,
    _a_contract_that_does_not_hold,
    _bits_that_are_owed,
    _an_accuracy_that_does_not_follow,
)


# What the scenario of the release shows.


def _labels(outcome: Outcome, case: Case) -> Objection | None:
    scenario = case.scenario
    stated = (outcome.scenario, outcome.target, outcome.variant, outcome.test)
    actual = (scenario.name, case.target, scenario.variant, scenario.test)
    return _objection(stated != actual, Contradiction.LABELS, f"{outcome.scenario}[{outcome.key}]")


def _varying(outcome: Outcome, case: Case) -> Objection | None:
    varies = outcome.verdict is Verdict.VARIES
    if varies and case.scenario.needs_baseline:
        return Objection(Contradiction.VARIES_UNASKED)
    return _objection(not varies and not case.scenario.needs_baseline, Contradiction.MUST_VARY)


def _repeating(outcome: Outcome, case: Case) -> Objection | None:
    expects = Expectation.REPEATABLE in case.scenario.expect
    apart = outcome.repeat_l_inf
    differs = expects and apart is not None and not apart <= 0
    return _objection(differs, Contradiction.NOT_REPEATABLE, f"{apart}")


def _batches(outcome: Outcome, case: Case) -> Objection | None:
    """Object where the batches that the scenario wants tried were not, or one changed an image."""
    scenario, certificate = case.scenario, outcome.batch
    if Expectation.BATCH_INVARIANT not in scenario.expect:
        return None
    owed = len(planned(len(scenario.seeds), scenario.compositions))
    if certificate is None or certificate.compositions != owed:
        return Objection(Contradiction.CHECK_MISSING, f"{owed} compositions of the batch")
    changed = certificate.counterexample
    return _objection(changed, Contradiction.FAILED_CHECK, "a batch that changes an image")


def _published(outcome: Outcome, case: Case) -> Objection | None:
    """Object where a published value is not held, or was another one."""
    held = {
        (check.subject, check.expected, check.bound)
        for check in outcome.checks
        if check.against is Against.PUBLISHED
    }
    owed = {
        (name, value.abs_sum, value.within)
        for name, value in case.scenario.published.items()
        if value.device in (None, case.target.device)
    }
    if outcome.reason is Reason.PUBLISHED_VALUE_HOLDS and not owed:
        return Objection(Contradiction.NOTHING_PUBLISHED)
    by_value = outcome.reason in (
        Reason.PUBLISHED_VALUE_HOLDS,
        Reason.SAME_BITS,
        Reason.INSIDE_TOLERANCE,
    )
    missing = sorted(name for name, _, _ in owed - held) if by_value else []
    return _objection(
        missing,
        Contradiction.CHECK_MISSING,
        ", ".join(f"{name} {Metric.ABS_SUM}" for name in missing),
    )


def _bounds(outcome: Outcome, case: Case, baseline: Baseline) -> Objection | None:
    """Object where a bound that holds was not checked against the drift that is stated."""
    if outcome.reason is Reason.INSIDE_TOLERANCE:
        tolerance = baseline.tolerance(case.scenario)
        return _missing(outcome.checks, outcome.outputs, outcome.local, tolerance)
    return None


def _bounds_of_contract(outcome: Outcome, case: Case) -> Objection | None:
    """Object where a bound of a contract was not checked against the drift that is stated."""
    held, owed = outcome.contract, case.scenario.contract
    if owed is None:
        return _objection(held is not None, Contradiction.CONTRACT_BROKEN)
    if held is None:
        return Objection(Contradiction.NO_CONTRACT, owed.terms)
    against = "" if case.against is None else case.against.id
    if (held.against, held.terms, held.kind) != (against, owed.terms, owed.kind):
        return Objection(Contradiction.LABELS, f"{held.terms} with {held.against}")
    if outcome.passes and set(held.outputs) != set(outcome.output_digests):
        return Objection(Contradiction.NO_OUTPUT)
    if held.same_bits or owed.kind is not ContractKind.TOLERANCE:
        return None
    return _missing(held.checks, held.outputs, held.local, owed.tolerance)


def _missing(
    checks: Sequence[Check],
    outputs: Mapping[str, Drift],
    local: Sequence[StageDrift],
    tolerance: Tolerance,
) -> Objection | None:
    """Object where a check that follows from drifts and bounds is not among those that are stated.

    The stated drifts that follow must pass, too: who takes a check away must not gain by it.
    """
    owed = [
        check for name, drift in outputs.items() for check in check_output(name, drift, tolerance)
    ]
    owed += [each.check for each in check_local(local, tolerance)]
    stated = {(check.subject, check.metric, check.value, check.bound) for check in checks}
    for check in owed:
        if not check.passed:
            return Objection(Contradiction.FAILED_CHECK, reasons.exceeded(check))
        if (check.subject, check.metric, check.value, check.bound) not in stated:
            return Objection(Contradiction.CHECK_MISSING, reasons.measured(check))
    return None


def _cost(outcome: Outcome, case: Case) -> Objection | None:
    """Object where a cost that is called `ok` or `faster` does not follow from the seconds."""
    cost, bounds = outcome.cost, case.scenario.cost
    if cost is None or cost.verdict not in MEASURED_COSTS:
        return None
    if bounds.slower is None or cost.baseline_seconds is None:
        return Objection(Contradiction.COST, cost.verdict)
    seconds, before = cost.figures.seconds, cost.baseline_seconds
    if not (seconds > 0 and before > 0):
        return Objection(Contradiction.COST, cost.verdict)
    word = word_for(seconds, before, bounds.slower, bounds.at_least_seconds)
    ratio_fits = cost.ratio is not None and math.isclose(cost.ratio, seconds / before)
    return _objection(word is not cost.verdict or not ratio_fits, Contradiction.COST, cost.verdict)


RULES_OF_CASE: tuple[RuleOfCase, ...] = (
    _labels,
    _varying,
    _repeating,
    _batches,
    _published,
    _bounds_of_contract,
    _cost,
)


# What the baseline in the store shows.


def _digests(outcome: Outcome, baseline: Baseline) -> Objection | None:
    """Object where the digests of the outputs say otherwise than the verdict."""
    if outcome.reason not in (Reason.SAME_BITS, Reason.INSIDE_TOLERANCE):
        return None
    names = set(outcome.outputs) == set(outcome.output_digests) == set(baseline.outputs)
    same = outcome.output_digests == baseline.output_digests
    if outcome.reason is Reason.SAME_BITS:
        return _objection(not (same and names), Contradiction.OTHER_DIGESTS)
    if not names:
        return Objection(Contradiction.OTHER_DIGESTS)
    return _objection(same, Contradiction.SAME_DIGESTS)


def _seconds(outcome: Outcome, baseline: Baseline) -> Objection | None:
    """Object where a ratio of costs is not to the seconds of the baseline."""
    cost = outcome.cost
    if cost is None or cost.baseline_seconds is None:
        return None
    differs = cost.baseline_seconds != baseline.cost.seconds
    return _objection(differs, Contradiction.COST, cost.verdict)


def _has_moved(drift: Drift) -> bool:
    return bool(drift.differing or drift.l_inf or drift.rel_l2)


def _is_finite(drift: Drift) -> bool:
    return drift.finite and not math.isnan(drift.l_inf) and not math.isnan(drift.rel_l2)
