"""Owns the command `forecast`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.json_output import Forecasts, add_json, print_json
from harness.commands.output import say, write_text
from harness.commands.parser import (
    Command,
    add_choice,
    add_out,
    add_paths,
    add_profile,
    at_least_one,
    chosen_cases,
    duration,
    out_of,
    store_of,
)
from harness.errors import NotRecordedError, UsageError
from harness.records import Device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.scenario.model import Case
    from harness.session import Session
    from harness.study.forecast import Forecast, Plan

FOLDER = "forecast"  # the run in which forecasts keep what they measure


def forecast(arguments: argparse.Namespace) -> int:
    """Forecast how far a GPU moves each stage, from emulations on the CPU.

    An emulation does one thing that GPUs do: it adds in another order, rounds operands, or moves
    functions by some units in the last place. None of them is a GPU, and docs/forecast.md says
    what each one does and what none does. Each runs teacher-forced against this machine, for some
    steps of each scheduler. Nothing is written into scenarios or baselines. What was measured is
    kept in the run's folder, so that a call after Ctrl-C goes on. Exit code 1: a bound of a
    scenario would be exceeded; 3: there is no forecast.
    """
    from harness.report.forecast_report import STATED, page, print_forecast
    from harness.report.terminal import console
    from harness.session import Session
    from harness.study.budget import Budget
    from harness.study.forecast import Plan

    cases = chosen_cases(arguments, arguments.paths)
    plan = Plan(
        _checked(arguments.emulation),
        arguments.steps,
        arguments.perturbations,
        Budget(arguments.budget),
        [Path(each) for each in arguments.measured],
    )
    with Session(store_of(arguments), out_of(arguments, FOLDER)) as session:
        found, missed = _forecast_all(session, cases, plan)
        if arguments.markdown:
            text = page(found, missed, _typed(arguments), _machine(session))
            write_text(Path(arguments.markdown), text)
    if arguments.json:
        print_json(Forecasts(STATED, tuple(found), missed))
    else:
        say(STATED)
        for each in found:
            print_forecast(console(), each)
        for case, reason in missed.items():
            say(f"no forecast: {case}: {reason}")
    if not found:
        return 3
    return 0 if all(each.is_within for each in found) else 1


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of emulations that were asked for.

    Raises:
        UsageError: There is no such emulation.
    """
    from harness.scenario.located_yaml import nearest
    from harness.study.emulations import EMULATIONS

    for name in names:
        if name not in EMULATIONS:
            known = ", ".join(EMULATIONS)
            hint = nearest(name, list(EMULATIONS))
            raise UsageError(
                f"--emulation is one of {known}; found {name}" + (f"; {hint}" if hint else "")
            )
    return tuple(names)


def _forecast_all(
    session: Session, cases: Sequence[Case], plan: Plan
) -> tuple[list[Forecast], dict[str, str]]:
    """Return the forecast of each case, and why others have none, by their ids."""
    from harness.report.terminal import progress
    from harness.study.calibrate import NOT_AFFORDED
    from harness.study.forecast import forecast as predict
    from harness.study.forecast import why_not

    missed = {case.id: reason for case in cases if (reason := why_not(case))}
    chosen = [case for case in cases if case.id not in missed]
    found: list[Forecast] = []
    with progress(sum(plan.count(case) for case in chosen)) as steps:
        for case in chosen:
            if not plan.budget.affords():
                missed[case.id] = NOT_AFFORDED
                continue

            def step(name: str, case: Case = case) -> None:
                steps.doing(case.id, name)
                steps.done()

            try:
                found.append(predict(session, case, plan, step))
            except (NotRecordedError, UsageError) as error:
                missed[case.id] = str(error)
    return found, missed


def _typed(arguments: argparse.Namespace) -> str:
    """Return the command as it can be typed again."""
    words = ["harness forecast", *arguments.paths]
    if arguments.k:
        words.append(f"-k '{arguments.k}'")
    words += [f"--emulation {each}" for each in arguments.emulation]
    words.append(f"--steps {arguments.steps} --perturbations {arguments.perturbations}")
    if arguments.markdown:
        words.append(f"--markdown {arguments.markdown}")
    return " ".join(words)


def _machine(session: Session) -> str:
    """Return the processor and the releases of the frameworks."""
    from harness.records import Dtype
    from harness.scenario.fields import Determinism, Framework

    here = session.describe(Framework.TORCH, Device.CPU, Dtype.FLOAT32, Determinism.FULL)
    releases = [f"{name} {here.versions[name]}" for name in ("torch", "diffusers")]
    return f"{here.hardware.get('cpu', 'an unknown CPU')}, {', '.join(releases)}"


def _options(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    add_choice(parser, device=Device.CPU)
    add_profile(parser)
    parser.add_argument(
        "--emulation",
        action="append",
        default=[],
        metavar="NAME",
        help="only this emulation; may be repeated (default: all that there are for the type of "
        "the case): fma, split-k, tile-order, tree-sums, ulp, together, tf32, online-softmax, "
        "tensor-core, half-reduction, float16-accumulate",
    )
    parser.add_argument(
        "--steps",
        type=at_least_one,
        default=2,
        metavar="N",
        help="how many steps of each scheduler are emulated, the first and the last among them "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--perturbations",
        type=at_least_one,
        default=4,
        metavar="N",
        help="perturbations by one unit in the last place, for the bounds that follow (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--budget",
        type=duration,
        default=math.inf,
        metavar="DURATION",
        help="begin nothing that would probably end after this time, such as 30m",
    )
    parser.add_argument(
        "--measured",
        action="append",
        default=[],
        metavar="RUN",
        help="a run's folder with recordings on a GPU, to hold the forecast against; baselines of "
        "GPUs in the store are held against it anyway",
    )
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables as a page")
    add_out(
        parser,
        "where measurements are kept; the next call uses them where nothing has changed (default: "
        "the folder forecast below runs/)",
    )
    add_json(parser)


COMMANDS = (
    Command(
        "forecast",
        "forecast what a GPU moves, from emulations of its arithmetic on the CPU",
        "scenarios/sd-digits.yaml --steps 3",
        forecast,
        _options,
    ),
)
