r"""Owns what makes foreign text safe to show, on a terminal and in Markdown.

Scenario files, exceptions of libraries, names of files and results of other machines end up in
reports. None of them may move the cursor, colour a terminal, hide a line, reorder its characters,
end the table or code block that they stand in, or command the CI system that keeps the log. What
could is shown as Python would write it: the escape character as `\x1b`.
"""

from __future__ import annotations

import re

# Control characters but tab and newline, marks that reorder text, separators of lines and
# paragraphs, halves of surrogate pairs, which no file in UTF-8 can hold, and the two characters
# that no XML can hold.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
    "\ufffe\uffff]"
)
# What CI systems take for a command wherever a line of a log begins with it, as a table's wrapped
# line may: `::set-output name=x::value` of GitHub, `##[group]`, `##vso[...]` of Azure.
_COMMAND = re.compile(
    r"::(?=(?:set-output|set-env|save-state|stop-commands|echo|debug|notice|warning|error"
    r"|(?:add|remove)-(?:mask|path|matcher)|(?:end)?group|internal-[a-z-]+)\b)|##(?=\[|vso\[)",
    re.IGNORECASE,
)
# As GitHub's own toolkit escapes them; a message needs the first three alone.
_GITHUB_CODES = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"))
_BREAKS = re.compile("[\t\r\n]+")
_MARKUP = re.compile(r"[\\`*_\[\]<>|~&#]")
_STARTS_BLOCK = re.compile("[-+=]")
_FENCE = re.compile("`{3,}|~{3,}")


def safe_lines(text: str) -> str:
    """Return a text that may have several lines, with every control character written out.

    Its characters may all stand in XML; a writer of XML escapes markup by itself.
    The same holds for the first character of what a CI system would take for a command.
    """
    shown = _CONTROL.sub(_written_out, text.replace("\r\n", "\n"))
    return _COMMAND.sub(_first_written_out, shown)


def safe_line(text: str) -> str:
    """Return a text as one line, with every control character written out; breaks become blanks."""
    return safe_lines(_BREAKS.sub(" ", text))


def markdown_text(text: str) -> str:
    """Return a text as one line of Markdown in which no character is markup.

    It may stand in a paragraph, in a list's item or in a table's cell.
    """
    escaped = _MARKUP.sub(r"\\\g<0>", safe_line(text))
    return f"\\{escaped}" if _STARTS_BLOCK.match(escaped) else escaped


def markdown_code(text: str) -> str:
    """Return a text as a span of code in a line of Markdown."""
    return "`" + safe_line(text).replace("`", "'") + "`"


def markdown_block(text: str) -> str:
    """Return a text as a fenced block of Markdown, whose fence is longer than any inside it."""
    inside = safe_lines(text)
    longest = max((len(found) for found in _FENCE.findall(inside)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{inside}\n{fence}"


def github_message(text: str) -> str:
    """Return a text as the message of a workflow command of GitHub, which has no second line."""
    for character, code in _GITHUB_CODES[:3]:
        text = text.replace(character, code)
    return _CONTROL.sub(_written_out, text)


def github_property(text: str) -> str:
    """Return a text as the value of a property of a workflow command, such as a file's name."""
    for character, code in _GITHUB_CODES:
        text = text.replace(character, code)
    return _CONTROL.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _first_written_out(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0][0]):02x}{match[0][1:]}"
