"""The lock of an environment: who holds it, who inherits it, and a file that was removed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from harness.launch import environment_lock
from harness.launch.environment_lock import locked


def is_held(path: Path) -> bool:
    """Whether somebody holds a lock."""
    try:
        with locked(path, wait=False):
            return False
    except BlockingIOError:
        return True


def test_a_lock_is_held_until_it_is_given_back(tmp_path):
    """Whoever does not wait is told so; its folder is made where it is not there."""
    path = tmp_path / "new" / "0123.lock"
    with locked(path):
        assert is_held(path)
    assert not is_held(path)


def test_a_child_that_inherits_the_lock_holds_it_after_its_parent_gave_it_back(tmp_path):
    """As an installer does whose parent was killed."""
    path = tmp_path / "0123.lock"
    command = [sys.executable, "-c", "input()"]
    with locked(path) as descriptors:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors)
    assert is_held(path)
    child.communicate(b"\n")
    assert not is_held(path)


def test_whoever_waited_for_a_file_that_was_removed_locks_the_one_that_is_there(tmp_path):
    """Else two could hold a lock at once: one of a file without a name, one of a new file."""
    path = tmp_path / "0123.lock"
    is_mine, leave = threading.Event(), threading.Event()

    def wait_and_hold() -> None:
        with locked(path):
            is_mine.set()
            leave.wait(30)

    with locked(path):
        waiting = threading.Thread(target=wait_and_hold)
        waiting.start()
        path.unlink()
    assert is_mine.wait(30)
    assert path.exists()
    assert is_held(path)
    leave.set()
    waiting.join()


def test_without_fcntl_a_lock_is_held_all_the_same(tmp_path, monkeypatch):
    """As on Windows: by filelock, whose lock no other process inherits."""
    monkeypatch.setattr(environment_lock, "fcntl", None)
    path = tmp_path / "new" / "0123.lock"
    with locked(path) as descriptors:
        assert descriptors == ()
        assert is_held(path)
    assert not is_held(path)
