"""What git says of the working directory: the commit, and who runs the harness."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path


def author() -> str:
    """Return the name of the person who runs the harness: git's, or else the system's."""
    identity = git("var", "GIT_AUTHOR_IDENT")
    if identity is not None:
        return identity.split(" <")[0]
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user may have no entry in the system
        return "unknown"


def is_dirty() -> bool | None:
    """Return whether files under version control differ from the commit; None without git."""
    printed = _run("status", "--porcelain", "--untracked-files=no")
    return None if printed is None else bool(printed.strip())


def commits_of(root: Path, path: str, most: int) -> list[str]:
    """Return the last commits that changed a file, the newest first; none without git.

    Args:
        root: A folder under version control.
        path: The file, relative to `root`.
        most: How many at most.
    """
    printed = _run("-C", str(root), "log", "--format=%H", f"-{most}", "--", path)
    return [] if printed is None else printed.split()


def content_at(root: Path, commit: str, path: str) -> bytes | None:
    """Return what a file held at a commit; None where it was not there, or without git."""
    command = ["git", "-C", str(root), "show", "--end-of-options", f"{commit}:./{path}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def git(*arguments: str) -> str | None:
    """Return what a git command prints; None where git is absent, fails or prints nothing."""
    printed = _run(*arguments)
    return None if printed is None else printed.strip() or None


def _run(*arguments: str) -> str | None:
    """Return the output of a git command; None where git is absent or fails."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
