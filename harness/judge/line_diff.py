"""Names the statement that made the first unequal value, from the traces of one side or of both.

Two traces are compared by the digests of values, never by files or line numbers: an edit moves the
lines below it, and the two sides may lie in different folders.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.store.recording import TracedLine


@dataclass(frozen=True)
class CodePlace:
    """A statement: its file from the package on, its lines, its function, and its text."""

    file: str
    first: int
    last: int
    function: str
    text: str

    @classmethod
    def of(cls, line: TracedLine) -> CodePlace:
        """Return where a traced statement stands."""
        return cls(line.file, line.first, line.last, line.function, line.text)

    def __str__(self) -> str:
        lines = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.file}:{lines}"


@dataclass(frozen=True)
class UnequalLine:
    """The statement that made the first value which the other side has not.

    Attributes:
        name: The variable, or the input of a stage.
        actual: The statement of the run; None where the run leaves it out.
        expected: The statement of the baseline's side that made this value; None where there is
            none, or where that side was not traced.
        follows: Where the run leaves a statement out, the one that it goes on with.
    """

    name: str
    actual: CodePlace | None
    expected: CodePlace | None = None
    follows: CodePlace | None = None


class _Key(NamedTuple):
    """What tells a value from the others of a trace: when, where and as what it was made."""

    after: str
    function: str
    name: str
    digest: str

    @property
    def variable(self) -> tuple[str, str]:
        return self.function, self.name


class _Trace:
    """The values of one side, in the order in which they were made."""

    def __init__(self, lines: Sequence[TracedLine]) -> None:
        self.lines: list[TracedLine] = []
        self.keys: list[_Key] = []
        for line in lines:
            function = line.stage or line.function
            for name, digest in line.values.items():
                self.lines.append(line)
                self.keys.append(_Key(line.after, function, name, digest))
        self._pairs = set(self.keys)
        self._variables = {key.variable for key in self.keys}
        self._digests = {(key.after, key.digest) for key in self.keys}
        self.texts = {line.text for line in self.lines}

    def explains(self, key: _Key) -> bool:
        """Whether this side made the same value; under any name, if it has no such variable."""
        is_renamed = key.variable not in self._variables
        return key in self._pairs or (is_renamed and (key.after, key.digest) in self._digests)

    def first_not_in(self, other: _Trace) -> int | None:
        """Return the index of the first value that the other side did not make; None for none."""
        found = (index for index, key in enumerate(self.keys) if not other.explains(key))
        return next(found, None)

    def reached_by(self, keys: Sequence[_Key]) -> int:
        """Return how far into this side the values of the other one lead, followed in order."""
        reached = 0
        for key in keys:
            if key in self._pairs:
                try:
                    reached = self.keys.index(key, reached) + 1
                except ValueError:  # it was made earlier, too
                    continue
        return reached


def first_unequal(
    actual: Sequence[TracedLine], expected: Sequence[TracedLine]
) -> UnequalLine | None:
    """Return the first statement whose result differs between two traces; None where none does."""
    mine, others = _Trace(actual), _Trace(expected)
    index, other = mine.first_not_in(others), others.first_not_in(mine)
    if other is not None and _is_left_out(mine, index, others, other):
        follows = None if index is None else CodePlace.of(mine.lines[index])
        return UnequalLine(
            others.keys[other].name, None, CodePlace.of(others.lines[other]), follows
        )
    if index is None:
        return None
    key = mine.keys[index]
    is_pair = other is not None and others.keys[other].variable == key.variable
    before = CodePlace.of(others.lines[other]) if is_pair and other is not None else None
    return UnequalLine(key.name, CodePlace.of(mine.lines[index]), before)


def _is_left_out(mine: _Trace, index: int | None, others: _Trace, other: int) -> bool:
    """Whether the run leaves out the statement that made `other`, rather than change one.

    `index` is the first value that the run alone has. A statement that stands on both sides, and
    made it of what was left out, comes after.
    """
    if index is None:
        return True
    if mine.lines[index].text not in others.texts:
        return False
    if others.lines[other].text not in mine.texts:
        return True
    return other < others.reached_by(mine.keys[:index])


def made_by(lines: Sequence[TracedLine], digests: Collection[str]) -> UnequalLine | None:
    """Return the statement of a trace that first made one of some values; None where none did."""
    for line in lines:
        for name, digest in line.values.items():
            if digest in digests and not line.stage:
                return UnequalLine(name, CodePlace.of(line))
    return None


def call_of(lines: Sequence[TracedLine], stage: str) -> TracedLine | None:
    """Return the statement of a trace that called a stage; None where it is not in the trace."""
    return next((line for line in lines if line.stage == stage), None)
