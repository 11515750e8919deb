"""What git says of the working directory: the commit, and who runs the harness."""

from __future__ import annotations

import getpass
import subprocess


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
