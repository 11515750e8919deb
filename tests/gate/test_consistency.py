"""Whether a verdict follows from its own outcome: each way in which one does not, as data."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from harness.gate.consistency import Objection, contradiction, contradicts_release
from harness.gate.findings import Contradiction
from harness.records import (
    BatchCertificate,
    Check,
    ContractKind,
    ContractOutcome,
    ContractState,
    Counterexample,
    Drift,
    Effect,
    Metric,
    Reason,
)
from harness.scenario.fields import Expectation
from harness.scenario.model import Case, Contract

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
    assert contradiction(outcome) is None


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
    assert contradiction(outcome) is None


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
    found = contradiction(outcome)
    assert found is not None
    assert found.what in (
        Contradiction.NO_CONTRACT,
        Contradiction.CONTRACT_BROKEN,
        Contradiction.CONTRACT_MOVED,
        Contradiction.NO_CHECK,
    )


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (identical(reason=Reason.OVER_BOUND), Contradiction.OTHER_REASON),
        (
            identical(effects=(Effect("compile: unet", "no graph", took_effect=False),)),
            Contradiction.NO_EFFECT,
        ),
        (identical(checks=(FAILED,)), Contradiction.FAILED_CHECK),
        (within(checks=(PASSED, FAILED)), Contradiction.FAILED_CHECK),
        (identical(baseline=None), Contradiction.NO_BASELINE),
        (identical(outputs={}), Contradiction.NO_OUTPUT),
        (identical(outputs={"image": MOVED}), Contradiction.OUTPUT_MOVED),
        (identical(outputs={"image": replace(STILL, finite=False)}), Contradiction.NOT_FINITE),
        (within(checks=()), Contradiction.NO_CHECK),
        (within(baseline=builders.judged_by()), Contradiction.BITS_OWED),
        (within(accuracy=(builders.accuracy("no-worse", 8e-7),)), Contradiction.ACCURACY),
        (
            within(accuracy=(builders.accuracy("better", actual_error=None),)),
            Contradiction.ACCURACY,
        ),
    ],
)
def test_a_verdict_that_does_not_follow_from_what_is_stated_is_a_contradiction(outcome, what):
    """A hand or a defect that changed one word must not open a gate."""
    found = contradiction(outcome)
    assert found is not None
    assert found.what is what


SERVED = builders.case(seeds=(0, 1, 2), expect=(Expectation.BATCH_INVARIANT,), compositions=5)
HELD = BatchCertificate(compositions=5, largest=3, is_exhaustive=False, runs=7)
CHANGED = Counterexample((0, 0), 0, "pipeline()", is_smallest=True)
FEWER = Objection(Contradiction.CHECK_MISSING, "5 compositions of the batch")


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (HELD, None),
        (None, FEWER),
        (replace(HELD, compositions=4), FEWER),
        (
            replace(HELD, counterexample=CHANGED),
            Objection(Contradiction.FAILED_CHECK, "a batch that changes an image"),
        ),
    ],
    ids=["held", "not-searched", "fewer-than-asked-for", "one-changed-an-image"],
)
def test_a_certificate_must_have_tried_what_the_scenario_asks_for(batch, expected):
    """A run that left the search out does not open a gate."""
    assert contradicts_release(identical(batch=batch), SERVED, None) == expected
