"""YAML values read into shapes: every mistake is placed on its line, and hostile files are refused.

A shape is one description of what a value may be. It reads a file, naming the line of each mistake,
and prints itself as JSON Schema. Files are bounded in size, nesting and aliases, and may name no
tag, so that no file can exhaust the machine or make an object.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from harness.errors import ScenarioError, ScenarioErrors, UsageError

MOST_BYTES = 1 << 20  # of a file: 1 MiB
MOST_LEVELS = 40  # of nesting
MOST_NODES = 100_000  # after every alias has been replaced by what it stands for
TEXT_OF_A_NODE = 64  # characters: each further such piece of a text counts as one more node
MOST_DIGITS = 400  # of a number, more than float64 can hold
MOST_SHOWN = 60  # characters of a value, where a message says what it is
MOST_SAID = 300  # characters of any part of a message that comes from the file

# The values of a checked file by key: their types are those of its shape, which mypy cannot follow
# through a dictionary of shapes.
Values = Mapping[str, Any]
REPOSITORY_MARKS = (".git", "pyproject.toml")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "null": "nothing",
}
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@dataclass(frozen=True)
class Place:
    """One value in a YAML file: its node, and the dotted path that leads to it."""

    path: Path
    node: yaml.Node
    field: str = ""

    @property
    def line(self) -> int:
        """The line on which the value begins, counted from 1."""
        return int(self.node.start_mark.line) + 1

    def wrong(self, expected: str, found: str = "", hint: str = "") -> ScenarioError:
        """Return the error that says what was expected here."""
        parts = (_cut(part, MOST_SAID) for part in (found or self.found(), hint))
        return ScenarioError(self.path, self.line, _cut(self.field, MOST_SAID), expected, *parts)

    def found(self) -> str:
        """Return what stands here, in words."""
        if isinstance(self.node, yaml.MappingNode):
            return f"a mapping of {len(self.node.value)} keys"
        if isinstance(self.node, yaml.SequenceNode):
            return f"a list of {len(self.node.value)}"
        kind = _KINDS.get(self.node.tag.rsplit(":", 1)[-1], "another type")
        if self.node.value or kind == "a string":
            return f"{_cut(self.node.value, MOST_SHOWN)!r} ({kind})"
        return kind

    def inside(self, node: yaml.Node, key: str | int) -> Place:
        """Return the place of a member; a path that no message shows whole is cut short."""
        if isinstance(key, int):
            field = f"{self.field}[{key}]"
        else:
            field = f"{self.field}.{key}" if self.field else key
        return Place(self.path, node, _cut(field, MOST_SAID))

    def members(self) -> dict[str, tuple[Place, Place]]:
        """Return the members of a mapping by key, each as (place of the key, place of the value).

        Raises:
            ScenarioError: This is no mapping, or a key is no word, or stands in it twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("a mapping")
        found: dict[str, tuple[Place, Place]] = {}
        for key_node, value_node in self.node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise replace(self, node=key_node).wrong("a word as the key")
            key = str(key_node.value)
            place = self.inside(key_node, key)
            if key in found:
                first = found[key][0].line
                raise place.wrong(
                    "each key once", f"`{key}` again; it first stands on line {first}"
                )
            found[key] = (place, self.inside(value_node, key))
        return found


class Mistakes:
    """Collects the mistakes of a file, so that whoever wrote it is told all of them at once."""

    def __init__(self) -> None:
        self._found: list[ScenarioError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the mistakes that are raised inside, and go on behind it."""
        try:
            yield
        except ScenarioError as error:
            self._found += error.mistakes

    def add(self, mistake: ScenarioError) -> None:
        """Keep one mistake."""
        self._found.append(mistake)

    def raise_all(self) -> None:
        """Raise what was collected, if anything was.

        Raises:
            ScenarioError: The one mistake, or all of them as `ScenarioErrors`.
        """
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise ScenarioErrors(self._found)


class Shape(Protocol):
    """What a value may be."""

    def read(self, place: Place) -> Any:
        """Return the value at `place`; raises ScenarioError if it does not fit."""

    def schema(self) -> dict[str, Any]:
        """Return the same as JSON Schema."""


def load(path: Path, shape: Shape) -> tuple[Any, Place]:
    """Read a YAML file of one document that must have `shape`.

    Returns:
        The value, and its place, for checks across fields.

    Raises:
        ScenarioError: The file cannot be read, is no YAML, is too large, or does not fit.
    """
    return parse(path, _text(path), shape)


def parse(path: Path, text: str, shape: Shape) -> tuple[Any, Place]:
    """Read the text of a YAML file as `load` does; the file may have another text by now."""
    try:
        _check_size(path, text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise ScenarioError(path, mark.line + 1 if mark else 1, "", "YAML", problem) from error
    if node is None:
        raise ScenarioError(path, 1, "", "a mapping", "an empty file")
    place = Place(path, node)
    return shape.read(place), place


def _text(path: Path) -> str:
    """Return the text of a regular file of bounded size."""
    try:
        if path.exists() and not path.is_file():
            raise ScenarioError(path, 1, "", "a regular file", "a folder, a pipe or a device")
        _check_inside(path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ScenarioError(path, 1, "", f"a file of at most {MOST_BYTES} bytes", "more")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that holds NUL
        expected = "a readable text file in UTF-8"
        raise ScenarioError(path, 1, "", expected, str(error)) from error


def repository_of(path: Path) -> Path:
    """Return the root of the repository or project that holds a file; else its folder."""
    folder = path.parent.resolve()
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in REPOSITORY_MARKS):
            return candidate
    return folder


def _check_inside(path: Path) -> None:
    """Refuse a link to a file elsewhere: a message would quote what stands there."""
    real = os.path.realpath(path)
    if real == str(Path.cwd() / path):  # no link: the folders above need no look
        return
    root = repository_of(path)
    if not Path(real).is_relative_to(root):
        found = "a symbolic link that leads out of it"
        raise ScenarioError(path, 1, "", f"a file inside {root}", found)


def _check_size(path: Path, text: str) -> None:
    """Refuse a text whose nesting, aliases or tags are out of bounds; reads it event by event.

    The composer of yaml recurses: unbounded nesting would end the process.
    """
    sizes: list[int] = [0]  # nodes in each open collection, from the document inwards
    anchors: list[str | None] = [None]
    known: dict[str | None, int] = {}
    event: Any
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            inner, anchor = 1 + sizes.pop(), anchors.pop()
            sizes[-1] += inner
            known[anchor] = inner
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise ScenarioError(path, line, "", "aliases of other values", "an alias of itself")
            sizes[-1] += known.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            weight = 1 + len(event.value) // TEXT_OF_A_NODE
            sizes[-1] += weight
            known[event.anchor] = weight
        if getattr(event, "tag", None) is not None:
            raise ScenarioError(path, line, "", "values without a tag", f"the tag `{event.tag}`")
        if len(sizes) > MOST_LEVELS:
            raise ScenarioError(path, line, "", f"at most {MOST_LEVELS} levels", "deeper nesting")
        if sum(sizes) > MOST_NODES:
            expected = f"at most {MOST_NODES} values, counting what aliases stand for"
            raise ScenarioError(path, line, "", expected, "more")


def nearest(word: str, words: Iterable[str]) -> str:
    """Return a hint that names the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def _construct(place: Place) -> Any:
    """Return the scalar at `place` as a Python value.

    Raises:
        ScenarioError: No value can be made of it, such as a date in a 13th month.
    """
    text = place.node.value
    if place.node.tag in _NUMBERS and len(text) > MOST_DIGITS:
        raise place.wrong(f"a number of at most {MOST_DIGITS} characters")
    try:
        return yaml.constructor.SafeConstructor().construct_object(place.node, deep=True)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = getattr(error, "problem", None) or error
        found = f"{_cut(text, MOST_SHOWN)!r} ({problem})"
        raise place.wrong("a value that can be read", found) from error


def _cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters; dots stand for what is left out."""
    return text if len(text) <= most else text[: most - 3] + "..."


@dataclass(frozen=True)
class Text:
    """A string; one of `choices` where they are given."""

    choices: tuple[str, ...] = ()
    what: str = "a string"

    def read(self, place: Place) -> str:
        value = _construct(place) if isinstance(place.node, yaml.ScalarNode) else None
        expected = (
            "one of " + ", ".join(f"`{choice}`" for choice in self.choices)
            if self.choices
            else self.what
        )
        if not isinstance(value, str) or not value:
            raise place.wrong(expected)
        if self.choices and value not in self.choices:
            raise place.wrong(expected, f"`{value}`", nearest(value, self.choices))
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.choices)} if self.choices else {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Number:
    """A finite number not below `least` (or above `above`); a whole one if `whole`."""

    least: float | None = None
    above: float | None = None
    whole: bool = False

    def _expected(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.least is not None:
            return f"{kind} >= {self.least:g}"
        if self.above is not None:
            return f"{kind} > {self.above:g}"
        return kind

    def _admits(self, value: float) -> bool:
        if not _is_finite(value) or (self.whole and not isinstance(value, int)):
            return False
        if self.least is not None and value < self.least:
            return False
        return self.above is None or value > self.above

    def read(self, place: Place) -> float | int:
        value = _construct(place) if isinstance(place.node, yaml.ScalarNode) else None
        if isinstance(value, str) and _is_number(value):
            raise place.wrong(self._expected(), hint=_read_as_text(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise place.wrong(self._expected())
        if not self._admits(value):
            raise place.wrong(self._expected())
        return value

    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.least, "exclusiveMinimum": self.above}
        return {
            "type": "integer" if self.whole else "number",
            **{k: v for k, v in bounds.items() if v is not None},
        }


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def _read_as_text(value: str) -> str:
    """Return the hint for a number that YAML 1.1 takes for text, such as `1e-5` or `"0.1"`."""
    mantissa, _, exponent = value.lower().partition("e")
    if not exponent:
        right = value.strip("'\"") + " without quotes"
    else:
        dotted = mantissa if "." in mantissa else f"{mantissa}.0"
        signed = exponent if exponent[0] in "+-" else f"+{exponent}"
        right = f"{dotted}e{signed}"
    return f"YAML 1.1 reads `{value}` as text; write {right}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, place: Place) -> bool:
        value = _construct(place) if isinstance(place.node, yaml.ScalarNode) else None
        if not isinstance(value, bool):
            raise place.wrong("true or false")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Day:
    """A day, such as `2026-12-31`."""

    def read(self, place: Place) -> date:
        value = _construct(place) if isinstance(place.node, yaml.ScalarNode) else None
        if isinstance(value, str) and len(value) <= MOST_SHOWN:
            value = _day_of(value)
        if not isinstance(value, date) or isinstance(value, datetime):
            raise place.wrong("a day such as `2026-12-31`")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "date"}


def _day_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class OneOrMore:
    """One item, or a list of at least one; always read as a list."""

    item: Shape
    distinct: bool = False

    def read(self, place: Place) -> list[Any]:
        if not isinstance(place.node, yaml.SequenceNode):
            return [self.item.read(place)]
        places = [place.inside(node, index) for index, node in enumerate(place.node.value)]
        if not places:
            raise place.wrong("at least one item", "an empty list")
        values, mistakes = [], Mistakes()
        for item in places:
            with mistakes.collected():
                values.append(self.item.read(item))
        mistakes.raise_all()
        if self.distinct:
            _check_distinct(values, places)
        return values

    def schema(self) -> dict[str, Any]:
        many = {
            "type": "array",
            "items": self.item.schema(),
            "minItems": 1,
            "uniqueItems": self.distinct,
        }
        return {"anyOf": [self.item.schema(), many]}


def _check_distinct(values: Iterable[str | float], places: Iterable[Place]) -> None:
    """Refuse a value that stands twice in a list; a set keeps a list of any length fast."""
    seen = set()
    for value, place in zip(values, places, strict=True):
        if value in seen:
            raise place.wrong("each item once", f"`{value}` again")
        seen.add(value)


@dataclass(frozen=True)
class Record:
    """A mapping with known keys; unknown ones are refused."""

    fields: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    filled: bool = False
    help: Mapping[str, str] = field(default_factory=dict)

    def read(self, place: Place) -> dict[str, Any]:
        if self.required and not isinstance(place.node, yaml.MappingNode):
            names = ", ".join(f"`{name}`" for name in self.required)
            raise place.wrong(f"a mapping with {names}")
        members, mistakes = place.members(), Mistakes()
        for key in self.required:
            if key not in members:
                mistakes.add(place.wrong(f"the key `{key}`", "no such key"))
        if self.filled and not members:
            names = ", ".join(f"`{name}`" for name in self.fields)
            mistakes.add(place.wrong(f"at least one of {names}", "an empty mapping"))
        values = {}
        for key, (key_place, value) in members.items():
            with mistakes.collected():
                values[key] = self._shape_of(key, key_place).read(value)
        mistakes.raise_all()
        return values

    def _shape_of(self, key: str, place: Place) -> Shape:
        if key not in self.fields:
            known = ", ".join(f"`{name}`" for name in self.fields)
            raise place.wrong(f"one of {known}", f"`{key}`", nearest(key, self.fields))
        return self.fields[key]

    def schema(self) -> dict[str, Any]:
        properties = {}
        for key, shape in self.fields.items():
            described = {"description": self.help[key]} if key in self.help else {}
            properties[key] = {**shape.schema(), **described}
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.required),
            "additionalProperties": False,
            **({"minProperties": 1} if self.filled else {}),
        }


@dataclass(frozen=True)
class Table:
    """A mapping from any name to one shape."""

    value: Shape

    def read(self, place: Place) -> dict[str, Any]:
        values, mistakes = {}, Mistakes()
        for key, (_, value) in place.members().items():
            with mistakes.collected():
                values[key] = self.value.read(value)
        mistakes.raise_all()
        return values

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema()}


@dataclass(frozen=True)
class Either:
    """A word or a number, or a mapping."""

    plain: Text | Number
    mapping: Shape

    def read(self, place: Place) -> Any:
        if not isinstance(place.node, yaml.ScalarNode):
            return self.mapping.read(place)
        if isinstance(self.plain, Text) and place.node.value not in self.plain.choices:
            words = " or ".join(f"`{choice}`" for choice in self.plain.choices)
            raise place.wrong(f"{words}, or a mapping")
        return self.plain.read(place)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.plain.schema(), self.mapping.schema()]}


@dataclass(frozen=True)
class Anything:
    """A value that is passed on as it is.

    That is text, a finite number, true, false, nothing, or a list or a mapping of those.
    """

    def read(self, place: Place) -> Any:
        if isinstance(place.node, yaml.MappingNode):
            return {key: self.read(value) for key, (_, value) in place.members().items()}
        if isinstance(place.node, yaml.SequenceNode):
            items = enumerate(place.node.value)
            return [self.read(place.inside(node, index)) for index, node in items]
        value = _construct(place)
        if isinstance(value, float) and not math.isfinite(value):
            raise place.wrong("a finite number")
        if isinstance(value, str) and _looks_like_a_number(value, place):
            raise place.wrong("a number or a quoted string", hint=_read_as_text(value))
        if value is not None and not isinstance(value, str | int | float | bool):
            found = f"{place.node.value!r} (a date or binary value)"
            raise place.wrong("text, a number, true, false, a list or a mapping", found)
        return value

    def schema(self) -> dict[str, Any]:
        return {}


def _looks_like_a_number(value: str, place: Place) -> bool:
    """Whether a text is a number such as `1e-5` without quotes, which is text in YAML 1.1."""
    is_plain = isinstance(place.node, yaml.ScalarNode) and not place.node.style
    return is_plain and "e" in value.lower() and _is_number(value)
