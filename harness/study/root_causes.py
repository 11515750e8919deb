"""Finds root causes: the calls inside a run that gave another output from the same inputs.

Both sides run again only as far as needed, and are compared by digests. Once a root cause is found,
its results on the baseline's side are fed to the other one, and the search goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.judge import drift, first_difference, line_diff, module_diff
from harness.judge.line_diff import CodePlace, UnequalLine
from harness.judge.module_diff import Aligned
from harness.records import Difference, DifferenceKind, Drift, Stage
from harness.scenario.model import Case
from harness.session import Session
from harness.store.recording import ModuleCall, Observed, OperatorCall, Recording, TracedLine
from harness.study.revert import distance, share_of
from harness.worker.protocol import MODULE, OPERATOR, OWN_CODE, DetailRequest

if TYPE_CHECKING:
    from harness.records import Array

OnStep = Callable[[str], None]

SHOWN = 3  # names of modules or operators that only one side has


@dataclass(frozen=True)
class Operator:
    """The operator at a root cause.

    `shapes` are those of its inputs, `source` the file and line that called it, `moved` how far its
    result lies from the other side's, `following` the operator that comes next, empty for the last.
    `index` is its place among the operators of this side's module.
    """

    name: str
    shapes: tuple[str, ...]
    source: str
    moved: Drift | None
    following: str
    index: int = 0


@dataclass(frozen=True)
class RootCause:
    """A call that got the same inputs on both sides and gave another output.

    Attributes:
        stage: The stage in which it is.
        module: The module's path and call such as `conv_in#0`; `OWN_CODE` where it is what the
            stage computes outside its modules; empty where that cannot be told.
        type: The module's class.
        own_code: Whether the modules inside it agree, so that its own code differs.
        moved: How far its result lies from the other side's, where both sides ran.
        operator: None where no single operator of its own turned the same inputs into another
            output.
        line: The first statement of its own code that made another value; None where none did, or
            where the two sides were not both traced.
        share: The part of the outputs' drift that is gone once every result of the module, and of
            the root causes before it, is the baseline's.
    """

    stage: Stage
    module: str
    type: str
    own_code: bool
    moved: Drift | None = None
    operator: Operator | None = None
    line: UnequalLine | None = None
    share: float | None = None

    @property
    def is_stage_itself(self) -> bool:
        """Whether it is what the stage computes outside its modules."""
        return self.module == OWN_CODE


@dataclass(frozen=True)
class BetweenStages:
    """Code outside of stages that made another value of equal ones.

    Attributes:
        after: The last stage that ended before the unequal one began; empty for the first one.
        called: The statement that called `after`.
        before: The stage that got other inputs; empty where the outputs differ after the last.
        calls: The statement that called `before`.
        names: The inputs of `before`, or the outputs, that differ.
        line: The first statement that made another value. Where one side alone was traced, it is
            the one that made the unequal input, and an earlier one may be at fault.
        both: Whether both sides were traced.
        is_table: Whether a scheduler's tables differ, with which the steps begin.
    """

    after: str
    called: CodePlace | None
    before: str
    calls: CodePlace | None
    names: tuple[str, ...]
    line: UnequalLine | None
    both: bool
    is_table: bool = False


@dataclass(frozen=True)
class ModuleSite:
    """A module in all stages of one kind, as a request names it: `unet/conv_in`.

    A whole stage has an empty path.
    """

    kind: str
    path: str

    @classmethod
    def of(cls, cause: RootCause) -> ModuleSite:
        """Return where a root cause is, whichever call of the module it was."""
        path, _, _call = cause.module.rpartition("#")
        return cls(cause.stage.kind, path)

    def __str__(self) -> str:
        return f"{self.kind}/{self.path}"


@dataclass(frozen=True)
class _Side:
    """One side of the search: the word for it, its case, and the session's slot that runs it."""

    name: str
    case: Case
    slot: int


class RootCauseSearch:
    """The search for the root causes between two cases that should give the same bits.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        actual: The case that moved.
        expected: The same case as it was.
        folder: Where recordings go.
        on_step: Called with what is being run.
        lines: Whether statements are compared: an image alone and its batch have other values in
            every one.

    Attributes:
        notes: What could not be told, and why.
        between: The code between stages that differs, where the search ended at such.
    """

    def __init__(
        self,
        session: Session,
        actual: Case,
        expected: Case,
        folder: Path,
        on_step: OnStep,
        *,
        lines: bool = True,
    ) -> None:
        self._lines = lines
        self.notes: list[str] = []
        self.between: BetweenStages | None = None
        self._session = session
        self._actual = _Side("actual", actual, 0)
        self._expected = _Side("expected", expected, 1)
        self._folder = folder
        self._on_step = on_step
        self._found: list[ModuleSite] = []
        # The recording of the baseline's side that holds what the modules in `_found` gave there.
        self._results: Path | None = None

    def from_recordings(self, actual: Observed, expected: Observed) -> list[RootCause]:
        """Return the first root cause as far as two recordings tell by themselves.

        That is for a baseline whose side cannot be run here.
        """
        stage = first_difference.first_stage(actual, expected)
        if stage is None:
            self.between = self._between(actual, expected, both=False)
            return []
        mine, others = actual.modules_inside(stage), expected.modules_inside(stage)
        if stage.has_modules and not (mine and others):
            self.notes.append(
                f"the module of {stage} that differs is unknown: the recordings have no digests "
                "of the modules inside this call"
            )
            return [RootCause(stage, "", "", own_code=False)]
        return [self._cause(stage, mine, others)]

    def find(self, actual: Recording, expected: Recording, limit: int) -> list[RootCause]:
        """Return at most `limit` root causes, in the order of the run.

        Args:
            actual: The recording of the case that moved.
            expected: The recording of the same case as it was.
            limit: How many root causes to look for.
        """
        causes: list[RootCause] = []
        far = distance(actual, expected)
        begins = first_difference.besides_settings(actual, expected)
        if begins is not None and begins.kind is DifferenceKind.SCHEDULER_TABLES:
            self.between = self._between(actual, expected, both=True)
        while len(causes) < limit:
            stage = first_difference.first_stage(actual, expected)
            if stage is None:
                self.between = self.between or self._between(actual, expected, both=True)
                break
            cause = self._module(stage, actual, expected)
            site = ModuleSite.of(cause)
            if site in self._found:
                self.notes.append(
                    f"{stage}, {cause.module}: it differs again although it was given the "
                    "baseline's result"
                )
                break
            cause = self._measured(cause, site)
            actual = self._run(self._actual, self._fed({}), f"fed-{len(causes) + 1}")
            causes.append(replace(cause, share=share_of(distance(actual, expected), far)))
        return causes

    def _between(self, actual: Observed, expected: Observed, *, both: bool) -> BetweenStages | None:
        """Return which code between stages made another value of equal ones.

        None where nothing differs, or what differs comes of no such code.
        """
        found = first_difference.besides_settings(actual, expected)
        if found is None or found.kind is DifferenceKind.NOISE or not self._lines:
            return None
        is_table = found.kind is DifferenceKind.SCHEDULER_TABLES
        until = str(Stage(f"{found.subject}.step", 0)) if is_table else found.subject
        mine = self._traced(self._actual, until, self._fed({}))
        others = self._traced(self._expected, found.expected or until, {}) if both else ()
        calls = line_diff.call_of(mine, until)
        after = calls.after if calls is not None else (mine[-1].after if mine else "")
        called = line_diff.call_of(mine, after)
        return BetweenStages(
            after=after,
            called=None if called is None else CodePlace.of(called),
            before=until if calls is not None else "",
            calls=None if calls is None else CodePlace.of(calls),
            names=found.names,
            line=(
                line_diff.first_unequal(mine, others)
                if both
                else _made_here(mine, _unequal_digests(actual, calls, found), calls)
            ),
            both=both,
            is_table=is_table,
        )

    def _traced(self, side: _Side, stage: str, detail: DetailRequest) -> Sequence[TracedLine]:
        """Return the statements outside of stages that made a value on one side, up to a stage."""
        is_stage = "#" in stage
        until: DetailRequest = {"stage": stage if is_stage else "", "to_end": not is_stage}
        return self._run(side, {**detail, **until, "lines": True}, "lines").lines

    def _module(self, stage: Stage, actual: Recording, expected: Recording) -> RootCause:
        """Return the module at fault in `stage`, or the stage's own code."""
        recorded = actual.has_modules_inside(stage) and expected.has_modules_inside(stage)
        if stage.has_modules and not recorded:
            detail: DetailRequest = {"stage": str(stage)}
            actual = self._run(self._actual, self._fed(detail), "modules")
            expected = self._run(self._expected, detail, "modules")
        mine, others = actual.modules_inside(stage), expected.modules_inside(stage)
        return self._cause(stage, mine, others)

    def _cause(
        self, stage: Stage, actual: Sequence[ModuleCall], expected: Sequence[ModuleCall]
    ) -> RootCause:
        """Return what differs by itself among the modules of a stage, or the stage's own code."""
        aligned = module_diff.align(actual, expected, module_diff.module_name)
        if aligned.only_actual or aligned.only_expected:
            self.notes.append(f"{stage} has other modules than before: {_replaced(aligned)}")
        suspect = module_diff.first_module(aligned)
        if suspect is None:
            return RootCause(stage, OWN_CODE, "", own_code=bool(aligned.pairs))
        return RootCause(stage, suspect.module, suspect.type, suspect.own_code)

    def _measured(self, cause: RootCause, site: ModuleSite) -> RootCause:
        """Return a root cause with how far it moved, and which of its operators moved it.

        This side runs up to the root cause. The baseline's side runs to its end, and keeps the
        results of all root causes, with which this side is fed from then on.
        """
        detail: DetailRequest = {
            "stage": str(cause.stage),
            "operators": cause.module,
            "lines": self._lines,
        }
        keeping: DetailRequest = {**detail, "keep": [str(site)]}
        actual = self._run(self._actual, self._fed(keeping), "inside")
        self._found.append(site)
        to_end: DetailRequest = {**detail, "keep": list(map(str, self._found)), "to_end": True}
        expected = self._run(self._expected, to_end, f"inside-{len(self._found)}")
        self._results = expected.tensors_path.resolve()
        return replace(
            cause,
            moved=_moved_module(cause, actual, expected),
            operator=self._operator(cause, actual, expected),
            line=line_diff.first_unequal(actual.lines, expected.lines),
        )

    def _operator(
        self, cause: RootCause, actual: Recording, expected: Recording
    ) -> Operator | None:
        """Return the operator of a root cause that turned the same inputs into another output."""
        name_of = module_diff.operator_name
        if self._actual.case.scenario.framework != self._expected.case.scenario.framework:
            name_of = module_diff.plain_operator_name
        aligned = module_diff.align(actual.operators, expected.operators, name_of)
        if aligned.only_actual or aligned.only_expected:
            self.notes.append(
                f"{cause.stage}, {cause.module}, has other operators than before: "
                f"{_replaced(aligned)}"
            )
        index = module_diff.first_operator(aligned)
        if index is None:
            return None
        mine, other = aligned.pairs[index]
        following = aligned.pairs[index + 1 : index + 2]
        moved = _largest(
            _under(actual, f"{OPERATOR}{actual.operators.index(mine)}/"),
            _under(expected, f"{OPERATOR}{expected.operators.index(other)}/"),
        )
        next_name = following[0][0].operator if following else ""
        place = actual.operators.index(mine)
        return Operator(mine.operator, mine.shapes, mine.source, moved, next_name, place)

    def _fed(self, detail: DetailRequest) -> DetailRequest:
        """Return `detail` with the results of what was found replaced by the baseline's."""
        return {**detail, "feed": list(map(str, self._found))}

    def _run(self, side: _Side, detail: DetailRequest, name: str) -> Recording:
        """Run one side as `detail` says; the recording's folder is called after side and `name`."""
        self._on_step(f"{name}, {side.name}")
        results = self._results if detail.get("feed") else None
        case = replace(side.case, detail=detail, teacher_tensors=results)
        slot = self._session.slot(side.slot)
        return self._session.record(case, slot, self._folder / f"{side.name}-{name}")


def _moved_module(cause: RootCause, actual: Recording, expected: Recording) -> Drift | None:
    """Return how far the result of a root cause lies from the other side's."""
    prefix = f"{MODULE}{cause.stage}/{cause.module}/"
    return _largest(_under(actual, prefix), _under(expected, prefix))


def _made_here(
    lines: Sequence[TracedLine], digests: Collection[str], calls: TracedLine | None
) -> UnequalLine | None:
    """Return the statement of one side that made an unequal value; it may be the stage's call."""
    made = line_diff.made_by(lines, digests)
    if made is None and calls is not None:
        return UnequalLine("value", CodePlace.of(calls))
    return made


def _unequal_digests(
    actual: Observed, calls: TracedLine | None, found: Difference
) -> Collection[str]:
    """Return the digests of what differs: of inputs of a stage, or of outputs."""
    if calls is not None:
        return {calls.values[name] for name in found.names if name in calls.values}
    return {actual.output_digests[name] for name in found.names if name in actual.output_digests}


def _under(recording: Recording, prefix: str) -> dict[str, Array]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): array
        for name, array in recording.tensors.items()
        if name.startswith(prefix)
    }


def _largest(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> Drift | None:
    """Return the drift of the tensor that moved farthest, of those that both sides have alike."""
    drifts = [
        drift.measure(actual[name], array)
        for name, array in expected.items()
        if name in actual and actual[name].shape == array.shape
    ]
    return max(drifts, key=_l_inf, default=None)


def _l_inf(moved: Drift) -> float:
    return moved.l_inf


def _replaced(aligned: Aligned[ModuleCall] | Aligned[OperatorCall]) -> str:
    """Return what only this side has in place of what only the baseline's side has."""
    actual = ", ".join(aligned.only_actual[:SHOWN]) or "nothing"
    expected = ", ".join(aligned.only_expected[:SHOWN]) or "nothing"
    return f"{actual} in place of {expected}"
