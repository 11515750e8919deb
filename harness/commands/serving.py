"""Owns the command `serve`, which keeps workers warm between runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.output import complain, say
from harness.commands.parser import Command, duration
from harness.errors import UsageError

IDLE = "15m"


def serve(arguments: argparse.Namespace) -> int:
    """Keep workers alive between runs, so that a small case takes less than a second.

    Leave it running in a terminal of its own. `harness run` of the same environment then takes its
    workers from here. A worker is used again only for the same variables, working directory,
    packages and code; it gives the bits that a new one would give. It ends after a time without a
    run, and by Ctrl-C. Only this user can reach it.
    """
    from harness.launch.serve_socket import socket_path

    path = socket_path()
    if arguments.status:
        return _status(path)
    if arguments.stop:
        return _stop(path)
    from harness.launch.server import Server

    server = Server(path, arguments.idle)
    complain(f"serving on {path}; it ends after {arguments.idle} s without a run, or by Ctrl-C")
    server.serve()
    complain("ended")
    return 0


def _status(path: Path) -> int:
    answer = _asked(path, "status")
    workers = answer.get("workers", [])
    if not isinstance(workers, list):
        workers = []
    say(f"serving: process {answer.get('pid')}, {len(workers)} worker(s)")
    for each in workers:
        state = "at work" if each.get("lent") else "waiting"
        say(f"  {state}, setting {each.get('setting')}: {each.get('requests')} requests answered")
    return 0


def _stop(path: Path) -> int:
    say(f"stopping: process {_asked(path, 'stop').get('stopping')}")
    return 0


def _asked(path: Path, what: str) -> dict[str, object]:
    """Return the server's answer to one word.

    Raises:
        UsageError: No server is there.
    """
    from harness.launch.serve_socket import Messages
    from harness.launch.served import NotServedError, connect

    try:
        with connect(path) as connection:
            messages = Messages(connection)
            messages.send({what: True})
            return messages.receive() or {}
    except (NotServedError, OSError):
        raise UsageError("harness serve does not run in this environment") from None


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--idle",
        type=duration,
        default=IDLE,
        metavar="DURATION",
        help="end after this time without a run, such as 90s, 15m or 2h (default: %(default)s)",
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--status", action="store_true", help="only say whether it runs, and for what")
    one.add_argument("--stop", action="store_true", help="only end the one that runs")


COMMANDS = (
    Command(
        "serve",
        "keep workers warm between runs",
        "--idle 1h",
        serve,
        _serve_options,
    ),
)
