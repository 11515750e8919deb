"""Owns runs as JUnit XML, for CI systems: a test case for each case, with drift and cost.

The properties of a case are those that pytest's own `--junitxml` holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from harness.records import Cost, Outcome, Verdict
from harness.report import wording
from harness.report.runs import Run
from harness.report.safe_text import safe_line

NAME = "harness"


def junit(runs: Sequence[Run]) -> str:
    """Return runs as a JUnit document, with one test suite for each run."""
    root = ET.Element("testsuites", name=NAME)
    for run in runs:
        root.append(_suite(run))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def properties(outcome: Outcome) -> list[tuple[str, str]]:
    """Return what a JUnit file says of a case beside its result, as names and values.

    That is the verdict and its reason, the drift of every output, the smallest margin and the cost.
    Numbers are written in full; a number that has no value is left out.
    """
    numbers: dict[str, float | None] = {}
    for name, drift in outcome.outputs.items():
        numbers[f"{name}.l_inf"] = drift.l_inf
        numbers[f"{name}.rel_l2"] = drift.rel_l2
        numbers[f"{name}.abs_sum"] = drift.abs_sum
    margins = [check.margin for check in outcome.checks if math.isfinite(check.margin)]
    numbers["margin"] = min(margins, default=None)
    if outcome.cost is not None:
        numbers |= _cost_numbers(outcome.cost)
    words = {
        "verdict": str(outcome.verdict),
        "reason": str(outcome.reason),
        "device_kind": outcome.device_kind,
        "cost": "" if outcome.cost is None else str(outcome.cost.verdict),
    }
    found = [(name, word) for name, word in words.items() if word]
    found += [
        (name, repr(value))
        for name, value in numbers.items()
        if value is not None and math.isfinite(value)
    ]
    return [(safe_line(name), safe_line(value)) for name, value in found]


def _cost_numbers(cost: Cost) -> dict[str, float | None]:
    return {
        "seconds": cost.figures.seconds,
        "peak_bytes": cost.figures.peak_bytes,
        "cost_ratio": cost.ratio,
        "baseline_seconds": cost.baseline_seconds,
    }


def _suite(run: Run) -> ET.Element:
    suite = ET.Element("testsuite", name=safe_line(str(run.folder)))
    suite.set("tests", str(len(run.outcomes)))
    suite.set("failures", str(sum(map(_is_failure, run.outcomes))))
    suite.set("errors", str(sum(map(_is_error, run.outcomes))))
    suite.set("skipped", str(sum(map(_is_skipped, run.outcomes))))
    suite.set("time", f"{sum(map(_seconds, run.outcomes)):.3f}")
    for outcome in sorted(run.outcomes, key=_case_of):
        suite.append(_case(outcome, run))
    return suite


def _case(outcome: Outcome, run: Run) -> ET.Element:
    case = ET.Element("testcase", name=safe_line(outcome.case))
    case.set("classname", safe_line(outcome.path or outcome.scenario))
    case.set("time", f"{_seconds(outcome):.3f}")
    if outcome.path:
        case.set("file", safe_line(outcome.path))
    listed = ET.SubElement(case, "properties")
    for name, value in properties(outcome):
        ET.SubElement(listed, "property", name=name, value=value)
    message = safe_line(outcome.message)
    if _is_skipped(outcome):
        ET.SubElement(case, "skipped", message=message)
    elif outcome.fails:
        kind = "error" if _is_error(outcome) else "failure"
        failed = ET.SubElement(case, kind, message=message, type=str(outcome.verdict))
        failed.text = wording.paragraph(outcome, run.folder)
    return case


def _seconds(outcome: Outcome) -> float:
    return 0.0 if outcome.cost is None else outcome.cost.figures.seconds


def _is_error(outcome: Outcome) -> bool:
    return outcome.verdict is Verdict.ERROR


def _is_failure(outcome: Outcome) -> bool:
    return outcome.fails and not _is_error(outcome)


def _is_skipped(outcome: Outcome) -> bool:
    return outcome.verdict is Verdict.UNVERIFIED


def _case_of(outcome: Outcome) -> str:
    return outcome.case.removesuffix("]")  # a variant comes after its base
