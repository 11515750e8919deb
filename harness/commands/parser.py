"""Owns the options that several commands share, and what they mean: cases, store, folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from harness.errors import FileError
from harness.records import Device
from harness.scenario.fields import Profile
from harness.scenario.located_yaml import nearest
from harness.scenario.model import Case
from harness.scenario.project import RUNS, project_at, seen_from
from harness.scenario.reading import read_all
from harness.scenario.select import select
from harness.store.shared_folder import is_url

if TYPE_CHECKING:
    from harness.store.baselines import Store

PATHS = "scenario files or folders (default: those of the project)"
ANY_DEVICE = "any"  # the word by which a command line overrides the device of a project
STRICT = "exit 3 if anything asked for could not be verified"
# MiB of a baseline's tensors above which `record` and `accept` warn. GitHub warns of files above
# 50 MiB, and refuses those above 100 MiB.
WARN_ABOVE = 50
SHOWN_RUNS = 3  # of the project, where a run that was named is not there
UNTIL = ("identical", "within")  # the words of `study.moves.Until`, which loads numpy
UNITS = {"s": 1, "m": 60, "h": 3600}  # seconds, by the letter of a duration
DURATION = re.compile(r"(\d+)([smh])")
RECORDINGS = "where recordings go (default: runs/ of the project, and the time)"


# In the text of argparse: what was typed for a command, or an option that no command has.
UNKNOWN_WORD = re.compile(r"COMMAND: invalid choice: '([^']*)'|(?<=arguments: )(--?[\w-]+)")


class Parser(argparse.ArgumentParser):
    """A parser that offers the nearest command or option where one is not known."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, with the nearest word that is right, and exit with code 2."""
        super().error(message + self._hint(message))

    def _hint(self, message: str) -> str:
        """Return what may have been meant; argparse tells no more of a mistake than its text."""
        known = [*self._option_string_actions]
        for name, parser in commands_of(self).items():
            known += [name, *parser._option_string_actions]
        for command, option in UNKNOWN_WORD.findall(message):
            near = nearest(command or option, known)
            if near:
                return f"; {near}"
        return ""


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands by name; argparse has no public way to ask."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    `help` is its line in the list of commands; `example` what may follow its name; `run` does it
    and returns the exit code, and its docstring is the command's description.
    """

    name: str
    help: str
    example: str
    run: Callable[[argparse.Namespace], int]
    add_options: Callable[[argparse.ArgumentParser], None]


# Options.


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the scenarios to choose from, which may be left out."""
    parser.add_argument("paths", nargs="*", default=[], metavar="PATH", help=PATHS)


def add_scenarios(parser: argparse.ArgumentParser, words: str = PATHS) -> None:
    """Add the option that names the scenarios to choose from."""
    parser.add_argument("--scenarios", nargs="+", default=[], metavar="PATH", help=words)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add the option by which what could not be verified is too little."""
    parser.add_argument("--strict", action=argparse.BooleanOptionalAction, help=STRICT)


def add_choice(parser: argparse.ArgumentParser, device: Device | None = None) -> None:
    """Add the options that choose cases of the scenarios; `device` is the default device."""
    parser.add_argument(
        "-k",
        default="",
        metavar="EXPR",
        help="only cases whose id contains these words, or that have them as tags, such as "
        "'ddim and not slow'",
    )
    parser.add_argument(
        "--device",
        type=_device,
        metavar=f"{{{','.join((*Device, ANY_DEVICE))}}}",
        help="only cases on this device (default: that of the project, else "
        f"{device or ANY_DEVICE})",
    )
    parser.set_defaults(usual_device=device)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add the option that replaces the scenarios' CPU instructions."""
    parser.add_argument(
        "--profile",
        type=one_of(Profile),
        metavar=choices(Profile),
        help="which CPU instructions all cases may use, whatever their scenarios say",
    )


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the number of workers."""
    parser.add_argument(
        "-j",
        "--jobs",
        type=jobs,
        metavar="N",
        help="how many workers run at once, with one thread each; auto: one per GPU for cases on "
        "CUDA, one per processor for others, or as many as a cluster has room for (default: 1, or "
        "auto with --on)",
    )


def add_out(parser: argparse.ArgumentParser, words: str = RECORDINGS) -> None:
    """Add the run's folder."""
    parser.add_argument("--out", metavar="DIR", help=f"{words}; a folder, or an fsspec URL")


def add_until(parser: argparse.ArgumentParser) -> None:
    """Add what counts as moved between two releases."""
    parser.add_argument(
        "--until",
        choices=UNTIL,
        default=UNTIL[0],
        help="what counts as moved: different bits, or more than `tolerance.cross-class` "
        "(default: %(default)s)",
    )


def add_companions(parser: argparse.ArgumentParser) -> None:
    """Add other packages of the environment in which cases run."""
    parser.add_argument(
        "--with",
        dest="companions",
        action="append",
        default=[],
        metavar="NAME==VERSION",
        help="put this version of another package into the same environment, such as "
        "'transformers==4.44.2'; may be repeated",
    )


# Types of arguments.


def add_warn_above(parser: argparse.ArgumentParser) -> None:
    """Add the option that says above which size a baseline is warned of."""
    parser.add_argument(
        "--warn-above",
        type=at_least_one,
        default=WARN_ABOVE,
        metavar="MIB",
        help="warn of a baseline whose tensors take more than this many MiB (default: %(default)s)",
    )


def duration(text: str) -> int:
    """Return the seconds of a duration, such as 90s, 15m or 2h.

    Raises:
        ArgumentTypeError: It is none.
    """
    found = DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"expected a duration such as 15m, found {text!r}")
    return int(found[1]) * UNITS[found[2]]


def at_least_one(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        ArgumentTypeError: The text is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, found {text!r}")
    return number


def jobs(text: str) -> int:
    """Return a number of workers: at least 1, or `Jobs.AUTO`.

    Raises:
        ArgumentTypeError: The text is neither.
    """
    from harness.launch.launcher import Jobs

    return Jobs.AUTO if text == "auto" else at_least_one(text)


def one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    """Return a reader of the words of an enumeration."""

    def read(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            words = ", ".join(kind)
            problem = f"invalid choice: {text!r} (choose from {words})"
            raise argparse.ArgumentTypeError(problem) from None

    return read


def _device(text: str) -> str:
    """Return a device, or `any`.

    Raises:
        ArgumentTypeError: The text is neither.
    """
    return text if text == ANY_DEVICE else one_of(Device)(text)


def choices(kind: type[StrEnum]) -> str:
    """Return the words of an enumeration as help shows them."""
    return "{" + ",".join(kind) + "}"


# What the options mean.


def chosen_cases(arguments: argparse.Namespace, paths: Sequence[str]) -> list[Case]:
    """Return the cases of the scenarios in `paths` that the options choose.

    Raises:
        ScenarioError: A file has a mistake.
        UsageError: A path does not exist, or nothing is chosen.
    """
    profile = getattr(arguments, "profile", None)
    return select(read_all(map(Path, paths)), arguments.k, arguments.device, profile)


def store_of(arguments: argparse.Namespace) -> Store:
    """Return the store of baselines, which a path or a URL names.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: The URL is not reached, or access to it is refused.
    """
    from harness.store.shared_baselines import open_store

    return open_store(arguments.baselines)


def out_of(arguments: argparse.Namespace, name: str = "") -> Path:
    """Return the run's folder: the one that was named, or else a new one.

    For a URL it is a folder of this machine, which `send_out` sends when the command is over.

    Args:
        arguments: The command's.
        name: Of the run below the folder of runs, where it is to go on with what lies there.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: A new folder cannot be made, or the URL is not reached.
    """
    from harness.store.run_folder import named_run, new_run

    runs = arguments.runs_in
    if not arguments.out and not is_url(runs):
        return named_run(Path(runs), name) if name else new_run(Path(runs))
    if arguments.out and not is_url(arguments.out):
        return Path(arguments.out)
    from harness.store.shared_runs import begin_run, name_of_new_run

    arguments.on_its_way = begin_run(arguments.out or name_of_new_run(runs))
    return Path(arguments.on_its_way.folder)


def shown_out(arguments: argparse.Namespace, folder: Path) -> str:
    """Return how a run's folder is named to the user: by its URL, where it goes to one."""
    on_its_way = getattr(arguments, "on_its_way", None)
    return str(folder) if on_its_way is None else str(on_its_way.place)


def run_of(place: str, *, recordings: bool = False) -> Path:
    """Return the folder of a run that a path or a URL names.

    Args:
        place: The path or URL.
        recordings: Whether the recordings are needed too; of a URL, they are fetched only then.

    Raises:
        UsageError: It is a URL that cannot be used.
        FileError: The URL holds no run, or a damaged one; or there is no such path.
    """
    if not is_url(place):
        _check_run(Path(place))
        return Path(place)
    from harness.store.shared_runs import fetch_run

    return fetch_run(place, recordings=recordings)


def _check_run(path: Path) -> None:
    """Refuse a path at which there is nothing, and say where it was looked for.

    Raises:
        FileError: There is nothing; the error names the newest runs of the project.
    """
    if path.exists():
        return
    here = Path.cwd()
    project = project_at(here)
    problem = "does not exist" if path.is_absolute() else f"does not exist in {here}"
    runs = seen_from(here, project.root, project.places.runs or RUNS)
    if is_url(runs):
        raise FileError(path, problem, f"name a run below {runs}")
    from harness.store.run_folder import newest_runs

    found = newest_runs(Path(runs))[:SHOWN_RUNS]
    known = f", such as {', '.join(map(str, found))}" if found else ", which holds none yet"
    raise FileError(path, problem, f"name a run of the project; they are in {runs}{known}")
