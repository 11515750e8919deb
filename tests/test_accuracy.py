"""Accuracy from end to end: planted changes of arithmetic, evaluated in float64 and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.judge.accuracy import deciding
from harness.records import AccuracyReason, AccuracyVerdict, Reason, StageAccuracy, Verdict
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.session import Session, WhenEvaluated
from harness.store.baselines import Store

MATRIX = {"component": "unet", "modules": "matrix"}
TWO_STEPS = "{num_inference_steps: 2, output_type: np}"
CPU_DISPATCH = ("ATEN_CPU_CAPABILITY", "default")

Judge = Callable[..., StageAccuracy]


def judged(session: Session, base: Case, changed: Case) -> StageAccuracy:
    """Return the worst stage of a changed case that is held against the bits of another one."""
    recording = session.record(replace(base, detail={"stage": ""}))
    expected = session.store.read(session.store.write(base, recording, "planted"))
    actual = session.record(replace(changed, detail={"stage": ""}))
    worst = deciding(session.accuracy(changed, actual, expected))
    assert worst is not None
    return worst


@pytest.fixture
def plant(shop: Any) -> Iterator[Judge]:
    """Return how a fault, or other changes of the smallest case, are judged."""
    with Session(Store(shop.root / "baselines"), shop.root / "run") as session:

        def look(fault: dict[str, Any] | None = None, **changes: str) -> StageAccuracy:
            case = read(shop.scenario(call=TWO_STEPS, **changes)).cases()[0]
            return judged(session, case, replace(case, fault=fault))

        yield look


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ({**MATRIX, "kind": "wide"}, "no-worse"),
        ({**MATRIX, "kind": "sums", "how": "compensated", "inputs": 1}, "no-worse"),
        ({**MATRIX, "kind": "sums", "how": "reversed", "inputs": 16}, "no-worse"),
        ({"kind": "attention", "component": "unet"}, "no-worse"),
        ({**MATRIX, "kind": "sums", "how": "bfloat16", "inputs": 16}, "worse"),
        ({**MATRIX, "kind": "operands", "bits": 10, "at": 0.5}, "worse"),
        ({**MATRIX, "kind": "weights", "how": "bfloat16", "at": 0.5}, "worse"),
        ({**MATRIX, "kind": "outputs", "dtype": "bfloat16", "at": 0.5}, "worse"),
    ],
    ids=[
        "fused-kernels",
        "compensated-sums",
        "another-order",
        "flash-attention",
        "bfloat16-sums",
        "tf32-operands",
        "bfloat16-weights",
        "bfloat16-results",
    ],
)
def test_planted_changes_are_told_apart(plant: Judge, fault: dict[str, Any], verdict: str) -> None:
    """The last step of this scenario rounds more than its layers do, so that none is `better`."""
    assert plant(fault).verdict == verdict


@pytest.mark.parametrize(
    "fault", [{"kind": "sums", "how": "compensated", "inputs": 1}, {"kind": "wide"}]
)
def test_a_component_whose_layers_round_less_is_better(
    pooled: Any, tmp_path: Path, fault: dict[str, Any]
) -> None:
    """A VAE consists of little else than convolutions."""
    base = read(Path(__file__).parents[1] / "scenarios" / "sd-digits.yaml").cases()[0]
    call = {**base.scenario.call, "num_inference_steps": 1}
    base = replace(base, scenario=replace(base.scenario, call=call))
    changed = replace(base, fault={"component": "vae", "modules": "matrix", **fault})
    with Session(Store(tmp_path), tmp_path / "run") as session:
        worst = judged(session, base, changed)
    assert (worst.name, worst.verdict) == ("vae.decode#0/0", AccuracyVerdict.BETTER)


def test_another_cpu_dispatch_is_no_worse(plant: Judge, shop: Any) -> None:
    case = read(shop.scenario(call=TWO_STEPS)).cases()[0]
    with Session(Store(shop.root / "baselines"), shop.root / "run") as session:
        worst = judged(session, case, replace(case, settings=(CPU_DISPATCH,)))
    assert worst.verdict is AccuracyVerdict.NO_WORSE
    assert worst.own_error is not None
    assert worst.own_error < 1e-13


def test_a_case_in_float64_is_not_judged_by_an_evaluation_that_is_hardly_better(
    plant: Judge,
) -> None:
    """Its layers compute in float64, but its embedding of timesteps does so in float32."""
    fault = {**MATRIX, "kind": "sums", "how": "reversed", "inputs": 16}
    worst = plant(fault, cases="{dtype: float64}")
    assert worst.reason is AccuracyReason.OTHER_FUNCTION


def test_the_evaluation_leaves_no_trace_in_the_worker(plant: Judge, shop: Any) -> None:
    """The same worker gives the bits of the baseline after it evaluated in float64."""
    plant({**MATRIX, "kind": "weights", "how": "bfloat16", "at": 0.5})
    case = read(shop.scenario(call=TWO_STEPS)).cases()[0]
    with Session(Store(shop.root / "baselines"), shop.root / "again") as session:
        assert session.run(case).verdict is Verdict.IDENTICAL


@pytest.fixture
def drifted(shop: Any) -> Callable[..., Any]:
    """Return the outcome of a case with an injected fault, held against the same class."""
    case = read(shop.recorded(call=TWO_STEPS)).cases()[0]
    fault = {**MATRIX, "kind": "weights", "how": "bfloat16", "at": 0.5}

    def run(when: WhenEvaluated) -> Any:
        session = Session(Store(shop.root / "baselines"), shop.root / "run", evaluated=when)
        with session:
            return session.run(replace(case, fault=fault))

    return run


def test_a_case_that_drifted_is_evaluated_and_stays_drifted(drifted: Callable[..., Any]) -> None:
    outcome = drifted(WhenEvaluated.CHEAP)
    assert (outcome.verdict, outcome.reason) == (Verdict.DRIFTED, Reason.OTHER_BITS)
    worst = deciding(outcome.accuracy)
    assert worst is not None
    assert worst.verdict is AccuracyVerdict.WORSE


def test_a_case_is_not_evaluated_where_nobody_asks_for_it(drifted: Callable[..., Any]) -> None:
    assert drifted(WhenEvaluated.NEVER).accuracy == ()


def test_a_long_case_is_evaluated_only_where_asked_for(
    drifted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.session.CHEAP_SECONDS", -1.0)
    assert drifted(WhenEvaluated.CHEAP).accuracy == ()
    assert drifted(WhenEvaluated.ALWAYS).accuracy != ()


def test_what_float64_cannot_compute_is_unknown_with_its_reason(
    plant: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation that fails, as it does in MindSpore, is no error of the case."""
    evaluated = Case.evaluated

    def in_mindspore(case: Case, tensors: Path, form: str) -> Case:
        asked = evaluated(case, tensors, form)
        return replace(asked, env=("no-such-package==1.0",))

    monkeypatch.setattr(Case, "evaluated", in_mindspore)
    worst = plant({**MATRIX, "kind": "weights", "how": "bfloat16", "at": 0.5})
    assert worst.reason is AccuracyReason.NOT_EVALUATED
    assert worst.detail
