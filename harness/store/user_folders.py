"""Owns where a user's own files lie that belong to no project, by the rules of each system."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "HARNESS_CACHE"


def cache_root() -> Path:
    r"""Return the folder below which the harness keeps what it can make or fetch again.

    It is HARNESS_CACHE, or else the user's cache: `~/.cache/harness` on Linux, unless
    XDG_CACHE_HOME names another place, `~/Library/Caches/harness` on macOS, and
    `%LOCALAPPDATA%\harness\Cache` on Windows.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("harness", appauthor=False)
