"""Owns how `record` and `accept` write baselines, and how they say what was written.

A failure half-way through names what is in the store by then, and what is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import complain, say
from harness.errors import NotRecordedError, UsageError
from harness.report import wording
from harness.scenario.model import Case
from harness.scenario.tolerance import SYSTEMATIC_METRICS, Kind
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.study.accepting import put_in_store

if TYPE_CHECKING:
    from harness.report.terminal import Steps
    from harness.session import Session
    from harness.study.quick_calibration import Recorded


@dataclass(frozen=True)
class NewBaseline:
    """A recording that is to become the baseline of a case, and what is said beside it."""

    case: Case
    recording: Recording
    note: str = ""


def write_baselines(
    store: Store, new: Sequence[NewBaseline], reason: str, warn_above: int
) -> list[Path]:
    """Write baselines and say what each wrote.

    Args:
        store: Where they go.
        new: What to write, in this order.
        reason: Kept in each of them.
        warn_above: How many MiB of tensors a baseline may hold without a warning.

    Returns:
        The JSON file of each.

    Raises:
        FileError: One could not be written. Standard error says which were, and which were not.
    """
    written: list[Path] = []
    try:
        for each in new:
            written.append(put_in_store(store, each.case, each.recording, reason))
            note = f" ({each.note})" if each.note else ""
            shown = store.shown(written[-1])
            say(wording.wrote(shown, each.recording) + note)
            warning = wording.too_large(shown, each.recording, warn_above << 20)
            if warning:
                complain(f"warning: {warning}")
    except BaseException:  # also Ctrl-C: whoever looks must know what is in the store now
        complain(_how_far(store, written, new))
        raise
    return written


def say_bounds(session: Session, written: Mapping[Path, NewBaseline]) -> None:
    """Measure bounds for the new baselines that lack them, keep them there, and say which.

    Args:
        session: The closed session of the recordings; the folder of its run keeps these runs too.
        written: What was written, by the JSON file.
    """
    from harness.report.terminal import progress
    from harness.session import Session
    from harness.study.quick_calibration import FOLDER, RUNS, Recorded, without_bounds

    recorded = [Recorded(new.case, new.recording, path) for path, new in written.items()]
    asked = without_bounds(session.store, recorded)
    if not asked:
        return
    with (
        progress(RUNS * len(asked)) as steps,
        Session(session.store, session.out / FOLDER) as quick,
    ):
        for each in asked:
            say(_bounds_of(quick, each, steps))


def _bounds_of(session: Session, recorded: Recorded, steps: Steps) -> str:
    """Measure the bounds of one baseline; return which it got, or why it got none."""
    from harness.study.quick_calibration import add_bounds

    case = recorded.case

    def step(name: str) -> None:
        steps.doing(case.id, f"quick calibration: {name}")
        steps.done()

    try:
        bounds = add_bounds(session, recorded, step).bounds.by_key(Kind.CROSS_CLASS)
    except (NotRecordedError, UsageError) as error:
        return f"{error}; other classes owe the same bits until harness calibrate measures bounds"
    shown = [
        f"{key} {bound:g}" for key, bound in bounds.items() if key.metric not in SYSTEMATIC_METRICS
    ]
    return f"{case.id}: a quick calibration bounds other classes by {', '.join(shown)}"


def _how_far(store: Store, written: Sequence[Path], new: Sequence[NewBaseline]) -> str:
    done = ", ".join(map(store.shown, written)) or "nothing"
    left = ", ".join(each.case.id for each in new[len(written) :])
    return f"harness: written: {done}; not written: {left or 'nothing'}"
