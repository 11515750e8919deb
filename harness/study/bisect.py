"""Finds the release of a package that moved a case's output, by a search or a walk over releases.

Each release is recorded once, in an environment of its own. What is recorded stays in the run's
folder, where a later call goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import NotRecordedError, UsageError
from harness.launch.sandbox import named
from harness.scenario.model import Case
from harness.session import Session
from harness.store.recording import Recording
from harness.store.typed_json import encode
from harness.study.moves import Move, Until, differ, has_moved, measure_move, recorded_before

OnStep = Callable[[str], None]

SHOWN_REASONS = 3  # of skipped releases, where nothing else could be found


@dataclass(frozen=True)
class Change:
    """A release whose output differs from that of the release that it is held against.

    Attributes:
        release: Its version.
        against: The version of the other release.
        move: How far the output moved between the two, and where first.
    """

    release: str
    against: str
    move: Move


@dataclass(frozen=True)
class Bisection:
    """What was found for one case.

    Attributes:
        case: The case's id.
        package: Whose releases.
        releases: All that were considered, the oldest first.
        tried: Those that could be recorded.
        changes: After a search the first release that moved the output, if any did; after a walk
            every one.
        suspects: Releases just before the one that a search found, which had to be skipped: any of
            them may have moved the output.
        skipped: Why a release was skipped, by its version.
    """

    case: str
    package: str
    releases: tuple[str, ...]
    tried: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    suspects: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> object:
        """Return it as `bisect.json` holds it; a number that is not finite is null."""
        return encode(self)


class Trials:
    """One case in one release after the other, each run when it is first asked for.

    Args:
        session: Runs the case; its folder keeps the recordings.
        case: In this environment's own versions.
        package: Whose releases.
        companions: Other packages with their versions, for every release's environment.
        on_step: Called with what is known so far.

    Attributes:
        tried: The recordings by release.
        skipped: Why a release cannot be had, by its version.
    """

    def __init__(
        self, session: Session, case: Case, package: str, companions: Sequence[str], on_step: OnStep
    ) -> None:
        self.case = case
        self.package = package
        self.tried: dict[str, Recording] = {}
        self.skipped: dict[str, str] = {}
        self._session = session
        self._companions = companions
        self._on_step = on_step

    def get(self, release: str) -> Recording | None:
        """Return the recording of a release; None where it cannot be had, as `skipped` explains."""
        if release in self.tried or release in self.skipped:
            return self.tried.get(release)
        try:
            recording = self._record(release)
        except NotRecordedError as error:
            self._skip(release, error.reason)
            return None
        if recording.repeat.distinct > 1:
            self._skip(release, "two runs of the case differ in it")
            return None
        self.tried[release] = recording
        return recording

    def say(self, text: str) -> None:
        """Tell the caller what is known so far."""
        self._on_step(f"{self.case.id}: {text}")

    def _record(self, release: str) -> Recording:
        """Return the recording that an earlier call left of a release, or else a new one."""
        requirement = named(f"{self.package}=={release}")
        case = replace(self.case, env=(str(requirement), *self._companions))
        folder = self._folder(release)
        return recorded_before(folder, case) or self._session.record(case, folder=folder)

    def _folder(self, release: str) -> Path:
        name = self.case.scenario.name
        return self._session.out / "releases" / release / name / self.case.key

    def _skip(self, release: str, reason: str) -> None:
        self.skipped[release] = reason
        self.say(f"{self.package} {release} skipped: {reason}")


def search(
    trials: Trials, releases: Sequence[str], until: Until | str = Until.IDENTICAL
) -> Bisection:
    """Find the first release whose output differs from that of the first one in `releases`.

    Args:
        trials: Gives the recording of a release.
        releases: From the good end to the bad one, the oldest first.
        until: Until when a case counts as not moved.

    Raises:
        UsageError: An end cannot be recorded, or `until` is `within` and the scenario bounds no
            free drift.
    """
    until = Until(until)
    good, bad, package = releases[0], releases[-1], trials.package
    expected = _end(trials, good)
    if not has_moved(trials.case, _end(trials, bad), expected, until):
        trials.say(f"{package} {bad}: not moved since {good}")
        return _summary(trials, releases)

    def is_moved(index: int) -> bool | None:
        recording = trials.get(releases[index])
        if recording is None:
            return None
        return has_moved(trials.case, recording, expected, until)

    def say_what_is_known(low: int, high: int) -> None:
        trials.say(_known(package, releases, low, high))

    low, high = bisect(len(releases), is_moved, say_what_is_known)
    against = releases[low] if until is Until.IDENTICAL else good
    change = _change(trials, releases[high], against)
    return _summary(trials, releases, [change], releases[low + 1 : high])


def walk(trials: Trials, releases: Iterable[str]) -> Bisection:
    """Record every release, and hold each against the one before it that could be recorded.

    Raises:
        UsageError: Fewer than two could be recorded.
    """
    releases = tuple(releases)
    changes: list[Change] = []
    before = ""
    for release in releases:
        recording = trials.get(release)
        if recording is None:
            continue
        if before and differ(recording, trials.tried[before]):
            change = _change(trials, release, before)
            trials.say(
                f"{trials.package} {release} moved it: L-inf {change.move.l_inf:.2e}, "
                f"first {change.move.first}"
            )
            changes.append(change)
        before = release
    if len(trials.tried) < 2:
        reasons_given = _some_reasons(trials.skipped)
        raise UsageError(
            f"{trials.case.id}: fewer than two releases could be recorded; {reasons_given}"
        )
    return _summary(trials, releases, changes)


def bisect(
    count: int, has_moved: Callable[[int], bool | None], on_step: Callable[[int, int], None]
) -> tuple[int, int]:
    """Return the last of `count` releases that has not moved, and the first that has.

    The two ends are known: the first has not moved, the last has.

    Args:
        count: How many releases there are, in order.
        has_moved: Says whether one has, None where that cannot be told. All that lie between the
            two that are returned are such.
        on_step: Called with the two as far as they are known.
    """
    low, high = 0, count - 1
    unknown: set[int] = set()
    while True:
        left = [index for index in range(low + 1, high) if index not in unknown]
        if not left:
            return low, high
        on_step(low, high)
        middle = _nearest(left, (low + high) / 2)
        answer = has_moved(middle)
        if answer is None:
            unknown.add(middle)
        elif answer:
            high = middle
        else:
            low = middle


def _nearest(indices: Sequence[int], to: float) -> int:
    def distance(index: int) -> float:
        return abs(index - to)

    return min(indices, key=distance)


def _change(trials: Trials, release: str, against: str) -> Change:
    """Return how far the output moved between two releases, where first, and what else changed."""
    move = measure_move(trials.tried[release], trials.tried[against], [trials.package])
    return Change(release, against, move)


def _end(trials: Trials, release: str) -> Recording:
    """Return the recording of an end of a search."""
    recording = trials.get(release)
    if recording is None:
        reason = trials.skipped[release]
        raise UsageError(f"{trials.package} {release} cannot be an end of the search: {reason}")
    return recording


def _known(package: str, releases: Sequence[str], low: int, high: int) -> str:
    """Return in words what a search knows, and how many releases it will still try."""
    between = high - low - 1
    left = math.ceil(math.log2(high - low))
    return (
        f"{package} {releases[low]} has not moved, {releases[high]} has; {between} between, "
        f"about {left} to try"
    )


def _some_reasons(skipped: Mapping[str, str]) -> str:
    shown = list(skipped.items())[:SHOWN_REASONS]
    return "; ".join(f"{release}: {reason}" for release, reason in shown) or "none was skipped"


def _summary(
    trials: Trials,
    releases: Sequence[str],
    changes: Sequence[Change] = (),
    suspects: Sequence[str] = (),
) -> Bisection:
    return Bisection(
        case=trials.case.id,
        package=trials.package,
        releases=tuple(releases),
        tried=tuple(release for release in releases if release in trials.tried),
        changes=tuple(changes),
        suspects=tuple(suspects),
        skipped=dict(trials.skipped),
    )
