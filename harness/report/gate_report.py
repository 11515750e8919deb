"""Owns how a gate's decision is told: one word, what blocks it by cause, and a table.

Every line is safe to print, as those of `report.wording` are. Nothing decides by these words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.gate.findings import Contradiction, Decision, Finding, Problem, Row, State
from harness.gate.record import Doubt, Mismatch
from harness.report.safe_text import safe_line

if TYPE_CHECKING:
    from rich.text import Text

OPEN, BLOCKED = "open", "blocked"
SHOWN = 12  # cases or runs of one finding; the record has all of them
HEADINGS = ("state", "on", "scenario", "cases", "seen")
LEAST_SCENARIO = 12  # columns of a narrow terminal that the name of a scenario keeps

# What each contradiction means; a detail follows where there is one.
CONTRADICTIONS = {
    Contradiction.OTHER_REASON: "for a reason that belongs to another verdict",
    Contradiction.FAILED_CHECK: "beside a check that fails",
    Contradiction.NO_EFFECT: "although an execution had no effect",
    Contradiction.NO_BASELINE: "and names no baseline",
    Contradiction.NO_OUTPUT: "and states no output",
    Contradiction.NO_CHECK: "and states no check",
    Contradiction.OUTPUT_MOVED: "beside an output that moved",
    Contradiction.NOT_FINITE: "beside an output that is not finite",
    Contradiction.NO_CONTRACT: "by a contract that it does not state",
    Contradiction.CONTRACT_BROKEN: "beside a contract that does not hold",
    Contradiction.CONTRACT_MOVED: "beside a contract that admits no difference, and outputs differ",
    Contradiction.BITS_OWED: "in the class of its baseline, where the same bits are owed",
    Contradiction.ACCURACY: "and an accuracy that its errors do not show",
    Contradiction.COST: "and a cost that its seconds do not show",
    Contradiction.LABELS: "and its scenario, target or variant is not that of its case",
    Contradiction.OTHER_DIGESTS: "but the digests of its outputs are not those of the baseline",
    Contradiction.SAME_DIGESTS: "but the digests of its outputs are those of the baseline",
    Contradiction.OTHER_COMPARISON: "by another kind of comparison than the store has for it",
    Contradiction.CHECK_MISSING: "without a check that the scenario asks for",
    Contradiction.VARIES_UNASKED: "but its scenario must not vary",
    Contradiction.MUST_VARY: "but its scenario must vary",
    Contradiction.NOTHING_PUBLISHED: "by a published value, and its scenario has none",
    Contradiction.NOT_REPEATABLE: "but its own runs differ",
}

# What each problem means, in terms of the fields of a finding.
WORDS = {
    Problem.FAILS: "{found}: {detail}",
    Problem.CONTRADICTS_ITSELF: "the result says `{expected}` {contradiction}",
    Problem.DUPLICATES_DISAGREE: (
        "several results of one case and class disagree, and owe each other the same bits: {found}"
    ),
    Problem.RECORDING_DISAGREES: "the result says `{expected}`, and the recording gives {found}",
    Problem.VERDICT_NOT_ALLOWED: "{found} by {detail}, where the policy allows {expected}",
    Problem.SLOWER: "slower: {found} times the baseline",
    Problem.OVER_BUDGET: "over the cost budget: {found}, at most {expected}",
    Problem.LESS_ACCURATE: "less accurate: {detail} has {found} times the baseline's error",
    Problem.NOT_RUN: "no result among the runs",
    Problem.COULD_NOT_RUN: "could not run: {detail}",
    Problem.COST_UNKNOWN: "the cost was not compared: {detail}",
    Problem.ACCURACY_UNKNOWN: "the accuracy is unknown: {detail}",
    Problem.NO_DETECTION_RATE: (
        "the baseline has no detection rate, and {expected} of known faults must be caught; "
        "`harness challenge --write` measures one"
    ),
    Problem.LOW_DETECTION_RATE: "the bounds catch {found} known faults; {expected} are required",
    Problem.OLD_DETECTION_RATE: "the detection rate is {found} days old; at most {expected}",
    Problem.SCENARIO_EDITED: "the scenario was edited after the run",
    Problem.TERMS_EDITED: (
        "the run held the outputs to other bounds, expectations or contracts than the scenario has"
    ),
    Problem.EVIDENCE_EDITED: "the evidence for the bounds was edited after the run",
    Problem.OTHER_BASELINE: (
        "judged by the baseline {expected}, and the store has {found}: the run is older than an "
        "accepted change, or was judged against another store"
    ),
    Problem.NEW_BASELINE: "judged without a baseline, and the store has {found}",
    Problem.BASELINE_GONE: "judged by a baseline of {expected} that the store does not have",
    Problem.BASELINE_DAMAGED: "the baseline cannot be used: {detail}",
    Problem.OLDER_THAN_BASELINE: (
        "the run ended at {found}, before its baseline was accepted at {expected}"
    ),
    Problem.NO_ENVIRONMENT: "the run does not say in which environment the case ran",
    Problem.NO_DIGESTS: "the result states no digests of outputs; run again with this harness",
    Problem.NO_RECORDING: "the verdict cannot be derived from the recording: {detail}",
    Problem.NO_TIME: "the run does not say when it was made",
    Problem.IN_FUTURE: "the run is dated {found}, in the future: a clock is wrong",
    Problem.ENDS_BEFORE_START: "the run ended before it began: {found}",
    Problem.TOO_OLD: "the run is {found} days old; at most {expected} are allowed",
    Problem.NO_COMMIT: "the commit of the run cannot be compared: {found}, here {expected}",
    Problem.OTHER_COMMIT: "the run is of commit {found}, and this is {expected}",
    Problem.MIXED_COMMITS: "the runs are of different commits: {found}",
    Problem.DIRTY: "the working tree of the run was changed, or cannot be told to be clean",
    Problem.DIRTY_HERE: "the working tree of the gate has changes that no commit holds",
    Problem.OTHER_HARNESS: "the run was made by harness {found}, and this is {expected}",
    Problem.NO_VERSION: "the run does not state its version; {expected} is required",
    Problem.OTHER_VERSION: "the run had {found}; {expected} is required",
    Problem.MIXED_VERSIONS: "the runs are of different releases of {expected}: {found}",
    Problem.UNREAD_SCENARIOS: "scenario files had mistakes, and none of their cases ran: {found}",
    Problem.SAME_RUN_TWICE: "the same run was given twice, also as {found}",
    Problem.DUPLICATE: "several results of one case and class agree: {found}",
    Problem.UNKNOWN_CASE: "the scenarios of the release have no such case",
    Problem.WAIVER_EXPIRED: "a waiver of {found} expired on {expected}: {detail}",
    Problem.WAIVER_UNUSED: "a waiver of {found} until {expected} was not needed: {detail}",
}
UNKNOWN = {
    Problem.COST_UNKNOWN: "none was measured",
    Problem.ACCURACY_UNKNOWN: (
        "no stage was evaluated in float64; `harness run --accuracy` does that"
    ),
    Problem.SLOWER: "an unknown number of",
    Problem.OLD_DETECTION_RATE: "an unknown number of",
}
SECTIONS = (
    (State.FAILS, "fails"),
    (State.UNVERIFIED, "not verified"),
    (State.WAIVED, "waived"),
    (State.PASSES, "to know"),
)


def word(decision: Decision) -> str:
    """Return the one word of a decision."""
    return OPEN if decision.is_open else BLOCKED


def sentence(finding: Finding) -> str:
    """Return what a finding says, without the case and the run that it is about."""
    unknown = UNKNOWN.get(finding.problem, "")
    detail = finding.detail.partition("\n")[0] or unknown
    told = WORDS[finding.problem].format(
        expected=finding.expected,
        found=finding.found or unknown,
        detail=detail,
        contradiction=_contradiction(finding),
    )
    if finding.owner:
        told = f"{_waived(finding)}: {finding.detail}"
    return safe_line(told)


def lines(decision: Decision) -> list[str]:
    """Return a decision in words: what fails, what was not verified, what was waived, the rest.

    Cases with the same finding are told together.
    """
    told = []
    found = (*decision.blocking, *decision.waived, *decision.notes)
    for state, heading in SECTIONS:
        groups = _grouped([each for each in found if each.state is state])
        if groups:
            told += ["", f"{heading}:"]
        for group in groups:
            told += _group(group)
    return told


def table(decision: Decision, width: int = 0) -> Text:
    """Return the requirements as a table, whose first columns are the state and the place.

    Args:
        decision: What was decided.
        width: How many columns the terminal has; 0 for no limit. In a narrow one the names of
            scenarios are shortened and the last columns left out. State and place never are.
    """
    from harness.report.terminal import table as make

    rows = [_cells(row) for row in decision.rows]
    if width:
        used = max((len(row[0]) + len(row[1]) for row in rows), default=0) + 4
        room = max(width - used, LEAST_SCENARIO)
        rows = [(row[0], row[1], _shortened(row[2], room), *row[3:]) for row in rows]
    return make(HEADINGS, rows, width=width, spare=("seen", "cases"))


def mismatch(found: Mismatch) -> str:
    """Return why a record does not hold, in one line."""
    subject = f"{found.what} {found.name}".strip()
    told = {
        Doubt.CHANGED: f"{subject} has changed: {found.expected} -> {found.found}",
        Doubt.GONE: f"{subject} is not there any more",
        Doubt.ADDED: f"{subject} was not there when the gate decided",
        Doubt.OTHER_DECISION: (
            f"the decision does not follow: the record says {found.expected}, and its evidence "
            f"gives {found.found}"
        ),
    }
    return safe_line(told[found.doubt])


def _cells(row: Row) -> tuple[str, ...]:
    seen = ", ".join(f"{count} {verdict}" for verdict, count in row.seen.items())
    return str(row.state), row.on, row.scenario, str(row.cases), seen or "nothing"


def _shortened(name: str, width: int) -> str:
    """Return a name of at most `width` characters; what is left out stands in the middle."""
    if len(name) <= width:
        return name
    start = (width - 3) // 2
    return f"{name[:start]}...{name[len(name) - (width - 3 - start) :]}"


def _grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        said = (finding.problem, finding.cause or sentence(finding), finding.found, finding.owner)
        groups.setdefault(said, []).append(finding)
    return sorted(groups.values(), key=lambda group: (group[0].state is State.PASSES, -len(group)))


def _group(group: Sequence[Finding]) -> list[str]:
    """Return a headline and the cases or runs of it."""
    first = group[0]
    count = f"{len(group)} times: " if len(group) > 1 else ""
    cause = f" (cause {first.cause})" if first.cause else ""
    told = [f"  {count}{sentence(first)}{cause}"]
    subjects = list(dict.fromkeys(filter(None, map(_subject, group))))
    told += [f"    {subject}" for subject in subjects[:SHOWN]]
    if len(subjects) > SHOWN:
        told.append(f"    and {len(subjects) - SHOWN} more")
    return told


def _subject(finding: Finding) -> str:
    """Return what a finding is about: a case, where, and in which run."""
    parts = [finding.case, f"on {finding.on}" if finding.on else ""]
    parts.append(f"in {finding.run}" if finding.run else "")
    return safe_line(" ".join(filter(None, parts)))


def _contradiction(finding: Finding) -> str:
    if finding.problem is not Problem.CONTRADICTS_ITSELF:
        return ""
    told = CONTRADICTIONS[Contradiction(finding.found)]
    detail = finding.detail.partition("\n")[0]
    return f"{told}: {detail}" if detail else told


def _waived(finding: Finding) -> str:
    what = finding.found if finding.problem is Problem.FAILS else str(finding.problem)
    return f"{what}, waived by {finding.owner} until {finding.until}"
