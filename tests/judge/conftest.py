"""What the tests of the judge share: recordings made by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import builders
import pytest

from harness.store.recording import Recording


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Recording]:
    """Return a function that makes a recording from the builder's arguments."""
    numbers = count()

    def make(*arguments: Any, **changes: Any) -> Recording:
        return builders.recording(tmp_path / str(next(numbers)), *arguments, **changes)

    return make
