"""Plans an upgrade of several packages: which of them move which case, and which part is harmless.

Both ends and the sets of packages between them are recorded in environments of their own. What is
recorded stays in the run's folder, where a later call goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from harness.errors import NotRecordedError, SandboxError, UsageError
from harness.launch.requirement_files import read_requirements
from harness.launch.resolution import installed_packages, resolve
from harness.launch.sandbox import interpreter, is_made
from harness.records import StageAccuracy
from harness.scenario.model import Case
from harness.session import CHEAP_SECONDS, Session
from harness.store.recording import Recording
from harness.store.typed_json import encode
from harness.study.delta import (
    NONE,
    Harmless,
    Held,
    Owner,
    SearchEndedError,
    Set,
    find_harmless,
    find_owners,
)
from harness.study.moves import Move, Until, has_moved, measure_move, recorded_before
from harness.study.package_changes import Link, PackageChange
from harness.study.upgrade_ends import Ends

FORMAT = "harness-upgrade/1"
SETS = "sets"  # the folder of recordings, below the run's
VERIFIED = "verified"  # the folder of the last recordings
KEY_LENGTH = 12

OnStep = Callable[[str], None]
Make = Callable[[Sequence[str]], object]


class Verification(StrEnum):
    """What the last environment said of the harmless part, made anew from its lock file."""

    VERIFIED = "verified"  # no case moves in it
    MOVED = "moved"  # a case does: what was found cannot be relied on
    OTHER_VERSIONS = "other-versions"  # the lock file stands for other versions than were tried
    NOT_RUN = "not-run"  # no case could be recorded in it


@dataclass(frozen=True)
class Limits:
    """How much a search may take: environments that are built, and seconds; None is no limit."""

    environments: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class EnvironmentUse:
    """An environment that was tried: what changed in it, and whether and how long it was built.

    `problem` says why it cannot be had; empty where it can.
    """

    changed: tuple[PackageChange, ...]
    is_built: bool
    seconds: float
    problem: str = ""


@dataclass(frozen=True)
class OwnedMove:
    """Packages that move a case together, and how far.

    Attributes:
        packages: The packages without any of which the case does not move so.
        needed: What they cannot be installed without.
        base: The packages that were changed before: the move comes on top of theirs.
        move: How far, where first, what else changed.
        accuracy: How far both sides of each stage that moved lie from float64; empty where that was
            not evaluated.
        is_minimal: Whether the search came to its end; otherwise some of `packages` may do.
        inseparable: Those of `packages` without which the others do not run.
    """

    packages: tuple[PackageChange, ...]
    needed: tuple[PackageChange, ...]
    base: tuple[PackageChange, ...]
    move: Move
    accuracy: tuple[StageAccuracy, ...]
    is_minimal: bool
    inseparable: tuple[PackageChange, ...]


@dataclass(frozen=True)
class CaseUpgrade:
    """What the whole upgrade does to a case, and what owns that; `move` is None without a move."""

    case: str
    move: Move | None
    owners: tuple[OwnedMove, ...] = ()


@dataclass(frozen=True)
class HeldBack:
    """Packages that are no part of the harmless one.

    Attributes:
        packages: One, or several that only change together.
        joins: What they would bring along.
        moves: The cases that move when they join the harmless part.
        is_known: Whether that was tried and told; if not, the search had ended or it does not run.
    """

    packages: tuple[PackageChange, ...]
    joins: tuple[PackageChange, ...]
    moves: tuple[str, ...]
    is_known: bool


@dataclass(frozen=True)
class HarmlessPart:
    """The largest part of the upgrade that was found to move nothing.

    Attributes:
        packages: What it changes.
        held: What it leaves as it was, and why.
        is_maximal: Whether each single package that it leaves was tried beside it.
        verification: What the last environment said.
        lock: Its packages as the lines of a lock file.
    """

    packages: tuple[PackageChange, ...]
    held: tuple[HeldBack, ...]
    is_maximal: bool
    verification: Verification
    lock: tuple[str, ...]


@dataclass(frozen=True)
class UpgradePlan:
    """All that was found for an upgrade.

    Attributes:
        before: The file of the one end.
        after: The file of the other end.
        changes: The packages that differ.
        links: Which of them cannot change without another, and why.
        cases: What the upgrade does to each case that runs at both ends.
        unverified: Why a case could not be compared, by its id.
        harmless: The part that moves nothing.
        environments: What was tried, in order.
        recordings: How many runs of a case were made.
        seconds: How long it took.
        format: Of the file that holds it.
    """

    before: str
    after: str
    changes: tuple[PackageChange, ...]
    links: tuple[Link, ...]
    cases: tuple[CaseUpgrade, ...]
    unverified: dict[str, str]
    harmless: HarmlessPart
    environments: tuple[EnvironmentUse, ...]
    recordings: int
    seconds: float
    format: str = FORMAT

    @property
    def moved(self) -> tuple[CaseUpgrade, ...]:
        """The cases that the whole upgrade moves."""
        return tuple(case for case in self.cases if case.move is not None)

    @property
    def is_complete(self) -> bool:
        """Whether nothing was left out, and the harmless part was verified."""
        owners = [owner for case in self.cases for owner in case.owners]
        return (
            not self.unverified
            and all(owner.is_minimal for owner in owners)
            and self.harmless.is_maximal
            and self.harmless.verification is Verification.VERIFIED
        )

    @property
    def built(self) -> int:
        """How many environments were built."""
        return sum(each.is_built for each in self.environments)

    def as_json(self) -> object:
        """Return it as `upgrade.json` holds it; a number that is not finite is null."""
        return encode(self)


@dataclass
class Trials:
    """The cases in sets of packages, each recorded when it is first asked for.

    Attributes:
        session: Runs the cases; its folder keeps the recordings.
        cases: By their ids, in this environment's own versions.
        ends: The upgrade.
        until: Until when a case counts as not moved.
        limits: How much may be built and how long it may take; the two ends are always tried.
        on_step: Called with what is being done.
        make: Builds an environment.
        environments: What was tried.
        recordings: How many runs of a case were made.
    """

    session: Session
    cases: dict[str, Case]
    ends: Ends
    until: Until
    limits: Limits
    on_step: OnStep
    make: Make = interpreter
    environments: list[EnvironmentUse] = field(default_factory=list)
    recordings: int = 0
    _problems: dict[Set, SandboxError | None] = field(default_factory=dict)
    _found: dict[tuple[Set, str], Recording | NotRecordedError] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    def differs(self, case: str, actual: Set, expected: Set) -> bool | None:
        """Whether a case's output differs between two sets; None where one cannot be recorded.

        Raises:
            SearchEndedError: A limit is reached.
        """
        try:
            sides = [self.get(case, groups) for groups in (actual, expected)]
        except NotRecordedError:
            return None
        return has_moved(self.cases[case], sides[0], sides[1], self.until)

    def get(self, case: str, groups: Set) -> Recording:
        """Return the recording of a case where some groups of packages are changed.

        Raises:
            NotRecordedError: It cannot be recorded.
            SearchEndedError: A limit is reached.
        """
        key = (groups, case)
        if key not in self._found:
            self._check_time(groups)
            try:
                self._found[key] = self._record(case, groups)
            except NotRecordedError as error:
                self._found[key] = error
                self.on_step(f"cannot run {case}: {error.reason}")
        found = self._found[key]
        if isinstance(found, NotRecordedError):
            raise found
        return found

    def in_set(self, case: str, groups: Set) -> Case:
        """Return a case in the environment in which some groups of packages are changed."""
        return replace(self.cases[case], env=self.ends.pins(groups))

    def folder(self, case: str, groups: Set, below: str = SETS) -> Path:
        """Return where the recording of a case in a set lies."""
        text = json.dumps(self.ends.pins(groups))
        key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
        own = self.cases[case]
        return self.session.out / below / key / own.scenario.name / own.key

    def seconds(self) -> float:
        """Return how long the search has taken."""
        return time.perf_counter() - self._started

    def _record(self, case: str, groups: Set) -> Recording:
        self._prepare(groups)
        folder, own = self.folder(case, groups), self.in_set(case, groups)
        recording = recorded_before(folder, own)
        if recording is None:
            self.on_step(f"runs {case}")
            recording = self.session.record(own, folder=folder)
            self.recordings += 1
        if recording.repeat.distinct > 1:
            raise NotRecordedError("two runs of the case differ in it")
        return recording

    def _prepare(self, groups: Set) -> None:
        """Build the environment of a set, where it is not there.

        Raises:
            SandboxError: It cannot be had.
        """
        if groups not in self._problems:
            self._build(groups)
        problem = self._problems[groups]
        if problem is not None:
            raise problem

    def _build(self, groups: Set) -> None:
        pins, changed = self.ends.pins(groups), self.ends.changed(groups)
        is_built = not is_made(pins)
        if is_built:
            self._check_count(groups)
        words = ", ".join(map(str, changed)) or "nothing changed"
        doing = "builds" if is_built else "takes"
        self.on_step(f"{doing} environment {len(self.environments) + 1}: {words}")
        started, problem = time.perf_counter(), None
        try:
            self.make(pins)
        except SandboxError as error:
            problem = error
        self._problems[groups] = problem
        seconds = round(time.perf_counter() - started, 1)
        reason = problem.reason if problem else ""
        self.environments.append(EnvironmentUse(changed, is_built, seconds, reason))

    def _check_count(self, groups: Set) -> None:
        most = self.limits.environments
        built = sum(each.is_built for each in self.environments)
        if most is not None and built >= most and not self._is_end(groups):
            raise SearchEndedError

    def _check_time(self, groups: Set) -> None:
        most = self.limits.seconds
        if most is not None and self.seconds() >= most and not self._is_end(groups):
            raise SearchEndedError

    def _is_end(self, groups: Set) -> bool:
        return groups in (NONE, self.ends.sets().all)


@dataclass(frozen=True)
class Inputs:
    """What an upgrade is planned from, and where its lock file goes.

    Attributes:
        before: The requirements file of the one end.
        after: That of the other end.
        ends: What the two stand for.
        lock: Where the lock file of the harmless part is written.
        always_accuracy: Whether accuracy is also evaluated for cases that take long.
    """

    before: Path
    after: Path
    ends: Ends
    lock: Path
    always_accuracy: bool = False


WriteLock = Callable[[Sequence[str]], None]


def plan_upgrade(inputs: Inputs, trials: Trials, write_lock: WriteLock) -> UpgradePlan:
    """Find what owns the moves of an upgrade, and the largest part of it that moves nothing.

    Args:
        inputs: The two files.
        trials: Records cases in sets of packages.
        write_lock: Called with the lines of the lock file, before they are verified.

    Raises:
        UsageError: No case can be compared.
    """
    changes = inputs.ends.sets()
    compared, unverified = _compare_ends(trials, changes.all)
    owners = {case: list(find_owners(case, changes, trials)) for case in compared}
    every = [owner for found in owners.values() for owner in found]
    found = find_harmless(compared, changes, trials, every)
    lock = inputs.ends.lock(found.changes)
    write_lock(lock)
    verification = _verify(inputs, trials, compared, found.changes)
    return UpgradePlan(
        before=str(inputs.before),
        after=str(inputs.after),
        changes=inputs.ends.changes,
        links=inputs.ends.links,
        cases=tuple(_case_upgrade(inputs, trials, case, owners[case]) for case in compared),
        unverified=unverified,
        harmless=_harmless_part(inputs.ends, found, verification, lock),
        environments=tuple(trials.environments),
        recordings=trials.recordings,
        seconds=round(trials.seconds(), 1),
    )


def _compare_ends(trials: Trials, every: Set) -> tuple[list[str], dict[str, str]]:
    """Record all cases at both ends; return those that can be compared, and why others cannot."""
    unverified: dict[str, str] = {}
    for end, name in ((NONE, "--from"), (every, "--to")):
        for case in trials.cases:
            try:
                trials.get(case, end)
            except NotRecordedError as error:
                unverified.setdefault(case, f"in the packages of {name}: {error.reason}")
    compared = [case for case in trials.cases if case not in unverified]
    if not compared:
        reasons = "; ".join(dict.fromkeys(unverified.values()))
        raise UsageError(
            f"no case runs at both ends of the upgrade: {reasons}\n"
            "  do: let both files name every package that the environments hold, as `pip freeze` "
            "prints them"
        )
    return compared, unverified


def _case_upgrade(
    inputs: Inputs, trials: Trials, case: str, owners: Iterable[Owner]
) -> CaseUpgrade:
    """Return what the whole upgrade does to a case, and what each owner does."""
    ends, every = inputs.ends, inputs.ends.sets().all
    move = None
    if trials.differs(case, every, NONE):
        names = [change.name for change in ends.changes]
        move = measure_move(trials.get(case, every), trials.get(case, NONE), names)
    return CaseUpgrade(case, move, tuple(_owned(inputs, trials, each) for each in owners))


def _owned(inputs: Inputs, trials: Trials, owner: Owner) -> OwnedMove:
    """Return how far an owner moves its case on top of what was changed before."""
    ends = inputs.ends
    actual, expected = (trials.get(owner.case, groups) for groups in (owner.all, owner.base))
    changed = ends.changed(owner.changes | owner.needed)
    return OwnedMove(
        packages=ends.changed(owner.changes),
        needed=ends.changed(owner.needed),
        base=ends.changed(owner.base),
        move=measure_move(actual, expected, [change.name for change in changed]),
        accuracy=_accuracy(inputs, trials, owner, actual, expected),
        is_minimal=owner.is_minimal,
        inseparable=ends.changed(owner.inseparable),
    )


def _accuracy(
    inputs: Inputs, trials: Trials, owner: Owner, actual: Recording, expected: Recording
) -> tuple[StageAccuracy, ...]:
    """Return how far both sides of each stage that moved lie from float64; empty where unknown.

    It takes many times a run's time, so that only cheap cases are evaluated without being asked.
    """
    is_cheap = actual.cost.first_seconds <= CHEAP_SECONDS
    if not is_cheap and not inputs.always_accuracy:
        return ()
    trials.on_step(f"evaluates {owner.case} in float64")
    case = trials.in_set(owner.case, owner.all)
    try:
        return trials.session.accuracy(case, actual, expected)
    except NotRecordedError:
        return ()


def _verify(inputs: Inputs, trials: Trials, cases: Sequence[str], groups: Set) -> Verification:
    """Record all cases once more, in the environment that the lock file stands for."""
    installed = installed_packages()
    made = resolve(read_requirements(inputs.lock), installed, inputs.lock)
    locked = {**installed, **made}
    wanted = inputs.ends.packages(groups)
    if any(
        locked[name].version != wanted[name].version
        for name in inputs.ends.stated
        if name in wanted and name in locked
    ):
        return Verification.OTHER_VERSIONS
    trials.on_step("verifies the lock file of the harmless part")
    for case in cases:
        folder = trials.folder(case, groups, VERIFIED)
        try:
            actual = trials.session.record(trials.in_set(case, groups), folder=folder)
        except NotRecordedError:
            return Verification.NOT_RUN
        trials.recordings += 1
        if has_moved(trials.cases[case], actual, trials.get(case, NONE), trials.until):
            return Verification.MOVED
    return Verification.VERIFIED


def _harmless_part(
    ends: Ends, found: Harmless, verification: Verification, lock: tuple[str, ...]
) -> HarmlessPart:
    return HarmlessPart(
        packages=ends.changed(found.changes),
        held=tuple(_held_back(ends, each) for each in found.held),
        is_maximal=found.is_maximal,
        verification=verification,
        lock=lock,
    )


def _held_back(ends: Ends, held: Held) -> HeldBack:
    return HeldBack(
        packages=ends.changed(frozenset([held.change])),
        joins=ends.changed(held.joins),
        moves=held.moves,
        is_known=held.is_known,
    )
