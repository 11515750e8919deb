"""How the certificate of a batch is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import builders

from harness.records import BatchCertificate, Counterexample
from harness.report import batches
from harness.report.causes import failures
from harness.report.html.report import html_report
from harness.report.markdown import markdown
from harness.report.run_report import print_runs
from harness.report.runs import Run
from harness.report.terminal import console
from harness.report.wording import paragraph

HOLDS = BatchCertificate(compositions=16, largest=4, is_exhaustive=False, runs=19, seconds=4.42)
FOUND = Counterexample((0, 0, 2), 1, "pipeline(prompt=['a', 'a', 'c'])", is_smallest=True)
BROKEN = replace(HOLDS, compositions=3, runs=12, counterexample=FOUND)


def test_what_was_tried_is_told_with_its_cost():
    told = "16 compositions of at most 4 images, none changed an image (19 runs, 4.4 s)"
    assert batches.said(HOLDS) == told
    assert batches.said(replace(HOLDS, is_exhaustive=True)) == f"all {told}"
    (line,) = batches.lines([builders.outcome(batch=HOLDS), builders.outcome()])
    assert line == f"digits[cpu-float32]: {told}"


def test_what_changes_an_image_is_told_with_a_call():
    outcome = builders.outcome("unrepeatable", batch=BROKEN)
    shown = paragraph(outcome, Path("runs/one"))
    assert (
        "  batch:    3 compositions of at most 4 images, the last changed an image; the simplest "
        "that does is [0, 0, 2] (12 runs, 4.4 s)\n"
        "            slot 1 differs from image 0 alone\n"
        "  call:     pipeline(prompt=['a', 'a', 'c'])"
    ) in shown
    assert batches.lines([outcome]) == []


def test_a_search_that_had_to_end_says_so():
    left = replace(BROKEN, counterexample=replace(FOUND, is_smallest=False))
    shown = paragraph(builders.outcome("unrepeatable", batch=left), Path("runs/one"))
    assert "a simpler one may do it: `compositions` bounds the search" in shown
    assert "a simpler one that does is [0, 0, 2]" in shown


def test_terminal_and_markdown_tell_of_a_certificate_that_holds(capsys):
    run = Run(Path("runs/one"), [builders.outcome(batch=HOLDS)], None)
    print_runs(console(), [run])
    assert "batches:\n  digits[cpu-float32]: 16 compositions of at" in capsys.readouterr().out
    assert "## Batches\n\n- digits\\[cpu-float32\\]: 16 compositions of at" in markdown([run])


def test_several_cases_of_one_cause_show_the_call_of_one():
    """Their reasons are the same sentence, and one of them is shown as the example."""
    several = tuple(
        builders.outcome("unrepeatable", name=name, batch=BROKEN) for name in ("one", "two")
    )
    (shown,) = failures([Run(Path("runs/one"), several, None)])
    assert "2 unrepeatable: REASON" in shown
    assert "  call:     pipeline(prompt=['a', 'a', 'c'])\n" in shown
    assert "  explain:  harness explain runs/one 'one[cpu-float32]'" in shown


def test_the_page_shows_the_call_of_a_counterexample(tmp_path):
    run = Run(tmp_path, [builders.outcome("unrepeatable", batch=BROKEN)], None)
    page = html_report([run])
    assert "<dt>batches</dt><dd>3 compositions of at most 4 images" in page
    assert "<code>pipeline(prompt=[&#39;a&#39;, &#39;a&#39;, &#39;c&#39;])</code>" in page
