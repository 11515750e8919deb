"""Reads requirements files: which packages they ask for, in which versions, and on which line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from harness.errors import FileError, UsageError

COMMENT = re.compile(r"(^|\s)#.*$")  # as pip reads comments
HASH = re.compile(r"\s--hash[=\s]\S+")
INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s+|=)?(?P<path>\S.*)")
MOST_BYTES = 1 << 20  # 1 MiB: a lock file of 10,000 packages with hashes is smaller
EXPECTED = "a package with its versions, such as `diffusers==0.42.1`"


@dataclass(frozen=True)
class Requested:
    """One line of a requirements file: what it asks for, and where it stands as `FILE:LINE`."""

    requirement: Requirement
    where: str

    @property
    def name(self) -> str:
        """The package's canonical name."""
        return canonicalize_name(self.requirement.name)


def read_requirements(path: Path) -> tuple[Requested, ...]:
    """Return what a requirements file asks for, with the files that it includes by `-r`.

    Lines whose marker does not hold for this interpreter are left out, and so are hashes.

    Raises:
        FileError: A file cannot be read, or it asks for nothing.
        UsageError: A line is no package with versions.
    """
    found = tuple(_read(path, ()))
    if not found:
        raise FileError(path, "asks for no package", f"write {EXPECTED} on a line each")
    return found


def _read(path: Path, including: tuple[Path, ...]) -> Iterator[Requested]:
    if path.resolve() in including:
        raise FileError(path, "includes itself by `-r`", "remove one of the lines")
    for number, line in _lines(path):
        where = f"{path}:{number}"
        included = INCLUDE.fullmatch(line)
        if included:
            yield from _read(path.parent / included["path"], (*including, path.resolve()))
            continue
        requirement = _requirement(line, where)
        if _applies(requirement, where):
            yield Requested(requirement, where)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers; continued lines are joined."""
    joined, first = "", 0
    for number, line in enumerate(_text(path).splitlines(), start=1):
        first = first or number
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        content = HASH.sub("", COMMENT.sub("", joined)).strip()
        if content:
            yield first, content
        joined, first = "", 0
    if joined.strip():
        raise UsageError(f"{path}:{first}: expected another line after the last `\\`")


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise FileError(path, "is no file" if path.exists() else "does not exist")
        if path.stat().st_size > MOST_BYTES:
            raise FileError(path, f"is larger than {MOST_BYTES >> 10} KiB")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read: {error}") from error


def _requirement(line: str, where: str) -> Requirement:
    if line.startswith("-"):
        raise UsageError(
            f"{where}: expected {EXPECTED} or `-r FILE`, found the option `{line}`; put options "
            "for an index into pip's configuration, and leave editable installs out"
        )
    try:
        found = Requirement(line)
    except InvalidRequirement as error:
        raise UsageError(f"{where}: expected {EXPECTED}, found `{line}`") from error
    if found.url:
        raise UsageError(
            f"{where}: expected {EXPECTED}, found the address of {found.name}; only releases of a "
            "package index can be compared, so leave the line out"
        )
    return found


def _applies(requirement: Requirement, where: str) -> bool:
    """Whether the marker of a line holds for this interpreter."""
    if requirement.marker is None:
        return True
    try:
        return requirement.marker.evaluate({"extra": ""})
    except (UndefinedComparison, UndefinedEnvironmentName) as error:
        raise UsageError(f"{where}: its marker cannot be evaluated: {error}") from error
