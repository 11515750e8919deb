"""Derives the tolerances of a scenario from measured drifts, and gathers the evidence for them.

Two things are measured: how far perturbed inputs move a case on this platform (its rounding noise),
and how far other platforms move it. Each is measured in a teacher-forced run, for the local drift
of each stage. Free drift depends on the seed and grows from step to step, so that it is bounded
only where a run shows no stages, or between the images of a batch.

A bound on relative L2 or L-inf is the largest of `OVER_NOISE` times the median perturbation,
`OVER_WORST` times the worst platform, and a least value. Those on systematic and on free drift
follow from the spread of all runs (`study/spread.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median, median_low
from typing import TYPE_CHECKING

import numpy as np
from packaging.version import InvalidVersion, Version

from harness.errors import NotRecordedError, UsageError
from harness.judge import drift, expectations
from harness.judge.checks import part_of_bound
from harness.judge.environment_diff import FRAMEWORKS
from harness.judge.first_difference import other_weights
from harness.judge.structure import structure
from harness.records import (
    OUTPUT,
    Device,
    Drift,
    Dtype,
    Metric,
    Stage,
    StageDrift,
    Verdict,
    bounded_stage,
    worst_first,
)
from harness.scenario.fields import Expectation, Framework
from harness.scenario.model import Case, Scenario
from harness.scenario.tolerance import (
    FREE_METRICS,
    LOCAL_METRICS,
    SYSTEMATIC_METRICS,
    BoundKey,
    Evidence,
    Kind,
    Tolerance,
    patterns_of,
)
from harness.session import Session
from harness.store.baselines import Baseline
from harness.store.recording import Observed, Recording
from harness.study import spread
from harness.study.budget import Budget
from harness.study.kept_drifts import DriftKeeper, KeptDrifts
from harness.study.platforms import Platform, held_together

if TYPE_CHECKING:
    from harness.records import Array

# A bound is at least this many times the median effect of a perturbation by one unit in the last
# place, and at least this many times the worst drift of any platform. Both were chosen; what they
# admit was measured (docs/measurements/systematic.md).
OVER_NOISE = 7.0
OVER_WORST = 2.0
# A stage whose bound would be so many times the median of its kind, or that part of it, gets a
# bound of its own: a badly conditioned first step, or one that a clamp decides.
FAR = 4.0
# The machine epsilon of each dtype: the distance from 1.0 to the next larger number. One unit in
# the last place of any normal number is between a half and the whole of it, relative to the number.
LAST_PLACE = {
    Dtype.FLOAT64: 2.0**-52,
    Dtype.FLOAT32: 2.0**-23,
    Dtype.FLOAT16: 2.0**-10,
    Dtype.BFLOAT16: 2.0**-7,
}
PERTURBATIONS = "perturbations"  # the name of what moved perturbed inputs, among the platforms
NOT_AFFORDED = "the budget was spent"
SEED_STRIDE = 1000  # what the seeds of one replica lie above those of the replica before it
COMPARED_IMAGES = (Expectation.BATCH_EQUALS_SINGLE, Expectation.IDENTICAL_IMAGES)

# Measured drifts, or the bounds that follow, each by the key of the bound in a scenario. The keys
# of local ones name a stage, or after `compact` a kind of stage.
Figures = dict[BoundKey, float]

REL_L2 = BoundKey(Kind.CROSS_CLASS, Metric.REL_L2)
L_INF = BoundKey(Kind.CROSS_CLASS, Metric.L_INF)


@dataclass(frozen=True)
class Calibration:
    """What was measured of one case, and the bounds that follow.

    Attributes:
        case: The case's id.
        on: The name of the numerics class from which every drift was measured.
        device: The device of `on`.
        seeds: How many replicas of the case every platform ran, each with seeds of its own.
        perturbations: How many perturbations were run, over the replicas in turn.
        noise: The median drift over perturbations by one unit in the last place. A free run starts
            from a perturbed initial noise; in a teacher-forced run, every tensor that is fed on is
            perturbed. In both, so is what a VAE encodes, and what stages before the noise take.
        draws: What every run gave, by the platform's name; that of perturbed inputs stands under
            `PERTURBATIONS`.
        machines: How many of the platforms are classes of other machines, and not synthetic.
        devices: The devices on which something was measured.
        last_place: The machine epsilon of the case's dtype.
        quantum: The least difference of outputs that hold integers, which is 1; else 0.
        missed: Why a platform could not be measured here, by its name. Of the platforms of a device
            that is not here, only the first is named.
        kept: How many of the measurements an earlier calibration had made already.
        measured: The day of the first measurement that was kept; empty where all are of today.
        sizes: How many elements each systematic figure is a sum of.
    """

    case: str
    on: str
    device: Device
    seeds: int
    perturbations: int
    noise: Figures
    draws: dict[str, list[Figures]]
    machines: int = 0
    devices: frozenset[Device] = frozenset()
    last_place: float = 0.0
    quantum: float = 0.0
    missed: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    measured: str = ""
    sizes: dict[BoundKey, int] = field(default_factory=dict)

    @property
    def platforms(self) -> dict[str, Figures]:
        """The worst drift of each platform over all replicas, by the platform's name."""
        measured = (item for item in self.draws.items() if item[0] != PERTURBATIONS)
        return {name: _largest(runs) for name, runs in measured}

    def worst(self, without: str = "") -> Figures:
        """Return the worst drift of any platform, leaving out the one called `without`."""
        return _largest(figures for name, figures in self.platforms.items() if name != without)

    def limits(self, without: str = "") -> Figures:
        """Return the bounds that follow, one per stage, rounded up to two significant digits.

        What no platform moves here, another one may move by one unit in the last place. So a bound
        on relative L2 across classes is at least `OVER_WORST` times the machine epsilon, and one on
        L-inf of integers is at least 1. Where nothing moved and there is no such least value, there
        is no bound.

        Args:
            without: The name of a platform that is left out of the evidence.
        """
        worst = self.worst(without)
        found: Figures = {}
        for key in sorted({*self.noise, *worst}):
            if key.metric in SYSTEMATIC_METRICS:
                continue
            limit = max(
                OVER_NOISE * self.noise.get(key, 0.0),
                OVER_WORST * worst.get(key, 0.0),
                self._least(key),
            )
            if key.metric in FREE_METRICS:
                limit = max(limit, spread.free_bound(self._draws(key, without)))
            if limit > 0:
                found[key] = _round_up(limit)
        return found | self._systematic_limits(found, without)

    def left_out(self) -> dict[str, bool]:
        """Return for each platform whether bounds that were derived without it admit its drifts."""
        return {
            name: _admits(compact(self.limits(without=name)), self.draws[name])
            for name in self.platforms
        }

    def bounds(self) -> dict[Kind, Tolerance]:
        """Return the tolerances that follow: `cross-class`, and `batch` where it was measured."""
        limits = compact(self.limits())
        batch = _of_kind(Kind.BATCH, limits)
        found = {Kind.CROSS_CLASS: Tolerance.from_keys(_of_kind(Kind.CROSS_CLASS, limits))}
        if batch:
            found[Kind.BATCH] = Tolerance.from_keys(batch)
        return found

    def evidence(self) -> Evidence:
        """Return what the scenario and its baselines keep of what was measured."""
        bounds = self.bounds()
        return Evidence(
            bounds=bounds[Kind.CROSS_CLASS],
            batch=bounds.get(Kind.BATCH),
            noise=_summary(self.noise),
            worst=_summary(self.worst()),
            platforms=len(self.platforms),
            machines=self.machines,
            skipped=tuple(self.missed),
            seeds=self.seeds,
            device=self.device,
            on=self.on,
            date=self.measured or datetime.now(UTC).date().isoformat(),
        )

    def _systematic_limits(self, limits: Figures, without: str) -> Figures:
        """Return the bounds on systematic drift, one per stage.

        Stages that one bound on relative L2 covers round alike, and their figures are taken
        together. A figure is at most that drift times the root of how many such sums the tensor
        has, and so is its bound. Where the bound is no smaller than that it says nothing, and there
        is none; but a stage that another bound would cover then keeps its own.

        Args:
            limits: The bounds on relative L2, one per stage.
            without: The name of a platform that is left out of the evidence.
        """
        rel_l2 = {key: at for key, at in limits.items() if key.metric is Metric.LOCAL_REL_L2}
        bounds = compact(rel_l2)
        alike: dict[BoundKey, list[BoundKey]] = {}
        for key in rel_l2:
            alike.setdefault(_covering_key(key, bounds), []).append(key)
        found: Figures = {}
        telling: set[BoundKey] = set()
        for covering, stages in alike.items():
            for metric in SYSTEMATIC_METRICS:
                own = [replace(stage, metric=metric) for stage in stages]
                keys = [key for key in own if key in self.sizes]
                if not keys:
                    continue
                limit = self._systematic_limit(keys, bounds[covering], without)
                most = self._most(keys, bounds[covering])
                found |= dict.fromkeys(keys, _round_up(min(limit, most)))
                if limit < most:
                    telling |= {replace(covering, metric=metric), *keys}
        return {
            key: limit for key, limit in found.items() if not telling.isdisjoint(_covering(key))
        }

    def _systematic_limit(self, keys: list[BoundKey], rel_l2: float, without: str) -> float:
        shares = [
            [
                run[key] / moved
                for run in runs
                for key in keys
                if (moved := run.get(replace(key, metric=Metric.LOCAL_REL_L2)))
            ]
            for name, runs in self.draws.items()
            if name != without
        ]
        return spread.systematic_bound(
            shares,
            rel_l2=rel_l2,
            size=min((self.sizes[key] for key in keys), default=1),
            last_place=self.last_place,
        )

    def _draws(self, key: BoundKey, without: str) -> list[float]:
        """Return the figure at `key` of every run that has it."""
        return [
            run[key]
            for name, runs in self.draws.items()
            if name != without
            for run in runs
            if key in run
        ]

    def _most(self, keys: list[BoundKey], rel_l2: float) -> float:
        """Return what a systematic figure is at most where relative L2 is `rel_l2`."""
        return rel_l2 * math.sqrt(max(map(self._sums, keys)))

    def _sums(self, key: BoundKey) -> float:
        """Return of how many sums the figure at `key` is the largest, or adds up.

        They are the channels of the tensor, or the calls before it; else one.
        """
        if key.metric is Metric.LOCAL_PERSISTENCE:
            return Stage.parse(key.pattern).index or 1
        return self.sizes[replace(key, metric=Metric.LOCAL_GAIN)] / self.sizes[key]

    def _least(self, key: BoundKey) -> float:
        """Return the least value of the bound at `key`, in the unit of its metric; 0.0 for none."""
        if key.metric is Metric.L_INF:
            return self.quantum
        return OVER_WORST * self.last_place if key.kind is Kind.CROSS_CLASS else 0.0


@dataclass(frozen=True)
class Effort:
    """How much a calibration measures.

    Attributes:
        seeds: How many replicas are run. Each has seeds of its own, because a second run of the
            same seeds on the same platform would have the same bits.
        perturbations: How many perturbations by one unit in the last place are run.
        budget: How long it may take. Within a limit, one replica is measured on every platform
            before the next one, and what was not afforded is told: fewer seeds, or platforms that
            were missed. The first replica's base run is made in any case.
    """

    seeds: int = 3
    perturbations: int = 8
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Elsewhere:
    """What was measured on platforms, run by run, and why others could not run, by their names.

    `devices` are those of the platforms that name one, and ran.
    """

    measured: dict[str, list[Figures]]
    missed: dict[str, str]
    devices: frozenset[Device]

    def plus(self, other: Elsewhere) -> Elsewhere:
        """Return this with what other replicas gave; a platform that one ran is not missed."""
        names = dict.fromkeys((*self.measured, *other.measured))
        measured = {
            name: [*self.measured.get(name, []), *other.measured.get(name, [])] for name in names
        }
        missed = {
            name: reason
            for name, reason in (other.missed | self.missed).items()
            if name not in measured
        }
        return Elsewhere(measured, missed, self.devices | other.devices)


NOWHERE = Elsewhere({}, {}, frozenset())


@dataclass(frozen=True)
class Known:
    """What is there before a calibration begins.

    Attributes:
        base: The recording that all others are compared with; None where it is still to be made.
        fleet: What runs of other machines measured.
    """

    base: Recording | None = None
    fleet: Elsewhere = NOWHERE


NOTHING_KNOWN = Known()


def calibrate(
    session: Session,
    case: Case,
    platforms: Mapping[str, Platform],
    *,
    effort: Effort,
    on_step: Callable[[str], None],
    known: Known = NOTHING_KNOWN,
) -> Calibration:
    """Measure the noise of a case: perturbed inputs on this platform, then every other platform.

    Baselines of other numerics classes in the store are platforms too, real ones, where their
    weights and frameworks are the same: what a release moved is no noise.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        case: The case, on this machine's own settings. In another framework than torch it is held
            against the same case in torch.
        platforms: The platforms to measure, by name.
        effort: How much is measured.
        on_step: Called with what is being measured.
        known: What is there already.

    Raises:
        UsageError: The case is expected to vary, so that no two runs can be compared, or a drift
            that was measured is infinite or NaN.
        NotRecordedError: A run failed on this platform itself.
    """
    if not case.scenario.needs_baseline:
        raise UsageError(f"{case.id} is expected to vary; there is no tolerance to calibrate")
    runs = _Runs(session, case, on_step, effort.budget)
    base = known.base or runs.record(_in_torch(case), "base-0")
    machines = _on_other_machines(runs, case, base)
    perturbed, elsewhere = _in_rounds(runs, case, base, platforms, effort)
    of_machines = _without(machines, runs.seen).plus(known.fleet)
    measured = elsewhere.measured | of_machines.measured
    everything = {PERTURBATIONS: perturbed, **measured}
    _check_finite(case, everything)
    return Calibration(
        case=case.id,
        on=base.numerics_class.name,
        device=case.target.device,
        seeds=min((len(each) for each in elsewhere.measured.values()), default=1),
        perturbations=len(perturbed),
        noise=_medians(perturbed),
        draws=everything,
        machines=len(of_machines.measured),
        devices=frozenset({case.target.device, *elsewhere.devices, *of_machines.devices}),
        last_place=LAST_PLACE[case.target.dtype],
        quantum=_quantum(base),
        missed={**elsewhere.missed, **of_machines.missed},
        kept=len(runs.kept),
        measured=min((each.date for each in runs.kept), default=""),
        sizes=_sizes(base),
    )


def check_writable(case: Case, calibration: Calibration) -> None:
    """Check that a scenario's bounds may be replaced by those of a calibration.

    Raises:
        UsageError: No platform was measured, or the scenario's bounds were measured on a device of
            which this calibration says nothing.
    """
    if not calibration.platforms:
        raise UsageError(f"{case.id}: nothing is written: no platform could be measured")
    evidence = case.scenario.tolerances.evidence
    before = None if evidence is None else evidence.device
    if before is not None and before not in {case.target.device, *calibration.devices}:
        device = case.target.device
        raise UsageError(
            f"{case.scenario.path}: its bounds were measured on {before}, and would be replaced by "
            f"those of {device} alone; give the cases on {device} a scenario of their own"
        )


# Running.


def runs_of(case: Case) -> int:
    """Return how many runs one comparison of a case takes: teacher-forced, or more for a batch."""
    scenario = case.scenario
    return 1 if scenario.tolerances.batch is None else 2 + len(scenario.single_images)


class _Runs:
    """The runs of one calibration.

    Attributes:
        seen: The hashes of the numerics classes that they ran in.
        kept: What an earlier calibration in the same folder had measured already.
        budget: How long they may take.
    """

    def __init__(
        self, session: Session, case: Case, on_step: Callable[[str], None], budget: Budget
    ) -> None:
        self.budget = budget
        self.seen: set[str] = set()
        self.kept: list[KeptDrifts] = []
        self._session = session
        self._settings = case.settings
        self._on_step = on_step
        self._folder = session.out / "recordings" / case.scenario.name / case.key
        self._keeper = DriftKeeper(session.out)

    def record(self, case: Case, name: str) -> Recording:
        """Run a case and return its recording, in a folder called `name`."""
        self._on_step(name)
        # On a CPU there is room for two workers: one keeps to the case's own settings.
        is_elsewhere = case.target.device is Device.CPU and case.settings != self._settings
        slot = self._session.slot(1 if is_elsewhere else 0)
        return self._session.record(case, slot, self._folder / name)

    def baselines_of_others(self, case: Case, base: Recording) -> list[Baseline]:
        """Return the baselines of a case that machines of other numerics classes left."""
        devices = held_together(case)
        return self._session.store.of_other_classes(case, base.numerics_class, devices)

    def affords(self, case: Case, base: Observed) -> bool:
        """Whether the drifts of a case from `base` are kept, or there is time to measure them."""
        is_kept = self._keeper.get(self._keeper.key(case, base)) is not None
        return is_kept or self.budget.affords()

    def drifts(self, case: Case, base: Observed, name: str) -> Figures:
        """Return the drifts of a case from `base`: those that are kept, or else measured now."""
        key = self._keeper.key(case, base)
        found = self._keeper.get(key)
        if found is None:
            with self.budget.step():
                found = self._measured(case, base, name)
            self._keeper.keep(key, found)
        else:
            self.kept.append(found)
            for _ in range(runs_of(case)):
                self._on_step(f"{name}, kept")
        self.seen.add(found.numerics_class)
        return found.figures

    def _measured(self, case: Case, base: Observed, name: str) -> KeptDrifts:
        """Measure the drifts of a case from `base`.

        The case runs teacher-forced by `base`; without stages, or where images of a batch are held
        against each other, freely, and then once for each single image.
        """
        found: Figures = {}
        if base.stages:
            forced = replace(case, teacher_tensors=base.tensors_path.resolve())
            recording = self.record(forced, f"{name}-teacher-forced")
            found |= local_figures(drift.of_teacher_forced(recording, base))
        if not base.stages or case.scenario.tolerances.batch is not None:
            recording = self.record(case, name)
            found |= {} if base.stages else free_figures(drift.of_outputs(recording, base))
            found |= self._between_images(case, recording, name)
        return KeptDrifts.of(recording.numerics_class.hash, found)

    def _between_images(self, case: Case, batch: Recording, name: str) -> Figures:
        singles = [
            self.record(replace(case, images=(image,)), f"{name}-image{image}")
            for image in case.scenario.single_images
        ]
        return _batch_figures(case.scenario, batch, singles)


def _reseeded(case: Case, index: int) -> Case:
    """Return one replica of a case: the same case with other seeds; replica 0 has its own."""
    seeds = tuple(seed + SEED_STRIDE * index for seed in case.scenario.seeds)
    return replace(case, scenario=replace(case.scenario, seeds=seeds))


def _in_torch(case: Case) -> Case:
    return replace(case, scenario=replace(case.scenario, framework=Framework.TORCH))


@dataclass(frozen=True)
class _Replica:
    """A case with seeds of its own, and which of the replicas it is, from 0."""

    index: int
    case: Case


def _in_rounds(
    runs: _Runs,
    case: Case,
    base: Recording,
    platforms: Mapping[str, Platform],
    effort: Effort,
) -> tuple[list[Figures], Elsewhere]:
    """Return what perturbations and platforms gave; within a budget, one replica after the other.

    Without one, each platform runs all replicas at once, for which its worker starts once.
    """
    replicas = [_Replica(index, _reseeded(case, index)) for index in range(effort.seeds)]
    rounds = [[each] for each in replicas] if runs.budget.is_limited else [replicas]
    bases = [base]
    perturbed: list[Figures] = []
    elsewhere = NOWHERE
    for each in rounds:
        bases += _more_bases(runs, each, len(bases))
        perturbed += _perturbed(runs, each, bases, effort)
        elsewhere = elsewhere.plus(_on_platforms(runs, each, bases, platforms))
    return perturbed, elsewhere


def _more_bases(runs: _Runs, replicas: Sequence[_Replica], count: int) -> list[Recording]:
    """Record what replicas are compared with, all but the first `count`, as far as afforded."""
    found = []
    for replica in replicas:
        if replica.index >= count and runs.budget.affords():
            with runs.budget.step():
                found.append(runs.record(_in_torch(replica.case), f"base-{replica.index}"))
    return found


def _perturbed(
    runs: _Runs,
    replicas: Sequence[_Replica],
    bases: Sequence[Recording],
    effort: Effort,
) -> list[Figures]:
    """Return the drifts of the perturbations of replicas, as far as they are afforded.

    All replicas take the perturbations in turn.
    """
    by_index = {replica.index: replica for replica in replicas if replica.index < len(bases)}
    measured = []
    for index in range(effort.perturbations):
        replica = by_index.get(index % effort.seeds)
        if replica is None:
            continue
        perturbed = replace(_in_torch(replica.case), perturbation=index)
        base = bases[replica.index]
        if runs.affords(perturbed, base):
            measured.append(runs.drifts(perturbed, base, f"perturbation-{index}"))
    return measured


def _medians(measured: Sequence[Figures]) -> Figures:
    if not measured:
        return {}
    return {key: _median([each[key] for each in measured]) for key in measured[0]}


def _median(values: Sequence[float]) -> float:
    """Return the median; NaN where any value is NaN."""
    return math.nan if any(map(math.isnan, values)) else median(values)


def _on_platforms(
    runs: _Runs,
    replicas: Sequence[_Replica],
    bases: Sequence[Recording],
    platforms: Mapping[str, Platform],
) -> Elsewhere:
    """Return the drifts of each replica on each platform, as far as they are afforded."""

    def measure(name: str, platform: Platform) -> list[Figures]:
        return [
            runs.drifts(platform.carry(each.case), bases[each.index], f"{name}-{each.index}")
            for each in replicas
            if each.index < len(bases)
            and runs.affords(platform.carry(each.case), bases[each.index])
        ]

    return measure_platforms(platforms, measure)


def measure_platforms(
    platforms: Mapping[str, Platform], measure: Callable[[str, Platform], list[Figures]]
) -> Elsewhere:
    """Measure each platform; a device that is not here is asked once.

    A platform that does not apply to the pipeline is skipped, and named among those missed, as is
    one of which nothing was measured because that was not afforded.

    Raises:
        NotRecordedError: A platform that should run here failed.
    """
    measured: dict[str, list[Figures]] = {}
    missed: dict[str, str] = {}
    absent: list[Device] = []
    for name, platform in platforms.items():
        if platform.device in absent:
            continue
        try:
            found = measure(name, platform)
        except NotRecordedError as error:
            is_absent = error.verdict is Verdict.UNVERIFIED
            if not is_absent and not platform.may_not_apply:
                raise
            missed[name] = error.reason
            if is_absent and platform.device is not None:
                absent.append(platform.device)
            continue
        if found:
            measured[name] = found
        else:
            missed[name] = NOT_AFFORDED
    devices = frozenset(filter(None, (platforms[name].device for name in measured)))
    return Elsewhere(measured, missed, devices)


@dataclass(frozen=True)
class _Machine:
    """A baseline that another machine left of a case.

    Attributes:
        baseline: The baseline.
        drifts: Of the case from it; None where that was not measured.
        missed: Why it was not; else empty.
    """

    baseline: Baseline
    drifts: Figures | None
    missed: str


def _on_other_machines(runs: _Runs, case: Case, base: Recording) -> list[_Machine]:
    """Return how far a case is from the baselines of other machines, as far as that is afforded.

    They come before synthetic platforms: real machines say more.
    """
    found = []
    for baseline in runs.baselines_of_others(case, base):
        missed = ""
        if not is_comparable(baseline, base):
            missed = "its baseline is of other weights, another structure or other releases"
        elif not runs.affords(case, baseline):
            missed = NOT_AFFORDED
        drifts = None if missed else runs.drifts(case, baseline, baseline.path.stem)
        found.append(_Machine(baseline, drifts, missed))
    return found


def _without(machines: Sequence[_Machine], seen: set[str]) -> Elsewhere:
    """Return what other machines gave, but for those whose class a synthetic platform has."""
    others = {
        each.baseline.numerics_class.name: each
        for each in machines
        if each.baseline.numerics_class.hash not in seen
    }
    measured = {name: [each.drifts] for name, each in others.items() if each.drifts is not None}
    missed = {name: each.missed for name, each in others.items() if each.missed}
    return Elsewhere(measured, missed, frozenset())


def is_comparable(baseline: Observed, base: Observed) -> bool:
    """Whether two recordings have the same weights, structure and releases of the frameworks.

    Builds of one release are the same release: `2.13.0+cpu` and `2.13.0+cu130` of torch.
    """
    if other_weights(base, baseline) or structure(base, baseline):
        return False
    actual, expected = base.environment.versions, baseline.environment.versions
    return all(
        release_of(actual.get(name)) == release_of(expected.get(name)) for name in FRAMEWORKS
    )


def release_of(version: str | None) -> str | None:
    """Return the release of a version, without the label of its build, such as `+cpu`."""
    if version is None:
        return None
    try:
        return Version(version).public
    except InvalidVersion:  # a build of one's own
        return version


# Measuring.


def free_figures(outputs: Mapping[str, Drift]) -> Figures:
    """Return the largest free drift of any output, by metric."""
    return {
        REL_L2: max((moved.rel_l2 for moved in outputs.values()), key=worst_first),
        L_INF: max((moved.l_inf for moved in outputs.values()), key=worst_first),
    }


def local_figures(stages: Iterable[StageDrift]) -> Figures:
    """Return the local drift of each stage, by metric; of several tensors, the largest.

    `local_l_inf` is not measured.

    Args:
        stages: The drift of each tensor in a teacher-forced run.
    """
    found: Figures = {}
    for moved in stages:
        for metric in (Metric.LOCAL_REL_L2, *SYSTEMATIC_METRICS):
            key = BoundKey(Kind.CROSS_CLASS, metric, str(moved.held_as))
            found[key] = max(found.get(key, 0.0), moved.value(metric), key=worst_first)
    return found


def _sizes(base: Recording) -> dict[BoundKey, int]:
    """Return how many elements the systematic figures of each stage are sums of.

    Of several tensors it is the smallest. A tensor without elements has no figure, one of one
    channel none for its channels, one that is taken as a whole none for neighbours, and the first
    of its kind none for its persistence.
    """
    found: dict[BoundKey, int] = {}
    earlier: set[tuple[str, str, tuple[int, ...]]] = set()
    for stage, name, tensor in _tensors(base):
        if not tensor.size:
            continue
        layout = drift.Layout.of(tensor.shape)
        sizes = {Metric.LOCAL_GAIN: tensor.size, Metric.LOCAL_BIAS: tensor.size}
        if layout.channels > 1:
            sizes[Metric.LOCAL_CHANNEL_BIAS] = tensor.size // layout.channels
        if layout.row:
            sizes[Metric.LOCAL_SPATIAL] = tensor.size
        if (stage.kind, name, tensor.shape) in earlier:
            sizes[Metric.LOCAL_PERSISTENCE] = tensor.size
        earlier.add((stage.kind, name, tensor.shape))
        for metric, size in sizes.items():
            key = BoundKey(Kind.CROSS_CLASS, metric, str(stage))
            found[key] = min(found.get(key, size), size)
    return found


def _tensors(base: Recording) -> Iterator[tuple[Stage, str, Array]]:
    """Yield every tensor after the stage that bounds it and its key; outputs are at `OUTPUT`."""
    for (stage, key), tensor in base.stage_tensors.items():
        yield bounded_stage(stage, key), key, tensor
    for name, tensor in base.output_tensors.items():
        yield OUTPUT, name, tensor


def _batch_figures(scenario: Scenario, batch: Recording, singles: list[Recording]) -> Figures:
    """Return the largest drift, by metric, between images that the scenario expects to be alike.

    There is none where the scenario has no `tolerance.batch`: such images must have equal bits.
    """
    if scenario.tolerances.batch is None:
        return {}
    anything = Tolerance(free=dict.fromkeys(FREE_METRICS, math.inf))
    measured = replace(
        scenario,
        tolerances=replace(scenario.tolerances, batch=anything),
        expect=tuple(each for each in scenario.expect if each in COMPARED_IMAGES),
    )
    _, checks = expectations.hold_all(measured, batch, singles)
    found: Figures = {}
    for metric in FREE_METRICS:
        values = [check.value for check in checks if check.metric is metric]
        found[BoundKey(Kind.BATCH, metric)] = max(values, default=0.0)
    return found


def _quantum(recording: Recording) -> float:
    """Return 1, the least difference of integers, where an output holds integers; else 0."""
    arrays = recording.output_tensors.values()
    return 1.0 if any(np.issubdtype(array.dtype, np.integer) for array in arrays) else 0.0


def _check_finite(case: Case, measured: Mapping[str, Sequence[Figures]]) -> None:
    """Raise an error where a drift is NaN or infinite.

    The relative L2 drift of a stage is infinite where only the tensor of the base is zero.

    Raises:
        UsageError: A drift is NaN or infinite.
    """
    for platform, runs in measured.items():
        for key, value in _largest(runs).items():
            if not math.isfinite(value):
                raise UsageError(
                    f"{case.id}, {platform}: {key} is {value}, of which no bound follows; bound it "
                    "by hand"
                )


# From figures to bounds.


def compact(limits: Mapping[BoundKey, float]) -> Figures:
    """Return limits with one local bound per kind of stage, in place of one per stage.

    A stage whose limit on relative L2 is `FAR` above or below the median of its kind keeps its own
    limits, those on systematic drift too. A kind's bound is the largest limit of its other stages.
    """
    far = _far(limits)
    found = {key: limit for key, limit in limits.items() if key.metric not in LOCAL_METRICS}
    for key, limit in limits.items():
        if key.metric in LOCAL_METRICS:
            covering = key if key.pattern in far else _of_its_kind(key)
            found[covering] = max(found.get(covering, 0.0), limit)
    return found


def _far(limits: Mapping[BoundKey, float]) -> set[str]:
    """Return the stages whose limit on relative L2 is `FAR` from the median of their kind."""
    kinds: dict[BoundKey, Figures] = {}
    for key, limit in limits.items():
        if key.metric is Metric.LOCAL_REL_L2:
            kinds.setdefault(_of_its_kind(key), {})[key] = limit
    found: set[str] = set()
    for stages in kinds.values():
        middle = median_low(stages.values())
        found |= {
            key.pattern
            for key, limit in stages.items()
            if limit > FAR * middle or limit * FAR < middle
        }
    return found


@dataclass(frozen=True)
class Figure:
    """One measured value, and what it was measured of."""

    key: BoundKey
    value: float


def worst_of(
    key: BoundKey, figures: Mapping[BoundKey, float], bounds: Mapping[BoundKey, float]
) -> Figure:
    """Return the largest of `figures` that the bound at `key` covers; 0.0 where it covers none.

    Args:
        key: The key of one of `bounds`.
        figures: Drifts, the local ones by stage.
        bounds: Bounds as `compact` returns them, the local ones by stage or by kind of stage.
    """
    covered = [
        Figure(of, value) for of, value in figures.items() if _covering_key(of, bounds) == key
    ]
    return max(covered, key=_value, default=Figure(key, 0.0))


def _value(figure: Figure) -> float:
    return figure.value


def _covering_key(key: BoundKey, bounds: Mapping[BoundKey, float]) -> BoundKey:
    """Return which of `bounds` covers the figure at `key`; that of its kind where none does."""
    if key.metric not in LOCAL_METRICS:
        return key
    return next((each for each in _covering(key) if each in bounds), _of_its_kind(key))


def _covering(key: BoundKey) -> list[BoundKey]:
    """Return the keys of the bounds that may cover the figure of one stage at `key`."""
    return [replace(key, pattern=pattern) for pattern in patterns_of(Stage.parse(key.pattern))]


def _of_its_kind(key: BoundKey) -> BoundKey:
    """Return the key of the bound on all stages of one kind, from that of one stage."""
    return replace(key, pattern=Stage.parse(key.pattern).kind)


def _admits(bounds: Figures, runs: Sequence[Figures]) -> bool:
    """Return whether every figure of every run is within its bound."""
    return all(value <= _bound_on(key, run, bounds) for run in runs for key, value in run.items())


def _bound_on(key: BoundKey, run: Figures, bounds: Figures) -> float:
    """Return the bound on one figure of a run.

    Without a bound only 0.0 is within; a systematic figure has none where relative L2 holds it
    anyway.
    """
    bound = bounds.get(_covering_key(key, bounds))
    if key.metric not in SYSTEMATIC_METRICS:
        return 0.0 if bound is None else bound
    if bound is None:
        return math.inf
    rel_l2 = replace(key, metric=Metric.LOCAL_REL_L2)
    limit = bounds.get(_covering_key(rel_l2, bounds))
    return bound * part_of_bound(run.get(rel_l2, math.nan), limit)


def _summary(figures: Figures) -> Tolerance:
    """Return cross-class figures as the evidence keeps them, rounded up to two significant digits.

    Of local figures, only the largest of each kind of stage is kept.
    """
    found: Figures = {}
    for key, value in _of_kind(Kind.CROSS_CLASS, figures).items():
        short = _of_its_kind(key) if key.metric in LOCAL_METRICS else key
        found[short] = max(found.get(short, 0.0), _round_up(value))
    return Tolerance.from_keys(found)


def _of_kind(kind: Kind, figures: Figures) -> Figures:
    return {key: value for key, value in figures.items() if key.kind is kind}


def _largest(many: Iterable[Figures]) -> Figures:
    """Return the largest value at each key; NaN counts as larger than every number."""
    found: Figures = {}
    for figures in many:
        for key, value in figures.items():
            found[key] = max(found.get(key, 0.0), value, key=worst_first)
    return dict(sorted(found.items()))


def _round_up(value: float) -> float:
    """Return `value` rounded up to two significant digits.

    A value that exceeds two digits by less than about one part in 10^10 is rounded down. The
    division below rounds too, and 1.2e-5 must stay 1.2e-5.
    """
    if value <= 0 or not math.isfinite(value):
        return value
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)  # one unit of the second digit
    return float(f"{math.ceil(value / scale - 1e-9) * scale:.1e}")
