"""For tests that run pytest inside pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]


@pytest.fixture(name="tmp_path")
def path_of_pytester(pytester: pytest.Pytester) -> Path:
    """Let the folder in which pytest runs be the shop's.

    A module that imports this fixture overrides pytest's own.
    """
    return pytester.path
