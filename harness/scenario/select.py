"""Which cases a command means: scenarios by path, cases by `-k`, device and dtype."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from harness.errors import UsageError
from harness.scenario.model import Case, Scenario

Matcher = Callable[[str], bool]


def select(
    scenarios: Iterable[Scenario], expression: str, device: str | None, profile: str | None = None
) -> list[Case]:
    """Return the cases of `scenarios` that `expression` and `device` admit, with another CPU profile where one is given.

    Raises:
        UsageError: The expression cannot be read, or nothing is left.
    """
    admits = compile_expression(expression)
    cases = [
        case
        for scenario in scenarios
        for case in replace(scenario, profile=profile or scenario.profile).cases()
    ]
    chosen = [
        case
        for case in cases
        if (device is None or case.device == device) and admits(case_words(case))
    ]
    if not chosen:
        fits = f" fits -k {expression!r}" if expression else " is"
        raise UsageError(f"none of {len(cases)} cases{fits}" + (f" on {device}" if device else ""))
    return chosen


def case_words(case: Case) -> tuple[str, ...]:
    """Return what `-k` searches: the case's id and its tags."""
    return (case.id, *case.scenario.tags)


def compile_expression(text: str) -> Callable[[Iterable[str]], bool]:
    """Compile `not slow and (ddim or sd)`: a word fits when it is part of a case's id, or a whole tag;
    one that ends in `]` must be the whole id.

    Raises:
        UsageError: The expression cannot be read.
    """
    tokens = re.findall(r"\(|\)|[^\s()]+", text)
    if not tokens:
        return lambda words: True
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take(expected: str = "") -> str:
        nonlocal position
        token = peek()
        if not token or (expected and token != expected):
            found = f"`{token}`" if token else "the end"
            raise UsageError(f"-k {text!r}: expected {expected or 'a word'}, found {found}")
        position += 1
        return token

    def either() -> Callable[[tuple[str, ...]], bool]:
        left = both()
        while peek() == "or":
            take()
            left = _join(any, left, both())
        return left

    def both() -> Callable[[tuple[str, ...]], bool]:
        left = one()
        while peek() == "and":
            take()
            left = _join(all, left, one())
        return left

    def one() -> Callable[[tuple[str, ...]], bool]:
        if peek() == "not":
            take()
            inner = one()
            return lambda words: not inner(words)
        if peek() == "(":
            take()
            inner = either()
            take(")")
            return inner
        word = take()
        if word in ("and", "or", ")"):
            raise UsageError(f"-k {text!r}: expected a word, found `{word}`")
        if word.endswith("]"):
            return lambda words: word == words[0]
        return lambda words: word in words[0] or word in words[1:]

    admits = either()
    if peek():
        raise UsageError(f"-k {text!r}: expected `and` or `or`, found `{peek()}`")
    return lambda words: admits(tuple(words))


def _join(
    how: Callable[[Iterable[bool]], bool],
    left: Callable[[tuple[str, ...]], bool],
    right: Callable[[tuple[str, ...]], bool],
) -> Callable[[tuple[str, ...]], bool]:
    return lambda words: how((left(words), right(words)))
