"""Owns which command a report advises: decided by the reason of an outcome, never by its words."""

from __future__ import annotations

from pathlib import Path
from shlex import join

from harness.records import Outcome, Reason, Verdict

DEFAULT_STORE = "baselines"  # which commands use unasked

# Reasons for which the output may be right, so that accepting it is one way on. A value that is
# not finite can never be accepted, and no baseline changes what a scenario says was published.
ACCEPTABLE = (
    Reason.OTHER_BITS,
    Reason.NO_TOLERANCE,
    Reason.OVER_BOUND,
    Reason.SCENARIO_EDITED,
    Reason.OTHER_WEIGHTS,
    Reason.OTHER_STRUCTURE,
)


def next_step(outcome: Outcome, run: Path) -> str:
    """Return what to do about an outcome, as the command to type; empty where no command helps.

    Args:
        outcome: What happened to a case.
        run: The folder of the run.
    """
    if outcome.reason is Reason.NO_BASELINE:
        return _record(outcome)
    if outcome.reason is Reason.OFF_PUBLISHED_VALUE and outcome.path:
        return f"correct `published` in {outcome.path}, if the output is right"
    if outcome.reason is Reason.NO_TOLERANCE and outcome.path:
        return f"{_calibrate(outcome)}; or {_accept(outcome, run)}"
    return _accept(outcome, run) if outcome.reason in ACCEPTABLE else ""


def explanation(outcome: Outcome, run: Path) -> str:
    """Return the command that explains a drift; empty where there is no drift from a baseline."""
    if outcome.verdict is not Verdict.DRIFTED or outcome.baseline is None:
        return ""
    return join(["harness", "explain", str(run), outcome.case, *_store(outcome)])


def _record(outcome: Outcome) -> str:
    path = [outcome.path] if outcome.path else []
    return join(["harness", "record", *path, *_chosen(outcome)])


def _calibrate(outcome: Outcome) -> str:
    command = join(["harness", "calibrate", outcome.path, *_chosen(outcome), "--write"])
    return f"{command}, to admit what other machines do"


def _accept(outcome: Outcome, run: Path) -> str:
    scenarios = ["--scenarios", outcome.path] if outcome.path else []
    reason = ["--reason", "TEXT"]
    command = join(["harness", "accept", str(run), *_chosen(outcome), *scenarios, *reason])
    return f"{command}, if the new output is right"


def _chosen(outcome: Outcome) -> list[str]:
    return ["-k", outcome.case, *_store(outcome)]


def _store(outcome: Outcome) -> list[str]:
    if outcome.store in ("", DEFAULT_STORE):
        return []
    return ["--baselines", outcome.store]
