"""Derives a scenario's tolerances from measured noise, and keeps the evidence beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median, median_low
from typing import Any

from harness.errors import NotRecordedError, UsageError
from harness.judge import checks as tolerance
from harness.judge import drift
from harness.judge import expectations as expect
from harness.judge.environment_diff import FRAMEWORKS
from harness.judge.first_difference import other_weights
from harness.judge.verdict import structure
from harness.records import UNVERIFIED, Baseline, Recording
from harness.scenario.model import Case, Scenario
from harness.scenario.tolerance import nested
from harness.session import Session, alone
from harness.study.platforms import Platform, held_together

OVER_NOISE = 8.0  # a bound is at least this many times the effect of one unit in the last place,
OVER_WORST = 2.0  # and at least this many times the worst drift of any platform. Source: docs/measurements.md, Tolerances.
FAR = 4.0  # times the median of its kind: a stage above that, such as a badly conditioned first step, gets a bound of its own
LAST_PLACE = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}  # relative to the value

Figures = dict[
    tuple[str, ...], float
]  # by keys: ("rel_l2",), ("local_rel_l2", "vae.decode#0"), ("batch", "l_inf")


@dataclass(frozen=True)
class Calibration:
    """What was measured of one case, and the bounds that follow.

    `noise` is the median effect of moving the inputs by one unit in the last place; `platforms` the worst drift of each
    platform over all seeds; `on` the numerics class against which everything was measured; `last_place` the relative size
    of one unit in the last place of the case's dtype; `quantum` the step of outputs that are whole numbers, else 0; `missed`
    the platforms that could not be measured here, with the reason; of a device that is not here the first one.
    """

    case: str
    on: str
    seeds: int
    perturbations: int
    noise: Figures
    platforms: dict[str, Figures]
    last_place: float = 0.0
    quantum: float = 0.0
    missed: dict[str, str] = field(default_factory=dict)

    def worst(self, without: str = "") -> Figures:
        """Return the worst drift of any platform but one."""
        return _worst([figures for name, figures in self.platforms.items() if name != without])

    def limits(self, without: str = "") -> Figures:
        """Return the bounds that follow, rounded up to two digits; `without` leaves one platform out of the evidence.

        Nothing is held closer than one unit in the last place: what no platform here moved, another one may.
        """
        worst, found = self.worst(without), {}
        for key in sorted({*self.noise, *worst}):
            found[key] = _round_up(
                max(
                    OVER_NOISE * self.noise.get(key, 0.0),
                    OVER_WORST * worst.get(key, 0.0),
                    self._least(key),
                )
            )
        return {key: bound for key, bound in found.items() if bound > 0}

    def _least(self, key: tuple[str, ...]) -> float:
        if key[-1] == "l_inf":
            return self.quantum
        return self.last_place if key[0] != "batch" else 0.0

    def left_out(self) -> dict[str, bool]:
        """Return for each platform whether the bounds derived without it admit it."""
        return {
            name: _admits(compact(self.limits(without=name)), figures)
            for name, figures in self.platforms.items()
        }

    def bounds(self) -> dict[str, Any]:
        """Return the limits as a scenario's `tolerance` holds them: `cross-class`, and `batch` where images were compared."""
        found = nested(compact(self.limits()))
        batch = found.pop("batch", {})
        return {"cross-class": found, **({"batch": batch} if batch else {})}

    def evidence(self) -> dict[str, Any]:
        """Return what the scenario and its baselines keep."""
        bounds = self.bounds()
        return {
            "bounds": bounds["cross-class"],
            **({"batch": bounds["batch"]} if "batch" in bounds else {}),
            "noise": nested(_summary(self.noise)),
            "worst": nested(_summary(self.worst())),
            "platforms": len(self.platforms),
            "seeds": self.seeds,
            "on": self.on,
            "date": datetime.now(UTC).date().isoformat(),
        }


def calibrate(
    session: Session,
    case: Case,
    platforms: Mapping[str, Platform],
    *,
    seeds: int,
    perturbations: int,
    on_step: Callable[[str], None],
) -> Calibration:
    """Measure the noise of `case`: nudged inputs on this platform, then every other platform, each free and anchored.

    Baselines of other numerics classes in the store are platforms too, real ones, where weights and frameworks are the same:
    what a release moved is no noise.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        case: On this machine's own settings. In another framework than torch it is held against the same case in torch.
        platforms: By name.
        seeds: How many seeds are replicated; reruns of one seed would be identical.
        perturbations: How many nudges by one unit in the last place.
        on_step: Called with what is being measured.

    Raises:
        UsageError: The case is expected to vary, so that nothing can be held against anything.
        NotRecordedError: A run failed on this platform itself.
    """
    if not case.scenario.owes_baseline:
        raise UsageError(f"{case.id} is expected to vary; there is no tolerance to calibrate")

    def run(variant: Case, name: str) -> Recording:
        on_step(name)
        return session.record(
            variant, folder=session.out / "recordings" / case.scenario.name / case.place / name
        )

    def drifts(variant: Case, base: Recording, name: str) -> Figures:
        free = run(variant, name)
        seen.add(free.numerics_class["hash"])
        singles = [
            run(replace(variant, image=image), f"{name}-image{image}")
            for image in alone(variant.scenario)
        ]
        anchored = run(replace(variant, anchors=base.tensors_path.resolve()), f"{name}-anchored")
        return {**_figures(free, anchored, base), **_batch(variant.scenario, free, singles)}

    seen: set[str] = (
        set()
    )  # numerics classes: the baseline of one that a platform is says nothing more
    replicas = [_reseeded(case, index) for index in range(seeds)]
    twins = [
        replace(replica, scenario=replace(replica.scenario, framework="torch"))
        for replica in replicas
    ]
    bases = [run(twin, f"base-{index}") for index, twin in enumerate(twins)]
    nudged = [(index, index % seeds) for index in range(perturbations)]
    nudges = [
        drifts(replace(twins[seed], perturb=index), bases[seed], f"nudge-{index}")
        for index, seed in nudged
    ]

    def replicated(name: str, platform: Platform) -> Figures:
        return _worst(
            [
                drifts(platform.carry(replica), bases[seed], f"{name}-{seed}")
                for seed, replica in enumerate(replicas)
            ]
        )

    measured, missed = _elsewhere(platforms, replicated)
    others, unfit = _left_by_others(session, case, bases[0], seen)
    measured.update(
        {b.recording.numerics_class["name"]: drifts(case, b.recording, b.path.stem) for b in others}
    )
    noise = {key: median(figures[key] for figures in nudges) for key in nudges[0]} if nudges else {}
    _check_finite(case, {"nudges": noise, **measured})
    here, missed, last = bases[0].numerics_class["name"], missed | unfit, LAST_PLACE[case.dtype]
    return Calibration(
        case.id, here, seeds, perturbations, noise, measured, last, _quantum(bases[0]), missed
    )


def _elsewhere(
    platforms: Mapping[str, Platform], measure: Callable[[str, Platform], Figures]
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Return what each platform measures, and why those that cannot run here do not; a device that is not here is asked once."""
    measured: dict[str, Figures] = {}
    missed: dict[str, str] = {}
    absent: list[str] = []
    for name, platform in platforms.items():
        if platform.device in absent:
            continue
        try:
            measured[name] = measure(name, platform)
        except NotRecordedError as error:
            if (
                error.verdict != UNVERIFIED and not platform.attention
            ):  # a backend may have no kernel for a GPU or a dtype
                raise
            missed[name] = error.reason
            absent += [platform.device] if error.verdict == UNVERIFIED else []
    return measured, missed


def _left_by_others(
    session: Session, case: Case, base: Recording, seen: set[str]
) -> tuple[list[Baseline], dict[str, str]]:
    """Return the baselines of other machines that say something new of a case, and why some do not; of classes not yet `seen`."""
    fit, unfit = [], {}
    for baseline in session.store.of_other_classes(case, base.numerics_class, held_together(case)):
        other = baseline.recording.numerics_class
        if other["hash"] not in seen and _is_comparable(baseline.recording, base):
            fit.append(baseline)
        elif other["hash"] not in seen:
            unfit[other["name"]] = (
                "its baseline is of other weights, another structure or other releases"
            )
    return fit, unfit


def _is_comparable(baseline: Recording, base: Recording) -> bool:
    """Whether the same code computed the same thing; `+cpu` and `+cu130` are two builds of one release of torch."""
    installed = [side.content["environment"]["versions"] for side in (baseline, base)]
    versions = [[str(one.get(name)).partition("+")[0] for name in FRAMEWORKS] for one in installed]
    return (
        not other_weights(base, baseline)
        and not structure(base, baseline)
        and versions[0] == versions[1]
    )


def _check_finite(case: Case, measured: Mapping[str, Figures]) -> None:
    for platform, figures in measured.items():
        for key, value in figures.items():
            if not math.isfinite(value):
                what = " of ".join(key)
                raise UsageError(
                    f"{case.id}, {platform}: {what} is {value}, of which no bound follows; bound it by hand"
                )


def _reseeded(case: Case, index: int) -> Case:
    seeds = tuple(seed + 1000 * index for seed in case.scenario.seeds)
    return replace(case, scenario=replace(case.scenario, seeds=seeds))


def _figures(free: Recording, anchored: Recording, base: Recording) -> Figures:
    """Return the worst output's free drift, and the local drift of each stage."""
    outputs = drift.of_outputs(free, base).values()
    found: Figures = {
        ("rel_l2",): max(d.rel_l2 for d in outputs),
        ("l_inf",): max(d.l_inf for d in outputs),
    }
    for stage, moved in drift.of_stages(anchored, base).items():
        key = ("local_rel_l2", tolerance.stage_of(stage))
        found[key] = max(found.get(key, 0.0), moved["rel_l2"], key=_nan_first)
    return found


def _nan_first(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _batch(scenario: Scenario, batch: Recording, singles: list[Recording]) -> Figures:
    """Return how far images lie apart that the scenario expects to be alike within `tolerance.batch`."""
    if "batch" not in scenario.tolerance:
        return {}
    open_wide = {**scenario.tolerance, "batch": {"rel_l2": math.inf, "l_inf": math.inf}}
    compared = tuple(e for e in scenario.expect if e in ("batch-equals-single", "identical-images"))
    checks = expect.broken(replace(scenario, tolerance=open_wide, expect=compared), batch, singles)[
        1
    ]
    metrics = ("rel_l2", "l_inf")
    return {
        ("batch", m): max((c.value for c in checks if c.what.endswith(m)), default=0.0)
        for m in metrics
    }


def compact(limits: Figures) -> Figures:
    """Return limits with one per kind of stage, and one of its own for every stage far above the others of its kind."""
    found = {key: limit for key, limit in limits.items() if key[0] != "local_rel_l2"}
    kinds: dict[str, Figures] = {}
    for key, limit in limits.items():
        if key[0] == "local_rel_l2":
            kinds.setdefault(tolerance.kind_of(key[1]), {})[key] = limit
    for kind, stages in kinds.items():
        usual = FAR * median_low(stages.values())
        found.update({key: limit for key, limit in stages.items() if limit > usual})
        found["local_rel_l2", kind] = max(limit for limit in stages.values() if limit <= usual)
    return found


def worst_of(
    key: tuple[str, ...], figures: Figures, bounds: Figures
) -> tuple[tuple[str, ...], float]:
    """Return the largest figure that the bound at `key` covers, with the figure's own key."""
    covered = {
        k: v
        for k, v in figures.items()
        if k == key or (k not in bounds and (k[0], *map(tolerance.kind_of, k[1:])) == key)
    }
    return max(covered.items(), key=lambda item: item[1], default=(key, 0.0))


def _summary(figures: Figures) -> Figures:
    """Return figures for the evidence: of local ones the worst of each kind."""
    found: Figures = {}
    for key, value in figures.items():
        if key[0] != "batch":
            short = (key[0], tolerance.kind_of(key[1])) if len(key) > 1 else key
            found[short] = max(found.get(short, 0.0), _round_up(value))
    return found


def _worst(many: list[Figures]) -> Figures:
    return {
        key: max(figures.get(key, 0.0) for figures in many)
        for key in sorted({key for figures in many for key in figures})
    }


def _admits(bounds: Figures, figures: Figures) -> bool:
    def most(key: tuple[str, ...]) -> float:
        return bounds.get(key, bounds.get((key[0], tolerance.kind_of(key[-1])), 0.0))

    return all(value <= most(key) for key, value in figures.items())


def _quantum(recording: Recording) -> float:
    return 1.0 if any("int" in output["dtype"] for output in recording.outputs.values()) else 0.0


def _round_up(value: float) -> float:
    """Return `value` with two digits, not smaller."""
    if value <= 0 or not math.isfinite(value):
        return value
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / scale - 1e-9) * scale:.1e}")
