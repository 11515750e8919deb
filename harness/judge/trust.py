"""Which outcomes a release may rest on: those that belong to it and do not contradict themselves.

A gate reads what runs on other machines left, perhaps days ago. An outcome counts only if it is of
a scenario as it lies in the repository now, was judged by a baseline that the store holds now, and
if its verdict follows from the checks and drifts that it states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import FileError
from harness.judge import reasons
from harness.judge.accuracy import follows
from harness.judge.environment_diff import FRAMEWORKS
from harness.records import (
    Comparison,
    ContractKind,
    ContractState,
    Outcome,
    Reason,
    Verdict,
)
from harness.scenario.model import Case
from harness.store.baselines import Store
from harness.store.recording import Environment
from harness.store.run_folder import Results

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
SECONDS_A_DAY = 86400


@dataclass(frozen=True)
class Distrust:
    """Why an outcome does not count.

    `contradicts_itself` says that its verdict does not follow from what it states, which blocks a
    release; otherwise nothing is known of the case.
    """

    reason: str
    contradicts_itself: bool = False


def distrust(outcome: Outcome, cases: Mapping[str, Case], store: Store) -> Distrust | None:
    """Return why an outcome does not count for a release; None where it does.

    Args:
        outcome: Of a run, wherever it was made.
        cases: The cases of the release by their ids.
        store: The baselines of the release.
    """
    problem = contradiction(outcome)
    if problem:
        return Distrust(problem, contradicts_itself=True)
    case = cases.get(outcome.case)
    if case is None:
        return Distrust("the scenarios of the release have no such case")
    scenario = case.scenario
    if outcome.fingerprint != scenario.fingerprint:
        return Distrust("the scenario was edited after the run")
    terms = "" if scenario.contract is None else scenario.contract.terms
    if outcome.passes and _terms(outcome) != terms:
        return Distrust("the contract of the variant was edited after the run")
    if outcome.baseline is not None and not _holds_baseline(outcome.baseline.digest, case, store):
        return Distrust(
            f"it was judged by a baseline of {outcome.baseline.numerics_class} that "
            f"{store.root} does not hold"
        )
    return None


def contradiction(outcome: Outcome) -> str:
    """Return what in an outcome does not fit its passing verdict; empty where all does.

    A failing verdict is not questioned: it keeps a gate closed in any case.
    """
    for rule in CONTRADICTIONS if outcome.passes else ():
        found = rule(outcome)
        if found:
            return f"it says `{outcome.verdict}` {found}"
    return ""


# What can contradict a passing verdict, each one question; the first that objects decides.


def _another_reason(outcome: Outcome) -> str:
    fitting = outcome.reason in PASSING_REASONS[outcome.verdict]
    return "" if fitting else f"for the reason `{outcome.reason}`"


def _a_failed_check(outcome: Outcome) -> str:
    failed = outcome.failed_checks
    return f"beside a failed check: {reasons.exceeded(failed[0])}" if failed else ""


def _no_effect(outcome: Outcome) -> str:
    without = [effect for effect in outcome.effects if not effect.took_effect]
    return f"although {reasons.no_effect(without)}" if without else ""


def _no_baseline(outcome: Outcome) -> str:
    needs_none = outcome.reason in NEED_NO_BASELINE
    return "" if needs_none or outcome.baseline is not None else "and names no baseline"


def _no_output(outcome: Outcome) -> str:
    return "and states no output" if outcome.baseline is not None and not outcome.outputs else ""


def _an_output_that_moved(outcome: Outcome) -> str:
    moved = any(drift.differing or drift.l_inf for drift in outcome.outputs.values())
    return "beside an output that moved" if outcome.verdict is Verdict.IDENTICAL and moved else ""


def _no_check(outcome: Outcome) -> str:
    stated: tuple[object, ...] = outcome.checks
    if outcome.reason is Reason.CONTRACT_HOLDS and outcome.contract is not None:
        stated = outcome.contract.checks or outcome.contract.accuracy
    unchecked = outcome.verdict is Verdict.WITHIN and not stated
    return "and states no check" if unchecked else ""


def _a_contract_that_does_not_hold(outcome: Outcome) -> str:
    held = outcome.contract
    if held is None:
        by_contract = outcome.reason is Reason.CONTRACT_HOLDS
        return "by a contract that it does not state" if by_contract else ""
    if held.state is not ContractState.HOLDS or held.failed_checks:
        return f"beside a contract that is {held.state}"
    must_be_same = held.kind is ContractKind.IDENTICAL or (
        outcome.reason is Reason.CONTRACT_HOLDS and outcome.verdict is Verdict.IDENTICAL
    )
    moved = any(drift.differing or drift.l_inf for drift in held.outputs.values())
    if must_be_same and (moved or not held.same_bits):
        return "beside a contract that admits no difference, and outputs that differ"
    return ""


def _bits_that_are_owed(outcome: Outcome) -> str:
    baseline = outcome.baseline
    same_class = baseline is not None and baseline.comparison is Comparison.SAME_CLASS
    if outcome.verdict is Verdict.WITHIN and same_class:
        return "in the class of its baseline, where the same bits are owed"
    return ""


def _an_accuracy_that_does_not_follow(outcome: Outcome) -> str:
    for found in outcome.accuracy:
        if not follows(found):
            return f"and calls {found.name} `{found.verdict}`, which its errors do not show"
    return ""


CONTRADICTIONS: tuple[Callable[[Outcome], str], ...] = (
    _another_reason,
    _a_failed_check,
    _no_effect,
    _no_baseline,
    _no_output,
    _an_output_that_moved,
    _no_check,
    _a_contract_that_does_not_hold,
    _bits_that_are_owed,
    _an_accuracy_that_does_not_follow,
)


def different_releases(environments: Mapping[str, Environment]) -> str:
    """Return in what the releases of several runs differ; empty where they do not.

    `+cpu` and `+cu130` are two builds of one release.

    Args:
        environments: Where each run was made, by the run's name.
    """
    for package in FRAMEWORKS:
        by_version: dict[str, list[str]] = {}
        for run, environment in environments.items():
            version = environment.versions.get(package, "none").partition("+")[0]
            by_version.setdefault(version, []).append(run)
        if len(by_version) > 1:
            parts = [f"{version} in {', '.join(runs)}" for version, runs in by_version.items()]
            return f"the runs are of different releases of {package}: {'; '.join(parts)}"
    return ""


def too_old(runs: Mapping[str, Results], days: float, now: datetime | None = None) -> list[str]:
    """Return the runs that were written more than `days` ago, or that do not say when."""
    moment = now or datetime.now(UTC)
    found = []
    for run, results in runs.items():
        try:
            age = moment - datetime.fromisoformat(results.written)
        except (TypeError, ValueError):
            found.append(f"{run} does not say when it was made")
            continue
        if age.total_seconds() > days * SECONDS_A_DAY:
            found.append(f"{run} was made {age.days} days ago; at most {days:g} are allowed")
    return found


def _terms(outcome: Outcome) -> str:
    """Return what the contract of an outcome asked for; empty without one."""
    return "" if outcome.contract is None else outcome.contract.terms


def _holds_baseline(digest: str, case: Case, store: Store) -> bool:
    """Whether the store holds the baseline with this seal, for the case or its reference."""
    scenario = case.scenario
    paths = store.files(scenario.name, case.key)
    if scenario.reference is not None:
        reference = scenario.reference
        if not reference.scenario:
            reference = replace(reference, scenario=scenario.name, variant=scenario.variant)
        paths += store.files(reference.scenario, reference.key)
    return any(_seal(store, path) == digest for path in paths)


def _seal(store: Store, path: Path) -> str:
    """Return the seal of a baseline; empty where it is damaged, which vouches for nothing."""
    try:
        return store.read(path).digest
    except FileError:
        return ""
