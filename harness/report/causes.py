"""Owns how failures are told: one paragraph for each cause, whatever the number of cases and runs.

A paragraph is safe to print, as those of `report.wording` are.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.cause import CauseGroup, by_cause
from harness.records import Outcome
from harness.report import advice, batches, wording
from harness.report.runs import Run, all_outcomes, by_run
from harness.report.safe_text import safe_line

SHOWN_CASES = 12  # cases of one cause in its paragraph; the table has all of them


def failures(runs: Sequence[Run]) -> list[str]:
    """Return a paragraph for each cause of failures, the one with the most cases first."""
    return [paragraph(group, runs) for group in by_cause(all_outcomes(runs))]


def headlines(runs: Sequence[Run]) -> list[str]:
    """Return one line for each cause that several cases share."""
    groups = by_cause(all_outcomes(runs))
    return [safe_line(headline(group)) for group in groups if len(group.outcomes) > 1]


def not_checked(runs: Sequence[Run]) -> list[str]:
    """Return what was asked for and not verified: a line per reason, with its cases or files."""
    left_out = [line for run in runs for line in wording.left_out(run.scope)]
    return [*wording.not_checked(all_outcomes(runs)), *dict.fromkeys(left_out)]


def paragraph(group: CauseGroup, runs: Sequence[Run]) -> str:
    """Return what a person needs to act on all cases of one cause.

    A single case has its own paragraph.

    Args:
        group: The cases.
        runs: All runs of the report; the cases are of some of them.
    """
    example = group.example
    ((run, _),) = by_run([example], runs)
    if len(group.outcomes) == 1:
        return wording.paragraph(example, run.folder)
    lines = [headline(group), *_case_lines(group, runs), *_range_lines(group.outcomes)]
    lines += wording.cause_lines(group.causes)
    lines.append(f"  example:  {example.case}: {wording.first_line(example.message)}")
    lines += wording.searched_lines(example)
    for name, drift in example.outputs.items():
        lines += wording.output_lines(name, drift)
    lines += wording.over_lines(example)
    if example.changed_by is not None:
        lines += batches.paragraph_lines(example)
    if example.log:
        lines += wording.log_lines(example.log)
    explanation = advice.explanation(example, run.folder)
    if explanation:
        lines.append(f"  explain:  {explanation}")
    for run, chosen in by_run(group.outcomes, runs):
        next_step = advice.next_step_of_group(chosen, run.outcomes, run.folder)
        if next_step:
            lines.append(f"  next:     {next_step}")
    return "\n".join(map(safe_line, lines))


def headline(group: CauseGroup) -> str:
    """Return one line: `72 drifted, one cause: diffusers 0.25.1 -> 0.26.0, scheduler tables`."""
    count = f"{len(group.outcomes)} {group.verdict}"
    if not group.causes:
        return f"{count}: {wording.first_line(group.example.message)}"
    number = f"{len(group.causes)} causes at once" if group.has_several_causes else "one cause"
    return f"{count}, {number}: {' + '.join(map(wording.cause_words, group.causes))}"


def _case_lines(group: CauseGroup, runs: Sequence[Run]) -> list[str]:
    """Return a line of cases, one for each run where there are several."""
    found = by_run(group.outcomes, runs)
    names = [f"in {run.folder}: " if len(runs) > 1 else "" for run, _ in found]
    lines = [
        f"{name}{_listed([each.case for each in outcomes])}"
        for name, (_, outcomes) in zip(names, found, strict=True)
    ]
    return [f"  cases:    {lines[0]}", *(f"            {line}" for line in lines[1:])]


def _listed(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - SHOWN_CASES} more" if len(cases) > SHOWN_CASES else ""
    return f"{', '.join(cases[:SHOWN_CASES])}{more}"


def _range_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the case that moved least and the one that moved most, by the L-inf of an output."""
    moved = [
        (max(map(wording.distance, outcome.outputs.values())), outcome.case)
        for outcome in outcomes
        if outcome.outputs
    ]
    if not moved:
        return []
    (least, least_case), (most, most_case) = min(moved), max(moved)
    return [f"  L-inf:    {least:.2e} of {least_case} to {most:.2e} of {most_case}"]
