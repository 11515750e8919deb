"""Forecasts how far a GPU moves a case, from emulations of its arithmetic on the CPU.

The emulations are platforms of a calibration: each runs teacher-forced against a run on this
machine, so that each stage shows its own arithmetic alone. They are slow. So only some steps of
each scheduler are emulated, with all stages before them and after the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import FileError, NotRecordedError, UsageError
from harness.judge import drift
from harness.judge.checks import part_of_bound
from harness.records import Device, Metric, Stage, worst_first
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.scenario.tolerance import (
    LOCAL_METRICS,
    SYSTEMATIC_METRICS,
    BoundKey,
    Tolerance,
)
from harness.session import Session
from harness.store.recording import Observed, Recording
from harness.study.budget import Budget
from harness.study.calibrate import (
    PERTURBATIONS,
    Calibration,
    Effort,
    Known,
    calibrate,
    compact,
    is_comparable,
    local_figures,
)
from harness.study.emulations import EMULATIONS, Emulation, emulations_for
from harness.study.platforms import Platform
from harness.worker.protocol import RECORDING_FILE, EmulationRequest

Figures = dict[BoundKey, float]
# Drifts by kind of stage.
ByKind = dict[str, float]


@dataclass(frozen=True)
class Predicted:
    """What one emulation gave.

    Attributes:
        emulation: Its name.
        switched_off: What of deterministic mode keeps a GPU from doing this to the case; empty
            where a GPU may do it. The bounds that follow rest on the latter alone.
        local: The largest relative L2 drift of any stage, by its kind.
        margins: The least margin of any stage to one of the scenario's bounds on it, those on
            systematic drift too, by its kind; below 1 a bound is exceeded. A kind without a bound,
            or that did not move, is missing.
        seen: What was emulated, in words; empty where its recording is gone.
    """

    emulation: str
    switched_off: str
    local: ByKind
    margins: ByKind
    seen: str = ""

    @property
    def exceeds(self) -> tuple[str, ...]:
        """The kinds of which a stage exceeds its bound."""
        return tuple(kind for kind, margin in self.margins.items() if margin < 1)


@dataclass(frozen=True)
class Measured:
    """What a real GPU gave: its numerics class, and its drifts from this machine by kind."""

    numerics_class: str
    local: ByKind


@dataclass(frozen=True)
class Forecast:
    """What is forecast for one case.

    Attributes:
        case: Its id.
        on: The name of the numerics class from which every drift was taken.
        steps: How many steps of each scheduler were emulated.
        kinds: The kinds of stages that something moved, in the order of the run.
        noise: The median drift over perturbations by one unit in the last place, by kind.
        predicted: One for each emulation that was run.
        bounds: The scenario's bounds on relative local L2 now, the loosest of each kind; a kind
            without a bound is missing.
        derived: The bounds that follow, the loosest of each kind.
        measured: One for each numerics class of a GPU.
        missed: Why an emulation was not run, by its name.
    """

    case: str
    on: str
    steps: int
    kinds: tuple[str, ...]
    noise: ByKind
    predicted: tuple[Predicted, ...]
    bounds: ByKind
    derived: ByKind
    measured: tuple[Measured, ...] = ()
    missed: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> tuple[Predicted, ...]:
        """What a GPU may do to the case in the mode that the case runs in."""
        return tuple(each for each in self.predicted if not each.switched_off)

    @property
    def is_within(self) -> bool:
        """Whether the scenario's bounds admit everything that is expected."""
        return not any(each.exceeds for each in self.expected)


@dataclass(frozen=True)
class Plan:
    """What a forecast runs.

    Attributes:
        names: The emulations; empty for all that there are for the case's type.
        steps: How many steps of each scheduler are emulated, the first and the last among them.
        perturbations: How many perturbations by one unit in the last place are run.
        budget: How long all may take.
        runs: Folders of runs that may hold recordings of the case on a GPU.
    """

    names: Sequence[str] = ()
    steps: int = 2
    perturbations: int = 4
    budget: Budget = field(default_factory=Budget)
    runs: Sequence[Path] = ()

    def emulations(self, case: Case) -> dict[str, Emulation]:
        """Return the emulations that are run for a case, by name."""
        found = emulations_for(case)
        return {name: found[name] for name in self.names or found if name in found}

    def count(self, case: Case) -> int:
        """Return how many runs a case takes, beside those that measure a GPU."""
        return 1 + self.perturbations + len(self.emulations(case))


def why_not(case: Case) -> str:
    """Return why there is no forecast for a case; empty where there is one."""
    scenario = case.scenario
    reasons = {
        "is a variant; its scenario without a change has a forecast": bool(scenario.variant),
        "does not run on the CPU, on which emulations compute": case.target.device
        is not Device.CPU,
        f"runs in {scenario.framework}, whose operators are not emulated": scenario.framework
        is not Framework.TORCH,
        "is expected to vary": not scenario.needs_baseline,
        "is executed in a way that is not emulated": bool(scenario.executions),
        f"no emulation is of {case.target.dtype}": not emulations_for(case),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def forecast(session: Session, case: Case, plan: Plan, on_step: Callable[[str], None]) -> Forecast:
    """Forecast the local drift of each stage of a case on a GPU.

    Args:
        session: Runs the case; its folder keeps recordings and drifts.
        case: The case, of which `why_not` says nothing.
        plan: What is run.
        on_step: Called with what is being run.

    Raises:
        NotRecordedError: The case does not run on this machine.
        UsageError: It has no stages, a drift is infinite or NaN, or no emulation is of its type.
    """
    case = _alone(case)
    emulations = plan.emulations(case)
    if not emulations:
        raise UsageError(f"{case.id}: none of {', '.join(plan.names)} is of {case.target.dtype}")
    on_step("base-0")
    folder = session.out / "recordings" / case.scenario.name / case.key
    base = session.record(case, folder=folder / "base-0")
    if not base.stages:
        raise UsageError(f"{case.id}: shows no stages, so that nothing of it can be emulated")
    stages = chosen_stages([each.stage for each in base.stages], plan.steps)
    platforms = {name: Platform(emulation=_request(name, stages)) for name in emulations}
    effort = Effort(seeds=1, perturbations=plan.perturbations, budget=plan.budget)
    known = Known(base)
    found = calibrate(session, case, platforms, effort=effort, on_step=on_step, known=known)
    kept = _only(found, emulations)
    measured = _measured(session, case, base, plan.runs, on_step)
    return _forecast(case, kept, plan.steps, measured, _effects(folder, emulations))


def chosen_stages(stages: Sequence[Stage], steps: int) -> list[str]:
    """Return the names of the stages that are emulated, in the order of the run.

    They are all stages that lead to the chosen steps of each scheduler, from the step before it,
    and all after the last step. The chosen steps are spread evenly, and the first and the last one
    are among them.

    Args:
        stages: All stages of a run, in order.
        steps: How many steps of each scheduler are chosen; at least 1.
    """
    by_kind: dict[str, list[Stage]] = {}
    for stage in stages:
        if stage.is_scheduler_step:
            by_kind.setdefault(stage.kind, []).append(stage)
    chosen = {each for of_kind in by_kind.values() for each in _spread(of_kind, steps)}
    found: list[str] = []
    waiting: list[str] = []
    for stage in stages:
        waiting.append(str(stage))
        if stage.is_scheduler_step:
            found += waiting if stage in chosen else []
            waiting = []
    return found + waiting


def _spread(stages: Sequence[Stage], count: int) -> list[Stage]:
    """Return `count` of the stages, evenly spread, the first and the last one among them."""
    last = len(stages) - 1
    if count >= len(stages) or count == 1:
        return list(stages[:count])
    return [stages[round(index * last / (count - 1))] for index in range(count)]


def _alone(case: Case) -> Case:
    """Return the case without bounds on its batch, which would be measured by free runs."""
    tolerances = replace(case.scenario.tolerances, batch=None)
    return replace(case, scenario=replace(case.scenario, tolerances=tolerances))


def _request(name: str, stages: Sequence[str]) -> EmulationRequest:
    return {"name": name, "stages": list(stages)}


def _only(found: Calibration, emulations: Mapping[str, Emulation]) -> Calibration:
    """Return a calibration without the baselines of other machines, which are no emulations.

    Of each kind of stage that anything moved, only the stages that were moved stay: the others were
    not emulated, and say nothing.
    """
    platforms = [figures for name, figures in found.platforms.items() if name in emulations]
    moved = {key for figures in platforms for key, value in figures.items() if value}
    kinds = {_kind(key) for key in moved}
    stages = {key.pattern for key in moved}

    def kept(figures: Mapping[BoundKey, float]) -> Figures:
        return {
            key: value
            for key, value in figures.items()
            if key.pattern in stages or _kind(key) not in kinds
        }

    return replace(
        found,
        noise=kept(found.noise),
        draws={
            name: [kept(run) for run in runs]
            for name, runs in found.draws.items()
            if name in emulations or name == PERTURBATIONS
        },
        missed={name: why for name, why in found.missed.items() if name in emulations},
    )


def _forecast(
    case: Case,
    found: Calibration,
    steps: int,
    measured: Sequence[Measured],
    effects: Mapping[str, str],
) -> Forecast:
    tolerance = case.scenario.tolerances.cross_class
    predicted = tuple(
        Predicted(
            name,
            "" if EMULATIONS[name].is_expected(case) else EMULATIONS[name].switched_off,
            _by_kind(figures),
            _margins(figures, tolerance),
            effects.get(name, ""),
        )
        for name, figures in found.platforms.items()
    )
    of_all = {kind: value for each in predicted for kind, value in each.local.items() if value}
    kinds = tuple(kind for kind in _by_kind(found.noise) if kind in of_all)
    expected = {each.emulation for each in predicted if not each.switched_off}
    return Forecast(
        case.id,
        found.on,
        steps,
        kinds,
        _by_kind(found.noise),
        predicted,
        _bounds(found, tolerance),
        _derived(found, expected),
        tuple(measured),
        found.missed,
    )


def _derived(found: Calibration, expected: set[str]) -> ByKind:
    """Return the bounds that follow where only what is expected is evidence."""
    evidence = replace(
        found,
        draws={
            name: each
            for name, each in found.draws.items()
            if name in expected or name == PERTURBATIONS
        },
    )
    return _by_kind(compact(evidence.limits()))


def _kind(key: BoundKey) -> str:
    return key.pattern.partition("#")[0]


def _by_kind(figures: Mapping[BoundKey, float]) -> ByKind:
    """Return the largest relative local L2 of each kind of stage."""
    found: ByKind = {}
    for key, value in figures.items():
        if key.metric is Metric.LOCAL_REL_L2:
            found[_kind(key)] = max(found.get(_kind(key), 0.0), value, key=worst_first)
    return found


def _margins(figures: Mapping[BoundKey, float], tolerance: Tolerance | None) -> ByKind:
    """Return the least margin of each kind, over the figures of its stages that have a bound."""
    found: ByKind = {}
    for key, value in figures.items():
        if key.metric not in LOCAL_METRICS or not value:
            continue
        bound = _bound_on(key, tolerance)
        if bound is None:
            continue
        if key.metric in SYSTEMATIC_METRICS:
            rel_l2 = replace(key, metric=Metric.LOCAL_REL_L2)
            bound *= part_of_bound(figures[rel_l2], _bound_on(rel_l2, tolerance))
        found[_kind(key)] = min(found.get(_kind(key), math.inf), bound / value)
    return found


def _bound_on(key: BoundKey, tolerance: Tolerance | None) -> float | None:
    if tolerance is None:
        return None
    if tolerance.exact:
        return 0.0
    return tolerance.local_bound(key.metric, Stage.parse(key.pattern))


def _bounds(found: Calibration, tolerance: Tolerance | None) -> ByKind:
    """Return the loosest of the scenario's bounds on the stages of each kind."""
    bounds: ByKind = {}
    for key in found.noise:
        if key.metric is not Metric.LOCAL_REL_L2:
            continue
        bound = _bound_on(key, tolerance)
        if bound is not None:
            bounds[_kind(key)] = max(bounds.get(_kind(key), 0.0), bound)
    return bounds


def _effects(folder: Path, emulations: Mapping[str, Emulation]) -> dict[str, str]:
    """Return what each emulation's recording says of its effect, as far as it is there."""
    found: dict[str, str] = {}
    for name in emulations:
        path = folder / f"{name}-0-teacher-forced"
        if not (path / RECORDING_FILE).is_file():
            continue
        try:
            found[name] = "; ".join(effect.seen for effect in Recording.read(path).effects)
        except FileError:
            continue
    return found


# What a real GPU did.


def _measured(
    session: Session,
    case: Case,
    base: Recording,
    runs: Sequence[Path],
    on_step: Callable[[str], None],
) -> list[Measured]:
    """Return how far each numerics class of a GPU is from this machine, stage by stage.

    The case runs here, teacher-forced by what the GPU recorded.
    """
    found: dict[str, Measured] = {}
    for observed in [*_baselines(session, case, base), *_recordings(case, runs)]:
        name = observed.numerics_class.name
        if name in found or not is_comparable(observed, base):
            continue
        on_step(name)
        forced = replace(case, teacher_tensors=observed.tensors_path.resolve())
        folder = session.out / "recordings" / case.scenario.name / case.key / name
        try:
            actual = session.record(forced, folder=folder)
        except NotRecordedError:
            continue
        found[name] = Measured(name, _local(actual, observed))
    return list(found.values())


def _baselines(session: Session, case: Case, base: Recording) -> Sequence[Observed]:
    return session.store.of_other_classes(case, base.numerics_class, (Device.CUDA,))


def _recordings(case: Case, runs: Sequence[Path]) -> list[Observed]:
    """Return what runs recorded of the case on a GPU."""
    on_gpu = replace(case, target=replace(case.target, device=Device.CUDA))
    folders = [run / "recordings" / case.scenario.name / on_gpu.key for run in runs]
    return [Recording.read(each) for each in folders if (each / RECORDING_FILE).is_file()]


def _local(actual: Recording, expected: Observed) -> ByKind:
    return _by_kind(local_figures(drift.of_teacher_forced(actual, expected)))
