"""JUnit files: valid for every text, with drift and cost as properties."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import builders
import pytest
from examples import DRIFT, DRIFTED, ERROR, IDENTICAL, NOT_HERE, RUN
from hostile import HOSTILE

from harness.report import wording
from harness.report.junit import junit, properties
from harness.report.runs import Run
from harness.report.safe_text import safe_line


def parsed(*runs: Run) -> ET.Element:
    return ET.fromstring(junit(runs))  # noqa: S314 (written by the call inside)


def test_every_verdict_has_its_place():
    """A drift is a failure, an error is an error, and what could not run is skipped."""
    (suite,) = parsed(Run(RUN, (DRIFTED, ERROR, IDENTICAL, *NOT_HERE)))
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2"}
    cases = {case.get("name"): case for case in suite}
    failure = cases[DRIFTED.case].find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("drifted", DRIFTED.message)
    assert failure.text == wording.paragraph(DRIFTED, RUN)
    assert cases[ERROR.case].find("error") is not None
    assert cases[NOT_HERE[0].case].find("skipped") is not None
    assert [each.tag for each in cases[IDENTICAL.case]] == ["properties"]


def test_drift_and_cost_are_properties_in_full():
    """A CI that draws trends reads numbers, not rounded words; NaN is left out."""
    found = dict(properties(DRIFTED))
    assert float(found["image.l_inf"]) == DRIFT.l_inf
    assert float(found["image.rel_l2"]) == DRIFT.rel_l2
    assert (found["verdict"], found["reason"]) == ("drifted", str(DRIFTED.reason))
    assert (found["cost"], float(found["cost_ratio"])) == ("slower", 1.5)
    assert float(found["seconds"]) == 1.2345
    assert float(found["margin"]) == DRIFTED.checks[1].margin
    assert "nan" not in found.values()


def test_each_run_is_a_suite():
    """Runs of several machine types stay apart."""
    root = parsed(Run(Path("a"), (IDENTICAL,)), Run(Path("b"), (DRIFTED,)))
    assert [(suite.get("name"), len(suite)) for suite in root] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_breaks_the_document(name: str):
    """Whatever an exception, a prompt or a file's name holds, the file is XML and shows it."""
    text = HOSTILE[name]
    outcome = builders.outcome(
        "error",
        message=text,
        log=text,
        case=text,
        path=text,
        outputs={text: DRIFT},
        device_kind=text,
    )
    (suite,) = parsed(Run(Path(text.replace("\0", "")), (outcome,)))
    (case,) = suite
    assert case.get("name") == safe_line(text)
