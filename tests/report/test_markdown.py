"""A run as Markdown, read back."""

from __future__ import annotations

import re
from dataclasses import replace

import builders
from examples import IDENTICAL, NOT_HERE, OUTCOMES, RUN

from harness.report import wording
from harness.report.markdown import markdown, markdown_table

ENVIRONMENT = builders.environment(
    hardware={"cpu": "Xeon", "cores": 2, "gpu": {"name": "NVIDIA L4"}}
)


def sections(text: str) -> dict[str, str]:
    """Return the body of every section of a Markdown document by its heading.

    What stands under the title comes first.
    """
    _, *parts = re.split(r"^#+ (.+)\n", text, flags=re.MULTILINE)
    bodies = (body.strip("\n") for body in parts[1::2])
    return dict(zip(parts[::2], bodies, strict=True))


def plain(markup: str) -> str:
    """Return what a line of Markdown shows."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markup)


def cells(line: str) -> list[str]:
    """Return what the cells of a line of a table show."""
    return [plain(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_run_as_markdown_holds_all_that_the_terminal_shows():
    """Title, table, a fenced text per failure, what was not checked, and the words used."""
    found = sections(markdown(OUTCOMES[::-1], ENVIRONMENT, RUN))
    title = wording.summary(OUTCOMES)
    assert list(found) == [title, "Failures", "Cost", "Not checked", "Words"]
    where, _, table = found[title].partition("\n\n")
    assert where == "Class `cpu-a` on Xeon, NVIDIA L4; diffusers 0.36.0, torch 2.9.1."
    headings, rule, *lines = map(cells, table.splitlines())
    assert headings == list(wording.HEADINGS)
    assert rule == ["---"] * len(wording.HEADINGS)
    shown = sorted(
        (outcome for outcome in OUTCOMES if outcome not in NOT_HERE),
        key=lambda outcome: outcome.case,
    )
    assert [tuple(line) for line in lines] == [wording.row(outcome) for outcome in shown]
    fenced = re.findall(r"^```text\n(.*?)\n```$", found["Failures"], re.MULTILINE | re.DOTALL)
    failing = [outcome for outcome in shown if outcome.fails]
    assert fenced == [wording.paragraph(outcome, RUN) for outcome in failing]
    costs = [f"- {line}" for line in wording.costs(shown)]
    assert [plain(line) for line in found["Cost"].splitlines()] == costs
    assert plain(found["Not checked"]) == "- no CUDA device: x[cuda-float32], y[cuda-float32]"
    words = dict(re.findall(r"^- `(\w+)`: (.+)$", found["Words"], re.MULTILINE))
    assert words == {str(each.verdict): wording.MEANING[each.verdict] for each in OUTCOMES}


def test_a_run_without_failures_has_no_section_for_them():
    """Nothing is said where there is nothing to say."""
    assert list(sections(markdown([IDENTICAL], None, RUN))) == ["1 case: 1 identical", "Words"]


def test_columns_that_are_empty_everywhere_are_left_out():
    """In a table of few facts."""
    table = markdown_table(("case", "cost", "peak"), [("a", "", "1"), ("b", "", "")])
    assert [cells(line) for line in table.splitlines()] == [
        ["case", "peak"],
        ["---", "---"],
        ["a", "1"],
        ["b", ""],
    ]


def test_hostile_names_and_logs_cannot_leave_their_place():
    """The headings of the document are its own, whatever a scenario or a library wrote."""
    hostile = "x\n\n# owned\n```\n| a | b |\n\x1b[2J[link](https://example.org)"
    failed = builders.outcome("error", message=hostile, log=hostile, case=hostile)
    skipped = builders.outcome("unverified", message=hostile, case=hostile)
    environment = replace(
        ENVIRONMENT, versions={hostile: hostile}, hardware={"cpu": hostile, "cores": 1}
    )
    text = markdown([failed, skipped], environment, RUN)
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^#+ (.+)$", outside, re.MULTILINE) == [
        "2 cases: 1 error, 1 unverified",
        "Failures",
        "Not checked",
        "Words",
    ]
    assert "\x1b" not in text
    assert "[link]" not in outside
    (table,) = re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE)
    assert len(table.splitlines()) == 3
