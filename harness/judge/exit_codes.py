"""From many outcomes to the exit code of a run or of a step of `git bisect`."""

from __future__ import annotations

from collections.abc import Iterable

from harness.records import Outcome, Verdict

MOVED = (Verdict.DRIFTED, Verdict.UNREPEATABLE, Verdict.INCOMPARABLE)
GIT_GOOD, GIT_BAD, GIT_SKIP = 0, 1, 125


def exit_code(outcomes: Iterable[Outcome], *, strict: bool) -> int:
    """Return 0 if something was verified and nothing fails, 1 if something fails, else 3.

    Args:
        outcomes: Of one run or of several. A case that could not run on one machine is verified
            where it passes on another.
        strict: Whether a single case that was not verified is too little to return 0.
    """
    outcomes = list(outcomes)
    if any(outcome.fails for outcome in outcomes):
        return 1
    asked = {outcome.case for outcome in outcomes}
    verified = {outcome.case for outcome in outcomes if outcome.passes}
    too_little = not verified or (strict and verified < asked)
    return 3 if too_little else 0


def git_code(outcomes: Iterable[Outcome]) -> int:
    """Return what `git bisect run` reads: bad if an output moved, good if all are verified."""
    outcomes = list(outcomes)
    if any(outcome.verdict in MOVED for outcome in outcomes):
        return GIT_BAD
    return GIT_GOOD if all(outcome.passes for outcome in outcomes) else GIT_SKIP
