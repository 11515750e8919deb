"""Owns the entry point `harness`: runs the command, and turns every ending into an exit code."""

# PYTHON_ARGCOMPLETE_OK: by this word, a shell that completes all such commands knows this one.

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import cleandoc
from types import FrameType

from harness import __version__
from harness.commands.output import complain, say, unbreakable
from harness.commands.parser import Command, Parser
from harness.commands.places import fill_in_project, send_out
from harness.errors import HarnessError, UsageError

# The commands of each module, in the order of the help. Loading a module takes some 10 ms, so that
# only the one of the command that was asked for is loaded.
HOMES: Mapping[str, tuple[str, ...]] = {
    "starting": ("init", "new"),
    "serving": ("serve",),
    "cases": ("list", "run", "record", "env"),
    "accept": ("accept",),
    "runs": ("report", "diff"),
    "gate": ("gate",),
    "history": ("history",),
    "copies": ("copy",),
    "studies": ("calibrate", "challenge", "explain", "cost", "bisect"),
    "forecast": ("forecast",),
    "upgrade": ("upgrade",),
    "housekeeping": ("prune", "clean"),
}

COMPLETING = "_ARGCOMPLETE"  # the variable by which a shell asks for what a line may go on with
DEFECT = 4
INTERRUPTED = 128 + signal.SIGINT
# `git bisect run` takes every code below 128 for a verdict on the commit; this one ends it.
GIT_ABORT = 128
# Of the signals that ask a command to end, those that this system has: Windows has no SIGHUP, and
# sends SIGBREAK when the window of a terminal is closed.
ENDING_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)

DESCRIPTION = (
    "Run diffusion scenarios, compare their outputs with baselines, and say what moved, how far "
    "and where first."
)
CODES = """exit codes:
  0  all that was asked for was verified and passes
  1  something fails
  2  usage, a mistake in a YAML file, or a file that cannot be read, written or trusted
  3  nothing fails, but nothing was verified, or (--strict, gate) something asked for was not
  4  a defect of the harness itself"""


class EndedBySignal(KeyboardInterrupt):
    """The process was asked to end; handled as Ctrl-C is, so that workers end and results stay."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: What follows the name `harness`; None takes the arguments of this process.

    Returns:
        The exit code. It does not depend on whether anybody reads what is printed.

    Raises:
        SystemExit: The arguments cannot be read, or help was asked for.
    """
    with unbreakable():
        parser = build_parser(sys.argv[1:] if argv is None else argv)
        if argv is None and COMPLETING in os.environ:
            from harness.commands.completion import complete

            complete(parser)  # which ends the process
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            say(parser.format_help().rstrip())
            return UsageError.exit_code
        return _run(arguments, ends_process=argv is None)


def commands_for(argv: Sequence[str] = ()) -> tuple[Command, ...]:
    """Return all commands; only those of one module where the first word is one of them."""
    word = argv[0] if argv else ""
    named = [home for home, names in HOMES.items() if word in names]
    modules = [import_module(f"harness.commands.{home}") for home in named or HOMES]
    return tuple(command for module in modules for command in module.COMMANDS)


def __getattr__(name: str) -> object:
    """Return `COMMANDS`, all of them, which are loaded when that is asked for."""
    if name == "COMMANDS":
        return commands_for()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of what `commands_for` says of some arguments."""
    parser = Parser(
        prog="harness",
        description=DESCRIPTION,
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"harness {__version__}")
    parser.set_defaults(command=None)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for command in commands_for(argv):
        made = subparsers.add_parser(
            command.name,
            help=command.help,
            description=cleandoc(command.run.__doc__ or ""),
            epilog=f"example:\n  harness {command.name} {command.example}\n\n{CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(command=command.run)
        made.add_argument(
            "--baselines",
            metavar="DIR",
            help="the store: a folder, or an fsspec URL (default: `baselines` of [tool.harness] in "
            "pyproject.toml, else the folder baselines)",
        )
        command.add_options(made)
    return parser


def _run(arguments: argparse.Namespace, *, ends_process: bool) -> int:
    """Run the command that was asked for, and return its exit code, or that of its error.

    Args:
        arguments: What was typed.
        ends_process: Whether the process ends with the command.
    """
    for_git = getattr(arguments, "git_bisect", False)
    try:
        with _signals_end_the_command(ends_process=ends_process):
            fill_in_project(arguments)
            code = int(arguments.command(arguments))
            send_out(arguments)
            return code
    except HarnessError as error:
        complain(f"harness: {error}")
        return GIT_ABORT if for_git else error.exit_code
    except EndedBySignal as ending:
        complain(f"harness: ended by {ending.signal.name}; {_what_is_kept(arguments)}")
        return 128 + ending.signal
    except KeyboardInterrupt:
        complain(f"harness: interrupted; {_what_is_kept(arguments)}")
        return INTERRUPTED
    except Exception:  # a defect of the harness may raise anything
        complain(traceback.format_exc().rstrip())
        complain("harness: this is a defect of the harness; please report it with the lines above")
        return GIT_ABORT if for_git else DEFECT


def _what_is_kept(arguments: argparse.Namespace) -> str:
    """Return what is left of a command that was ended."""
    on_its_way = getattr(arguments, "on_its_way", None)
    return "what had finished is kept" if on_its_way is None else str(on_its_way.how)


@contextmanager
def _signals_end_the_command(*, ends_process: bool) -> Iterator[None]:
    """Let ENDING_SIGNALS raise EndedBySignal; a signal that the caller ignores stays ignored.

    Python handles signals in the main thread alone; in another one nothing changes. The caller's
    handlers come back, unless a signal ends the process: another one must not change its exit code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        yield
    except EndedBySignal:
        if ends_process:
            handlers = {}
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    """End the command; a second signal must not cut short how it ends."""
    for other in ENDING_SIGNALS:
        signal.signal(other, _go_on)
    raise EndedBySignal(number)


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. The system's own way of ignoring would also hold for processes started later."""
