"""From many outcomes to one word: exit codes of a run, and a release's verdict under a policy."""

from __future__ import annotations

from dataclasses import astuple

import builders
import pytest

from harness.errors import ScenarioError
from harness.judge import reasons
from harness.judge.exit_codes import (
    GIT_BAD,
    GIT_GOOD,
    GIT_SKIP,
    exit_code,
    gate_code,
    git_code,
)
from harness.judge.policy import Finding, State, hold, read_policy
from harness.records import AccuracyReason, CostReason, Drift, Verdict

FAILING = tuple(verdict for verdict in Verdict if verdict.fails)
PASSING = tuple(verdict for verdict in Verdict if verdict.passes)


@pytest.mark.parametrize(
    ("verdicts", "code", "strict"),
    [
        (["identical"], 0, 0),
        (["identical", "within"], 0, 0),
        (["identical", "unverified"], 0, 3),
        (["unverified"], 3, 3),
        ([], 3, 3),
        (["unverified", "error"], 1, 1),
        *((["identical", verdict], 1, 1) for verdict in FAILING),
        *(([verdict], 0, 0) for verdict in PASSING),
    ],
)
def test_a_run_s_exit_code_follows_from_its_verdicts(verdicts, code, strict):
    """0: verified and passing; 1: something fails; 3: nothing fails but too little was seen."""
    outcomes = [builders.outcome(verdict, case=str(n)) for n, verdict in enumerate(verdicts)]
    assert (exit_code(outcomes, strict=False), exit_code(iter(outcomes), strict=True)) == (
        code,
        strict,
    )


def test_every_verdict_passes_or_fails_or_is_unverified():
    """What the exit codes rest on; a new verdict must be given its side."""
    assert PASSING == ("identical", "within", "varies")
    assert FAILING == ("drifted", "unrepeatable", "missing", "stale", "incomparable", "error")
    assert len(Verdict) == len(PASSING) + len(FAILING) + 1


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["identical", "within"], GIT_GOOD),
        (["identical", "drifted"], GIT_BAD),
        (["unverified", "unrepeatable"], GIT_BAD),
        (["incomparable"], GIT_BAD),
        (["identical", "error"], GIT_SKIP),
        (["missing"], GIT_SKIP),
        (["stale"], GIT_SKIP),
        (["identical", "unverified"], GIT_SKIP),
    ],
)
def test_git_bisect_is_told_bad_only_where_an_output_moved(verdicts, code):
    """A commit on which the case does not run is skipped."""
    assert git_code(builders.outcome(verdict) for verdict in verdicts) == code


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["passes"], 0),
        (["passes", "passes"], 0),
        (["passes", "unverified"], 3),
        (["unverified", "fails"], 1),
        (["passes", "fails"], 1),
        ([], 3),
    ],
)
def test_a_gate_opens_only_when_everything_required_passes(states, code):
    """What was not verified keeps it closed, and so does a policy that requires nothing."""
    assert gate_code([Finding("digits", "cpu", State(state), "") for state in states]) == code


@pytest.fixture
def held(tmp_path):
    """Return a function that holds outcomes under a policy, of a release that has their cases."""

    def judged(requirement: str, *outcomes):
        path = tmp_path / "policy.yaml"
        path.write_text(f"description: A release.\nrequire: {requirement}\n", encoding="utf-8")
        findings = hold(read_policy(path, [case_of(each) for each in outcomes]), outcomes)
        return [(each.scenario, each.on, each.state, each.reason) for each in findings]

    return judged


def case_of(outcome):
    """Return the case that an outcome is of."""
    return builders.case(*map(str, astuple(outcome.target)), name=outcome.scenario)


def on(
    kind: str, verdict: str = "identical", name: str = "digits", dtype: str = "float32", **changes
):
    """Return an outcome of a machine of device kind `kind`, empty for a GPU without a recording."""
    device = "cpu" if kind == "cpu" else "cuda"
    return builders.outcome(verdict, name, f"{device}-{dtype}", device_kind=kind, **changes)


H200, L4 = on("nvidia-h200"), on("nvidia-l4")
UNSEEN = "no run of it among the results"
LOST = on(
    "", "error", message="the worker was killed"
)  # an error does not know which GPU it ran on


@pytest.mark.parametrize(
    ("kind", "outcomes", "state", "reason"),
    [
        ("cpu", [on("cpu")], "passes", "identical"),
        ("cpu", [H200], "unverified", UNSEEN),
        ("cuda", [H200], "passes", "identical"),
        ("cuda", [on("cpu")], "unverified", UNSEEN),
        ("nvidia-h200", [H200, on("cpu", "drifted")], "passes", "identical"),
        ("nvidia-h200", [L4], "unverified", UNSEEN),
        ("cuda", [H200, on("nvidia-l4", "within")], "passes", "identical, within"),
        (
            "cuda",
            [H200, on("nvidia-l4", "drifted")],
            "fails",
            "digits[cuda-float32]: drifted: REASON",
        ),
        (
            "nvidia-h200",
            [H200, LOST],
            "fails",
            "digits[cuda-float32]: error: the worker was killed",
        ),
        ("cpu", [on("cpu"), LOST], "passes", "identical"),
        (
            "nvidia-h200",
            [H200, on("", "unverified")],
            "passes",
            "identical",
        ),  # a machine without a GPU beside one with it
        ("nvidia-h200", [on("", "unverified")], "unverified", "digits[cuda-float32]: REASON"),
        (
            "cpu",
            [on("cpu"), on("cpu", "unverified", dtype="bfloat16")],
            "unverified",
            "digits[cpu-bfloat16]: REASON",
        ),
        *(
            ("cpu", [on("cpu"), on("cpu", v)], "fails", f"digits[cpu-float32]: {v}: REASON")
            for v in FAILING
        ),
    ],
)
def test_a_requirement_is_held_by_the_runs_of_its_device_kind(held, kind, outcomes, state, reason):
    """One failing machine fails it; a machine that could not run it does not matter."""
    expected = [("digits", kind, state, reason)]
    assert held(f"{{scenarios: digits, on: {kind}}}", *outcomes) == expected
    assert held(f"{{scenarios: digits, on: {kind}}}", *outcomes[::-1]) == expected


@pytest.mark.parametrize(
    ("dtypes", "state", "reason"),
    [
        ("float32", "passes", "identical"),
        ("float16", "fails", "digits[cpu-float16]: drifted: REASON"),
        ("[float32, float16]", "fails", "digits[cpu-float16]: drifted: REASON"),
        ("bfloat16", "unverified", UNSEEN),
    ],
)
def test_a_requirement_may_be_of_some_dtypes_only(held, dtypes, state, reason):
    """Other dtypes of the scenario may fail without closing the gate."""
    outcomes = [on("cpu"), on("cpu", "drifted", dtype="float16")]
    assert held(f"{{scenarios: digits, on: cpu, dtype: {dtypes}}}", *outcomes) == [
        ("digits", "cpu", state, reason)
    ]


def test_every_dtype_that_is_required_must_have_been_seen(held):
    """A gate must not open on what it never saw."""
    requirement = "{scenarios: digits, on: cpu, dtype: [float32, float16]}"
    reason = "no run of it in float16 among the results"
    assert held(requirement, on("cpu")) == [("digits", "cpu", "unverified", reason)]


@pytest.mark.parametrize(
    ("cost", "word", "state", "reason"),
    [
        (", cost: ok", "slower", "fails", "digits[cpu-float32]: slower, 1.50 times the baseline"),
        (", cost: ok", "ok", "passes", "identical"),
        (", cost: ok", "faster", "passes", "identical"),
        (
            ", cost: ok",
            "unknown",
            "unverified",
            "digits[cpu-float32]: its cost was not compared: one run only, which warms up",
        ),
        (
            ", cost: ok",
            None,
            "unverified",
            "digits[cpu-float32]: its cost was not compared: none was measured",
        ),
        ("", "slower", "passes", "identical"),
        ("", "unknown", "passes", "identical"),
    ],
)
def test_cost_closes_the_gate_only_where_the_policy_asks(held, cost, word, state, reason):
    """Slower fails under `cost: ok`, and is only reported elsewhere."""
    why = "one-run-only" if word == "unknown" else None
    cost_of_run = None if word is None else builders.cost(verdict=word, reason=why, ratio=1.5)
    outcome = on("cpu", cost=cost_of_run)
    assert held(f"{{scenarios: digits, on: cpu{cost}}}", outcome) == [
        ("digits", "cpu", state, reason)
    ]


@pytest.mark.parametrize("reason", CostReason)
def test_a_gate_says_why_a_cost_was_not_compared(held, reason):
    """In the words of the judge, whatever the reason."""
    cost = builders.cost(verdict="unknown", reason=reason, side="this run", detail="heat")
    ((_, _, state, why),) = held("{scenarios: digits, on: cpu, cost: ok}", on("cpu", cost=cost))
    assert state == "unverified"
    assert why.endswith(f": its cost was not compared: {reasons.cost_is_unknown(cost)}")


def test_the_cost_of_a_case_that_did_not_pass_is_not_asked_for(held):
    """A case that could not run on one machine has no cost there."""
    outcomes = [on("", "unverified"), on("nvidia-h200", cost=builders.cost())]
    (found,) = held("{scenarios: digits, on: cuda, cost: ok}", *outcomes)
    assert found[2] == "passes"


def test_patterns_and_device_kinds_multiply_and_one_that_fits_nothing_is_unverified(held):
    """Every fitting scenario is held on every device kind; a misspelt pattern is seen."""
    outcomes = [on("cpu", name="sd-b"), on("cpu", name="sd-a"), H200]
    assert held(
        "[{scenarios: [sd-*, unclip], on: [cpu, cuda]}, {scenarios: digits, on: cuda}]", *outcomes
    ) == [
        ("sd-a", "cpu", "passes", "identical"),
        ("sd-b", "cpu", "passes", "identical"),
        ("sd-*", "cuda", "unverified", UNSEEN),
        ("unclip", "cpu", "unverified", UNSEEN),
        ("unclip", "cuda", "unverified", UNSEEN),
        ("digits", "cuda", "passes", "identical"),
    ]


def test_no_results_at_all_open_no_gate(held):
    """A release whose runs were lost is not verified."""
    assert held("{scenarios: '*', on: cpu}") == [("*", "cpu", "unverified", UNSEEN)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "description: nothing\n",
            "{path}:1:\n  expected: the key `require`\n  found:    no such key",
        ),
        (
            "require:\n  - scenarios: digits\n    on: cpu\n    devices: cuda\n",
            (
                "{path}:4: `require[0].devices`\n  expected: one of `scenarios`, `on`, `dtype`, "
                "`cost`, `accuracy`, `detection-rate`\n  found:    `devices`"
            ),
        ),
        (
            "require:\n  - {scenarios: digits, on: cpu}\n  - {scenarios: digits}\n",
            "{path}:3: `require[1]`\n  expected: the key `on`\n  found:    no such key",
        ),
        (
            "require:\n  - {scenarios: digits, on: cpu, cost: good}\n",
            "{path}:2: `require[0].cost`\n  expected: one of `ok`\n  found:    `good`",
        ),
        (
            "require: []\n",
            "{path}:1: `require`\n  expected: at least one item\n  found:    an empty list",
        ),
    ],
    ids=["requires-nothing", "unknown-key", "no-device-kind", "unknown-cost", "empty-list"],
)
def test_a_mistake_in_a_policy_is_refused_with_its_line(tmp_path, text, message):
    """A policy is read as strictly as a scenario."""
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        read_policy(path, [])
    assert str(caught.value) == message.format(path=path)


REMEDY = "`harness challenge --write` measures one"


@pytest.mark.parametrize(
    ("rate", "state", "reason"),
    [
        (builders.detection_rate(19, 20), "passes", "identical"),
        (
            builders.detection_rate(18, 20),
            "unverified",
            "digits[cpu-float32]: its bounds catch 18 of 20 known faults; 95% are required",
        ),
        (
            None,
            "unverified",
            f"digits[cpu-float32]: its baseline has no detection rate; {REMEDY}",
        ),
    ],
    ids=["enough", "too-few", "none"],
)
def test_a_gate_can_require_proof_that_tolerances_catch_faults(held, rate, state, reason):
    """A baseline's detection rate says how many of the known faults its bounds catch."""
    outcome = on("cpu", baseline=builders.judged_by(detection_rate=rate))
    assert held("{scenarios: digits, on: cpu, detection-rate: 0.95}", outcome) == [
        ("digits", "cpu", state, reason)
    ]


def test_a_detection_rate_is_asked_only_of_outcomes_with_a_baseline(held):
    """A control that must vary has none, and no bounds either."""
    (found,) = held("{scenarios: digits, on: cpu, detection-rate: 0.95}", on("cpu", "varies"))
    assert found[2:] == ("passes", "varies")


def test_what_fails_comes_before_what_was_not_verified(held):
    """The rules are asked in one order, whatever the order of the outcomes."""
    worst = on("cpu", "drifted", dtype="float16")
    unknown = on("cpu", cost=builders.cost(verdict="unknown", reason="no-bounds"))
    for outcomes in ((worst, unknown), (unknown, worst)):
        (found,) = held("{scenarios: digits, on: cpu, cost: ok}", *outcomes)
        assert found[2] == "fails"


def test_every_case_of_the_release_must_have_been_seen(tmp_path):
    """A scenario on two dtypes, of which one was run, keeps the gate closed without being asked."""
    path = tmp_path / "policy.yaml"
    path.write_text("require: {scenarios: 'd*', on: cpu}\n", encoding="utf-8")
    cases = [builders.case(), builders.case(dtype="float16"), builders.case("cuda")]
    (found,) = hold(read_policy(path, cases), [on("cpu")])
    reason = "no run of digits[cpu-float16] among the results"
    assert (found.scenario, found.state, found.reason) == ("digits", "unverified", reason)


def test_a_scenario_that_was_never_run_is_found_by_a_pattern(tmp_path):
    """Patterns mean the scenarios of the release, and not those that happen to be in the runs."""
    path = tmp_path / "policy.yaml"
    path.write_text("require: {scenarios: '*', on: cpu}\n", encoding="utf-8")
    cases = [builders.case(), builders.case(name="forgotten")]
    found = hold(read_policy(path, cases), [on("cpu")])
    assert [(each.scenario, each.state) for each in found] == [
        ("digits", "passes"),
        ("forgotten", "unverified"),
    ]


MOVED = {"image": Drift(1e-6, 1e-6, 1.0, 1.0, 1, 4, (0,), 0.5, 0.25)}
NAME = "scheduler.step#3/sample"


@pytest.mark.parametrize(
    ("accuracy", "state", "reason"),
    [
        ((builders.accuracy(),), "passes", "within"),
        ((builders.accuracy("better", 1e-7),), "passes", "within"),
        (
            (builders.accuracy(), builders.accuracy("worse", 8e-7)),
            "fails",
            f"digits[cpu-float32]: less accurate: {NAME}, 4 times the baseline's error",
        ),
        (
            (builders.accuracy("unknown", reason=AccuracyReason.LOWER_PRECISION, detail="aten.x"),),
            "unverified",
            (
                f"digits[cpu-float32]: its accuracy is unknown: {NAME}: its evaluation in float64 "
                "computes with less in aten.x"
            ),
        ),
        (
            (),
            "unverified",
            (
                "digits[cpu-float32]: no stage was evaluated in float64; `harness run --accuracy` "
                "does that"
            ),
        ),
    ],
    ids=["no-worse", "better", "worse", "unknown", "not-evaluated"],
)
def test_a_gate_can_require_that_nothing_became_less_accurate(held, accuracy, state, reason):
    """What is not known blocks as what is worse does."""
    outcome = on("cpu", "within", outputs=MOVED, accuracy=accuracy)
    assert held("{scenarios: digits, on: cpu, accuracy: no-worse}", outcome) == [
        ("digits", "cpu", state, reason)
    ]


def test_accuracy_blocks_only_where_the_policy_asks_for_it(held):
    """A case may be within its tolerance and less accurate."""
    outcome = on("cpu", "within", outputs=MOVED, accuracy=(builders.accuracy("worse", 8e-7),))
    (found,) = held("{scenarios: digits, on: cpu}", outcome)
    assert found[2] == "passes"


def test_a_good_accuracy_turns_no_failure_into_a_pass(held):
    """A case that drifted and is better still fails."""
    better = (builders.accuracy("better", 1e-8),)
    outcome = on("cpu", "drifted", outputs=MOVED, accuracy=better)
    (found,) = held("{scenarios: digits, on: cpu, accuracy: no-worse}", outcome)
    assert found[2] == "fails"


def test_what_did_not_move_needs_no_evaluation(held):
    """The same bits are as accurate as before."""
    (found,) = held("{scenarios: digits, on: cpu, accuracy: no-worse}", on("cpu"))
    assert found[2] == "passes"
