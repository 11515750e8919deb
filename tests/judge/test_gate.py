"""From many outcomes to one word: exit codes of a run, and what a release's policy makes of many machines' runs."""

from __future__ import annotations

import builders
import pytest

from harness.errors import ScenarioError
from harness.judge.gate import Requirement, exit_code, gate_code, hold
from harness.records import Outcome

FAILING = ("drifted", "unrepeatable", "missing", "stale", "incomparable", "error")


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
    ],
)
def test_a_run_s_exit_code_follows_from_its_verdicts(verdicts, code, strict):
    """0: verified and passing; 1: something fails; 3: nothing fails but too little was seen."""
    outcomes = [builders.outcome(verdict) for verdict in verdicts]
    assert (exit_code(outcomes, strict=False), exit_code(iter(outcomes), strict=True)) == (
        code,
        strict,
    )


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
    """A requirement that was not verified keeps it closed, and so does a policy that requires nothing."""
    assert gate_code([Requirement("digits", "cpu", state, "") for state in states]) == code


@pytest.fixture
def held(tmp_path):
    """Return a function that writes a policy with one requirement and returns the lines of its verdict."""

    def judged(requirement: str, *outcomes):
        path = tmp_path / "policy.yaml"
        path.write_text(f"description: A release.\nrequire: {requirement}\n", encoding="utf-8")
        return [
            (line.scenario, line.on, line.state, line.reason) for line in hold(path, list(outcomes))
        ]

    return judged


def on(
    kind: str, verdict: str = "identical", name: str = "digits", dtype: str = "float32", **changes
):
    """Return an outcome of a machine of device kind `kind`; empty if it left no recording on a GPU."""
    device = "cpu" if kind == "cpu" else "cuda"
    return builders.outcome(verdict, name, f"{device}-{dtype}", device_kind=kind, **changes)


H200, L4 = on("nvidia-h200"), on("nvidia-l4")
UNSEEN = "no run of it among the results"
LOST = on("", "error", reason="the worker was killed")  # an error does not know which GPU it ran on


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
    """`cpu`, any GPU, or a model; one failing machine fails it, and one machine that could not run it does not matter."""
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
    """A gate must not pass what it never saw."""
    assert [
        line[2]
        for line in held("{scenarios: digits, on: cpu, dtype: [float32, float16]}", on("cpu"))
    ] == ["unverified"]


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
            "digits[cpu-float32]: its cost was not compared: WHY",
        ),
        ("", "slower", "passes", "identical"),
        ("", "unknown", "passes", "identical"),
    ],
)
def test_cost_closes_the_gate_only_where_the_policy_asks(held, cost, word, state, reason):
    """Slower fails under `cost: ok`, and is only reported elsewhere."""
    outcome = on("cpu", cost={"verdict": word, "ratio": 1.5, "why": "WHY"})
    assert held(f"{{scenarios: digits, on: cpu{cost}}}", outcome) == [
        ("digits", "cpu", state, reason)
    ]


def test_patterns_and_device_kinds_multiply_and_one_that_fits_nothing_is_unverified(held):
    """Every scenario that a pattern fits is held on every device kind; a misspelt pattern is seen."""
    outcomes = [on("cpu", name="sd-b"), on("cpu", name="sd-a"), H200]
    assert held(
        "[{scenarios: [sd-*, unclip], on: [cpu, cuda]}, {scenarios: digits, on: cuda}]", *outcomes
    ) == [
        ("sd-a", "cpu", "passes", "identical"),
        ("sd-b", "cpu", "passes", "identical"),
        ("sd-a", "cuda", "unverified", UNSEEN),
        ("sd-b", "cuda", "unverified", UNSEEN),
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
            "{path}:4: `require[0].devices`\n  expected: one of `scenarios`, `on`, `dtype`, `cost`, `certificate`\n  found:    `devices`",  # noqa: E501 (one message, whole)
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
        hold(path, [])
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("certificate", "state"),
    [
        ({"cross_class_caught": 19, "above_noise": 20}, "passes"),
        ({"cross_class_caught": 18, "above_noise": 20}, "unverified"),
        (None, "unverified"),
    ],
)
def test_a_gate_can_require_proof_that_tolerances_catch_faults(certificate, state, tmp_path):
    """A baseline's certificate says how many of the known faults its bounds catch; without one nothing is proven."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "require:\n  - {scenarios: ddim, on: cpu, certificate: 0.95}\n", encoding="utf-8"
    )
    baseline = {
        "class": "cpu-a",
        "same_class": True,
        "why": "",
        **({"certificate": certificate} if certificate else {}),
    }
    outcome = Outcome(
        "ddim[cpu-float32]",
        "ddim",
        "identical",
        "",
        place="cpu-float32",
        device_kind="cpu",
        baseline=baseline,
    )
    assert [held.state for held in hold(policy, [outcome])] == [state]
