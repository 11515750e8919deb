"""Owns how a forecast looks: a table for each case on a terminal, and a page with all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness.report.safe_text import safe_line
from harness.report.terminal import print_text, table

if TYPE_CHECKING:
    from rich.console import Console

    from harness.study.forecast import Forecast, Predicted

NOT_MEASURED = "not measured"
STATED = (
    "Emulations on this machine's CPU: each does one thing that GPUs do, and none of them is a GPU."
)
SHOWN_REASON = 100  # characters


def headings_of(found: Forecast) -> tuple[str, ...]:
    """Return the headings of a forecast's table: one column for each kind of stage."""
    return ("relative L2 of one stage", *found.kinds, "against the bounds now")


def rows_of(found: Forecast) -> list[tuple[str, ...]]:
    """Return the rows of a forecast's table, in the order of `headings_of`.

    First what is predicted, then the bounds, then what real GPUs gave.
    """
    rows = []
    for each in found.predicted:
        off = f" ({each.switched_off}: off in deterministic mode)" if each.switched_off else ""
        rows.append((f"{each.emulation}{off}", *_cells(found, each.local), _verdict(each)))
    rows += [
        ("perturbation by one ULP, median", *_cells(found, found.noise), ""),
        ("bound now", *_cells(found, found.bounds, "no bound"), ""),
        ("bound that follows", *_cells(found, found.derived), ""),
    ]
    if not found.measured:
        rows.append(("measured on CUDA", *[NOT_MEASURED for _ in found.kinds], ""))
    for gpu in found.measured:
        rows.append((f"measured: {gpu.numerics_class}", *_cells(found, gpu.local), ""))
    return rows


def _verdict(predicted: Predicted) -> str:
    """Return whether the scenario's bounds admit an emulation, with the least margin."""
    if not predicted.margins:
        return "no bound"
    least = min(predicted.margins.values())
    word = f"exceeded by {', '.join(predicted.exceeds)}" if predicted.exceeds else "within"
    return f"{word}, x{least:.3g}"


def print_forecast(out: Console, found: Forecast) -> None:
    """Print what is predicted for a case, what was emulated, and what was not."""
    print_text(out, f"{found.case} against {found.on}; {_extent(found)}")
    out.print(table(headings_of(found), rows_of(found)))
    for each in found.predicted:
        if each.seen:
            print_text(out, f"  {each.emulation}: {each.seen}")
    for name, reason in found.missed.items():
        print_text(out, f"  not run: {name}: {_short(reason)}")
    print_text(out, "")


def _extent(found: Forecast) -> str:
    steps = "1 step" if found.steps == 1 else f"{found.steps} steps"
    return f"{steps} of each scheduler emulated"


def page(found: Sequence[Forecast], missed: Mapping[str, str], command: str, machine: str) -> str:
    """Return a page in Markdown with the tables of all cases.

    Args:
        found: The forecasts.
        missed: Why cases have none, by their ids.
        command: What was typed.
        machine: The processor and the releases of the frameworks.
    """
    today = datetime.now(UTC).date().isoformat()
    lines = [
        "# What a GPU will do: the forecast",
        "",
        f"On {today}, {machine}:",
        "",
        "```console",
        f"$ {command}",
        "```",
        "",
        STATED,
        "[forecast.md](../forecast.md) says what each one does, and what none does. A figure is",
        "the largest relative L2 drift of any stage of that kind in a teacher-forced run, from the",
        "same stage on this machine. *Bound that follows* rests on what a GPU does in the mode of",
        "the case: what deterministic mode switches off is shown, and is no evidence. In the first",
        "table, *predicted* is the largest drift among what is evidence.",
        "",
        *_summary(found),
    ]
    for each in found:
        lines += ["", f"## {each.case}", "", f"{_extent(each)}; against `{each.on}`.", ""]
        lines += _markdown_table(headings_of(each), rows_of(each))
        told = [f"- Not run: `{name}`: {_short(why)}" for name, why in each.missed.items()]
        lines += ["", *told] if told else []
    if missed:
        lines += ["", "## Cases without a forecast", ""]
        rows = [(f"`{case}`", _short(why)) for case, why in missed.items()]
        lines += _markdown_table(("case", "why"), rows)
    return "\n".join(lines) + "\n"


def _summary(found: Sequence[Forecast]) -> list[str]:
    """Return one table over all cases: the largest drift that is expected, and the margin."""
    headings = ("case", "predicted", "by", "least margin to a bound now", "measured on CUDA")
    return _markdown_table(headings, [_summary_row(each) for each in found])


def _summary_row(found: Forecast) -> tuple[str, ...]:
    worst = [
        (value, f"{each.emulation}, {kind}")
        for each in found.expected
        for kind, value in each.local.items()
    ]
    value, where = max(worst, default=(0.0, ""))
    gpus = [f"{gpu.numerics_class}: {_cell(max(gpu.local.values()))}" for gpu in found.measured]
    measured = ", ".join(gpus) or NOT_MEASURED
    return f"`{found.case}`", _cell(value), where, _least_margin(found), measured


def _least_margin(found: Forecast) -> str:
    margins = [margin for each in found.expected for margin in each.margins.values()]
    return f"x{min(margins):.3g}" if margins else "no bound"


def _cells(found: Forecast, by_kind: Mapping[str, float], absent: str = "") -> list[str]:
    return [_cell(by_kind[kind]) if kind in by_kind else absent for kind in found.kinds]


def _cell(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def _short(reason: str) -> str:
    line = safe_line(reason.partition("\n")[0])
    return line if len(line) <= SHOWN_REASON else f"{line[:SHOWN_REASON]}…"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]
