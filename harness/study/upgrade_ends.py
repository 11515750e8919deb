"""The two ends of an upgrade: what their files stand for, and environments between them.

An environment between the ends has the new version of some packages and the old one of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.launch.requirement_files import read_requirements
from harness.launch.resolution import Package, Packages, installed_packages, resolve
from harness.launch.sandbox import COMPANIONS
from harness.study.delta import Changes, Set
from harness.study.package_changes import (
    Extras,
    Link,
    PackageChange,
    closure,
    extras_of,
    group,
    list_changes,
    list_links,
)


@dataclass(frozen=True)
class Ends:
    """An upgrade: all packages before and after it, and what differs.

    Attributes:
        before: All packages of the one end, by name.
        after: Those of the other end.
        changes: The packages that differ.
        links: Which of them cannot change without another, and why.
        groups: The names of the packages in groups that only change together. Each group is called
            by the names of its packages, see `name_of`.
        stated: The packages that every environment names: those that a file brought in, and what a
            framework uses without saying so.
        roots: The packages that the files name.
        extras: The extras that are asked for.
    """

    before: Packages
    after: Packages
    changes: tuple[PackageChange, ...]
    links: tuple[Link, ...]
    groups: tuple[tuple[str, ...], ...]
    stated: tuple[str, ...]
    roots: tuple[str, ...]
    extras: Extras = field(default_factory=dict)

    def sets(self) -> Changes:
        """Return the groups as changes, with those that each needs."""
        group_of = {name: name_of(each) for each in self.groups for name in each}
        needs: dict[str, set[str]] = {name_of(each): set() for each in self.groups}
        for link in self.links:
            needs[group_of[link.change]].add(group_of[link.needs])
        return Changes(needs, needs)

    def changed(self, groups: Set) -> tuple[PackageChange, ...]:
        """Return the packages of some groups, by name."""
        names = {name for each in self.groups if name_of(each) in groups for name in each}
        return tuple(change for change in self.changes if change.name in names)

    def packages(self, groups: Set) -> dict[str, Package]:
        """Return all packages of the environment in which some groups are changed."""
        found = dict(self.before)
        for change in self.changed(groups):
            found.pop(change.name, None)
            if change.after:
                found[change.name] = self.after[change.name]
        return found

    def pins(self, groups: Set) -> tuple[str, ...]:
        """Return what to ask for, to get that environment: `NAME==VERSION` by name."""
        packages = self.packages(groups)
        return tuple(
            f"{name}=={packages[name].version}" for name in self.stated if name in packages
        )

    def lock(self, groups: Set) -> tuple[str, ...]:
        """Return every package that the files bring along in that environment, with `==`."""
        roots = {*self.roots, *(change.name for change in self.changes)}
        found = closure(roots, self.packages(groups), self.extras)
        return tuple(f"{package.name}=={package.version}" for package in found)


def name_of(packages: Sequence[str]) -> str:
    """Return what a group of packages is called: `tokenizers, transformers`."""
    return ", ".join(packages)


def read_ends(before: Path, after: Path) -> Ends:
    """Read the requirements of both ends, and let pip resolve them.

    Raises:
        FileError: A file cannot be read.
        UsageError: A file has a mistake, it cannot be resolved, or both stand for the same.
    """
    installed = installed_packages()
    asked = {path: read_requirements(path) for path in (before, after)}
    made = {path: resolve(lines, installed, path) for path, lines in asked.items()}
    old, new = ({**installed, **made[path]} for path in (before, after))
    changes = list_changes(old, new)
    if not changes:
        raise UsageError(f"{before} and {after} stand for the same versions of every package")
    requested = [each for lines in asked.values() for each in lines]
    extras = extras_of((each.requirement for each in requested), old, new)
    links = list_links(old, new, changes, extras)
    companions = {name for names in COMPANIONS.values() for name in names if name in installed}
    return Ends(
        before=old,
        after=new,
        changes=changes,
        links=links,
        groups=group(changes, links),
        stated=tuple(sorted({*made[before], *made[after], *companions})),
        roots=tuple(sorted({each.name for each in requested})),
        extras=extras,
    )
