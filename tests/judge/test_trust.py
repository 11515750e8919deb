"""Which outcomes a release may rest on: each way in which one does not count, and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import builders
import pytest

from harness.judge.policy import State, read_policy
from harness.judge.release import judge_release
from harness.judge.trust import contradiction, different_releases, distrust, too_old
from harness.records import (
    Check,
    ContractKind,
    ContractOutcome,
    ContractState,
    Drift,
    Effect,
    Metric,
    Reason,
    Verdict,
)
from harness.scenario.model import Case, Contract
from harness.store.baselines import Store
from harness.store.run_folder import Results

CASE = builders.case()
STILL = Drift(0.0, 0.0, 1.0, 1.0, 0, 4, (), 0.0, 0.0)
MOVED = replace(STILL, l_inf=1e-6, rel_l2=1e-6, differing=1)
PASSED = Check("image", Metric.L_INF, 1e-6, 1e-5)
FAILED = Check("image", Metric.L_INF, 1e-4, 1e-5)
OTHER_CLASS = builders.judged_by(same_class=False)


def identical(**changes):
    """Return an outcome of the same bits as a baseline of the same class."""
    facts = {"baseline": builders.judged_by(), "outputs": {"image": STILL}}
    return builders.outcome("identical", **{**facts, **changes})


def within(**changes):
    """Return an outcome inside the tolerance of a baseline of another class."""
    facts = {"baseline": OTHER_CLASS, "outputs": {"image": MOVED}, "checks": (PASSED,)}
    return builders.outcome("within", **{**facts, **changes})


@pytest.mark.parametrize(
    "outcome",
    [
        identical(),
        identical(baseline=OTHER_CLASS),
        within(),
        builders.outcome("varies"),
        builders.outcome("within", reason=Reason.PUBLISHED_VALUE_HOLDS, checks=(PASSED,)),
        builders.outcome("drifted", checks=(PASSED,)),
        builders.outcome("unverified"),
    ],
)
def test_an_outcome_whose_verdict_follows_from_what_it_states_is_not_questioned(outcome):
    """Nor is one that fails: it keeps the gate closed in any case."""
    assert contradiction(outcome) == ""


HELD = ContractOutcome(
    ContractKind.IDENTICAL,
    "identical",
    "digits[cpu-float32]",
    ContractState.HOLDS,
    "same bits",
    same_bits=True,
    outputs={"image": STILL},
)
BROKEN = replace(HELD, state=ContractState.BROKEN)
BOUNDED = replace(
    HELD,
    kind=ContractKind.TOLERANCE,
    terms="l_inf <= 1e-05",
    same_bits=False,
    outputs={"image": MOVED},
    checks=(PASSED,),
)
VARIANT = Case(
    replace(
        CASE.scenario, variant="other", contract=Contract(ContractKind.IDENTICAL, CASE.scenario)
    ),
    CASE.target,
)


def verified(held, verdict="identical"):
    """Return the outcome of a variant that its contract alone verifies."""
    by_contract = {"reason": Reason.CONTRACT_HOLDS, "variant": "other", "contract": held}
    fingerprint = VARIANT.scenario.fingerprint
    made = builders.outcome(verdict, on="cpu-float32", fingerprint=fingerprint, **by_contract)
    return replace(made, case=VARIANT.id)


@pytest.mark.parametrize("outcome", [verified(HELD), verified(BOUNDED, "within")])
def test_a_variant_that_its_contract_verifies_needs_no_baseline(outcome):
    """What it states must follow from the contract."""
    assert contradiction(outcome) == ""


@pytest.mark.parametrize(
    "outcome",
    [
        verified(None),
        verified(BROKEN),
        verified(replace(HELD, state=ContractState.UNVERIFIED)),
        verified(replace(BOUNDED, checks=(FAILED,)), "within"),
        verified(replace(BOUNDED, checks=()), "within"),
        verified(BOUNDED, "identical"),
        verified(replace(HELD, outputs={"image": MOVED})),
        identical(contract=BROKEN),
    ],
)
def test_a_contract_that_does_not_bear_its_verdict_is_noticed(outcome):
    """Whether it alone verifies the variant, or stands beside a baseline."""
    assert contradiction(outcome).startswith(f"it says `{outcome.verdict}` ")


def test_a_contract_that_was_edited_after_the_run_does_not_count(tmp_path):
    """A run under looser terms vouches for nothing."""
    store, cases = Store(tmp_path), {VARIANT.id: VARIANT}
    assert distrust(verified(HELD), cases, store) is None
    found = distrust(verified(BOUNDED, "within"), cases, store)
    assert found.reason == "the contract of the variant was edited after the run"
    lost = replace(verified(None), verdict=Verdict.ERROR)
    assert distrust(lost, cases, store) is None


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (identical(reason=Reason.OVER_BOUND), "it says `identical` for the reason `over-bound`"),
        (
            identical(effects=(Effect("compile: unet", "no graph", took_effect=False),)),
            "it says `identical` although `compile: unet` had no effect: no graph",
        ),
        (
            identical(checks=(FAILED,)),
            "it says `identical` beside a failed check: image l_inf = 0.0001 (bound 1e-05)",
        ),
        (
            within(checks=(PASSED, FAILED)),
            "it says `within` beside a failed check: image l_inf = 0.0001 (bound 1e-05)",
        ),
        (identical(baseline=None), "it says `identical` and names no baseline"),
        (identical(outputs={}), "it says `identical` and states no output"),
        (identical(outputs={"image": MOVED}), "it says `identical` beside an output that moved"),
        (within(checks=()), "it says `within` and states no check"),
        (
            within(baseline=builders.judged_by()),
            "it says `within` in the class of its baseline, where the same bits are owed",
        ),
        (
            within(accuracy=(builders.accuracy("no-worse", 8e-7),)),
            (
                "it says `within` and calls scheduler.step#3/sample `no-worse`, which its "
                "errors do not show"
            ),
        ),
        (
            within(accuracy=(builders.accuracy("better", actual_error=None),)),
            (
                "it says `within` and calls scheduler.step#3/sample `better`, which its "
                "errors do not show"
            ),
        ),
    ],
)
def test_a_verdict_that_does_not_follow_from_what_is_stated_is_a_contradiction(outcome, problem):
    """A hand or a defect that changed one word must not open a gate."""
    assert contradiction(outcome) == problem


@pytest.fixture
def release(tmp_path):
    """Return a store with one baseline of the case, and an outcome that it judged."""
    store = Store(tmp_path / "baselines")
    path = store.write(CASE, builders.recording(tmp_path / "recording"), "first")
    judged_by = builders.judged_by(digest=store.read(path).digest)
    return store, identical(baseline=judged_by, fingerprint=CASE.scenario.fingerprint)


def test_an_outcome_of_the_release_counts(release):
    """Its scenario, its case and its baseline are those that lie in the repository."""
    store, outcome = release
    assert distrust(outcome, {CASE.id: CASE}, store) is None


def test_an_outcome_of_another_version_of_the_scenario_does_not_count(release):
    """Somebody edited it after the run."""
    store, outcome = release
    edited = builders.case(seeds=(7,))
    found = distrust(outcome, {CASE.id: edited}, store)
    assert found.reason == "the scenario was edited after the run"


def test_an_outcome_of_a_case_that_is_gone_does_not_count(release):
    """A scenario may have been deleted, or have lost a device."""
    store, outcome = release
    found = distrust(outcome, {}, store)
    assert found.reason == "the scenarios of the release have no such case"


def test_an_outcome_that_was_judged_by_another_baseline_does_not_count(release, tmp_path):
    """One that was replaced after the run, or that lay in another store."""
    store, outcome = release
    store.write(CASE, builders.recording(tmp_path / "new", builders.IMAGE + 1), "accepted since")
    found = distrust(outcome, {CASE.id: CASE}, store)
    assert found.reason == f"it was judged by a baseline of cpu-a that {store.root} does not hold"
    assert not found.contradicts_itself


def environment(**versions):
    """Return an environment with these versions."""
    return builders.environment(versions=versions)


def test_runs_of_different_releases_are_named():
    """Two builds of one release are one release."""
    cpu = environment(torch="2.13.0+cpu", diffusers="0.42.1")
    gpu = environment(torch="2.13.0+cu130", diffusers="0.42.1")
    old = environment(torch="2.13.0+cu130", diffusers="0.41.0")
    assert different_releases({"a": cpu, "b": gpu}) == ""
    assert different_releases({"a": cpu, "b": gpu, "c": old}) == (
        "the runs are of different releases of diffusers: 0.42.1 in a, b; 0.41.0 in c"
    )


def test_a_run_that_is_too_old_or_does_not_say_when_it_was_made_is_named():
    """A nightly that has not run for a week says nothing of today's release."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    runs = {
        "fresh": Results("", (), written="2026-11-20T12:00:00+00:00"),
        "old": Results("", (), written="2026-11-01T00:00:00+00:00"),
        "silent": Results("", ()),
    }
    assert too_old(runs, 7.0, now) == [
        "old was made 20 days ago; at most 7 are allowed",
        "silent does not say when it was made",
    ]


def test_a_release_lists_what_does_not_count_beside_what_is_required(release, tmp_path):
    """A contradiction fails; an outcome of another version leaves its case unverified."""
    store, outcome = release
    path = tmp_path / "policy.yaml"
    path.write_text("require: {scenarios: digits, on: cpu}\n", encoding="utf-8")
    policy = read_policy(path, [CASE])

    def judged(*outcomes):
        found = judge_release(policy, {"run": Results("", outcomes)}, [CASE], store)
        return [each.state for each in found]

    assert judged(outcome) == [State.PASSES]
    assert judged(replace(outcome, fingerprint="0" * 16)) == [State.UNVERIFIED, State.UNVERIFIED]
    assert judged(outcome, replace(outcome, checks=(FAILED,))) == [State.FAILS, State.PASSES]
