"""What changed in the environment between a baseline and a run, likeliest to matter first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.store.recording import Environment

FRAMEWORKS = ("torch", "diffusers", "transformers")  # what computes; other packages come last
UNSET = "unset"


@dataclass(frozen=True)
class Change:
    """One fact that differs: its name and both sides as text."""

    name: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.name} {self.expected} -> {self.actual}"


def list_changes(actual: Environment, expected: Environment) -> tuple[str, ...]:
    """Return one line per difference between two environments, the likeliest to matter first.

    The order is: the framework, what was not observed, versions of frameworks, GPU and driver,
    flags, variables, CPU, operators, other packages.
    """
    versions = changes_of(actual.versions, expected.versions)
    frameworks = [change for name in FRAMEWORKS for change in versions if change.name == name]
    packages = [change for change in versions if change.name not in FRAMEWORKS]
    lines = []
    if actual.framework != expected.framework:
        lines.append(str(Change("framework", expected.framework, actual.framework)))
    for name in sorted({*actual.unobserved, *expected.unobserved}):
        lines.append(f"not observed in one of the two: {name}")
    lines += map(str, frameworks)
    lines += map(str, changes_of(actual.gpu, expected.gpu))
    lines += map(str, changes_of(actual.flags, expected.flags))
    lines += map(str, changes_of(actual.variables, expected.variables))
    lines += map(str, changes_of(_machine(actual), _machine(expected)))
    operators = changes_of(actual.numerics_class.operators, expected.numerics_class.operators)
    if operators:
        names = ", ".join(change.name for change in operators)
        lines.append(f"operators with other bits: {names}")
    lines += map(str, packages)
    return tuple(lines)


def changes_of(actual: Mapping[str, object], expected: Mapping[str, object]) -> list[Change]:
    """Return the facts that differ between two sides, by their names in alphabetical order."""
    return [
        Change(name, _word(expected, name), _word(actual, name))
        for name in sorted({*actual, *expected})
        if (name in actual) != (name in expected) or actual.get(name) != expected.get(name)
    ]


def _machine(environment: Environment) -> dict[str, object]:
    return {name: fact for name, fact in environment.hardware.items() if name != "gpu"}


def _word(facts: Mapping[str, object], name: str) -> str:
    return str(facts[name]) if name in facts else UNSET
