"""Mutation testing of tolerances: injects known faults, and says which of them the bounds catch.

Each fault runs on this platform, where it must change bits, and on another one, where everything
differs anyway and only the cross-class bounds can tell it from noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.errors import NotRecordedError, UsageError
from harness.judge import drift
from harness.judge.checks import check_local, check_output
from harness.judge.structure import same_bits, structure
from harness.records import Check, DetectionRate, Metric, StageDrift, worst_first
from harness.scenario.model import Case
from harness.scenario.tolerance import SYSTEMATIC_METRICS, Evidence, Tolerance
from harness.session import Session
from harness.store.recording import Recording
from harness.store.typed_json import encode
from harness.study.fault_catalogue import catalogue
from harness.study.fault_forms import Fault
from harness.study.other_methods import unseen_by
from harness.study.platforms import Platform

# The component that removes noise; `decoder` is UnCLIP's.
DENOISERS = ("unet", "transformer", "decoder")
IMAGES = ("image", "frames")  # the outputs that the methods in use elsewhere judge
IMAGE_DIMENSIONS = 4  # images, height, width, channels; videos have one more before them
# The local figures whose noise an evidence keeps.
STATISTICS = (Metric.LOCAL_REL_L2, *SYSTEMATIC_METRICS)
SECOND_CALL = "second call"
NOT_IN_FOLDERS = re.compile(r"[^a-z0-9.]+")

OnStep = Callable[[str, int], None]


@dataclass(frozen=True)
class Shift:
    """The local figure that a fault moves farthest, beside the noise of the same figure.

    Attributes:
        subject: The tensor of the stage.
        metric: Which of `STATISTICS`.
        value: The figure in the teacher-forced run with the fault on this platform; NaN where the
            stage has no such tensor any more.
        noise: The largest that any platform, or the median perturbation, gave without a fault, for
            stages of this kind.
    """

    subject: str
    metric: Metric
    value: float
    noise: float

    @property
    def ratio(self) -> float:
        """The figure over its noise; infinite where that is zero or the figure is NaN."""
        if math.isnan(self.value):
            return math.inf
        if not self.noise:
            return math.inf if self.value else 0.0
        return self.value / self.noise


@dataclass(frozen=True)
class Trial:
    """One fault that took effect, and what the bounds say of it.

    Attributes:
        fault: Its name.
        proof: What it changed.
        effect: The relative L2 drift of the output that moved farthest, on this platform, where the
            fault alone causes it; infinite where an output has another shape, or where only a
            second call of the same pipeline object has other bits.
        checks: What it gave on the other platform, held against the cross-class bounds; the most
            exceeded one first.
        folder: The name of the folder of its recording on this platform.
        unseen_by: The methods in use elsewhere that let it pass on this platform.
        shift: The local figure that is farthest above its noise; None where the evidence has no
            noise of local figures.
    """

    fault: str
    proof: str
    effect: float
    checks: tuple[Check, ...]
    folder: str
    unseen_by: tuple[str, ...] = ()
    shift: Shift | None = None

    @property
    def caught(self) -> bool:
        """Whether a bound catches it on the other platform."""
        return bool(self.caught_by)

    @property
    def caught_by(self) -> tuple[Metric, ...]:
        """The metrics whose bounds catch it on the other platform, in alphabetical order."""
        return tuple(sorted({check.metric for check in self.checks if not check.passed}))

    @property
    def caught_by_norms(self) -> bool:
        """Whether it would be caught without the bounds on systematic drift."""
        return any(metric not in SYSTEMATIC_METRICS for metric in self.caught_by)

    @property
    def ratio(self) -> float:
        """How many times the most exceeded bound is exceeded, of those that are not zero."""
        return max((check.value / check.bound for check in self.checks if check.bound), default=0.0)


@dataclass(frozen=True)
class Challenge:
    """The trials of one case.

    Attributes:
        case: The case's id.
        platform: The name of the other platform.
        noise: The relative L2 drift that one unit in the last place causes, by the scenario's
            evidence.
        trials: One per fault that took effect.
        without_effect: Why a fault does not apply, or changed nothing, by its name.
        without_noise: The local figures of which the scenario's evidence has no noise, because it
            is older than they are. No fault is above the noise by these.
    """

    case: str
    platform: str
    noise: float
    trials: tuple[Trial, ...]
    without_effect: dict[str, str]
    without_noise: tuple[Metric, ...] = ()

    @property
    def above_noise(self) -> list[Trial]:
        """The trials that another class can tell from noise; see `is_above_noise`."""
        return [trial for trial in self.trials if self.is_above_noise(trial)]

    def is_above_noise(self, trial: Trial) -> bool:
        """Whether a local figure of some stage exceeds the noise of the same figure.

        Where the evidence has no local noise, the drift of the output is compared with its own.
        """
        if trial.shift is None:
            return trial.effect > self.noise
        return trial.shift.ratio > 1

    def detection_rate(self) -> DetectionRate:
        """Return how many of the faults are caught, as a baseline keeps it.

        In the same class every fault that took effect is: it owes the same bits.
        """
        above = self.above_noise
        return DetectionRate(
            faults=len(self.trials),
            same_class_caught=len(self.trials),
            above_noise=len(above),
            cross_class_caught=sum(trial.caught for trial in above),
            missed=tuple(sorted(trial.fault for trial in above if not trial.caught)),
            platform=self.platform,
        )

    def as_json(self) -> object:
        """Return everything, as `challenge.json` holds it; what is not finite is null."""
        content = {
            "case": self.case,
            "platform": self.platform,
            "noise": self.noise,
            "without_noise": list(self.without_noise),
            "trials": [
                {**_trial_as_json(trial), "above_noise": self.is_above_noise(trial)}
                for trial in self.trials
            ],
            "without_effect": self.without_effect,
        }
        return encode(content)


def challenge(
    session: Session, case: Case, platform: tuple[str, Platform], *, on_step: OnStep
) -> Challenge:
    """Inject every fault of the catalogue into a case, and hold the results against its bounds.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        case: The case without a fault, on this machine's own settings.
        platform: The other platform, after its name.
        on_step: Called with what runs, and how many steps there are.

    Raises:
        UsageError: The case is expected to vary, or its scenario sets no cross-class bounds.
        NotRecordedError: The case does not run without a fault, or not on the other platform.
    """
    tolerance = case.scenario.tolerances.cross_class
    if not case.scenario.needs_baseline or tolerance is None or tolerance.exact:
        raise UsageError(
            f"{case.id} sets no `tolerance.cross-class` to challenge; "
            "`harness calibrate` derives one"
        )
    name, elsewhere = platform
    noise = _local_noise(case.scenario.tolerances.evidence)
    runs = _Runs(session, case)
    faults = catalogue(_denoiser(runs.base))
    steps = 2 * len(faults)
    carriers: list[_Carrier] = []
    without_effect: dict[str, str] = {}
    for fault in faults:
        on_step(fault.name, steps)
        found = runs.inject(fault)
        if isinstance(found, _NoEffect):
            without_effect[fault.name] = found.reason
        else:
            carriers.append(found)
    trials = []
    for carrier in carriers:
        on_step(carrier.fault, steps)
        checks = runs.check_elsewhere(carrier, name, elsewhere, tolerance)
        trials.append(_trial(carrier, runs.base, checks, noise))
    unknown = tuple(metric for metric in STATISTICS if noise and metric not in noise)
    return Challenge(case.id, name, _noise(case), tuple(trials), without_effect, unknown)


@dataclass(frozen=True)
class _Carrier:
    """A fault that took effect on this platform.

    Attributes:
        fault: Its name.
        case: The case that carries it.
        recording: Of the free run.
        local: The local drift of each stage in the teacher-forced run.
        in_second_call: Whether only a second call of the same pipeline object has other bits.
    """

    fault: str
    case: Case
    recording: Recording
    local: tuple[StageDrift, ...]
    in_second_call: bool = False


@dataclass(frozen=True)
class _NoEffect:
    """Why a fault did not take effect."""

    reason: str


class _Runs:
    """The runs of one challenge; `base` is the recording without a fault."""

    def __init__(self, session: Session, case: Case) -> None:
        self._session = session
        self._case = case
        self._folder = session.out / "recordings" / case.scenario.name / case.key
        self.base = session.record(case, folder=self._folder / "base")

    def inject(self, fault: Fault) -> _Carrier | _NoEffect:
        """Run the case with a fault on this platform."""
        case = fault.apply(self._case)
        if case is None:
            return _NoEffect("does not apply")
        try:
            recording = self._session.record(case, folder=self._folder / _slug(fault.name))
        except NotRecordedError as error:
            return _NoEffect(error.reason)
        if same_bits(recording, self.base) and recording.repeat.reused_equals_fresh is False:
            return _Carrier(fault.name, case, recording, (), in_second_call=True)
        if same_bits(recording, self.base):
            return _NoEffect("changes no bit of any output")
        if structure(recording, self.base):
            return _Carrier(fault.name, case, recording, ())
        forced = self._teacher_forced(case, _slug(fault.name))
        local = drift.of_teacher_forced(forced, self.base)
        return _Carrier(fault.name, case, recording, local)

    def check_elsewhere(
        self, carrier: _Carrier, name: str, platform: Platform, tolerance: Tolerance
    ) -> tuple[Check, ...]:
        """Run a fault on another platform, teacher-forced, and hold it to the bounds.

        It runs freely too where there are bounds on free drift. The most exceeded bound comes
        first.
        """
        case = platform.carry(carrier.case)
        name = f"{_slug(carrier.fault)}-{name}"
        if carrier.in_second_call:
            return (_second_call(self._session.record(case, folder=self._folder / name)),)
        free = self._session.record(case, folder=self._folder / name) if tolerance.free else None
        forced = self._teacher_forced(case, name)
        checks = _checks(free or forced, forced, self.base, tolerance)
        return tuple(sorted(checks, key=lambda check: check.excess, reverse=True))

    def _teacher_forced(self, case: Case, name: str) -> Recording:
        """Run a case with every stage fed by the recording without a fault."""
        forced = replace(case, teacher_tensors=self.base.tensors_path.resolve())
        return self._session.record(forced, folder=self._folder / f"{name}-teacher-forced")


def _second_call(recording: Recording) -> Check:
    """Return the check of `expect: stateless`, which owes the same bits on every platform."""
    differs = recording.repeat.reused_equals_fresh is False
    return Check(SECOND_CALL, Metric.BITS, float(differs), 0.0)


def _denoiser(base: Recording) -> str:
    """Return the component that removes noise, of those that the recorded pipeline has."""
    return next((name for name in DENOISERS if name in base.weights), DENOISERS[0])


def _noise(case: Case) -> float:
    """Return the effect of one unit in the last place, as it was measured; 0 where it was not."""
    evidence = case.scenario.tolerances.evidence
    if evidence is None or evidence.noise is None:
        return 0.0
    return evidence.noise.free.get(Metric.REL_L2, 0.0)


LocalNoise = dict[Metric, Tolerance]  # of each statistic that an evidence has


def _local_noise(evidence: Evidence | None) -> LocalNoise:
    """Return the noise of local figures: what platforms and the median perturbation gave."""
    if evidence is None or evidence.worst is None or evidence.noise is None:
        return {}
    found: LocalNoise = {}
    for metric in STATISTICS:
        worst = evidence.worst.local.get(metric, {})
        perturbed = evidence.noise.local.get(metric, {})
        largest = {
            pattern: max(worst.get(pattern, 0.0), perturbed.get(pattern, 0.0))
            for pattern in {*worst, *perturbed}
        }
        if largest:
            found[metric] = Tolerance(local={metric: largest})
    return found


def _shift(local: tuple[StageDrift, ...], noise: LocalNoise) -> Shift | None:
    """Return the local figure that is farthest above its noise; None where no noise is known."""
    found = []
    for metric, known in noise.items():
        for moved in local:
            pattern = known.local_pattern(metric, moved.held_as)
            if pattern is not None:
                largest = known.local[metric][pattern]
                found.append(Shift(moved.name, metric, moved.value(metric), largest))
    return max(found, key=_ratio, default=None)


def _ratio(shift: Shift) -> float:
    return shift.ratio


def _trial(
    carrier: _Carrier, base: Recording, checks: tuple[Check, ...], noise: LocalNoise
) -> Trial:
    return Trial(
        fault=carrier.fault,
        proof=carrier.recording.fault or _asked(carrier.case),
        effect=math.inf if carrier.in_second_call else _effect(carrier.recording, base),
        checks=checks,
        folder=_slug(carrier.fault),
        unseen_by=_unseen_by(carrier.recording, base),
        shift=_shift(carrier.local, noise),
    )


def _asked(case: Case) -> str:
    """Return what a case asks for: the proof of a fault that lies in the request itself."""
    scenario = case.scenario
    return f"call {scenario.call}, seeds {scenario.seeds}, {scenario.generator}"


def _effect(recording: Recording, base: Recording) -> float:
    """Return the relative L2 drift of the output that moved farthest."""
    if any(recording.outputs[name].shape != output.shape for name, output in base.outputs.items()):
        return math.inf
    drifts = drift.of_outputs(recording, base).values()
    return max(worst_first(moved.rel_l2) for moved in drifts)


def _unseen_by(recording: Recording, base: Recording) -> tuple[str, ...]:
    """Return the methods in use elsewhere that let a fault pass; none where there is no image.

    The frames of a video are images.
    """
    for name in IMAGES:
        expected = base.output_tensors.get(name)
        if expected is not None and expected.ndim >= IMAGE_DIMENSIONS:
            actual = recording.output_tensors[name]
            if actual.shape != expected.shape:
                return ()
            shape = (-1, *expected.shape[-3:])
            return tuple(unseen_by(actual.reshape(shape), expected.reshape(shape)))
    return ()


def _checks(
    free: Recording, teacher_forced: Recording, base: Recording, tolerance: Tolerance
) -> list[Check]:
    """Return every bound held against what a fault gave on another platform."""
    if structure(free, base):
        return [Check("outputs", Metric.STRUCTURE, math.inf, 0.0)]
    checks = [
        check
        for name, moved in drift.of_outputs(free, base).items()
        for check in check_output(name, moved, tolerance)
    ]
    local = drift.of_teacher_forced(teacher_forced, base)
    checks += [each.check for each in check_local(local, tolerance)]
    if len(free.stages) != len(base.stages):
        count, bound = float(len(free.stages)), float(len(base.stages))
        checks.append(Check("stages", Metric.STAGE_COUNT, count, bound))
    return checks


def _slug(name: str) -> str:
    """Return the name of a fault as that of a folder."""
    return NOT_IN_FOLDERS.sub("-", name.lower()).strip("-")


def _trial_as_json(trial: Trial) -> dict[str, object]:
    return {
        "fault": trial.fault,
        "proof": trial.proof,
        "effect": trial.effect,
        "ratio": trial.ratio,
        "caught": trial.caught,
        "caught_by": list(trial.caught_by),
        "caught_by_norms": trial.caught_by_norms,
        "shift": trial.shift,
        "folder": trial.folder,
        "unseen_by": list(trial.unseen_by),
    }
