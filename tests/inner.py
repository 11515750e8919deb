"""For tests that run pytest inside pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]


@pytest.fixture(name="tmp_path")
def path_of_pytester(pytester: pytest.Pytester) -> Path:
    """The folder in which pytest runs is the shop's; a module that imports this fixture overrides pytest's own."""
    return pytester.path
