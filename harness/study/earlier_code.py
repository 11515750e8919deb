"""Brings back the project's code as a baseline had it: from git, each file checked by its digest.

So the baseline's side of an explanation runs although its code has been edited since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import writing
from harness.scenario.model import Case
from harness.scenario.project import Project
from harness.store import git
from harness.store.baselines import Baseline
from harness.worker.files import write_file

DIGITS = 16  # hexadecimal, of the digest of a source file in a recording
MOST_COMMITS = 100  # that are searched for a file


@dataclass(frozen=True)
class EarlierCode:
    """The project's code as a baseline had it.

    Attributes:
        project: The project with its root at the copy; None where some file is not to be had.
        changed: The files that are others now, or gone, named `PACKAGE/PATH`.
        missing: Those of them that git does not have as the baseline had them.
    """

    project: Project | None
    changed: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def in_place(self, case: Case) -> Case:
        """Return a case as it runs with this code."""
        return replace(case, scenario=replace(case.scenario, project=self.project))


def restore(case: Case, expected: Baseline, folder: Path) -> EarlierCode | None:
    """Write the code of the project's packages as the baseline had it.

    Args:
        case: The case, whose project's code may have changed.
        expected: The baseline, which has the digest of each source file.
        folder: Where the copy goes.

    Returns:
        What came of it; None where no code of the project took part or none has changed.

    Raises:
        FileError: The folder cannot be written to.
    """
    project = case.scenario.project
    if project is None:
        return None
    before = [
        (f"{package}/{path}", _place(project.root, package, path), digest)
        for package, files in expected.environment.own_code.items()
        for path, digest in files.items()
    ]
    changed = tuple(name for name, path, digest in before if _digest_at(path) != digest)
    if not changed:
        return None
    contents = {
        path: _content(path, digest, project.root, expected.provenance.commit)
        for _, path, digest in before
    }
    missing = tuple(name for name, path, _ in before if contents[path] is None)
    if missing:
        return EarlierCode(None, changed, missing)
    for path, content in contents.items():
        copy = folder / path.relative_to(project.root)
        with writing(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_file(copy, content or b"")
    return EarlierCode(replace(project, root=folder.resolve()), changed)


def _place(root: Path, package: str, path: str) -> Path:
    """Return where a file of a package lies: in its folder, or as its only module."""
    home = root / package
    return home / path if home.is_dir() else root / path


def _content(path: Path, digest: str, root: Path, commit: str | None) -> bytes | None:
    """Return the content of a file that has a digest: the file's own, or that of a commit."""
    if _digest_at(path) == digest:
        return path.read_bytes()
    for each in _commits(path, root, commit):
        content = git.content_at(root, each, path.relative_to(root).as_posix())
        if content is not None and _digest(content) == digest:
            return content
    return None


def _commits(path: Path, root: Path, commit: str | None) -> Iterator[str]:
    """Yield the baseline's commit, then those that changed a file, the last one first."""
    if commit is not None:
        yield commit
    yield from git.commits_of(root, path.relative_to(root).as_posix(), MOST_COMMITS)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _digest_at(path: Path) -> str:
    """Return the digest of a file as recordings have it; empty where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return _digest(content)
