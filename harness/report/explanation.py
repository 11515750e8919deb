"""Owns how an explanation is worded: short enough for an issue tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.judge import reasons
from harness.judge.checks import LocalCheck
from harness.judge.first_difference import ByValue
from harness.judge.line_diff import CodePlace, UnequalLine
from harness.records import Counterexample, Drift, EnvironmentChange
from harness.report import accuracy
from harness.report.safe_text import safe_line
from harness.report.wording import changed_lines

if TYPE_CHECKING:
    from harness.study.explain import Explanation
    from harness.study.revert import Setting
    from harness.study.root_causes import BetweenStages, Operator, RootCause

UNSET = "unset"
RETURNED, TAKEN = "return", "branch"  # stand for names of variables in a trace of statements


def text(found: Explanation, changes: Sequence[EnvironmentChange] = ()) -> str:
    """Return an explanation.

    Args:
        found: Why a case moved.
        changes: What changed in the environment, the likeliest to matter first.
    """
    lines = [
        found.case,
        *(f"  edited:   {edit}" for edit in found.edits),
        *_batch_lines(found.batch),
        *_first_lines(found),
        *_where_lines(found),
        *_accuracy_lines(found),
        *(f"  setting:  {_setting(setting)}" for setting in found.settings),
        *(f"  values:   {sentence}" for sentence in by_value(found.by_value)),
        *(changed_lines(changes) if changes else ()),
        *(f"  note:     {note}" for note in found.notes),
    ]
    return "\n".join(map(safe_line, lines))


def by_value(found: ByValue | None) -> list[str]:
    """Return in sentences what the sizes of drifts say; none where nobody asked."""
    if found is None:
        return []
    sentences = []
    if found.outside is not None:
        check = found.outside.check
        sentences.append(f"{check.subject} is the first outside its bound: {_size(found.outside)}")
    elif found.nearest is not None:
        nearest = f"{found.nearest.check.subject} has the smallest margin"
        sentences.append(f"no stage is outside its bound; {nearest}: {_size(found.nearest)}")
    if found.jump is not None:
        growth = f"{found.growth:.3g} times what it was"
        sentences.append(f"free drift grows most at {found.jump}: {growth}")
    return sentences


def _first_lines(found: Explanation) -> list[str]:
    """Return the first difference; nothing where a batch was found, of which it is not known."""
    if found.first is not None:
        return [f"  first:    {reasons.difference(found.first)}"]
    is_unknown = found.batch is not None and not found.notes
    return [] if is_unknown else ["  first:    nothing differs"]


def _batch_lines(batch: Counterexample | None) -> list[str]:
    """Return which batch is held against which image alone, and the call that makes it."""
    if batch is None:
        return []
    image = batch.images[batch.slot]
    return [
        f"  batch:    image {image} alone, against slot {batch.slot} of {list(batch.images)}",
        f"  call:     {batch.call}",
    ]


def _where_lines(found: Explanation) -> list[str]:
    """Return the root causes and the code between stages, in the order of the run.

    A scheduler's table is made before the first stage; other code comes after the last cause.
    """
    drift = "what lies between the two sides here" if found.partly else "the drift"
    lines: list[str] = []
    for index, cause in enumerate(found.root_causes):
        lines += _cause_lines(cause, drift, _restored(found, is_first=index == 0))
    if found.between is None:
        return lines
    between = _between_lines(found.between)
    return between + lines if found.between.is_table else lines + between


def _accuracy_lines(found: Explanation) -> list[str]:
    return [f"  accuracy: {accuracy.line(found.accuracy)}"] if found.accuracy else []


def _restored(found: Explanation, *, is_first: bool) -> str:
    """Return what was done to measure the share of a root cause."""
    places = "here" if is_first else "here and at the root causes above"
    if found.batch is not None:
        return f"giving the image alone the batch's result {places}"
    return f"restoring the baseline's result {places}"


def _cause_lines(cause: RootCause, drift: str, restored: str) -> list[str]:
    """Return the lines on one root cause.

    `drift` says of what its share is a part, and `restored` how that was measured.
    """
    lines = [f"  stage:    {cause.stage}: same inputs, different output"]
    if not cause.module:
        return lines
    where = f"{cause.module} ({cause.type})"
    if cause.is_stage_itself:
        where = f"own code of {cause.stage}"
    lines.append(f"  module:   {where}{_moved(cause.moved)}")
    if cause.own_code and not cause.is_stage_itself:
        lines.append("            its own code: the modules inside it agree on both sides")
    if cause.operator is not None:
        lines += _operator_lines(cause.operator)
    elif cause.moved is not None:
        lines.append(
            "  operator: none has same inputs and different output: the module's weights, buffers "
            "or settings differ, or it calls other operators"
        )
    if not _is_called_there(cause):  # the line of the operator is told already
        lines += _line_lines(cause.line)
    if cause.share is not None:
        lines.append(f"            {restored} removes {_percent(cause.share)} of {drift}")
    return lines


def _is_called_there(cause: RootCause) -> bool:
    """Whether the statement of a root cause is the one that called its operator."""
    if cause.operator is None or cause.line is None or cause.line.actual is None:
        return False
    file, _, line = cause.operator.source.rpartition(":")
    place = cause.line.actual
    return file == place.file and place.first <= int(line) <= place.last


def _between_lines(found: BetweenStages) -> list[str]:
    """Return the lines on code between stages: which stages, and which statement."""
    names = ", ".join(found.names)
    after = f"after {found.after}{_called_at(found.called)}" if found.after else "before any stage"
    before = f"before {found.before}{_called_at(found.calls)}" if found.before else "to the end"
    ends = f"in {names or 'the stages that are called'}"
    lines = [f"  between:  code {after}, {before}: equal values before, other ones {ends}"]
    if found.both:
        return lines + _line_lines(found.line)
    if found.line is not None and found.line.actual is not None:
        lines += _statement("  line:     ", found.line.actual, f"made this {_value(found.line)}")
        lines.append(
            "            only the run's side was traced: an earlier statement may be at fault"
        )
    return lines


def _line_lines(found: UnequalLine | None) -> list[str]:
    """Return the lines on the first statement with another result."""
    if found is None:
        return []
    if found.actual is None:
        lines: list[str] = []
        if found.expected is not None:
            said = "the baseline's side computes this, and the run does not"
            lines += _statement("  line:     ", found.expected, said)
        if found.follows is not None:
            lines += _statement("            ", found.follows, "comes instead")
        return lines
    lines = _statement("  line:     ", found.actual, f"the first other value: {_value(found)}")
    if found.expected is not None and found.expected.text != found.actual.text:
        lines += _statement("            ", found.expected, "stands there on the baseline's side")
    return lines


def _value(found: UnequalLine) -> str:
    """Return what is called another value: a variable, or what a function returns."""
    words = {RETURNED: "result", TAKEN: "branch that is taken"}
    return words.get(found.name, found.name)


def _statement(label: str, place: CodePlace, said: str) -> list[str]:
    where = f"{place} in {place.function}"
    return [f"{label}{where}: {said}", f"              {place.text}"]


def _called_at(place: CodePlace | None) -> str:
    return "" if place is None else f" ({place})"


def _operator_lines(operator: Operator) -> list[str]:
    shapes = ", ".join(operator.shapes) or "no tensor"
    following = f"; next comes {operator.following}" if operator.following else ""
    return [
        f"  operator: {operator.name} of {shapes}{_moved(operator.moved)}",
        f"            called at {operator.source}{following}",
    ]


def _setting(setting: Setting) -> str:
    reverted = f"{setting.actual or UNSET} -> {setting.expected or UNSET}"
    return f"{setting.name} {reverted} explains {_percent(setting.share)} of the drift"


def _moved(moved: Drift | None) -> str:
    if moved is None:
        return ""
    sizes = f"L-inf {moved.l_inf:.2e}, relative L2 {moved.rel_l2:.2e}"
    return f": {sizes}, {moved.differing} of {moved.size} elements"


def _size(found: LocalCheck) -> str:
    return f"{found.check.value:.2e}, bound {found.check.bound:.2e}"


def _percent(share: float) -> str:
    """Return a share in percent; only all is 100 %."""
    if share == 1:
        return "100 %"
    return f"{100 * share:.0f} %" if share < 0.995 else "over 99 %"
