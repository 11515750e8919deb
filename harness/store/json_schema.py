"""JSON Schemas made from types: what `store/typed_json.py` reads, said in the words of JSON Schema.

A schema follows from the dataclasses alone, so that it cannot disagree with the reader.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from inspect import cleandoc

from harness.store.typed_json import FROM_TEXT

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN = {bool: "boolean", int: "integer", str: "string"}

Schema = dict[str, object]


def schema_of(kind: type[object], *, name: str) -> Schema:
    """Return the JSON Schema of a sealed format.

    Args:
        kind: The dataclass of its content, with a field `format`.
        name: The format that the content states.
    """
    maker = _Maker()
    maker.schema(kind)
    defined = maker.defined
    own = defined.pop(kind.__name__)
    members = own["properties"]
    assert isinstance(members, dict)  # noqa: S101 (for the type checker: a dataclass has members)
    members["format"] = {"const": name}
    return {"$schema": DIALECT, "title": name, **own, "$defs": dict(sorted(defined.items()))}


class _Maker:
    """Makes the schemas of types; `defined` has that of each dataclass and enumeration by name."""

    def __init__(self) -> None:
        self.defined: dict[str, Schema] = {}
        self._kinds: dict[str, type] = {}

    def schema(self, kind: object) -> Schema:
        """Return the schema of a type that `typed_json.decode` can read."""
        if kind is float:
            return {"type": ["number", "null"], "description": "null where it is not finite"}
        if kind is object or kind is typing.Any:
            return {}
        if isinstance(kind, type) and kind in PLAIN:
            return {"type": PLAIN[kind]}
        if isinstance(kind, type) and (issubclass(kind, StrEnum) or is_dataclass(kind)):
            return self._named(kind)
        return self._generic(kind)

    def _generic(self, kind: object) -> Schema:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            (inner,) = (each for each in arguments if each is not types.NoneType)
            return {"anyOf": [self.schema(inner), {"type": "null"}]}
        if origin in (tuple, list):
            return {"type": "array", "items": self.schema(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.schema(arguments[1])}
        raise TypeError(f"no schema for the type {kind}")

    def _named(self, kind: type) -> Schema:
        """Return a reference to the schema of a dataclass or an enumeration."""
        if self._kinds.setdefault(kind.__name__, kind) is not kind:
            raise TypeError(f"two types are called {kind.__name__}: a schema needs one name each")
        if kind.__name__ not in self.defined:
            self.defined[kind.__name__] = {}  # ends the descent where a type holds itself
            make = self._words if issubclass(kind, StrEnum) else self._members
            self.defined[kind.__name__] = make(kind)
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def _words(self, kind: type[StrEnum]) -> Schema:
        return {"description": _description(kind), "enum": [str(word) for word in kind]}

    def _members(self, kind: type) -> Schema:
        """Return the schema of a dataclass; some were text in older files, and still may be."""
        hints = typing.get_type_hints(kind)
        held = [each for each in fields(kind) if each.metadata.get("json", True)]
        schema: Schema = {
            "description": _description(kind),
            "type": "object",
            "properties": {each.name: self.schema(hints[each.name]) for each in held},
            "required": [each.name for each in held if _is_required(each)],
            "additionalProperties": False,
        }
        return {"anyOf": [schema, {"type": "string"}]} if hasattr(kind, FROM_TEXT) else schema


def _description(kind: type) -> str:
    """Return the first paragraph of a type's docstring."""
    paragraph = cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _is_required(field: Field[object]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
