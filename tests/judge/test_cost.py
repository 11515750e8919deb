"""Cost: a run's seconds held against the baseline's, on the same machine type alone."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest
from builders import figures

from harness.judge.cost import CHANGED, judge_cost, slowed_by
from harness.records import Cost, CostReason, CostVerdict
from harness.scenario.model import CostBounds

BOUNDS = CostBounds(slower=1.25, at_least_seconds=0.25)


@pytest.mark.parametrize(
    ("seconds", "before", "bounds", "verdict", "ratio"),
    [
        (2.0, 2.0, BOUNDS, "ok", 1.0),
        (2.5, 2.0, BOUNDS, "ok", 1.25),  # at the bound
        (2.75, 2.0, BOUNDS, "slower", 1.375),
        (1.5, 2.0, BOUNDS, "faster", 0.75),
        (2.0, 2.5, BOUNDS, "ok", 0.8),  # at the bound on the other side
        (1.75, 2.0, BOUNDS, "ok", 0.875),
        (0.375, 0.25, BOUNDS, "ok", 1.5),  # an eighth of a second is noise
        (0.375, 0.25, CostBounds(slower=1.25), "slower", 1.5),
        (9.0, 2.0, CostBounds(), "unknown", 4.5),
    ],
)
def test_a_change_of_cost_gets_its_word(made, seconds, before, bounds, verdict, ratio):
    """A change counts beyond both bounds; without bounds there is no word."""
    cost = judge_cost(made(cost=figures(seconds)), made(cost=figures(before)), bounds)
    assert cost == Cost(
        figures(seconds),
        CostVerdict(verdict),
        CostReason.NO_BOUNDS if verdict == "unknown" else None,
        ratio=ratio,
        baseline_seconds=before,
        baseline_step_seconds={"scheduler": before / 2},
    )


def test_without_a_baseline_there_are_figures_and_no_word(made):
    """What was measured is shown all the same."""
    cost = judge_cost(made(cost=figures(2.0)), None, BOUNDS)
    assert cost == Cost(figures(2.0), CostVerdict.UNKNOWN, CostReason.NO_BASELINE)


@pytest.mark.parametrize(
    ("actual", "expected", "side", "detail"),
    [
        (("heat", "power cap"), (), "this run", "heat"),
        ((), ("heat", "brake"), "the baseline", "brake, heat"),
        (("heat",), ("brake",), "this run", "heat"),
    ],
)
def test_a_gpu_that_was_held_down_says_nothing_of_cost(made, actual, expected, side, detail):
    """Heat and faults are not the code's doing, and which side suffered is told."""
    sides = made(cost=figures(9.0, *actual)), made(cost=figures(2.0, *expected))
    cost = judge_cost(*sides, BOUNDS)
    assert (cost.verdict, cost.reason, cost.ratio) == (
        CostVerdict.UNKNOWN,
        CostReason.SLOWED_DOWN,
        4.5,
    )
    assert (cost.side, cost.detail) == (side, detail)


@pytest.mark.parametrize("caps", [(), ("power cap",)])
def test_a_cap_on_power_excuses_nothing(made, caps):
    """Every long run of a large GPU meets it."""
    cost = judge_cost(made(cost=figures(9.0, *caps)), made(cost=figures(2.0, *caps)), BOUNDS)
    assert (cost.verdict, cost.reason) == (CostVerdict.SLOWER, None)
    assert slowed_by(figures(9.0, *caps)) == []


@pytest.mark.parametrize(
    ("actual", "expected", "verdict", "side"),
    [
        ((9.0, 2.0), (2.0, 0.0), "slower", ""),  # 7 seconds of its own are slower still
        ((9.0, 7.0), (2.0, 0.0), "unknown", "this run"),
        ((9.0, 12.0), (2.0, 0.0), "unknown", "this run"),  # several threads waited
        ((2.0, 0.0), (9.0, 7.0), "unknown", "the baseline"),
        ((2.0, 1.0), (9.0, 1.0), "faster", ""),
        ((2.0, 1.9), (2.0, 0.0), "ok", ""),
    ],
)
def test_a_run_that_waited_for_other_work_is_neither_slower_nor_faster(
    made, actual, expected, verdict, side
):
    """Where the wait explains the change, on either side; a change beyond it counts."""
    sides = [made(cost=figures(seconds, waited=waited)) for seconds, waited in (actual, expected)]
    cost = judge_cost(*sides, BOUNDS)
    assert (cost.verdict, cost.side) == (CostVerdict(verdict), side)
    assert (cost.reason is CostReason.OTHER_WORK) == (verdict == "unknown")


def test_a_baseline_that_knows_no_steps_and_no_conditions_still_judges_cost(made):
    """Those of older versions of the harness."""
    old = replace(figures(2.0), step_seconds={}, conditions=())
    cost = judge_cost(made(cost=figures(2.0)), made(cost=old), BOUNDS)
    assert (cost.verdict, cost.baseline_step_seconds) == (CostVerdict.OK, {})
    slower = judge_cost(made(cost=figures(9.0)), made(cost=old), BOUNDS)
    assert slower.verdict is CostVerdict.SLOWER


@pytest.mark.parametrize("alone_is_actual", [True, False], ids=["this-run", "the-baseline"])
def test_one_run_warms_up_and_is_no_measure(made, alone_is_actual):
    """On either side."""
    alone, timed = replace(figures(2.0), rounds_seconds=()), figures(1.0)
    actual, expected = (alone, timed) if alone_is_actual else (timed, alone)
    cost = judge_cost(made(cost=actual), made(cost=expected), BOUNDS)
    assert (cost.verdict, cost.reason, cost.ratio) == (
        CostVerdict.UNKNOWN,
        CostReason.ONE_RUN_ONLY,
        None,
    )


def test_a_scenario_that_bounds_no_cost_says_so_rather_than_that_it_ran_once(made):
    """It ran once because nobody asked for more."""
    once = replace(figures(1.0), rounds_seconds=())
    cost = judge_cost(made(cost=once), made(cost=once), CostBounds())
    assert (cost.verdict, cost.reason) == (CostVerdict.UNKNOWN, CostReason.NO_BOUNDS)


@pytest.mark.parametrize(
    ("changes", "machine"),
    [
        ({"hardware": {"cpu": "EPYC", "cores": 2}}, "EPYC x2"),
        ({"hardware": {"cpu": "Xeon", "cores": 4}}, "Xeon x4"),
        (
            {"hardware": {"cpu": "Xeon", "cores": 2, "gpu": {"name": "NVIDIA H200"}}},
            "NVIDIA H200 Xeon x2",
        ),
        ({"framework": "mindspore"}, "Xeon x2 mindspore"),
    ],
    ids=["cpu", "cores", "gpu", "framework"],
)
def test_another_machine_says_nothing_of_cost(made, changes, machine):
    """Seconds are compared within one machine type only, and the other one is named."""
    elsewhere = builders.environment("a", **changes)
    cost = judge_cost(made(), made(environment=elsewhere, cost=figures(0.1)), BOUNDS)
    assert (cost.verdict, cost.reason, cost.detail) == (
        CostVerdict.UNKNOWN,
        CostReason.OTHER_MACHINE,
        machine,
    )
    assert (cost.ratio, cost.figures.seconds) == (None, 2.0)


def test_only_slower_and_faster_are_changes():
    """Those are timed again; `ok` and `unknown` are not."""
    assert set(CHANGED) == set(CostVerdict) - {CostVerdict.OK, CostVerdict.UNKNOWN}
