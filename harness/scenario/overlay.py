"""Other executions in a scenario's YAML: variants, and arguments of the call that vary.

Both are one mechanism. An overlay lays keys over those of the scenario, and what comes out is read
and checked like any scenario. So a key that is added to `scenario.fields` works in variants too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from harness.scenario.located_yaml import Anything, Place, Record, Shape

CALL = "call"  # the one key whose members are laid over the scenario's one by one
CONTRACT = "contract"
VARIANTS = "variants"
BASE = "base"  # what the scenario itself is called where a variant's contract names it
NAME = re.compile(r"\w[\w.+-]{0,79}")  # of a variant: a part of an id, and of a folder
VALUE = re.compile(r"-?\w[\w.+-]{0,39}")  # of an argument that varies: a part of both, too
MOST_LABEL = 120  # characters of all arguments that vary, with their values
MOST_POINTS = 1000  # combinations of arguments that vary


@dataclass(frozen=True)
class AxisValue:
    """One value of an argument that varies: a number, true, false, or a word.

    It becomes a part of ids and folders.
    """

    def read(self, place: Place) -> str | float | bool:
        value = Anything().read(place)
        if not isinstance(value, str | int | float) or not VALUE.fullmatch(worded(value)):
            expected = "a number, true, false, or a word of letters, digits, `-`, `_`, `+` and `.`"
            raise place.wrong(expected, hint="give other values in `variants`, which have names")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": ["number", "boolean", "string"]}


@dataclass(frozen=True)
class Overlay:
    """The keys of a scenario that a variant changes, and keys of its own.

    Attributes:
        keys: The keys of a scenario.
        own: The keys that only a variant has.
    """

    keys: Mapping[str, Shape]
    own: Mapping[str, Shape]

    def read(self, place: Place) -> dict[str, Any]:
        return Record({**self.keys, **self.own}, filled=True).read(place)

    def schema(self) -> dict[str, Any]:
        references = {key: {"$ref": f"#/properties/{key}"} for key in self.keys}
        own = {key: shape.schema() for key, shape in self.own.items()}
        return {
            "type": "object",
            "properties": {**references, **own},
            "additionalProperties": False,
            "minProperties": 1,
        }


@dataclass(frozen=True)
class Draft:
    """The keys of one execution of a scenario, before they become a `Scenario`.

    Attributes:
        point: The arguments that vary, with their values, as ids have them; empty without any.
        variant: The name of the variant; empty for the scenario without any change.
        values: The checked values by key.
        members: Where each value stands in the file.
        place: Where the execution stands as a whole.
        contract: The checked value of `contract`, and where it stands; None without one.
    """

    point: str
    variant: str
    values: Mapping[str, Any]
    members: Mapping[str, Place]
    place: Place
    contract: tuple[Any, Place] | None = None

    @classmethod
    def of_file(cls, values: Mapping[str, Any], place: Place) -> Draft:
        """Return the scenario as the file has it."""
        members = {key: value for key, (_, value) in place.members().items()}
        return cls("", "", values, members, place)

    @property
    def name(self) -> str:
        """What stands after the target in the id of a case."""
        return ",".join(part for part in (self.point, self.variant) if part)

    @property
    def expands(self) -> bool:
        """Whether the file asks for more than the scenario as it stands."""
        return bool(self.values.get(VARIANTS) or self.values.get("cases", {}).get(CALL))

    def points(self) -> list[Draft]:
        """Return the scenario with each combination of the arguments that vary; else itself.

        Raises:
            ScenarioError: `call` sets an argument that varies, or there are too many combinations.
        """
        axes: Mapping[str, list[Any]] = self.values.get("cases", {}).get(CALL, {})
        if not axes:
            return [self]
        places = self.members["cases"].members()[CALL][1]
        for name, (key, _) in places.members().items():
            if name in self.values[CALL]:
                raise key.wrong(f"an argument that `{CALL}` does not set", f"`{name}` in both")
            if not name.isidentifier():
                raise key.wrong("the name of an argument of the call", repr(name))
        size = prod(map(len, axes.values()))
        if size > MOST_POINTS:
            raise places.wrong(f"at most {MOST_POINTS} combinations", str(size))
        points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        if any(len(_label(point)) > MOST_LABEL for point in points):
            raise places.wrong(f"names and values of at most {MOST_LABEL} characters together")
        return [self._at(point) for point in points]

    def variants(self) -> Iterator[Draft]:
        """Yield the variants of the scenario, in the order of the file.

        Raises:
            ScenarioError: A variant has a name that cannot be used, or changes what it must not.
        """
        if VARIANTS not in self.values:
            return
        for name, (key, place) in self.members[VARIANTS].members().items():
            if not NAME.fullmatch(name) or name == BASE:
                expected = f"a name of letters, digits, `-`, `_`, `+` and `.`, other than `{BASE}`"
                raise key.wrong(expected, repr(name))
            yield self._laid_over(name, self.values[VARIANTS][name], place)

    def _at(self, point: Mapping[str, object]) -> Draft:
        """Return the scenario with one value of each argument that varies."""
        call = {**self.values[CALL], **point}
        return replace(self, point=_label(point), values={**self.values, CALL: call})

    def _laid_over(self, name: str, changes: Mapping[str, Any], place: Place) -> Draft:
        """Return the variant `name`, which stands at `place`."""
        own = {key: value for key, (_, value) in place.members().items()}
        contract = (changes[CONTRACT], own[CONTRACT]) if CONTRACT in changes else None
        values = {**self.values, **{k: v for k, v in changes.items() if k != CONTRACT}}
        if CALL in changes:
            values[CALL] = {**self.values[CALL], **changes[CALL]}
        if CALL in changes.get("cases", {}):  # the scenario varies them for all of its variants
            varied = own["cases"].members()[CALL][0]
            raise varied.wrong(f"`cases` without `{CALL}` in a variant", f"`{CALL}`")
        members = {**self.members, **own}
        return Draft(self.point, name, values, members, place, contract)


def worded(value: object) -> str:
    """Return a value of an argument as ids have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _label(arguments: Mapping[str, object]) -> str:
    return ",".join(f"{name}={worded(value)}" for name, value in arguments.items())
