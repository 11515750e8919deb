"""What keeps a run, or one outcome of a run, from counting for a release.

A run must be of the commit that is released, young enough, and made by the same releases as the
others. An outcome must be of the scenario as it lies in the repository, judged by the baseline that
the store holds now, and its verdict must follow from what it states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from harness.gate.consistency import Objection, contradiction, contradicts_release
from harness.gate.evidence import Evidence, Release, Result, RunSeen, moment
from harness.gate.findings import Contradiction, Finding, Problem
from harness.gate.policy import Policy
from harness.gate.rederive import Agreement
from harness.judge.environment_diff import FRAMEWORKS
from harness.records import Outcome
from harness.scenario.model import Case
from harness.store.baselines import Baseline

# How far the clocks of two machines may lie apart.
CLOCKS_APART = timedelta(minutes=5)
ABSENT = "none"


# What is wrong with a run, or with all of them.


def about_runs(policy: Policy, release: Release, evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the runs as a whole."""
    if release.dirty and not policy.any_tree:
        yield Finding(Problem.DIRTY_HERE)
    for run in evidence.runs:
        yield from _times(run, policy, release)
        yield from _origin(run, policy, release)
        yield from _versions(run, policy)
        yield from _unread(run)
    yield from _mixed_commits(policy, evidence.runs)
    yield from _mixed_versions(evidence.runs)


def _times(run: RunSeen, policy: Policy, release: Release) -> Iterator[Finding]:
    started, written = moment(run.results.started), moment(run.results.written)
    if started is None or written is None:
        yield Finding(Problem.NO_TIME, run.name)
        return
    if max(started, written) > release.now + CLOCKS_APART:
        yield Finding(Problem.IN_FUTURE, run.name, found=_shown(max(started, written)))
    elif written < started - CLOCKS_APART:
        found = f"{_shown(started)} to {_shown(written)}"
        yield Finding(Problem.ENDS_BEFORE_START, run.name, found=found)
    elif policy.max_age_days is not None:
        days = (release.now - started).total_seconds() / 86400
        if days > policy.max_age_days:
            expected = f"{policy.max_age_days:g}"
            yield Finding(Problem.TOO_OLD, run.name, expected=expected, found=f"{days:.1f}")


def _origin(run: RunSeen, policy: Policy, release: Release) -> Iterator[Finding]:
    results = run.results
    if results.harness != release.harness:
        found = results.harness or ABSENT
        yield Finding(Problem.OTHER_HARNESS, run.name, expected=release.harness, found=found)
    if not policy.any_commit and results.commit != release.commit:
        known = bool(results.commit and release.commit)
        problem = Problem.OTHER_COMMIT if known else Problem.NO_COMMIT
        expected, found = release.commit or ABSENT, results.commit or ABSENT
        yield Finding(problem, run.name, expected=expected, found=found)
    unknown = results.dirty is None and bool(results.commit)
    if not policy.any_tree and (results.dirty or unknown):
        yield Finding(Problem.DIRTY, run.name)


def _versions(run: RunSeen, policy: Policy) -> Iterator[Finding]:
    """Yield each package whose version the policy does not admit."""
    for name, environment in run.environments.items():
        for package, admitted in policy.versions.items():
            version = environment.versions.get(package, "")
            problem = Problem.OTHER_VERSION if version else Problem.NO_VERSION
            if not version or not _admits(admitted, version):
                yield Finding(
                    problem,
                    run.name,
                    on=name,
                    expected=f"{package} {admitted}",
                    found=version or ABSENT,
                )


def _unread(run: RunSeen) -> Iterator[Finding]:
    """Yield that scenario files had mistakes when a run began, so that it left their cases out."""
    unread = run.results.scope.unread
    if unread:
        yield Finding(Problem.UNREAD_SCENARIOS, run.name, found=", ".join(unread))


def _admits(admitted: SpecifierSet, version: str) -> bool:
    """Whether a specifier admits a version; builds such as `+cpu` count as their release."""
    try:
        release = Version(version.partition("+")[0])
    except InvalidVersion:
        return False
    return admitted.contains(release, prereleases=True)


def _mixed_commits(policy: Policy, runs: Sequence[RunSeen]) -> Iterator[Finding]:
    """Yield that the runs are of several commits, where the policy does not compare each."""
    by_commit: dict[str, list[str]] = {}
    for run in runs:
        by_commit.setdefault(run.results.commit or ABSENT, []).append(run.name)
    if policy.any_commit and len(by_commit) > 1:
        yield Finding(Problem.MIXED_COMMITS, found=_listed(by_commit))


def _mixed_versions(runs: Sequence[RunSeen]) -> Iterator[Finding]:
    """Yield each framework of which the runs have several releases.

    `+cpu` and `+cu130` are two builds of one release. MindSpore has an environment of its own.
    """
    for package in FRAMEWORKS:
        by_framework: dict[str, dict[str, list[str]]] = {}
        for run in runs:
            for environment in run.environments.values():
                version = environment.versions.get(package, ABSENT).partition("+")[0]
                by_version = by_framework.setdefault(environment.framework, {})
                names = by_version.setdefault(version, [])
                if run.name not in names:
                    names.append(run.name)
        for by_version in by_framework.values():
            if len(by_version) > 1:
                found = _listed(by_version)
                yield Finding(Problem.MIXED_VERSIONS, expected=package, found=found)


def _listed(names: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{value} in {', '.join(runs)}" for value, runs in names.items())


# What is wrong with one outcome.


def about_result(result: Result, release: Release) -> Finding | None:
    """Return why an outcome does not count; None where it does."""
    outcome = result.outcome
    found = _contradiction(result, contradiction(outcome))
    if found is not None:
        return found
    case = release.cases.get(outcome.case)
    if case is None:
        return _finding(Problem.UNKNOWN_CASE, result)
    found = _edited(result, case)
    if found is not None or (not outcome.passes and not outcome.numerics_class):
        return found  # it left no recording, and so has no environment and was not compared
    return _without_evidence(result) or _other_baseline(result) or _not_derived(result, case)


def _edited(result: Result, case: Case) -> Finding | None:
    """Return what was edited in the scenario after the run."""
    outcome, scenario = result.outcome, case.scenario
    sides = (
        (Problem.SCENARIO_EDITED, outcome.fingerprint, scenario.fingerprint),
        (Problem.TERMS_EDITED, outcome.terms, scenario.terms),
        (Problem.EVIDENCE_EDITED, outcome.evidence, scenario.evidence_digest),
    )
    for problem, found, expected in sides:
        if found != expected:
            return _finding(problem, result, expected or ABSENT, found or ABSENT)
    return None


def _without_evidence(result: Result) -> Finding | None:
    """Return what an outcome that was judged does not say."""
    outcome = result.outcome
    if outcome.passes and not outcome.output_digests:
        return _finding(Problem.NO_DIGESTS, result)
    environment = result.environment
    if environment is None or environment.device_kind != outcome.device_kind:
        found = "" if environment is None else environment.device_kind
        return _finding(Problem.NO_ENVIRONMENT, result, outcome.device_kind, found or ABSENT)
    return None


def _other_baseline(result: Result) -> Finding | None:
    """Return how the baseline that judged differs from the one that the store holds now."""
    judged_by, held = result.outcome.baseline, result.held
    if held.problem:
        return _finding(Problem.BASELINE_DAMAGED, result, detail=held.problem)
    if judged_by is None:
        if held.baseline is None:
            return None
        return _finding(Problem.NEW_BASELINE, result, found=_named(held.baseline))
    if held.baseline is None:
        return _finding(Problem.BASELINE_GONE, result, judged_by.numerics_class)
    if held.baseline.digest != judged_by.digest:
        found = f"{_named(held.baseline)}, accepted {held.baseline.provenance.date}"
        expected = judged_by.digest[:8] or ABSENT
        return _finding(Problem.OTHER_BASELINE, result, expected, found)
    return _younger(result, held.baseline)


def _younger(result: Result, baseline: Baseline) -> Finding | None:
    """Return that a baseline was accepted after the run that it is said to have judged."""
    accepted, written = moment(baseline.provenance.date), moment(result.written)
    if accepted is None or written is None or accepted <= written + CLOCKS_APART:
        return None
    return _finding(Problem.OLDER_THAN_BASELINE, result, _shown(accepted), _shown(written))


def _not_derived(result: Result, case: Case) -> Finding | None:
    """Return how a verdict fails to follow from the scenario, the baseline or the recording."""
    judged_by = result.outcome.baseline
    baseline = result.held.baseline if judged_by is not None else None
    objection = _other_sides(result) or contradicts_release(result.outcome, case, baseline)
    return _contradiction(result, objection) or _not_recorded(result)


def _other_sides(result: Result) -> Objection | None:
    """Return how a result misstates what it was compared with: its baseline, or another case."""
    other, judged_by, held = result.against, result.outcome.baseline, result.held
    if other is not None and _claims_bits_of(result, other):
        return Objection(Contradiction.CONTRACT_MOVED, other.case)
    if judged_by is None or held.baseline is None:
        return None
    stated = (judged_by.numerics_class, judged_by.run)
    if stated != (held.baseline.numerics_class.name, ""):  # a run stands for one in `diff` alone
        return Objection(Contradiction.LABELS, " ".join(filter(None, stated)))
    if judged_by.comparison is not held.comparison:
        return Objection(Contradiction.OTHER_COMPARISON, judged_by.comparison)
    return None


def _not_recorded(result: Result) -> Finding | None:
    """Return how a recording gives another verdict than its result, or that it cannot be read."""
    rederived = result.rederived
    if rederived is None or rederived.agreement is Agreement.AGREES:
        return None
    if rederived.agreement is Agreement.UNREADABLE:
        return _finding(Problem.NO_RECORDING, result, detail=rederived.detail)
    stated = f"{result.outcome.verdict}, {result.outcome.reason}"
    return _finding(Problem.RECORDING_DISAGREES, result, stated, rederived.found)


def _claims_bits_of(result: Result, other: Outcome) -> bool:
    """Whether a variant is said to have the bits of another case of its run, and has not."""
    contract = result.outcome.contract
    if not result.outcome.passes or contract is None or not contract.same_bits:
        return False
    return result.outcome.output_digests != other.output_digests


def _contradiction(result: Result, objection: Objection | None) -> Finding | None:
    if objection is None:
        return None
    return _finding(
        Problem.CONTRADICTS_ITSELF,
        result,
        expected=result.outcome.verdict,
        found=objection.what,
        detail=objection.detail,
    )


def _finding(
    problem: Problem, result: Result, expected: str = "", found: str = "", detail: str = ""
) -> Finding:
    outcome = result.outcome
    on = outcome.device_kind or str(outcome.target.device)
    return Finding(problem, result.run, outcome.case, on, expected, found, detail)


def _named(baseline: Baseline) -> str:
    return f"{baseline.numerics_class.name} {baseline.digest[:8]}"


def _shown(when: datetime) -> str:
    return when.isoformat(timespec="seconds")
