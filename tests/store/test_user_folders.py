"""Where a user's own files lie: a variable first, else the rule of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.store.user_folders import cache_root


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Such as for a disk with more room."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path


def test_the_folder_is_the_harness_s_own_below_the_cache_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
):
    """By the rules of each system, which platformdirs knows: its last folders name the harness."""
    monkeypatch.delenv("HARNESS_CACHE", raising=False)
    assert "harness" in cache_root().parts[-2:]
    assert cache_root().is_absolute()
