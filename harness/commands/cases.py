"""Owns the commands that choose cases and run them: `list`, `run`, `record` and `env`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.choosing import (
    Chosen,
    add_failed_options,
    choose,
    tell_refused,
    tell_refused_again,
)
from harness.commands.history import add_to_history
from harness.commands.json_output import (
    EnvironmentShown,
    ListedCase,
    Listing,
    Mistake,
    add_json,
    print_json,
)
from harness.commands.output import complain, say, write_text
from harness.commands.parser import (
    Command,
    add_choice,
    add_companions,
    add_jobs,
    add_out,
    add_paths,
    add_profile,
    add_strict,
    add_warn_above,
    choices,
    chosen_cases,
    one_of,
    out_of,
    shown_out,
    store_of,
)
from harness.commands.publish import add_report_options, publish
from harness.errors import UsageError
from harness.records import Device, Dtype, Outcome, Verdict
from harness.scenario.fields import Determinism, Framework
from harness.scenario.model import Case, Scenario
from harness.scenario.reading import refusal_of
from harness.store.shared_folder import is_url

if TYPE_CHECKING:
    from harness.commands.baseline_writing import NewBaseline
    from harness.launch.launcher import Launcher
    from harness.launch.local import LocalLauncher
    from harness.session import Session, WhenEvaluated
    from harness.store.recording import Environment
    from harness.store.run_folder import Scope

OWN_FOLDER = "the run's folder (default: runs/ of the project, and the time)"
RECORDED = "recorded"  # what the line of a case says whose recording becomes a baseline
EIGHT_BITS = "uint8"  # the dtype of an output that the pipeline returned as images of Pillow

ClassesOf = Callable[[str, str], list[str]]  # from the name of a scenario and the key of a case


# harness list


def list_cases(arguments: argparse.Namespace) -> int:
    """Print every case.

    A line says where its weights come from, whether it can run here, and which baselines it has.
    """
    baselines_of = _shared_baselines if is_url(arguments.baselines) else _baselines_of
    classes = baselines_of(arguments.baselines)
    chosen = choose(arguments)
    listed = tuple(_listed(case, classes) for case in chosen.cases)
    if arguments.json:
        mistakes = [mistake for error in chosen.refused for mistake in error.mistakes]
        print_json(Listing(listed, tuple(map(Mistake.of, mistakes))))
    else:
        _print_list(listed)
    tell_refused(chosen)
    return UsageError.exit_code if chosen.refused else 0


def _listed(case: Case, classes: ClassesOf) -> ListedCase:
    """Return what the list says of one case."""
    from harness.launch.availability import availability

    scenario, found = case.scenario, availability(case)
    return ListedCase(
        case=case.id,
        scenario=scenario.name,
        device=case.target.device,
        dtype=case.target.dtype,
        variant=scenario.variant,
        weights=str(scenario.checkpoint),
        runs_here=found.can_run if found.certain else None,
        why=found.reason,
        needs_baseline=scenario.needs_baseline,
        baselines=tuple(classes(scenario.name, case.key)) if scenario.needs_baseline else (),
        tags=scenario.tags,
    )


def _print_list(listed: Sequence[ListedCase]) -> None:
    from harness.report.terminal import console, table

    headings = ("case", "weights", "runs here", "baselines", "tags")
    console().print(table(headings, [_row(each) for each in listed]))


def _row(each: ListedCase) -> tuple[str, ...]:
    """Return one row of the list."""
    runs_here = {True: "yes", False: f"no: {each.why}", None: each.why}[each.runs_here]
    baselines = ", ".join(each.baselines) or ("none" if each.needs_baseline else "needs none")
    return each.case, each.weights, runs_here, baselines, " ".join(each.tags)


def _baselines_of(folder: str) -> ClassesOf:
    """Return what tells the numerics classes that a case has baselines of.

    Their names are those of the files; `store.baselines` would load numpy to tell more.
    """

    def classes(scenario: str, key: str) -> list[str]:
        return sorted(file.stem for file in (Path(folder) / scenario / key).glob("*.json"))

    return classes


def _shared_baselines(url: str) -> ClassesOf:
    """Return what tells the numerics classes that a case has baselines of, behind a URL."""
    from harness.store.shared_baselines import SharedStore
    from harness.store.shared_files import SharedFiles

    return SharedStore(SharedFiles(url)).classes


def _list_options(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_paths(parser)
    add_choice(parser)
    add_profile(parser)


# harness run


def run(arguments: argparse.Namespace) -> int:
    """Run cases, judge them, print and keep the result."""
    from harness.judge.exit_codes import exit_code, git_code
    from harness.session import WhenEvaluated
    from harness.store.shared_folder import open_folder

    env = _packages(arguments)
    chosen = choose(arguments)
    if chosen.refused and arguments.git_bisect:
        raise refusal_of(chosen.refused)  # git must not take the others' verdict for that of all
    cases = [replace(case, env=env) for case in chosen.cases]
    if arguments.accelerator and not arguments.on:
        raise UsageError("--accelerator chooses nodes of a cluster; name the cluster with --on")
    if arguments.accelerator:
        cases = [_on_accelerator(case, arguments.accelerator) for case in cases]
    if arguments.history:
        open_folder(arguments.history)  # a URL that cannot be used is refused before the run
    tell_refused(chosen)
    evaluated = WhenEvaluated.ALWAYS if arguments.accuracy else WhenEvaluated.CHEAP
    way = _Way(evaluated, _verdict, _scope(arguments, chosen), arguments.exitfirst)
    session = _run_cases(arguments, cases, way)
    _report(arguments, session)
    tell_refused_again(chosen)
    if arguments.git_bisect:
        return git_code(session.outcomes)
    if chosen.refused:
        return UsageError.exit_code
    return exit_code(session.outcomes, strict=arguments.strict)


def _scope(arguments: argparse.Namespace, chosen: Chosen) -> Scope:
    """Return what the run is asked for, as its results state it."""
    from harness.store.run_folder import Scope

    return Scope(
        expression=arguments.k,
        device=str(arguments.device or ""),
        failed_from=chosen.failed_from,
        unread=chosen.unread,
    )


def _report(arguments: argparse.Namespace, session: Session) -> None:
    """Print and keep what a session came to.

    Raises:
        FileError: A report, or the history, cannot be written.
    """
    from harness.report.html.report import write_report
    from harness.report.markdown import markdown
    from harness.report.runs import Run
    from harness.store.run_folder import REPORT_FILE

    scope = replace(session.scope, not_run=session.not_run)
    runs = [Run(session.out, tuple(session.outcomes), session.environment, scope=scope)]
    write_text(session.out / "summary.md", markdown(runs))
    if session.outcomes:
        write_report(runs, session.out / REPORT_FILE)
    publish(arguments, runs)
    if not arguments.json:
        say(f"results and recordings: {shown_out(arguments, session.out)}")
    if arguments.history:
        tell = complain if arguments.json else say
        add_to_history(arguments.history, [session.out], tell)


def _packages(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the package versions that `--env` and `--with` ask for.

    Raises:
        UsageError: One of them names no version.
    """
    from harness.launch.sandbox import named

    env = [arguments.env] if arguments.env else []
    env += arguments.companions
    for text in env:
        named(text)
    return tuple(env)


def _run_options(parser: argparse.ArgumentParser) -> None:
    _running_options(parser)
    add_failed_options(parser)
    parser.add_argument(
        "-x",
        "--exitfirst",
        action="store_true",
        help="begin no case after the first one that fails",
    )
    _fleet_options(parser)
    add_strict(parser)
    parser.add_argument(
        "--no-serve",
        dest="serve",
        action="store_false",
        help="start workers of its own where harness serve has warm ones",
    )
    parser.add_argument(
        "--env",
        metavar="NAME==VERSION",
        help="run in an environment with this release, such as 'diffusers==0.30.3'",
    )
    add_companions(parser)
    add_report_options(parser)
    parser.add_argument(
        "--history",
        metavar="DIR",
        help="add the outcomes to the history in this folder, or at this fsspec URL",
    )
    parser.add_argument(
        "--accuracy",
        action=argparse.BooleanOptionalAction,
        help="evaluate every case that moved in float64, and say whether it became less accurate "
        "(default: only cases that drifted and take seconds)",
    )
    parser.add_argument(
        "--git-bisect",
        action="store_true",
        help="exit codes for `git bisect run`: 0 good, 1 drifted, 125 cannot tell, "
        "128 a mistake in the command",
    )


# harness record


def record(arguments: argparse.Namespace) -> int:
    """Run cases that have no baseline of this machine's class, and write theirs.

    Where a scenario sets no bounds for machines of other classes, a quick calibration of some
    seconds measures them, and the baseline keeps them. `harness calibrate` measures more.
    """
    from harness.commands.baseline_writing import NewBaseline, say_bounds, write_baselines
    from harness.report.run_report import print_runs
    from harness.report.runs import Run
    from harness.report.terminal import console
    from harness.session import WhenEvaluated, to_record
    from harness.store.recording import Recording
    from harness.study.accepting import FIRST_RECORDING, lacks_baseline

    cases = [case for case in _cases(arguments) if case.scenario.needs_baseline]
    if not cases:
        raise UsageError("every chosen case is expected to vary; such cases need no baseline")
    recorded = [to_record(case, may_be_stateful=arguments.stateful) for case in cases]
    session = _run_cases(arguments, recorded, _Way(WhenEvaluated.NEVER, _recorded))
    outcomes = {outcome.case: outcome for outcome in session.outcomes}
    new = [
        NewBaseline(case, Recording.read(session.folder(case)))
        for case in cases
        if lacks_baseline(outcomes[case.id])
    ]
    reason = arguments.reason or FIRST_RECORDING
    written = write_baselines(session.store, new, reason, arguments.warn_above)
    _advise_more_bits(new)
    if arguments.calibrate:
        say_bounds(session, dict(zip(written, new, strict=True)))
    failed = [each for each in session.outcomes if each.fails and not lacks_baseline(each)]
    if failed:
        print_runs(console(), [Run(session.out, tuple(failed))])
    unverified = sum(each.verdict is Verdict.UNVERIFIED for each in session.outcomes)
    had_one = len(cases) - len(new) - len(failed) - unverified
    say(
        f"{len(new)} written, {had_one} already had one, {unverified} could not run here, "
        f"{len(failed)} failed"
    )
    if failed:
        return 1
    return 3 if unverified == len(cases) else 0


def _advise_more_bits(new: Sequence[NewBaseline]) -> None:
    """Say once that images of 8 bits hide drift, where new baselines hold such images."""
    from harness.report.wording import eight_bits

    coarse = [
        each.case.id
        for each in new
        if any(output.dtype == EIGHT_BITS for output in each.recording.outputs.values())
    ]
    if coarse:
        say(eight_bits(coarse))


def _record_options(parser: argparse.ArgumentParser) -> None:
    _running_options(parser)
    add_warn_above(parser)
    parser.add_argument(
        "--reason",
        metavar="TEXT",
        help="kept in the baseline (default: that it is the first recording on its class)",
    )
    parser.add_argument(
        "--no-calibrate",
        dest="calibrate",
        action="store_false",
        help="measure no bounds for machines of other classes, which then owe the same bits",
    )
    parser.add_argument(
        "--stateful",
        action="store_true",
        help="record cases too whose pipeline gives another output when the same object is "
        "called a second time",
    )


# harness env


def show_environment(arguments: argparse.Namespace) -> int:
    """Print the environment of a worker on this machine.

    That is: versions, hardware, effective switches, and the numerics class.
    """
    if arguments.clear:
        return _remove_environments()
    if arguments.make:
        return _make_environment(Framework(arguments.make))
    from harness.report.terminal import console, table

    environment = _describe(arguments)
    if arguments.json:
        facts = (arguments.device, arguments.dtype, arguments.determinism)
        print_json(EnvironmentShown(*facts, environment))
        return 0
    target = f"{arguments.device}-{arguments.dtype}"
    name = environment.numerics_class.name
    say(f"numerics class {name} for {target}, determinism {arguments.determinism}")
    console().print(table(("group", "name", "value"), list(_facts(environment))))
    return 0


def _remove_environments() -> int:
    from harness.launch.sandbox import cache_folder, clear

    say(f"removed {clear()} environments from {cache_folder()}")
    return 0


def _make_environment(framework: Framework) -> int:
    from harness.launch.sandbox import PINS, interpreter

    pins = PINS[framework]
    complain(f"an environment with {', '.join(pins)}")
    say(f"{framework} runs by {interpreter(pins) or sys.executable}")
    return 0


def _describe(arguments: argparse.Namespace) -> Environment:
    from harness.session import Session

    with (
        tempfile.TemporaryDirectory(prefix="harness-") as folder,
        Session(store_of(arguments), Path(folder)) as session,
    ):
        return session.describe(
            arguments.framework, arguments.device, arguments.dtype, arguments.determinism
        )


def _facts(environment: Environment) -> Iterator[tuple[str, str, str]]:
    """Yield every fact of an environment, as its group, its name and its value."""
    groups: dict[str, Mapping[str, object]] = {
        "versions": environment.versions,
        "hardware": environment.hardware,
        "flags": environment.flags,
        "variables": environment.variables,
    }
    for group, values in groups.items():
        for name, value in _flat(values):
            yield group, name, str(value)
    for name, digest in environment.numerics_class.operators.items():
        yield "operator", name, digest


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield values by their dotted names, in alphabetical order."""
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _env_options(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    made_apart = [Framework.MINDSPORE]
    words = (
        ("--framework", Framework, Framework.TORCH),
        ("--device", Device, Device.CPU),
        ("--dtype", Dtype, Dtype.FLOAT32),
        ("--determinism", Determinism, Determinism.FULL),
    )
    for option, kind, default in words:
        parser.add_argument(
            option,
            type=one_of(kind),
            default=default,
            metavar=choices(kind),
            help="(default: %(default)s)",
        )
    parser.add_argument(
        "--make", choices=made_apart, help="only make the environment of this framework"
    )
    parser.add_argument(
        "--clear",
        action="store_true",
        help="only remove the environments that --env and bisect made",
    )


# What several of them do.


def _running_options(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    add_choice(parser)
    add_profile(parser)
    add_out(parser, OWN_FOLDER)
    add_jobs(parser)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    return chosen_cases(arguments, arguments.paths)


@dataclass(frozen=True)
class _Way:
    """How cases are run.

    Attributes:
        evaluated: Which of them are evaluated in float64.
        word: What the line of a case says that it came to.
        scope: What was asked for; None for every case.
        until_failure: Whether none begins after the first one that fails.
    """

    evaluated: WhenEvaluated
    word: Callable[[Outcome], str]
    scope: Scope | None = None
    until_failure: bool = False


def _verdict(outcome: Outcome) -> str:
    return str(outcome.verdict)


def _recorded(outcome: Outcome) -> str:
    """Return what a case came to that is run to be recorded."""
    from harness.study.accepting import lacks_baseline

    return RECORDED if lacks_baseline(outcome) else str(outcome.verdict)


def _run_cases(arguments: argparse.Namespace, cases: Sequence[Case], way: _Way) -> Session:
    """Run cases with progress, and return the closed session."""
    from harness.report.terminal import ended_line, progress
    from harness.session import Session

    began: dict[str, float] = {}
    with progress(len(cases)) as steps:

        def show(case: Case, doing: str) -> None:
            began.setdefault(case.id, time.monotonic())
            steps.doing(case.id, doing)

        def count(outcome: Outcome) -> None:
            seconds = time.monotonic() - began[outcome.case]
            steps.ended(ended_line(outcome.case, way.word(outcome), seconds))

        store, out = store_of(arguments), out_of(arguments)
        launcher, jobs = _launcher(arguments)
        with Session(store, out, show, evaluated=way.evaluated, launcher=launcher) as session:
            session.scope = way.scope or session.scope
            session.run_all(cases, jobs, count, until_failure=way.until_failure)
    for line in launcher.notes():
        complain(line)
    return session


def _fleet_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on",
        type=_cluster,
        metavar="CLUSTER",
        help="run on the nodes of a Ray cluster: ray://HOST:PORT; ray: the one that Ray finds; "
        "ray-local: one on this machine for this run",
    )
    parser.add_argument(
        "--accelerator",
        default="",
        metavar="TYPE",
        help="with --on: run every case on nodes with this type of accelerator, such as H100, "
        "whatever the scenarios ask for",
    )


def _cluster(text: str) -> str:
    """Return the address of a Ray cluster.

    Raises:
        ArgumentTypeError: The text is none.
    """
    if text in ("ray", "ray-local") or text.startswith("ray://"):
        return text  # `launch.ray_cluster` says the same; this must not load it
    problem = f"expected ray://HOST:PORT, ray or ray-local, found {text!r}"
    raise argparse.ArgumentTypeError(problem)


def _on_accelerator(case: Case, accelerator: str) -> Case:
    """Return the case with a need for one type of accelerator, as the case that it is held to."""

    def moved(scenario: Scenario) -> Scenario:
        contract = scenario.contract
        if contract is not None:
            contract = replace(contract, against=moved(contract.against))
        needs = replace(scenario.node, accelerator=accelerator)
        return replace(scenario, node=needs, contract=contract)

    return replace(case, scenario=moved(case.scenario))


def _launcher(arguments: argparse.Namespace) -> tuple[Launcher, int]:
    """Return where workers start, and how many run at once."""
    from harness.launch.launcher import Jobs
    from harness.launch.local import LocalLauncher

    if getattr(arguments, "on", None) is None:
        local = _served() if getattr(arguments, "serve", False) else LocalLauncher()
        return local, 1 if arguments.jobs is None else arguments.jobs
    from harness.launch.ray_cluster import RayLauncher

    return RayLauncher(arguments.on), Jobs.AUTO if arguments.jobs is None else arguments.jobs


def _served() -> LocalLauncher:
    """Return a launcher of the workers of `harness serve` where that runs, else of own workers."""
    from harness.launch.local import LocalLauncher
    from harness.launch.serve_socket import is_served

    if not is_served():  # nothing else is loaded for it
        return LocalLauncher()
    from harness.launch.served import NotServedError, served_launcher

    try:
        return served_launcher()
    except NotServedError as error:
        if str(error):
            complain(f"harness serve is not used: {error}")
        return LocalLauncher()


COMMANDS = (
    Command(
        "list",
        "list cases, whether they can run here, and their baselines",
        "-k 'not slow'",
        list_cases,
        _list_options,
    ),
    Command(
        "run",
        "run cases and judge them against baselines",
        "scenarios -k 'digits and not slow' --device cpu",
        run,
        _run_options,
    ),
    Command(
        "record",
        "write the baselines that are missing",
        "scenarios/ddim-digits.yaml",
        record,
        _record_options,
    ),
    Command(
        "env",
        "print the environment, the effective switches and the numerics class",
        "--device cpu --dtype float16",
        show_environment,
        _env_options,
    ),
)
