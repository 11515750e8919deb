"""What changed in the environment between a baseline and a run, likeliest to matter first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.records import Change, ChangeKind, EnvironmentChange
from harness.store.recording import Environment

FRAMEWORKS = ("torch", "diffusers", "transformers")  # what computes; other packages come last
UNSET = "unset"


def list_changes(actual: Environment, expected: Environment) -> tuple[EnvironmentChange, ...]:
    """Return the differences between two environments, the likeliest to matter first.

    The order is: the framework, what was not observed, code of the project, versions of frameworks,
    GPU and driver, flags, variables, CPU, operators, other packages.
    """
    versions = changes_of(actual.versions, expected.versions)
    libraries = [change for name in FRAMEWORKS for change in versions if change.name == name]
    packages = [change for change in versions if change.name not in FRAMEWORKS]
    own, its = actual.numerics_class.operators, expected.numerics_class.operators
    framework = changes_of({"framework": actual.framework}, {"framework": expected.framework})
    unobserved = sorted({*actual.unobserved, *expected.unobserved})
    parts: tuple[tuple[ChangeKind, Iterable[Change]], ...] = (
        (ChangeKind.FRAMEWORK, framework),
        (ChangeKind.UNOBSERVED, (Change(name, "", "") for name in unobserved)),
        (ChangeKind.OWN_CODE, changes_of(_own_files(actual), _own_files(expected))),
        (ChangeKind.LIBRARY, libraries),
        (ChangeKind.GPU, changes_of(actual.gpu, expected.gpu)),
        (ChangeKind.FLAG, changes_of(actual.flags, expected.flags)),
        (ChangeKind.VARIABLE, changes_of(actual.variables, expected.variables)),
        (ChangeKind.MACHINE, changes_of(_machine(actual), _machine(expected))),
        (ChangeKind.OPERATOR, changes_of(own, its)),
        (ChangeKind.PACKAGE, packages),
    )
    return tuple(
        EnvironmentChange(change.name, change.expected, change.actual, kind)
        for kind, changes in parts
        for change in changes
    )


def changes_of(actual: Mapping[str, object], expected: Mapping[str, object]) -> list[Change]:
    """Return the facts that differ between two sides, by their names in alphabetical order."""
    return [
        Change(name, _word(expected, name), _word(actual, name))
        for name in sorted({*actual, *expected})
        if (name in actual) != (name in expected) or actual.get(name) != expected.get(name)
    ]


def _own_files(environment: Environment) -> dict[str, str]:
    """Return the digest of each source file of the project's packages, by package and path."""
    return {
        f"{package}/{path}": digest
        for package, files in environment.own_code.items()
        for path, digest in files.items()
    }


def _machine(environment: Environment) -> dict[str, object]:
    return {name: fact for name, fact in environment.hardware.items() if name != "gpu"}


def _word(facts: Mapping[str, object], name: str) -> str:
    return str(facts[name]) if name in facts else UNSET
