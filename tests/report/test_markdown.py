"""A run as Markdown, read back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from examples import DRIFTED, IDENTICAL, NOT_HERE, OUTCOMES, RUN

from harness.records import Difference, DifferenceKind, Outcome
from harness.report import wording
from harness.report.markdown import MOST_CHARACTERS, markdown, markdown_table
from harness.report.runs import Run

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
    found = sections(markdown([Run(RUN, tuple(OUTCOMES[::-1]), ENVIRONMENT)]))
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
    assert list(sections(markdown([Run(RUN, (IDENTICAL,))]))) == ["1 case: 1 identical", "Words"]


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
    text = markdown([Run(RUN, (failed, skipped), environment)])
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


def many(count: int, **changes: object) -> tuple[Outcome, ...]:
    """Return drifted cases, each of a cause of its own, among as many that pass."""
    failing = [
        replace(
            DRIFTED,
            case=f"failing-{index}[cpu-float32]",
            first_difference=Difference(DifferenceKind.WEIGHTS, f"unet-{index}"),
            **changes,
        )
        for index in range(count)
    ]
    passing = [replace(IDENTICAL, case=f"aaa-{index}[cpu-float32]") for index in range(count)]
    return (*failing, *passing)


def test_a_long_summary_is_shortened_and_says_by_how_much():
    """A comment of GitHub takes 65,536 characters; what fails is left out last."""
    outcomes = many(1000)
    text = markdown([Run(RUN, outcomes, ENVIRONMENT)])
    assert MOST_CHARACTERS * 0.8 < len(text) <= MOST_CHARACTERS
    found = sections(text)
    shown = found["Failures"].count("```text\n")
    note = f"{1000 - shown} causes of failures are left out here; `results.json` has all."
    assert found["Failures"].endswith(note)
    _, _, table = found["2000 cases: 1000 identical, 1000 drifted"].partition("\n\n")
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert f"{2000 - len(rows)} cases are left out here" in table
    assert all("failing" in row for row in rows)
    assert list(found)[-1] == "Words"


def test_one_huge_message_does_not_hide_the_rest():
    """A library's message of a megabyte is cut, and the other cases are still there."""
    outcomes = (builders.outcome("error", message="x" * 10**6, log="y" * 10**6), *OUTCOMES)
    text = markdown([Run(RUN, outcomes)])
    assert len(text) <= MOST_CHARACTERS
    assert "characters left out)" in text
    assert text.count("```text\n") == 1 + sum(outcome.fails for outcome in OUTCOMES)


@pytest.mark.parametrize("most", [3_000, 10_000, 65_536])
def test_a_summary_never_exceeds_its_limit(most: int):
    """Also where every text is markup that must be escaped."""
    hostile = replace(DRIFTED, message="|`<b>\n::error::" * 500, log="\x1b[2J" * 5000)
    outcomes = tuple(replace(hostile, case=f"{'|' * 300}{index}") for index in range(50))
    skipped = tuple(replace(NOT_HERE[0], message=f"{'&' * 3000}{index}") for index in range(50))
    assert len(markdown([Run(RUN, outcomes + skipped, ENVIRONMENT)], most)) <= most


def test_several_runs_are_one_document():
    """Every machine is named, and each row says of which run it is."""
    runs = [Run(Path("runs/a"), (IDENTICAL,), ENVIRONMENT), Run(Path("runs/b"), (DRIFTED,))]
    found = sections(markdown(runs))
    where, _, table = found["2 cases: 1 identical, 1 drifted"].partition("\n\n")
    assert where.startswith("`runs/a`: class `cpu-a` on Xeon")
    names, _, *lines = map(cells, table.splitlines())
    assert names[:2] == ["run", "case"]
    assert [line[0] for line in lines] == ["runs/b", "runs/a"]
