"""Owns a run as Markdown, for a pull request or the summary of a CI job.

Whatever a scenario, a library or another machine wrote stays text there: see `report.safe_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.records import Outcome, Verdict
from harness.report import accuracy, batches, variants, wording
from harness.report.causes import failures, not_checked
from harness.report.runs import Run, Shown, all_outcomes, with_figures
from harness.report.safe_text import markdown_block, markdown_code, markdown_text
from harness.report.study_report import OVERHEAD_HEADINGS, overhead_row

# What GitHub takes as one comment, in characters. A job's summary may have 1 MiB a step, and text
# of this length has at most 256 KiB in UTF-8, so that one limit serves both.
MOST_CHARACTERS = 65_536
# In a document that must be shortened, the most characters of one paragraph, line and cell.
MOST_OF_BLOCK, MOST_OF_LINE, MOST_OF_CELL = 6_000, 1_000, 200
NOTE_ROOM = 200  # characters of the note on what was left out


def markdown(runs: Sequence[Run], most: int = MOST_CHARACTERS) -> str:
    """Return runs as one Markdown document.

    A document that would be longer than `most` characters is shortened: whole causes, cases and
    lines are left out, failing cases last, and a note says how many.

    Args:
        runs: Of one machine type or of several.
        most: The most characters.
    """
    title = f"# {wording.summary(all_outcomes(runs))}"
    sections = _sections(runs, _Cut(None))
    whole = _document(title, [section.text() for section in sections])
    if len(whole) <= most:
        return whole
    sections = _sections(runs, _Cut(most))
    left = (
        most
        - len(title)
        - sum(len(section.frame + section.end) + NOTE_ROOM for section in sections)
    )
    texts = [""] * len(sections)
    for index in sorted(range(len(sections)), key=lambda index: sections[index].share):
        room = int(left * sections[index].share)
        texts[index] = sections[index].text(room)
        left -= min(room, sections[index].length)
    return _document(title, texts)


@dataclass(frozen=True)
class _Cut:
    """How long single texts may be; without a limit on the document, as long as they are."""

    most: int | None

    def __call__(self, text: str, most: int) -> str:
        if self.most is None or len(text) <= most:
            return text
        return f"{text[:most]} ... ({len(text) - most} characters left out)"


@dataclass(frozen=True)
class _Section:
    """A part of the document: a heading, items that may be left out, and texts that always stay.

    `frame` stands before the items, `end` after them.

    `share` is how much of the room that the sections with a smaller share left it may fill.
    """

    heading: str
    frame: str
    items: Sequence[str]
    glue: str
    what: str
    share: float
    end: str = ""

    @property
    def length(self) -> int:
        """How many characters all items have."""
        return sum(len(item) + len(self.glue) for item in self.items)

    def text(self, room: int | None = None) -> str:
        """Return the section with the items that `room` characters hold; empty without any."""
        if not self.items:
            return ""
        kept: list[str] = []
        for item in self.items:
            size = len(item) + len(self.glue)
            if room is not None and size > room:
                break
            room = None if room is None else room - size
            kept.append(item)
        body = self.frame + self.glue.join(kept)
        left = len(self.items) - len(kept)
        note = f"{left} {self.what} are left out here; `results.json` has all." if left else ""
        return "\n\n".join(
            part.strip("\n") for part in (self.heading, body, note, self.end) if part.strip()
        )


def _document(title: str, texts: Sequence[str]) -> str:
    return "\n\n".join([title, *(text for text in texts if text)]) + "\n"


def _sections(runs: Sequence[Run], cut: _Cut) -> list[_Section]:
    """Return the parts of the document in their order."""
    outcomes = all_outcomes(runs)
    several = len(runs) > 1
    where = [_where(run, cut, named=several) for run in runs]
    blocks = [markdown_block(cut(text, MOST_OF_BLOCK)) for text in failures(runs)]
    overheads = [overhead_row(each) for run in runs for each in run.overheads]
    costs, skipped = wording.costs(outcomes), not_checked(runs)
    return [
        _Section("", "", [text for text in where if text], "\n\n", "runs", 0.1),
        _table_section("", *_outcome_table(runs, cut), "cases", 1.0),
        _variants_section(outcomes, cut),
        _Section("## Failures", "", blocks, "\n\n", "causes of failures", 0.6),
        _table_section(
            "## Accuracy against float64",
            accuracy.HEADINGS,
            accuracy.rows(outcomes),
            "stages",
            0.1,
        ),
        _list_section("## Batches", batches.lines(outcomes), cut, 0.1),
        _list_section("## Cost", costs, cut, 0.11),
        _list_section("## Not checked", skipped, cut, 0.12),
        _table_section(
            "## The overhead of determinism", OVERHEAD_HEADINGS, overheads, "rows", 0.05
        ),
        _Section("## Words", "", _meanings(runs), "\n", "words", 0.09),
    ]


def _variants_section(outcomes: Sequence[Outcome], cut: _Cut) -> _Section:
    """Return what each variant is held to, what it buys and what it costs."""
    heading = "## Variants\n\nEach is held against another case of its run."
    section = _table_section(heading, variants.HEADINGS, variants.rows(outcomes), "variants", 0.3)
    notes = [
        f"- {markdown_text(cut(f'seconds: {line}', MOST_OF_LINE))}"
        for line in variants.notes(outcomes)
    ]
    return replace(section, end="\n".join(notes))


def _list_section(heading: str, lines: Sequence[str], cut: _Cut, share: float) -> _Section:
    items = [f"- {markdown_text(cut(line, MOST_OF_LINE))}" for line in lines]
    return _Section(heading, "", items, "\n", "lines", share)


def _table_section(
    heading: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    what: str,
    share: float,
) -> _Section:
    names, rule, *lines = markdown_table(headings, rows).splitlines()
    return _Section(heading, f"{names}\n{rule}\n", lines, "\n", what, share)


def _outcome_table(runs: Sequence[Run], cut: _Cut) -> tuple[Sequence[str], list[list[str]]]:
    """Return the headings and the rows of all cases; a shortened one begins with the failing."""
    shown = with_figures(runs)
    if cut.most is not None:
        shown = sorted(shown, key=_passes)
    rows = [
        [cut(cell, MOST_OF_CELL) for cell in (str(each.run.folder), *wording.row(each.outcome))]
        for each in shown
    ]
    headings = ("run", *wording.HEADINGS)
    return (headings, rows) if len(runs) > 1 else (headings[1:], [row[1:] for row in rows])


def _passes(shown: Shown) -> bool:
    return shown.outcome.passes


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns that are empty in every row are left out."""
    used = [index for index, _ in enumerate(headings) if any(row[index] for row in rows)]
    lines = [
        [headings[index] for index in used],
        ["---"] * len(used),
        *([markdown_text(row[index]) for index in used] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _where(run: Run, cut: _Cut, *, named: bool) -> str:
    """Return the numerics class, the machine and the versions; empty where they are not known."""
    environment = run.environment
    if environment is None:
        return ""
    machine = [str(environment.hardware.get("cpu", "an unknown CPU"))]
    if "name" in environment.gpu:
        machine.append(str(environment.gpu["name"]))
    versions = [f"{name} {version}" for name, version in sorted(environment.versions.items())]
    facts = markdown_text(cut(f"{', '.join(machine)}; {', '.join(versions)}", MOST_OF_LINE))
    numerics_class = markdown_code(environment.numerics_class.name)
    prefix = f"{markdown_code(str(run.folder))}: class" if named else "Class"
    return f"{prefix} {numerics_class} on {facts}."


def _meanings(runs: Sequence[Run]) -> list[str]:
    """Return what each verdict of the runs means."""
    used = {outcome.verdict for outcome in all_outcomes(runs)}
    return [f"- `{verdict}`: {wording.MEANING[verdict]}" for verdict in Verdict if verdict in used]
