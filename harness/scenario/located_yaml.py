"""Shapes of YAML values: one description that reads a file, naming the line of every mistake, and prints as JSON Schema."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from harness.errors import ScenarioError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "null": "nothing",
}


@dataclass(frozen=True)
class Place:
    """One value in a YAML file: its node, and the dotted path that leads to it."""

    path: Path
    node: yaml.Node
    field: str = ""

    def wrong(self, expected: str, found: str = "", hint: str = "") -> ScenarioError:
        """Return the error that says what was expected here."""
        return ScenarioError(
            self.path,
            self.node.start_mark.line + 1,
            self.field,
            expected,
            found or self.found(),
            hint,
        )

    def found(self) -> str:
        """Return what stands here, in words."""
        if isinstance(self.node, yaml.MappingNode):
            return f"a mapping of {len(self.node.value)} keys"
        if isinstance(self.node, yaml.SequenceNode):
            return f"a list of {len(self.node.value)}"
        kind = _KINDS.get(self.node.tag.rsplit(":", 1)[-1], "another type")
        return f"{self.node.value!r} ({kind})" if self.node.value or kind == "a string" else kind

    def inside(self, node: yaml.Node, key: str | int) -> Place:
        """Return the place of a member."""
        name = f"[{key}]" if isinstance(key, int) else f".{key}" if self.field else str(key)
        return Place(self.path, node, f"{self.field}{name}")

    def members(self) -> dict[str, tuple[Place, Place]]:
        """Return the members of a mapping by key, each as (place of the key, place of the value); refuses repeated keys."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("a mapping")
        found: dict[str, tuple[Place, Place]] = {}
        for key_node, value_node in self.node.value:
            key = str(key_node.value)
            place = self.inside(key_node, key)
            if key in found:
                first = found[key][0].node.start_mark.line + 1
                raise place.wrong(
                    "each key once", f"`{key}` again; it first stands on line {first}"
                )
            found[key] = (place, self.inside(value_node, key))
        return found


class Shape(Protocol):
    """What a value may be."""

    def read(self, place: Place) -> Any:
        """Return the value at `place`; raises ScenarioError if it does not fit."""

    def schema(self) -> dict[str, Any]:
        """Return the same as JSON Schema."""


def load(path: Path, shape: Shape) -> tuple[Any, Place]:
    """Read a YAML file of one document that must have `shape`; also returns its place, for checks across fields.

    Raises:
        ScenarioError: The file cannot be read, is no YAML, or does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(path, 1, "", "a readable text file in UTF-8", str(error)) from error
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise ScenarioError(path, mark.line + 1 if mark else 1, "", "YAML", problem) from error
    if node is None:
        raise ScenarioError(path, 1, "", "a mapping", "an empty file")
    place = Place(path, node)
    return shape.read(place), place


def nearest(word: str, words: Iterable[str]) -> str:
    """Return a hint that names the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def _construct(place: Place) -> Any:
    """Return the scalar at `place` as a Python value; a value that cannot be made is a mistake of the file."""
    try:
        return yaml.constructor.SafeConstructor().construct_object(place.node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise place.wrong(
            "a value that can be read",
            f"{place.node.value!r} ({getattr(error, 'problem', None) or error})",
        ) from error


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
        bound = (
            f" >= {self.least:g}"
            if self.least is not None
            else f" > {self.above:g}"
            if self.above is not None
            else ""
        )
        return kind + bound

    def read(self, place: Place) -> float | int:
        value = _construct(place) if isinstance(place.node, yaml.ScalarNode) else None
        if isinstance(value, str) and _is_number(value):
            raise place.wrong(
                self._expected(), hint=f"YAML 1.1 reads `{value}` as text; write {_with_dot(value)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise place.wrong(self._expected())
        if not _is_finite(value) or (self.whole and not isinstance(value, int)):
            raise place.wrong(self._expected())
        if (self.least is not None and value < self.least) or (
            self.above is not None and value <= self.above
        ):
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


def _with_dot(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    if not exponent:
        return text.strip("'\"") + " without quotes"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"


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
        values = [self.item.read(item) for item in places]
        for index, value in enumerate(values):
            if self.distinct and value in values[:index]:
                raise places[index].wrong("each item once", f"`{value}` again")
        return values

    def schema(self) -> dict[str, Any]:
        many = {
            "type": "array",
            "items": self.item.schema(),
            "minItems": 1,
            "uniqueItems": self.distinct,
        }
        return {"anyOf": [self.item.schema(), many]}


@dataclass(frozen=True)
class Record:
    """A mapping with known keys; unknown ones are refused."""

    fields: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    filled: bool = False
    help: Mapping[str, str] = field(default_factory=dict)

    def read(self, place: Place) -> dict[str, Any]:
        members = place.members()
        for key, (key_place, _) in members.items():
            if key not in self.fields:
                known = ", ".join(f"`{name}`" for name in self.fields)
                raise key_place.wrong(f"one of {known}", f"`{key}`", nearest(key, self.fields))
        for key in self.required:
            if key not in members:
                raise place.wrong(f"the key `{key}`", "no such key")
        if self.filled and not members:
            raise place.wrong(
                "at least one of " + ", ".join(f"`{name}`" for name in self.fields),
                "an empty mapping",
            )
        return {key: self.fields[key].read(value) for key, (_, value) in members.items()}

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
        return {key: self.value.read(value) for key, (_, value) in place.members().items()}

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
    """A value that is passed on as it is: text, finite numbers, true or false, nothing, lists and mappings of them."""

    def read(self, place: Place) -> Any:
        if isinstance(place.node, yaml.MappingNode):
            return {key: self.read(value) for key, (_, value) in place.members().items()}
        if isinstance(place.node, yaml.SequenceNode):
            return [
                self.read(place.inside(node, index)) for index, node in enumerate(place.node.value)
            ]
        value = _construct(place)
        if isinstance(value, float) and not math.isfinite(value):
            raise place.wrong("a finite number")
        if (
            isinstance(value, str)
            and "e" in value.lower()
            and _is_number(value)
            and isinstance(place.node, yaml.ScalarNode)
            and not place.node.style
        ):
            raise place.wrong(
                "a number or a quoted string",
                hint=f"YAML 1.1 reads `{value}` as text; write {_with_dot(value)}",
            )
        if value is not None and not isinstance(value, str | int | float | bool):
            raise place.wrong(
                "text, a number, true, false, a list or a mapping",
                f"{place.node.value!r} (a date or binary value)",
            )
        return value

    def schema(self) -> dict[str, Any]:
        return {}
