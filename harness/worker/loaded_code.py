"""Whether the files of the code that this process has loaded are still those that it loaded.

A worker that lives longer than one run could otherwise go on with code that was edited since, or
with packages that were replaced.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Dict, List, Tuple

MOST_NAMED = 20  # changed files that an answer names


class LoadedCode:
    """The files of loaded modules, each with its size and time of change when it was first seen.

    A file that is younger than the process is taken for changed, because it may have been replaced
    between its import and the first look.
    """

    def __init__(self) -> None:
        self._since = time.time_ns()
        self._known: Dict[str, Tuple[int, int]] = {}

    def look(self) -> None:
        """Note the files of the modules that were loaded since the last look."""
        for path in _files():
            if path not in self._known:
                self._known[path] = _state(path)

    def changed(self) -> List[str]:
        """Return files that are others now, or gone; at most some of them."""
        self.look()
        found = [
            path
            for path, state in self._known.items()
            if state[1] > self._since or _state(path) != state
        ]
        return sorted(found)[:MOST_NAMED]


def _files() -> List[str]:
    found = []
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            found.append(path)
    return found


def _state(path: str) -> Tuple[int, int]:
    """Return the size of a file and the time of its change; of one that is gone, -1 and 0."""
    try:
        status = os.stat(path)  # noqa: PTH116 (of thousands of files: a Path for each costs more)
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns
