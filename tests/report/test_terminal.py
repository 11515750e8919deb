"""A run on a terminal: columns that fit, and nothing that a foreign text could do to it."""

from __future__ import annotations

import io

import builders
from examples import RUN
from rich.console import Console

from harness.report.run_report import print_run
from harness.report.terminal import console, print_text, table


def shown_columns(width: int) -> list[str]:
    """Return the headings of a table that are left where it may be `width` characters wide."""
    made = table(
        ("case", "verdict", "L-inf", "peak"),
        [("a" * 20, "identical", "1.00e-05", "480 MiB")],
        width=width,
        spare=("peak", "L-inf"),
    )
    return [str(column.header) for column in made.columns]


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
    print_run(terminal, outcomes, RUN)
    print_text(terminal, hostile)
    terminal.print(table(("a", "b"), [(hostile, "[red]b[/red]")]))
    text = out.getvalue()
    assert "\x1b[2J" not in text
    assert "\r" not in text
    assert "\\x1b[2J" in text
    assert "[red]b[/red]" in text
    assert not any(line.startswith("identical: z") for line in text.splitlines()[:-4])
