"""Finds where the image of a batch first differs from the same image alone.

Both run again. What differs is found as between any two cases, by `RootCauseSearch`; of every
tensor of the batch, only the part of the one image counts, as `worker.observe.slot` explains.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.errors import writing
from harness.judge import first_difference
from harness.records import Counterexample
from harness.scenario.model import Case
from harness.session import Session
from harness.study.explain import Explanation
from harness.study.revert import distance
from harness.study.root_causes import OnStep, RootCauseSearch
from harness.worker.protocol import SlotRequest

NOTED = "alone.json"  # the digests of what the image alone computed


def explain_batch(
    session: Session, case: Case, found: Counterexample, *, limit: int, on_step: OnStep
) -> Explanation:
    """Explain why a batch changes an image.

    Args:
        session: Runs the cases.
        case: The case whose scenario expects `batch-invariant`.
        found: The batch, and the slot of the image that it changes.
        limit: How many root causes to look for.
        on_step: Called with what is being run.

    Raises:
        NotRecordedError: The image alone or the batch does not run here.
    """
    folder = session.out / "explain" / case.scenario.name / f"{case.key}-batch"
    noted = folder / NOTED
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        noted.unlink(missing_ok=True)
    alone, batch = sides(case, found, noted)
    recordings = []
    # The image alone goes first, here and in the search: its digests say where its part lies.
    for index, (name, side) in enumerate((("actual", alone), ("expected", batch))):
        on_step(f"{name}, {side.images}")
        recorded = replace(side, detail={})
        recordings.append(session.record(recorded, session.slot(index), folder / name))
    by_itself, in_batch = recordings
    first = first_difference.first(by_itself, in_batch)
    if not distance(by_itself, in_batch):
        note = "the batch leaves the image as it is now: it cannot be repeated here"
        return Explanation(case.id, first, notes=(note,), batch=found)
    search = RootCauseSearch(session, alone, batch, folder, on_step, lines=False)
    causes = search.find(by_itself, in_batch, limit)
    return Explanation(case.id, first, tuple(causes), notes=tuple(search.notes), batch=found)


def sides(case: Case, found: Counterexample, noted: Path) -> tuple[Case, Case]:
    """Return the case of the image alone, and that of the batch of which only this image counts."""
    path = str(noted.resolve())
    image = (found.images[found.slot],)
    by_itself: SlotRequest = {"index": 0, "size": 1, "noted": path}
    in_batch: SlotRequest = {"index": found.slot, "size": len(found.images), "noted": path}
    return (
        replace(case, images=image, slot=by_itself),
        replace(case, images=found.images, slot=in_batch),
    )
