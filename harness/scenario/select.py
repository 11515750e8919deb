"""Which cases a command means: the grammar of `-k`, and the choice by device and profile."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from harness.errors import UsageError
from harness.records import Device
from harness.scenario.fields import Profile
from harness.scenario.model import Case, Scenario

Words = tuple[str, ...]  # of a case: its id, then its tags
Matcher = Callable[[Words], bool]
RESERVED = ("and", "or", ")")
MOST_SHOWN = 300  # characters of an expression, in a message
MOST_LEVELS = 50  # of `not` and parentheses inside each other


def select(
    scenarios: Iterable[Scenario],
    expression: str,
    device: Device | None,
    profile: Profile | None = None,
) -> list[Case]:
    """Return the cases of `scenarios` that `expression` and `device` admit.

    Args:
        scenarios: Whose cases to choose from.
        expression: What `-k` was given; empty admits all.
        device: None admits every device.
        profile: Replaces the scenarios' own CPU profile, where it is given.

    Raises:
        UsageError: The expression cannot be read, or nothing is left.
    """
    admits = compile_expression(expression)
    cases = [
        case
        for scenario in scenarios
        for case in (scenario.with_profile(profile) if profile else scenario).cases()
    ]
    chosen = [
        case
        for case in cases
        if (device is None or case.target.device == device) and admits(words_of(case))
    ]
    if not chosen:
        fits = f" fits -k {expression!r}" if expression else " is"
        raise UsageError(f"none of {len(cases)} cases{fits}" + (f" on {device}" if device else ""))
    return chosen


def words_of(case: Case) -> Words:
    """Return what `-k` searches: the case's id, then its tags."""
    return (case.id, *case.scenario.tags)


def compile_expression(text: str) -> Matcher:
    """Compile an expression such as `not slow and (ddim or sd)`.

    A word fits a case when it is part of the case's id, or a whole tag. A word that ends in `]`
    must be the whole id.

    Raises:
        UsageError: The expression cannot be read.
    """
    parser = _Parser(text)
    return parser.parse() if parser.tokens else _admit_all


class _Parser:
    """A recursive-descent parser: `either := both (or both)*`, `both := one (and one)*`."""

    def __init__(self, text: str) -> None:
        self.tokens = re.findall(r"\(|\)|[^\s()]+", text)
        self._text = text
        self._position = 0
        self._levels = 0

    def parse(self) -> Matcher:
        matcher = self._either()
        if self._next:
            raise self._wrong("`and` or `or`")
        return matcher

    def _either(self) -> Matcher:
        matchers = [self._both()]
        while self._next == "or":
            self._take()
            matchers.append(self._both())
        return _any_of(matchers)

    def _both(self) -> Matcher:
        matchers = [self._one()]
        while self._next == "and":
            self._take()
            matchers.append(self._one())
        return _all_of(matchers)

    def _one(self) -> Matcher:
        self._levels += 1
        if self._levels > MOST_LEVELS:
            raise self._wrong(f"at most {MOST_LEVELS} levels")
        matcher = self._operand()
        self._levels -= 1
        return matcher

    def _operand(self) -> Matcher:
        if self._next == "not":
            self._take()
            return _not(self._one())
        if self._next == "(":
            self._take()
            inner = self._either()
            if self._next != ")":
                raise self._wrong(")")
            self._take()
            return inner
        if not self._next or self._next in RESERVED:
            raise self._wrong("a word")
        return _word(self._take())

    @property
    def _next(self) -> str:
        return self.tokens[self._position] if self._position < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._next
        self._position += 1
        return token

    def _wrong(self, expected: str) -> UsageError:
        found = f"`{self._next}`" if self._next else "the end"
        shown = self._text if len(self._text) <= MOST_SHOWN else f"{self._text[:MOST_SHOWN]}..."
        return UsageError(f"-k {shown!r}: expected {expected}, found {found}")


def _admit_all(_words: Words) -> bool:
    return True


def _any_of(matchers: list[Matcher]) -> Matcher:
    return lambda words: any(matcher(words) for matcher in matchers)


def _all_of(matchers: list[Matcher]) -> Matcher:
    return lambda words: all(matcher(words) for matcher in matchers)


def _not(matcher: Matcher) -> Matcher:
    return lambda words: not matcher(words)


def _word(word: str) -> Matcher:
    if word.endswith("]"):
        return lambda words: word == words[0]
    return lambda words: word in words[0] or word in words[1:]
