"""The commands that study one case: read arguments, call the study, print, and write what was asked for."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.scenario.model import Case, read_all
from harness.scenario.select import select
from harness.worker.protocol import dumps

if TYPE_CHECKING:
    from harness.study.calibrate import Calibration


def calibrate(arguments: argparse.Namespace) -> int:
    """Derive a scenario's tolerances from measured noise: nudges by one unit in the last place, and synthetic platforms."""
    from harness.report.terminal import console, print_calibration, progress
    from harness.scenario.write_tolerance import write_tolerance
    from harness.session import Session, alone
    from harness.store.baselines import Store, annotate
    from harness.store.run_folder import new_run
    from harness.study.calibrate import calibrate as measure
    from harness.study.platforms import platforms_of

    case = _one_case(arguments)
    store, out = (
        Store(Path(arguments.baselines)),
        Path(arguments.out) if arguments.out else new_run(),
    )
    platforms = platforms_of(case)
    total = arguments.seeds + (2 + len(alone(case.scenario))) * (
        arguments.perturbations + arguments.seeds * len(platforms)
    )
    with progress(total) as (doing, done), Session(store, out) as session:

        def step(name: str) -> None:
            doing(case.id, name)
            done(case.id)

        found = measure(
            session,
            case,
            platforms,
            seeds=arguments.seeds,
            perturbations=arguments.perturbations,
            on_step=step,
        )
    print_calibration(console(), found, case.scenario.tolerance)
    if arguments.write:
        _check_writable(case, found)
        evidence = found.evidence()
        write_tolerance(
            case.scenario.path, _as_set(found.bounds(), case.scenario.tolerance), evidence
        )
        print(f"wrote {case.scenario.path}")
        for path in store.files(case.scenario.name, case.place):
            annotate(path, "evidence", evidence)
            print(f"wrote {path}: evidence")
    return 0 if all(found.left_out().values()) else 1


def _check_writable(case: Case, found: Calibration) -> None:
    """Raise UsageError where bounds follow from no platform, or would replace those of a device that was not measured."""
    before = case.scenario.tolerance.get("evidence", {}).get("on", "").partition("-")[0]
    if not found.platforms:
        raise UsageError(f"{case.id}: nothing is written: no platform could be measured")
    if before not in ("", case.device, *found.platforms):
        raise UsageError(
            f"{case.scenario.path}: its bounds were measured on {before}, and would be replaced by those of {case.device} alone; "
            f"give the cases on {case.device} a scenario of their own"
        )


def _as_set(bounds: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the cross-class bounds of the kinds that the scenario sets, such as local ones alone; all, if it sets none."""
    kinds = now.get("cross-class")
    kept = {
        name: most
        for name, most in bounds["cross-class"].items()
        if not isinstance(kinds, dict) or name in kinds
    }
    return {**bounds, "cross-class": kept}


def challenge(arguments: argparse.Namespace) -> int:
    """Plant known faults into a scenario and print which of them its tolerances catch, in the same class and in another."""
    from harness.report.terminal import console, print_challenge, progress
    from harness.session import Session
    from harness.store.baselines import Store, annotate
    from harness.store.run_folder import new_run
    from harness.study.challenge import challenge as plant
    from harness.study.platforms import platforms_of

    case = _one_case(arguments)
    store, out = (
        Store(Path(arguments.baselines)),
        Path(arguments.out) if arguments.out else new_run(),
    )
    platforms = platforms_of(case)
    name = arguments.platform or ("portable" if "portable" in platforms else next(iter(platforms)))
    if name not in platforms:
        raise UsageError(
            f"{case.id} has no platform `{name}`; expected one of {', '.join(platforms)}"
        )
    platform = (name, platforms[name])
    with progress(130) as (doing, done), Session(store, out) as session:

        def step(name: str, total: int) -> None:
            doing(case.id, name)
            done(case.id)

        found = plant(session, case, platform, on_step=step)
    print_challenge(console(), found)
    (out / "challenge.json").write_text(dumps(found.as_json()), encoding="utf-8")
    if arguments.write:
        for path in store.files(case.scenario.name, case.place):
            annotate(path, "certificate", found.certificate())
            print(f"wrote {path}: certificate")
    certificate = found.certificate()
    return 1 if certificate["missed"] else 0


def explain(arguments: argparse.Namespace) -> int:
    """Say why cases of a run moved: without CASE from the recordings alone, with it by running both sides again.

    The first input or stage that differs, then the module and the operator that turned the same bits into others, and the
    setting that goes with it.
    """
    from harness.judge import first_difference as divergence
    from harness.judge.environment_diff import list_changes
    from harness.records import Recording
    from harness.report.explanation import text
    from harness.report.terminal import progress
    from harness.session import Session
    from harness.store.baselines import Store
    from harness.store.run_folder import read_results
    from harness.study.explain import Explanation
    from harness.study.explain import explain as inquire

    run, store = Path(arguments.run), Store(Path(arguments.baselines))
    outcomes = [
        o
        for o in read_results(run)[0]
        if o.baseline and (not arguments.case or o.case == arguments.case)
    ]
    if not outcomes:
        raise UsageError(
            f"{run} holds no case {arguments.case or 'at all'} that was held against a baseline"
        )
    with Session(store, run) as session:
        for outcome in outcomes:
            (case,) = select(read_all([Path(outcome.path)]), outcome.case, None)
            now = Recording.read(session.folder(case))
            match = store.match(case, now.numerics_class)
            if match is None:
                raise UsageError(f"{outcome.case}: its baseline is gone from {store.root}")
            then = match.baseline.recording
            changes = list_changes(now.content["environment"], then.content["environment"])
            if not arguments.case:
                print(text(Explanation(case.id, divergence.first(now, then) or "")))
                continue
            with progress(0) as (doing, _):
                found = inquire(
                    session,
                    case,
                    now,
                    then,
                    limit=arguments.roots,
                    on_step=partial(doing, case.id),
                    packages=arguments.packages,
                )
            bounds = case.scenario.tolerance.get("cross-class")
            values = (
                divergence.by_value(outcome.local, outcome.free, bounds)
                if isinstance(bounds, dict)
                else []
            )
            print(text(replace(found, values=values), changes))
    return 0


def cost(arguments: argparse.Namespace) -> int:
    """Measure what determinism and the portable profile cost: each case under both settings, in turn, on two live workers.

    With the --out of a run, the report of that run shows the prices too.
    """
    from harness.report.terminal import console, print_prices, progress
    from harness.session import Session
    from harness.store.baselines import Store
    from harness.store.run_folder import new_run
    from harness.study.overhead import PAIRS, prices, write_prices

    cases = select(read_all(map(Path, arguments.paths)), arguments.k, arguments.device)
    pairs = arguments.pair or list(PAIRS)
    if not set(pairs) <= set(PAIRS):
        raise UsageError(
            f"--pair is one of {', '.join(f'`{pair}`' for pair in PAIRS)}; found `{next(p for p in pairs if p not in PAIRS)}`"
        )
    store, out = (
        Store(Path(arguments.baselines)),
        Path(arguments.out) if arguments.out else new_run(),
    )
    with progress(len(cases) * len(pairs)) as (doing, done), Session(store, out) as session:

        def step(case: str, pair: str) -> None:
            doing(case, pair)
            done(case)

        found, missed = prices(
            session, cases, pairs, turns=arguments.turns, rounds=arguments.rounds, on_step=step
        )
    path = write_prices(out, found, missed)
    print_prices(console(), found, missed)
    print(f"wrote {path}")
    return 3 if not found else 0


def bisect(arguments: argparse.Namespace) -> int:
    """Find the release of a package that moved the output: the first one by a search, or with --all every one.

    Releases run in environments of their own; what is recorded stays in the run's folder, where the next call with the same
    --out goes on. One that does not install, import or run the case is skipped. Exit code 0: the question was answered.
    """
    from harness.launch.package_index import between
    from harness.report.terminal import console, print_bisection
    from harness.session import Session
    from harness.store.baselines import Store
    from harness.store.run_folder import new_run
    from harness.study.bisect import Trials, search, walk

    cases = select(
        read_all(map(Path, arguments.paths)), arguments.k, arguments.device, arguments.profile
    )
    releases = between(arguments.package, arguments.good, arguments.bad, withdrawn=arguments.pre)
    out = Path(arguments.out) if arguments.out else new_run()
    print(f"{len(releases)} releases of {arguments.package}; recordings: {out}", file=sys.stderr)
    with Session(Store(Path(arguments.baselines)), out) as session:

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        trials = [
            Trials(session, case, arguments.package, arguments.companions, say) for case in cases
        ]
        for release in (
            releases if arguments.all else ()
        ):  # all cases in one worker, before the next release's
            for trial in trials:
                trial.get(release)
        found = [
            walk(t, releases) if arguments.all else search(t, releases, arguments.until)
            for t in trials
        ]
    for one in found:
        print_bisection(console(), one)
    (out / "bisect.json").write_text(dumps([one.as_json() for one in found]), encoding="utf-8")
    return 0


def _one_case(arguments: argparse.Namespace) -> Case:
    (case, *others) = select(
        read_all([Path(arguments.scenario)]), arguments.k, arguments.device, arguments.profile
    )
    if others:
        raise UsageError(
            f"{arguments.scenario} has {len(others) + 1} cases; choose one with -k, such as -k {case.place}"
        )
    return case
