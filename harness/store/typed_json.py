"""JSON files read into types: every key and type is checked, and hostile input is refused.

A file that another program, another person or a damaged disk may have changed is read here alone.
It is refused, with the path of the value, when a key is missing, unknown or repeated, when a value
has another type than the field it is for, when it holds the literals `NaN` or `Infinity` or a
number that is too large for a float, and when it is larger or nested deeper than any file that the
harness writes.

A float that is not finite is written as `null` and read back as NaN.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.errors import FileError
from harness.worker.files import dumps

NOT_IN_JSON = {"json": False}  # the metadata of a field that the file does not hold
# The class method of a dataclass that older files hold as text; it makes one of that.
FROM_TEXT = "from_text"
MOST_BYTES = 1 << 28  # 256 MiB; a recording of 10,000 stages has some 10 MiB

T = TypeVar("T")


class MalformedError(ValueError):
    """A text that is no JSON of ours, or a value in it that does not fit its type.

    Args:
        problem: What is wrong.
        where: The path of the value, with which the message begins; empty for the whole text.
        line: On which line of the text, counted from 1; 0 where that is not known.
    """

    def __init__(self, problem: str, where: str = "", line: int = 0) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.line = line


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        FileError: The file cannot be read, or is no JSON of reasonable size and depth.
    """
    try:
        if not path.is_file():
            raise FileError(path, "is no file" if path.exists() else "does not exist")
        if path.stat().st_size > MOST_BYTES:
            raise FileError(path, f"is larger than {MOST_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read: {error}") from error
    try:
        return parse_json(text)
    except MalformedError as error:
        problem = f"is not the JSON that the harness writes: {error}"
        raise FileError(path, problem, line=error.line) from error


def parse_json(text: str) -> object:
    """Return the value of a JSON text, with the restrictions of this module.

    Raises:
        MalformedError: The text breaks one of them.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except MalformedError:
        raise
    except ValueError as error:
        raise MalformedError(str(error), line=getattr(error, "lineno", 0)) from error
    except RecursionError as error:
        raise MalformedError("it is nested too deeply") from error


def line_of(text: str, where: str) -> int:
    """Return the line of a JSON text on which a value stands, counted from 1; 0 if it is not there.

    Args:
        text: A text that `parse_json` has read.
        where: The path of the value, as `MalformedError` has it.
    """
    with suppress(ValueError, IndexError, RecursionError):
        at, rest = _skip_space(text, 0), where.removeprefix("$")
        while rest and at >= 0:
            at, rest = _member(text, at, rest)
        return text.count("\n", 0, at) + 1 if at >= 0 else 0
    return 0


def _member(text: str, at: int, rest: str) -> tuple[int, str]:
    """Return where the member of a value begins that a path leads to, and the rest of the path.

    The place is -1 where there is no such member.
    """
    is_list = text[at] == "["
    index, best = 0, (-1, "")
    at = _skip_space(text, at + 1)
    while text[at] not in "]}":
        if is_list:
            step = f"[{index}]"
        else:
            key, at = scanstring(text, at + 1, True)
            step = f".{key}"
            at = _skip_space(text, _skip_space(text, at) + 1)  # the colon
        # A key may hold a dot: of those that fit, the longest is meant.
        after = rest.removeprefix(step)
        if (
            after != rest
            and after[:1] in ("", ".", "[")
            and (best[0] < 0 or len(after) < len(best[1]))
        ):
            best = (at, after)
        at = _skip_space(text, _DECODER.raw_decode(text, at)[1])
        at = _skip_space(text, at + 1) if text[at] == "," else at
        index += 1
    return best


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


_DECODER = json.JSONDecoder()


def decode(kind: type[T], value: object, where: str = "$") -> T:
    """Return `value`, as JSON gives it, as an instance of `kind`.

    Args:
        kind: A dataclass, an enumeration of strings, a plain type, or a tuple, list, dictionary or
            union of those. A float takes a whole number, and null as NaN.
        value: What JSON gave.
        where: The path of the value, for messages.

    Raises:
        MalformedError: The value does not fit.
    """
    return cast("T", _decoder(cast("Any", kind))(value, where))


def encode(value: object) -> object:
    """Return a dataclass, or whatever holds some, as values that JSON can express."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: encode(getattr(value, each.name)) for each in _json_fields(value)}
    if isinstance(value, Mapping):
        return {_writable(str(key)): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value if value.isascii() else _writable(value)
    return value


def to_text(value: object) -> str:
    """Return a dataclass, or whatever holds some, as the text of a JSON file."""
    return dumps(encode(value))


def _writable(text: str) -> str:
    """Return a text with halves of surrogate pairs written out, which no file in UTF-8 can hold.

    They come from names of files that are not in UTF-8, and from a worker's JSON.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise MalformedError(f"the key `{key}` stands twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> object:
    raise MalformedError(f"the literal `{name}` is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise MalformedError(f"the number {_shown(digits)} is too large")
    return value


# Decoders by type.

Decoder = Callable[[object, str], object]


@cache
def _decoder(kind: Any) -> Decoder:
    """Return the function that reads a value of type `kind`."""
    if kind is float:
        return _read_float
    if kind is object or kind is Any:
        return _read_anything
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _enumeration(kind)
    if isinstance(kind, type) and kind in (bool, int, str):
        return _plain(kind)
    if is_dataclass(kind):
        return _dataclass(cast("type[object]", kind))
    return _generic(kind)


def _generic(kind: Any) -> Decoder:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _optional(_decoder(inner))
    if origin is tuple and arguments[-1] is Ellipsis:
        return _sequence(_decoder(arguments[0]), tuple)
    if origin is list:
        return _sequence(_decoder(arguments[0]), list)
    if origin is dict:
        return _mapping(_decoder(arguments[1]))
    raise TypeError(f"no reader for the type {kind}")


def _read_anything(value: object, _where: str) -> object:
    return value


def _read_float(value: object, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError(f"expected a number, found {_shown(value)}", where)
    try:
        return float(value)
    except OverflowError:
        raise MalformedError(f"the number {_shown(value)} is too large", where) from None


def _plain(kind: type) -> Decoder:
    def read(value: object, where: str) -> object:
        if type(value) is not kind:
            raise MalformedError(f"expected {_NAMES[kind]}, found {_shown(value)}", where)
        return value

    return read


_NAMES = {bool: "true or false", int: "a whole number", str: "a string"}


def _enumeration(kind: type[StrEnum]) -> Decoder:
    words = ", ".join(kind)
    known = frozenset(map(str, kind))

    def read(value: object, where: str) -> object:
        if isinstance(value, str) and value in known:
            return kind(value)
        raise MalformedError(f"expected one of {words}, found {_shown(value)}", where)

    return read


def _optional(inner: Decoder) -> Decoder:
    def read(value: object, where: str) -> object:
        return None if value is None else inner(value, where)

    return read


def _sequence(item: Decoder, make: Callable[[list[object]], object]) -> Decoder:
    def read(value: object, where: str) -> object:
        if not isinstance(value, list):
            raise MalformedError(f"expected a list, found {_shown(value)}", where)
        return make([item(each, f"{where}[{index}]") for index, each in enumerate(value)])

    return read


def _mapping(item: Decoder) -> Decoder:
    def read(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise MalformedError(f"expected an object, found {_shown(value)}", where)
        return {key: item(each, f"{where}.{key}") for key, each in value.items()}

    return read


def _dataclass(kind: type[object]) -> Decoder:
    hints = typing.get_type_hints(kind)
    known = _json_fields(kind)
    readers = {each.name: _decoder(hints[each.name]) for each in known}
    required = [each.name for each in known if _is_required(each)]
    from_text = getattr(kind, FROM_TEXT, None)

    def read(value: object, where: str) -> object:
        if from_text is not None and isinstance(value, str):
            return from_text(value)
        if not isinstance(value, dict):
            raise MalformedError(f"expected an object, found {_shown(value)}", where)
        for key in value:
            if key not in readers:
                raise MalformedError(f"unknown key `{key}`", where)
        for key in required:
            if key not in value:
                raise MalformedError(f"the key `{key}` is missing", where)
        read_values = {key: readers[key](each, f"{where}.{key}") for key, each in value.items()}
        try:
            return kind(**read_values)
        except ValueError as error:  # what a type says of its own values
            raise MalformedError(str(error), where) from error

    return read


def _json_fields(kind: object) -> list[Field[object]]:
    """Return the fields of a dataclass, or of an instance, that its JSON holds."""
    return [each for each in fields(cast("Any", kind)) if each.metadata.get("json", True)]


def _is_required(field: Field[object]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
