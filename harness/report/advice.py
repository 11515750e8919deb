"""Owns which command a report advises: decided by the reason of an outcome, never by its words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import join

from harness.errors import UsageError
from harness.records import Outcome, Reason, Verdict
from harness.scenario.select import compile_expression

DEFAULT_STORE = "baselines"  # which commands use unasked
DEFAULT_SCENARIOS = "scenarios"

# Verdicts whose recording `harness accept` may make the baseline.
ACCEPTABLE_VERDICTS = (
    Verdict.DRIFTED,
    Verdict.STALE,
    Verdict.MISSING,
    Verdict.INCOMPARABLE,
    Verdict.WITHIN,
)

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
    if _is_of_two_runs(outcome):
        return ""
    if outcome.test:
        return _in_pytest(outcome)
    if outcome.reason is Reason.NO_BASELINE:
        return _record(outcome)
    if outcome.reason is Reason.OFF_PUBLISHED_VALUE and outcome.path:
        return f"correct `published` in {outcome.path}, if the output is right"
    if outcome.reason is Reason.NO_TOLERANCE and outcome.path:
        return f"{_calibrate(outcome)}; or {_accept(outcome, run)}"
    return _accept(outcome, run) if outcome.reason in ACCEPTABLE else ""


def explanation(outcome: Outcome, run: Path) -> str:
    """Return the command that explains a drift; empty where nothing was compared and moved."""
    by_contract = outcome.reason is Reason.CONTRACT_BROKEN
    if outcome.changed_by is not None and not outcome.test:
        return join(["harness", "explain", str(run), outcome.case, *_store(outcome)])
    if outcome.verdict is not Verdict.DRIFTED or (outcome.baseline is None and not by_contract):
        return ""
    if _is_of_two_runs(outcome) or outcome.test:  # only its test can make the object again
        return ""
    return join(["harness", "explain", str(run), outcome.case, *_store(outcome)])


def reproduction(outcome: Outcome) -> str:
    """Return the command that runs a case again; empty where its scenario's file is not known."""
    if outcome.test:
        return join(["pytest", outcome.test])
    if not outcome.path:
        return ""
    return join(["harness", "run", outcome.path, *_chosen(outcome)])


def next_step_of_group(group: Sequence[Outcome], outcomes: Sequence[Outcome], run: Path) -> str:
    """Return what to do about all cases of one cause, as one command; empty where none helps.

    Args:
        group: The cases, all of one run.
        outcomes: Everything that the run holds, from which the command must choose these cases.
        run: The folder of the run.
    """
    if any(outcome.test for outcome in group):
        return ""
    chosen = ["-k", expression_for(group, outcomes), *_store(group[0])]
    paths = sorted({outcome.path for outcome in group if outcome.path})
    reasons = {outcome.reason for outcome in group}
    if reasons == {Reason.NO_BASELINE}:
        return join(["harness", "record", *paths, *chosen])
    if not reasons <= set(ACCEPTABLE) or any(map(_is_of_two_runs, group)):
        return ""
    scenarios = ["--scenarios", *paths] if _are_elsewhere(paths) else []
    command = join(["harness", "accept", str(run), *chosen, *scenarios, "--reason", "TEXT"])
    return f"{command}, if the new outputs are right"


def expression_for(chosen: Sequence[Outcome], outcomes: Iterable[Outcome]) -> str:
    """Return what `-k` must be given to choose some outcomes among all that could be accepted.

    That is a tag, the names of scenarios, or else the ids of the cases.
    """
    others = [outcome for outcome in outcomes if outcome.verdict in ACCEPTABLE_VERDICTS]
    wanted = {outcome.case for outcome in chosen}
    tags = sorted(set.intersection(*(set(outcome.tags) for outcome in chosen)))
    scenarios = dict.fromkeys(f"{outcome.scenario}[" for outcome in chosen)
    for expression in (*tags, " or ".join(scenarios)):
        if _chosen_by(expression, others) == wanted:
            return expression
    return " or ".join(sorted(wanted))


def _chosen_by(expression: str, outcomes: Iterable[Outcome]) -> set[str]:
    """Return the cases that `-k` would choose; none where it could not read the expression.

    Names in the results of another machine need not be such as this harness admits.
    """
    try:
        admits = compile_expression(expression)
    except UsageError:
        return set()
    return {outcome.case for outcome in outcomes if admits((outcome.case, *outcome.tags))}


def _are_elsewhere(paths: Sequence[str]) -> bool:
    """Whether a scenario lies outside the folder in which commands look unasked."""
    return any(DEFAULT_SCENARIOS not in map(str, Path(path).parents) for path in paths)


def _is_of_two_runs(outcome: Outcome) -> bool:
    """Whether another run judged the outcome; then there is no baseline to explain or replace."""
    return outcome.baseline is not None and bool(outcome.baseline.run)


def _in_pytest(outcome: Outcome) -> str:
    """Return how pytest writes the baseline of an object that a test holds."""
    if outcome.reason is Reason.NO_BASELINE:
        return join(["pytest", outcome.test, "--harness-update"])
    if outcome.reason not in ACCEPTABLE:
        return ""
    command = join(["pytest", outcome.test, "--harness-accept", "--harness-reason", "TEXT"])
    return f"{command}, if the new output is right"


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
