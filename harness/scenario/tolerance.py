"""Tolerances as types: the bounds of a scenario, the evidence behind them, and their keys.

A bound on `l_inf` or `local_l_inf` is in the unit of the tensor; every other one is a ratio, and
holds the size of its figure, without the sign. `judge/drift.py` has the formulas. A drift equal to
its bound is inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from harness.records import Device, Metric, Stage
from harness.worker.protocol import CLAMPED

ANY_STAGE = ""  # the pattern of a local bound that covers every stage which no other one covers
EXACT = "identical"  # the word in YAML for a tolerance that admits no difference
NO_WORSE = "no-worse"  # the word in YAML for a contract on accuracy
LOOSE = 4  # a bound may be this many times the one that calibration derived, without a reason
FREE_METRICS = (Metric.REL_L2, Metric.L_INF)
# What rounding moves little, because it moves elements up and down alike.
SYSTEMATIC_METRICS = (
    Metric.LOCAL_GAIN,
    Metric.LOCAL_BIAS,
    Metric.LOCAL_CHANNEL_BIAS,
    Metric.LOCAL_SPATIAL,
    Metric.LOCAL_PERSISTENCE,
)
LOCAL_METRICS = (Metric.LOCAL_REL_L2, Metric.LOCAL_L_INF, *SYSTEMATIC_METRICS)

# Bounds as YAML holds them: numbers by metric, or for a local metric numbers by stage pattern.
YamlBounds = Mapping[str, float | Mapping[str, float]]


class Kind(StrEnum):
    """Which comparisons a tolerance is for; the values are the keys under `tolerance` in YAML."""

    CROSS_CLASS = "cross-class"
    BATCH = "batch"


@dataclass(frozen=True, order=True)
class BoundKey:
    """Names one bound of a scenario: of which comparison, on which metric, for which stages.

    `pattern` is a stage's name (`scheduler.step#3`), its kind (`scheduler.step`), or `ANY_STAGE`,
    which is also the pattern of every bound that is not on local drift.
    """

    kind: Kind
    metric: Metric
    pattern: str = ANY_STAGE

    def __str__(self) -> str:
        subject = f"{self.metric} of {self.pattern}" if self.pattern else str(self.metric)
        return subject if self.kind is Kind.CROSS_CLASS else f"{self.kind} {subject}"


def patterns_of(stage: Stage) -> tuple[str, ...]:
    """Return the patterns of the bounds that may cover a stage, the most specific one first.

    They are its own name, its kind, and `ANY_STAGE`. What goes into the clamp of a step is covered
    by the step's bounds where it has none of its own.
    """
    step = replace(stage, kind=stage.kind.removesuffix(f".{CLAMPED}"))
    return str(stage), stage.kind, str(step), step.kind, ANY_STAGE


@dataclass(frozen=True)
class Tolerance:
    """The bounds of one kind of comparison; with `exact`, no difference is admitted.

    `free` has the bounds on outputs by metric. `local` has those on stages by metric, and then by
    stage pattern. A metric or a stage without a bound is not checked.
    """

    exact: bool = False
    free: Mapping[Metric, float] = field(default_factory=dict)
    local: Mapping[Metric, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def from_yaml(cls, value: str | YamlBounds) -> Tolerance:
        """Return the tolerance that a scenario's checked `cross-class` or `batch` means."""
        if isinstance(value, str):
            return cls(exact=True)
        free: dict[Metric, float] = {}
        local: dict[Metric, Mapping[str, float]] = {}
        for name, bound in value.items():
            metric = Metric(name)
            if metric in LOCAL_METRICS:
                local[metric] = bound if isinstance(bound, Mapping) else {ANY_STAGE: bound}
            elif not isinstance(bound, Mapping):
                free[metric] = bound
        return cls(free=free, local=local)

    def as_yaml(self) -> str | dict[str, float | dict[str, float]]:
        """Return the tolerance as a scenario holds it; the inverse of `from_yaml`."""
        if self.exact:
            return EXACT
        found: dict[str, float | dict[str, float]] = {
            str(m): bound for m, bound in self.free.items()
        }
        for metric, by_pattern in self.local.items():
            general = by_pattern.get(ANY_STAGE)
            alone = general is not None and len(by_pattern) == 1
            found[str(metric)] = general if alone and general is not None else dict(by_pattern)
        return found

    @property
    def metrics(self) -> set[Metric]:
        """The metrics on which there is a bound."""
        return {*self.free, *self.local}

    def local_pattern(self, metric: Metric, stage: Stage) -> str | None:
        """Return the pattern of the bound that covers `stage`; None where no bound does.

        The most specific pattern covers it.
        """
        patterns = self.local.get(metric, {})
        return next((each for each in patterns_of(stage) if each in patterns), None)

    def local_bound(self, metric: Metric, stage: Stage) -> float | None:
        """Return the bound that covers `stage`; None where no bound does."""
        pattern = self.local_pattern(metric, stage)
        return None if pattern is None else self.local[metric][pattern]

    def by_key(self, kind: Kind) -> dict[BoundKey, float]:
        """Return every bound by its key, as the tolerance of `kind`."""
        return dict(self._keyed(kind))

    @classmethod
    def from_keys(cls, bounds: Mapping[BoundKey, float]) -> Tolerance:
        """Return the tolerance with these bounds, whatever kind their keys name."""
        free = {key.metric: bound for key, bound in bounds.items() if key.metric in FREE_METRICS}
        local: dict[Metric, dict[str, float]] = {}
        for key, bound in bounds.items():
            if key.metric in LOCAL_METRICS:
                local.setdefault(key.metric, {})[key.pattern] = bound
        return cls(free=free, local=local)

    def _keyed(self, kind: Kind) -> Iterator[tuple[BoundKey, float]]:
        for metric, bound in self.free.items():
            yield BoundKey(kind, metric), bound
        for metric, by_pattern in self.local.items():
            for pattern, bound in by_pattern.items():
                yield BoundKey(kind, metric, pattern), bound


NO_DIFFERENCE = Tolerance(exact=True)


@dataclass(frozen=True)
class Evidence:
    """What the bounds of a scenario were derived from, as `harness calibrate --write` measured it.

    All four tolerances hold numbers of the same metrics, but only two of them are bounds.

    Attributes:
        bounds: The cross-class bounds that calibration derived.
        batch: The bounds between the images of a batch that it derived.
        noise: The median drift over perturbations by one unit in the last place: rounding noise,
            not a pipeline's noise. Of local drift, the largest median of each kind of stage.
        worst: The largest drift of any platform and seed, of local drift by kind of stage.
        platforms: How many platforms were measured.
        machines: How many of them were numerics classes of other machines, and not synthetic.
        skipped: The names of platforms that were not measured: they do not apply to the pipeline,
            or could not run on that machine.
        seeds: How many seeds each platform ran.
        device: The device of `on`.
        on: The numerics class from which every drift was measured.
        date: The day of the calibration in UTC, such as `2026-11-21`.
        fingerprint: The version of the scenario that was measured; empty where an older harness
            measured.
    """

    bounds: Tolerance
    batch: Tolerance | None = None
    noise: Tolerance | None = None
    worst: Tolerance | None = None
    platforms: int = 0
    machines: int = 0
    skipped: tuple[str, ...] = ()
    seeds: int = 0
    device: Device | None = None
    on: str = ""
    date: str = ""
    fingerprint: str = ""

    @classmethod
    def from_yaml(cls, value: Mapping[str, object]) -> Evidence:
        """Return the evidence that a scenario's checked `tolerance.evidence` holds."""
        given = dict(value)
        for key in ("bounds", "batch", "noise", "worst"):
            if key in given:
                given[key] = Tolerance.from_yaml(given[key])  # type: ignore[arg-type]
        if "skipped" in given:
            given["skipped"] = tuple(given["skipped"])  # type: ignore[arg-type]
        if "device" in given:
            given["device"] = Device(str(given["device"]))
        return cls(**given)  # type: ignore[arg-type]

    def as_yaml(self) -> dict[str, object]:
        """Return the evidence as a scenario holds it; the inverse of `from_yaml`.

        What is not known is left out: a scenario admits no empty text.
        """
        found: dict[str, object] = {"bounds": self.bounds.as_yaml()}
        for key, tolerance in (("batch", self.batch), ("noise", self.noise), ("worst", self.worst)):
            if tolerance is not None:
                found[key] = tolerance.as_yaml()
        found["platforms"] = self.platforms
        if self.machines:
            found["machines"] = self.machines
        if self.skipped:
            found["skipped"] = list(self.skipped)
        device = None if self.device is None else str(self.device)
        facts = {
            "seeds": self.seeds,
            "device": device,
            "on": self.on,
            "date": self.date,
            "fingerprint": self.fingerprint,
        }
        return found | {key: fact for key, fact in facts.items() if fact}

    def measured(self, kind: Kind) -> Tolerance | None:
        """Return the derived bounds of one kind of comparison; None where there are none."""
        return self.bounds if kind is Kind.CROSS_CLASS else self.batch

    def measured_bound(self, key: BoundKey) -> float | None:
        """Return the derived bound with which the scenario's bound at `key` is compared.

        That is the one at the same key. For a local bound without one, it is that of its stage's
        kind, else the largest one of its metric.
        """
        measured = self.measured(key.kind)
        if measured is None:
            return None
        if key.metric in FREE_METRICS:
            return measured.free.get(key.metric)
        by_pattern = measured.local.get(key.metric, {})
        for pattern in (key.pattern, key.pattern.partition("#")[0]):
            if pattern in by_pattern:
                return by_pattern[pattern]
        return max(by_pattern.values(), default=None)


@dataclass(frozen=True)
class Tolerances:
    """All that a scenario says under `tolerance`; a kind that it does not set is None.

    `reason` is why a bound may be more than `LOOSE` times the derived one.
    """

    cross_class: Tolerance | None = None
    batch: Tolerance | None = None
    evidence: Evidence | None = None
    reason: str = ""

    @classmethod
    def from_yaml(cls, value: Mapping[str, object]) -> Tolerances:
        """Return what a scenario's checked `tolerance` means."""
        cross_class, batch, evidence = (
            value.get(key) for key in ("cross-class", "batch", "evidence")
        )
        return cls(
            None if cross_class is None else Tolerance.from_yaml(cross_class),  # type: ignore[arg-type]
            None if batch is None else Tolerance.from_yaml(batch),  # type: ignore[arg-type]
            None if evidence is None else Evidence.from_yaml(evidence),  # type: ignore[arg-type]
            str(value.get("reason", "")),
        )

    def of(self, kind: Kind) -> Tolerance | None:
        """Return the tolerance of one kind of comparison; None where the scenario sets none."""
        return self.cross_class if kind is Kind.CROSS_CLASS else self.batch

    @property
    def bounds_free_drift(self) -> bool:
        """Whether there is a cross-class bound on the free drift of outputs."""
        return self.cross_class is not None and bool(self.cross_class.free)

    def too_loose(self) -> list[tuple[BoundKey, float, float]]:
        """Return the bounds that are more than `LOOSE` times the ones that calibration derived.

        Each comes as its key, its value and the derived value. There are none where a reason is
        given, or where the scenario was not calibrated.
        """
        if self.evidence is None or self.reason:
            return []
        found = []
        for kind in Kind:
            tolerance = self.of(kind)
            for key, bound in tolerance.by_key(kind).items() if tolerance else ():
                measured = self.evidence.measured_bound(key)
                if measured is not None and bound > LOOSE * measured:
                    found.append((key, bound, measured))
        return found
