"""Ending a process with all that it started, where a system knows groups and where it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from marked import MARK, alive, until

from harness.launch import process_group

# A process with a child and a grandchild, which all sleep.
FAMILY = """
import subprocess, sys, time
depth = int(sys.argv[1])
if depth:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]])
time.sleep(600)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start three generations of processes; at the end none of them is alive."""
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY, "2", FAMILY],
        env={**os.environ, MARK: str(tmp_path)},
        text=True,
        start_new_session=True,
        creationflags=process_group.CREATION_FLAGS,
    )
    assert until(lambda: len(alive(str(tmp_path))) == 3, 20)
    yield process
    process_group.end(process)
    assert until(lambda: not alive(str(tmp_path)), 20), alive(str(tmp_path))


@pytest.mark.parametrize("has_groups", [True, False], ids=["groups", "as-on-Windows"])
def test_a_process_ends_with_its_descendants(
    has_groups: bool, family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without groups they are looked up by psutil, before the process itself is gone."""
    monkeypatch.setattr(process_group, "HAS_GROUPS", has_groups)
    process_group.end(family)
    assert until(lambda: not alive(str(tmp_path)), 5), alive(str(tmp_path))


def test_without_groups_a_process_that_ended_is_not_looked_up(monkeypatch: pytest.MonkeyPatch):
    """Its number may be another process's by then."""
    monkeypatch.setattr(process_group, "HAS_GROUPS", False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    process = subprocess.Popen([sys.executable, "-c", ""], text=True)
    assert process.wait() == 0
    process_group.end(process)  # psutil, which is missing here, would raise an ImportError
    assert process.returncode == 0


def test_without_groups_nobody_is_asked_to_end(family, tmp_path: Path, monkeypatch):
    """What Windows calls so kills a process at once, and leaves what it started."""
    monkeypatch.setattr(process_group, "HAS_GROUPS", False)
    process_group.ask_to_end(family)
    assert not until(lambda: len(alive(str(tmp_path))) < 3, 0.3)
