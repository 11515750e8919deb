"""Contracts: a variant is held against another case of the same run, whatever its class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import builders
import numpy as np
import pytest
from builders import IMAGE, MOVED, moved

from harness.gate.consistency import contradiction
from harness.judge import contract
from harness.records import (
    AccuracyVerdict,
    ContractKind,
    ContractState,
    CostReason,
    CostVerdict,
    Reason,
    Stage,
    StageAccuracy,
    Verdict,
)
from harness.scenario.model import Case, Contract
from harness.scenario.tolerance import Tolerance
from harness.store.typed_json import decode, encode

BASE = "digits[cpu-float32]"
LOOSE = {"l_inf": 1e-2, "rel_l2": 1e-2}
TIGHT = {"l_inf": 1e-4}


def variant(
    bounds: dict[str, Any] | None = None, images: tuple[int, ...] = (), **cost: Any
) -> Case:
    """Return a variant of the builder's scenario; without bounds it owes the same bits."""
    base = builders.scenario(cost=cost)
    kind = ContractKind.IDENTICAL if bounds is None else ContractKind.TOLERANCE
    tolerance = {} if bounds is None else {"tolerance": Tolerance.from_yaml(bounds)}
    owed = Contract(kind, base, images=images, **tolerance)
    return Case(replace(base, variant="other", contract=owed), builders.CPU)


@pytest.mark.parametrize(
    ("bounds", "actual", "state", "message"),
    [
        (None, {}, "holds", f"same bits as {BASE}"),
        (TIGHT, {}, "holds", f"same bits as {BASE}"),
        (LOOSE, moved(), "holds", f"inside the contract's bounds against {BASE}"),
        (
            None,
            moved(),
            "broken",
            (
                f"the contract `identical` with {BASE} is broken: image l_inf = 0.000977 (bound 0)"
                "; first difference: unet#0"
            ),
        ),
        (
            TIGHT,
            moved(),
            "broken",
            (
                f"the contract `l_inf <= 0.0001` with {BASE} is broken: image l_inf = 0.000977 "
                "(bound 0.0001); first difference: unet#0"
            ),
        ),
        (None, {"outputs": -0.0 * IMAGE}, "broken", None),
        (LOOSE, {"outputs": builders.NAN}, "broken", None),
        (
            LOOSE,
            {"outputs": IMAGE[:, :1]},
            "broken",
            (
                f"the contract `l_inf <= 0.01, rel_l2 <= 0.01` with {BASE} is broken: output "
                "`image` has another shape: [1, 2, 2, 1] -> [1, 1, 2, 1]; first difference: image, "
                "after the last stage"
            ),
        ),
    ],
)
def test_a_contract_holds_or_is_broken_by_what_is_named(made, bounds, actual, state, message):
    """Bits first, then bounds; another shape and NaN break every contract."""
    expected = (
        made(0.0 * IMAGE) if "outputs" in actual and not np.any(actual["outputs"]) else made()
    )
    held = contract.hold(variant(bounds), made(**actual), expected)
    assert held.state is ContractState(state)
    assert message is None or held.message == message
    assert held.against == BASE
    assert decode(type(held), encode(held)) == held or builders.NAN is actual.get("outputs")


def test_local_bounds_are_held_in_a_teacher_forced_run_of_the_variant(made):
    """The other case's tensors are its teacher; without such a run, a local bound is not met."""
    kept = {"scheduler.step#0/prev_sample": IMAGE}
    expected = made(kept=kept)
    actual = made(**moved(kept={"scheduler.step#0/prev_sample": MOVED}))
    case = variant({"local_rel_l2": 1e-3})
    assert contract.wants_teacher_forcing(case.scenario.contract, actual, expected)
    assert not contract.wants_teacher_forcing(case.scenario.contract, expected, expected)
    assert not contract.wants_teacher_forcing(variant(LOOSE).scenario.contract, actual, expected)
    forced = made(**moved(kept={"scheduler.step#0/prev_sample": MOVED}))
    held = contract.hold(case, actual, expected, forced)
    (drift,) = [each for each in held.local if each.stage.is_scheduler_step]
    assert held.state is ContractState.HOLDS
    assert 7e-4 < drift.rel_l2 < 8e-4
    tight = contract.hold(variant({"local_rel_l2": 1e-4}), actual, expected, forced)
    assert tight.state is ContractState.BROKEN
    assert contract.hold(case, actual, expected).state is ContractState.BROKEN


def test_single_images_are_held_against_those_of_another_batch(made):
    """In any order, or alone."""
    batch = np.concatenate([IMAGE, 2 * IMAGE, 3 * IMAGE])
    other = made(batch)
    turned = made(batch[[2, 0]])
    assert contract.hold(variant(images=(2, 0)), turned, other).same_bits is True
    assert contract.hold(variant(images=(0, 2)), turned, other).state is ContractState.BROKEN
    alone = contract.hold(variant({"l_inf": 1e-3}, images=(0,)), made(MOVED), other)
    assert (alone.state, alone.same_bits) == (ContractState.HOLDS, False)
    for images in ((3,), (0, 1)):
        broken = contract.hold(variant(images=images), made(IMAGE), other)
        listed = ", ".join(map(str, images))
        assert f"output `image` cannot be images {listed} of the other batch" in broken.message


@pytest.mark.parametrize(
    ("outcome", "actual", "verdict", "reason"),
    [
        ("missing", {}, "identical", Reason.CONTRACT_HOLDS),
        ("missing", moved(), "within", Reason.CONTRACT_HOLDS),
        ("identical", {}, "identical", Reason.SAME_BITS),
        ("within", moved(), "within", Reason.INSIDE_TOLERANCE),
        ("stale", {}, "stale", Reason.SCENARIO_EDITED),
        ("drifted", {}, "drifted", Reason.OVER_BOUND),
        ("unrepeatable", {}, "unrepeatable", Reason.EXPECTATION_BROKEN),
        ("identical", {"outputs": 2 * IMAGE}, "drifted", Reason.CONTRACT_BROKEN),
        ("missing", {"outputs": 2 * IMAGE}, "drifted", Reason.CONTRACT_BROKEN),
        ("missing", {"outputs": IMAGE[0]}, "incomparable", Reason.CONTRACT_BROKEN),
        ("drifted", {"outputs": 2 * IMAGE}, "drifted", Reason.OVER_BOUND),
    ],
)
def test_a_contract_decides_where_nothing_else_objects(made, outcome, actual, verdict, reason):
    """It verifies a variant without a baseline, and a broken one fails a variant with one."""
    held = contract.hold(variant(LOOSE), made(**actual), made())
    judged = contract.with_contract(builders.outcome(outcome), held)
    assert (judged.verdict, judged.reason) == (Verdict(verdict), reason)
    assert judged.contract is held
    if reason is Reason.CONTRACT_HOLDS:
        assert contradiction(judged) is None


@pytest.mark.parametrize("lost", ["error", "unverified"])
def test_a_variant_whose_base_is_lost_is_not_verified(lost):
    """It shares the base's verdict, and says why; one that fails by itself keeps its own."""
    held = contract.not_held(variant(), "because")
    for own in ("missing", "identical"):
        judged = contract.with_contract(builders.outcome(own), held, Verdict(lost))
        assert (judged.verdict, judged.reason) == (Verdict(lost), Reason.CONTRACT_UNVERIFIED)
        assert judged.message == "because"
    own = contract.with_contract(builders.outcome("stale"), held, Verdict(lost))
    assert own.verdict is Verdict.STALE


@pytest.mark.parametrize(
    ("seconds", "changes", "verdict", "reason"),
    [
        (1.0, {}, CostVerdict.FASTER, None),
        (4.0, {"waited": 3.0}, CostVerdict.UNKNOWN, CostReason.OTHER_WORK),
    ],
)
def test_seconds_are_held_against_those_of_the_other_case(made, seconds, changes, verdict, reason):
    """By the rule of every cost: other work on the machine that explains a ratio is named."""
    actual = made(cost=builders.figures(seconds, **changes))
    held = contract.hold(variant(LOOSE), actual, made(cost=builders.figures(2.0)))
    assert (held.cost.verdict, held.cost.reason) == (verdict, reason)
    assert (held.cost.ratio, held.cost.baseline_seconds) == (seconds / 2.0, 2.0)
    assert held.peak_bytes_expected == 3 * 2**20


def test_seconds_of_one_run_are_not_compared(made):
    """The first run warms up and is instrumented."""
    once = replace(builders.figures(1.0), rounds_seconds=())
    case = variant(LOOSE)
    timed = replace(case, scenario=replace(case.scenario, cost=case.scenario.cost.compared()))
    held = contract.hold(timed, made(cost=once), made())
    assert (held.cost.ratio, held.cost.reason) == (None, CostReason.ONE_RUN_ONLY)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (AccuracyVerdict.BETTER, ContractState.HOLDS),
        (AccuracyVerdict.NO_WORSE, ContractState.HOLDS),
        (AccuracyVerdict.WORSE, ContractState.BROKEN),
        (AccuracyVerdict.UNKNOWN, ContractState.UNVERIFIED),
        (None, ContractState.UNVERIFIED),
    ],
)
def test_a_contract_on_accuracy_follows_the_worst_stage(made, verdict, state):
    """However far the outputs lie apart; what cannot be told is not verified."""
    base = builders.scenario()
    owed = Contract(ContractKind.NO_WORSE, base)
    case = Case(replace(base, variant="other", contract=owed), builders.CPU)
    best = StageAccuracy(Stage("unet", 0), "sample", AccuracyVerdict.BETTER)
    accuracy = () if verdict is None else (best, replace(best, verdict=verdict))
    actual, expected = made(**moved()), made()
    assert contract.wants_teacher_forcing(owed, actual, expected)
    held = contract.hold(case, actual, expected, accuracy=accuracy)
    assert held.state is state
    assert held.message.startswith("no worse than" if state is ContractState.HOLDS else "the con")
    judged = contract.with_contract(builders.outcome("missing"), held)
    expected_verdict = {
        ContractState.HOLDS: Verdict.WITHIN,
        ContractState.BROKEN: Verdict.DRIFTED,
        ContractState.UNVERIFIED: Verdict.UNVERIFIED,
    }
    assert judged.verdict is expected_verdict[state]
    assert contradiction(judged) is None
