"""Judges a variant by its contract: the case that it is held against ran in the same session.

What is owed are the same bits, or bounded drift. Both cases are of one machine, so that numerics
classes do not matter here; a variant's own baseline is judged apart from it, in `judge.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.judge import drift, first_difference, reasons
from harness.judge.accuracy import deciding
from harness.judge.checks import check_local, check_output, failed
from harness.judge.cost import THE_BASELINE, THIS_RUN, judge_cost
from harness.judge.structure import same_bits, structure
from harness.records import (
    AccuracyVerdict,
    Check,
    ContractKind,
    ContractOutcome,
    ContractState,
    Cost,
    Drift,
    Metric,
    Outcome,
    Reason,
    StageAccuracy,
    Verdict,
)
from harness.scenario.model import Contract, CostBounds

if TYPE_CHECKING:
    from harness.records import Array
    from harness.scenario.model import Case
    from harness.store.recording import Observed, Recording

SIDES = {THIS_RUN: "the variant", THE_BASELINE: "the other case"}
# The judge of cost tells a ratio that other work on the machine explains only where a change
# counts. Without bounds of the scenario, any change counts.
ANY_CHANGE = CostBounds(slower=1.0)


def wants_teacher_forcing(contract: Contract, actual: Observed, expected: Observed) -> bool:
    """Whether the variant must run once more, with the other case's inputs for every stage."""
    wants = contract.kind is ContractKind.NO_WORSE or contract.tolerance.local
    if not wants or structure(actual, expected):
        return False
    return not same_bits(actual, expected)


def hold(
    case: Case,
    actual: Recording,
    expected: Recording,
    teacher_forced: Recording | None = None,
    accuracy: tuple[StageAccuracy, ...] = (),
) -> ContractOutcome:
    """Return how a variant compares with the case that its contract names.

    Args:
        case: The variant.
        actual: Its recording.
        expected: The recording of the other case.
        teacher_forced: The variant's recording in which every stage got the other case's tensors,
            where `wants_teacher_forcing` says so.
        accuracy: How far both sides of each stage that moved lie from float64, where that was
            evaluated: for the contract `no-worse`, or because it was asked for.
    """
    contract = _contract_of(case)
    draft = replace(
        not_held(case, ""),
        state=ContractState.BROKEN,
        cost=_cost(case, actual, expected),
        peak_bytes_expected=expected.cost.peak_bytes,
    )
    if contract.images:
        return _with_images(draft, contract, actual, expected)
    draft = replace(draft, first_difference=first_difference.first(actual, expected))
    other = structure(actual, expected)
    if other:
        return _other_structure(draft, other)
    if teacher_forced is not None:
        draft = replace(draft, local=drift.of_teacher_forced(teacher_forced, expected))
    if same_bits(actual, expected):
        outputs = {name: drift.none_of(output) for name, output in expected.outputs.items()}
        return _concluded(replace(draft, same_bits=True, outputs=outputs))
    outputs = drift.of_outputs(actual, expected)
    free = drift.of_stages(actual, expected)
    draft = replace(draft, same_bits=False, outputs=outputs, free=free, accuracy=accuracy)
    if contract.kind is ContractKind.NO_WORSE:
        return _by_accuracy(draft)
    return _concluded(replace(draft, checks=_checks(contract, draft)))


def not_held(case: Case, why: str) -> ContractOutcome:
    """Return the outcome of a contract that could not be held, and why.

    That is where the other case left no recording.
    """
    contract = _contract_of(case)
    against = case.against
    return ContractOutcome(
        kind=contract.kind,
        terms=contract.terms,
        against="" if against is None else against.id,
        state=ContractState.UNVERIFIED,
        message=why,
    )


def with_contract(
    outcome: Outcome, held: ContractOutcome, unverified: Verdict = Verdict.UNVERIFIED
) -> Outcome:
    """Return the outcome of a variant, its contract taken into account.

    What its own baseline, its runs and its expectations say comes first, where they object. Where
    they do not, a contract that is broken, or could not be held, decides. A variant without a
    baseline of its own is verified by a contract that holds.

    Args:
        outcome: By the variant's own baseline, where it has one.
        held: By its contract.
        unverified: The verdict on a variant whose contract could not be held: that of the other
            case, which left no recording.
    """
    outcome = replace(outcome, contract=held)
    if not outcome.passes and outcome.reason is not Reason.NO_BASELINE:
        return outcome
    if held.state is ContractState.BROKEN:
        verdict = Verdict.INCOMPARABLE if _is_other_structure(held) else Verdict.DRIFTED
        return _decided(outcome, verdict, Reason.CONTRACT_BROKEN, held)
    if held.state is ContractState.UNVERIFIED:
        return _decided(outcome, unverified, Reason.CONTRACT_UNVERIFIED, held)
    if outcome.passes:
        return outcome
    verdict = Verdict.IDENTICAL if held.same_bits else Verdict.WITHIN
    return _decided(outcome, verdict, Reason.CONTRACT_HOLDS, held)


def _decided(outcome: Outcome, verdict: Verdict, reason: Reason, held: ContractOutcome) -> Outcome:
    return replace(outcome, verdict=verdict, reason=reason, message=held.message)


def _contract_of(case: Case) -> Contract:
    if case.scenario.contract is None:
        raise ValueError(f"{case.id} has no contract")
    return case.scenario.contract


def _checks(contract: Contract, draft: ContractOutcome) -> tuple[Check, ...]:
    """Return what is held against the bounds of a contract whose outputs moved."""
    checks = [
        check
        for name, moved in draft.outputs.items()
        for check in check_output(name, moved, contract.tolerance)
    ]
    checks += [each.check for each in check_local(draft.local, contract.tolerance)]
    is_exact = contract.kind is ContractKind.IDENTICAL
    if is_exact and not failed(checks):  # such as 0.0 and -0.0: equal, not the same bits
        checks.append(Check(", ".join(draft.outputs), Metric.BITS, math.nan, 0.0))
    return tuple(checks)


def _with_images(
    draft: ContractOutcome, contract: Contract, actual: Recording, expected: Recording
) -> ContractOutcome:
    """Compare each image of the variant with the one of the other batch that it must be."""
    chosen: dict[str, Array] = {}
    for name, array in expected.output_tensors.items():
        fits = array.ndim > 0 and max(contract.images) < array.shape[0]
        own = actual.output_tensors.get(name)
        chosen[name] = array[list(contract.images)] if fits else array
        if not fits or own is None or own.shape != chosen[name].shape:
            images = ", ".join(map(str, contract.images))
            problem = f"output `{name}` cannot be images {images} of the other batch"
            return _other_structure(draft, problem)
    outputs = _drifts(actual, chosen)
    draft = replace(draft, outputs=outputs)
    same = all(
        actual.output_tensors[name].tobytes() == array.tobytes() for name, array in chosen.items()
    )
    checks = () if same else _checks(contract, draft)
    return _concluded(replace(draft, same_bits=same, checks=checks))


def _drifts(actual: Recording, expected: Mapping[str, Array]) -> dict[str, Drift]:
    tensors = actual.output_tensors
    return {name: drift.measure(tensors[name], array) for name, array in expected.items()}


def _other_structure(draft: ContractOutcome, problem: str) -> ContractOutcome:
    """Return the outcome of two cases whose outputs cannot be compared."""
    check = Check("the outputs", Metric.STRUCTURE, math.nan, 0.0)
    broken = replace(draft, same_bits=False, checks=(check,), state=ContractState.BROKEN)
    return replace(broken, message=reasons.contract(broken, problem))


def _concluded(draft: ContractOutcome) -> ContractOutcome:
    """Return the outcome with its state and message, which follow from its checks."""
    over = draft.failed_checks
    state = ContractState.BROKEN if over else ContractState.HOLDS
    return replace(draft, state=state, message=reasons.contract(draft))


def _by_accuracy(draft: ContractOutcome) -> ContractOutcome:
    """Return the outcome of the contract `no-worse`: the worst of the stages that moved decides."""
    decided = deciding(draft.accuracy)
    state = ContractState.UNVERIFIED
    if decided is not None and decided.verdict.holds:
        state = ContractState.HOLDS
    elif decided is not None and decided.verdict is AccuracyVerdict.WORSE:
        state = ContractState.BROKEN
    return replace(draft, state=state, message=reasons.contract_on_accuracy(draft, decided))


def _is_other_structure(held: ContractOutcome) -> bool:
    return any(check.metric is Metric.STRUCTURE for check in held.failed_checks)


def _cost(case: Case, actual: Recording, expected: Recording) -> Cost:
    """Return the cost of a variant held against that of the other case, by the rule of all costs.

    The ratio is left out where it means nothing: where one side was not timed, or where heat or
    other work on the machine explains it.
    """
    bounds = case.scenario.cost
    cost = judge_cost(actual, expected, ANY_CHANGE if bounds.slower is None else bounds)
    return replace(cost, side=SIDES.get(cost.side, ""))
