"""Which release moved a case's output: a search or a walk over releases, each recorded once, in an environment of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any

from harness.errors import NotRecordedError, UsageError
from harness.judge import (
    checks as tolerance,
)
from harness.judge import (
    drift,
)
from harness.judge import (
    environment_diff as changes,
)
from harness.judge import (
    first_difference as divergence,
)
from harness.judge.verdict import same_bits, structure
from harness.launch.sandbox import BASE, named
from harness.records import Recording
from harness.scenario.model import Case
from harness.session import Session
from harness.worker.protocol import RECORDING_FILE

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """A release whose output differs from that of the release it is held against.

    `l_inf` and `rel_l2` are those of the output that moved farthest, NaN where the outputs' structure differs; `first` is
    the first differing input or stage; `beside` is what else changed: a scheduler's configuration, the environment.
    """

    release: str
    against: str
    l_inf: float
    rel_l2: float
    first: str
    beside: tuple[str, ...]


@dataclass
class Bisection:
    """What was found for one case: `changes` has one entry, or none, after a search, and all of them after a walk.

    Where `suspects`, releases that had to be skipped, lie just before the one that a search found, any of them may have
    moved the output. `skipped` holds the reason by release.
    """

    case: str
    package: str
    releases: tuple[str, ...]
    tried: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    suspects: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as `bisect.json` holds it."""
        return asdict(self)


class Trials:
    """One case in one release after the other: run when first asked for, then read from the run's folder."""

    def __init__(
        self, session: Session, case: Case, package: str, companions: Sequence[str], on_step: OnStep
    ) -> None:
        self.case, self.package = case, package
        self.skipped: dict[str, str] = {}
        self.tried: dict[str, Recording] = {}
        self._session, self._companions, self._on_step = session, companions, on_step

    def get(self, release: str) -> Recording | None:
        """Return the recording of a release, or None where it cannot be had; the reason is then in `skipped`."""
        if release not in self.tried and release not in self.skipped:
            case = replace(self.case, env=(f"{self.package}=={release}", *self._companions))
            folder = self._session.out / "releases" / release / case.scenario.name / case.place
            try:
                kept = Recording.read(folder) if (folder / RECORDING_FILE).is_file() else None
                recording = (
                    kept
                    if kept and _is_of(kept, case)
                    else self._session.record(case, folder=folder)
                )
            except NotRecordedError as error:
                self._skip(release, error.reason)
            else:
                if recording.content["repeat"]["distinct"] > 1:
                    self._skip(release, "two runs of the case differ in it")
                else:
                    self.tried[release] = recording
        return self.tried.get(release)

    def say(self, text: str) -> None:
        """Tell the caller what is known so far."""
        self._on_step(f"{self.case.id}: {text}")

    def _skip(self, release: str, reason: str) -> None:
        self.skipped[release] = reason
        self.say(f"{self.package} {release} skipped: {reason}")


def search(trials: Trials, releases: Sequence[str], until: str = "identical") -> Bisection:
    """Find the first release whose output differs from that of `releases[0]`, given that the last one's does.

    Args:
        trials: Gives the recording of a release.
        releases: From the good end to the bad one, oldest first.
        until: `identical`: other bits count as moved; `within`: what the scenario's tolerance between classes does not admit.

    Raises:
        UsageError: An end cannot be recorded, or `until` is `within` and the scenario bounds no free drift.
    """
    good, bad, package = releases[0], releases[-1], trials.package
    then = _end(trials, good)
    if not _moved(trials.case, _end(trials, bad), then, until):
        trials.say(f"{package} {bad}: not moved since {good}")
        return _summary(trials, releases)

    def moved(index: int) -> bool | None:
        now = trials.get(releases[index])
        return None if now is None else _moved(trials.case, now, then, until)

    low, high = bisect(
        len(releases), moved, lambda low, high: trials.say(_known(package, releases, low, high))
    )
    against = releases[low] if until == "identical" else good
    change = measure(
        trials.tried[releases[high]], trials.tried[against], package, releases[high], against
    )
    return _summary(trials, releases, [change], releases[low + 1 : high])


def walk(trials: Trials, releases: Iterable[str]) -> Bisection:
    """Record every release and hold each against the one before it that could be recorded."""
    found: list[Change] = []
    releases, before = tuple(releases), ""
    for release in releases:
        now = trials.get(release)
        if now is None:
            continue
        if before and _differ(now, trials.tried[before]):
            found.append(measure(now, trials.tried[before], trials.package, release, before))
            trials.say(
                f"{trials.package} {release} moved it: L-inf {found[-1].l_inf:.2e}, first {found[-1].first}"
            )
        before = release
    if len(trials.tried) < 2:
        raise UsageError(
            f"{trials.case.id}: fewer than two releases could be recorded; {_reasons(trials.skipped)}"
        )
    return _summary(trials, releases, found)


def bisect(
    count: int, moved: Callable[[int], bool | None], on_step: Callable[[int, int], None]
) -> tuple[int, int]:
    """Return (last that has not moved, first that has) of `count` in order, of which the ends are known.

    `moved` says None for one that cannot be told; those between the two that are returned stay unknown.
    """
    low, high, unknown = 0, count - 1, set()
    while left := [index for index in range(low + 1, high) if index not in unknown]:
        on_step(low, high)
        middle = min(left, key=lambda index: abs(index - (low + high) / 2))
        answer = moved(middle)
        if answer is None:
            unknown.add(middle)
        elif answer:
            high = middle
        else:
            low = middle
    return low, high


def measure(now: Recording, then: Recording, package: str, release: str, against: str) -> Change:
    """Return how far the output moved between two releases, and where first."""
    other, weights = structure(now, then), divergence.other_weights(now, then)
    drifts = {} if other else drift.of_outputs(now, then)
    worst = max(
        drifts.values(), key=lambda d: math.inf if math.isnan(d.l_inf) else d.l_inf, default=None
    )
    first = (
        f"weights of {', '.join(weights)}"
        if weights
        else other or divergence.besides_settings(now, then) or "nothing"
    )
    lines = changes.list_changes(now.content["environment"], then.content["environment"])
    settings = divergence.configuration(now, then)
    beside = tuple(line for line in lines if not line.startswith(f"{package} "))
    beside = (settings, *beside) if settings else beside
    numbers = (worst.l_inf, worst.rel_l2) if worst else (math.nan, math.nan)
    return Change(release, against, *numbers, first, beside)


def _moved(case: Case, now: Recording, then: Recording, until: str) -> bool:
    if until == "identical" or not _differ(now, then):
        return _differ(now, then)
    bounds = case.scenario.tolerance.get("cross-class")
    if not isinstance(bounds, dict) or not {"rel_l2", "l_inf"} & set(bounds):
        raise UsageError(
            f"{case.scenario.path}: `--until within` needs `rel_l2` or `l_inf` in `tolerance.cross-class`"
        )
    if structure(now, then):
        return True
    drifts = drift.of_outputs(now, then)
    return not all(
        check.passed for name, d in drifts.items() for check in tolerance.check(name, d, bounds)
    )


def _differ(now: Recording, then: Recording) -> bool:
    return bool(structure(now, then)) or not same_bits(now, then)


def _end(trials: Trials, release: str) -> Recording:
    recording = trials.get(release)
    if recording is None:
        raise UsageError(
            f"{trials.package} {release} cannot be an end of the search: {trials.skipped[release]}"
        )
    return recording


def _is_of(recording: Recording, case: Case) -> bool:
    """Whether a recording that an earlier call left is of this very case, beside the packages that are installed now."""
    names = {named(text).name for text in case.env}
    versions = recording.content["environment"]["versions"]
    same = all(versions.get(name) == metadata.version(name) for name in BASE if name not in names)
    return same and recording.content["case"] == case.request()


def _known(package: str, releases: Sequence[str], low: int, high: int) -> str:
    inside = high - low - 1
    left = math.ceil(math.log2(high - low))
    return f"{package} {releases[low]} has not moved, {releases[high]} has; {inside} between, about {left} to try"


def _reasons(skipped: dict[str, str]) -> str:
    return (
        "; ".join(f"{release}: {reason}" for release, reason in list(skipped.items())[:3])
        or "none was skipped"
    )


def _summary(
    trials: Trials,
    releases: Sequence[str],
    found: Sequence[Change] = (),
    suspects: Sequence[str] = (),
) -> Bisection:
    tried = tuple(release for release in releases if release in trials.tried)
    return Bisection(
        trials.case.id,
        trials.package,
        tuple(releases),
        tried,
        tuple(found),
        tuple(suspects),
        dict(trials.skipped),
    )
