"""The command line's words: options, help and examples. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

Command = Callable[[argparse.Namespace], int]

CODES = """exit codes:
  0  all that was asked for was verified and passes
  1  something fails
  2  usage, or a mistake in a YAML file
  3  nothing fails, but nothing was verified, or (--strict, gate) something asked for was not
  4  a defect of the harness itself, or a store that cannot be read"""


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
            name, help=short, description=commands[name].__doc__, epilog=f"example:\n  {example}\n\n{CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(command=commands[name])
        made.add_argument("--baselines", default="baselines", metavar="DIR", help="the store (default: %(default)s)")
        return made

    def choosing(made: argparse.ArgumentParser, paths: str) -> None:
        if paths == "paths":
            made.add_argument("paths", nargs="*", metavar="PATH", help="scenario files or folders (default: scenarios)")
        made.add_argument(
            "-k", default="", metavar="EXPR", help="only cases whose id holds a word or whose tags are it: 'ddim and not slow'"
        )
        made.add_argument("--device", choices=("cpu", "cuda"), help="only cases on this device")

    def running(made: argparse.ArgumentParser) -> None:
        choosing(made, "paths")
        made.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/ and the time)")
        made.add_argument(
            "-j", "--jobs", type=int, default=1, metavar="N", help="workers at once, one thread each (default: %(default)s)"
        )

    choosing(add("list", "scenarios, cases, which can run here, which have baselines", "harness list -k 'not slow'"), "paths")
    made = add("run", "run cases and judge them against baselines", "harness run scenarios -k 'digits and not slow' --device cpu")
    running(made)
    made.add_argument("--strict", action="store_true", help="exit 3 if anything asked for could not be verified")
    made = add("record", "write the baselines that are missing", "harness record scenarios/ddim-digits.yaml")
    running(made)
    made.add_argument(
        "--reason", default="first recording on this class", metavar="TEXT", help="kept in the baseline (default: %(default)s)"
    )
    made = add(
        "accept",
        "replace baselines by what a run recorded",
        "harness accept runs/nightly -k ddim --reason 'diffusers 0.43 fixes #123'",
    )
    made.add_argument("run", metavar="RUN", help="the run's folder")
    made.add_argument("--reason", required=True, metavar="TEXT", help="why the new output is right; kept in the baseline")
    made.add_argument(
        "--scenarios", nargs="+", default=["scenarios"], metavar="PATH", help="scenario files or folders (default: scenarios)"
    )
    choosing(made, "")
    made = add("env", "environment, effective switches, numerics class", "harness env --device cpu --dtype float16")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16", "float64"))
    made.add_argument("--determinism", default="full", choices=("full", "default"))
    made = add("report", "print the report of runs again", "harness report runs/nightly --markdown >> $GITHUB_STEP_SUMMARY")
    made.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    made.add_argument("--markdown", action="store_true", help="as Markdown")
    made = add("gate", "one verdict for a release, from many machines' runs", "harness gate runs/* --policy .ci/release.yaml")
    made.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    made.add_argument(
        "--policy", required=True, metavar="FILE", help="YAML: which scenarios a release requires, on which device kinds"
    )
    made = add("calibrate", "tolerances from measured noise", "harness calibrate scenarios/ddim-digits.yaml --write")
    made.add_argument("scenario", metavar="SCENARIO", help="a scenario file")
    made.add_argument("--write", action="store_true", help="put the bounds and their evidence into the scenario and its baselines")
    made.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds to replicate over (default: %(default)s)")
    made.add_argument("--perturbations", type=int, default=8, metavar="N", help="nudges to make (default: %(default)s)")
    made.add_argument("--out", metavar="DIR", help="where recordings go (default: runs/ and the time)")
    choosing(made, "")
    made.set_defaults(device="cpu")
    return parser
