"""A release's findings: what its policy requires, held against the outcomes that count for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.judge.policy import Finding, Policy, State, hold
from harness.judge.trust import different_releases, distrust, too_old
from harness.records import Outcome
from harness.scenario.model import Case
from harness.store.baselines import Store
from harness.store.run_folder import Results

ALL = "(all)"  # in place of a scenario, for what is wrong with the runs as a whole


def judge_release(
    policy: Policy, runs: Mapping[str, Results], cases: Sequence[Case], store: Store
) -> list[Finding]:
    """Return how a release stands: every requirement, and every outcome that does not count.

    Args:
        policy: What is required.
        runs: The results of each run, by its name.
        cases: The cases of the release.
        store: The baselines of the release.
    """
    by_id = {case.id: case for case in cases}
    required = {case for requirement in policy.requirements for case in requirement.cases}
    trusted: list[Outcome] = []
    findings = _about_the_runs(policy, runs)
    for run, results in runs.items():
        for outcome in results.outcomes:
            problem = distrust(outcome, by_id, store)
            if problem is None:
                trusted.append(outcome)
            elif problem.contradicts_itself or outcome.case in required:
                state = State.FAILS if problem.contradicts_itself else State.UNVERIFIED
                reason = f"{outcome.case} of {run} does not count: {problem.reason}"
                on = outcome.device_kind or str(outcome.target.device)
                findings.append(Finding(outcome.scenario, on, state, reason))
    return [*findings, *hold(policy, trusted)]


def _about_the_runs(policy: Policy, runs: Mapping[str, Results]) -> list[Finding]:
    """Return what keeps a gate closed whatever the outcomes are."""
    environments = {
        run: results.environment for run, results in runs.items() if results.environment is not None
    }
    problems = []
    mixed = different_releases(environments)
    if mixed:
        problems.append(mixed)
    if policy.max_age_days is not None:
        problems += too_old(runs, policy.max_age_days)
    return [Finding(ALL, "", State.UNVERIFIED, problem) for problem in problems]
