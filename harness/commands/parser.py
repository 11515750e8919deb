"""The command line's words: options, help and examples. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from harness.scenario.fields import DEVICES, DTYPES, FRAMEWORKS, PROFILES
from harness.study.platforms import CUDA, MINDSPORE, PLATFORMS

Command = Callable[[argparse.Namespace], int]

CODES = """exit codes:
  0  all that was asked for was verified and passes
  1  something fails
  2  usage, or a mistake in a YAML file
  3  nothing fails, but nothing was verified, or (--strict, gate) something asked for was not
  4  a defect of the harness itself, or a store that cannot be read"""

PATHS = "scenario files or folders (default: scenarios)"


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser; every command's help is its function's docstring, an example and the exit codes."""
    parser = argparse.ArgumentParser(
        prog="harness",
        description="Run diffusion scenarios, hold their outputs against baselines, and say what moved, how far and where first.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, short: str, example: str) -> argparse.ArgumentParser:
        made = subparsers.add_parser(
            name, help=short, description=commands[name].__doc__, epilog=f"example:\n  harness {name} {example}\n\n{CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(command=commands[name])
        made.add_argument(
            "--baselines",
            default="baselines",
            metavar="DIR",
            help="the store (default: %(default)s)",
        )
        return made

    _add_cases(add)
    _add_runs(add)
    _add_studies(add)
    _add_bisect(add)
    return parser


def _add_cases(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """The commands that choose cases and run them."""
    made = add(
        "list", "scenarios, cases, which can run here, which have baselines", "-k 'not slow'"
    )
    made.add_argument("paths", nargs="*", metavar="PATH", help=PATHS)
    _choosing(made)
    made = add(
        "run",
        "run cases and judge them against baselines",
        "scenarios -k 'digits and not slow' --device cpu",
    )
    _running(made)
    made.add_argument(
        "--strict", action="store_true", help="exit 3 if anything asked for could not be verified"
    )
    made.add_argument(
        "--env",
        metavar="NAME==VERSION",
        help="in an environment with this release, such as 'diffusers==0.30.3'",
    )
    _with(made)
    git = "exit codes for `git bisect run`: 0 good, 1 drifted, 125 cannot tell, 128 a mistake in the command"
    made.add_argument("--git-bisect", action="store_true", help=git)
    made = add("record", "write the baselines that are missing", "scenarios/ddim-digits.yaml")
    _running(made)
    first = "first recording on this class"
    made.add_argument(
        "--reason",
        default=first,
        metavar="TEXT",
        help="kept in the baseline (default: %(default)s)",
    )
    made = add(
        "env", "environment, effective switches, numerics class", "--device cpu --dtype float16"
    )
    made.add_argument("--framework", default="torch", choices=tuple(FRAMEWORKS))
    made.add_argument("--device", default="cpu", choices=DEVICES)
    made.add_argument("--dtype", default="float32", choices=DTYPES)
    made.add_argument("--determinism", default="full", choices=("full", "default"))
    made.add_argument(
        "--make",
        choices=[name for name in FRAMEWORKS if name != "torch"],
        help="make a framework's environment; no more",
    )
    made.add_argument(
        "--clear",
        action="store_true",
        help="remove the environments made for --env and bisect; no more",
    )


def _add_runs(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """The commands that read what runs left."""
    made = add(
        "accept",
        "replace baselines by what a run recorded",
        "runs/nightly -k ddim --reason 'diffusers 0.43 fixes #123'",
    )
    made.add_argument("run", metavar="RUN", help="the run's folder")
    made.add_argument(
        "--reason",
        required=True,
        metavar="TEXT",
        help="why the new output is right; kept in the baseline",
    )
    made.add_argument("--scenarios", nargs="+", default=["scenarios"], metavar="PATH", help=PATHS)
    _choosing(made)
    made = add(
        "report",
        "print the report of runs again",
        "runs/nightly --markdown >> $GITHUB_STEP_SUMMARY",
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    made.add_argument("--markdown", action="store_true", help="as Markdown")
    made = add(
        "gate",
        "one verdict for a release, from many machines' runs",
        "runs/* --policy .ci/release.yaml",
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    policy = "YAML: which scenarios a release requires, on which device kinds"
    made.add_argument("--policy", required=True, metavar="FILE", help=policy)


def _add_studies(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """The commands that vary one case to learn about its tolerances."""
    made = add("calibrate", "tolerances from measured noise", "scenarios/ddim-digits.yaml --write")
    _studying(made)
    made.add_argument(
        "--write",
        action="store_true",
        help="put bounds and evidence into the scenario and its baselines",
    )
    made.add_argument(
        "--seeds",
        type=_positive,
        default=3,
        metavar="N",
        help="seeds to replicate over (default: %(default)s)",
    )
    made.add_argument(
        "--perturbations",
        type=_positive,
        default=8,
        metavar="N",
        help="nudges to make (default: %(default)s)",
    )
    made = add(
        "explain",
        "where did it first differ, and which setting explains it?",
        "runs/nightly 'sd-digits[cpu-float32]'",
    )
    made.add_argument("run", metavar="RUN", help="a run's folder")
    made.add_argument(
        "case",
        nargs="?",
        metavar="CASE",
        help="the id of the case to run again; default: read the recordings only",
    )
    made.add_argument(
        "--packages",
        action="store_true",
        help="put versions of diffusers and transformers back too (installs them)",
    )
    made.add_argument(
        "--roots",
        type=_positive,
        default=3,
        metavar="N",
        help="look for at most N causes (default: %(default)s)",
    )
    made = add(
        "challenge",
        "inject known faults; which do the tolerances catch?",
        "scenarios/sd-digits.yaml --write",
    )
    _studying(made)
    made.add_argument(
        "--write", action="store_true", help="keep the certificate in the scenario's baselines"
    )
    names = ", ".join([*PLATFORMS, "cpu", *CUDA, *MINDSPORE])
    made.add_argument(
        "--platform",
        metavar="NAME",
        help=f"the other class, one of {names} (default: portable, or the case's first)",
    )

    made = add(
        "cost",
        "what determinism costs, as a ratio with its spread",
        "scenarios -k 'digits and not slow'",
    )
    made.add_argument("paths", nargs="+", metavar="PATH", help="scenario files or folders")
    made.add_argument(
        "-k",
        default="",
        metavar="EXPR",
        help="only cases whose id holds a word or whose tags are it",
    )
    made.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="only cases on this device (default: %(default)s)",
    )
    made.add_argument(
        "--pair",
        action="append",
        metavar="NAME",
        help="settings to compare, as the table names them (default: all)",
    )
    made.add_argument(
        "--turns",
        type=_positive,
        default=5,
        metavar="N",
        help="ratios to take (default: %(default)s)",
    )
    made.add_argument(
        "--rounds",
        type=_positive,
        default=2,
        metavar="N",
        help="steady runs per turn (default: %(default)s)",
    )
    made.add_argument(
        "--out", metavar="DIR", help="where recordings go (default: runs/ and the time)"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, found {text}")
    return number


def _add_bisect(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """The command that varies the environment."""
    made = add(
        "bisect",
        "which release moved the output?",
        "scenarios/ddim-digits.yaml --package diffusers --good 0.25.1 --bad 0.42.1",
    )
    made.add_argument("paths", nargs="+", metavar="SCENARIO", help="scenario files or folders")
    _choosing(made, device="cpu")
    made.add_argument(
        "--package",
        default="diffusers",
        metavar="NAME",
        help="whose releases (default: %(default)s)",
    )
    made.add_argument(
        "--good", required=True, metavar="VERSION", help="the release that others are held against"
    )
    made.add_argument("--bad", required=True, metavar="VERSION", help="a later release")
    moved = "what counts as moved: other bits, or more than `tolerance.cross-class` (default: %(default)s)"
    made.add_argument("--until", choices=("identical", "within"), default="identical", help=moved)
    made.add_argument(
        "--all", action="store_true", help="run every release and list each that changed the output"
    )
    made.add_argument("--pre", action="store_true", help="yanked and pre-releases too")
    _with(made)
    made.add_argument(
        "--out",
        metavar="DIR",
        help="where recordings go; the next call goes on there (default: runs/ and the time)",
    )


def _with(made: argparse.ArgumentParser) -> None:
    words = "another package's version in the same environment, such as 'transformers==4.44.2'; may be repeated"
    made.add_argument(
        "--with",
        dest="companions",
        action="append",
        default=[],
        metavar="NAME==VERSION",
        help=words,
    )


def _choosing(made: argparse.ArgumentParser, device: str | None = None) -> None:
    words = "only cases whose id holds a word or whose tags are it: 'ddim and not slow'"
    made.add_argument("-k", default="", metavar="EXPR", help=words)
    made.add_argument("--device", choices=DEVICES, default=device, help="only cases on this device")
    made.add_argument(
        "--profile",
        choices=PROFILES,
        help="CPU instructions for all cases, whatever their scenarios say",
    )


def _running(made: argparse.ArgumentParser) -> None:
    made.add_argument("paths", nargs="*", metavar="PATH", help=PATHS)
    _choosing(made)
    made.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/ and the time)")
    jobs = "workers at once, one thread each (default: %(default)s)"
    made.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help=jobs)


def _studying(made: argparse.ArgumentParser) -> None:
    made.add_argument("scenario", metavar="SCENARIO", help="a scenario file")
    _choosing(made, device="cpu")
    made.add_argument(
        "--out", metavar="DIR", help="where recordings go (default: runs/ and the time)"
    )
