"""A run on a terminal: columns that fit, and nothing that a foreign text could do to it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import builders
from examples import DRIFT, REL_L2, RUN, SLOWER
from rich.console import Console

from harness.report.run_report import print_runs, width_of
from harness.report.runs import Run
from harness.report.terminal import console, print_text, table
from harness.report.wording import HEADINGS, SPARE


def shown_columns(width: int) -> list[str]:
    """Return the headings of a table that are left where it may be `width` characters wide."""
    made = table(
        ("case", "verdict", "L-inf", "peak"),
        [("a" * 20, "identical", "1.00e-05", "480 MiB")],
        width=width,
        spare=("peak", "L-inf"),
    )
    return re.split(r"\s{2,}", made.plain.splitlines()[0].strip())


def test_a_narrow_terminal_leaves_columns_out():
    """In the order given, as few as needed; 0 stands for a pipe, which has no width."""
    assert shown_columns(0) == shown_columns(50) == ["case", "verdict", "L-inf", "peak"]
    assert shown_columns(49) == shown_columns(41) == ["case", "verdict", "L-inf"]
    assert shown_columns(40) == shown_columns(1) == ["case", "verdict"]


def test_no_cell_is_folded_or_cut(capsys):
    """A gate's reason or a list of baselines may be longer than any line."""
    reason = "word " * 100 + "end"
    console().print(table(("case", "because"), [("a", reason)]))
    assert reason in capsys.readouterr().out


def test_hostile_text_cannot_control_the_terminal():
    """The only escape sequences are those that rich writes, for colours."""
    hostile = "x\x1b[2J\rfaked\nidentical: z"
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, color_system="standard", width=1000)
    outcomes = [
        builders.outcome("error", message=hostile, log=hostile, case=hostile),
        builders.outcome("unverified", message=hostile, case=hostile),
    ]
    print_runs(terminal, [Run(RUN, tuple(outcomes))])
    print_text(terminal, hostile)
    terminal.print(table(("a", "b"), [(hostile, "[red]b[/red]")]))
    text = out.getvalue()
    assert "\x1b[2J" not in text
    assert "\r" not in text
    assert "\\x1b[2J" in text
    assert "[red]b[/red]" in text
    assert not any(line.startswith("identical: z") for line in text.splitlines()[:-4])


def test_a_colouring_console_in_a_pipe_has_no_width(monkeypatch):
    """CI systems ask for colours; the log is no terminal, and the table keeps every column."""
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    pipe = Console(file=out, force_terminal=True, width=1000)
    assert width_of(pipe) == 0
    name = "a-scenario-of-a-long-name-" + "x" * 200
    outcome = builders.outcome(
        "drifted", name=name, outputs={"image": DRIFT}, checks=(REL_L2,), cost=SLOWER
    )
    print_runs(pipe, [Run(RUN, (outcome,))])
    heading, row = out.getvalue().splitlines()[:2]
    assert f"{name}[cpu-float32]" in row
    for column in HEADINGS:
        assert column in heading or column == "against"


def test_a_narrow_terminal_keeps_the_columns_that_matter():
    """What moved, how far, with what margin, at what cost; the line breaks where it must."""
    rows = [("c" * 60, "drifted", "same class", "1", "2", "3", "x0.1", "4", "slower x1.5", "5")]
    made = table(HEADINGS, rows, width=20, spare=SPARE)
    kept = re.split(r"\s{2,}", made.plain.splitlines()[0].strip())
    assert kept == ["case", "verdict", "against", "L-inf", "margin", "cost"]


def test_runs_of_several_machine_types_are_one_table():
    """Each row names its run, and one line counts all cases."""
    out = io.StringIO()
    runs = [
        Run(Path("runs/cpu"), (builders.outcome("identical"),)),
        Run(Path("runs/gpu"), (builders.outcome("drifted", on="cuda-float32"),)),
    ]
    print_runs(Console(file=out, width=1000), runs)
    heading, cpu, gpu, *_, summary = out.getvalue().splitlines()
    assert heading.split()[:2] == ["run", "case"]
    assert (cpu.split()[0], gpu.split()[0]) == ("runs/cpu", "runs/gpu")
    assert summary == "2 cases: 1 identical, 1 drifted"
