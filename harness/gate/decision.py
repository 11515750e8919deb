"""Decides whether a release may go out: a pure function of policy, release and evidence.

Every rule asks one question. A rule never averages: results that disagree are named, and one that
fails closes the gate whatever the others say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.gate.evidence import Evidence, Release, Result, RunSeen, moment
from harness.gate.findings import Decision, Finding, Problem, Row, State, worst
from harness.gate.objections import about_result, about_runs
from harness.gate.policy import (
    CostBudget,
    JudgedAgainst,
    LeastDetectionRate,
    Policy,
    Requirement,
    Waiver,
    judged_against,
)
from harness.judge import reasons
from harness.judge.accuracy import deciding
from harness.judge.cause import cause_id
from harness.records import AccuracyVerdict, CostVerdict, Outcome, Verdict

MIB = 1 << 20


@dataclass(frozen=True)
class Demand:
    """One case at one place of a requirement, with the results of it that were made there.

    `counted` are those that count for the release, `seen` all of them.
    """

    requirement: Requirement
    case: str
    scenario: str
    counted: tuple[Result, ...]
    seen: tuple[Result, ...]

    @property
    def on(self) -> str:
        """The place, as a reader sees it."""
        return str(self.requirement.place)

    def finding(self, problem: Problem, run: str = "", **facts: str) -> Finding:
        """Return a finding on the case at this place."""
        return Finding(problem, run, self.case, self.on, **facts)


def decide(policy: Policy, release: Release, evidence: Evidence) -> Decision:
    """Return how a release stands under its policy.

    Args:
        policy: What is required.
        release: What is released, and when that is asked.
        evidence: What was seen.
    """
    runs, repeated = _distinct(evidence.runs)
    results = [each for each in evidence.results if each.run in {run.name for run in runs}]
    objections = {id(each): about_result(each, release) for each in results}
    counted = [each for each in results if objections[id(each)] is None]
    demands = list(_demands(policy, release, results, counted))
    found = [*about_runs(policy, release, replace(evidence, runs=tuple(runs)))]
    found += [each for each in objections.values() if each and _matters(each, policy)]
    found += _duplicates(policy, counted)
    by_demand = {id(demand): list(_held(demand)) for demand in demands}
    found += [each for demand in demands for each in by_demand[id(demand)]]
    waivers = _Waivers(policy.waivers, release)
    told = [waivers.applied(each, results) for each in dict.fromkeys((*repeated, *found))]
    notes = [each for each in told if each.state is State.PASSES]
    return Decision(
        rows=tuple(_rows(demands, told)),
        blocking=tuple(_sorted(each for each in told if _blocks(each))),
        waived=tuple(_sorted(each for each in told if each.state is State.WAIVED)),
        notes=tuple(_sorted([*notes, *waivers.notes()])),
    )


def _blocks(finding: Finding) -> bool:
    return finding.state in (State.FAILS, State.UNVERIFIED)


def _matters(finding: Finding, policy: Policy) -> bool:
    """Whether an outcome that does not count is told: not where nothing requires its case.

    One that contradicts itself is told in any case, and so is one of a case that is not there.
    """
    return finding.case in policy.required or finding.state is not State.UNVERIFIED


def _distinct(runs: Sequence[RunSeen]) -> tuple[list[RunSeen], list[Finding]]:
    """Return the runs without those that were given twice, and a finding for each of those."""
    first: dict[str, RunSeen] = {}
    repeated = []
    for run in runs:
        known = first.setdefault(run.digest or run.name, run)
        if known is not run:
            repeated.append(Finding(Problem.SAME_RUN_TWICE, run.name, found=known.name))
    return list(first.values()), repeated


def _demands(
    policy: Policy, release: Release, results: Sequence[Result], counted: Sequence[Result]
) -> Iterator[Demand]:
    of_case: dict[str, list[Result]] = {}
    for result in results:
        of_case.setdefault(result.outcome.case, []).append(result)
    counting = set(map(id, counted))
    for requirement in policy.requirements:
        place = requirement.place
        for case in requirement.cases:
            here = [
                result
                for result in of_case.get(case, ())
                if place.covers(result.outcome, result.environment)
            ]
            yield Demand(
                requirement,
                case,
                release.cases[case].scenario.name,
                tuple(result for result in here if id(result) in counting),
                tuple(here),
            )


def _held(demand: Demand) -> Iterator[Finding]:
    """Yield what is wrong with one case at one place."""
    for rule in RULES:
        yield from rule(demand)


# The rules, each one question about one case at one place.


def _was_seen(demand: Demand) -> Iterator[Finding]:
    """Ask whether it ran, and passed or failed somewhere."""
    if not demand.seen:
        yield demand.finding(Problem.NOT_RUN)
    elif demand.counted and all(
        each.outcome.verdict is Verdict.UNVERIFIED for each in demand.counted
    ):
        first = demand.counted[0]
        yield demand.finding(Problem.COULD_NOT_RUN, first.run, detail=first.outcome.message)


def _nothing_fails(demand: Demand) -> Iterator[Finding]:
    for result in demand.counted:
        outcome = result.outcome
        if outcome.fails:
            yield demand.finding(
                Problem.FAILS,
                result.run,
                found=outcome.verdict,
                detail=outcome.message,
                cause=cause_id(outcome),
            )


def _verdicts_are_allowed(demand: Demand) -> Iterator[Finding]:
    for result in _passing(demand):
        against = judged_against(result.outcome)
        allowed = demand.requirement.allowed[against]
        if result.outcome.verdict not in allowed:
            yield demand.finding(
                Problem.VERDICT_NOT_ALLOWED,
                result.run,
                expected=" or ".join(allowed) or "none",
                found=result.outcome.verdict,
                detail=against,
            )


def _costs_hold(demand: Demand) -> Iterator[Finding]:
    budget = demand.requirement.cost
    for result in _passing(demand) if budget is not None else ():
        assert budget is not None  # noqa: S101 (for the type checker)
        yield from _cost(demand, result, budget)


def _cost(demand: Demand, result: Result, budget: CostBudget) -> Iterator[Finding]:
    """Yield how the cost of one result exceeds a budget, or why it is not known."""
    cost = result.outcome.cost
    if cost is None:
        yield demand.finding(Problem.COST_UNKNOWN, result.run)
        return
    if budget.verdict and cost.verdict is CostVerdict.SLOWER:
        ratio = "" if cost.ratio is None else f"{cost.ratio:.2f}"
        yield demand.finding(Problem.SLOWER, result.run, found=ratio)
    if budget.verdict and cost.verdict is CostVerdict.UNKNOWN:
        why = reasons.cost_is_unknown(cost)
        yield demand.finding(Problem.COST_UNKNOWN, result.run, detail=why)
    figures = cost.figures
    measured = (
        ("times the baseline", budget.ratio, cost.ratio),
        ("seconds", budget.seconds, figures.seconds or None),
        ("MiB", budget.peak_mib, figures.peak_bytes / MIB if figures.peak_bytes else None),
    )
    for unit, most, value in measured:
        if most is None:
            continue
        if value is None:
            why = f"{reasons.cost_is_unknown(cost) or 'it was not measured'} ({unit})"
            yield demand.finding(Problem.COST_UNKNOWN, result.run, detail=why)
        elif not value <= most:
            expected, found = f"{most:g} {unit}", f"{value:.4g} {unit}"
            yield demand.finding(Problem.OVER_BUDGET, result.run, expected=expected, found=found)


def _accuracy_holds(demand: Demand) -> Iterator[Finding]:
    """Ask of each case that moved whether it became less accurate, as far as that is known."""
    for result in demand.counted if demand.requirement.wants_accuracy else ():
        outcome = result.outcome
        if not any(drift.differing for drift in outcome.outputs.values()):
            continue
        decided = deciding(outcome.accuracy)
        if decided is None:
            yield demand.finding(Problem.ACCURACY_UNKNOWN, result.run)
        elif decided.verdict is AccuracyVerdict.WORSE:
            times = f"{decided.ratio:.3g}"
            yield demand.finding(
                Problem.LESS_ACCURATE, result.run, found=times, detail=decided.name
            )
        elif decided.verdict is AccuracyVerdict.UNKNOWN:
            why = f"{decided.name}: {reasons.accuracy_is_unknown(decided)}"
            yield demand.finding(Problem.ACCURACY_UNKNOWN, result.run, detail=why)


def _faults_are_caught(demand: Demand) -> Iterator[Finding]:
    """Ask whether the bounds are proven to catch enough known faults.

    The proof is that of the baseline in the store, whatever the run says of it. A control that must
    vary has no bounds.
    """
    owed = demand.requirement.detection_rate
    for result in _passing(demand) if owed is not None else ():
        assert owed is not None  # noqa: S101 (for the type checker)
        if judged_against(result.outcome) is not JudgedAgainst.CONTROL:
            yield from _rate(demand, result, owed)


def _rate(demand: Demand, result: Result, owed: LeastDetectionRate) -> Iterator[Finding]:
    baseline = result.held.baseline
    rate = None if baseline is None else baseline.detection_rate
    least = f"{owed.least:.0%}"
    if rate is None or rate.above_noise <= 0:
        yield demand.finding(Problem.NO_DETECTION_RATE, result.run, expected=least)
        return
    if not rate.cross_class_caught >= owed.least * rate.above_noise:
        caught = f"{rate.cross_class_caught} of {rate.above_noise}"
        yield demand.finding(Problem.LOW_DETECTION_RATE, result.run, expected=least, found=caught)
    if owed.max_age_days is not None:
        yield from _age(demand, result, rate.measured, owed.max_age_days)


def _age(demand: Demand, result: Result, measured: str, most: float) -> Iterator[Finding]:
    """Yield that a detection rate is too old, at the time when the run was written."""
    when, now = moment(measured), moment(result.written)
    expected = f"{most:g}"
    if when is None or now is None:
        yield demand.finding(Problem.OLD_DETECTION_RATE, result.run, expected=expected)
        return
    days = (now - when).total_seconds() / 86400
    if days > most:
        found = f"{days:.0f}"
        yield demand.finding(Problem.OLD_DETECTION_RATE, result.run, expected=expected, found=found)


RULES: tuple[Callable[[Demand], Iterator[Finding]], ...] = (
    _nothing_fails,
    _was_seen,
    _verdicts_are_allowed,
    _costs_hold,
    _accuracy_holds,
    _faults_are_caught,
)


def _passing(demand: Demand) -> list[Result]:
    return [result for result in demand.counted if result.outcome.passes]


# Several results of one case and class.


def _duplicates(policy: Policy, counted: Sequence[Result]) -> Iterator[Finding]:
    """Yield each case that ran more than once in one class: machines of a class owe the same."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in counted:
        outcome = result.outcome
        if outcome.numerics_class and outcome.case in policy.required:
            groups.setdefault((outcome.case, outcome.numerics_class), []).append(result)
    for (case, numerics_class), same in groups.items():
        if len(same) < 2:
            continue
        said = {_said(result.outcome) for result in same}
        problem = Problem.DUPLICATE if len(said) == 1 else Problem.DUPLICATES_DISAGREE
        found = ", ".join(f"{result.outcome.verdict} in {result.run}" for result in same)
        yield Finding(problem, case=case, on=numerics_class, found=found)


def _said(outcome: Outcome) -> object:
    """Return what two results of one case and class must have in common."""
    if outcome.verdict is Verdict.VARIES:
        return outcome.verdict
    digests = tuple(sorted(outcome.output_digests.items()))
    return outcome.verdict, digests


# Waivers.


class _Waivers:
    """Applies the waivers of a policy, and knows which of them were needed."""

    def __init__(self, waivers: Sequence[Waiver], release: Release) -> None:
        self._waivers = waivers
        self._today = release.now.date()
        self._used: set[int] = set()

    def applied(self, finding: Finding, results: Sequence[Result]) -> Finding:
        """Return a finding, waived where a waiver that has not expired covers it."""
        if not finding.problem.can_be_waived:
            return finding
        word = finding.found if finding.problem is Problem.FAILS else finding.problem
        kinds = frozenset(_kinds(finding, results))
        for waiver in self._waivers:
            if not waiver.covers(finding.case, word, kinds):
                continue
            self._used.add(waiver.line)
            if self._today <= waiver.expires:
                until = waiver.expires.isoformat()
                detail = waiver.reason
                return replace(finding, owner=waiver.owner, until=until, detail=detail)
        return finding

    def notes(self) -> Iterator[Finding]:
        """Yield the waivers that have expired, and those that nothing needed."""
        for waiver in self._waivers:
            until = waiver.expires.isoformat()
            facts = {"found": waiver.owner, "detail": waiver.reason, "expected": until}
            place = f"line {waiver.line}"
            if self._today > waiver.expires:
                yield Finding(Problem.WAIVER_EXPIRED, on=place, **facts)
            elif waiver.line not in self._used:
                yield Finding(Problem.WAIVER_UNUSED, on=place, **facts)


def _kinds(finding: Finding, results: Sequence[Result]) -> Iterator[str]:
    """Yield what the place of a finding is called: as it was required, and as it ran."""
    yield finding.on.partition(" ")[0]
    for result in results:
        if result.run == finding.run and result.outcome.case == finding.case:
            yield result.outcome.device_kind
            yield str(result.outcome.target.device)


# The table.


def _rows(demands: Sequence[Demand], findings: Sequence[Finding]) -> Iterator[Row]:
    """Yield one row for each scenario and place, in the order of the policy."""
    by_case: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_case.setdefault((finding.case, finding.on), []).append(finding)
    uncounted: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.case and _blocks(finding):
            uncounted.setdefault(finding.case, []).append(finding)
    groups: dict[tuple[str, str], list[Demand]] = {}
    for demand in demands:
        groups.setdefault((demand.scenario, demand.on), []).append(demand)
    for (scenario, on), group in groups.items():
        states = [state for demand in group for state in _states(demand, by_case, uncounted)]
        seen = Counter(str(each.outcome.verdict) for demand in group for each in demand.seen)
        cases = len({demand.case for demand in group})
        yield Row(scenario, on, worst(states), cases, dict(sorted(seen.items())))


def _states(
    demand: Demand,
    by_case: dict[tuple[str, str], list[Finding]],
    uncounted: dict[str, list[Finding]],
) -> Iterator[State]:
    """Yield the state of each finding on a case at a place.

    A result that does not count leaves its case unverified there; its own finding names the kind of
    device on which it ran, and not the place that was required.
    """
    yield from (each.state for each in by_case.get((demand.case, demand.on), ()))
    not_counted = {each.run for each in demand.seen} - {each.run for each in demand.counted}
    for finding in uncounted.get(demand.case, ()):
        if finding.run in not_counted or finding.problem is Problem.DUPLICATES_DISAGREE:
            yield finding.state


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with what fails first, then by problem, case, place and run."""
    problems = list(Problem)
    return sorted(
        findings,
        key=lambda each: (
            each.state is not State.FAILS,
            problems.index(each.problem),
            each.case,
            each.on,
            each.run,
        ),
    )
