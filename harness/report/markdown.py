"""Owns a run as Markdown, for a pull request or the summary of a CI job.

Whatever a scenario, a library or another machine wrote stays text there: see `report.safe_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import Outcome, Verdict
from harness.report import variants, wording
from harness.report.safe_text import markdown_block, markdown_code, markdown_text
from harness.report.study_report import OVERHEAD_HEADINGS, overhead_row
from harness.store.recording import Environment

if TYPE_CHECKING:
    from harness.study.overhead import Overhead


def markdown(
    outcomes: Sequence[Outcome],
    environment: Environment | None,
    run: Path,
    overheads: Sequence[Overhead] = (),
) -> str:
    """Return a run as a Markdown document.

    Args:
        outcomes: Of the run, in any order.
        environment: Where the run was recorded; None where no case left a recording.
        run: Its folder.
        overheads: What `harness cost` measured in the same folder.
    """
    outcomes = sorted(outcomes, key=_case_of)
    parts = [
        f"# {wording.summary(outcomes)}",
        _where(environment),
        _table_of(outcomes),
        _variants(outcomes),
        _failures(outcomes, run),
        _list("Cost", wording.costs(outcomes)),
        _list("Not checked", wording.not_checked(outcomes)),
        _overheads(overheads),
        _meanings(outcomes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns that are empty in every row are left out."""
    used = [index for index, _ in enumerate(headings) if any(row[index] for row in rows)]
    lines = [
        [headings[index] for index in used],
        ["---"] * len(used),
        *([markdown_text(row[index]) for index in used] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _case_of(outcome: Outcome) -> str:
    return outcome.case.removesuffix("]")  # a variant comes after its base


def _where(environment: Environment | None) -> str:
    """Return the numerics class, the machine and the versions; empty where they are not known."""
    if environment is None:
        return ""
    numerics_class = markdown_code(environment.numerics_class.name)
    machine = [str(environment.hardware.get("cpu", "an unknown CPU"))]
    if "name" in environment.gpu:
        machine.append(str(environment.gpu["name"]))
    versions = [f"{name} {version}" for name, version in sorted(environment.versions.items())]
    facts = markdown_text(f"{', '.join(machine)}; {', '.join(versions)}")
    return f"Class {numerics_class} on {facts}."


def _table_of(outcomes: Sequence[Outcome]) -> str:
    shown = [outcome for outcome in outcomes if outcome.verdict is not Verdict.UNVERIFIED]
    if not shown:
        return ""
    return markdown_table(wording.HEADINGS, [wording.row(outcome) for outcome in shown])


def _variants(outcomes: Sequence[Outcome]) -> str:
    """Return what each variant is held to, what it buys and what it costs."""
    rows = variants.rows(outcomes)
    if not rows:
        return ""
    parts = [
        "## Variants",
        "Each is held against another case of this run.",
        markdown_table(variants.HEADINGS, rows),
    ]
    notes = "\n".join(f"- {markdown_text(f'seconds: {line}')}" for line in variants.notes(outcomes))
    return "\n\n".join(part for part in (*parts, notes) if part)


def _failures(outcomes: Sequence[Outcome], run: Path) -> str:
    texts = wording.failures(outcomes, run)
    if not texts:
        return ""
    return "\n\n".join(["## Failures", *map(markdown_block, texts)])


def _list(heading: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"- {markdown_text(line)}" for line in lines)
    return f"## {heading}\n\n{items}"


def _overheads(overheads: Sequence[Overhead]) -> str:
    if not overheads:
        return ""
    table = markdown_table(OVERHEAD_HEADINGS, [overhead_row(each) for each in overheads])
    return f"## The overhead of determinism\n\n{table}"


def _meanings(outcomes: Sequence[Outcome]) -> str:
    """Return what each verdict of the run means."""
    used = {outcome.verdict for outcome in outcomes}
    items = [f"- `{verdict}`: {wording.MEANING[verdict]}" for verdict in Verdict if verdict in used]
    return "\n".join(["## Words\n", *items])
