"""Owns annotations for GitHub: a line of a log that marks a line of a scenario in a pull request.

GitHub shows ten errors of a step, so there is one annotation for each cause, not for each case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from harness.errors import HarnessError
from harness.judge.cause import CauseGroup, by_cause
from harness.records import Outcome, Reason
from harness.report import causes
from harness.report.runs import Run, all_outcomes
from harness.report.safe_text import github_message, github_property, safe_line
from harness.scenario.fields import SHAPE
from harness.scenario.located_yaml import load
from harness.scenario.project import named_in_results

IN_GITHUB = "GITHUB_ACTIONS"  # the variable that GitHub sets in every job
MOST = 10  # errors that GitHub shows of one step
MOST_CHARACTERS = 4_000  # of a message

# The key of a scenario that a failure is about, by its reason.
KEYS = {
    Reason.OVER_BOUND: "tolerance",
    Reason.NO_TOLERANCE: "tolerance",
    Reason.OFF_PUBLISHED_VALUE: "published",
    Reason.EXPECTATION_BROKEN: "expect",
    Reason.OTHER_WEIGHTS: "checkpoint",
}


class Annotations(StrEnum):
    """Whether annotations are printed: where GitHub's variable is set, always, or never."""

    AUTO = "auto"
    GITHUB = "github"
    NONE = "none"


def wanted(choice: str, environment: Mapping[str, str]) -> bool:
    """Whether annotations are to be printed in a process with these variables."""
    if choice == Annotations.AUTO:
        return environment.get(IN_GITHUB) == "true"
    return choice == Annotations.GITHUB


def annotation_lines(runs: Sequence[Run]) -> list[str]:
    """Return one line for each cause of failures, at most as many as GitHub shows.

    The line is complete and safe: it must be printed as it is, alone on its line.
    """
    groups = by_cause(all_outcomes(runs))
    lines = [_annotation(group) for group in groups[:MOST]]
    if len(groups) > MOST:
        left = len(groups) - MOST + 1
        text = f"{left} more causes of failures are in the report"
        lines[-1] = f"::error title=harness::{github_message(text)}"
    return lines


def _annotation(group: CauseGroup) -> str:
    example = group.example
    title = causes.headline(group) if len(group.outcomes) > 1 else f"{group.verdict}"
    cases = ", ".join(outcome.case for outcome in group.outcomes)
    text = f"{safe_line(cases)}: {safe_line(example.message)}"[:MOST_CHARACTERS]
    where = {}
    if example.path:
        where = {"file": example.path, "line": str(line_of(example))}
    where["title"] = safe_line(f"harness: {title}")[:MOST_CHARACTERS]
    facts = ",".join(f"{key}={github_property(value)}" for key, value in where.items())
    return f"::error {facts}::{github_message(text)}"


def line_of(outcome: Outcome) -> int:
    """Return the line of the scenario that an outcome is about, counted from 1.

    It is the first line where the file cannot be read here, or has no such key.
    """
    try:
        _, place = load(named_in_results(outcome.path), SHAPE)
        members = place.members()
    except HarnessError:
        return 1
    edited = [edit.name.partition(".")[0] for edit in outcome.edits]
    for key in (*edited, KEYS.get(outcome.reason, "pipeline")):
        if key in members:
            return members[key][0].line
    return 1
