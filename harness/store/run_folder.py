"""A run's folder: who owns it, its `results.json`, and what several processes wrote there."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from harness import __version__
from harness.errors import FileError, UsageError, writing
from harness.records import Outcome
from harness.scenario.model import Case
from harness.store.git import git, is_dirty
from harness.store.recording import Environment
from harness.store.sealed import SealedFormat, write_sealed
from harness.worker.files import remove_leftovers, write_file

RESULTS_FORMAT = "harness-results/2"
RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
PART_FILES = "results-*.json"  # of processes that share a run's folder
OWNER_LOCK = ".owner.lock"
EXPLANATIONS = "explanations"  # a folder: what `harness explain` said, one file for each case
RUNS = Path("runs")


@dataclass(frozen=True)
class Scope:
    """What a run was asked for, where that was less than every case, and what it left out.

    Attributes:
        expression: What `-k` was given.
        device: The only device whose cases were asked for.
        failed_from: The run whose failed cases were asked for.
        unread: The scenario files that have mistakes, so that none of their cases ran.
        not_run: The cases that did not begin: the run was interrupted, or ended at a failure.
    """

    expression: str = ""
    device: str = ""
    failed_from: str = ""
    unread: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


EVERYTHING = Scope()


@dataclass(frozen=True)
class Begun:
    """When a run began, as `now` gives it and empty for now, and what it was asked for."""

    started: str = ""
    scope: Scope = EVERYTHING


@dataclass(frozen=True)
class Results:
    """The content of `results.json`: the outcomes by their ids, and where they were recorded.

    `environment` is that of the first recording; None where no case left one. `environments` has
    one for each numerics class that the cases ran in. `started` and `written` are when the run
    began and when the file was written, in UTC. `commit` is the git commit of the working
    directory, empty where there is none, and `dirty` whether files under version control differed
    from it, None where git cannot tell. `harness` is the version of the harness, and `machine` the
    network name of the machine that the run was started on. `scope` is what the run was asked for,
    where that was less than every case. `digest` seals all other keys. What a file of an older
    harness does not hold is empty.
    """

    format: str
    outcomes: tuple[Outcome, ...]
    environment: Environment | None = None
    written: str = ""
    digest: str = ""
    environments: dict[str, Environment] = field(default_factory=dict)
    commit: str = ""
    started: str = ""
    dirty: bool | None = None
    harness: str = ""
    machine: str = ""
    scope: Scope = EVERYTHING


def write_results(
    out: Path,
    outcomes: Iterable[Outcome],
    environment: Environment | None,
    part: str = "",
    environments: Mapping[str, Environment] | None = None,
    begun: Begun | None = None,
) -> Path:
    """Write the outcomes of a run, or of the `part` of it that one process ran.

    Args:
        out: The run's folder.
        outcomes: Its outcomes, in any order.
        environment: That of the first recording.
        part: Names the part; empty for the whole run.
        environments: One for each numerics class that the cases ran in.
        begun: When the run began, and what it was asked for; None for now, and every case.

    Returns:
        The file.

    Raises:
        FileError: The folder cannot be written to.
    """
    begun = begun or Begun()
    results = Results(
        format=RESULTS_FORMAT,
        outcomes=tuple(sorted(outcomes, key=_case_of)),
        environment=environment,
        written=now(),
        environments=dict(environments or {}),
        commit=git("rev-parse", "HEAD") or "",
        started=begun.started or now(),
        dirty=is_dirty(),
        harness=__version__,
        machine=platform.node(),
        scope=begun.scope,
    )
    path = out / (f"results-{part}.json" if part else RESULTS_FILE)
    with writing(path):
        out.mkdir(parents=True, exist_ok=True)
        write_sealed(path, results)
    return path


def now() -> str:
    """Return the present moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_results(run: Path) -> Results:
    """Return the results of a run: of its folder, or of its `results.json`.

    Raises:
        FileError: There is no such run, or its results are damaged or of another format.
    """
    remedy = "run again; results are never edited by hand"
    sealed = SealedFormat(RESULTS_FORMAT, Results, "a file of results", remedy)
    return sealed.read(run / RESULTS_FILE if run.is_dir() else run)


def runs_below(path: Path) -> list[Path]:
    """Return the runs that a path means: a run itself, or every run in a folder, such as a night's.

    Raises:
        FileError: There is none.
    """
    if not path.is_dir() or (path / RESULTS_FILE).exists():
        return [path]
    found = sorted(each.parent for each in path.rglob(RESULTS_FILE))
    if not found:
        raise FileError(path, f"holds no run: there is no {RESULTS_FILE} in it")
    return found


def explanation_file(run: Path, case: str) -> Path:
    """Return where `harness explain` keeps what it says of a case, as text."""
    return run / EXPLANATIONS / f"{quote(case, safe='[]-,=')}.txt"


def gather_parts(
    out: Path,
) -> tuple[list[Outcome], Environment | None, dict[str, Environment]]:
    """Return what other processes wrote into a run's folder: the content of a `Results`."""
    outcomes: list[Outcome] = []
    environment: Environment | None = None
    environments: dict[str, Environment] = {}
    for part in sorted(out.glob(PART_FILES)):
        results = read_results(part)
        outcomes += results.outcomes
        environment = environment or results.environment
        environments = {**results.environments, **environments}
    return outcomes, environment, environments


def first_start(out: Path, own: str) -> str:
    """Return when the first of the processes that share a run's folder began; `own` is this one."""
    parts = [read_results(part).started for part in out.glob(PART_FILES)]
    return min([own, *filter(None, parts)])


def recording_folder(run: Path, case: Case) -> Path:
    """Return where the recording of a case lies, or will lie, in a run's folder."""
    name = case.key
    if len(case.images) == 1:
        name += f"-image{case.images[0]}"
    elif case.images:
        name += f"-batch-{'-'.join(map(str, case.images))}"
    if case.teacher_tensors is not None:
        name += "-teacher-forced"
    if case.detail is not None and case.detail.get("evaluation"):
        name += f"-float64-{case.detail['evaluation']}"
    return run / "recordings" / case.scenario.name / name


def contract_folder(run: Path, case: Case) -> Path:
    """Return where a variant's run lies that had the tensors of the case of its contract."""
    return recording_folder(run, case).with_name(f"{case.key}-contract-teacher-forced")


def remove_parts(out: Path) -> None:
    """Remove what `gather_parts` reads."""
    for part in out.glob(PART_FILES):
        part.unlink(missing_ok=True)


def new_run(root: Path = RUNS) -> Path:
    """Make the folder of a new run, named by the time and, where that is taken, by a number.

    Raises:
        FileError: The folder cannot be made.
    """
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    with writing(root):
        _make_root(root)
        for number in range(1, 1000):
            path = root / (moment if number == 1 else f"{moment}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    raise UsageError(f"{root}: a thousand runs began in this second; name one with --out")


def named_run(root: Path, name: str) -> Path:
    """Make the folder of a run with a name of its own, or return it where it is there.

    Raises:
        FileError: The folder cannot be made.
    """
    with writing(root):
        _make_root(root)
        (root / name).mkdir(exist_ok=True)
    return root / name


def _make_root(root: Path) -> None:
    """Make the folder of all runs, which git ignores: recordings never belong into a repository."""
    root.mkdir(parents=True, exist_ok=True)
    ignore = root / ".gitignore"
    if not ignore.exists():
        write_file(ignore, b"*\n")


def is_run(folder: Path) -> bool:
    """Whether a folder is what a run left, whole or cut short."""
    return any((folder / name).exists() for name in (RESULTS_FILE, "recordings", "logs"))


def newest_runs(folder: Path) -> list[Path]:
    """Return the runs in a folder, the newest first; what is no run of the harness is left out."""
    found = [path for path in folder.iterdir() if is_run(path)] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def newest_results(folder: Path) -> Path | None:
    """Return the run in a folder whose results were written last; None where there is none."""
    found = [run for run in newest_runs(folder) if (run / RESULTS_FILE).is_file()]
    return max(found, key=lambda run: (run / RESULTS_FILE).stat().st_mtime_ns, default=None)


class RunOwner:
    """Holds a run's folder, so that no second run writes into it at the same time.

    Args:
        out: The folder; made where it is not there.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._lock = FileLock(out / OWNER_LOCK, thread_local=False)

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            UsageError: Another run that is still going on has it.
            FileError: The folder cannot be written to.
        """
        with writing(self._out):
            self._out.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"{self._out}: another run is writing there now; wait for it, or name "
                    "another folder with --out"
                ) from None
            remove_leftovers(self._out)

    def release(self) -> None:
        """Give the folder back."""
        self._lock.release()


def _case_of(outcome: Outcome) -> str:
    return outcome.case.removesuffix("]")  # a variant comes after its base
