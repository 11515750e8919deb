"""Owns the commands that study cases: `calibrate`, `challenge`, `explain`, `cost` and `bisect`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.json_output import (
    Calibrated,
    Costs,
    Explained,
    ExplainedCase,
    Reproduced,
    add_json,
    print_json,
)
from harness.commands.output import complain, say, write_text
from harness.commands.parser import (
    RECORDINGS,
    Command,
    add_choice,
    add_companions,
    add_out,
    add_profile,
    add_until,
    at_least_one,
    chosen_cases,
    duration,
    out_of,
    run_of,
    shown_out,
    store_of,
)
from harness.errors import UsageError, writing
from harness.records import (
    ContractOutcome,
    Counterexample,
    Device,
    Drift,
    EnvironmentChange,
    Outcome,
    Reason,
)
from harness.scenario.located_yaml import nearest
from harness.scenario.model import Case
from harness.scenario.project import named_in_results
from harness.scenario.reading import read_all
from harness.scenario.select import select
from harness.store.shared_folder import is_url

if TYPE_CHECKING:
    from harness.session import Session
    from harness.store.baselines import Baseline, Store
    from harness.store.recording import Recording
    from harness.study.bisect import Trials
    from harness.study.calibrate import Calibration
    from harness.study.explain import Explanation
    from harness.study.platforms import Platform

FIRST_CHOICE = "portable"  # of the platforms on which faults are looked for
BY_CONTRACT = (Reason.CONTRACT_HOLDS, Reason.CONTRACT_BROKEN)  # what decided is not a baseline
CHALLENGE_FILE = "challenge.json"
BISECTION_FILE = "bisect.json"
NOTHING_SHOWN = 3  # the exit code where a reproducer does not show the difference


# harness calibrate


def calibrate(arguments: argparse.Namespace) -> int:
    """Derive a scenario's tolerances from measured noise.

    The noise is that of inputs moved by one unit in the last place, and of synthetic platforms.
    What was measured is kept in the run's folder, each time the same one for a case: a second call,
    such as one with --write after a look, or after Ctrl-C, measures only what is not there.
    """
    from harness.report.study_report import print_calibration
    from harness.report.terminal import console, progress
    from harness.session import Session
    from harness.study.budget import Budget
    from harness.study.calibrate import Effort, Known
    from harness.study.calibrate import calibrate as measure
    from harness.study.fleet_evidence import from_runs
    from harness.study.platforms import platforms_of

    case = _one_case(arguments)
    if arguments.write and case.scenario.variant:
        raise UsageError(
            f"{case.id} is a variant, and --write sets the bounds of the scenario itself; choose "
            f"the case without a variant, or write the bounds into the variant's `tolerance`"
        )
    platforms = platforms_of(case)
    store = store_of(arguments)
    fleet = from_runs([run_of(run) for run in arguments.runs], case, store)
    with (
        progress(_runs(case, arguments, len(platforms))) as steps,
        Session(store, out_of(arguments, _calibration_of(case))) as session,
    ):

        def step(name: str) -> None:
            steps.doing(case.id, name)
            steps.done()

        found = measure(
            session,
            case,
            platforms,
            effort=Effort(arguments.seeds, arguments.perturbations, Budget(arguments.budget)),
            on_step=step,
            known=Known(fleet=fleet),
        )
    if not arguments.json:
        print_calibration(console(), found, case.scenario.tolerances)
    if found.kept and not arguments.json:
        say(
            f"{found.kept} measurements are of an earlier calibration, which was of the same: "
            f"{shown_out(arguments, session.out)}"
        )
    wrote = _write_calibration(store, case, found) if arguments.write else []
    if arguments.json:
        print_json(_calibrated(found, case, wrote))
    else:
        for line in wrote:
            say(f"wrote {line}")
    return 0 if all(found.left_out().values()) else 1


def _calibrated(found: Calibration, case: Case, wrote: Sequence[str]) -> Calibrated:
    from harness.report.study_report import bound_rows

    return Calibrated(
        case=found.case,
        on=found.on,
        seeds=found.seeds,
        perturbations=found.perturbations,
        bounds=tuple(bound_rows(found, case.scenario.tolerances)),
        left_out=found.left_out(),
        missed=found.missed,
        kept=found.kept,
        wrote=tuple(wrote),
    )


def _calibration_of(case: Case) -> str:
    """Return the name of the run in which the calibrations of a case keep what they measure."""
    return f"calibrate-{case.scenario.name}-{case.key}"


def _runs(case: Case, arguments: argparse.Namespace, platforms: int) -> int:
    """Return how many runs a calibration takes.

    Each seed runs once as what others are compared with. Each perturbation, and each platform with
    each seed, then runs teacher-forced; where images of a batch are held against each other, also
    free and for each image alone.
    """
    from harness.study.calibrate import runs_of

    compared = arguments.perturbations + arguments.seeds * platforms
    return int(arguments.seeds + runs_of(case) * compared)


def _write_calibration(store: Store, case: Case, found: Calibration) -> list[str]:
    """Write bounds and evidence into the scenario, and the evidence into its baselines.

    Returns:
        What was written, in words.
    """
    from harness.scenario.write_tolerance import write_tolerance
    from harness.study.calibrate import check_writable

    check_writable(case, found)
    path = case.scenario.path
    evidence = replace(found.evidence(), fingerprint=case.scenario.fingerprint)
    write_tolerance(path, found.bounds(), evidence)
    wrote = [str(path)]
    for baseline in store.files(case.scenario.name, case.key):
        store.annotate(baseline, evidence=evidence)
        wrote.append(f"{store.shown(baseline)}: evidence")
    return wrote


def _calibrate_options(parser: argparse.ArgumentParser) -> None:
    _one_scenario_options(
        parser,
        "where measurements are kept; the next call uses them where nothing has changed "
        "(default: one folder below runs/ for each case)",
    )
    add_json(parser)
    parser.add_argument(
        "--write",
        action="store_true",
        help="put bounds and evidence into the scenario and its baselines",
    )
    parser.add_argument(
        "--seeds",
        type=at_least_one,
        default=3,
        metavar="N",
        help="seeds to replicate over (default: %(default)s)",
    )
    parser.add_argument(
        "--perturbations",
        type=at_least_one,
        default=8,
        metavar="N",
        help="perturbations to measure, each by one unit in the last place (default: %(default)s)",
    )
    parser.add_argument(
        "--from",
        dest="runs",
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs of other machines, whose drifts from the baseline are evidence too",
    )
    parser.add_argument(
        "--budget",
        type=duration,
        default=math.inf,
        metavar="DURATION",
        help="begin nothing that would probably end after this time, such as 10m: every platform "
        "with one seed first; what was not measured is said, and kept evidence can be added later",
    )


# harness challenge


def challenge(arguments: argparse.Namespace) -> int:
    """Inject known faults into a scenario, and measure the detection rate of its tolerances.

    Each fault proves that it took effect. Prints which faults are caught in the same class and in
    another one, and by which bound.
    """
    from harness.report.study_report import print_challenge
    from harness.report.terminal import console, progress
    from harness.session import Session
    from harness.store.run_folder import now
    from harness.study.challenge import challenge as inject

    case = _one_case(arguments)
    platform = _platform(case, arguments.platform)
    store, out = store_of(arguments), out_of(arguments)
    with progress(0) as steps, Session(store, out) as session:

        def step(name: str, total: int) -> None:
            steps.expect(total)
            steps.doing(case.id, name)
            steps.done()

        found = inject(session, case, platform, on_step=step)
    if arguments.json:
        print_json(found.as_json())
    else:
        print_challenge(console(), found)
    _write_json(out / CHALLENGE_FILE, found.as_json())
    rate = replace(found.detection_rate(), measured=now())
    if arguments.write:
        for baseline in store.files(case.scenario.name, case.key):
            store.annotate(baseline, detection_rate=rate)
            tell = complain if arguments.json else say
            tell(f"wrote {store.shown(baseline)}: detection rate")
    return 1 if rate.missed else 0


def _platform(case: Case, name: str | None) -> tuple[str, Platform]:
    """Return the platform that was named, or else the first choice, after its name.

    Raises:
        UsageError: The case has no such platform.
    """
    from harness.study.platforms import platforms_of

    platforms = platforms_of(case)
    if name is None:
        name = FIRST_CHOICE if FIRST_CHOICE in platforms else next(iter(platforms))
    if name not in platforms:
        known = ", ".join(platforms)
        raise UsageError(f"{case.id} has no platform `{name}`; expected one of {known}")
    return name, platforms[name]


def _challenge_options(parser: argparse.ArgumentParser) -> None:
    _one_scenario_options(parser)
    add_json(parser)
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep the detection rate in the scenario's baselines",
    )
    parser.add_argument(
        "--platform",
        metavar="NAME",
        help="the other class, as `harness calibrate` names its platforms (default: "
        f"{FIRST_CHOICE}, or the case's first)",
    )


# harness explain


def explain(arguments: argparse.Namespace) -> int:
    """Say why cases of a run moved.

    Without CASE the recordings alone tell which input or stage differs first. With CASE both sides
    run again, to find the root causes: the modules and operators that gave different outputs for
    the same inputs, and the settings that go with them.
    """
    from harness.report.explanation import text
    from harness.session import Session
    from harness.store.run_folder import explanation_file, read_results

    run = run_of(arguments.run, recordings=True)
    outcomes = _to_explain(read_results(run).outcomes, run, arguments)
    told: list[ExplainedCase] = []
    with Session(store_of(arguments), run) as session:
        for outcome in outcomes:
            found = _as_judged(outcome)
            changes: Sequence[EnvironmentChange] = ()
            if arguments.case:
                found, changes = _explanation(session, outcome, arguments)
            words = text(found, changes)
            if not arguments.json:
                say(words)
            if arguments.case:  # the report of the run shows it
                _keep_explanation(explanation_file(run, outcome.case), words)
            made = _reproduce(session, outcome, found, arguments) if arguments.reproducer else None
            told.append(ExplainedCase(found, tuple(changes), made))
    if arguments.json:
        print_json(Explained(str(run), tuple(told)))
    if arguments.case and is_url(arguments.run):
        _send_explanation(run, arguments.run)
    shows = [each.reproducer.shows for each in told if each.reproducer is not None]
    return 0 if all(shows) else NOTHING_SHOWN


def _to_explain(
    outcomes: Sequence[Outcome], run: Path, arguments: argparse.Namespace
) -> list[Outcome]:
    """Return the outcomes that are asked for, of those that were compared with something.

    Raises:
        UsageError: There is none, or it cannot run again.
    """
    compared = [each for each in outcomes if _was_compared(each)]
    if not compared:
        raise UsageError(f"{run} holds no case that was compared with a baseline or another case")
    if not arguments.case:
        if arguments.reproducer:
            raise UsageError("--reproducer needs the id of a CASE, which runs again")
        return compared
    found = _named(arguments.case, compared, run)
    if found.test:
        raise UsageError(
            f"{found.case} is an object of a test, which alone can make it again: "
            f"run pytest {found.test}; without CASE, explain tells what the run found"
        )
    return [found]


def _was_compared(outcome: Outcome) -> bool:
    """Whether a case was held against a baseline, another case, or an image of its batch alone."""
    sides = (outcome.baseline, outcome.contract, outcome.changed_by)
    return any(side is not None for side in sides)


def _named(name: str, outcomes: Sequence[Outcome], run: Path) -> Outcome:
    """Return the outcome that a name means: a case's id, or that of a scenario with one case.

    Raises:
        UsageError: No case, or more than one, is meant.
    """
    found = [each for each in outcomes if each.case == name]
    found = found or [each for each in outcomes if each.scenario == name]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(each.case for each in found)
        raise UsageError(f"{run} holds several cases of {name}: {several}; name one of them")
    hint = nearest(name, [word for each in outcomes for word in (each.case, each.scenario)])
    raise UsageError(
        f"{run} holds no case {name} that was compared with a baseline or another case"
        + (f"; {hint}" if hint else "")
    )


def _send_explanation(run: Path, place: str) -> None:
    """Add what was found to a run behind a URL."""
    from harness.store.shared_files import SharedFiles
    from harness.store.shared_runs import record_of, send_run

    send_run(run, place, also=record_of(SharedFiles(place)))


def _reproduce(
    session: Session, outcome: Outcome, found: Explanation, arguments: argparse.Namespace
) -> Reproduced:
    """Write a reproducer, run it and say what came of it."""
    from harness.store.recording import Recording
    from harness.study.reproducer import ISSUE, reproduce

    (case,) = select(read_all([named_in_results(outcome.path)]), outcome.case, None)
    if outcome.contract is not None and outcome.reason in BY_CONTRACT:
        raise UsageError("a reproducer can be written only against a baseline, not for a variant")
    if outcome.changed_by is not None:
        raise UsageError("a reproducer can be written only against a baseline, not for a batch")
    actual = Recording.read(session.folder(case))
    expected = _judging_baseline(session, case, outcome, actual)
    folder = Path(arguments.reproducer)
    packages = arguments.packages
    made = reproduce(session, case, actual, expected, found, folder, packages=packages)
    tell = complain if arguments.json else say
    tell(f"reproducer, run in both settings:\n{made.printed.rstrip()}")
    if made.shows:
        tell(f"wrote {folder}; {folder / ISSUE} is ready for an issue tracker")
    else:
        tell(f"wrote {folder}; it shows no difference by itself, so that nothing is claimed")
    return Reproduced(str(folder), made.shows, made.printed)


def _keep_explanation(path: Path, words: str) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, words)


def _judging_baseline(
    session: Session, case: Case, outcome: Outcome, actual: Recording
) -> Baseline:
    """Return the baseline that judged a case.

    Raises:
        UsageError: It is gone, or another one has taken its place since.
    """
    from harness.judge import drift

    match = session.store.match(case, actual.numerics_class)
    if match is None or outcome.baseline is None:
        raise UsageError(f"{outcome.case}: its baseline is gone from {session.store.root}")
    # A study that adds to a baseline changes its digest, and nothing that a run is held against.
    is_other = match.baseline.digest != outcome.baseline.digest
    moved = drift.of_shared_outputs(actual, match.baseline)
    if is_other and _worst_elements(moved) != _worst_elements(outcome.outputs):
        raise UsageError(
            f"{outcome.case}: another baseline was recorded or accepted since this run; run the "
            "case again, or leave CASE out, for what this run found against the one of that time"
        )
    return match.baseline


def _worst_elements(outputs: Mapping[str, Drift]) -> dict[str, tuple[int, float]]:
    """Return of each output how many elements differ, and what is expected of the worst one."""
    return {name: (moved.differing, moved.worst_expected) for name, moved in outputs.items()}


def _as_judged(outcome: Outcome) -> Explanation:
    """Return what the run itself found, without running anything: the first difference alone."""
    from harness.study.explain import Explanation

    held = outcome.contract
    by_contract = held is not None and outcome.reason in BY_CONTRACT
    first = held.first_difference if held and by_contract else outcome.first_difference
    accuracy = () if by_contract else outcome.accuracy
    batch = outcome.changed_by
    return Explanation(outcome.case, first, accuracy=accuracy, edits=outcome.edits, batch=batch)


def _explanation(
    session: Session, outcome: Outcome, arguments: argparse.Namespace
) -> tuple[Explanation, Sequence[EnvironmentChange]]:
    """Return why a case moved, by running both sides again, and what changed in the environment."""
    from harness.judge import first_difference
    from harness.judge.environment_diff import list_changes
    from harness.store.recording import Recording

    (case,) = select(read_all([named_in_results(outcome.path)]), outcome.case, None)
    if outcome.contract is not None and outcome.reason in BY_CONTRACT:
        return _explanation_of_contract(session, case, outcome.contract, arguments), ()
    if outcome.changed_by is not None:
        return _explanation_of_batch(session, case, outcome.changed_by, arguments), ()
    actual = Recording.read(session.folder(case))
    expected = _judging_baseline(session, case, outcome, actual)
    found = _inquire(session, case, actual, expected, outcome, arguments)
    tolerance = expected.tolerance(case.scenario)
    if not tolerance.exact:
        by_value = first_difference.by_value(outcome.local, outcome.free, tolerance)
        found = replace(found, by_value=by_value)
    if outcome.reason is Reason.SCENARIO_EDITED:
        note = "the scenario was edited after the baseline, and both sides run as it is now"
        found = replace(found, notes=(note, *found.notes))
    found = replace(found, edits=outcome.edits)
    return found, list_changes(actual.environment, expected.environment)


def _explanation_of_contract(
    session: Session, case: Case, held: ContractOutcome, arguments: argparse.Namespace
) -> Explanation:
    """Return why a variant differs from the case that its contract names."""
    from harness.report.terminal import progress
    from harness.study.explain import explain_contract

    first = held.first_difference
    with progress(0) as steps:

        def step(name: str) -> None:
            steps.doing(case.id, name)

        limit = arguments.root_causes
        return explain_contract(session, case, first, limit=limit, on_step=step)


def _explanation_of_batch(
    session: Session, case: Case, found: Counterexample, arguments: argparse.Namespace
) -> Explanation:
    """Return where the image of a batch first differs from the same image alone."""
    from harness.report.terminal import progress
    from harness.study.batch_causes import explain_batch

    with progress(0) as steps:

        def step(name: str) -> None:
            steps.doing(case.id, name)

        limit = arguments.root_causes
        return explain_batch(session, case, found, limit=limit, on_step=step)


def _inquire(
    session: Session,
    case: Case,
    actual: Recording,
    expected: Baseline,
    outcome: Outcome,
    arguments: argparse.Namespace,
) -> Explanation:
    """Run both sides again, with progress."""
    from harness.report.terminal import progress
    from harness.study.explain import explain as inquire

    with progress(0) as steps:

        def step(name: str) -> None:
            steps.doing(case.id, name)

        return inquire(
            session,
            case,
            actual,
            expected,
            limit=arguments.root_causes,
            on_step=step,
            packages=arguments.packages,
            accuracy=outcome.accuracy,
        )


def _explain_options(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "case",
        nargs="?",
        metavar="CASE",
        help="the id of the case to run again; default: read the recordings only",
    )
    parser.add_argument(
        "--packages",
        action="store_true",
        help="revert versions of diffusers and transformers too (installs them)",
    )
    parser.add_argument(
        "--root-causes",
        type=at_least_one,
        default=3,
        metavar="N",
        help="look for at most N root causes (default: %(default)s)",
    )
    parser.add_argument(
        "--reproducer",
        metavar="DIR",
        help="write a script that shows the first root cause without the harness, and run it in "
        "both settings",
    )


# harness cost


def cost(arguments: argparse.Namespace) -> int:
    """Measure the overhead of determinism and of the portable profile.

    Each case runs under both settings, in turn, on two live workers. With the --out of a run, the
    report of that run shows the overheads too.
    """
    from harness.report.study_report import print_overheads
    from harness.report.terminal import console, progress
    from harness.session import Session
    from harness.study.overhead import PAIRS, measure_overheads, write_overheads

    cases = chosen_cases(arguments, arguments.paths)
    pairs = arguments.pair or list(PAIRS)
    unknown = [pair for pair in pairs if pair not in PAIRS]
    if unknown:
        known = ", ".join(f"`{pair}`" for pair in PAIRS)
        raise UsageError(f"--pair is one of {known}; found `{unknown[0]}`")
    out = out_of(arguments)
    with (
        progress(len(cases) * len(pairs)) as steps,
        Session(store_of(arguments), out) as session,
    ):

        def step(case: str, pair: str) -> None:
            steps.doing(case, pair)
            steps.done()

        found, missed = measure_overheads(
            session,
            cases,
            pairs,
            turns=arguments.turns,
            rounds=arguments.rounds,
            on_step=step,
        )
    path = write_overheads(out, found, missed)
    if arguments.json:
        print_json(Costs(tuple(found), dict(missed)))
    else:
        print_overheads(console(), found, missed)
        say(f"wrote {path}")
    return 0 if found else 3


def _cost_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="scenario files or folders")
    add_choice(parser, device=Device.CPU)
    parser.add_argument(
        "--pair",
        action="append",
        metavar="NAME",
        help="compare only this pair of settings, as the table names it (default: all pairs)",
    )
    parser.add_argument(
        "--turns",
        type=at_least_one,
        default=5,
        metavar="N",
        help="how many ratios to measure (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=at_least_one,
        default=2,
        metavar="N",
        help="how many timed runs make one ratio (default: %(default)s)",
    )
    add_out(parser)
    add_json(parser)


# harness bisect


def bisect(arguments: argparse.Namespace) -> int:
    """Find the release of a package that moved the output.

    A search finds the first one; --all names every one. Releases run in environments of their own.
    What is recorded stays in the run's folder, where the next call with the same --out goes on. A
    release that does not install, import or run the case is skipped. Exit code 0: the question was
    answered.
    """
    from harness.launch.package_index import between
    from harness.report.study_report import print_bisection
    from harness.report.terminal import console
    from harness.session import Session
    from harness.study.bisect import Trials, search, walk
    from harness.study.moves import Until

    cases = chosen_cases(arguments, arguments.paths)
    package = arguments.package
    releases = between(package, arguments.good, arguments.bad, withdrawn=arguments.pre)
    out = out_of(arguments)
    complain(f"{len(releases)} releases of {package}; recordings: {out}")
    with Session(store_of(arguments), out) as session:
        trials = [Trials(session, case, package, arguments.companions, complain) for case in cases]
        if arguments.all:
            _try_all(trials, releases)
            found = [walk(trial, releases) for trial in trials]
        else:
            until = Until(arguments.until)
            found = [search(trial, releases, until) for trial in trials]
    if arguments.json:
        print_json([bisection.as_json() for bisection in found])
    else:
        for bisection in found:
            print_bisection(console(), bisection)
    _write_json(out / BISECTION_FILE, [bisection.as_json() for bisection in found])
    return 0


def _try_all(trials: Sequence[Trials], releases: Sequence[str]) -> None:
    """Record every case in every release; all cases of a release share its worker."""
    for release in releases:
        for trial in trials:
            trial.get(release)


def _bisect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="SCENARIO", help="scenario files or folders")
    add_choice(parser, device=Device.CPU)
    add_profile(parser)
    parser.add_argument(
        "--package",
        default="diffusers",
        metavar="NAME",
        help="the package whose releases are tried (default: %(default)s)",
    )
    parser.add_argument(
        "--good", required=True, metavar="VERSION", help="the release that others are compared with"
    )
    parser.add_argument("--bad", required=True, metavar="VERSION", help="a later release")
    add_until(parser)
    parser.add_argument(
        "--all", action="store_true", help="run every release and list each that changed the output"
    )
    parser.add_argument(
        "--pre", action="store_true", help="try yanked releases and pre-releases too"
    )
    add_json(parser)
    add_companions(parser)
    add_out(
        parser, "where recordings go; the next call goes on there (default: runs/ and the time)"
    )


# What several of them do.


def _one_scenario_options(parser: argparse.ArgumentParser, out: str = RECORDINGS) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file")
    add_choice(parser, device=Device.CPU)
    add_profile(parser)
    add_out(parser, out)


def _one_case(arguments: argparse.Namespace) -> Case:
    """Return the one case that is chosen.

    Raises:
        UsageError: Several are.
    """
    case, *others = chosen_cases(arguments, [arguments.scenario])
    if others:
        raise UsageError(
            f"{arguments.scenario} has {len(others) + 1} cases; choose one with -k, such as "
            f"-k '{case.id}'"
        )
    return case


def _write_json(path: Path, content: object) -> None:
    from harness.store.typed_json import to_text

    write_text(path, to_text(content))


COMMANDS = (
    Command(
        "calibrate",
        "derive tolerances from measured noise",
        "scenarios/ddim-digits.yaml --write",
        calibrate,
        _calibrate_options,
    ),
    Command(
        "challenge",
        "inject known faults, and say which of them the tolerances catch",
        "scenarios/sd-digits.yaml --write",
        challenge,
        _challenge_options,
    ),
    Command(
        "explain",
        "find where a case first differs, and which setting explains it",
        "runs/nightly 'sd-digits[cpu-float32]'",
        explain,
        _explain_options,
    ),
    Command(
        "cost",
        "measure the overhead of determinism, as a ratio with its spread",
        "scenarios -k 'digits and not slow'",
        cost,
        _cost_options,
    ),
    Command(
        "bisect",
        "find the release that moved the output",
        "scenarios/ddim-digits.yaml --package diffusers --good 0.25.1 --bad 0.42.1",
        bisect,
        _bisect_options,
    ),
)
