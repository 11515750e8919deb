"""The peak of a worker's memory: who tells it on which system, and that nobody may."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.worker.conditions import cost

MIB = 1 << 20


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Take the files of Linux away."""
    monkeypatch.setattr(cost, "PROCESS", tmp_path / "no-such-folder")
    return monkeypatch


def test_linux_tells_the_peak_since_the_mark_was_reset():
    """An array that was freed before counts no more."""
    held = bytearray(300 * MIB)
    before = cost._peak_memory()
    del held
    cost._reset_peak_memory()
    assert before - cost._peak_memory() > 200 * MIB


def test_another_unix_tells_it_of_the_whole_process(elsewhere):
    """It is what the system's own file said at the highest, give or take a page."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
    assert cost._peak_memory() >= resident - MIB


def test_macos_counts_in_bytes(elsewhere):
    """Where every other Unix counts in KiB."""
    kib = cost._peak_memory()
    elsewhere.setattr(sys, "platform", "darwin")
    assert cost._peak_memory() == pytest.approx(kib / 1024, rel=0.1)


def test_windows_tells_it_by_psutil(elsewhere):
    """`resource` is missing there, and psutil's record has a field for the peak."""
    elsewhere.setitem(sys.modules, "resource", None)
    record = SimpleNamespace(rss=5 * MIB, peak_wset=7 * MIB)
    fake = SimpleNamespace(Process=lambda: SimpleNamespace(memory_info=lambda: record))
    elsewhere.setitem(sys.modules, "psutil", fake)
    assert cost._peak_memory() == 7 * MIB


def test_without_psutil_it_is_not_known(elsewhere):
    """The environment under test need not have psutil; reports then say `unknown`."""
    elsewhere.setitem(sys.modules, "resource", None)
    elsewhere.setitem(sys.modules, "psutil", None)
    assert cost._peak_memory() == 0
