"""Whether the files of loaded code are still those that were loaded."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.worker.loaded_code import LoadedCode


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Import a module of a file that is an hour old."""
    path = tmp_path / "loaded_for_a_test.py"
    path.write_text("VALUE = 1\n", encoding="utf-8")
    past = time.time() - 3600
    os.utime(path, (past, past))
    monkeypatch.syspath_prepend(tmp_path)
    import loaded_for_a_test  # noqa: F401 (importing it is the point)

    yield path
    del sys.modules["loaded_for_a_test"]


def test_code_that_nobody_touched_is_unchanged(module: Path):
    """The whole interpreter's, with this file."""
    code = LoadedCode()
    code.look()
    assert str(module) not in code.changed()


@pytest.mark.parametrize("change", ["edit", "replace-by-older", "remove"])
def test_a_file_that_was_changed_is_named(module: Path, change: str):
    """By its content, by one with an older date, as some installers leave it, or by its end."""
    code = LoadedCode()
    code.look()
    if change == "edit":
        module.write_text("VALUE = 2\n", encoding="utf-8")
    elif change == "replace-by-older":
        os.utime(module, (1, 1))
    else:
        module.unlink()
    assert str(module) in code.changed()


def test_a_file_that_is_younger_than_the_process_is_taken_for_changed(module: Path):
    """It may have been replaced between its import and the first look."""
    code = LoadedCode()
    module.write_text("VALUE = 2\n", encoding="utf-8")
    code.look()
    assert str(module) in code.changed()
