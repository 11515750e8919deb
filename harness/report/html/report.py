"""Makes the HTML report of one or more runs, from their outcomes and what they recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FileError, writing
from harness.judge.cause import by_cause
from harness.judge.output_layout import layout_of
from harness.records import Outcome, Verdict
from harness.report import causes, variants, wording
from harness.report.html import views
from harness.report.html.kept import Kept, kept_of
from harness.report.html.page import page
from harness.report.html.pictures import Picture, PictureSet, sets_of, thumbnail
from harness.report.html.tables import Badge, Cell, Table
from harness.report.html.views import CaseView, GroupView, Material, RunView
from harness.report.runs import Run, all_outcomes
from harness.store.run_folder import explanation_file
from harness.worker.files import write_file

# The pictures of a report, in characters of the file; the cases after that are shown without.
MOST_PICTURES = 24 << 20
MOST_FLIP_MAPS = 12  # each takes some tenths of a second


@dataclass(frozen=True)
class ReportView:
    """Everything that the template of the report prints."""

    summary: str
    overall: Badge
    counts: Table
    not_checked: tuple[str, ...]
    costs: tuple[str, ...]
    notes: tuple[str, ...]
    runs: tuple[RunView, ...]
    groups: tuple[GroupView, ...]
    matrix: Table
    cases: Table
    variants: Table | None
    not_compared: tuple[str, ...]
    verdicts: tuple[str, ...]
    details: tuple[CaseView, ...]


def html_report(runs: Sequence[Run], most_pictures: int = MOST_PICTURES) -> str:
    """Return the report of runs as the text of one HTML file.

    Several runs, such as one of each machine type, are merged: their cases stand in one matrix.
    Arrays are read from the recordings and the store, and nothing is written to either.

    Args:
        runs: What it shows.
        most_pictures: The size of all pictures, in characters of the file. Cases that moved come
            first; those that it does not admit are shown without pictures, and the report says so.
    """
    return page("report.html.j2", view=_Report(runs, most_pictures).view())


def write_report(runs: Sequence[Run], path: Path) -> None:
    """Write the report of runs to one file, which is replaced as a whole; see `html_report`.

    Raises:
        FileError: The file cannot be written.
    """
    text = html_report(runs)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode(errors="backslashreplace"))


class _Report:
    """Makes the view of a report, and counts how large its pictures have become.

    Args:
        runs: What it shows.
        most_pictures: The size of all pictures, in characters of the file.
    """

    def __init__(self, runs: Sequence[Run], most_pictures: int) -> None:
        self._runs = runs
        self._left = most_pictures
        self._flip_maps_left = MOST_FLIP_MAPS
        self._without_pictures = 0

    def view(self) -> ReportView:
        """Return everything that the template prints."""
        outcomes = all_outcomes(self._runs)
        cases = self._cases()
        verdicts = {outcome.verdict for outcome in outcomes}
        return ReportView(
            summary=wording.summary(outcomes),
            overall=views.overall(outcomes),
            counts=views.counts(outcomes),
            not_checked=tuple(causes.not_checked(self._runs)),
            costs=tuple(wording.costs(outcomes)),
            notes=self._notes(),
            runs=tuple(map(views.run_view, self._runs)),
            groups=self._groups(cases),
            matrix=views.matrix(cases),
            cases=views.case_list(cases),
            variants=views.variants_table(cases),
            not_compared=tuple(variants.notes(outcomes)),
            verdicts=tuple(str(verdict) for verdict in Verdict if verdict in verdicts),
            details=tuple(view for _, view in cases),
        )

    def _cases(self) -> list[tuple[Run, CaseView]]:
        """Return every case, failures first, and of those the one that moved farthest."""
        found = [
            (run, outcome, f"case-{number}-{index}")
            for number, run in enumerate(self._runs, 1)
            for index, outcome in enumerate(run.outcomes, 1)
        ]
        found.sort(key=lambda each: _urgency(each[1]))
        return [(run, self._case(run, outcome, anchor)) for run, outcome, anchor in found]

    def _groups(self, cases: Sequence[tuple[Run, CaseView]]) -> tuple[GroupView, ...]:
        """Return the failures of all runs by their causes, the largest group first."""
        cells = {id(view.outcome): Cell(view.title, anchor=view.anchor) for _, view in cases}
        return tuple(
            GroupView(
                causes.headline(group),
                causes.paragraph(group, self._runs),
                tuple(cells[id(outcome)] for outcome in group.outcomes),
            )
            for group in by_cause(all_outcomes(self._runs))
        )

    def _case(self, run: Run, outcome: Outcome, anchor: str) -> CaseView:
        title = outcome.case
        if len(self._runs) > 1:
            title = f"{outcome.case} of {run.folder.name}"
        return views.case_view(anchor, outcome, run.folder, self._material(run, outcome), title)

    def _material(self, run: Run, outcome: Outcome) -> Material:
        kept = kept_of(run.folder, outcome)
        explanation = _explanation(run.folder, outcome.case)
        if outcome.verdict in (Verdict.IDENTICAL, Verdict.UNVERIFIED):
            return Material(thumbnail=_thumbnail(kept), notes=kept.notes, explanation=explanation)
        pictures = self._pictures(kept)
        return Material(pictures, None, kept.notes, explanation)

    def _pictures(self, kept: Kept) -> tuple[PictureSet, ...]:
        """Return the pictures of a case; none where the report is full of them."""
        if self._left <= 0:
            self._without_pictures += bool(kept.actual)
            return ()
        sets = [each for name in kept.actual for each in self._of_output(kept, name)]
        self._left -= sum(len(picture.uri) for each in sets for picture in each.pictures)
        return tuple(sets)

    def _of_output(self, kept: Kept, name: str) -> list[PictureSet]:
        actual, expected = kept.actual[name], kept.expected.get(name)
        if expected is not None and expected.shape != actual.shape:
            expected = None
        layout = layout_of(name, actual.shape, kept.output_type)
        with_flip = expected is not None and self._flip_maps_left > 0
        self._flip_maps_left -= with_flip
        return list(sets_of(name, layout, actual, expected, with_flip=with_flip))

    def _notes(self) -> tuple[str, ...]:
        if not self._without_pictures:
            return ()
        note = (
            f"{self._without_pictures} cases are shown without pictures, because the pictures of "
            "the cases before them are as large as this report may be."
        )
        return (note,)


def _urgency(outcome: Outcome) -> tuple[int, float, str]:
    rank = 0 if outcome.fails else 2 if outcome.passes else 1
    moved = max((wording.distance(drift) for drift in outcome.outputs.values()), default=0.0)
    return rank, -moved, outcome.case.removesuffix("]")  # a variant comes after its base


def _thumbnail(kept: Kept) -> Picture | None:
    for name, array in kept.actual.items():
        return thumbnail(layout_of(name, array.shape, kept.output_type), array)
    return None


def _explanation(run: Path, case: str) -> str:
    """Return what `harness explain` wrote of a case in this run; empty where it did not."""
    path = explanation_file(run, case)
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise FileError(path, f"cannot be read: {error}") from error
