"""Owns the history: one immutable file for each run, read back as columns over all runs.

A file of `runs/` holds one point for each case of a run. A column is one string: the words or
numbers of all points, separated by single blanks, or a single one that holds for all of them. So a
year of nights stays small, is read fast, and can still be read by people and by a few lines of any
language. The environments of the runs lie
beside them in `environments/`, each once, named by its digest.

The name of a file comes from the seal of the run's results. Two writers never choose the same name
for different runs, and a run that is added twice is kept once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import FileError, UsageError
from harness.records import AccuracyVerdict, Against, Metric, Outcome, worst_first
from harness.store.recording import Environment
from harness.store.run_folder import Results, read_results
from harness.store.sealed import SealedFormat, sealed_bytes
from harness.store.shared_folder import SharedFolder, open_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.records import Array

    Numbers = NDArray[np.float64]

HISTORY_FORMAT = "harness-history/1"
ENVIRONMENT_FORMAT = "harness-environment/1"
RUNS, ENVIRONMENTS = "runs", "environments"
NO_WORD = "-"  # stands where a point has no word
DIGITS = 6  # significant ones of a number
WORST_FIRST = (
    AccuracyVerdict.WORSE,
    AccuracyVerdict.UNKNOWN,
    AccuracyVerdict.NO_WORSE,
    AccuracyVerdict.BETTER,
)
REMEDY = "move it away; the run can be added again from its folder"


@dataclass(frozen=True)
class HistoryFile:
    """The points of one run.

    Attributes:
        format: `harness-history/1`.
        run: The name of the run's folder.
        time: When its results were written, in UTC.
        commit: The git commit, empty where it is not known.
        points: How many there are.
        words: The columns of words by name, see `WORDS`.
        numbers: The columns of numbers by name, see `NUMBERS`; `nan` where a point has none.
        environments: The digest of the environment of each numerics class, by its name.
        digest: Seals all other keys.
    """

    format: str
    run: str
    time: str
    commit: str
    points: int
    words: dict[str, str]
    numbers: dict[str, str]
    environments: dict[str, str]
    digest: str = ""


@dataclass(frozen=True)
class EnvironmentFile:
    """An environment in which runs of the history were made."""

    format: str
    environment: Environment
    digest: str = ""


SEALED_HISTORY = SealedFormat(HISTORY_FORMAT, HistoryFile, "a file of the history", REMEDY)
SEALED_ENVIRONMENT = SealedFormat(ENVIRONMENT_FORMAT, EnvironmentFile, "an environment", REMEDY)


# What a point holds.


def _baseline_digest(outcome: Outcome) -> str:
    return "" if outcome.baseline is None else outcome.baseline.digest


def _numerics_class(outcome: Outcome) -> str:
    """Return the class that a case ran in; of results that do not tell, the baseline's own."""
    if outcome.numerics_class or outcome.baseline is None:
        return outcome.numerics_class
    return "" if outcome.baseline.reference else outcome.baseline.numerics_class


def _margin(outcome: Outcome) -> float:
    """Return the smallest margin of the checks against the baseline that measured a difference."""
    margins = [
        check.margin
        for check in outcome.checks
        if check.against is Against.BASELINE and check.value > 0
    ]
    return min(margins, default=math.nan)


def _free_bound(outcome: Outcome) -> float:
    """Return the smallest bound on the relative L2 of an output; NaN where there is none."""
    bounds = [
        check.bound
        for check in outcome.checks
        if check.against is Against.BASELINE and check.metric is Metric.REL_L2
    ]
    return min(bounds, default=math.nan)


def _worst(values: Iterable[float]) -> float:
    return max(values, key=worst_first, default=math.nan)


def _accuracy(outcome: Outcome) -> str:
    """Return the worst verdict on the accuracy of any stage; empty where none was evaluated."""
    found = {stage.verdict for stage in outcome.accuracy}
    return next((str(verdict) for verdict in WORST_FIRST if verdict in found), "")


def _accuracy_ratio(outcome: Outcome) -> float:
    """Return the largest error of this run over the baseline's, of any stage."""
    ratios = [stage.ratio for stage in outcome.accuracy]
    return max((ratio for ratio in ratios if not math.isnan(ratio)), default=math.nan)


def _seconds(outcome: Outcome) -> float:
    seconds = 0.0 if outcome.cost is None else outcome.cost.figures.seconds
    return seconds or math.nan


def _peak_bytes(outcome: Outcome) -> float:
    peak = 0 if outcome.cost is None else outcome.cost.figures.peak_bytes
    return float(peak) or math.nan


WORDS: dict[str, Callable[[Outcome], str]] = {
    "case": lambda outcome: outcome.case,
    "target": lambda outcome: str(outcome.target),
    "variant": lambda outcome: outcome.variant,
    "tags": lambda outcome: ",".join(outcome.tags),
    "numerics_class": _numerics_class,
    "device_kind": lambda outcome: outcome.device_kind,
    "verdict": lambda outcome: str(outcome.verdict),
    "reason": lambda outcome: str(outcome.reason),
    "baseline": _baseline_digest,
    "accuracy": _accuracy,
}
NUMBERS: dict[str, Callable[[Outcome], float]] = {
    "free_l_inf": lambda outcome: _worst(each.l_inf for each in outcome.outputs.values()),
    "free_rel_l2": lambda outcome: _worst(each.rel_l2 for each in outcome.outputs.values()),
    "local_l_inf": lambda outcome: _worst(each.l_inf for each in outcome.local),
    "local_rel_l2": lambda outcome: _worst(each.rel_l2 for each in outcome.local),
    "margin": _margin,
    "free_bound": _free_bound,
    "accuracy_ratio": _accuracy_ratio,
    "seconds": _seconds,
    "peak_bytes": _peak_bytes,
}


# Writing.


def add_run(folder: SharedFolder, results: Results, run: str) -> str:
    """Add the outcomes of a run to the history, and return the name of the file.

    Args:
        folder: The history.
        results: What the run's folder holds.
        run: The name of that folder.

    Raises:
        FileError: The history cannot be written to.
        UsageError: The results hold no outcome, or do not say when they were written.
    """
    if not results.outcomes:
        raise UsageError(f"{run} holds no outcome that the history could keep")
    moment = _moment(results.written)
    if moment is None:
        raise UsageError(f"the results of {run} do not say when they were written; run again")
    environments = _add_environments(folder, results)
    content = HistoryFile(
        format=HISTORY_FORMAT,
        run=_word(run),
        time=results.written,
        commit=results.commit,
        points=len(results.outcomes),
        words={name: _words(results.outcomes, read) for name, read in WORDS.items()},
        numbers={name: _numbers(results.outcomes, read) for name, read in NUMBERS.items()},
        environments=environments,
    )
    name = f"{RUNS}/{moment:%Y-%m-%dT%H-%M-%S}Z-{results.digest[:16]}.json"
    folder.write(name, sealed_bytes(content))
    return name


def add_run_folder(place: str, run: Path) -> str:
    """Add what a run's folder holds to the history at a path or URL, and return what was written.

    Raises:
        UsageError: The URL needs a package that is not installed, or the run holds no outcome.
        FileError: The run cannot be read, or the history cannot be written to.
    """
    folder = open_folder(place)
    name = add_run(folder, read_results(run), run.resolve().name)
    return f"{folder.place}/{name}"


def _add_environments(folder: SharedFolder, results: Results) -> dict[str, str]:
    """Add the environments that the history lacks, and return their digests by numerics class."""
    environments = dict(results.environments)
    if not environments and results.environment is not None:
        environments[results.environment.numerics_class.name] = results.environment
    present = set(folder.names(ENVIRONMENTS))
    digests = {}
    for numerics_class, environment in environments.items():
        data = sealed_bytes(EnvironmentFile(ENVIRONMENT_FORMAT, environment))
        digest = SEALED_ENVIRONMENT.parse(data, ENVIRONMENTS).digest
        digests[numerics_class] = digest
        name = _environment_name(digest)
        if name not in present:
            folder.write(name, data)
    return digests


def _environment_name(digest: str) -> str:
    return f"{ENVIRONMENTS}/{digest}.json"


def _words(outcomes: Sequence[Outcome], read: Callable[[Outcome], str]) -> str:
    return _column([_word(read(outcome)) for outcome in outcomes])


def _word(text: str) -> str:
    """Return a text without blanks, which separate the words of a column."""
    return "_".join(text.split()) or NO_WORD


def _numbers(outcomes: Sequence[Outcome], read: Callable[[Outcome], float]) -> str:
    return _column([f"{read(outcome):.{DIGITS}g}" for outcome in outcomes])


def _column(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else " ".join(values)


def _moment(text: str) -> datetime | None:
    """Return a moment in UTC; None where the text is none, or has no time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.astimezone(UTC)


# Reading.


@dataclass(frozen=True)
class Words:
    """A column of words: `codes[i]` is the place of point `i`'s word in `table`."""

    codes: Array
    table: tuple[str, ...]

    def of(self, point: int) -> str:
        """Return the word of one point, empty where it has none."""
        word = self.table[int(self.codes[point])]
        return "" if word == NO_WORD else word


@dataclass(frozen=True)
class History:
    """All points of all runs, sorted by time.

    Attributes:
        place: The folder, as the user named it.
        files: The runs, sorted by time, without their columns' texts being read again.
        run: For each point, the index of its run in `files`.
        times: For each point, seconds since 1970 in UTC.
        words: The columns of words.
        numbers: The columns of numbers, float64.
        problems: The files that could not be read, and why.
    """

    place: str
    files: tuple[HistoryFile, ...]
    run: Array
    times: Array
    words: Mapping[str, Words]
    numbers: Mapping[str, Numbers]
    environment_of: Callable[[str], Environment | None]
    problems: tuple[FileError, ...] = ()


def read_history(folder: SharedFolder, since: datetime | None = None) -> History:
    """Return the history of a folder.

    Args:
        folder: Where `add_run` wrote.
        since: Leaves out the runs before this moment, whose files are not opened.

    Raises:
        FileError: The folder cannot be listed.
    """
    first = "" if since is None else f"{RUNS}/{since.astimezone(UTC):%Y-%m-%dT%H-%M-%S}Z"
    names = [name for name in folder.names(RUNS) if name >= first]
    found: list[_Columns] = []
    problems: list[FileError] = []
    for name, data in folder.read(names).items():
        try:
            found.append(_parsed(f"{folder.place}/{name}", data))
        except FileError as error:
            problems.append(error)
    return _assembled(folder, sorted(found, key=_time_of), tuple(problems))


@dataclass(frozen=True)
class _Columns:
    """One file with its time in seconds since 1970 and its numbers."""

    file: HistoryFile
    seconds: float
    numbers: Mapping[str, Numbers]


def _parsed(place: str, data: bytes | None) -> _Columns:
    """Return one file, checked: its seal, its types, and that every column has all points.

    Raises:
        FileError: It is damaged, or of another format.
    """
    if data is None:
        raise FileError(place, "cannot be read", REMEDY)
    found = SEALED_HISTORY.parse(data, place)
    moment = _moment(found.time)
    if moment is None:
        raise FileError(place, f"states no time in UTC: {found.time!r}", REMEDY)
    for name, column in (*found.words.items(), *found.numbers.items()):
        if column.count(" ") + 1 not in (1, found.points):
            raise FileError(place, f"has a column `{name}` of another length", REMEDY)
    missing = [name for name in ("case", "verdict") if name not in found.words]
    if missing:
        raise FileError(place, f"has no column `{missing[0]}`", REMEDY)
    numbers = {}
    for name, column in found.numbers.items():
        try:
            numbers[name] = _parse_numbers(column, found.points)
        except ValueError as error:
            problem = f"has a column `{name}` that is none: {error}"
            raise FileError(place, problem, REMEDY) from error
    return _Columns(found, moment.timestamp(), numbers)


def _time_of(columns: _Columns) -> float:
    return columns.seconds


def _parse_numbers(column: str, points: int) -> Numbers:
    """Return the numbers of a column.

    Raises:
        ValueError: A word in it is no number.
    """
    import numpy as np

    return np.broadcast_to(np.array(column.split(" "), np.float64), (points,))


def _assembled(
    folder: SharedFolder, found: Sequence[_Columns], problems: tuple[FileError, ...]
) -> History:
    """Return the columns of all files, one after the other."""
    import numpy as np

    files = [each.file for each in found]
    counts = [file.points for file in files]
    run = np.repeat(np.arange(len(files)), counts)
    times = np.repeat(np.array([each.seconds for each in found], np.float64), counts)
    numbers = {name: _join(found, name) for name in NUMBERS}
    words = {name: _coded([file.words.get(name) for file in files], counts) for name in WORDS}

    @cache
    def environment_of(digest: str) -> Environment | None:
        data = folder.read([_environment_name(digest)])[_environment_name(digest)]
        if data is None:
            return None
        place = f"{folder.place}/{_environment_name(digest)}"
        return SEALED_ENVIRONMENT.parse(data, place).environment

    return History(folder.place, tuple(files), run, times, words, numbers, environment_of, problems)


def _join(found: Sequence[_Columns], name: str) -> Numbers:
    """Return one column of numbers of all files; NaN where a file has no such column."""
    import numpy as np

    parts = [each.numbers.get(name, np.full(each.file.points, np.nan)) for each in found]
    return np.concatenate(parts) if parts else np.zeros(0)


def _coded(columns: Sequence[str | None], counts: Sequence[int]) -> Words:
    """Return one column of words of all files; most files have the same text as the one before."""
    import numpy as np

    table: dict[str, int] = {}
    known: dict[str, Array] = {}
    parts: list[Array] = []
    for column, points in zip(columns, counts, strict=True):
        text = NO_WORD if column is None else column
        if text not in known:
            places = [table.setdefault(word, len(table)) for word in text.split(" ")]
            known[text] = np.array(places, np.int32)
        parts.append(np.broadcast_to(known[text], (points,)))
    codes: Array = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return Words(codes, tuple(table))
