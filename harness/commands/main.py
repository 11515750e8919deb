"""The command line: reads arguments, calls the session, prints, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.parser import Command, build_parser
from harness.commands.studies import bisect, calibrate, challenge, cost, explain
from harness.errors import HarnessError, UsageError
from harness.scenario.model import Case, Scenario, anywhere, read_all
from harness.scenario.select import select

if TYPE_CHECKING:
    from harness.records import Outcome
    from harness.session import Session
    from harness.store.baselines import Store


ACCEPTABLE = (
    "drifted",
    "stale",
    "missing",
    "incomparable",
    "within",
)  # verdicts whose recording may become the baseline


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser(COMMANDS).parse_args(argv)
    command: Command = arguments.command

    def unusual(code: int) -> int:
        """Codes that tell nothing of the case end `git bisect run`, which takes those below 128 for a verdict."""
        return 128 if getattr(arguments, "git_bisect", False) else code

    try:
        return command(arguments)
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return unusual(error.exit_code)
    except KeyboardInterrupt:
        print("harness: interrupted; what had finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        print(
            "harness: this is a defect of the harness; please report it with the lines above",
            file=sys.stderr,
        )
        return unusual(4)


def list_cases(arguments: argparse.Namespace) -> int:
    """Print every case: where its weights come from, whether it can run here, which baselines it has."""
    from harness.report.terminal import console, table

    baselines = Path(arguments.baselines)
    lines = []
    for case in _cases(arguments):
        checkpoint = case.scenario.checkpoint
        weights = f"{checkpoint['kind']}: {checkpoint.get('name') or checkpoint['repository']}"
        classes = sorted(
            path.stem for path in (baselines / case.scenario.name / case.place).glob("*.json")
        )
        has = ", ".join(classes) or ("none" if case.scenario.owes_baseline else "owes none")
        lines.append(
            (case.id, weights, cannot_run(case) or "yes", has, " ".join(case.scenario.tags))
        )
    console().print(table(("case", "weights", "runs here", "baselines", "tags"), lines))
    return 0


def cannot_run(case: Case) -> str:
    """Return why a case cannot run on this machine, as far as can be told without importing a framework; else nothing."""
    from harness.launch.sandbox import PINS, is_made

    framework = case.scenario.framework
    if framework in PINS and not is_made(PINS[framework]):
        return f"no: make it so by harness env --make {framework}"
    if case.device == "ascend" and not list(Path("/dev").glob("davinci*")):
        return "no: no Ascend device"
    if case.device == "cuda" and not Path("/dev/nvidiactl").exists():
        return "no: no CUDA device"
    checkpoint = case.scenario.checkpoint
    if checkpoint["kind"] == "path" and not Path(checkpoint["folder"]).is_dir():
        return f"no: no folder {checkpoint['folder']}"
    if checkpoint["kind"] == "hub":
        home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
        cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
        if not (
            cache / f"models--{checkpoint['repository'].replace('/', '--')}" / "snapshots"
        ).is_dir():
            return "if the Hub gives its weights"
    return ""


def run(arguments: argparse.Namespace) -> int:
    """Run cases, judge them, print and keep the result."""
    from harness.judge.gate import exit_code, git_code
    from harness.launch.sandbox import named
    from harness.report.markdown import markdown
    from harness.report.terminal import console, print_run

    env = tuple(filter(None, [arguments.env, *arguments.companions]))
    for text in env:
        named(text)
    session = _run_cases(arguments, [replace(case, env=env) for case in _cases(arguments)])
    summary = session.out / "summary.md"
    summary.write_text(
        markdown(session.outcomes, session.environment, session.out), encoding="utf-8"
    )
    print_run(console(), session.outcomes, session.out)
    print(f"results and recordings: {session.out}")
    if arguments.git_bisect:
        return git_code(session.outcomes)
    return exit_code(session.outcomes, strict=arguments.strict)


def record(arguments: argparse.Namespace) -> int:
    """Run cases that have no baseline of this machine's class, and write theirs."""
    from harness.records import Recording
    from harness.report.terminal import console, print_run
    from harness.report.wording import wrote
    from harness.session import well_timed

    cases = [case for case in _cases(arguments) if case.scenario.owes_baseline]
    if not cases:
        raise UsageError("every chosen case is expected to vary; such cases owe no baseline")
    session = _run_cases(arguments, list(map(well_timed, cases)))
    written, failed = 0, []
    for case in cases:
        outcome = next(o for o in session.outcomes if o.case == case.id)
        same_class = bool(outcome.baseline and outcome.baseline["same_class"])
        if outcome.verdict == "missing" or (outcome.passes and not same_class):
            recording = Recording.read(session.folder(case))
            path = session.store.write(case, recording, arguments.reason)
            print(wrote(path, recording))
            written += 1
        elif outcome.fails:
            failed.append(outcome)
    if failed:
        print_run(console(), failed, session.out)
    unverified = sum(o.verdict == "unverified" for o in session.outcomes)
    had = len(cases) - written - len(failed) - unverified
    print(
        f"{written} written, {had} had one, {unverified} could not run here, {len(failed)} failed"
    )
    return 1 if failed else 3 if unverified == len(cases) else 0


def accept(arguments: argparse.Namespace) -> int:
    """Make what a run recorded the baselines from now on."""
    from harness.records import Recording
    from harness.report.wording import wrote
    from harness.session import Session
    from harness.store.baselines import Store
    from harness.store.run_folder import read_results

    if not arguments.reason.strip():
        raise UsageError(
            "--reason is empty; say why the new output is right, for whoever reviews the baseline"
        )
    run_folder, store = Path(arguments.run), Store(Path(arguments.baselines))
    session, outcomes = (
        Session(store, run_folder),
        {outcome.case: outcome for outcome in read_results(run_folder)[0]},
    )
    accepted = []
    for case in select(
        read_all(map(Path, arguments.scenarios)), arguments.k, arguments.device, arguments.profile
    ):
        outcome, folder = outcomes.get(case.id), session.folder(case)
        if (
            outcome is None
            or outcome.verdict not in ACCEPTABLE
            or not case.scenario.owes_baseline
            or not folder.is_dir()
        ):
            continue
        recording = Recording.read(folder)
        if "env" in recording.content["case"]:
            made_in = ", ".join(recording.content["case"]["env"])
            raise UsageError(
                f"{case.id}: {run_folder} ran with {made_in}; a baseline comes from a run without --env or --with"
            )
        if _anywhere(recording.content["case"]) != _anywhere(case.request()):
            raise UsageError(
                f"{case.id}: the scenario was edited after {run_folder}; run it again, then accept that run"
            )
        if any(not output["finite"] for output in recording.outputs.values()):
            raise UsageError(f"{case.id}: holds NaN or infinity, which can never be a baseline")
        accepted.append((case, recording, outcome))
    if not accepted:
        raise UsageError(
            f"{run_folder} holds nothing to accept: no chosen case drifted, is stale or lacks a baseline"
        )
    for (
        case,
        recording,
        outcome,
    ) in accepted:  # only now: what is refused for one case is written for none
        path = store.write(case, recording, arguments.reason)
        print(f"{wrote(path, recording)} ({outcome.verdict}: {outcome.reason})")
        older = {other.stem for other in store.files(case.scenario.name, case.place)} - set(
            store.known(case)
        )
        for name in sorted(older):
            print(
                f"still of an older scenario: {path.with_stem(name)}; run it on a machine of that class and accept, or delete it"
            )
    return 0


def _anywhere(request: dict[str, Any]) -> dict[str, Any]:
    """Return a case's request without what decides no bit: how often it is timed, and where its weights lie."""
    return {**request, "rounds": 0, "checkpoint": anywhere(request["checkpoint"])}


def env(arguments: argparse.Namespace) -> int:
    """Print the environment of a worker on this machine: versions, hardware, effective switches, numerics class."""
    if arguments.clear:
        from harness.launch.sandbox import cache_folder, clear

        print(f"removed {clear()} environments from {cache_folder()}")
        return 0
    if arguments.make:
        from harness.launch.sandbox import PINS, interpreter

        print(f"an environment with {', '.join(PINS[arguments.make])}", file=sys.stderr)
        print(f"{arguments.make} runs by {interpreter(PINS[arguments.make]) or sys.executable}")
        return 0
    import tempfile

    from harness.report.terminal import console, table
    from harness.session import Session
    from harness.store.baselines import Store

    with (
        tempfile.TemporaryDirectory(prefix="harness-") as folder,
        Session(Store(Path(arguments.baselines)), Path(folder)) as session,
    ):
        facts = session.describe(
            arguments.framework, arguments.device, arguments.dtype, arguments.determinism
        )
    found = facts.pop("class")
    print(
        f"numerics class {found['name']} for {arguments.device}-{arguments.dtype}, determinism {arguments.determinism}"
    )
    lines = [
        (group, name, str(value))
        for group, values in facts.items()
        if isinstance(values, dict)
        for name, value in _flat(values)
    ]
    console().print(
        table(
            ("group", "name", "value"),
            [*lines, *(("operator", n, d) for n, d in found["operators"].items())],
        )
    )
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Print the report of one or more runs, and what `harness cost --out RUN` measured beside them."""
    from harness.judge.gate import exit_code
    from harness.report.markdown import markdown
    from harness.report.terminal import console, print_prices, print_run
    from harness.store.run_folder import read_results
    from harness.study.overhead import read_prices

    outcomes: list[Outcome] = []
    for path in map(Path, arguments.runs):
        outcomes, environment = read_results(path)
        prices = read_prices(path)
        if arguments.markdown:
            print(markdown(outcomes, environment, path, prices))
            continue
        print_run(console(), outcomes, path)
        print_prices(console(), prices, {})
    return exit_code(outcomes, strict=False) if len(arguments.runs) == 1 else 0


def gate(arguments: argparse.Namespace) -> int:
    """Say whether a release may go out: every scenario that the policy requires, on every device kind, from many runs."""
    from harness.judge.gate import gate_code, hold
    from harness.report.terminal import console, table
    from harness.store.run_folder import read_results

    outcomes = [outcome for path in arguments.runs for outcome in read_results(Path(path))[0]]
    held = hold(Path(arguments.policy), outcomes)
    console().print(
        table(
            ("scenario", "on", "state", "because"),
            [(h.scenario, h.on, h.state, h.reason) for h in held],
        )
    )
    code = gate_code(held)
    print(
        {
            0: "the gate is open",
            1: "the gate is closed: something required fails",
            3: "the gate is closed: something required was not verified",
        }[code]
    )
    return code


def _cases(arguments: argparse.Namespace) -> list[Case]:
    scenarios: list[Scenario] = read_all(map(Path, arguments.paths or ["scenarios"]))
    return select(scenarios, arguments.k, arguments.device, arguments.profile)


def _run_cases(arguments: argparse.Namespace, cases: list[Case]) -> Session:
    """Run cases with progress; returns the closed session."""
    from harness.report.terminal import progress
    from harness.session import Session
    from harness.store.baselines import Store
    from harness.store.run_folder import new_run

    store: Store = Store(Path(arguments.baselines))
    out = Path(arguments.out) if arguments.out else new_run()
    with (
        progress(len(cases)) as (doing, done),
        Session(store, out, lambda case, what: doing(case.id, what)) as session,
    ):
        session.run_all(cases, arguments.jobs, lambda outcome: done(outcome.case))
    return session


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in sorted(values.items()):
        found += (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else [(prefix + name, value)]
        )
    return found


COMMANDS: dict[str, Command] = {
    "list": list_cases,
    "run": run,
    "record": record,
    "accept": accept,
    "env": env,
    "report": report,
    "gate": gate,
    "explain": explain,
    "bisect": bisect,
    "calibrate": calibrate,
    "challenge": challenge,
    "cost": cost,
}
