"""Finds which sets of changes own a move, and the largest set of changes that moves nothing.

It is delta debugging over sets (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing
input", IEEE Transactions on Software Engineering 28(2), 2002). A change may need others, so that
only closed sets are tried: those that hold, with each change, all that it needs. Nothing here knows
what a change is or how a set of changes is tried; an oracle answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

Set = frozenset[str]
NONE: Set = frozenset()
Test = Callable[[Set], bool | None]


class SearchEndedError(Exception):
    """An oracle answers no more new questions: what was allowed is spent."""


class Oracle(Protocol):
    """Tries sets of changes. It should remember its answers: many questions are asked twice."""

    def differs(self, case: str, actual: Set, expected: Set) -> bool | None:
        """Whether the output of a case with the changes `actual` differs from that with `expected`.

        Returns:
            None where it cannot be told, because one of the sets cannot be tried.

        Raises:
            SearchEndedError: Nothing more may be tried.
        """


class Changes:
    """The changes between two states, and what each of them needs.

    Args:
        names: All changes. Those that are near each other are tried together first.
        needs: Of a change the others without which it cannot be made.
    """

    def __init__(self, names: Iterable[str], needs: Mapping[str, Iterable[str]]) -> None:
        self.names = tuple(names)
        self.all: Set = frozenset(self.names)
        self._needs = {name: _reachable(name, needs) for name in self.names}

    def closed(self, names: Iterable[str]) -> Set:
        """Return changes with all that they need."""
        return NONE.union(*(self._needs[name] for name in names))

    def inside(self, names: Set) -> Set:
        """Return the largest closed set of some changes: those whose needs are all among them."""
        return frozenset(name for name in names if self._needs[name] <= names)

    def cores(self, names: Set) -> Set:
        """Return those of a set that no other one of it needs.

        Changes that need each other are all returned, unless yet another one needs them.
        """
        return frozenset(
            name
            for name in names
            if all(other in self._needs[name] for other in names if name in self._needs[other])
        )

    def ordered(self, names: Set) -> list[str]:
        """Return changes in the order in which they were given."""
        return [name for name in self.names if name in names]


@dataclass(frozen=True)
class Owner:
    """A minimal set of changes that moves one case.

    Attributes:
        case: What it moves.
        changes: The changes that move it together.
        needed: What they cannot be made without; it need not take part in the move.
        base: The changes that were made before: the move comes on top of these.
        is_minimal: Whether the search came to its end; otherwise a part of `changes` may do.
        inseparable: Those of `changes` without which the rest could not be tried, so that nobody
            knows whether the rest moves the case alone.
    """

    case: str
    changes: Set
    needed: Set = NONE
    base: Set = NONE
    is_minimal: bool = True
    inseparable: Set = NONE

    @property
    def all(self) -> Set:
        """All changes that are made after this one."""
        return self.base | self.changes | self.needed


@dataclass(frozen=True)
class Held:
    """A change that is no part of the largest harmless set.

    Attributes:
        change: Which.
        moves: The cases that move when it joins that set with all that it needs.
        is_known: Whether that could be tried; if not, it does not run, or the search had ended.
        joins: What it would bring along, because it cannot be made without.
    """

    change: str
    moves: tuple[str, ...] = ()
    is_known: bool = True
    joins: Set = NONE


@dataclass(frozen=True)
class Harmless:
    """A set of changes that moves no case and to which no single further change can be added.

    `is_maximal` says whether all further changes were tried.
    """

    changes: Set
    held: tuple[Held, ...] = ()
    is_maximal: bool = True


# Which sets own a move.


def find_owners(case: str, changes: Changes, oracle: Oracle) -> Iterator[Owner]:
    """Yield sets of changes, each minimal, that together explain how a case moves.

    The first one moves the case by itself. Each further one moves it on top of those before, until
    making all changes moves it no further.
    """
    base: Set = NONE
    while _holds(oracle, case, changes.all, base):
        owner = find_owner(case, changes, oracle, changes.all, base)
        yield owner
        if not owner.is_minimal:
            return
        base = owner.all


def find_owner(case: str, changes: Changes, oracle: Oracle, top: Set, base: Set = NONE) -> Owner:
    """Return a minimal set that moves a case on top of `base`.

    Args:
        case: What moves.
        changes: All changes.
        oracle: Tries sets.
        top: A closed set that holds `base` and moves the case.
        base: A closed set of changes that are made in any event.
    """

    def moves(names: Set) -> bool | None:
        return oracle.differs(case, names, base)

    search = _Minimising(changes, moves, base, top)
    is_minimal = search.run()
    found = search.current - base
    core = changes.cores(found)
    inseparable = search.inseparable() & core if is_minimal else NONE
    return Owner(case, core, found - core, base, is_minimal, inseparable)


@dataclass
class _Minimising:
    """A search for a minimal closed set that moves; `current` always moves and only shrinks."""

    changes: Changes
    moves: Test
    base: Set
    current: Set

    def run(self) -> bool:
        """Shrink `current` as far as it goes; False where the search was ended before that."""
        parts = 2
        try:
            while True:
                size = len(self.current - self.base)
                smaller = self._first_that_moves(min(parts, size))
                if smaller is not None:
                    self.current = smaller
                    parts = 2
                elif parts >= size:
                    return True
                else:
                    parts *= 2
        except SearchEndedError:
            return False

    def inseparable(self) -> Set:
        """Return the changes of a minimal set without which the rest of it cannot be tried."""
        return frozenset(
            name
            for name in self.current - self.base
            if self.moves(self.changes.inside(self.current - {name})) is None
        )

    def _first_that_moves(self, parts: int) -> Set | None:
        """Return the first candidate that moves; None where none does."""
        tried = {self.current, self.base}
        for candidate in self._candidates(parts):
            if candidate not in tried and self.moves(candidate):
                return candidate
            tried.add(candidate)
        return None

    def _candidates(self, parts: int) -> Iterator[Set]:
        """Yield each part with what it needs, then what is left without each part."""
        chunks = _split(self.changes.ordered(self.current - self.base), parts)
        for chunk in chunks:
            yield self.base | self.changes.closed(chunk)
        for chunk in chunks:
            yield self.changes.inside(self.current - frozenset(chunk))


# The largest set that moves nothing.


def find_harmless(
    cases: Sequence[str], changes: Changes, oracle: Oracle, owners: Sequence[Owner]
) -> Harmless:
    """Return a set of changes that moves no case, as large as adding changes makes it.

    It begins with all changes that own no move, and adds the others one by one.

    Args:
        cases: The cases that must keep their outputs.
        changes: All changes.
        oracle: Tries sets.
        owners: What is known to move cases.
    """
    growth = _Growth(cases, changes, oracle)
    counts = {name: sum(name in owner.changes for owner in owners) for name in changes.names}
    suspects = sorted((name for name in changes.names if counts[name]), key=counts.__getitem__)
    try:
        growth.add(changes.ordered(changes.inside(changes.all - frozenset(suspects))))
        for name in suspects:
            growth.add([name])
        growth.add_singles_until_none_fits()
    except SearchEndedError:
        return Harmless(growth.part, growth.held(), is_maximal=False)
    return Harmless(growth.part, growth.held())


@dataclass
class _Growth:
    """A set that moves nothing, and grows."""

    cases: Sequence[str]
    changes: Changes
    oracle: Oracle
    part: Set = NONE
    _reasons: dict[str, Held] = field(default_factory=dict)

    def add(self, names: Sequence[str]) -> None:
        """Add some changes with what they need, or else as many of them as fit, by halves."""
        joined = self.part | self.changes.closed(names)
        if joined == self.part:
            return
        moves = self._moves(joined)
        if moves == ():
            self.part = joined
        elif len(names) > 1:
            for half in _split(names, 2):
                self.add(half)
        else:
            self._reasons[names[0]] = Held(
                names[0], moves or (), moves is not None, joined - self.part - {names[0]}
            )

    def add_singles_until_none_fits(self) -> None:
        """Try each change that is left out again, until a whole turn adds nothing."""
        before = None
        while before != self.part:
            before = self.part
            for name in self.changes.ordered(self.changes.all - self.part):
                self.add([name])

    def held(self) -> tuple[Held, ...]:
        """Return why each change is left out, as far as it is known."""
        left_out = self.changes.ordered(self.changes.all - self.part)
        return tuple(self._reasons.get(name, Held(name, is_known=False)) for name in left_out)

    def _moves(self, names: Set) -> tuple[str, ...] | None:
        """Return the cases that a set moves; None where a case cannot be tried in it."""
        moved = []
        for case in self.cases:
            answer = self.oracle.differs(case, names, NONE)
            if answer is None:
                return None
            if answer:
                moved.append(case)
        return tuple(moved)


def _holds(oracle: Oracle, case: str, actual: Set, expected: Set) -> bool:
    """Whether two sets that were both tried before differ; nothing new is tried."""
    return bool(oracle.differs(case, actual, expected))


def _reachable(name: str, needs: Mapping[str, Iterable[str]]) -> Set:
    """Return a change with everything that it needs, directly or by others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += needs.get(current, ())
    return frozenset(found)


def _split(names: Sequence[str], parts: int) -> list[list[str]]:
    """Return names in `parts` pieces of nearly the same length, in their order."""
    bounds = [round(index * len(names) / parts) for index in range(parts + 1)]
    pieces = [list(names[low:high]) for low, high in pairwise(bounds)]
    return [piece for piece in pieces if piece]
