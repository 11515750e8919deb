"""JSON read into types, as properties: whatever is written is read back, and nothing else is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import (
    Against,
    Check,
    Cost,
    CostFigures,
    Drift,
    Metric,
    Outcome,
    Stage,
    StageDrift,
)
from harness.store.typed_json import MalformedError, decode, encode, parse_json, to_text

PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)

# Every character that a file in UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


class Colour(StrEnum):
    """Words."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    """Every plain type."""

    flag: bool
    count: int
    size: float
    name: str
    colour: Colour


@dataclass(frozen=True)
class Outer:
    """Every type that holds others."""

    one: Inner
    maybe: Inner | None
    many: tuple[Inner, ...]
    listed: list[int]
    by_name: dict[str, Inner]
    nested: dict[str, tuple[float, ...]] = field(default_factory=dict)
    anything: object = None


INNER = st.builds(Inner, st.booleans(), st.integers(), NUMBERS, TEXT, st.sampled_from(Colour))
OUTER = st.builds(
    Outer,
    INNER,
    st.none() | INNER,
    st.lists(INNER, max_size=3).map(tuple),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(TEXT, INNER, max_size=3),
    st.dictionaries(TEXT, st.lists(NUMBERS, max_size=3).map(tuple), max_size=3),
    ANY_JSON,
)
DRIFTS = st.builds(
    Drift,
    NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 9), st.integers(0, 9),
    st.lists(st.integers(0, 9), max_size=4).map(tuple), NUMBERS, NUMBERS, st.booleans(),
)  # fmt: skip
CHECKS = st.builds(
    Check, TEXT, st.sampled_from(Metric), NUMBERS, NUMBERS, st.sampled_from(Against),
    st.none() | NUMBERS, st.none() | NUMBERS, TEXT,
)  # fmt: skip
STAGE_DRIFTS = st.builds(
    StageDrift, st.builds(Stage, TEXT, st.integers(0, 9)), TEXT, NUMBERS, NUMBERS
)
OUTCOMES = st.builds(
    Outcome,
    message=TEXT,
    tags=st.lists(TEXT, max_size=2).map(tuple),
    outputs=st.dictionaries(TEXT, DRIFTS, max_size=2),
    checks=st.lists(CHECKS, max_size=2).map(tuple),
    free=st.lists(STAGE_DRIFTS, max_size=2).map(tuple),
    local=st.lists(STAGE_DRIFTS, max_size=2).map(tuple),
    cost=st.none() | st.builds(Cost, st.builds(CostFigures, NUMBERS), ratio=st.none() | NUMBERS),
    repeat_l_inf=st.none() | NUMBERS,
    log=TEXT,
)


@PROPERTY
@given(OUTER)
def test_a_value_of_any_type_comes_back_from_its_text(value: Outer):
    """With the same types: a whole number stays whole, a tuple a tuple, a word its enumeration."""
    assert decode(Outer, parse_json(to_text(value))) == value


@PROPERTY
@given(OUTCOMES)
def test_an_outcome_comes_back_from_its_text(outcome: Outcome):
    """As `results.json` keeps it."""
    assert decode(Outcome, parse_json(to_text(outcome))) == outcome


@PROPERTY
@given(st.sampled_from([math.nan, math.inf, -math.inf]), INNER)
def test_a_number_that_is_not_finite_comes_back_as_nan(number: float, inner: Inner):
    """No bound admits NaN, so that nothing passes that did not before."""
    found = decode(tuple[float, ...], parse_json(to_text((number, inner.size))))
    assert math.isnan(found[0])
    assert found[1] == inner.size


@PROPERTY
@given(st.text(max_size=8))
def test_every_text_can_be_written(text: str):
    """Halves of surrogate pairs, which are in no file of UTF-8, are written out."""
    found = parse_json(to_text({"text": text}).encode().decode())
    halves = any("\ud800" <= character <= "\udfff" for character in text)
    assert found == {"text": text} or halves


@PROPERTY
@given(OUTER, st.data())
def test_a_key_more_or_less_is_refused(value: Outer, data: st.DataObject):
    """What a later version of the harness added is not guessed at."""
    content = encode(value)
    assert isinstance(content, dict)
    required = ("one", "maybe", "many", "listed", "by_name")
    lost = data.draw(st.sampled_from(required))
    with pytest.raises(MalformedError, match=f"the key `{lost}` is missing"):
        decode(Outer, {key: each for key, each in content.items() if key != lost})
    with pytest.raises(MalformedError, match="unknown key `other`"):
        decode(Outer, {**content, "other": None})


@PROPERTY
@given(ANY_JSON)
def test_any_json_is_read_as_a_type_or_refused(value: object):
    """No other error escapes, and what was read is of the type."""
    try:
        found = decode(Outer, value)
    except MalformedError:
        return
    assert isinstance(found, Outer)


@PROPERTY
@given(ANY_JSON)
def test_json_is_read_as_the_standard_library_reads_it(value: object):
    """But for what is refused: repeated keys, literals that are no JSON, numbers too large."""
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text)
