"""Owns how accuracy is worded: a line for a case, and a table of its worst stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge import reasons
from harness.judge.accuracy import deciding, worst_stages
from harness.records import AccuracyVerdict, Outcome, StageAccuracy

HEADINGS = ("case", "stage", "accuracy", "error", "baseline's error", "ratio", "why unknown")
# The columns that a narrow terminal leaves out, in the order in which it drops them.
SPARE = ("baseline's error", "error")
SHOWN_STAGES = 3  # of each case; results.json has all of them

WORDS = {
    AccuracyVerdict.BETTER: "better",
    AccuracyVerdict.NO_WORSE: "no worse",
    AccuracyVerdict.WORSE: "worse",
    AccuracyVerdict.UNKNOWN: "unknown",
}


def line(accuracy: Sequence[StageAccuracy]) -> str:
    """Return one line on the accuracy of a case; empty where no stage was evaluated."""
    worst = deciding(accuracy)
    if worst is None:
        return ""
    word = WORDS[worst.verdict]
    which = f"{worst.name}, the worst of {len(accuracy)} that moved"
    if worst.verdict is AccuracyVerdict.UNKNOWN:
        return f"{word}: {which}: {reasons.accuracy_is_unknown(worst)}"
    actual, expected, ratio = _figures(worst)
    return f"{word}: {which}: error {actual}, the baseline's {expected} ({ratio})"


def rows(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """Return a row for each of the worst stages of every case, in the order of `HEADINGS`."""
    return [
        (outcome.case, found.name, WORDS[found.verdict], *_figures(found), _why(found))
        for outcome in outcomes
        for found in worst_stages(outcome.accuracy)[:SHOWN_STAGES]
    ]


def _figures(found: StageAccuracy) -> tuple[str, str, str]:
    """Return both errors, in relative L2 against float64, and their ratio."""
    if found.actual_error is None or found.expected_error is None:
        return "", "", ""
    actual, expected = found.actual_error.rel_l2, found.expected_error.rel_l2
    return f"{actual:.2e}", f"{expected:.2e}", f"x{found.ratio:.3g}"


def _why(found: StageAccuracy) -> str:
    return reasons.accuracy_is_unknown(found)
