"""The statement that made the first other value is named, wherever an edit has moved it."""

from __future__ import annotations

from harness.judge.line_diff import UnequalLine, call_of, first_unequal, made_by
from harness.store.recording import TracedLine


def line(number: int, text: str, after: str = "", stage: str = "", **values: str) -> TracedLine:
    return TracedLine(after, "p.py", number, number, "call", text, values, stage)


START = line(1, "x = start()", x="x")
DOUBLED = line(2, "y = 2 * x", y="2x")
ADDED = line(3, "z = x + y", z="3x")
CALL = line(4, "unet(z)", stage="unet#0", sample="3x")
BASE = (START, DOUBLED, ADDED, CALL)


def named(found: UnequalLine | None) -> tuple[str, str]:
    """Return the texts of the statements of the run and of the baseline's side."""
    assert found is not None
    sides = (found.actual, found.expected)
    return tuple("" if side is None else side.text for side in sides)  # type: ignore[return-value]


def test_equal_traces_name_nothing():
    """Also where an edit has only moved the lines."""
    moved = [TracedLine(**{**vars(each), "first": each.first + 7}) for each in BASE]
    assert first_unequal(BASE, BASE) is None
    assert first_unequal(moved, BASE) is None


def test_an_edited_statement_is_named_with_what_it_was():
    """And not those after it, whose values differ too."""
    edited = line(2, "y = 3 * x", y="3x")
    after = line(3, "z = x + y", z="4x")
    call = line(4, "unet(z)", stage="unet#0", sample="4x")
    assert named(first_unequal((START, edited, after, call), BASE)) == ("y = 3 * x", "y = 2 * x")


def test_a_value_that_differs_names_the_first_statement_with_another_result():
    """Both sides run the same code, as where a configuration was edited."""
    other = line(2, "y = 2 * x", y="other")
    assert named(first_unequal((START, other, ADDED, CALL), BASE)) == ("y = 2 * x", "y = 2 * x")


def test_swapped_values_are_other_values():
    """Each of them was made on both sides, but under the other name."""
    chunk = line(2, "a, b = x.chunk(2)", a="1", b="2")
    swapped = line(2, "b, a = x.chunk(2)", b="1", a="2")
    assert named(first_unequal((START, swapped), (START, chunk)))[0] == "b, a = x.chunk(2)"


def test_an_inserted_statement_is_named():
    """The baseline's side has none in its place."""
    inserted = line(4, "z = z.half()", z="rounded")
    call = line(5, "unet(z)", stage="unet#0", sample="rounded")
    found = first_unequal((START, DOUBLED, ADDED, inserted, call), BASE)
    assert named(found) == ("z = z.half()", "")


def test_a_statement_that_was_taken_away_is_named_by_the_baseline_s_side():
    """With the one that the run goes on with."""
    call = line(3, "unet(z)", stage="unet#0", sample="x")
    without = (START, call)
    scaled = (
        START,
        line(2, "z = x * scale", z="scaled"),
        line(3, "unet(z)", stage="unet#0", sample="scaled"),
    )
    found = first_unequal(without, scaled)
    assert named(found) == ("", "z = x * scale")
    assert found is not None
    assert found.follows is not None
    assert found.follows.text == "unet(z)"


def test_another_name_for_the_same_value_is_no_difference():
    """A refactoring renames variables; the values tell."""
    renamed = (
        START,
        line(2, "double = 2 * x", double="2x"),
        line(3, "z = x + double", z="3x"),
        CALL,
    )
    assert first_unequal(renamed, BASE) is None


def test_the_same_value_in_another_step_explains_nothing():
    """What a loop made after another stage does not count."""
    first = line(2, "t = steps[i]", after="a#0", t="1")
    later = line(2, "t = steps[i]", after="a#1", t="2")
    wrong = line(2, "t = steps[i + 1]", after="a#0", t="2")
    assert named(first_unequal((wrong, later), (first, later)))[0] == "t = steps[i + 1]"


def test_one_side_alone_names_what_made_a_value():
    """The statement that called the stage with it only passed it on."""
    found = made_by(BASE, {"3x"})
    assert found is not None
    assert (named(found)[0], found.name) == ("z = x + y", "z")
    assert made_by(BASE, {"?"}) is None
    assert call_of(BASE, "unet#0") == CALL
    assert call_of(BASE, "vae#0") is None
