"""Which packages differ between two environments, and which of them cannot be changed alone.

A package of the one side may require a version of another package that only that side has. Then the
two change together, or the one needs the other. All of this follows from the packages' metadata;
nothing is installed to find it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from harness.launch.resolution import Package, Packages

Extras = Mapping[str, Collection[str]]  # which extras of a package are asked for, by its name


@dataclass(frozen=True)
class PackageChange:
    """A package whose version differs; a version is empty where the package is not installed."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name} {self.before or 'absent'} -> {self.after or 'removed'}"


@dataclass(frozen=True)
class Link:
    """Why one change needs another: a release requires what the other end's release is not.

    Attributes:
        change: The package that cannot change without the other.
        needs: The other package.
        package: The package whose metadata says so; it is one of the two.
        version: Its release that says so.
        requirement: What that release requires, such as `huggingface-hub<1.0,>=0.23.2`.
    """

    change: str
    needs: str
    package: str
    version: str
    requirement: str

    def __str__(self) -> str:
        return f"{self.package} {self.version} requires {self.requirement}"


def list_changes(before: Packages, after: Packages) -> tuple[PackageChange, ...]:
    """Return the packages whose versions differ, by name."""
    found = (
        PackageChange(name, _version(before, name), _version(after, name))
        for name in sorted({*before, *after})
    )
    return tuple(change for change in found if change.before != change.after)


def list_links(
    before: Packages, after: Packages, changes: Sequence[PackageChange], extras: Extras
) -> tuple[Link, ...]:
    """Return which change needs which other one, and why.

    A requirement that one side breaks within itself binds nobody: its user lives with it.

    Args:
        before: All packages of the one side.
        after: All packages of the other side.
        changes: The packages that differ.
        extras: The extras that are asked for.
    """
    names = {change.name for change in changes}
    found: dict[tuple[str, str], Link] = {}
    for own, other in ((after, before), (before, after)):
        for package in (own[name] for name in sorted(names) if name in own):
            for requirement in package.needs(extras.get(package.name, ())):
                needed = canonicalize_name(requirement.name)
                is_bound = needed in names and _meets(own, requirement)
                if needed != package.name and is_bound and not _meets(other, requirement):
                    ends = (package.name, needed) if own is after else (needed, package.name)
                    words = f"{needed}{requirement.specifier}"
                    link = Link(ends[0], ends[1], package.name, package.version, words)
                    found.setdefault(ends, link)
    return tuple(found.values())


def group(changes: Iterable[PackageChange], links: Sequence[Link]) -> tuple[tuple[str, ...], ...]:
    """Return the names of the packages in groups that change together.

    Packages that need each other form a group; every other package is one by itself. A group comes
    after those that it needs, as far as that is possible, and else by name.
    """
    names = [change.name for change in changes]
    reach = {name: reachable(name, links) for name in names}
    groups = {
        tuple(other for other in names if other in reach[name] and name in reach[other])
        for name in names
    }
    return tuple(sorted(groups, key=lambda each: (len(reach[each[0]]), each)))


def reachable(name: str, links: Sequence[Link]) -> frozenset[str]:
    """Return a package with all that it needs, directly or by others."""
    found = {name}
    while True:
        more = {link.needs for link in links if link.change in found} - found
        if not more:
            return frozenset(found)
        found |= more


def extras_of(roots: Iterable[Requirement], *sides: Packages) -> dict[str, set[str]]:
    """Return which extras are asked for, by a file or by a package that is installed."""
    found: dict[str, set[str]] = {}
    asked = [
        *roots,
        *(each for side in sides for package in side.values() for each in package.needs()),
    ]
    for requirement in asked:
        if requirement.extras:
            found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def closure(roots: Iterable[str], packages: Packages, extras: Extras) -> tuple[Package, ...]:
    """Return the packages that `roots` bring along, themselves included, by name."""
    found: dict[str, Package] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in packages and name not in found:
            found[name] = packages[name]
            waiting += _names(packages[name].needs(extras.get(name, ())))
    return tuple(found[name] for name in sorted(found))


def _names(requirements: Iterable[Requirement]) -> Iterator[str]:
    for requirement in requirements:
        yield canonicalize_name(requirement.name)


def _version(packages: Packages, name: str) -> str:
    return packages[name].version if name in packages else ""


def _meets(packages: Packages, requirement: Requirement) -> bool:
    """Whether the packages of one side have what is required."""
    package = packages.get(canonicalize_name(requirement.name))
    if package is None:
        return False
    try:
        return requirement.specifier.contains(Version(package.version), prereleases=True)
    except InvalidVersion:
        return True  # of a time before PEP 440: no specifier fits it or refuses it
