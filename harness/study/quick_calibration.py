"""The bounds across classes that `record` measures where a scenario sets none: a small calibration.

It has a few perturbations and two platforms: one on which no kernel is that of this machine, and
one that divides sums among two threads. What these bounds admit was measured on scenarios of this
repository and on pipelines of diffusers' tests (docs/measurements/quick-calibration.md). `harness
calibrate` measures more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UsageError
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.scenario.tolerance import Evidence
from harness.session import Session
from harness.store.baselines import Baseline, Store
from harness.store.recording import Recording
from harness.study.budget import Budget
from harness.study.calibrate import Effort, Known, calibrate
from harness.study.platforms import platforms_of

FOLDER = "quick-calibrations"  # of their runs, in the folder of the run that recorded
PLATFORMS = ("oldest", "threads-2")
PERTURBATIONS = 4
RUNS = PERTURBATIONS + len(PLATFORMS)
SECONDS = 60.0  # for one case; a step that would probably end later is not begun


def needs_bounds(case: Case, baseline: Baseline) -> bool:
    """Whether a new baseline gets bounds: other classes are held to it, and nothing bounds that.

    A variant has the bounds of its scenario or contract. What a served engine or another framework
    than torch computes cannot be perturbed, or not on a platform of one's own.
    """
    scenario = case.scenario
    return (
        baseline.reference
        and scenario.tolerances.cross_class is None
        and scenario.framework is Framework.TORCH
        and not scenario.variant
        and bool(baseline.stages)
    )


@dataclass(frozen=True)
class Recorded:
    """A case whose recording became a baseline, and the baseline's JSON file."""

    case: Case
    recording: Recording
    baseline: Path


def without_bounds(store: Store, recorded: Sequence[Recorded]) -> list[Recorded]:
    """Return those of new baselines that get bounds.

    Raises:
        BaselineError: One is damaged.
    """
    return [
        each
        for each in recorded
        if needs_bounds(each.case, store.read(each.baseline, tensors=False))
    ]


def add_bounds(session: Session, recorded: Recorded, on_step: Callable[[str], None]) -> Evidence:
    """Measure the bounds of a new baseline, and keep them there.

    Args:
        session: Runs the case; its folder keeps the recordings.
        recorded: What was recorded.
        on_step: Called with what is being measured.

    Returns:
        The evidence with its bounds.

    Raises:
        UsageError: One run of the case takes too long for any, or a drift that was measured is
            infinite or NaN.
        NotRecordedError: The case does not run again.
    """
    case, base = recorded.case, recorded.recording
    budget = Budget(SECONDS, longest=base.cost.first_seconds or 0.0)
    found = calibrate(
        session,
        case,
        {name: each for name, each in platforms_of(case).items() if name in PLATFORMS},
        effort=Effort(seeds=1, perturbations=PERTURBATIONS, budget=budget),
        on_step=on_step,
        known=Known(base),
    )
    if not found.perturbations and not found.platforms:
        raise UsageError(f"{case.id}: one run takes too long for a quick calibration")
    evidence = replace(found.evidence(), fingerprint=case.scenario.fingerprint)
    session.store.annotate(recorded.baseline, evidence=evidence)
    return evidence
