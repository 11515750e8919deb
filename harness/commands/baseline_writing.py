"""Owns how `record` and `accept` write baselines, and how they say what was written.

A failure half-way through names what is in the store by then, and what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.commands.output import complain, say
from harness.report import wording
from harness.scenario.model import Case
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.study.accepting import put_in_store


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


def _how_far(store: Store, written: Sequence[Path], new: Sequence[NewBaseline]) -> str:
    done = ", ".join(map(store.shown, written)) or "nothing"
    left = ", ".join(each.case.id for each in new[len(written) :])
    return f"harness: written: {done}; not written: {left or 'nothing'}"
