"""The commands that study one case: read arguments, call the study, print, and write what was asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import UsageError
from harness.scenarios import Case, read_all
from harness.selection import select
from harness.worker.protocol import dumps


def calibrate(arguments: argparse.Namespace) -> int:
    """Derive a scenario's tolerances from measured noise: nudges by one unit in the last place, and synthetic platforms."""
    from harness.baselines import Store, annotate
    from harness.report.terminal import console, print_calibration, progress
    from harness.session import Session, alone, new_run
    from harness.study.calibrate import calibrate as measure
    from harness.study.calibrate import write_tolerance
    from harness.study.platforms import PLATFORMS

    case = _one_case(arguments)
    store, out = Store(Path(arguments.baselines)), Path(arguments.out) if arguments.out else new_run()
    platforms = PLATFORMS if case.device == "cpu" else {"channels-last": PLATFORMS["channels-last"]}
    total = arguments.seeds + (2 + len(alone(case.scenario))) * (arguments.perturbations + arguments.seeds * len(platforms))
    with progress(total) as (doing, done), Session(store, out) as session:

        def step(name: str) -> None:
            doing(case.id, name)
            done(case.id)

        found = measure(session, case, platforms, seeds=arguments.seeds, perturbations=arguments.perturbations, on_step=step)
    print_calibration(console(), found, case.scenario.tolerance)
    if arguments.write:
        evidence = found.evidence()
        write_tolerance(case.scenario.path, found.bounds(), evidence)
        print(f"wrote {case.scenario.path}")
        for path in store.files(case.scenario.name, case.place):
            annotate(path, "evidence", evidence)
            print(f"wrote {path}: evidence")
    return 0 if all(found.left_out().values()) else 1


def challenge(arguments: argparse.Namespace) -> int:
    """Plant known faults into a scenario and print which of them its tolerances catch, in the same class and in another."""
    from harness.baselines import Store, annotate
    from harness.report.terminal import console, print_challenge, progress
    from harness.session import Session, new_run
    from harness.study.challenge import challenge as plant
    from harness.study.platforms import PLATFORMS

    case = _one_case(arguments)
    store, out = Store(Path(arguments.baselines)), Path(arguments.out) if arguments.out else new_run()
    platform = (arguments.platform, PLATFORMS[arguments.platform])
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


def _one_case(arguments: argparse.Namespace) -> Case:
    (case, *others) = select(read_all([Path(arguments.scenario)]), arguments.k, arguments.device, arguments.profile)
    if others:
        raise UsageError(f"{arguments.scenario} has {len(others) + 1} cases; choose one with -k, such as -k {case.place}")
    return case
