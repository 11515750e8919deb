"""The time that a study may take: nothing is begun that would probably end after it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """A span of time, which begins when it is made.

    Args:
        seconds: How long it is; infinite for no limit.
        longest: How many seconds a step is known to take.
    """

    def __init__(self, seconds: float = math.inf, longest: float = 0.0) -> None:
        self.seconds = seconds
        self._started = time.monotonic()
        self._longest = longest

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return math.isfinite(self.seconds)

    def affords(self) -> bool:
        """Return whether one more step fits that takes as long as the longest one so far."""
        return time.monotonic() - self._started + self._longest <= self.seconds

    @contextmanager
    def step(self) -> Iterator[None]:
        """Note how long a step takes that is done meanwhile."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._longest = max(self._longest, time.monotonic() - began)
