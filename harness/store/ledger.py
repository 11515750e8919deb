"""Owns the ledger: one small file for each replacement of a baseline, beside the baselines.

A baseline says only what it replaced. Many small replacements can lead far away, each of them
looking harmless. So the first replacement keeps the outputs of the first baseline, and every one
adds an entry `ledger/CLASS.TIME.DIGEST.json` that says how far the new outputs lie from the old
ones and from the first ones. Entries are never changed and their names differ, so that branches of
a repository merge without conflicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import FileError, writing
from harness.records import Drift, Target, case_key, worst_first
from harness.store.baselines import Baseline, Provenance
from harness.store.safetensors import digest_file, open_tensors, pack_arrays
from harness.store.sealed import SealedFormat, write_sealed
from harness.worker.files import write_file

if TYPE_CHECKING:
    from harness.records import Array

LEDGER_FORMAT = "harness-ledger/1"
LEDGER = "ledger"  # the folder, beside the baselines of one case
REMEDY = "restore it from version control"

Measure = Callable[["Array", "Array"], Drift]


@dataclass(frozen=True)
class Distance:
    """How far outputs lie from others: of the output that moved farthest; NaN for no number."""

    l_inf: float
    rel_l2: float


@dataclass(frozen=True)
class Entry:
    """One replacement of a baseline.

    Attributes:
        format: `harness-ledger/1`.
        scenario: The scenario.
        target: The device and dtype.
        numerics_class: The class of the baseline.
        provenance: Who replaced it, when, why, and the seal of what was replaced.
        baseline: The seal of the new baseline.
        outputs: The digests of the new outputs by name.
        replaced_outputs: The digests of the old ones.
        starts_anew: Whether the scenario or the weights are others, so that the outputs were meant
            to differ: the distance from the first baseline is counted from here.
        step: How far the new outputs lie from the old ones; None where the structure differs.
        from_first: How far they lie from those of the first baseline; None where it starts anew or
            the first outputs are not kept.
        first: The file with the first outputs, empty where they are not kept.
        first_digest: The digest of that file's bytes.
        digest: Seals all other keys.
        variant: The variant of the scenario; empty for the scenario as it stands.
    """

    format: str
    scenario: str
    target: Target
    numerics_class: str
    provenance: Provenance
    baseline: str
    outputs: dict[str, str]
    replaced_outputs: dict[str, str]
    starts_anew: bool
    step: Distance | None = None
    from_first: Distance | None = None
    first: str = ""
    first_digest: str = ""
    digest: str = ""
    variant: str = ""


SEALED = SealedFormat(LEDGER_FORMAT, Entry, "an entry of the ledger", REMEDY)


@dataclass(frozen=True)
class WalkStep:
    """One replacement, as a report shows it; `l_inf` is NaN where the step has no number."""

    date: str
    author: str
    reason: str
    l_inf: float


@dataclass(frozen=True)
class Walk:
    """The replacements of one baseline since its outputs were last meant to change.

    Attributes:
        case: The id of the case.
        numerics_class: The class.
        steps: The replacements, in order of time.
        from_first: How far the newest outputs lie from the first ones; None where those are gone.
        at_most: An upper bound of that L-inf: the sum of the steps, by the triangle inequality. NaN
            where a step has no number, or where the ledger lacks one.
    """

    case: str
    numerics_class: str
    steps: tuple[WalkStep, ...]
    from_first: Distance | None
    at_most: float


class Ledger:
    """The ledger of one case: the entries of all its numerics classes.

    Args:
        folder: Where the baselines of the case lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / LEDGER

    def entries(self, numerics_class: str) -> list[Entry]:
        """Return the replacements of the baseline of one class, in order of time.

        Raises:
            FileError: An entry is damaged.
        """
        found = [
            SEALED.read(path)
            for path in sorted(self._folder.glob("*.json"))
            if path.name.startswith(f"{numerics_class}.")
        ]
        return sorted(found, key=_date_of)

    def keep_first(self, old: Baseline, *, starts_anew: bool) -> tuple[str, str]:
        """Keep the outputs of a baseline that is about to be replaced, if it is the first one.

        Returns:
            The file with the first outputs and the digest of its bytes; empty where it starts anew,
            or where the first outputs are not kept.

        Raises:
            FileError: The baseline is damaged, or the ledger cannot be written to.
        """
        if starts_anew:
            return "", ""
        since = _since_anew(self.entries(old.numerics_class.name))
        if since:
            return since[-1].first, since[-1].first_digest
        name = f"{old.numerics_class.name}.first.{old.digest[:8]}.safetensors"
        path = self._folder / name
        with writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(path, pack_arrays(old.output_tensors))
        return name, digest_file(path)

    def first_outputs(self, name: str, digest: str) -> Mapping[str, Array] | None:
        """Return the outputs of the first baseline; None where the file is gone or was changed."""
        path = self._folder / name
        if not name or Path(name).name != name or not path.is_file() or path.is_symlink():
            return None
        return open_tensors(path) if digest_file(path) == digest else None

    def add(self, entry: Entry) -> Path:
        """Write an entry, and return its file.

        Raises:
            FileError: The ledger cannot be written to.
        """
        moment = datetime.fromisoformat(entry.provenance.date)
        name = f"{entry.numerics_class}.{moment:%Y-%m-%dT%H-%M-%S}Z.{entry.baseline[:8]}.json"
        path = self._folder / name
        with writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_sealed(path, entry)
        return path


def entry_of(old: Baseline, new: Baseline, *, starts_anew: bool) -> Entry:
    """Return the entry of a replacement, still without distances."""
    return Entry(
        format=LEDGER_FORMAT,
        scenario=new.scenario,
        target=new.target,
        numerics_class=new.numerics_class.name,
        provenance=new.provenance,
        baseline=new.digest,
        outputs=new.output_digests,
        replaced_outputs=old.output_digests,
        starts_anew=starts_anew,
        variant=new.variant,
    )


def with_distances(
    entry: Entry, step: Distance | None, from_first: Distance | None, first: tuple[str, str]
) -> Entry:
    """Return an entry with what was measured, and where the first outputs are."""
    name, digest = first
    return replace(entry, step=step, from_first=from_first, first=name, first_digest=digest)


def distance(
    actual: Mapping[str, Array], expected: Mapping[str, Array], measure: Measure
) -> Distance | None:
    """Return how far outputs lie from others; None where their names or shapes differ."""
    if actual.keys() != expected.keys():
        return None
    if any(actual[name].shape != array.shape for name, array in expected.items()):
        return None
    drifts = [measure(actual[name], array) for name, array in expected.items()]
    worst = max(drifts, key=_l_inf)
    return Distance(worst.l_inf, max((each.rel_l2 for each in drifts), key=worst_first))


def walks(root: Path) -> tuple[list[Walk], list[FileError]]:
    """Return what the ledgers of a store of baselines say, and the entries that cannot be read."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    problems = []
    for path in sorted(root.glob(f"*/*/{LEDGER}/*.json")):
        try:
            entry = SEALED.read(path)
        except FileError as error:
            problems.append(error)
            continue
        key = (entry.scenario, case_key(entry.target, entry.variant), entry.numerics_class)
        found.setdefault(key, []).append(entry)
    return list(_walks(found.values())), problems


def _walks(ledgers: Iterable[list[Entry]]) -> Iterator[Walk]:
    for entries in ledgers:
        steps = _since_anew(sorted(entries, key=_date_of))
        if steps:
            last = steps[-1]
            yield Walk(
                case=f"{last.scenario}[{case_key(last.target, last.variant)}]",
                numerics_class=last.numerics_class,
                steps=tuple(map(_walk_step, steps)),
                from_first=last.from_first,
                at_most=_sum_of_steps(steps),
            )


def _sum_of_steps(steps: list[Entry]) -> float:
    """Return the sum of the L-inf of steps; NaN where one is unknown or missing between two."""
    pairs = pairwise(steps)
    if any(after.replaced_outputs != before.outputs for before, after in pairs):
        return math.nan
    return sum(_walk_step(step).l_inf for step in steps)


def _since_anew(entries: list[Entry]) -> list[Entry]:
    """Return the entries after the last one that starts anew."""
    anew = [index for index, entry in enumerate(entries) if entry.starts_anew]
    return entries[anew[-1] + 1 :] if anew else entries


def _walk_step(entry: Entry) -> WalkStep:
    l_inf = math.nan if entry.step is None else entry.step.l_inf
    made = entry.provenance
    return WalkStep(made.date, made.author, made.reason, l_inf)


def _date_of(entry: Entry) -> str:
    return entry.provenance.date


def _l_inf(moved: Drift) -> float:
    return worst_first(moved.l_inf)
