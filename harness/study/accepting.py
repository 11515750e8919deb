"""Owns how a recording becomes a baseline: in the store, and in the ledger of what it replaces."""

from __future__ import annotations

from pathlib import Path

from harness.judge.drift import measure
from harness.records import Comparison, Outcome, Verdict
from harness.scenario.model import Case
from harness.store.baselines import Store
from harness.store.ledger import Ledger, distance, entry_of, with_distances
from harness.store.recording import Recording

FIRST_RECORDING = "first recording on this class"  # the reason where nobody gives one


def lacks_baseline(outcome: Outcome) -> bool:
    """Whether a case that ran has no baseline of this machine's class, and may have this one."""
    if outcome.verdict is Verdict.MISSING:
        return True
    judged_by = outcome.baseline
    has_own = judged_by is not None and judged_by.comparison is Comparison.SAME_CLASS
    return outcome.passes and not has_own


def put_in_store(store: Store, case: Case, recording: Recording, reason: str) -> Path:
    """Make a recording the baseline of its case, and return the baseline's JSON file.

    Where it replaces another one, the ledger gets an entry with the distance between them.

    Args:
        store: Where it goes.
        case: What was run.
        recording: What it left.
        reason: Kept in the baseline.

    Raises:
        FileError: The recording is damaged, or the store cannot be written to.
    """
    old = store.current(case, recording)
    if old is None:
        return store.write(case, recording, reason)
    same_scenario = old.fingerprint == case.scenario.fingerprint
    starts_anew = not same_scenario or old.weights != recording.weights
    store.fetch_ledger(case.scenario.name, case.key)
    ledger = Ledger(store.folder(case.scenario.name, case.key))
    first = ledger.keep_first(old, starts_anew=starts_anew)
    first_outputs = ledger.first_outputs(*first)
    outputs = recording.output_tensors
    step = distance(outputs, old.output_tensors, measure)
    from_first = None
    if first_outputs is not None:
        from_first = distance(outputs, first_outputs, measure)
    path = store.write(case, recording, reason)
    entry = entry_of(old, store.read(path), starts_anew=starts_anew)
    added = ledger.add(with_distances(entry, step, from_first, first))
    store.send_ledger(added, first[0])
    return path
