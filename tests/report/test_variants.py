"""The table of variants: what each is held to, what it buys and what it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from examples import DRIFT, L_INF, NOT_FINITE, STILL

from harness.records import (
    AccuracyVerdict,
    ContractKind,
    ContractOutcome,
    ContractState,
    CostReason,
    CostVerdict,
    Outcome,
    Reason,
    Stage,
    StageAccuracy,
    StageDrift,
)
from harness.report import variants
from harness.report.markdown import markdown
from harness.report.run_report import print_runs
from harness.report.runs import Run
from harness.report.terminal import console

RUN = Path("runs/nightly")
HELD = ContractOutcome(
    ContractKind.IDENTICAL,
    "identical",
    "digits[cpu-float32]",
    ContractState.HOLDS,
    "same bits as digits[cpu-float32]",
    same_bits=True,
    outputs={"image": STILL},
    cost=builders.cost(1.0, "faster", ratio=0.5),
    peak_bytes_expected=2 << 20,
)
MOVED = replace(
    HELD,
    kind=ContractKind.TOLERANCE,
    terms="l_inf <= 0.0001",
    state=ContractState.BROKEN,
    same_bits=False,
    outputs={"mask": STILL, "image": DRIFT},
    checks=(L_INF,),
    local=(
        StageDrift(Stage("scheduler.step", 0), "x", 1.0, 1e-7),
        StageDrift(Stage("scheduler.step", 1), "x", 1.0, 2e-7),
    ),
    accuracy=(StageAccuracy(Stage("unet", 0), "sample", AccuracyVerdict.WORSE),),
)


def variant(held: ContractOutcome | None, name: str = "other", **changes: object) -> Outcome:
    """Return the outcome of a variant."""
    verdict = "identical" if held is None or held.state is ContractState.HOLDS else "drifted"
    key = f"cpu-float32,{name}"
    made = builders.outcome(verdict)
    return replace(made, case=f"digits[{key}]", variant=name, contract=held, **changes)


def test_a_row_shows_drift_accuracy_seconds_and_memory_against_the_other_case():
    """The output and the stage that moved farthest; an unknown value is empty."""
    same, moved = variants.rows([builders.outcome(), variant(HELD), variant(MOVED, "moved")])
    assert dict(zip(variants.HEADINGS, same, strict=True)) == {
        "variant": "digits[cpu-float32,other]",
        "against": "cpu-float32",
        "contract": "identical",
        "state": "holds",
        "L-inf": "0",
        "rel L2": "0",
        "local rel L2": "",
        "accuracy": "",
        "seconds": "1.000",
        "ratio": "x0.50",
        "peak": "3 MiB",
        "more memory": "+1 MiB",
    }
    assert moved[2:8] == ("l_inf <= 0.0001", "broken", "9.77e-04", "7.13e-04", "2.00e-07", "worse")


def test_nothing_is_shown_without_contracts():
    """No heading, no empty table."""
    assert variants.rows([builders.outcome(), variant(None)]) == []
    assert "Variants" not in markdown([Run(RUN, (variant(None),))])


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (CostReason.NO_BOUNDS, "x0.50"),
        (CostReason.OTHER_WORK, "unknown"),
        (CostReason.ONE_RUN_ONLY, "unknown"),
        (CostReason.OTHER_MACHINE, "unknown"),
        (CostReason.SLOWED_DOWN, "unknown"),
    ],
)
def test_seconds_that_cannot_be_compared_are_unknown_and_the_reason_is_said(reason, shown):
    """A ratio is shown only where it says something of the two cases."""
    cost = builders.cost(1.0, "unknown", reason, ratio=0.5, side="the variant", detail="x")
    outcome = variant(replace(HELD, cost=cost))
    ((*_, ratio, _, _),) = variants.rows([outcome])
    assert ratio == shown
    assert len(variants.notes([outcome])) == (shown == "unknown")


def test_a_value_that_is_not_finite_comes_first():
    """NaN is worse than any number."""
    outputs = {"image": DRIFT, "audio": NOT_FINITE}
    ((*cells,),) = variants.rows([variant(replace(MOVED, outputs=outputs))])
    assert cells[4] == f"{math.nan:.2e}"


def test_a_case_that_left_no_recording_has_no_numbers():
    """The other case was lost."""
    lost = ContractOutcome(
        ContractKind.IDENTICAL, "identical", "a[b]", ContractState.UNVERIFIED, "because"
    )
    ((*cells,),) = variants.rows([variant(lost)])
    assert cells[1:4] == ["b", "identical", "unverified"]
    assert not any(cells[4:])


def test_both_reports_show_the_table_and_what_breaks_a_contract(capsys):
    """The terminal and Markdown say the same."""
    cost = builders.cost(1.0, str(CostVerdict.UNKNOWN), CostReason.ONE_RUN_ONLY)
    broken = variant(replace(MOVED, cost=cost), "moved", reason=Reason.CONTRACT_BROKEN)
    outcomes = [builders.outcome(), variant(HELD), broken]
    runs = [Run(RUN, tuple(outcomes))]
    print_runs(console(), runs)
    printed, page = capsys.readouterr().out, markdown(runs)
    for text in (printed, page):
        assert "this run" in text
        assert "contract: l_inf <= 0.0001, against digits[cpu-float32]" in text
        assert "over:     image l_inf = 9.766e-04, bound 1.000e-04" in text
        assert "one run only, which warms up" in text
    assert "variants, against other cases of this run:" in printed
    assert "## Variants" in page
