"""Derives a scenario's tolerances from measured noise, and keeps the evidence beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from harness.errors import UsageError
from harness.judge import drift
from harness.records import Recording
from harness.scenarios import Case
from harness.session import Session

METRICS = ("rel_l2", "l_inf", "local_rel_l2", "local_l_inf")
OVER_NOISE = 8.0  # a bound is at least this many times the effect of one unit in the last place,
OVER_WORST = 2.0  # and at least this many times the worst drift of any platform. Source: docs/measurements.md, Tolerances.

Figures = dict[str, float]  # the four metrics, of one run or one platform


@dataclass(frozen=True)
class Calibration:
    """What was measured of one case, and the bounds that follow.

    `noise` is the median effect of moving the inputs by one unit in the last place; `platforms` the worst drift of each
    platform over all seeds; `on` the numerics class against which everything was measured; `quantum` the step of outputs
    that are whole numbers (one level of 255), else 0.
    """

    case: str
    on: str
    seeds: int
    perturbations: int
    noise: Figures
    platforms: dict[str, Figures]
    quantum: float = 0.0

    def bounds(self, without: str = "") -> Figures:
        """Return the bounds that follow, rounded up to two digits; `without` leaves one platform out of the evidence."""
        kept = [figures for name, figures in self.platforms.items() if name != without]
        worst = {metric: max((figures[metric] for figures in kept), default=0.0) for metric in METRICS}
        found = {metric: _round_up(max(OVER_NOISE * self.noise[metric], OVER_WORST * worst[metric])) for metric in METRICS}
        found["l_inf"] = max(found["l_inf"], self.quantum)
        return {metric: bound for metric, bound in found.items() if bound > 0}

    def left_out(self) -> dict[str, bool]:
        """Return for each platform whether the bounds derived without it admit it."""
        return {name: _admits(self.bounds(without=name), figures) for name, figures in self.platforms.items()}

    def evidence(self) -> dict[str, Any]:
        """Return what the scenario and its baselines keep."""
        worst = {metric: max((figures[metric] for figures in self.platforms.values()), default=0.0) for metric in METRICS}
        return {
            "bounds": self.bounds(),
            "noise": {metric: _round_up(self.noise[metric]) for metric in METRICS},
            "worst": {metric: _round_up(worst[metric]) for metric in METRICS},
            "platforms": len(self.platforms),
            "seeds": self.seeds,
            "on": self.on,
            "date": datetime.now(UTC).date().isoformat(),
        }


def calibrate(
    session: Session,
    case: Case,
    platforms: Mapping[str, Mapping[str, str]],
    *,
    seeds: int,
    perturbations: int,
    on_step: Callable[[str], None],
) -> Calibration:
    """Measure the noise of `case`: nudged inputs on this platform, then every other platform, each free and anchored.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        case: On this machine's own settings.
        platforms: Environment variables by the platform's name.
        seeds: How many seeds are replicated; reruns of one seed would be identical.
        perturbations: How many nudges by one unit in the last place.
        on_step: Called with what is being measured.

    Raises:
        UsageError: The case is expected to vary, so that nothing can be held against anything.
        NotRecordedError: A run failed.
    """
    if not case.scenario.owes_baseline:
        raise UsageError(f"{case.id} is expected to vary; there is no tolerance to calibrate")

    def run(variant: Case, name: str) -> Recording:
        on_step(name)
        return session.record(variant, folder=session.out / "recordings" / case.scenario.name / case.place / name)

    replicas = [_reseeded(case, index) for index in range(seeds)]
    bases = [run(replica, f"base-{index}") for index, replica in enumerate(replicas)]

    def drifts(variant: Case, base: Recording, name: str) -> Figures:
        anchored = replace(variant, anchors=base.tensors_path.resolve())
        return _figures(run(variant, name), run(anchored, f"{name}-anchored"), base)

    nudges = []
    for index in range(perturbations):
        which = index % seeds
        nudges.append(drifts(replace(replicas[which], perturb=index), bases[which], f"nudge-{index}"))
    measured = {}
    for name, knobs in platforms.items():
        elsewhere = [replace(replica, knobs=tuple(sorted({**dict(case.knobs), **knobs}.items()))) for replica in replicas]
        measured[name] = _worst([drifts(c, bases[index], f"{name}-{index}") for index, c in enumerate(elsewhere)])
    noise = {metric: median(figures[metric] for figures in nudges) for metric in METRICS}
    return Calibration(case.id, bases[0].numerics_class["name"], seeds, perturbations, noise, measured, _quantum(bases[0]))


def _reseeded(case: Case, index: int) -> Case:
    seeds = tuple(seed + 1000 * index for seed in case.scenario.seeds)
    return replace(case, scenario=replace(case.scenario, seeds=seeds))


def _figures(free: Recording, anchored: Recording, base: Recording) -> Figures:
    """Return the worst output's free drift and the worst stage's local drift."""
    outputs, stages = drift.of_outputs(free, base).values(), drift.of_stages(anchored, base).values()
    return {
        "rel_l2": max(moved.rel_l2 for moved in outputs),
        "l_inf": max(moved.l_inf for moved in outputs),
        "local_rel_l2": max((moved["rel_l2"] for moved in stages), default=0.0),
        "local_l_inf": max((moved["l_inf"] for moved in stages), default=0.0),
    }


def _worst(many: list[Figures]) -> Figures:
    return {metric: max(figures[metric] for figures in many) for metric in METRICS}


def _admits(bounds: Figures, figures: Figures) -> bool:
    return all(figures[metric] <= bounds.get(metric, 0.0) for metric in METRICS)


def _quantum(recording: Recording) -> float:
    return 1.0 if any("int" in output["dtype"] for output in recording.outputs.values()) else 0.0


def _round_up(value: float) -> float:
    """Return `value` with two digits, not smaller."""
    if value <= 0 or not math.isfinite(value):
        return value
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / scale - 1e-9) * scale:.1e}")


def write_tolerance(path: Path, bounds: Figures, evidence: dict[str, Any]) -> None:
    """Replace `tolerance.cross-class` and `tolerance.evidence` in a scenario's file; every other line stays as it is."""
    from harness.schema import load
    from harness.shape import SHAPE

    values, place = load(path, SHAPE)
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = {key: value for key, value in values.get("tolerance", {}).items() if key not in ("cross-class", "evidence")}
    made = ["tolerance:", f"  cross-class: {_flow(bounds)}"]
    made += [f"  {key}: {_flow(value)}" for key, value in kept.items()]
    made += [
        "  evidence:  # written by `harness calibrate --write`",
        *(f"    {key}: {_flow(value)}" for key, value in evidence.items()),
    ]
    members = place.members()
    if "tolerance" in members:
        key_place, value_place = members["tolerance"]
        first, last = key_place.node.start_mark.line, value_place.node.end_mark
        end = last.line + (1 if last.column else 0)
        lines[first:end] = made
    else:
        lines += made
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.1e}" if value else "0.0"
    return json.dumps(value, ensure_ascii=False)
