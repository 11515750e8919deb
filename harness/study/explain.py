"""Says why a case moved: the first difference, the root causes behind it, and the settings.

The recordings alone name the first input or stage that differs. For everything further both sides
run again, under the settings that their environments had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import NotRecordedError
from harness.judge import first_difference
from harness.judge.environment_diff import list_changes
from harness.judge.first_difference import ByValue
from harness.records import (
    Change,
    ChangeKind,
    Counterexample,
    Difference,
    DifferenceKind,
    EnvironmentChange,
    StageAccuracy,
)
from harness.scenario.model import Case
from harness.session import Session
from harness.store.baselines import Baseline
from harness.store.recording import Recording
from harness.study.earlier_code import EarlierCode, restore
from harness.study.revert import Candidates, Reverted, Setting, candidates, distance, share_of
from harness.study.root_causes import BetweenStages, OnStep, RootCause, RootCauseSearch
from harness.worker.protocol import DetailRequest

# Both sides started from other things, which explains why no setting gives the baseline's bits.
STARTED_FROM = (
    DifferenceKind.INPUT_FILE,
    DifferenceKind.INPUT_DECODING,
    DifferenceKind.CONFIGURATION,
    DifferenceKind.WEIGHTS,
)
SHOWN_DIGITS = 8  # of the digest of a file
SHOWN = 3  # names in a note; the environment's changes are listed in full beside it
# What may lie between two sides beside settings, the likeliest first, and what to say of it.
BEYOND_SETTINGS = (
    (
        (ChangeKind.MACHINE, ChangeKind.GPU, ChangeKind.OPERATOR),
        "the baseline is of another machine, whose rounding no setting here repeats",
    ),
    ((ChangeKind.OWN_CODE,), "code of the project has changed since, by the files' digests"),
    ((ChangeKind.FRAMEWORK, ChangeKind.LIBRARY, ChangeKind.PACKAGE), "packages have changed since"),
)


@dataclass(frozen=True)
class Explanation:
    """Why a case moved.

    Attributes:
        case: The case's id.
        first: The first difference between the recordings; None where nothing differs.
        root_causes: What was found inside, in the order of the run.
        settings: The settings that were reverted one at a time, the one that explains most first.
        by_value: What the sizes of drifts say, where the caller asked for it.
        notes: What could not be told, and why, in sentences.
        partly: Whether the baseline's side gives other bits here than the baseline has, so that the
            root causes explain only what lies between the two sides here.
        accuracy: How far both sides of each stage that moved lie from its evaluation in float64.
        edits: What was edited since the baseline: keys of the scenario, settings of a scheduler.
        batch: The batch that is held against one of its images alone; None where there is none.
        between: The code between stages that made another value; None where there is none, or
            where stages come first.
    """

    case: str
    first: Difference | None
    root_causes: tuple[RootCause, ...] = ()
    settings: tuple[Setting, ...] = ()
    by_value: ByValue | None = None
    notes: tuple[str, ...] = ()
    partly: bool = False
    accuracy: tuple[StageAccuracy, ...] = ()
    edits: tuple[Change, ...] = ()
    batch: Counterexample | None = None
    between: BetweenStages | None = None


def explain(  # noqa: PLR0913 (each is asked for by an option, or is a side)
    session: Session,
    case: Case,
    actual: Recording,
    expected: Baseline,
    *,
    limit: int,
    on_step: OnStep,
    packages: bool = False,
    accuracy: tuple[StageAccuracy, ...] = (),
) -> Explanation:
    """Explain why a recorded case differs from its baseline, by running both sides again.

    Args:
        session: Runs the cases.
        case: The scenario's case, without settings of its own.
        actual: What the run left.
        expected: The baseline that judged it.
        limit: How many root causes to look for.
        on_step: Called with what is being run.
        packages: Whether the versions of packages are reverted too.
        accuracy: What the run told of it; where that is empty, the stages are evaluated here.

    Raises:
        NotRecordedError: The case does not run here under the settings of the run.
    """
    first = first_difference.first(actual, expected)
    if first is None or not distance(actual, expected):
        return Explanation(case.id, first, notes=("no bit of any output differs",))
    other = first_difference.other_weights(actual, expected)
    if other:
        is_configuration = other == [first_difference.CONFIGURATION]
        what = "configuration of the checkpoint differs" if is_configuration else "weights differ"
        note = f"the {what}, so that nothing after can be held against the baseline"
        if is_configuration:
            return _of_configuration(
                session, case, actual, expected, first=first, on_step=on_step, note=note
            )
        return Explanation(case.id, first, notes=(note,))
    inquiry = _Inquiry(session, case, actual, expected, on_step, packages)
    found = inquiry.explanation(first, limit)
    return replace(found, accuracy=accuracy or inquiry.accuracy())


def _of_configuration(  # noqa: PLR0913 (as above)
    session: Session,
    case: Case,
    actual: Recording,
    expected: Baseline,
    *,
    first: Difference,
    on_step: OnStep,
    note: str,
) -> Explanation:
    """Explain a case whose checkpoint was configured otherwise: where that shows first.

    The configuration of the baseline is gone, so that its side does not run.
    """
    folder = session.out / "explain" / case.scenario.name / case.key
    search = RootCauseSearch(session, case, case, folder, on_step)
    causes = search.from_recordings(actual, expected)
    notes = (note, *search.notes)
    return Explanation(case.id, first, tuple(causes), notes=notes, between=search.between)


def explain_contract(
    session: Session, case: Case, first: Difference | None, *, limit: int, on_step: OnStep
) -> Explanation:
    """Explain why a variant differs from the case that its contract names: both run again.

    Args:
        session: Runs the cases.
        case: The variant.
        first: The first difference between the two recordings of the run.
        limit: How many root causes to look for.
        on_step: Called with what is being run.

    Raises:
        NotRecordedError: One of them does not run here.
    """
    other, contract = case.against, case.scenario.contract
    if other is None or contract is None or contract.images:
        note = "single images of two batches are compared, which have no stage in common"
        return Explanation(case.id, first, notes=(note,))
    folder = session.out / "explain" / case.scenario.name / case.key
    recordings = []
    for index, (name, side) in enumerate((("actual", case), ("expected", other))):
        on_step(name)
        slot = session.slot(index)
        recordings.append(session.record(replace(side, detail={}), slot, folder / name))
    actual, expected = recordings
    if not distance(actual, expected):
        return Explanation(case.id, first, notes=("no bit of any output differs",))
    if first_difference.other_weights(actual, expected):
        note = f"the weights differ from those of {other.id}, and so does all that comes after"
        return Explanation(case.id, first, notes=(note,))
    search = RootCauseSearch(session, case, other, folder, on_step)
    causes = search.find(actual, expected, limit)
    return Explanation(
        case.id, first, tuple(causes), notes=tuple(search.notes), between=search.between
    )


class _Inquiry:
    """One explanation on its way: which sides can be repeated here, and what follows."""

    def __init__(
        self,
        session: Session,
        case: Case,
        actual: Recording,
        expected: Baseline,
        on_step: OnStep,
        packages: bool,
    ) -> None:
        self._session = session
        self._case = case
        self._recorded = actual
        self._baseline = expected
        self._on_step = on_step
        self._folder = session.out / "explain" / case.scenario.name / case.key
        self._notes: list[str] = []
        self._actual: Recording | None = None
        sides = candidates(case, actual, expected, packages=packages)
        earlier = restore(case, expected, self._folder / "earlier-code")
        self._candidates = sides if earlier is None else self._with_earlier_code(sides, earlier)

    def explanation(self, first: Difference, limit: int) -> Explanation:
        """Return the explanation of a case whose first difference is `first`."""
        actual = self._run(self._candidates.actual, "actual", {"files": True})
        self._actual = actual
        refused = "the baseline's side does not run here"
        expected = self._try(self._candidates.expected, "expected", refused)
        first = self._held_against_own(expected, first)
        far = distance(actual, self._baseline)
        if distance(actual, self._recorded):
            self._notes.append(
                "the run cannot be repeated here: its case gives other bits now than it gave then"
            )
        settings = self._shares_of_settings(far)
        left = math.inf if expected is None else distance(expected, self._baseline)
        if left and first.kind not in STARTED_FROM:
            self._note_other_baseline(left, far, runs=expected is not None)
        causes, between = self._root_causes(actual, expected, limit)
        return Explanation(
            self._case.id,
            first,
            tuple(causes),
            tuple(settings),
            notes=tuple(dict.fromkeys(self._notes)),
            partly=bool(left),
            between=between,
        )

    def accuracy(self) -> tuple[StageAccuracy, ...]:
        """Return the accuracy of the case under the settings of the run."""
        self._on_step("accuracy")
        case = self._candidates.actual
        slot = self._session.slot(self._slot_of(case))
        return self._session.accuracy(case, self._recorded, self._baseline, slot=slot)

    def _held_against_own(self, expected: Recording | None, first: Difference) -> Difference:
        """Go on with this machine's own baseline, where the reference is of another machine.

        So one cause is told at a time: what lies between the run and this machine's own baseline.
        What lies between that and the reference stands in a note.

        Args:
            expected: The baseline's side, as it runs here.
            first: The first difference from the reference.

        Returns:
            The first difference from the baseline that the explanation goes on with.
        """
        reference = self._baseline
        if expected is None or not distance(expected, reference):
            return first
        match = self._session.store.match(self._case, expected.numerics_class)
        if match is None or not match.same_class or match.baseline.digest == reference.digest:
            return first
        own = match.baseline
        if distance(expected, own) or own.fingerprint != reference.fingerprint:
            return first
        changes = list_changes(own.environment, reference.environment)
        self._notes.append(
            f"held against this machine's own baseline, of class {own.numerics_class.name}: from "
            f"there to the reference, of class {reference.numerics_class.name}, it is "
            f"{distance(own, reference):.1e} in relative L2, and {_beyond_settings(changes)}"
        )
        self._baseline = own
        return first_difference.first(self._recorded, own) or first

    def _with_earlier_code(self, sides: Candidates, earlier: EarlierCode) -> Candidates:
        """Return the sides, of which the baseline's has the project's code of that time."""
        files = _listed(earlier.changed)
        if earlier.project is None:
            missing = _listed(earlier.missing)
            self._notes.append(
                f"the baseline's side runs with the project's code as it is now, which has changed "
                f"({files}): git has no earlier content of {missing} with the baseline's digest"
            )
            return sides
        setting = Setting("code of the project", f"now ({files})", "the baseline's")
        reverted = Reverted(setting, earlier.in_place(sides.actual))
        return replace(
            sides,
            expected=earlier.in_place(sides.expected),
            reverted=(*sides.reverted, reverted),
        )

    def _shares_of_settings(self, far: float) -> list[Setting]:
        """Return each setting with the share of the drift that it explains, the largest first.

        A run that gives the baseline's bits here has no drift to explain.
        """
        if not far:
            return []
        found = []
        for reverted in self._candidates.reverted:
            setting = reverted.setting
            refused = f"{setting.name} {setting.expected} alone"
            recording = self._try(reverted.case, f"reverted-{setting.name}", refused)
            if recording is not None:
                share = share_of(distance(recording, self._baseline), far)
                found.append(replace(setting, share=share))
        return sorted(found, key=_share, reverse=True)

    def _root_causes(
        self, actual: Recording, expected: Recording | None, limit: int
    ) -> tuple[list[RootCause], BetweenStages | None]:
        """Return the root causes between the two sides here, or else what the recordings tell.

        The second is the code between stages at which the search ended.
        """
        sides = self._candidates
        search = RootCauseSearch(
            self._session, sides.actual, sides.expected, self._folder, self._on_step
        )
        if expected is not None and distance(actual, expected):
            causes = search.find(actual, expected, limit)
        else:
            causes = search.from_recordings(self._recorded, self._baseline)
        self._notes += search.notes
        if len(causes) == limit and _explains_a_part(causes[-1]):
            self._notes.append(
                f"other root causes come after these: `--root-causes {limit}` ended the search"
            )
        return causes, search.between

    def _note_other_baseline(self, left: float, far: float, *, runs: bool) -> None:
        """Note that the baseline's settings do not give the baseline's bits here, and why."""
        note = "the baseline cannot be repeated here by its settings"
        share = share_of(left, far) if runs else 0.0
        if round(share, 2):
            note += f", which explain {100 * share:.0f} % of the drift"
        elif runs:
            note = "no setting explains the drift"
        changes = list_changes(self._recorded.environment, self._baseline.environment)
        self._notes.append(f"{note}: {_beyond_settings(changes, self._edited_files())}")

    def _edited_files(self) -> tuple[str, ...]:
        """Return the files of installed libraries that are not as their packages installed them."""
        return () if self._actual is None else self._actual.edited_files

    def _try(self, case: Case, name: str, refused: str) -> Recording | None:
        """Return the recording of a case; where it leaves none, note why after `refused`."""
        try:
            return self._run(case, name)
        except NotRecordedError as error:  # such as a package that does not fit the others
            self._notes.append(f"{refused}: {error.reason}")
            return None

    def _run(self, case: Case, name: str, detail: DetailRequest | None = None) -> Recording:
        """Return the recording of a case, with the modules of its first stages."""
        self._on_step(name)
        slot = self._session.slot(self._slot_of(case))
        return self._session.record(replace(case, detail=detail or {}), slot, self._folder / name)

    def _slot_of(self, case: Case) -> int:
        """Return the slot that keeps a worker for each side, and one for reverted settings."""
        sides = (self._candidates.actual, self._candidates.expected)
        return sides.index(case) if case in sides else len(sides)


def _beyond_settings(changes: Sequence[EnvironmentChange], edited: Sequence[str] = ()) -> str:
    """Return what lies between a run and its baseline beside settings, in words.

    Args:
        changes: What changed in the environment.
        edited: The files of installed libraries that are not as their packages installed them.
    """
    in_place = f"not as their packages installed them, by digest: {_listed(edited)}"
    for kinds, said in BEYOND_SETTINGS:
        names = [_with_digests(change) for change in changes if change.kind in kinds]
        if names:
            also = f"; files of libraries are {in_place}" if edited else ""
            return f"{said} ({_listed(names)}){also}"
    if edited:
        return f"code of installed libraries was edited; these files are {in_place}"
    return (
        "no setting, release, machine or code of the project differs that is recorded, and every "
        "file that was loaded of installed packages is as it was installed, where that can be told"
    )


def _with_digests(change: EnvironmentChange) -> str:
    """Return a change by its name; of a source file, with both digests."""
    if change.kind is not ChangeKind.OWN_CODE:
        return change.name
    sides = (side[:SHOWN_DIGITS] for side in (change.expected, change.actual))
    return f"{change.name} {' -> '.join(sides)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", and more" if len(names) > SHOWN else "")


def _share(setting: Setting) -> float:
    return setting.share


def _explains_a_part(cause: RootCause) -> bool:
    """Whether drift is left once a root cause, and those before it, give the baseline's results."""
    return cause.share is not None and round(cause.share, 2) < 1
