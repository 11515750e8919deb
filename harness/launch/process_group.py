"""Owns how a worker's process is kept apart from the launcher's, and ended with what it started.

On Unix a worker leads a session of its own, whose processes end together. Windows has no such
groups: there a worker's descendants are looked up before it is ended, by psutil.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

HAS_GROUPS = hasattr(os, "killpg")
# What Windows needs, where `start_new_session` means nothing, so that Ctrl-C, which goes to every
# process of a terminal, does not reach a worker: its launcher ends it.
CREATION_FLAGS: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


def ask_to_end(process: subprocess.Popen[str]) -> None:
    """Let a worker's guardian end all that it guards; elsewhere than on Unix do nothing.

    The only request that Windows knows ends a process at once, and would leave what it started.
    """
    if HAS_GROUPS:
        with contextlib.suppress(OSError):
            process.terminate()


def end(process: subprocess.Popen[str]) -> None:
    """Kill the leader of a session, and what it started; no harm is done a second time."""
    if HAS_GROUPS:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        _end_tree(process)
    process.wait()


def _end_tree(process: subprocess.Popen[str]) -> None:
    """Kill the descendants of a process, then the process itself.

    Where it has ended already, its number may be another process's, and nobody is killed.
    """
    if process.poll() is not None:
        return
    import psutil  # it is installed on Windows

    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
