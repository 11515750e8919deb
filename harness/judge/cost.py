"""Holds a run's cost against its baseline's, within one machine type; says a word and why.

The word never changes a verdict. A change counts when it exceeds both bounds of the scenario, the
ratio `slower` and the absolute `at_least_seconds`: noise on a run of milliseconds exceeds the first
alone, a drift of a long run the second alone.
"""

from __future__ import annotations

from statistics import median

from harness.records import Cost, CostFigures, CostReason, CostVerdict
from harness.scenario.model import CostBounds
from harness.store.recording import Observed

CHANGED = (CostVerdict.SLOWER, CostVerdict.FASTER)
USUAL = ("power cap",)  # of what slows a GPU down: every long run of a large GPU meets it
THIS_RUN, THE_BASELINE = "this run", "the baseline"


def judge_cost(actual: Observed, expected: Observed | None, bounds: CostBounds) -> Cost:
    """Return the cost of `actual`: its figures, the ratio to the baseline, and a word.

    The word is `unknown` without a baseline or bounds, where heat or a fault held a GPU's clock
    down in either run, and where the change is no more than the time for which other work had the
    processor.
    """
    figures = actual.cost
    if expected is None:
        return Cost(figures, CostVerdict.UNKNOWN, CostReason.NO_BASELINE)
    if actual.environment.machine_type != expected.environment.machine_type:
        machine = expected.environment.machine_type
        return Cost(figures, CostVerdict.UNKNOWN, CostReason.OTHER_MACHINE, detail=machine)
    before = expected.cost
    if not (_is_steady(figures) and _is_steady(before)):
        asked_for = bounds.runs > 1
        why = CostReason.ONE_RUN_ONLY if asked_for else CostReason.NO_BOUNDS
        return Cost(figures, CostVerdict.UNKNOWN, why)
    verdict, reason, side, detail = _compare(figures, before, bounds)
    return Cost(
        figures,
        verdict,
        reason,
        side,
        detail,
        ratio=figures.seconds / before.seconds,
        baseline_seconds=before.seconds,
        baseline_step_seconds=before.step_seconds,
    )


def slowed_by(figures: CostFigures) -> list[str]:
    """Return what unusual held the clock of a GPU down while a recording was timed."""
    names = {name for conditions in figures.conditions for name in conditions.slowed_by}
    return sorted(names - set(USUAL))


def _compare(
    figures: CostFigures, before: CostFigures, bounds: CostBounds
) -> tuple[CostVerdict, CostReason | None, str, str]:
    """Return the word, why it is `unknown`, and the side and detail of that reason."""
    if bounds.slower is None:
        return CostVerdict.UNKNOWN, CostReason.NO_BOUNDS, "", ""
    for side, its in ((THIS_RUN, figures), (THE_BASELINE, before)):
        if slowed_by(its):
            detail = ", ".join(slowed_by(its))
            return CostVerdict.UNKNOWN, CostReason.SLOWED_DOWN, side, detail
    verdict = word_for(figures.seconds, before.seconds, bounds.slower, bounds.at_least_seconds)
    if verdict is CostVerdict.SLOWER:
        side, seconds, other = THIS_RUN, _unhindered(figures), before.seconds
    else:
        side, seconds, other = THE_BASELINE, figures.seconds, _unhindered(before)
    fair = word_for(seconds, other, bounds.slower, bounds.at_least_seconds)
    if verdict in CHANGED and fair is not verdict:
        return CostVerdict.UNKNOWN, CostReason.OTHER_WORK, side, str(verdict)
    return verdict, None, "", ""


def word_for(seconds: float, before: float, slower: float, at_least: float) -> CostVerdict:
    """Return what the seconds of two runs alone say, under the bounds of a scenario."""
    if abs(seconds - before) <= at_least:
        return CostVerdict.OK
    if seconds > slower * before:
        return CostVerdict.SLOWER
    if slower * seconds < before:
        return CostVerdict.FASTER
    return CostVerdict.OK


def _unhindered(figures: CostFigures) -> float:
    """Return the seconds of a run without those for which other work had the processor."""
    waited = [conditions.waited for conditions in figures.conditions]
    if not waited:
        waited = [0.0] * len(figures.rounds_seconds)
    own = [seconds - lost for seconds, lost in zip(figures.rounds_seconds, waited, strict=True)]
    return float(median(own))


def _is_steady(figures: CostFigures) -> bool:
    """Whether runs after the first one, which warms up, were timed."""
    return bool(figures.rounds_seconds) and figures.seconds > 0
