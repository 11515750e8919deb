"""Owns how `accept` tells what a night holds, by cause, and the message of the commit that follows.

Every line is safe to print, as those of `report.wording` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.judge.cause import CauseGroup, by_cause
from harness.records import Outcome
from harness.report.causes import headline
from harness.report.safe_text import safe_line

if TYPE_CHECKING:
    from rich.text import Text

HEADINGS = ("cause", "cases", "classes", "what")
NONE = "none"
SUBJECT = 72  # characters of the first line of a commit message


@dataclass(frozen=True)
class Replaced:
    """One baseline that was written: its case, its class, and the seals before and after.

    `before` is empty where there was none. `cause` is the id of the cause, and `what` its headline.
    """

    case: str
    numerics_class: str
    before: str
    after: str
    cause: str
    what: str


def cause_table(outcomes: Sequence[Outcome]) -> Text:
    """Return what failed by cause, each with the id that `--cause` takes."""
    from harness.report.terminal import table

    return table(HEADINGS, [_row(group) for group in by_cause(outcomes)])


def headlines_by_id(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the headline of each cause by its id."""
    return {group.id: headline(group) for group in by_cause(outcomes)}


def commit_message(reason: str, source: str, replaced: Sequence[Replaced]) -> str:
    """Return the message of the commit that brings new baselines.

    Args:
        reason: Why the new outputs are right.
        source: What was accepted, as the user named it.
        replaced: Each baseline that was written.
    """
    count = "1 baseline" if len(replaced) == 1 else f"{len(replaced)} baselines"
    subject = safe_line(f"Accept {count}: {reason}")
    lines = [subject if len(subject) <= SUBJECT else f"{subject[: SUBJECT - 3]}...", ""]
    lines += [safe_line(reason), "", safe_line(f"Recorded in {source}.")]
    causes = dict.fromkeys((each.cause, each.what) for each in replaced)
    for cause, what in causes:
        lines += ["", safe_line(f"Cause {cause}: {what}" if cause else what)]
        of_cause = [each for each in replaced if (each.cause, each.what) == (cause, what)]
        lines += [f"- {_line(each)}" for each in of_cause]
    return "\n".join(lines) + "\n"


def classes_of(group: CauseGroup) -> list[str]:
    """Return the numerics classes in which the cases of a cause ran, in alphabetical order."""
    return sorted({each.numerics_class for each in group.outcomes if each.numerics_class})


def _row(group: CauseGroup) -> tuple[str, ...]:
    classes = ", ".join(classes_of(group)) or NONE
    return group.id, str(len(group.outcomes)), classes, headline(group)


def _line(each: Replaced) -> str:
    before = each.before[:8] or NONE
    return safe_line(f"{each.case} on {each.numerics_class}: {before} -> {each.after[:8]}")
