"""A run as Markdown, for a pull request or a CI job's summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import Outcome
from harness.report import wording as rows

if TYPE_CHECKING:
    from harness.study.overhead import Price


def markdown(
    outcomes: list[Outcome], environment: dict[str, Any], run: Path, prices: Sequence[Price] = ()
) -> str:
    """Return the run as a Markdown document, with the prices that were measured beside it."""
    outcomes = sorted(outcomes, key=lambda outcome: outcome.case)
    parts = [f"# {rows.summary(outcomes)}", _where(environment)]
    shown = [outcome for outcome in outcomes if outcome.verdict != "unverified"]
    if shown:
        parts.append(markdown_table(rows.HEADINGS, [rows.row(outcome) for outcome in shown]))
    failures = [rows.paragraph(outcome, run) for outcome in outcomes if outcome.fails]
    if failures:
        parts.append("## Failures\n\n" + "\n\n".join(f"```text\n{text}\n```" for text in failures))
    for heading, lines in (
        ("Cost", rows.costs(outcomes)),
        ("Not checked", rows.not_checked(outcomes)),
    ):
        if lines:
            parts.append(f"## {heading}\n\n" + "\n".join(f"- {line}" for line in lines))
    if prices:
        parts.append(
            "## The price of determinism\n\n"
            + markdown_table(rows.PRICE_HEADINGS, [rows.price(one) for one in prices])
        )
    used = sorted({outcome.verdict for outcome in outcomes})
    parts.append(
        "## Words\n\n" + "\n".join(f"- `{verdict}`: {rows.MEANING[verdict]}" for verdict in used)
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table; columns that are empty everywhere are left out."""
    used = [index for index, _ in enumerate(headings) if any(line[index] for line in lines)]
    made = [
        [headings[index] for index in used],
        ["---"] * len(used),
        *([line[index] for index in used] for line in lines),
    ]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in made
    )


def _where(environment: dict[str, Any]) -> str:
    if not environment:
        return ""
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(environment["versions"].items())
    )
    hardware = environment["hardware"]
    gpu = f", {hardware['gpu']['name']}" if "gpu" in hardware else ""
    return f"Class `{environment['class']['name']}` on {hardware['cpu']}{gpu}; {versions}."
