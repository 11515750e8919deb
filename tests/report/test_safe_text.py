"""Foreign text: what it may not do to a terminal or to a document."""

from __future__ import annotations

import re

import pytest

from harness.report.safe_text import (
    markdown_block,
    markdown_code,
    markdown_text,
    safe_line,
    safe_lines,
)

PUNCTUATION = r"[!-/:-@\[-`{-~]"  # of ASCII: Markdown lets a backslash escape each of them
MARKUP = r"[\\`*_\[\]<>|~&#]|^[-+=]"

# What each hostile text tries, and how it is shown.
HOSTILE = {
    "clears the screen": ("a\x1b[2Jb", "a\\x1b[2Jb"),
    "begins a sequence by one byte": ("a\x9b2Jb", "a\\x9b2Jb"),
    "sets the window's title": ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    "goes back to the first column": ("drifted\ridentical", "drifted\\ridentical"),
    "rubs out": ("drifted\b\b", "drifted\\x08\\x08"),
    "reorders": ("a\u202eb", "a\\u202eb"),
    "breaks lines in a way of its own": ("a\u2028b\x0bc", "a\\u2028b\\x0bc"),
    "is no text": ("a\udc80", "a\\udc80"),
    "ends the text": ("a\x00b", "a\\x00b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_control_characters_are_written_out(name: str):
    """Nobody can hide or forge what a report says."""
    text, shown = HOSTILE[name]
    assert safe_lines(text) == shown
    assert safe_lines(safe_lines(text)) == shown


def test_what_people_write_stays_as_it_is():
    """Letters of any script, lines and tabs."""
    text = "Größe: 1 µm\n\t数字 — ok 👩‍🔬"
    assert safe_lines(text) == text
    assert safe_lines("a\r\nb") == "a\nb"


def test_one_line_stays_one_line():
    """A cell of a table cannot begin another row."""
    assert safe_line("a\nb\r\nc\td") == "a b c d"
    assert safe_line("a\u2028b") == "a\\u2028b"


@pytest.mark.parametrize(
    "text",
    [
        "[click](https://example.org)",
        "![](https://example.org/counted.png)",
        "<script>alert(1)</script>",
        "a | b",
        "**bold** _it_ `code` ~~gone~~",
        "# heading",
        "- item",
        "&lt;",
        "back\\slash",
    ],
)
def test_no_character_of_a_text_is_markup(text: str):
    """Whatever could be markup is escaped, and reads as before when it is rendered."""
    made = markdown_text(text)
    assert re.sub(f"\\\\({PUNCTUATION})", r"\1", made) == text
    assert not re.search(MARKUP, re.sub(f"\\\\{PUNCTUATION}", "", made))


def test_a_cell_of_markdown_has_no_second_line():
    """A table ends at a line without bars."""
    assert markdown_text("a\n\n# b") == "a \\# b"


def test_a_fence_inside_a_text_does_not_end_its_block():
    """The fence around it is longer than any inside it, and nothing in it is changed."""
    log = "before\n```\n# owned\n`````\nafter"
    fence, *inside, end = markdown_block(log).splitlines()
    assert (fence, end) == ("``````text", "``````")
    assert "\n".join(inside) == log
    assert markdown_block("plain") == "```text\nplain\n```"


def test_a_span_of_code_ends_where_it_should():
    """A backtick in a name would end it earlier."""
    assert markdown_code("a`b\x1b") == "`a'b\\x1b`"
