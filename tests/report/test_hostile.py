"""Foreign text in every report: whatever a file or a library wrote stays text, in its own place."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from examples import DRIFT, DRIFTED, RUN
from hostile import HOSTILE
from markdown_it import MarkdownIt
from rich.console import Console

from harness.records import (
    Change,
    ChangeKind,
    Check,
    Difference,
    DifferenceKind,
    EnvironmentChange,
    Metric,
    Outcome,
)
from harness.report.acceptance import replaced_text
from harness.report.causes import headlines
from harness.report.markdown import markdown
from harness.report.run_report import print_runs
from harness.report.runs import Run

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# What a runner of GitHub or Azure takes for a command at the beginning of a line.
COMMAND = re.compile(r"^\s*(?:::(?:error|warning|set-output|stop-commands)|##\[)", re.MULTILINE)
RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def outcomes(text: str) -> tuple[Outcome, ...]:
    """Return outcomes that hold a text wherever one may come from outside."""
    place = Difference(DifferenceKind.CONFIGURATION, text, (text,), 1, text, text)
    failing = replace(
        DRIFTED,
        scenario=text,
        message=text,
        tags=(text,),
        device_kind=text,
        outputs={text: DRIFT},
        checks=(Check(text, Metric.L_INF, 2.0, 1.0, source=text),),
        first_difference=place,
        origins=(place, replace(place, kind=DifferenceKind.WEIGHTS, subject=f"{text}!")),
        environment_changes=(EnvironmentChange(text, text, text, ChangeKind.LIBRARY),),
        edits=(Change(text, text, text),),
        log=text,
        path=text,
        store=text,
        baseline=builders.judged_by(text),
    )
    return (
        *(replace(failing, case=f"{text}[{index}]") for index in range(2)),
        replace(failing, case=f"{text}-error", edits=(), message=f"{text}\n{text}"),
        builders.outcome("unverified", message=text, case=text),
    )


def run_of(text: str) -> Run:
    environment = builders.environment(versions={"torch": text}, hardware={"cpu": text})
    return Run(RUN, outcomes(text), environment)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_shows_text_alone(name: str):
    """No control character, no command, no line that a foreign text began."""
    out = io.StringIO()
    print_runs(Console(file=out, width=100_000), [run_of(HOSTILE[name])])
    for printed in (out.getvalue(), *headlines([run_of(HOSTILE[name])])):
        assert not UNSAFE.search(printed)
        assert not COMMAND.search(printed)
        assert printed.encode("utf-8")


@pytest.mark.parametrize("name", HOSTILE)
def test_rendered_markdown_has_its_own_elements_alone(name: str):
    """The same headings, tables and blocks as for a harmless text; no link, image or raw HTML."""
    shown, harmless = (
        RENDERER.parse(markdown([run_of(text)])) for text in (HOSTILE[name], "harmless")
    )
    assert [token.type for token in shown] == [token.type for token in harmless]
    inline = {child.type for token in shown for child in token.children or ()}
    assert inline <= {"text", "code_inline", "text_special"}
    assert not UNSAFE.search(markdown([run_of(HOSTILE[name])]))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_replaced_is_said_as_text(name: str, tmp_path: Path):
    """The author of a baseline, and the names of its outputs, come from a file."""
    text = HOSTILE[name].replace("\0", "0").replace("\ud800", "").replace("\udfff", "")
    expected = builders.recording(tmp_path / "a", {"x": builders.IMAGE})
    actual = builders.recording(tmp_path / "b", {"x": builders.MOVED})
    match = builders.match(expected)
    provenance = replace(match.baseline.provenance, author=text)
    match = replace(match, baseline=replace(match.baseline, provenance=provenance))
    said = replaced_text(builders.case(), actual, match)
    assert not UNSAFE.search(said)
    assert len(said.splitlines()) == 4
