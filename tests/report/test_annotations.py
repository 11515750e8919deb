"""Annotations for GitHub: one line for a cause, at the line of the scenario that it is about."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from examples import DRIFTED, IDENTICAL, RUN
from hostile import HOSTILE

from harness.records import Change, Reason
from harness.report.annotations import MOST, annotation_lines, line_of, wanted
from harness.report.runs import Run

COMMAND = re.compile(r"::error (?P<facts>[^\r\n]*?)::(?P<message>[^\r\n]*)")


def unescaped(text: str) -> str:
    """Return what GitHub's runner makes of a value."""
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


def facts_of(line: str) -> dict[str, str]:
    """Return the properties and the message of an annotation, as GitHub's runner reads them."""
    match = COMMAND.fullmatch(line)
    assert match is not None, line
    facts = dict(part.split("=", 1) for part in match["facts"].split(","))
    return {key: unescaped(value) for key, value in {**facts, "message": match["message"]}.items()}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "digits.yaml"
    text = builders.scenario_text(tolerance="{cross-class: {rel_l2: 1.0e-5}}")
    path.write_text(f"# a comment\n{text}", encoding="utf-8")
    return path


def test_a_failure_is_marked_at_the_line_of_the_scenario_that_it_is_about(scenario: Path):
    """A bound at the tolerance, an edit at the edited key, anything else at the pipeline."""
    lines = scenario.read_text(encoding="utf-8").splitlines()
    outcome = replace(DRIFTED, path=str(scenario), reason=Reason.OVER_BOUND)
    assert lines[line_of(outcome) - 1].startswith("tolerance:")
    edited = replace(outcome, edits=(Change("call.num_inference_steps", "1", "2"),))
    assert lines[line_of(edited) - 1].startswith("call:")
    other = replace(outcome, reason=Reason.OTHER_BITS)
    assert lines[line_of(other) - 1].startswith("pipeline:")
    assert line_of(replace(outcome, path="not/here.yaml")) == 1


def test_an_annotation_names_file_line_title_and_cases(scenario: Path):
    """Cases of one cause share an annotation."""
    path = str(scenario)
    outcomes = tuple(replace(DRIFTED, case=f"c{i}", path=path) for i in range(3))
    (line,) = annotation_lines([Run(RUN, (*outcomes, IDENTICAL))])
    found = facts_of(line)
    assert (found["file"], found["line"]) == (path, str(line_of(outcomes[0])))
    assert found["title"] == "harness: 3 drifted, one cause: arithmetic of unet"
    assert found["message"] == f"c0, c1, c2: {DRIFTED.message}"


def test_there_are_no_more_annotations_than_github_shows():
    """The last one says how many causes are left."""
    outcomes = tuple(builders.outcome("error", name=f"e{i}", message=str(i)) for i in range(30))
    lines = annotation_lines([Run(RUN, outcomes)])
    assert len(lines) == MOST
    assert lines[-1].endswith("::21 more causes of failures are in the report")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_ends_an_annotation_or_begins_another(name: str):
    """Each stays one command on one line, with its own properties alone."""
    text = HOSTILE[name]
    outcome = builders.outcome("error", message=text, case=text, path=text)
    (line,) = annotation_lines([Run(RUN, (outcome,))])
    assert not re.search("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", line)
    assert line.encode("utf-8")
    assert set(facts_of(line)) == {"file", "line", "title", "message"}
    assert line.count("::error") == 1


@pytest.mark.parametrize(
    ("choice", "variables", "printed"),
    [
        ("auto", {}, False),
        ("auto", {"GITHUB_ACTIONS": "true"}, True),
        ("github", {}, True),
        ("none", {"GITHUB_ACTIONS": "true"}, False),
    ],
)
def test_annotations_are_printed_in_a_job_of_github_or_where_asked_for(
    choice: str, variables: dict[str, str], printed: bool
):
    """On a terminal nobody wants them."""
    assert wanted(choice, variables) is printed
