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


@pytest.fixture(name="run")
def run_in_project(shop, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in this process, in a project of the harness, without traces between runs."""
    monkeypatch.delenv("CI", raising=False)
    (shop.root / "pyproject.toml").write_text("[tool.harness]\n", encoding="utf-8")

    without = (
        "cacheprovider",
        "benchmark",
        "unraisableexception",
    )  # the last collects the garbage of all of torch, five times

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*(f"-pno:{plugin}" for plugin in without), *arguments)

    return run
