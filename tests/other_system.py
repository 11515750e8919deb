"""A Python in which the harness sees another system: the preamble of a process that a test starts.

The harness alone sees it. Whatever it imports of `os`, `sys`, `signal` or `select` lacks what the
other system lacks, and the modules of Unix do not load; libraries, which are those of Linux, see
Linux. Its files are there, and its pipes and processes behave as on Linux: what only the other
system itself can show, only its job of `.github/workflows/test.yml` can find.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SEE = '''\
import builtins, types

MODULES = {"win32": ("fcntl", "resource", "pwd", "grp", "termios"), "darwin": ()}
LACKS = {
    "os": {
        "win32": (
            "fork", "killpg", "setsid", "getpgid", "waitid", "set_blocking", "sched_getaffinity",
            "getuid", "geteuid", "getloadavg", "uname", "mkfifo", "pidfd_open", "chown",
            "O_NOFOLLOW", "O_DIRECTORY", "WIFSIGNALED", "WTERMSIG", "WEXITSTATUS", "P_ALL",
        ),
        "darwin": ("waitid", "sched_getaffinity", "pidfd_open", "P_ALL", "P_PID"),
    },
    "signal": {
        "win32": (
            "SIGKILL", "SIGHUP", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGSTOP", "SIGPIPE", "pause",
        ),
        "darwin": (),
    },
    "select": {"win32": ("poll", "epoll"), "darwin": ("epoll",)},
    "sys": {"win32": (), "darwin": ()},
}
SAYS = {
    "win32": {"sys": {"platform": "win32"}, "os": {"name": "nt"}},
    "darwin": {"sys": {"platform": "darwin"}},
}


class Seen(types.ModuleType):
    """A module as it is on another system."""

    def __init__(self, module, lacks, says):
        super().__init__(module.__name__)
        vars(self).update(module=module, lacks=lacks, **says)

    def __getattr__(self, name):
        if name in self.lacks:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)
        return getattr(self.module, name)


def see(system):
    """Let the harness see another system from now on."""
    load = builtins.__import__
    seen = {
        name: Seen(load(name), lacks[system], SAYS[system].get(name, {}))
        for name, lacks in LACKS.items()
    }

    def load_for(name, globals=None, locals=None, fromlist=(), level=0):
        if (globals or {}).get("__name__", "").partition(".")[0] == "harness" and not level:
            if name in MODULES[system]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in seen:
                return seen[name]
        return load(name, globals, locals, fromlist, level)

    builtins.__import__ = load_for
'''


def preamble(system: str) -> str:
    """Return the source that shows the harness another system, such as `win32`."""
    return f"{SEE}\nsee({system!r})\n"


def write_worker(path: Path, system: str) -> Path:
    """Write the interpreter of a worker on another system, which starts `harness.worker` alone.

    The files in which Linux tells the peak of its memory are out of its reach.
    """
    path.write_text(
        f"#!{sys.executable}\n{preamble(system)}\n"
        "from pathlib import Path\n"
        "from harness.worker import __main__, guardian\n"
        "def serve():\n"
        "    private_output = __main__._private_output\n"
        "    def without_linux():\n"
        "        events = private_output()\n"
        "        from harness.worker.conditions import cost\n"
        "        cost.PROCESS = Path('/no/such/folder')\n"
        "        return events\n"
        "    __main__._private_output = without_linux\n"
        "    __main__.main()\n"
        "guardian.guarded(serve)\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path
