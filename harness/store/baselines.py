"""Owns the store of baselines: finds the one to compare a case with, checks it, writes new ones.

A baseline is two files: `SCENARIO/KEY/CLASS.json`, which holds a digest over its own content,
the seal, and beside it the tensors that it names, in `CLASS.DIGEST.safetensors`. The JSON file is
replaced last, and tensors are removed only when no JSON file names them, so that a reader finds
either the old baseline or the new one, and never a mixture.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from harness.errors import BaselineError, FileError, writing
from harness.records import Comparison, DetectionRate, Device, JudgedBy, Target, case_key
from harness.scenario.model import Case, Reference, Scenario
from harness.scenario.tolerance import NO_DIFFERENCE, Evidence, Kind, Tolerance
from harness.store.git import author, git
from harness.store.recording import (
    NumericsClass,
    Observed,
    Recording,
    TensorsFile,
)
from harness.store.safetensors import digest_file
from harness.store.sealed import SealedFormat, write_sealed
from harness.store.typed_json import NOT_IN_JSON
from harness.worker.files import remove_leftovers, write_file

FORMAT = "harness-baseline/2"
CLASS_NAME = re.compile(r"\w[\w.+-]*")  # the name of a numerics class is also a file name
LOCKS = ".locks"  # a folder of the store that git ignores
REMEDY = "restore both files from version control, or replace them by `harness accept`"
RETRIES = 20  # attempts at reading a baseline that other processes keep replacing
RETRY_SECONDS = 0.05


@dataclass(frozen=True)
class Provenance:
    """Who accepted a baseline, when, why, at which commit, and the seal of what it replaced."""

    author: str
    date: str
    reason: str
    commit: str | None = None
    replaced: str | None = None


@dataclass(frozen=True, kw_only=True)
class Baseline(Observed):
    """A recording that was accepted as what a scenario must give on one target.

    Attributes:
        scenario: The name of the scenario.
        target: The device and dtype.
        fingerprint: The version of the scenario, as a digest of `decides`.
        reference: Whether machines of other numerics classes are compared with this baseline.
        provenance: Who accepted it, when and why.
        decides: The keys of the scenario that influence the output, with their values.
        evidence: What the scenario's bounds were derived from, as in its YAML.
        detection_rate: The share of known faults that the bounds catch, where it was measured.
        variant: The variant of the scenario; empty for the scenario as it stands.
        path: The JSON file.
    """

    scenario: str
    target: Target
    fingerprint: str
    reference: bool
    provenance: Provenance
    decides: dict[str, object]
    evidence: dict[str, object] | None = None
    detection_rate: DetectionRate | None = None
    variant: str = ""
    path: Path = field(default=Path(), metadata=NOT_IN_JSON)

    @property
    def key(self) -> str:
        """What tells its case from the others of the scenario."""
        return case_key(self.target, self.variant)

    @property
    def measured_bounds(self) -> Tolerance | None:
        """The bounds across classes that its evidence holds; None where there is none.

        Raises:
            BaselineError: The evidence cannot be read.
        """
        if self.evidence is None:
            return None
        try:
            found = Evidence.from_yaml(self.evidence).bounds
            are_bounds = all(at >= 0 for at in found.by_key(Kind.CROSS_CLASS).values())
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BaselineError(
                self.path, f"has evidence without bounds: {error}", REMEDY
            ) from error
        if not are_bounds:
            raise BaselineError(self.path, "has evidence with a bound below zero", REMEDY)
        return found

    def tolerance(self, scenario: Scenario) -> Tolerance:
        """Return what a machine of another class is held to: the scenario's bounds, else its own.

        Where neither has bounds, no difference is admitted.

        Raises:
            BaselineError: Its evidence cannot be read.
        """
        own = scenario.tolerances.cross_class
        return own or self.measured_bounds or NO_DIFFERENCE


@dataclass(frozen=True)
class Match:
    """The baseline that a case is compared with, and how it was found.

    Attributes:
        baseline: The baseline.
        reference: The case whose reference baseline this is; None for one of the same class.
        run: The run whose recording stands in the place of a baseline; empty for a baseline.
    """

    baseline: Baseline
    reference: Reference | None = None
    run: str = ""

    @property
    def comparison(self) -> Comparison:
        """Whether the same bits are required, or the cross-class tolerance applies."""
        return Comparison.SAME_CLASS if self.reference is None else Comparison.CROSS_CLASS

    @property
    def same_class(self) -> bool:
        """Whether the baseline was made in the numerics class of this machine."""
        return self.reference is None

    def judged_by(self) -> JudgedBy:
        """Return what an outcome keeps of this match."""
        return JudgedBy(
            numerics_class=self.baseline.numerics_class.name,
            comparison=self.comparison,
            reference="" if self.reference is None else str(self.reference),
            digest=self.baseline.digest,
            file="/".join(self.baseline.path.parts[-3:]),
            detection_rate=self.baseline.detection_rate,
            run=self.run,
        )


class Store:
    """The baselines below one folder.

    Attributes:
        root: The folder.
        url: Where the baselines are kept, if that is not the folder (`store.shared_baselines`).
    """

    url = ""

    def __init__(self, root: Path) -> None:
        self.root = root

    def shown(self, path: Path) -> str:
        """Return how a file of the store is named to the user."""
        return str(path)

    def folder(self, scenario: str, key: str) -> Path:
        """Return where the baselines of one case lie; `key` is that of the case."""
        return self.root / scenario / key

    def files(self, scenario: str, key: str) -> list[Path]:
        """Return the JSON files of one case, one per numerics class."""
        return sorted(self.folder(scenario, key).glob("*.json"))

    def folders(self) -> list[Path]:
        """Return the folder of each case that has a baseline."""
        return sorted({path.parent for path in self.root.glob("*/*/*.json")})

    def is_of_test(self, folder: Path) -> bool:
        """Whether the baselines in a folder are of an object that a test or a notebook holds.

        Raises:
            FileError: One of them cannot be read.
        """
        return any("test" in parsed(path).decides for path in folder.glob("*.json"))

    def remove(self, folder: Path) -> None:
        """Remove all baselines of a case, and the ledger of what they replaced.

        Raises:
            FileError: They cannot be removed.
        """
        self._check_inside(folder)
        with self._locked(folder.parent.name, folder.name), writing(folder):
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def match(
        self, case: Case, numerics_class: NumericsClass, *, tensors: bool = True
    ) -> Match | None:
        """Return the baseline to compare `case` with on a machine of `numerics_class`.

        That is the one of the same class; if there is none, the reference of the case's own target;
        if there is none, the reference of the case that the scenario's `reference` names.

        Args:
            case: The case.
            numerics_class: Of the machine.
            tensors: Whether the baseline's tensors are needed, and not its digests alone: a store
                behind a URL fetches them only then.

        Raises:
            BaselineError: A baseline is damaged, misplaced or of another format.
        """
        own = self.folder(case.scenario.name, case.key) / f"{numerics_class.name}.json"
        if own in self.files(case.scenario.name, case.key):
            baseline = self.read(own, tensors=tensors)
            if baseline.numerics_class.hash == numerics_class.hash:
                return Match(baseline)
        for reference in _references(case):
            scenario = reference.scenario or case.scenario.name
            for path in self.files(scenario, reference.key):
                baseline = self.read(path, tensors=tensors)
                if baseline.reference:
                    return Match(baseline, reference)
        return None

    def known(self, case: Case) -> dict[str, dict[str, str]]:
        """Return the digests of the outputs of each baseline of `case`, by class and by output.

        A baseline of another version of the scenario, or one that cannot be read, is left out. The
        worker uses these digests only to decide whether a second run is needed; no verdict depends
        on them.
        """
        found: dict[str, dict[str, str]] = {}
        for path in self.files(case.scenario.name, case.key):
            try:
                baseline = parsed(path)
            except FileError:
                continue
            if baseline.fingerprint == case.scenario.fingerprint:
                found[path.stem] = baseline.output_digests
        return found

    def of_devices(self, case: Case, devices: Sequence[Device]) -> list[Baseline]:
        """Return the baselines of `case` in its dtype on some devices, of any of its versions."""
        keys = [replace(case, target=Target(device, case.target.dtype)).key for device in devices]
        return [self.read(path) for key in keys for path in self.files(case.scenario.name, key)]

    def of_other_classes(
        self, case: Case, numerics_class: NumericsClass, devices: Sequence[Device]
    ) -> list[Baseline]:
        """Return the baselines of `case`, as it is now, of other numerics classes on `devices`."""
        return [
            baseline
            for baseline in self.of_devices(case, devices)
            if baseline.numerics_class.hash != numerics_class.hash
            and baseline.fingerprint == case.scenario.fingerprint
        ]

    def read(self, path: Path, *, tensors: bool = True) -> Baseline:  # noqa: ARG002 (a URL's)
        """Return one baseline, checked: complete, unchanged, and at the path that it states.

        Args:
            path: Its JSON file.
            tensors: Whether its tensors are needed; they are checked here in any case.

        Raises:
            BaselineError: It is damaged, misplaced, outside the store, or of another format.
        """
        for _ in range(RETRIES):
            baseline = self._checked(path)
            problem = _tensors_problem(baseline)
            if not problem:
                return baseline
            if not was_replaced(baseline):
                raise BaselineError(baseline.tensors_path, problem, REMEDY)
            time.sleep(RETRY_SECONDS)
        raise BaselineError(path, "was replaced by other processes whenever it was read")

    def write(self, case: Case, recording: Recording, reason: str) -> Path:
        """Make `recording` the baseline of `case` for its numerics class; return the JSON file.

        The first baseline of a target becomes its reference, and so does each that replaces it.
        Writers of one case wait for each other.

        Raises:
            FileError: The recording is damaged, or the store cannot be written to.
        """
        recording.verify_tensors()
        packed = recording.tensors_path.read_bytes()
        folder = self.folder(case.scenario.name, case.key)
        self._check_inside(folder)
        path = folder / f"{file_stem(recording)}.json"
        digest = recording.tensors_file.digest
        tensors = path.with_name(f"{path.stem}.{digest[:8]}.safetensors")
        with self._locked(case.scenario.name, case.key), writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            baseline = self._baseline(case, recording, reason, path)
            write_file(tensors, packed)
            tensors_file = TensorsFile(tensors.name, digest)
            write_sealed(path, replace(baseline, tensors_file=tensors_file))
            _remove_unnamed_tensors(folder)
        return path

    def current(self, case: Case, recording: Recording) -> Baseline | None:
        """Return the baseline that `recording` would replace; None where there is none.

        A damaged one counts as none.

        Raises:
            FileError: The name of the recording's numerics class cannot be that of a file.
        """
        folder = self.folder(case.scenario.name, case.key)
        return self._replaced(folder / f"{file_stem(recording)}.json")

    def annotate(
        self,
        path: Path,
        *,
        evidence: Evidence | None = None,
        detection_rate: DetectionRate | None = None,
    ) -> None:
        """Add what a study measured to the baseline at `path`, without changing its recording.

        Raises:
            FileError: The baseline is damaged, or the store cannot be written to.
        """
        found = self.read(path)
        with self._locked(found.scenario, found.key), writing(path):
            remove_leftovers(path.parent)
            baseline = self.read(path)  # again: another writer may have come first
            if evidence is not None:
                baseline = replace(baseline, evidence=evidence.as_yaml())
            if detection_rate is not None:
                baseline = replace(baseline, detection_rate=detection_rate)
            write_sealed(path, baseline)

    def every_file(self) -> list[Path]:
        """Return the JSON files of all baselines."""
        return sorted(self.root.glob("*/*/*.json"))

    def adopt(self, baseline: Baseline, *, again: bool = False) -> None:  # noqa: ARG002 (a URL's)
        """Keep a baseline of another store as it is, in place of one that may be there.

        Args:
            baseline: What `read` of the other store gave.
            again: It has no effect here: every file is written.

        Raises:
            FileError: The store cannot be written to.
        """
        folder = self.folder(baseline.scenario, baseline.key)
        self._check_inside(folder)
        baseline.verify_tensors()
        with self._locked(baseline.scenario, baseline.key), writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / baseline.tensors_path.name, baseline.tensors_path.read_bytes())
            write_file(folder / baseline.path.name, baseline.path.read_bytes())
            _remove_unnamed_tensors(folder)

    def fetch_ledger(self, scenario: str = "", key: str = "") -> None:
        """Bring the ledger of one case, or of all, into the folder: here, where it is already."""

    def send_ledger(self, entry: Path, first: str) -> None:
        """Keep a new entry of the ledger, and the file `first` beside it: they are kept already."""

    def _baseline(self, case: Case, recording: Recording, reason: str, path: Path) -> Baseline:
        """Return the baseline that `recording` becomes."""
        replaced = self._replaced(path)
        others = [other for other in self.files(case.scenario.name, case.key) if other != path]
        if replaced is not None:
            is_reference = replaced.reference
        else:
            is_reference = not any(_is_reference(other) for other in others)
        stated = case.scenario.tolerances.evidence
        evidence = None if stated is None else stated.as_yaml()
        if is_of_another_version(stated, case.scenario, replaced):
            evidence = None
        is_of_this_version = replaced and replaced.fingerprint == case.scenario.fingerprint
        if stated is None and replaced is not None and is_of_this_version:
            evidence = replaced.evidence  # the bounds that `record` measured still hold
        kept = {each.name: getattr(recording, each.name) for each in fields(Observed)}
        return Baseline(
            **{**kept, "format": FORMAT},
            scenario=case.scenario.name,
            target=case.target,
            variant=case.scenario.variant,
            fingerprint=case.scenario.fingerprint,
            reference=is_reference,
            provenance=_provenance(reason, replaced),
            decides=case.scenario.decides,
            evidence=evidence,
        )

    def _replaced(self, path: Path) -> Baseline | None:
        """Return the baseline at `path`; None where there is none, or where it is damaged."""
        try:
            return self.read(path) if path.exists() else None
        except BaselineError:
            return None

    def _checked(self, path: Path) -> Baseline:
        """Return the baseline at `path`, with everything checked but its tensors."""
        self._check_inside(path)
        try:
            baseline = parsed(path)
        except FileError as error:
            remedy = error.remedy or REMEDY
            raise BaselineError(error.path, error.problem, remedy, error.line) from error
        stated = (baseline.scenario, baseline.key, f"{baseline.numerics_class.name}.json")
        if path.parts[-3:] != stated:
            belongs = "/".join(stated)
            raise BaselineError(path, f"is misplaced: its content belongs at {belongs}", REMEDY)
        return baseline

    def _check_inside(self, path: Path) -> None:
        """Raise BaselineError where symbolic links lead out of the store."""
        real, root = Path(os.path.realpath(path)), Path(os.path.realpath(self.root))
        if not real.is_relative_to(root):
            raise BaselineError(path, "leads out of the store by a symbolic link", REMEDY)

    @contextmanager
    def _locked(self, scenario: str, key: str) -> Iterator[None]:
        """Hold the lock of the writers of one case."""
        locks = self.root / LOCKS
        with writing(locks):
            locks.mkdir(parents=True, exist_ok=True)
            remove_leftovers(locks)
            ignore = locks / ".gitignore"
            if not ignore.exists():
                write_file(ignore, b"*\n")
            lock = FileLock(locks / f"{scenario}-{key}.lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def is_of_another_version(
    evidence: Evidence | None, scenario: Scenario, replaced: Baseline | None
) -> bool:
    """Whether the evidence in a scenario was measured with another scheduler, call or checkpoint.

    Evidence of an older harness does not say what it was measured with. It is of another version
    where the baseline to be replaced is, and holds the same evidence.

    Args:
        evidence: What the scenario's bounds were derived from.
        scenario: As it is now.
        replaced: The baseline that another one replaces.
    """
    if evidence is None or scenario.variant:  # a variant has the evidence of its base
        return False
    if evidence.fingerprint:
        return evidence.fingerprint != scenario.fingerprint
    if replaced is None or replaced.fingerprint == scenario.fingerprint:
        return False
    return replaced.evidence == evidence.as_yaml()


def _references(case: Case) -> list[Reference]:
    """Return the cases whose reference baselines `case` may be compared with, in this order."""
    own = Reference(case.target, variant=case.scenario.variant)
    named = case.scenario.reference
    if named is not None and not named.scenario:  # the same variant on the other target
        named = replace(named, variant=case.scenario.variant)
    return [own] if named is None or named == own else [own, named]


def parsed(path: Path) -> Baseline:
    """Return the baseline in a JSON file, with its seal checked.

    Raises:
        FileError: It is damaged, or of another format.
    """
    baseline = SealedFormat(FORMAT, Baseline, "a baseline", REMEDY).read(path)
    name = baseline.tensors_file.file
    if Path(name).name != name:
        raise FileError(path, f"names tensors outside its folder: {name}", REMEDY)
    return replace(baseline, path=path, tensors_path=path.parent / name)


def _tensors_problem(baseline: Baseline) -> str:
    """Return what is wrong with the tensors of a baseline; empty where nothing is."""
    path = baseline.tensors_path
    if path.is_symlink():
        return "is a symbolic link; tensors must lie in the store"
    try:
        digest = digest_file(path)
    except FileError as error:
        return error.problem
    return "" if digest == baseline.tensors_file.digest else "is damaged: its digest does not fit"


def was_replaced(baseline: Baseline) -> bool:
    """Whether another process has replaced a baseline since it was read."""
    try:
        return parsed(baseline.path).digest != baseline.digest
    except FileError:
        return False


def _is_reference(path: Path) -> bool:
    """Whether the baseline at `path` is a reference; False for one that cannot be read."""
    try:
        return parsed(path).reference
    except FileError:
        return False


def _remove_unnamed_tensors(folder: Path) -> None:
    """Remove tensors that no baseline in a folder names; none where a baseline is damaged."""
    named = set()
    for path in folder.glob("*.json"):
        try:
            named.add(parsed(path).tensors_file.file)
        except FileError:
            return
    for path in folder.glob("*.safetensors"):
        if path.name not in named:
            path.unlink(missing_ok=True)


def file_stem(recording: Recording) -> str:
    """Return the name of a recording's numerics class, if it is safe as the name of a file.

    The recording may come from another machine, and so from a stranger.

    Raises:
        FileError: The name is not safe.
    """
    name = recording.numerics_class.name
    if not CLASS_NAME.fullmatch(name):
        problem = f"has a numerics class that cannot be the name of a file: {name!r}"
        raise FileError(recording.tensors_path.parent, problem, "run the case again")
    return name


def _provenance(reason: str, replaced: Baseline | None) -> Provenance:
    return Provenance(
        author=author(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        commit=git("rev-parse", "HEAD"),
        replaced=None if replaced is None else replaced.digest,
    )
