"""Mutation testing for tolerances: plants known faults, and says which of them a scenario's bounds catch, and by which bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import NotRecordedError, UsageError
from harness.judge import checks as tolerance
from harness.judge import drift
from harness.judge.verdict import structure
from harness.records import Check, Recording
from harness.scenario.model import Case
from harness.session import Session
from harness.study import other_methods as peers
from harness.study.fault_catalogue import Fault, catalogue
from harness.study.platforms import Platform


@dataclass(frozen=True)
class Trial:
    """One fault: that it took effect, and what the bounds say of it.

    `effect` is the relative L2 drift that the fault alone causes, on one platform, where it changed bits of an output;
    `checks` its drifts on another platform against the cross-class bounds, the most exceeded first; `folder` the name of
    its recording's folder; `unseen_by` the methods in use elsewhere that let it pass, without another platform's noise.
    """

    fault: str
    proof: str
    effect: float
    checks: tuple[Check, ...]
    folder: str
    unseen_by: tuple[str, ...] = ()

    @property
    def cross_class(self) -> bool:
        """Whether a bound catches it on another platform."""
        return any(not check.passed for check in self.checks)

    @property
    def ratio(self) -> float:
        """How many times the most exceeded bound is exceeded."""
        return max((check.value / check.bound for check in self.checks if check.bound), default=0.0)


@dataclass(frozen=True)
class Challenge:
    """The trials of one case; `without_effect` names the faults that do not apply or changed nothing, with the reason."""

    case: str
    platform: str
    noise: float
    trials: tuple[Trial, ...]
    without_effect: dict[str, str]

    @property
    def above_noise(self) -> list[Trial]:
        """The trials whose effect exceeds what one unit in the last place does: those that another class can tell."""
        return [trial for trial in self.trials if trial.effect > self.noise]

    def as_json(self) -> dict[str, Any]:
        """Return everything, as `challenge.json` holds it."""
        trials = [
            {
                "fault": t.fault,
                "proof": t.proof,
                "effect": t.effect,
                "ratio": t.ratio,
                "caught": t.cross_class,
                "folder": t.folder,
                "unseen_by": list(t.unseen_by),
            }
            for t in self.trials
        ]
        return {
            "case": self.case,
            "platform": self.platform,
            "noise": self.noise,
            "trials": trials,
            "idle": self.without_effect,
        }

    def certificate(self) -> dict[str, Any]:
        """Return what a baseline keeps."""
        above = self.above_noise
        return {
            "faults": len(self.trials),
            "same_class_caught": len(self.trials),
            "above_noise": len(above),
            "cross_class_caught": sum(trial.cross_class for trial in above),
            "missed": sorted(trial.fault for trial in above if not trial.cross_class),
            "platform": self.platform,
        }


def challenge(
    session: Session,
    case: Case,
    platform: tuple[str, Platform],
    *,
    on_step: Callable[[str, int], None],
) -> Challenge:
    """Plant every fault of the catalogue into `case` and hold what comes out against the scenario's cross-class bounds.

    Each fault runs on this platform, where it must change bits, and on another one free and anchored, where it must
    exceed a bound although everything there differs anyway.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        case: Without a fault, on this machine's own settings.
        platform: The other platform, after its name.
        on_step: Called with what runs, and how many faults there are.

    Raises:
        UsageError: The case is expected to vary, or its scenario sets no cross-class bounds.
    """
    scenario = case.scenario
    bounds = scenario.tolerance.get("cross-class")
    if not scenario.owes_baseline or not isinstance(bounds, dict):
        raise UsageError(
            f"{case.id} sets no `tolerance.cross-class` to challenge; `harness calibrate` derives one"
        )
    faults = catalogue("decoder" if scenario.pipeline.startswith("UnCLIP") else "unet")
    folder = session.out / "recordings" / scenario.name / case.place
    base = session.record(case, folder=folder / "base")
    here: dict[str, tuple[Case, Recording]] = {}
    idle: dict[str, str] = {}
    for fault in faults:
        on_step(fault.name, 2 * len(faults))
        found = _run_here(session, case, fault, base, folder / _slug(fault.name))
        if isinstance(found, str):
            idle[fault.name] = found
        else:
            here[fault.name] = found
    trials = []
    for name, (carrier, now) in here.items():
        on_step(name, 2 * len(faults))
        elsewhere = platform[1].carry(carrier)
        free = session.record(elsewhere, folder=folder / f"{_slug(name)}-{platform[0]}")
        anchored = replace(elsewhere, anchors=base.tensors_path.resolve())
        local = session.record(anchored, folder=folder / f"{_slug(name)}-{platform[0]}-anchored")
        checks, unseen = _checks(free, local, base, bounds), _unseen(now, base)
        trials.append(
            Trial(name, _proof(carrier, now), _effect(now, base), checks, _slug(name), unseen)
        )
    noise = scenario.tolerance.get("evidence", {}).get("noise", {}).get("rel_l2", 0.0)
    return Challenge(case.id, platform[0], noise, tuple(trials), idle)


def _run_here(
    session: Session, case: Case, fault: Fault, base: Recording, folder: Any
) -> tuple[Case, Recording] | str:
    """Return the case that carries the fault and its recording, or why the fault has no effect."""
    carrier = fault.apply(case)
    if carrier is None:
        return "does not apply"
    try:
        now = session.record(carrier, folder=folder)
    except NotRecordedError as error:
        return error.reason
    if all(
        now.outputs[name]["digest"] == output["digest"] for name, output in base.outputs.items()
    ):
        return "changes no bit of any output"
    return carrier, now


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _proof(carrier: Case, now: Recording) -> str:
    return str(
        now.content["fault"]
        or f"call {carrier.scenario.call}, seeds {carrier.scenario.seeds}, {carrier.scenario.generator}"
    )


def _effect(now: Recording, base: Recording) -> float:
    if any(now.outputs[name]["shape"] != output["shape"] for name, output in base.outputs.items()):
        return float("inf")
    return max(_worst(moved.rel_l2) for moved in drift.of_outputs(now, base).values())


def _unseen(now: Recording, base: Recording) -> tuple[str, ...]:
    name, mine, theirs = "output/image", now.tensors(), base.tensors()
    return (
        tuple(peers.unseen_by(mine[name], theirs[name]))
        if name in theirs and theirs[name].ndim == 4
        else ()
    )


def _checks(
    free: Recording, anchored: Recording, base: Recording, bounds: dict[str, Any]
) -> tuple[Check, ...]:
    other = structure(free, base)
    if other:
        return (Check(other, math.inf, 0.0),)
    held = [
        check
        for name, moved in drift.of_outputs(free, base).items()
        for check in tolerance.check(name, moved, bounds)
    ]
    held += tolerance.check_local(drift.of_stages(anchored, base), bounds)
    if len(free.stages) != len(base.stages):
        held.append(Check("count of stages", float(len(free.stages)), float(len(base.stages))))
    return tuple(
        sorted(
            held,
            key=lambda check: -_worst(check.value / check.bound if check.bound else check.value),
        )
    )


def _worst(number: float) -> float:
    return float("inf") if number != number else number  # noqa: PLR0124 (NaN, which no comparison finds)
