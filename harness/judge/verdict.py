"""Owns the verdict: what follows from a recording and the baseline that it is compared with.

The questions come in this order, and the first one that is answered with no decides:

1. Did every execution that the scenario asks for take effect?
2. Are all outputs finite?
3. Do the scenario's expectations hold?
4. Is there a baseline? A scenario whose runs must vary needs none, and a published value can stand
   in for one.
5. Is the baseline of this version of the scenario, and of the same weights?
6. Do both sides have the same outputs, of the same shapes and dtypes?
7. Do the outputs have the same bits, or else is every drift inside its bound? Is every published
   value met?
"""

from __future__ import annotations

import math
from dataclasses import replace

from harness.judge import (
    appearance,
    drift,
    environment_diff,
    expectations,
    first_difference,
    origins,
    reasons,
)
from harness.judge.batch_certificate import Certified
from harness.judge.checks import check_local, check_output, failed
from harness.judge.cost import judge_cost
from harness.judge.staleness import staleness_of
from harness.judge.structure import outputs_not_finite, same_bits, structure
from harness.records import (
    Against,
    Check,
    Difference,
    Metric,
    Outcome,
    Reason,
    Verdict,
)
from harness.scenario.model import Case, Scenario
from harness.scenario.tolerance import LOCAL_METRICS, NO_DIFFERENCE
from harness.store.baselines import Match
from harness.store.recording import Recording


def without_recording(
    case: Case, verdict: Verdict, message: str, log: str = "", reason: Reason = Reason.NOT_RECORDED
) -> Outcome:
    """Return the outcome of a case that left no recording, or whose baseline cannot be used."""
    return Outcome(
        case=case.id,
        scenario=case.scenario.name,
        target=case.target,
        variant=case.scenario.variant,
        verdict=verdict,
        reason=reason,
        message=message,
        tags=case.scenario.tags,
        log=log,
        fingerprint=case.scenario.fingerprint,
        terms=case.scenario.terms,
        evidence=case.scenario.evidence_digest,
    )


def wants_teacher_forcing(scenario: Scenario, actual: Recording, match: Match) -> bool:
    """Whether the case must run once more, with the baseline's inputs for every stage.

    It must where the baseline is comparable and the bits differ. Against a baseline of another
    class, this run is held to the bounds on local drift. Against one of the same class it only
    tells which stages moved by themselves.
    """
    expected = match.baseline
    if not actual.stages or not expected.stages:  # a served engine shows none
        return False
    if staleness_of(scenario, expected, actual) is not None:
        return False
    return not structure(actual, expected) and not same_bits(actual, expected)


def judge(
    case: Case,
    recording: Recording,
    match: Match | None,
    singles: list[Recording],
    teacher_forced: Recording | None = None,
    certified: Certified | None = None,
) -> Outcome:
    """Return the outcome of one recording.

    Args:
        case: What was run.
        recording: What it left.
        match: The baseline to compare it with, None if there is none.
        singles: One recording for each image of the batch, made alone, where the scenario expects
            `batch-equals-single`; otherwise empty.
        teacher_forced: The recording in which every stage got the baseline's inputs, where
            `wants_teacher_forcing` says so. It may be missing for a baseline of the same class.
        certified: What came of the search for a composition of the batch that changes an image,
            where the scenario expects `batch-invariant`.
    """
    return _Judgement(case, recording, match).outcome(singles, teacher_forced, certified)


class _Judgement:
    """Judges one recording: asks one question after the other, and notes the answers in a draft.

    The draft is an outcome whose verdict is a placeholder. Each step adds what it measured, and the
    step that decides puts in verdict, reason and message.
    """

    def __init__(self, case: Case, recording: Recording, match: Match | None) -> None:
        self._case = case
        self._scenario = case.scenario
        self._actual = recording
        self._match = match
        self._stale = None
        if match is not None:
            self._stale = staleness_of(case.scenario, match.baseline, recording)
        comparable = None if match is None or self._stale is not None else match.baseline
        self._draft = Outcome(
            case=case.id,
            scenario=case.scenario.name,
            target=case.target,
            variant=case.scenario.variant,
            verdict=Verdict.ERROR,
            reason=Reason.NOT_RECORDED,
            message="",
            tags=case.scenario.tags,
            device_kind=recording.environment.device_kind,
            cost=judge_cost(recording, comparable, case.scenario.cost),
            repeat_l_inf=recording.repeat.l_inf,
            effects=recording.effects,
            fingerprint=case.scenario.fingerprint,
            numerics_class=recording.numerics_class.name,
            output_digests=recording.output_digests,
            terms=case.scenario.terms,
            evidence=case.scenario.evidence_digest,
        )

    def outcome(
        self,
        singles: list[Recording],
        teacher_forced: Recording | None,
        certified: Certified | None,
    ) -> Outcome:
        """Ask the questions that need no baseline, then those that do."""
        broken, checks = expectations.hold_all(self._scenario, self._actual, singles, certified)
        batch = None if certified is None else certified.certificate
        self._draft = replace(self._draft, checks=checks, batch=batch)
        without = [effect for effect in self._actual.effects if not effect.took_effect]
        if without:
            message = reasons.no_effect(without)
            return self._decided(Verdict.ERROR, Reason.NO_EFFECT, message)
        infinite = outputs_not_finite(self._actual)
        if infinite:
            if self._match is not None:
                self._note_baseline(self._match)
                self._show_drift(self._match)
            message = reasons.not_finite(infinite)
            return self._decided(Verdict.INCOMPARABLE, Reason.NOT_FINITE, message)
        if broken is not None:
            message = reasons.expectation_broken(broken)
            return self._decided(Verdict.UNREPEATABLE, Reason.EXPECTATION_BROKEN, message)
        if not self._scenario.needs_baseline:
            message = reasons.varies_as_expected(self._actual.repeat.l_inf)
            return self._decided(Verdict.VARIES, Reason.VARIES_AS_EXPECTED, message)
        if self._match is None:
            return self._without_baseline()
        return self._with_baseline(self._match, teacher_forced)

    def _decided(self, verdict: Verdict, reason: Reason, message: str) -> Outcome:
        """Return the draft with the verdict that one step came to."""
        return replace(self._draft, verdict=verdict, reason=reason, message=message)

    def _without_baseline(self) -> Outcome:
        published = _check_published(self._case, self._actual)
        self._draft = replace(self._draft, checks=(*self._draft.checks, *published))
        if not published:
            message = reasons.no_baseline(self._scenario.reference)
            return self._decided(Verdict.MISSING, Reason.NO_BASELINE, message)
        off = failed(published)
        if off:
            message = reasons.off_published_value(off[0], None)
            return self._decided(Verdict.DRIFTED, Reason.OFF_PUBLISHED_VALUE, message)
        message = reasons.published_value_holds(published[0])
        return self._decided(Verdict.WITHIN, Reason.PUBLISHED_VALUE_HOLDS, message)

    def _with_baseline(self, match: Match, teacher_forced: Recording | None) -> Outcome:
        expected = match.baseline
        self._note_baseline(match)
        if self._stale is not None:
            self._show_drift(match)
            self._draft = replace(self._draft, edits=self._stale.edits)
            return self._decided(Verdict.STALE, self._stale.reason, self._stale.message)
        other = structure(self._actual, expected)
        if other:
            self._show_drift(match)
            return self._decided(Verdict.INCOMPARABLE, Reason.OTHER_STRUCTURE, other)
        if teacher_forced is not None:
            local = drift.of_teacher_forced(teacher_forced, expected)
            self._draft = replace(self._draft, local=local)
        return self._compared(match, teacher_forced)

    def _note_baseline(self, match: Match) -> None:
        """Note which baseline this is, and what changed in the environment since."""
        changes = environment_diff.list_changes(
            self._actual.environment, match.baseline.environment
        )
        self._draft = replace(self._draft, baseline=match.judged_by(), environment_changes=changes)

    def _show_drift(self, match: Match) -> None:
        """Measure what can be compared with a baseline that does not judge; check nothing.

        Whoever accepts the new output must have seen how far it lies from the old one.
        """
        self._draft = replace(
            self._draft,
            outputs=drift.of_shared_outputs(self._actual, match.baseline),
            free=drift.of_stages(self._actual, match.baseline),
            first_difference=first_difference.first(self._actual, match.baseline),
            origins=self._origins(match, None),
        )

    def _origins(self, match: Match, teacher_forced: Recording | None) -> tuple[Difference, ...]:
        """Return what moved by itself; the checks on local drift must have been made."""
        if match.same_class:
            return origins.same_class(self._actual, match.baseline, teacher_forced)
        over = [check for check in self._draft.failed_checks if check.metric in LOCAL_METRICS]
        return origins.cross_class(self._actual, match.baseline, over)

    def _compared(self, match: Match, teacher_forced: Recording | None) -> Outcome:
        """Compare outputs of one structure: by digest, then by numbers against the bounds."""
        expected = match.baseline
        same = same_bits(self._actual, expected)
        first = first_difference.first(self._actual, expected)
        published = _check_published(self._case, self._actual)
        checks = (*self._draft.checks, *published)
        self._draft = replace(self._draft, first_difference=first, checks=checks)
        if same:
            outputs = {name: drift.none_of(output) for name, output in expected.outputs.items()}
            self._draft = replace(self._draft, outputs=outputs)
        else:
            self._measure(match)
            found = self._origins(match, teacher_forced)
            self._draft = replace(self._draft, origins=found)
        return self._verdict(match, same=same)

    def _measure(self, match: Match) -> None:
        """Measure how far outputs and stages moved, and check that against the bounds."""
        tolerance = NO_DIFFERENCE
        if not match.same_class:
            tolerance = match.baseline.tolerance(self._scenario)
        outputs = drift.of_outputs(self._actual, match.baseline)
        checks = [
            check
            for name, moved in outputs.items()
            for check in check_output(name, moved, tolerance)
        ]
        checks += [each.check for each in check_local(self._draft.local, tolerance)]
        checks += self._draft.checks
        if tolerance.exact and not failed(checks):  # such as 0.0 and -0.0: equal, not the same bits
            checks.append(Check(", ".join(outputs), Metric.BITS, math.nan, 0.0))
        output_type = self._scenario.call.get("output_type")
        self._draft = replace(
            self._draft,
            outputs=outputs,
            appearance=appearance.of_outputs(self._actual, match.baseline, output_type),
            free=drift.of_stages(self._actual, match.baseline, only_kept=True),
            checks=tuple(checks),
        )

    def _verdict(self, match: Match, *, same: bool) -> Outcome:
        """Return the outcome that follows from the bits and the checks."""
        baseline, first = match.judged_by(), self._draft.first_difference
        over = self._draft.failed_checks
        if not over and same:
            message = reasons.same_bits(baseline)
            return self._decided(Verdict.IDENTICAL, Reason.SAME_BITS, message)
        if not over:
            message = reasons.inside_tolerance(baseline, first)
            return self._decided(Verdict.WITHIN, Reason.INSIDE_TOLERANCE, message)
        if over[0].against is Against.PUBLISHED:
            message = reasons.off_published_value(over[0], first)
            return self._decided(Verdict.DRIFTED, Reason.OFF_PUBLISHED_VALUE, message)
        if match.same_class:
            message = reasons.other_bits(baseline, first)
            return self._decided(Verdict.DRIFTED, Reason.OTHER_BITS, message)
        has_bounds = match.baseline.measured_bounds is not None
        if self._scenario.tolerances.cross_class is None and not has_bounds:
            message = reasons.no_tolerance(baseline, first)
            return self._decided(Verdict.DRIFTED, Reason.NO_TOLERANCE, message)
        message = reasons.over_bound(over[0], baseline, first)
        return self._decided(Verdict.DRIFTED, Reason.OVER_BOUND, message)


def _check_published(case: Case, recording: Recording) -> list[Check]:
    """Return a check for each abs-sum that a paper or a guide states for this device."""
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
