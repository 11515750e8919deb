"""The overhead of determinism: what a case costs under two kinds of settings.

Two live workers are asked in turn, so that a machine that slows down for a while slows down both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from harness.errors import FileError, NotRecordedError, writing
from harness.launch.launcher import Slot
from harness.launch.local import LocalSlot
from harness.scenario.fields import Determinism, Profile
from harness.scenario.model import Case
from harness.session import Session, timed
from harness.store.recording import Recording
from harness.store.typed_json import MalformedError, decode, read_json, to_text
from harness.worker.files import write_file

Digests = tuple[tuple[str, str], ...]  # of a run's outputs, by their names

OVERHEADS_FILE = "cost.json"
THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Mode:
    """What a case runs under; the rest of its scenario stays.

    `threads` is the number of threads, None where the mode does not set it.
    """

    determinism: Determinism = Determinism.FULL
    profile: Profile = Profile.NATIVE
    threads: int | None = None

    def applied_to(self, case: Case) -> Case:
        """Return `case` in this mode."""
        scenario = replace(case.scenario, determinism=self.determinism, profile=self.profile)
        settings = dict(case.settings)
        if self.threads is not None:
            settings |= dict.fromkeys(THREAD_COUNTS, str(self.threads))
        return replace(case, scenario=scenario, settings=tuple(sorted(settings.items())))


@dataclass(frozen=True)
class Pair:
    """Two modes whose seconds are compared: an overhead is that of `mode` over `against`."""

    mode: Mode
    against: Mode


# `full` has one thread, so that the second pair tells the part of the switches from the threads'.
PAIRS = {
    "full / default": Pair(Mode(), Mode(Determinism.DEFAULT)),
    "full / default, 1 thread": Pair(Mode(), Mode(Determinism.DEFAULT, threads=1)),
    "portable / native": Pair(Mode(profile=Profile.PORTABLE), Mode()),
}


@dataclass(frozen=True)
class Overhead:
    """What one mode costs a case over another one.

    Attributes:
        case: The case's id.
        pair: The modes, as a key of `PAIRS`.
        seconds: The median of steady runs in the first mode.
        against: The same in the second one.
        ratio: The median over turns of the one divided by the other.
        least: The smallest ratio of a turn.
        most: The largest.
        same_bits: Whether every run in both modes gave the same outputs.
    """

    case: str
    pair: str
    seconds: float
    against: float
    ratio: float
    least: float
    most: float
    same_bits: bool


@dataclass(frozen=True)
class _Overheads:
    """The content of `OVERHEADS_FILE`; `missed` says why a case was not measured, by its id."""

    overheads: tuple[Overhead, ...]
    missed: dict[str, str]


def measure_overheads(
    session: Session,
    cases: Sequence[Case],
    pairs: Sequence[str],
    *,
    turns: int,
    rounds: int,
    on_step: Callable[[str, str], None],
) -> tuple[list[Overhead], dict[str, str]]:
    """Ask two workers in turn for each case, in the two modes of each pair.

    A machine that slows down for a while slows both sides of a turn: the ratio of a turn holds
    where its seconds do not.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        cases: In any mode.
        pairs: What to measure: keys of `PAIRS`.
        turns: How many ratios are taken. One more turn comes first, to warm up, and is not counted.
        rounds: Steady runs of each side per turn.
        on_step: Called with a case's id and the pair that is measured.

    Returns:
        The overheads, and by a case's id why it could not run.
    """
    found: list[Overhead] = []
    missed: dict[str, str] = {}
    for name in pairs:
        slots = [LocalSlot(session.out / "logs" / f"overhead-{side}.log") for side in (0, 1)]
        try:
            for case in cases:
                on_step(case.id, name)
                try:
                    turn = _Turn(session, slots, case, PAIRS[name], rounds)
                    found.append(_overhead(case, name, turn, turns))
                except NotRecordedError as error:
                    missed[case.id] = error.reason
        finally:
            for slot in slots:
                slot.end()
    return found, missed


def write_overheads(out: Path, found: Sequence[Overhead], missed: Mapping[str, str]) -> Path:
    """Keep overheads in the folder of a run, whose report then shows them.

    Returns:
        The file.

    Raises:
        FileError: The folder cannot be written to.
    """
    path = out / OVERHEADS_FILE
    text = to_text(_Overheads(tuple(found), dict(missed)))
    with writing(path):
        out.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode())
    return path


def read_overheads(run: Path) -> list[Overhead]:
    """Return the overheads that were measured into the folder of a run; none where none were.

    Raises:
        FileError: Their file is damaged, or of another version of the harness.
    """
    path = run / OVERHEADS_FILE
    if not path.exists():
        return []
    try:
        return list(decode(_Overheads, read_json(path)).overheads)
    except MalformedError as error:
        raise FileError(path, f"holds no overheads: {error}", "measure them again") from error


@dataclass(frozen=True)
class _Sides:
    """What one turn measured: the seconds of both sides, and each different set of outputs."""

    seconds: float
    against: float
    outputs: frozenset[Digests]

    @property
    def ratio(self) -> float:
        """The overhead of this turn."""
        return self.seconds / self.against


@dataclass(frozen=True)
class _Turn:
    """Both modes of one case, each on a worker of its own, which stays up from turn to turn."""

    session: Session
    slots: Sequence[Slot]
    case: Case
    pair: Pair
    rounds: int

    def take(self) -> _Sides:
        """Run both sides, one after the other."""
        one = self._run(0, self.pair.mode)
        other = self._run(1, self.pair.against)
        outputs = frozenset({_digests(one), _digests(other)})
        return _Sides(one.cost.seconds, other.cost.seconds, outputs)

    def _run(self, side: int, mode: Mode) -> Recording:
        case = timed(mode.applied_to(self.case), self.rounds + 1)
        folder = self.session.out / "recordings" / case.scenario.name / case.key
        return self.session.record(case, self.slots[side], folder / str(side))


def _overhead(case: Case, pair: str, turn: _Turn, turns: int) -> Overhead:
    """Return the overhead over all turns but the first one, which warms up."""
    taken = [turn.take() for _ in range(turns + 1)]
    counted = taken[1:]
    ratios = [sides.ratio for sides in counted]
    outputs = frozenset[Digests]().union(*(sides.outputs for sides in taken))
    return Overhead(
        case=case.id,
        pair=pair,
        seconds=median(sides.seconds for sides in counted),
        against=median(sides.against for sides in counted),
        ratio=median(ratios),
        least=min(ratios),
        most=max(ratios),
        same_bits=len(outputs) == 1,
    )


def _digests(recording: Recording) -> Digests:
    return tuple(sorted(recording.output_digests.items()))
