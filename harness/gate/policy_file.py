"""Reads a release policy from YAML, with all of its mistakes at once, each on its line.

Patterns choose among the scenario files of the release, and never among the names in runs. One
that covers no case is a mistake: a gate must not open for something that never ran.

Print the JSON Schema with `python -m harness.gate.policy_file > harness/data/policy.schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from harness.gate.policy import (
    ALLOWED,
    WAIVER_WORDS,
    Allowed,
    CostBudget,
    JudgedAgainst,
    LeastDetectionRate,
    Policy,
    Requirement,
    Waiver,
)
from harness.gate.policy import Place as Where
from harness.records import Dtype, Verdict
from harness.scenario.located_yaml import (
    Day,
    Either,
    Mistakes,
    Number,
    OneOrMore,
    Place,
    Record,
    Table,
    Text,
    Values,
    load,
)
from harness.scenario.model import Case
from harness.scenario.overlay import BASE

NONE = "none"  # in the place of verdicts: such a comparison passes for nothing
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ANY = "any"


@dataclass(frozen=True)
class Versions:
    """Versions of a package as pip writes them: `2.13.*`, `>=0.42,<0.44`."""

    def read(self, place: Place) -> SpecifierSet:
        text = Text(what="versions such as `2.13.*` or `>=0.42,<0.44`").read(place)
        try:
            return SpecifierSet(text if text[0] in "<>=!~" else f"=={text}", prereleases=True)
        except InvalidSpecifier:
            hint = "put the versions in quotes: YAML reads 2.10 as the number 2.1"
            raise place.wrong("versions such as `2.13.*` or `>=0.42,<0.44`", hint=hint) from None

    def schema(self) -> dict[str, object]:
        return Text().schema()


_PATTERNS = OneOrMore(Text(what="a name or a pattern such as `ddim-*`"))
_PASSING = tuple(str(verdict) for verdict in Verdict if verdict.passes)
_CHOSEN = {
    "scenarios": _PATTERNS,
    "on": OneOrMore(Text(what="a device such as `cpu`, or a kind of it such as `nvidia-h200`")),
    "dtype": OneOrMore(Text(tuple(map(str, Dtype)))),
    "variants": _PATTERNS,
}
_COST = Record(
    {"ratio": Number(above=0), "seconds": Number(above=0), "peak-mib": Number(above=0)}, filled=True
)
_RATE = Record({"least": Number(above=0), "max-age-days": Number(above=0)}, required=("least",))
REQUIREMENT = Record(
    {
        **_CHOSEN,
        "machines": _PATTERNS,
        "classes": _PATTERNS,
        "verdicts": Record(
            {str(kind): OneOrMore(Text((*_PASSING, NONE))) for kind in JudgedAgainst}, filled=True
        ),
        "cost": Either(Text(("ok",)), _COST),
        "accuracy": Text(("no-worse",)),
        "detection-rate": Either(Number(above=0), _RATE),
    },
    required=("scenarios", "on"),
    help={
        "scenarios": "Names of scenarios, or patterns of them; each must cover a case.",
        "on": "Devices or kinds of device; every case must have been seen on each of them.",
        "variants": "Names or patterns of variants; `base` is the scenario as it stands.",
        "machines": "Patterns of machine types; each must have been seen.",
        "classes": "Patterns of numerics classes; each must have been seen.",
        "verdicts": "Which verdicts pass, by what the case was judged against.",
        "cost": "`ok` by the scenario's own bounds, or a budget.",
        "detection-rate": "The least share of known faults that the bounds are proven to catch.",
    },
)
_WAIVER = Record(
    {
        **_CHOSEN,
        "for": OneOrMore(Text(WAIVER_WORDS)),
        "reason": Text(),
        "owner": Text(),
        "expires": Day(),
    },
    required=("scenarios", "for", "reason", "owner", "expires"),
    help={"expires": "The last day on which it holds, in UTC."},
)
POLICY = Record(
    {
        "description": Text(),
        "max-age-days": Number(above=0),
        "versions": Table(Versions()),
        "commit": Text(("same", ANY)),
        "working-tree": Text(("clean", ANY)),
        "require": OneOrMore(REQUIREMENT),
        "waive": OneOrMore(_WAIVER),
    },
    required=("require",),
    help={
        "max-age-days": "How old a run may be.",
        "versions": "Which versions each package may have, in every run.",
        "commit": "Whether every run must be of the commit being released: `same` (the default).",
        "working-tree": "Whether it must have been without changes: `clean` (the default).",
    },
)


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of a policy."""
    return {"$schema": DIALECT, "title": "harness release policy", **POLICY.schema()}


def read_policy(path: Path, cases: Sequence[Case]) -> Policy:
    """Return a policy, with its patterns resolved against the cases of the release.

    Raises:
        ScenarioError: The policy file has a mistake, or several. A pattern, a dtype or a variant
            that covers no case is one.
    """
    content, place = load(path, POLICY)
    mistakes = Mistakes()
    requirements = [
        requirement
        for index, values in enumerate(content["require"])
        for requirement in _requirements(
            values, _at(place, "require", index), _Resolver(cases, mistakes)
        )
    ]
    waivers = [
        _waiver(values, _at(place, "waive", index), _Resolver(cases, mistakes))
        for index, values in enumerate(content.get("waive", ()))
    ]
    mistakes.raise_all()
    return Policy(
        path=path,
        requirements=tuple(requirements),
        waivers=tuple(waivers),
        max_age_days=content.get("max-age-days"),
        versions=content.get("versions", {}),
        any_commit=content.get("commit") == ANY,
        any_tree=content.get("working-tree") == ANY,
    )


class _Resolver:
    """Finds the cases that the patterns of one entry cover, and notes the patterns without any."""

    def __init__(self, cases: Sequence[Case], mistakes: Mistakes) -> None:
        self._cases = cases
        self._mistakes = mistakes

    def covered(self, values: Values, on: str) -> list[Case]:
        """Return the cases of an entry on one kind of device; any device where `on` is empty."""
        return [case for case in self._chosen(values, on) if self._has_variant(values, case)]

    def check(self, values: Values, place: Place) -> None:
        """Note each pattern, device, dtype and variant of an entry that covers no case."""
        kinds = values.get("on", ("",))
        every = [case for on in kinds for case in self._chosen(values, on)]
        for index, pattern in enumerate(values["scenarios"]):
            for on in kinds:
                of_pattern = self._chosen({**values, "scenarios": [pattern]}, on)
                if not any(self._has_variant(values, case) for case in of_pattern):
                    where = f" on {on}" if on else ""
                    self._nothing(_at(place, "scenarios", index), f"`{pattern}`{where}")
        for index, dtype in enumerate(values.get("dtype", ())):
            if not any(case.target.dtype == dtype for case in every):
                self._nothing(_at(place, "dtype", index), f"`{dtype}`")
        for index, pattern in enumerate(values.get("variants", ())):
            if not any(fnmatchcase(_variant_of(case), pattern) for case in every):
                self._nothing(_at(place, "variants", index), f"`{pattern}`")

    def _chosen(self, values: Values, on: str) -> list[Case]:
        return [
            case
            for case in self._cases
            if any(fnmatchcase(case.scenario.name, each) for each in values["scenarios"])
            and (not on or Where(on).device is case.target.device)
            and case.target.dtype in values.get("dtype", tuple(Dtype))
        ]

    def _has_variant(self, values: Values, case: Case) -> bool:
        patterns = values.get("variants", ("*",))
        return any(fnmatchcase(_variant_of(case), pattern) for pattern in patterns)

    def _nothing(self, place: Place, what: str) -> None:
        devices = sorted({str(case.target.device) for case in self._cases})
        hint = f"the scenarios of the release have cases on {', '.join(devices)}" if devices else ""
        found = f"{what}, which covers none"
        self._mistakes.add(place.wrong("what covers a case of the release", found, hint))


def _requirements(values: Values, place: Place, resolver: _Resolver) -> Iterator[Requirement]:
    """Yield the requirements of one entry: one for each place that it names."""
    resolver.check(values, place)
    for on in dict.fromkeys(values["on"]):
        cases = tuple(case.id for case in resolver.covered(values, on))
        for where in _places(values, on):
            yield Requirement(
                cases=cases,
                place=where,
                allowed=_allowed(values.get("verdicts", {})),
                cost=_cost(values.get("cost")),
                wants_accuracy="accuracy" in values,
                detection_rate=_rate(values.get("detection-rate")),
            )


def _places(values: Values, on: str) -> Iterator[Where]:
    for machine in values.get("machines", ("",)):
        for numerics_class in values.get("classes", ("",)):
            yield Where(on, machine, numerics_class)


def _allowed(verdicts: Mapping[str, Iterable[str]]) -> Allowed:
    """Return which verdicts pass; a kind of comparison that is not named keeps its default."""
    named = {
        JudgedAgainst(kind): tuple(Verdict(word) for word in words if word != NONE)
        for kind, words in verdicts.items()
    }
    return {**ALLOWED, **named}


def _cost(value: object) -> CostBudget | None:
    if not isinstance(value, Mapping):
        return None if value is None else CostBudget(verdict=True)
    return CostBudget(False, value.get("ratio"), value.get("seconds"), value.get("peak-mib"))


def _rate(value: object) -> LeastDetectionRate | None:
    if isinstance(value, Mapping):
        return LeastDetectionRate(value["least"], value.get("max-age-days"))
    return LeastDetectionRate(value) if isinstance(value, int | float) else None


def _waiver(values: Values, place: Place, resolver: _Resolver) -> Waiver:
    resolver.check(values, place)
    on = values.get("on", ())
    covered = [case for kind in on or ("",) for case in resolver.covered(values, kind)]
    return Waiver(
        cases=frozenset(case.id for case in covered),
        words=frozenset(values["for"]),
        reason=values["reason"],
        owner=values["owner"],
        expires=values["expires"],
        on=frozenset(on),
        line=place.line,
    )


def _variant_of(case: Case) -> str:
    return case.scenario.variant or BASE


def _at(place: Place, key: str, index: int) -> Place:
    """Return the place of an item below a key; a lone item stands there without a list."""
    member = place.members()[key][1]
    if isinstance(member.node, yaml.SequenceNode):
        return member.inside(member.node.value[index], index)
    return member


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
