"""From a recording and a baseline to a verdict.

The order is: finite, expectations, whether a baseline is owed and there, staleness, structure,
digests, numbers. The first that objects decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.judge import drift, environment_diff, expectations, first_difference, reasons
from harness.judge.checks import check_local, check_output, failed
from harness.judge.cost import judge_cost
from harness.records import (
    Against,
    Check,
    Drift,
    Metric,
    Outcome,
    Reason,
    Verdict,
)
from harness.scenario.model import Case, Scenario
from harness.scenario.tolerance import NO_DIFFERENCE
from harness.store.baselines import Baseline, Match
from harness.store.recording import Observed, Recording, TensorFacts


def unrun(
    case: Case, verdict: Verdict, message: str, log: str = "", reason: Reason = Reason.NOT_RECORDED
) -> Outcome:
    """Return the outcome of a case that left no recording, or whose baseline cannot be used."""
    return Outcome(
        case=case.id,
        scenario=case.scenario.name,
        target=case.target,
        verdict=verdict,
        reason=reason,
        message=message,
        tags=case.scenario.tags,
        log=log,
        fingerprint=case.scenario.fingerprint,
    )


def wants_teacher_forcing(scenario: Scenario, actual: Recording, match: Match) -> bool:
    """Whether the case must run once more on the baseline's inputs.

    It must where a baseline of another class has the same structure and other bits.
    """
    expected = match.baseline
    if match.same_class or _staleness(scenario, expected, actual) is not None:
        return False
    return not structure(actual, expected) and not same_bits(actual, expected)


def judge(
    case: Case,
    recording: Recording,
    match: Match | None,
    singles: list[Recording],
    teacher_forced: Recording | None = None,
) -> Outcome:
    """Return the outcome of one recording.

    Args:
        case: What was run.
        recording: What it left.
        match: The baseline to hold it against, None if there is none.
        singles: The recordings of each image made alone, where the scenario expects
            `batch-equals-single`.
        teacher_forced: The recording in which every stage got the baseline's inputs, where
            `wants_teacher_forcing` says so.
    """
    return _Judgement(case, recording, match).outcome(singles, teacher_forced)


@dataclass(frozen=True)
class _Staleness:
    """Why a baseline is not of this version of the scenario, or not of these weights."""

    reason: Reason
    message: str


class _Judgement:
    """One recording on its way to an outcome; `outcome` asks one question after the other."""

    def __init__(self, case: Case, recording: Recording, match: Match | None) -> None:
        self._case = case
        self._scenario = case.scenario
        self._actual = recording
        self._match = match
        self._stale = None
        if match is not None:
            self._stale = _staleness(case.scenario, match.baseline, recording)
        comparable = None if match is None or self._stale is not None else match.baseline
        self._draft = Outcome(
            case=case.id,
            scenario=case.scenario.name,
            target=case.target,
            verdict=Verdict.ERROR,
            reason=Reason.NOT_RECORDED,
            message="",
            tags=case.scenario.tags,
            device_kind=recording.environment.device_kind,
            cost=judge_cost(recording, comparable, case.scenario.cost),
            repeat_l_inf=recording.repeat.l_inf,
            fingerprint=case.scenario.fingerprint,
        )

    def outcome(self, singles: list[Recording], teacher_forced: Recording | None) -> Outcome:
        """Return the outcome."""
        broken, checks = expectations.hold_all(self._scenario, self._actual, singles)
        self._draft = replace(self._draft, checks=checks)
        infinite = [name for name, output in self._actual.outputs.items() if not output.finite]
        if infinite:
            message = reasons.not_finite(infinite)
            return self._says(Verdict.INCOMPARABLE, Reason.NOT_FINITE, message)
        if broken is not None:
            message = reasons.expectation_broken(broken)
            return self._says(Verdict.UNREPEATABLE, Reason.EXPECTATION_BROKEN, message)
        if not self._scenario.owes_baseline:
            message = reasons.varies_as_expected(self._actual.repeat.l_inf)
            return self._says(Verdict.VARIES, Reason.VARIES_AS_EXPECTED, message)
        if self._match is None:
            return self._without_baseline()
        return self._with_baseline(self._match, teacher_forced)

    def _says(self, verdict: Verdict, reason: Reason, message: str) -> Outcome:
        return replace(self._draft, verdict=verdict, reason=reason, message=message)

    def _without_baseline(self) -> Outcome:
        published = _check_published(self._case, self._actual)
        self._draft = replace(self._draft, checks=(*self._draft.checks, *published))
        if not published:
            message = reasons.no_baseline(self._scenario.reference)
            return self._says(Verdict.MISSING, Reason.NO_BASELINE, message)
        off = failed(published)
        if off:
            message = reasons.off_published_value(off[0], None)
            return self._says(Verdict.DRIFTED, Reason.OFF_PUBLISHED_VALUE, message)
        message = reasons.published_value_holds(published[0])
        return self._says(Verdict.WITHIN, Reason.PUBLISHED_VALUE_HOLDS, message)

    def _with_baseline(self, match: Match, teacher_forced: Recording | None) -> Outcome:
        expected = match.baseline
        self._draft = replace(
            self._draft,
            baseline=match.judged_by(),
            environment_changes=environment_diff.list_changes(
                self._actual.environment, expected.environment
            ),
        )
        if self._stale is not None:
            return self._says(Verdict.STALE, self._stale.reason, self._stale.message)
        other = structure(self._actual, expected)
        if other:
            return self._says(Verdict.INCOMPARABLE, Reason.OTHER_STRUCTURE, other)
        if teacher_forced is not None:
            local = drift.of_stages(teacher_forced, expected)
            self._draft = replace(self._draft, local=local)
        return self._compared(match)

    def _compared(self, match: Match) -> Outcome:
        """Compare outputs of one structure: by digest, then by numbers against the bounds."""
        expected = match.baseline
        same = same_bits(self._actual, expected)
        first = first_difference.first(self._actual, expected)
        published = _check_published(self._case, self._actual)
        checks = (*self._draft.checks, *published)
        self._draft = replace(self._draft, first_difference=first, checks=checks)
        if same:
            outputs = {name: _no_drift(output) for name, output in expected.outputs.items()}
            self._draft = replace(self._draft, outputs=outputs)
        else:
            self._hold(match)
        return self._word(match, same=same)

    def _hold(self, match: Match) -> None:
        """Measure how far outputs and stages moved, and hold them against the bounds."""
        tolerance = NO_DIFFERENCE
        if not match.same_class:
            tolerance = self._scenario.tolerances.cross_class or NO_DIFFERENCE
        outputs = drift.of_outputs(self._actual, match.baseline)
        checks = [
            check
            for name, moved in outputs.items()
            for check in check_output(name, moved, tolerance)
        ]
        checks += [each.check for each in check_local(self._draft.local, tolerance)]
        checks += self._draft.checks
        if tolerance.exact and not failed(checks):  # minus zero: equal numbers in other bits
            checks.append(Check(", ".join(outputs), Metric.BITS, math.nan, 0.0))
        self._draft = replace(
            self._draft,
            outputs=outputs,
            free=drift.of_stages(self._actual, match.baseline),
            checks=tuple(checks),
        )

    def _word(self, match: Match, *, same: bool) -> Outcome:
        """Return the verdict that the checks give."""
        baseline, first = match.judged_by(), self._draft.first_difference
        over = self._draft.failed_checks
        if not over and same:
            message = reasons.same_bits(baseline)
            return self._says(Verdict.IDENTICAL, Reason.SAME_BITS, message)
        if not over:
            message = reasons.inside_tolerance(baseline, first)
            return self._says(Verdict.WITHIN, Reason.INSIDE_TOLERANCE, message)
        if over[0].against is Against.PUBLISHED:
            message = reasons.off_published_value(over[0], first)
            return self._says(Verdict.DRIFTED, Reason.OFF_PUBLISHED_VALUE, message)
        if match.same_class:
            message = reasons.other_bits(baseline, first)
            return self._says(Verdict.DRIFTED, Reason.OTHER_BITS, message)
        if self._scenario.tolerances.cross_class is None:
            message = reasons.no_tolerance(baseline, first)
            return self._says(Verdict.DRIFTED, Reason.NO_TOLERANCE, message)
        message = reasons.over_bound(over[0], baseline, first)
        return self._says(Verdict.DRIFTED, Reason.OVER_BOUND, message)


def _check_published(case: Case, recording: Recording) -> list[Check]:
    """Hold the abs-sums that a paper or a guide states against this run's."""
    checks = []
    for name, published in case.scenario.published.items():
        if published.device not in (None, case.target.device):
            continue
        output = recording.outputs.get(name)
        abs_sum = math.nan if output is None or output.abs_sum is None else output.abs_sum
        checks.append(
            Check(
                name,
                Metric.ABS_SUM,
                abs(abs_sum - published.abs_sum),
                published.within,
                Against.PUBLISHED,
                actual=abs_sum,
                expected=published.abs_sum,
                source=published.source,
            )
        )
    return checks


def _staleness(scenario: Scenario, baseline: Baseline, actual: Observed) -> _Staleness | None:
    """Return why the baseline is stale; None where it is not."""
    if baseline.fingerprint != scenario.fingerprint:
        edits = _edits(scenario.decides, baseline.decides)
        message = reasons.scenario_edited(baseline.provenance.date, edits)
        return _Staleness(Reason.SCENARIO_EDITED, message)
    other = first_difference.other_weights(actual, baseline)
    if other:
        return _Staleness(Reason.OTHER_WEIGHTS, reasons.other_weights(other))
    return None


def _edits(actual: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """Return what of all that decides the numbers was edited, as far as the baseline knows.

    The list is empty for a baseline that does not say what decided its numbers.
    """
    if not expected:
        return []
    changes = environment_diff.changes_of(_flat(actual), _flat(expected))
    return [str(change) for change in changes]


def _flat(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings by dotted key, one level deep; those that are None count as unset."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return {key: value for key, value in found.items() if value is not None}


def structure(actual: Observed, expected: Observed) -> str:
    """Return what makes the outputs of two recordings incomparable; empty where nothing does.

    That is an output that only one side has, or another shape or dtype.
    """
    mine, others = actual.outputs, expected.outputs
    for name in sorted({*mine, *others}):
        if name not in others:
            return f"output `{name}` is only in this run"
        if name not in mine:
            return f"output `{name}` is only in the baseline"
        own, its = mine[name], others[name]
        if own.shape != its.shape:
            before, after = list(its.shape), list(own.shape)
            return f"output `{name}` has another shape: {before} -> {after}"
        if own.dtype != its.dtype:
            return f"output `{name}` has another dtype: {its.dtype} -> {own.dtype}"
    return ""


def same_bits(actual: Observed, expected: Observed) -> bool:
    """Return whether every output of `expected` has the same bits in `actual`."""
    mine = actual.output_digests
    return all(mine[name] == digest for name, digest in expected.output_digests.items())


def _no_drift(output: TensorFacts) -> Drift:
    abs_sum = output.abs_sum or 0.0
    return Drift(0.0, 0.0, abs_sum, abs_sum, 0, output.size, (), 0.0, 0.0)
