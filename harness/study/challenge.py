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
from harness.records import Check, DetectionRate, Metric, worst_first
from harness.scenario.model import Case
from harness.scenario.tolerance import Tolerance
from harness.session import Session
from harness.store.recording import Recording
from harness.store.typed_json import encode
from harness.study.fault_catalogue import Fault, catalogue
from harness.study.other_methods import unseen_by
from harness.study.platforms import Platform

DENOISERS = ("unet", "decoder")  # the component that removes noise; `decoder` is UnCLIP's
IMAGE = "image"  # the output that the methods in use elsewhere judge
IMAGE_DIMENSIONS = 4  # images, height, width, channels
NOT_IN_FOLDERS = re.compile(r"[^a-z0-9.]+")

OnStep = Callable[[str, int], None]


@dataclass(frozen=True)
class Trial:
    """One fault that took effect, and what the bounds say of it.

    Attributes:
        fault: Its name.
        proof: What it changed.
        effect: The relative L2 drift of the output that moved farthest, on this platform, where the
            fault alone causes it; infinite where an output has another shape.
        checks: What it gave on the other platform, held against the cross-class bounds; the most
            exceeded one first.
        folder: The name of the folder of its recording on this platform.
        unseen_by: The methods in use elsewhere that let it pass on this platform.
    """

    fault: str
    proof: str
    effect: float
    checks: tuple[Check, ...]
    folder: str
    unseen_by: tuple[str, ...] = ()

    @property
    def caught(self) -> bool:
        """Whether a bound catches it on the other platform."""
        return any(not check.passed for check in self.checks)

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
    """

    case: str
    platform: str
    noise: float
    trials: tuple[Trial, ...]
    without_effect: dict[str, str]

    @property
    def above_noise(self) -> list[Trial]:
        """The trials whose effect exceeds the noise: those that another class can tell from it."""
        return [trial for trial in self.trials if trial.effect > self.noise]

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
            "trials": [_trial_as_json(trial) for trial in self.trials],
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
        trials.append(_trial(carrier, runs.base, checks))
    return Challenge(case.id, name, _noise(case), tuple(trials), without_effect)


@dataclass(frozen=True)
class _Carrier:
    """A fault that took effect on this platform: the case that carries it, and its recording."""

    fault: str
    case: Case
    recording: Recording


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
        if same_bits(recording, self.base):
            return _NoEffect("changes no bit of any output")
        return _Carrier(fault.name, case, recording)

    def check_elsewhere(
        self, carrier: _Carrier, name: str, platform: Platform, tolerance: Tolerance
    ) -> tuple[Check, ...]:
        """Run a fault on another platform, freely and teacher-forced, and hold it to the bounds.

        The most exceeded bound comes first.
        """
        case = platform.carry(carrier.case)
        folder = self._folder / f"{_slug(carrier.fault)}-{name}"
        free = self._session.record(case, folder=folder)
        forced = replace(case, teacher_tensors=self.base.tensors_path.resolve())
        teacher_forced = self._session.record(
            forced, folder=folder.with_name(f"{folder.name}-teacher-forced")
        )
        checks = _checks(free, teacher_forced, self.base, tolerance)
        return tuple(sorted(checks, key=_excess, reverse=True))


def _denoiser(base: Recording) -> str:
    """Return the component that removes noise, of those that the recorded pipeline has."""
    return next((name for name in DENOISERS if name in base.weights), DENOISERS[0])


def _noise(case: Case) -> float:
    """Return the effect of one unit in the last place, as it was measured; 0 where it was not."""
    evidence = case.scenario.tolerances.evidence
    if evidence is None or evidence.noise is None:
        return 0.0
    return evidence.noise.free.get(Metric.REL_L2, 0.0)


def _trial(carrier: _Carrier, base: Recording, checks: tuple[Check, ...]) -> Trial:
    return Trial(
        fault=carrier.fault,
        proof=carrier.recording.fault or _asked(carrier.case),
        effect=_effect(carrier.recording, base),
        checks=checks,
        folder=_slug(carrier.fault),
        unseen_by=_unseen_by(carrier.recording, base),
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
    """Return the methods in use elsewhere that let a fault pass; none where there is no image."""
    expected = base.output_tensors.get(IMAGE)
    if expected is None or expected.ndim != IMAGE_DIMENSIONS:
        return ()
    return tuple(unseen_by(recording.output_tensors[IMAGE], expected))


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


def _excess(check: Check) -> float:
    """Return how many times a check's bound is exceeded, or its value where the bound is zero."""
    return worst_first(check.value / check.bound if check.bound else check.value)


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
        "folder": trial.folder,
        "unseen_by": list(trial.unseen_by),
    }
