"""References in a scenario's `call` to inputs: files, made patterns and noise, conditions by name.

A reference is a mapping with one key that names its kind, such as `{image: inputs/cat.png}`; a few
kinds take further keys. Files are relative to the scenario's file and stay inside its repository.
They are checked here, without a framework, and read by the worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.scenario.located_yaml import (
    Anything,
    Number,
    OneOrMore,
    Place,
    Record,
    Shape,
    Text,
    repository_of,
)


class InputKind(StrEnum):
    """What a reference stands for; the values are its first key in YAML."""

    IMAGE = "image"
    MASK = "mask"
    IMAGES = "images"
    VIDEO = "video"
    AUDIO = "audio"
    ARRAY = "array"
    OBJECT = "object"
    NOISE = "noise"
    PATTERN = "pattern"


_WHOLE = Number(least=1, whole=True)
_LIBRARY = Text(("torch", "numpy"))
_MODE = Text(("RGB", "RGBA", "L"))
_PATH = Text(what="the path of a file, relative to this one")

# The keys of each kind, beside the first one.
SHAPES: Mapping[InputKind, Record] = {
    InputKind.IMAGE: Record({"image": _PATH, "mode": _MODE}),
    InputKind.MASK: Record({"mask": _PATH}),
    InputKind.IMAGES: Record({"images": OneOrMore(_PATH), "mode": _MODE}),
    InputKind.VIDEO: Record({"video": _PATH}),
    InputKind.AUDIO: Record({"audio": _PATH, "as": _LIBRARY}),
    InputKind.ARRAY: Record({"array": _PATH, "key": Text(), "as": _LIBRARY}),
    InputKind.NOISE: Record(
        {
            "noise": Record(
                {"shape": OneOrMore(_WHOLE), "seed": Number(least=0, whole=True)},
                required=("shape", "seed"),
            ),
            "as": _LIBRARY,
        }
    ),
    InputKind.PATTERN: Record(
        {"pattern": Record({"size": OneOrMore(_WHOLE), "mode": _MODE}, required=("size",))}
    ),
}
FILE_KINDS = (
    InputKind.IMAGE,
    InputKind.MASK,
    InputKind.IMAGES,
    InputKind.VIDEO,
    InputKind.AUDIO,
    InputKind.ARRAY,
)


def kind_of(value: object) -> InputKind | None:
    """Return which kind of reference a value of `call` is; None where it is none.

    A mapping is a reference when its first key is a kind; every other mapping is passed on.
    """
    if not isinstance(value, Mapping) or not value:
        return None
    first = next(iter(value))
    return InputKind(first) if first in list(InputKind) else None


def files_named(value: object) -> Iterator[str]:
    """Yield the path of every file or folder that the references in a call name."""
    kind = kind_of(value)
    if isinstance(value, Mapping):
        if kind in FILE_KINDS:
            named = value[kind]
            yield from [named] if isinstance(named, str) else named
        for member in value.values() if kind not in FILE_KINDS else ():
            yield from files_named(member)
    elif isinstance(value, list):
        for member in value:
            yield from files_named(member)


@dataclass(frozen=True)
class Call:
    """The shape of a scenario's `call`: any values, with checked references among them."""

    def read(self, place: Place) -> dict[str, object]:
        """Return the arguments; a reference stays the mapping that it is in YAML.

        Raises:
            ScenarioError: A value cannot be passed on, or a reference is wrong.
        """
        values = {key: Anything().read(value) for key, (_, value) in place.members().items()}
        for key, (_, value) in place.members().items():
            _check(value, values[key])
        return values

    def schema(self) -> dict[str, object]:
        """Return the same as JSON Schema."""
        return {"type": "object"}


def _check(place: Place, value: object) -> None:
    """Check every reference in a value, however deep it lies."""
    kind = kind_of(value)
    if kind is InputKind.OBJECT:
        _check_object(place)
    elif kind is not None:
        _shape(kind).read(place)
        for path_place, path in _paths(place, kind):
            _check_file(path_place, path, is_video=kind is InputKind.VIDEO)
    elif isinstance(value, Mapping):
        for key, (_, member) in place.members().items():
            _check(member, value[key])
    elif isinstance(value, list):
        for index, node in enumerate(place.node.value):
            _check(place.inside(node, index), value[index])


def _shape(kind: InputKind) -> Shape:
    return SHAPES[kind]


def _check_object(place: Place) -> None:
    """Check a dataclass of conditions: its name, and the references among its fields."""
    members = place.members()
    Text(what="the name of a dataclass of diffusers").read(members["object"][1])
    for key, (_, member) in members.items():
        if key != InputKind.OBJECT:
            _check(member, Anything().read(member))


def _paths(place: Place, kind: InputKind) -> Iterator[tuple[Place, str]]:
    """Yield the places and the texts of the paths that a reference names."""
    if kind not in FILE_KINDS:
        return
    member = place.members()[kind][1]
    if kind is InputKind.IMAGES and isinstance(member.node.value, list):
        for index, node in enumerate(member.node.value):
            yield member.inside(node, index), str(node.value)
    else:
        yield member, str(member.node.value)


def _check_file(place: Place, text: str, *, is_video: bool) -> None:
    """Refuse a file that is missing or lies outside the repository of the scenario."""
    try:
        path = (place.path.parent / text).resolve()
        exists = path.is_file() or (is_video and path.is_dir())
    except (OSError, ValueError) as error:  # too long, or it holds NUL
        raise place.wrong("the path of a file", f"{text[:60]!r} ({error})") from error
    _check_inside(place, text, path)
    if not exists:
        expected = "a file, or a folder of frames" if is_video else "a file"
        raise place.wrong(expected, f"`{text}`, and there is no {path}")
    for frame in sorted(path.iterdir()) if path.is_dir() else ():
        _check_inside(place, f"{text}/{frame.name}", Path(os.path.realpath(frame)))


def _check_inside(place: Place, text: str, path: Path) -> None:
    """Refuse a file that lies outside the repository of the scenario, links followed."""
    root = repository_of(place.path)
    if not path.is_relative_to(root):
        hint = "copy the file into the repository: whoever runs the scenario needs it"
        raise place.wrong(f"a file inside {root}", f"`{text}`, which is {path}", hint)
