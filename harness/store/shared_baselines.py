"""The store of baselines behind a URL: many machines read it and write to it, without a server.

Each replacement of a baseline is a record of its own, `SCENARIO/KEY/CLASS/NUMBER.json`; the highest
number counts. A record is never changed. Whoever replaces a baseline asks for the next number, and
of two who do so at once, one is refused: nobody's baseline is lost unseen.

What is read lies in a folder of this machine in the layout of a plain store, so that all that reads
baselines reads these too.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BaselineError, FileError, writing
from harness.records import DetectionRate
from harness.scenario.model import Case
from harness.scenario.tolerance import Evidence
from harness.store.baselines import RETRIES, Baseline, Store, file_stem, parsed
from harness.store.blobs import SEND_AGAIN, cache_root, link_or_copy
from harness.store.ledger import LEDGER
from harness.store.recording import Recording
from harness.store.shared_files import SharedFiles, StoredFile
from harness.store.shared_folder import is_url

RECORD = re.compile(r"(?P<class>[^/]+)/(?P<number>[0-9]{8})\.json")
TENSORS = ".safetensors"
SCRATCH = "writing"  # a folder of the cache: baselines on their way to the store
LOOK_AGAIN = "run the case again to see what it is compared with now, then decide again"
REMEDY = f"{SEND_AGAIN}, or replace it by `harness accept`"


@dataclass(frozen=True)
class _Version:
    """The newest record of one baseline.

    Attributes:
        number: That of the record.
        files: The JSON file and the tensors; empty where the record cannot be used.
        problem: Why it cannot.
    """

    number: int
    files: tuple[StoredFile, ...] = ()
    problem: FileError | None = None


def open_store(place: str) -> Store:
    """Return the store of baselines at a path or an fsspec URL.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: It is not reached, or access to it is refused.
    """
    if not is_url(place):
        return Store(Path(place))
    store = SharedStore(SharedFiles(place))
    store.check()
    return store


class SharedStore(Store):
    """The baselines behind one URL.

    Args:
        shared: The files there.
    """

    def __init__(self, shared: SharedFiles) -> None:
        super().__init__(shared.root)
        self.url = shared.place
        self._shared = shared
        self._versions: dict[Path, _Version] = {}

    def check(self) -> None:
        """Ask once whether the store is reached.

        Raises:
            FileError: It is not, or access to it is refused.
        """
        self._shared.check()

    def shown(self, path: Path) -> str:
        """Return how a file of the store is named to the user: by its URL."""
        return f"{self.url}/{path.relative_to(self.root).as_posix()}"

    def classes(self, scenario: str, key: str) -> list[str]:
        """Return the numerics classes that one case has baselines of, sorted.

        Raises:
            BaselineError: The store is not reached.
        """
        with _of_a_baseline():
            return sorted(self._newest(scenario, key))

    def files(self, scenario: str, key: str) -> list[Path]:
        """Return the JSON files of one case, one per numerics class, as they are there now.

        Raises:
            BaselineError: The store is not reached.
        """
        return sorted(self._refresh(scenario, key))

    def read(self, path: Path, *, tensors: bool = True) -> Baseline:
        """Return one baseline, checked: complete, unchanged, and at the path that it states.

        Args:
            path: Its JSON file.
            tensors: Whether its tensors are fetched and checked, too.

        Raises:
            BaselineError: It is damaged, misplaced or of another format, or cannot be fetched.
        """
        version = self._versions.get(path) or self._refresh_of(path)
        for _ in range(RETRIES):
            try:
                self._fetch(version, tensors=tensors)
                return super().read(path) if tensors else self._checked(path)
            except BaselineError:
                newer = self._refresh_of(path)  # a process of this machine may have replaced it
                if newer is None or version is None or newer.number == version.number:
                    raise
                version = newer
        raise BaselineError(self.shown(path), "was replaced by others whenever it was read")

    def current(self, case: Case, recording: Recording) -> Baseline | None:
        """Return the baseline that `recording` would replace; None where there is none.

        Raises:
            FileError: The name of the recording's numerics class cannot be that of a file, or the
                store is not reached.
        """
        self._refresh(case.scenario.name, case.key)
        return super().current(case, recording)

    def write(self, case: Case, recording: Recording, reason: str) -> Path:
        """Make `recording` the baseline of `case` for its numerics class; return the JSON file.

        Raises:
            FileError: The recording is damaged, the store cannot be written to, or another process
                replaced the same baseline meanwhile.
        """
        path = self.folder(case.scenario.name, case.key) / f"{file_stem(recording)}.json"
        self.current(case, recording)  # fetches what is replaced
        with self._apart(path) as (store, number):
            self._send(store, store.write(case, recording, reason), number)
        self._refresh_of(path)
        return path

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
        self._refresh_of(path)
        self.read(path)
        with self._apart(path) as (store, number):
            copy = store.root / path.relative_to(self.root)
            store.annotate(copy, evidence=evidence, detection_rate=detection_rate)
            self._send(store, copy, number)
        self._refresh_of(path)

    def every_file(self) -> list[Path]:
        """Return the JSON files of all baselines.

        Raises:
            BaselineError: The store is not reached.
        """
        with _of_a_baseline():
            names = self._shared.names()
        cases = sorted({tuple(name.split("/")[:2]) for name in names if name.count("/") == 3})
        return [path for case in cases if LEDGER not in case for path in self.files(*case)]

    def adopt(self, baseline: Baseline, *, again: bool = False) -> None:
        """Keep a baseline of another store as it is, in place of one that may be there.

        Args:
            baseline: What `read` of the other store gave.
            again: Whether contents are sent although they are there: they may be damaged.

        Raises:
            FileError: The store cannot be written to, or another process was first.
        """
        path = self.folder(baseline.scenario, baseline.key) / baseline.path.name
        self._refresh_of(path)
        number = 1 + (self._versions[path].number if path in self._versions else 0)
        self._send(Store(baseline.path.parents[2]), baseline.path, number, again=again)
        self._refresh_of(path)

    def fetch_ledger(self, scenario: str = "", key: str = "") -> None:
        """Bring the ledger of one case, or of all, into the folder of this machine.

        Raises:
            FileError: An entry is damaged, or the store is not reached.
        """
        below = f"{scenario}/{key}/{LEDGER}" if scenario else ""
        names = [name for name in self._shared.names(below) if f"/{LEDGER}/" in name]
        files = [file for record in self._shared.read(names).values() for file in record.files]
        self._shared.fetch(file for file in files if Path(file.path).parent.name == LEDGER)

    def send_ledger(self, entry: Path, first: str) -> None:
        """Keep a new entry of the ledger, and the file `first` beside it, if there is one.

        Raises:
            FileError: The store cannot be written to.
        """
        files = [entry, entry.with_name(first)] if first else [entry]
        name = entry.relative_to(self.root).as_posix()
        self._shared.send(name, {each.relative_to(self.root).as_posix(): each for each in files})

    def _newest(self, scenario: str, key: str) -> dict[str, str]:
        """Return the name of the newest record of each numerics class of a case."""
        below = f"{scenario}/{key}/"
        found: dict[str, str] = {}
        for name in self._shared.names(below.rstrip("/")):  # sorted: a higher number comes later
            match = RECORD.fullmatch(name.removeprefix(below))
            if match is not None:
                found[match["class"]] = name
        return found

    def _refresh(self, scenario: str, key: str) -> dict[Path, _Version]:
        """Bring the JSON files of one case up to date, and return what they are of."""
        folder = self.folder(scenario, key)
        with _of_a_baseline():
            newest = self._newest(scenario, key)
        found = {folder / f"{name}.json": self._version(newest[name]) for name in newest}
        with writing(folder):
            for path in folder.glob("*.json"):
                if path not in found or found[path].problem is not None:
                    path.unlink(missing_ok=True)
        self._versions.update(found)
        return found

    def _fetch(self, version: _Version | None, *, tensors: bool) -> None:
        """Bring the files of a version into the folder of this machine.

        Raises:
            BaselineError: They are damaged, or the store is not reached.
        """
        if version is None:
            return
        with _of_a_baseline():
            if version.problem is not None:
                raise version.problem
            self._shared.fetch(version.files if tensors else version.files[:1])

    def _refresh_of(self, path: Path) -> _Version | None:
        """Return the newest version of one baseline; None where there is none."""
        scenario, key = path.parts[-3:-1]
        return self._refresh(scenario, key).get(path)

    def _version(self, name: str) -> _Version:
        """Return what a record says of a baseline, with its JSON file fetched.

        One that is damaged concerns this baseline alone, and not the others of the case.
        """
        number = int(Path(name).stem)
        try:
            files = self._files_of(name)
            self._shared.fetch(files[:1])
        except FileError as error:
            return _Version(number, problem=error)
        return _Version(number, files)

    def _files_of(self, name: str) -> tuple[StoredFile, ...]:
        """Return the JSON file and the tensors that a record names.

        Raises:
            FileError: It is damaged, or names other files than those of this baseline.
        """
        record = self._shared.read([name])[name]
        expected = f"{Path(name).parent.as_posix()}.json"
        json = [each for each in record.files if each.path == expected]
        tensors = [each for each in record.files if Path(each.path).suffix == TENSORS]
        found = (*json, *tensors)
        folders = {Path(each.path).parent for each in found}
        if len(json) != 1 or len(tensors) != 1 or folders != {Path(expected).parent}:
            raise FileError(f"{self.url}/{name}", f"does not name the files of {expected}", REMEDY)
        return found

    @contextmanager
    def _apart(self, path: Path) -> Iterator[tuple[Store, int]]:
        """Yield a plain store with the baselines of one case, and the number of the next record.

        What is written there is sent from there, so that no other process of this machine sees it
        or takes it away before.
        """
        version = self._versions.get(path)
        number = 1 if version is None else version.number + 1
        scratch = cache_root() / SCRATCH
        with writing(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as root:
            folder = Path(root) / path.parent.relative_to(self.root)
            with writing(folder):
                folder.mkdir(parents=True)
                for file in path.parent.glob("*.*"):
                    if file.is_file() and not file.name.startswith("."):
                        link_or_copy(file, folder / file.name)
            yield Store(Path(root)), number

    def _send(self, store: Store, path: Path, number: int, *, again: bool = False) -> None:
        """Send the baseline at `path` of a plain store as the record of this number."""
        case = path.parent.relative_to(store.root).as_posix()
        record = f"{case}/{path.stem}/{number:08}.json"
        files = (path, parsed(path).tensors_path)
        paths = {f"{case}/{each.name}": each for each in files}
        if self._shared.send(record, paths, new=True, again=again) is None:
            problem = "was replaced by another process meanwhile; nothing was written"
            raise BaselineError(f"{self.url}/{case}/{path.name}", problem, LOOK_AGAIN)


@contextmanager
def _of_a_baseline() -> Iterator[None]:
    """Turn an error of the store into one of a baseline, which is an `error` of its case alone."""
    try:
        yield
    except BaselineError:
        raise
    except FileError as error:
        raise BaselineError(error.path, error.problem, error.remedy) from error
