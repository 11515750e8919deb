"""Turns outcomes into what the templates print: plain values, tables, charts and pictures.

No template decides anything, and nothing here knows of HTML.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from harness.judge import reasons
from harness.judge.exit_codes import exit_code
from harness.records import (
    Appearance,
    Check,
    ContractOutcome,
    ContractState,
    Cost,
    Drift,
    Metric,
    Outcome,
    StageAccuracy,
    StageDrift,
    Verdict,
)
from harness.report import advice, batches, variants, wording
from harness.report.html.charts import Chart, Series, draw
from harness.report.html.pictures import Picture, PictureSet
from harness.report.html.tables import Badge, Cell, Table, text_table, verdict_badge
from harness.report.runs import Run
from harness.store.recording import Environment

MOST_CHARTED = 400  # stages in a chart; longer runs show every second one, and so on
Column = tuple[str, str, str, str]  # of the matrix: the lines of its heading
OVERALL = {  # by the exit code
    0: Badge("passes", "\N{CHECK MARK}", "passes"),
    1: Badge("fails", "\N{MULTIPLICATION SIGN}", "fails"),
    3: Badge("nothing verified", "?", "neither"),
}


@dataclass(frozen=True)
class Command:
    """A command to type, and what it does."""

    purpose: str
    text: str


@dataclass(frozen=True)
class ContractView:
    """How a variant compares with the case that its contract names."""

    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class CaseView:
    """One case of one run, as its part of the page shows it."""

    anchor: str
    outcome: Outcome
    badge: Badge
    title: str
    is_open: bool
    first: str
    against: str
    batch: str
    tables: tuple[Table, ...]
    contract: ContractView | None
    appearance: Table | None
    chart: Markup | None
    drifts: Table | None
    accuracy: Table | None
    changes: tuple[str, ...]
    commands: tuple[Command, ...]
    pictures: tuple[PictureSet, ...]
    thumbnail: Picture | None
    notes: tuple[str, ...]
    explanation: str


@dataclass(frozen=True)
class GroupView:
    """All cases of one cause: one line, one paragraph, and where they are on the page."""

    line: str
    paragraph: str
    cases: tuple[Cell, ...]


@dataclass(frozen=True)
class RunView:
    """Where and when a run was recorded, as names and values."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Material:
    """What a case is shown with beside its outcome.

    Attributes:
        pictures: Of the outputs.
        thumbnail: Of an output that needs no pictures.
        notes: What could not be shown, and why.
        explanation: What `harness explain` said of the case; empty where nobody asked.
    """

    pictures: tuple[PictureSet, ...] = ()
    thumbnail: Picture | None = None
    notes: tuple[str, ...] = ()
    explanation: str = ""


# The run as a whole.


def overall(outcomes: Sequence[Outcome]) -> Badge:
    """Return the verdict on everything that the page shows."""
    return OVERALL[exit_code(outcomes, strict=False)]


def counts(outcomes: Sequence[Outcome]) -> Table:
    """Return how many cases got which verdict, and what each verdict means."""
    counted = Counter(outcome.verdict for outcome in outcomes)
    rows = tuple(
        (
            Cell(str(verdict), badge=verdict_badge(verdict)),
            Cell(str(counted[verdict]), float(counted[verdict])),
            Cell(wording.MEANING[verdict]),
        )
        for verdict in Verdict
        if counted[verdict]
    )
    return Table("Verdicts", ("verdict", "cases", "meaning"), rows)


def run_view(run: Run) -> RunView:
    """Return where and when a run was recorded."""
    facts = [("folder", str(run.folder))]
    if run.environment is not None:
        facts += _environment_facts(run.environment)
    return RunView(f"{run.folder.name}: {_machine(run)}", tuple(facts))


def _machine(run: Run) -> str:
    """Return the GPU or else the CPU that a run was recorded on."""
    environment = run.environment
    if environment is None:
        return "an unknown machine"
    return str(environment.gpu.get("name") or environment.hardware.get("cpu") or "unknown")


def _environment_facts(environment: Environment) -> list[tuple[str, str]]:
    versions = [f"{name} {version}" for name, version in sorted(environment.versions.items())]
    return [
        ("numerics class", environment.numerics_class.name),
        ("machine type", environment.machine_type),
        ("versions", ", ".join(versions)),
    ]


def matrix(cases: Sequence[tuple[Run, CaseView]]) -> Table:
    """Return scenarios by machine: a column for each run and target, a row for each scenario."""
    found: dict[str, dict[Column, CaseView]] = {}
    for run, view in cases:
        found.setdefault(view.outcome.scenario, {})[_column(run, view.outcome)] = view
    ordered = sorted({column for by_column in found.values() for column in by_column})
    headings = ("scenario", *("\n".join(filter(None, column)) for column in ordered))
    rows = [
        (Cell(scenario), *(_matrix_cell(by_column.get(column)) for column in ordered))
        for scenario, by_column in sorted(found.items())
    ]
    return Table("Scenarios by machine, numerics class and target", headings, tuple(rows))


def _column(run: Run, outcome: Outcome) -> Column:
    """Return what a column stands for: the machine, its class, target and variant, and the run."""
    numerics_class = "" if run.environment is None else run.environment.numerics_class.name
    return _machine(run), numerics_class, outcome.key, f"run {run.folder.name}"


def _matrix_cell(view: CaseView | None) -> Cell:
    if view is None:
        return Cell("")
    return Cell(view.badge.word, anchor=view.anchor, badge=view.badge)


def case_list(cases: Sequence[tuple[Run, CaseView]]) -> Table:
    """Return the table of all cases, whose columns can be sorted."""
    rows = tuple(_listed(view) for _, view in cases)
    return Table("All cases", wording.HEADINGS, rows)


def _listed(view: CaseView) -> tuple[Cell, ...]:
    """Return a row of the table of cases, its numbers in full precision beside what is shown."""
    outcome = view.outcome
    numbers = dict(zip(wording.HEADINGS, _row_numbers(outcome), strict=True))
    cells = []
    for heading, text in zip(wording.HEADINGS, wording.row(outcome), strict=True):
        cell = Cell(text, numbers[heading])
        if heading == "case":
            cell = Cell(view.title, anchor=view.anchor)
        elif heading == "verdict":
            cell = Cell(text, badge=view.badge)
        cells.append(cell)
    return tuple(cells)


def variants_table(cases: Sequence[tuple[Run, CaseView]]) -> Table | None:
    """Return what each variant buys and costs against the case that it is held to; None for none.

    They stand in the order of their names, so that those of one scenario stand together.
    """
    held = [view for _, view in cases if view.outcome.contract is not None]
    if not held:
        return None
    held.sort(key=lambda view: (view.outcome.case, view.title))
    caption = "What each variant is held to, what it buys and what it costs, in the same run"
    return Table(caption, variants.HEADINGS, tuple(map(_variant_cells, held)))


def _variant_cells(view: CaseView) -> tuple[Cell, ...]:
    (row,) = variants.rows([view.outcome])
    cells = [Cell(text) for text in row]
    cells[0] = Cell(view.title, anchor=view.anchor)
    contract = view.outcome.contract
    if contract is not None:
        cells[variants.STATE_COLUMN] = Cell(row[variants.STATE_COLUMN], badge=_state(contract))
    return tuple(cells)


def _state(contract: ContractOutcome) -> Badge:
    """Return how a page shows whether a contract holds."""
    badges = {
        ContractState.HOLDS: Badge("holds", "\N{CHECK MARK}", "passes"),
        ContractState.BROKEN: Badge("broken", "\N{MULTIPLICATION SIGN}", "fails"),
    }
    return badges.get(contract.state, Badge(str(contract.state), "?", "neither"))


def _row_numbers(outcome: Outcome) -> tuple[float | None, ...]:
    """Return the number behind each cell of a row; None where there is none."""
    worst = max(outcome.outputs.values(), key=wording.distance, default=None)
    drift: tuple[float | None, ...] = (None, None, None)
    if worst is not None:
        drift = worst.l_inf, worst.rel_l2, worst.abs_sum
    margins = [check.margin for check in outcome.checks if check.value > 0]
    cost: tuple[float | None, ...] = (None, None, None)
    if outcome.cost is not None:
        figures = outcome.cost.figures
        cost = figures.seconds, outcome.cost.ratio, float(figures.peak_bytes)
    return None, None, None, *drift, min(margins, default=None), *cost


# One case.


def case_view(anchor: str, outcome: Outcome, run: Path, material: Material, title: str) -> CaseView:
    """Return what the page shows of one case.

    Args:
        anchor: The id of its element.
        outcome: What the harness says of it.
        run: The run's folder, for the commands.
        material: What it is shown with.
        title: The id of the case; with several runs also the run.
    """
    tables = (_outputs(outcome.outputs), _checks(outcome.checks), _cost(outcome.cost))
    difference = outcome.first_difference
    return CaseView(
        anchor=anchor,
        outcome=outcome,
        badge=verdict_badge(outcome.verdict),
        title=title,
        is_open=outcome.fails,
        first="" if difference is None else reasons.difference(difference),
        against="" if outcome.baseline is None else reasons.source_of(outcome.baseline),
        batch="" if outcome.batch is None else batches.said(outcome.batch),
        tables=tuple(table for table in tables if table is not None),
        contract=_contract(outcome.contract),
        appearance=_appearance(outcome.appearance),
        chart=_drift_chart(outcome),
        drifts=_drifts(outcome),
        accuracy=_accuracy(outcome.accuracy),
        changes=tuple(reasons.environment_changes(outcome.environment_changes)),
        commands=_commands(outcome, run),
        pictures=material.pictures,
        thumbnail=material.thumbnail,
        notes=material.notes,
        explanation=material.explanation,
    )


def _commands(outcome: Outcome, run: Path) -> tuple[Command, ...]:
    found = (
        Command("run again", advice.reproduction(outcome)),
        Command("explain", advice.explanation(outcome, run)),
        Command("what next", advice.next_step(outcome, run)),
    )
    return tuple(command for command in found if command.text)


def _number(value: float, form: str = ".3e") -> Cell:
    return Cell(format(value, form), value)


def _outputs(outputs: Mapping[str, Drift], whose: str = "") -> Table | None:
    """Return how far each output moved; `whose` says from what, where that is no baseline."""
    if not outputs:
        return None
    headings = (
        "output", "L-inf", "relative L2", "elements that differ", "abs-sum", "expected abs-sum",
        "worst at", "expected there", "actual there",
    )  # fmt: skip
    rows = tuple(
        (
            Cell(name),
            _number(drift.l_inf),
            _number(drift.rel_l2),
            Cell(f"{drift.differing} of {drift.size}", float(drift.differing)),
            _number(drift.abs_sum, ".6f"),
            _number(drift.abs_sum_expected, ".6f"),
            Cell(str(drift.worst_index) if drift.worst_index else ""),
            _number(drift.worst_expected, ".9g"),
            _number(drift.worst_actual, ".9g"),
        )
        for name, drift in outputs.items()
    )
    return Table(f"Drift of the outputs{whose}", headings, rows)


def _checks(checks: Sequence[Check], whose: str = "") -> Table | None:
    if not checks:
        return None
    rows = tuple(
        (
            Cell(reasons.measured(check)),
            _number(check.value),
            _number(check.bound),
            Cell(f"x{check.margin:.3g}", check.margin),
            Cell("", badge=_held(check)),
            Cell("" if check.passed else wording.required(check)),
        )
        for check in checks
    )
    headings = ("measured", "value", "bound", "margin", "holds", "required tolerance")
    return Table(f"Bounds{whose}; a margin under 1 fails", headings, rows)


def _contract(held: ContractOutcome | None) -> ContractView | None:
    if held is None:
        return None
    difference = held.first_difference
    facts = (
        ("state", str(held.state)),
        ("owed", held.terms),
        ("held against", held.against),
        ("why", held.message),
        ("first difference", "" if difference is None else reasons.difference(difference)),
    )
    whose = f" against {held.against}"
    tables = (
        _outputs(held.outputs, whose),
        _checks(held.checks, whose),
        _accuracy(held.accuracy),
        _cost(held.cost),
    )
    shown = tuple(table for table in tables if table is not None)
    return ContractView(tuple(fact for fact in facts if fact[1]), shown)


def _held(check: Check) -> Badge:
    if check.passed:
        return Badge("yes", "\N{CHECK MARK}", "passes")
    return Badge("no", "\N{MULTIPLICATION SIGN}", "fails")


def _appearance(found: Sequence[Appearance]) -> Table | None:
    if not found:
        return None
    headings = (
        "output", "changed pixels", "largest change", "over 1 / 2 / 8 levels", "PSNR",
        "SSIM mean", "SSIM worst window", "FLIP mean", "FLIP p99", "signal to noise",
    )  # fmt: skip
    rows = [_appearance_row(each) for each in found]
    used = [index for index, _ in enumerate(headings) if any(row[index].text for row in rows)]
    return Table(
        "How it looks, not a verdict",
        tuple(headings[index] for index in used),
        tuple(tuple(row[index] for index in used) for row in rows),
    )


def _appearance_row(each: Appearance) -> tuple[Cell, ...]:
    name = f"{each.output}[{each.index}], {each.kind}"
    if each.frame is not None:
        name += f", worst frame {each.frame}"
    return (Cell(name), *_pixel_cells(each), *_perception_cells(each), _decibels(each))


def _pixel_cells(each: Appearance) -> tuple[Cell, ...]:
    pixels = each.pixels
    if pixels is None:
        return (Cell(""),) * 4
    psnr = Cell("infinite", math.inf) if pixels.psnr is None else _number(pixels.psnr, ".1f")
    return (
        Cell(f"{pixels.changed_percent:.3g} %", pixels.changed_percent),
        Cell(f"{pixels.largest} of 255 levels", float(pixels.largest)),
        Cell(f"{pixels.over_1} / {pixels.over_2} / {pixels.over_8}", float(pixels.over_1)),
        Cell(f"{psnr.text} dB" if pixels.psnr is not None else psnr.text, psnr.number),
    )


def _perception_cells(each: Appearance) -> tuple[Cell, ...]:
    empty = (Cell(""), Cell(""))
    ssim, flip = empty, empty
    if each.ssim is not None:
        at = ", ".join(map(str, each.ssim.worst_at))
        worst = Cell(f"{each.ssim.worst:.4f} at ({at})", each.ssim.worst)
        ssim = _number(each.ssim.mean, ".4f"), worst
    if each.flip is not None:
        flip = _number(each.flip.mean, ".4f"), _number(each.flip.p99, ".4f")
    return (*ssim, *flip)


def _decibels(each: Appearance) -> Cell:
    if each.signal_to_noise is None:
        return Cell("")
    return Cell(f"{each.signal_to_noise:.1f} dB", each.signal_to_noise)


def _cost(cost: Cost | None) -> Table | None:
    if cost is None or not cost.figures.seconds:
        return None
    figures, before = cost.figures, cost.baseline_seconds
    rounds = figures.rounds_seconds
    spread = (
        f"{min(rounds):.4f} to {max(rounds):.4f} s in {len(rounds)} runs" if len(rounds) > 1 else ""
    )
    word = str(cost.verdict)
    why = reasons.cost_is_unknown(cost)
    rows = [
        ("verdict on the cost", f"{word}: {why}" if why else word),
        ("median of a run", f"{figures.seconds:.4f} s"),
        ("spread", spread),
        ("first run, which warms up", f"{figures.first_seconds:.4f} s"),
        ("baseline", "" if before is None else f"{before:.4f} s"),
        ("ratio", "" if cost.ratio is None else f"x{cost.ratio:.3f}"),
        ("peak memory", wording.peak_memory(figures.peak_bytes)),
        ("loading", f"{figures.load_seconds:.3f} s"),
    ]
    rows += [
        (f"median of a step of {scheduler}", f"{seconds:.5f} s")
        for scheduler, seconds in figures.step_seconds.items()
    ]
    return text_table("Cost", ("figure", "value"), [row for row in rows if row[1]])


def _accuracy(found: Sequence[StageAccuracy]) -> Table | None:
    if not found:
        return None
    rows = tuple(
        (
            Cell(each.name),
            Cell(f"{each.verdict}{_because(each)}"),
            Cell("") if each.actual_error is None else _number(each.actual_error.rel_l2),
            Cell("") if each.expected_error is None else _number(each.expected_error.rel_l2),
            Cell("") if math.isnan(each.ratio) else Cell(f"x{each.ratio:.3g}", each.ratio),
        )
        for each in found
    )
    headings = ("stage", "accuracy", "error of this run", "error of the baseline", "ratio")
    return Table("Errors against float64 from the same inputs, relative L2", headings, rows)


def _because(each: StageAccuracy) -> str:
    words = reasons.accuracy_is_unknown(each)
    return f": {words}" if words else ""


# Drift over the stages of a run.


def _drifts(outcome: Outcome) -> Table | None:
    """Return free and local drift of each kept tensor, in the order of the run."""
    local = {drift.name: drift for drift in outcome.local}
    free = {drift.name: drift for drift in outcome.free}
    names = list(dict.fromkeys((*free, *local)))
    if not names:
        return None
    rows = tuple(
        (
            Cell(name),
            *_stage_cells(free.get(name)),
            *_stage_cells(local.get(name)),
        )
        for name in names
    )
    headings = ("stage", "free L-inf", "free relative L2", "local L-inf", "local relative L2")
    return Table("Drift over the stages", headings, rows)


def _stage_cells(drift: StageDrift | None) -> tuple[Cell, Cell]:
    if drift is None:
        return Cell(""), Cell("")
    return _number(drift.l_inf), _number(drift.rel_l2)


def _drift_chart(outcome: Outcome) -> Markup | None:
    """Return free and local drift over the stages, with the bounds on each."""
    moved = [*outcome.free, *outcome.local]
    if not any(drift.rel_l2 > 0 for drift in moved):
        return None
    names = list(dict.fromkeys(drift.name for drift in moved))
    every = math.ceil(len(names) / MOST_CHARTED)
    names = names[::every]
    series = [
        _line(name, drifts, names)
        for name, drifts in (("free drift", outcome.free), ("local drift", outcome.local))
        if drifts
    ]
    series += _bounds(outcome.checks, len(names))
    at_zero = any(value == 0 for line in series for value in line.y)
    chart = Chart(
        f"Relative L2 drift over the stages of {outcome.case}; the table below has the numbers",
        series[:6],
        "stage; a drift of 0 stands at the lower edge" if at_zero else "stage",
        "relative L2",
        x_names=_short(names),
    )
    return draw(chart)


def _short(names: Sequence[str]) -> list[str]:
    """Return the names of tensors without their keys, unless a stage has several tensors."""
    stages = [name.partition("/")[0] for name in names]
    return stages if len(set(stages)) == len(names) else list(names)


def _line(name: str, drifts: Iterable[StageDrift], names: Sequence[str]) -> Series:
    values = {drift.name: drift.rel_l2 for drift in drifts}
    return Series(name, range(len(names)), [values.get(stage, math.nan) for stage in names])


def _bounds(checks: Iterable[Check], places: int) -> list[Series]:
    """Return a horizontal line for each bound on relative L2."""
    bounds = {
        f"bound on {reasons.measured(check)}": check.bound
        for check in checks
        if check.metric in (Metric.REL_L2, Metric.LOCAL_REL_L2) and check.bound > 0
    }
    ends = (0, max(places - 1, 1))
    return [Series(name, ends, [bound] * 2, is_bound=True) for name, bound in bounds.items()]
