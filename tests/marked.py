"""Finding processes by a mark in their environment, which whatever they start inherits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

MARK = "HARNESS_TEST_MARK"  # the variable


def alive(mark: str) -> list[str]:
    """Return the command lines of the processes that inherited `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if f"{MARK}={mark}".encode() in variables:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


def until(true: Callable[[], object], seconds: float) -> bool:
    """Wait until `true` holds, at most so many seconds, and return whether it does."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
