"""Scenarios, recordings, baselines and outcomes made by hand, without a worker or a framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from harness.records import (
    AccuracyVerdict,
    Comparison,
    Conditions,
    Cost,
    CostFigures,
    CostReason,
    CostVerdict,
    DetectionRate,
    Device,
    Dtype,
    JudgedBy,
    Outcome,
    Reason,
    Stage,
    StageAccuracy,
    StageError,
    Target,
    Verdict,
)
from harness.scenario.model import (
    Case,
    CostBounds,
    PublishedValue,
    Reference,
    Scenario,
)
from harness.scenario.tolerance import Tolerances
from harness.scenario.weights import Checkpoint, CheckpointKind
from harness.store.baselines import Baseline, Match, Provenance
from harness.store.recording import Environment, NumericsClass, Recording
from harness.store.typed_json import encode
from harness.worker.files import digest_json, dumps
from harness.worker.observe.digest import digest, digest_bytes
from harness.worker.protocol import RECORDING_FILE, RECORDING_FORMAT, TENSORS_FILE

CPU = Target(Device.CPU, Dtype.FLOAT32)
IMAGE = np.array([0.25, 0.5, 0.75, 1.0], np.float32).reshape(
    1, 2, 2, 1
)  # abs-sum 2.5, squares 1.875
NOISE = np.array([1.0, -1.0, 0.5, -0.5], np.float32).reshape(1, 1, 2, 2)
STAGES = (
    ("unet#0", {"sample": "n"}, {"sample": "u"}),
    ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "s"}),
)
# IMAGE with one element moved: L-inf 9.77e-4, relative L2 7.13e-4.
MOVED = IMAGE + np.array([0, 0, 0, 2.0**-10], np.float32).reshape(IMAGE.shape)
NAN = np.where(IMAGE == 1.0, np.float32(np.nan), IMAGE)
OTHER_UNET = (
    ("unet#0", {"sample": "n"}, {"sample": "U"}),
    ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "S"}),
)

BASICS = {
    "description": "One step of the digit model.",
    "pipeline": "DDIMPipeline",
    "checkpoint": "{bundled: digits-ddpm}",
    "call": "{num_inference_steps: 1, output_type: np}",
    "seed": "0",
    # One round: each further one collects the garbage of all of torch, which takes longer than it.
    "cost": "{rounds: 1}",
}


def scenario_text(**changes: str | None) -> str:
    """Return the smallest scenario as YAML, with `changes` to its keys; None leaves a key out."""
    fields: dict[str, str | None] = {**BASICS, **changes}
    return "".join(
        f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items() if value is not None
    )


def target(name: str) -> Target:
    """Return the target that ids call `cpu-float32`."""
    device, _, dtype = name.partition("-")
    return Target(Device(device), Dtype(dtype))


def scenario(**changes: Any) -> Scenario:
    """Return the smallest scenario, called `digits`, with `changes` to its fields.

    `tolerance`, `published` and `cost` are given as YAML has them.
    """
    fields: dict[str, Any] = {
        "path": Path("scenarios/digits.yaml"),
        "name": "digits",
        "description": "A digit.",
        "pipeline": "DDIMPipeline",
        "checkpoint": checkpoint(),
        "call": {"num_inference_steps": 2, "output_type": "np"},
        **changes,
    }
    if "tolerance" in fields:
        fields["tolerances"] = Tolerances.from_yaml(fields.pop("tolerance"))
    if "published" in fields:
        published = fields["published"].items()
        fields["published"] = {name: _published(**facts) for name, facts in published}
    if isinstance(fields.get("cost"), dict):
        fields["cost"] = CostBounds(**fields["cost"])
    return Scenario(**fields)


def _published(on: str | None = None, **facts: Any) -> PublishedValue:
    return PublishedValue(**facts, device=None if on is None else Device(on))


def checkpoint(name: str = "digits-ddpm", folder: str = "/here/digits-ddpm") -> Checkpoint:
    """Return a bundled checkpoint."""
    return Checkpoint(CheckpointKind.BUNDLED, name, folder)


def case(device: str = "cpu", dtype: str = "float32", **changes: Any) -> Case:
    """Return a case of `scenario(**changes)`."""
    return Case(scenario(**changes), Target(Device(device), Dtype(dtype)))


def numerics_class(letter: str) -> NumericsClass:
    """Return the numerics class `cpu-LETTER`."""
    return NumericsClass(f"cpu-{letter}", letter * 32, {"bmm": letter, "silu": "0"})


def environment(letter: str = "a", **changes: Any) -> Environment:
    """Return an environment of class `letter`."""
    facts: dict[str, Any] = {
        "numerics_class": numerics_class(letter),
        "framework": "torch",
        "device_kind": "cpu",
        "versions": {"torch": "2.9.1", "diffusers": "0.36.0"},
        "hardware": {"cpu": "Xeon", "cores": 2},
        "flags": {"cudnn.benchmark": False},
        "variables": {"OMP_NUM_THREADS": "1"},
        "unobserved": (),
    }
    return Environment(**{**facts, **changes})


def summary(array: np.ndarray) -> dict[str, Any]:
    """Return what a recording says of an array."""
    wide = array.astype(np.float64)
    finite = bool(np.isfinite(wide).all())
    filled = bool(array.size) and finite
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "digest": digest(array),
        "finite": finite,
        "abs_sum": float(np.abs(wide).sum()) if finite else None,
        "l2": float(np.sqrt((wide * wide).sum())) if finite else None,
        "min": float(wide.min()) if filled else None,
        "max": float(wide.max()) if filled else None,
    }


def recording(
    folder: Path,
    outputs: Mapping[str, np.ndarray] | np.ndarray = IMAGE,
    *,
    noise: Sequence[np.ndarray] = (NOISE,),
    stages: Sequence[tuple[str, dict[str, str], dict[str, str]]] = STAGES,
    kept: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
    letter: str = "a",
    **changes: Any,
) -> Recording:
    """Write a recording to `folder` as a worker would, sealed, and read it back.

    Args:
        folder: Made if it is not there.
        outputs: By name; a lone array is the output `image`.
        noise: What was drawn, in order.
        stages: Name, digests of inputs, digests of outputs.
        kept: Tensors of stages, by stage and key.
        metadata: Of the file of tensors.
        letter: Of the numerics class.
        changes: Members of the recording that replace those made here: `environment`, `inputs`,
            `repeat`, `cost`, ...
    """
    outputs = {"image": outputs} if isinstance(outputs, np.ndarray) else outputs
    tensors = {f"output/{name}": array for name, array in outputs.items()}
    tensors |= {f"noise/{index}": array for index, array in enumerate(noise)}
    tensors |= {f"stage/{name}": array for name, array in (kept or {}).items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    packed = save(arrays, metadata=dict(metadata or {}) or None)
    content = {
        "format": RECORDING_FORMAT,
        "case": {},
        "fault": None,
        "environment": environment(letter),
        "inputs": inputs(),
        "noise": [summary(array) for array in noise],
        "outputs": {name: summary(array) for name, array in outputs.items()},
        "stages": [
            {"name": name, "inputs": taken, "outputs": given} for name, taken, given in stages
        ],
        "operators": [],
        "repeat": repeat(),
        "cost": figures(2.0),
        "tensors_file": {
            "file": TENSORS_FILE,
            "digest": digest_bytes(np.frombuffer(packed, np.uint8)),
        },
        **changes,
    }
    plain = encode(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS_FILE).write_bytes(packed)
    sealed = {**plain, "digest": digest_json(plain)}
    (folder / RECORDING_FILE).write_text(dumps(sealed), encoding="utf-8")
    return Recording.read(folder)


def moved(**more: Any) -> dict[str, Any]:
    """Return the arguments of a recording whose U-Net, and so whose image, moved."""
    return {"outputs": MOVED, "stages": OTHER_UNET, **more}


def inputs(unet: str = "w", **settings: Any) -> dict[str, Any]:
    """Return a recording's inputs: weights, and the scheduler's configuration with `settings`."""
    configuration = {"class": "DDIMScheduler", "timestep_spacing": "leading", **settings}
    return {
        "weights": {"configuration": "c", "unet": unet},
        "commit": None,
        "schedulers": {"scheduler": configuration},
    }


def repeat(
    distinct: int = 1,
    runs: int = 3,
    l_inf: float | None = 0.0,
    *,
    instrumented_equals_plain: bool = True,
) -> dict[str, Any]:
    """Return what a recording says of its runs; the default is that all are the same."""
    return {
        "runs": runs,
        "distinct": distinct,
        "l_inf": l_inf,
        "instrumented_equals_plain": instrumented_equals_plain,
    }


def figures(seconds: float, *slowed_by: str, waited: float = 0.0) -> CostFigures:
    """Return a recording's cost: `seconds` a run, half of it a step, 3 MiB.

    Its GPU was held down by `slowed_by`, and its threads waited `waited` seconds.
    """
    return CostFigures(
        load_seconds=1.0,
        first_seconds=4.0,
        seconds=seconds,
        peak_bytes=3 * 2**20,
        rounds_seconds=(seconds,),
        step_seconds={"scheduler": seconds / 2},
        conditions=(Conditions(mhz=1980.0, slowed_by=slowed_by, waited=waited),),
    )


def cost(
    seconds: float = 0.5,
    verdict: str = "ok",
    reason: str | None = None,
    ratio: float | None = None,
    **changes: Any,
) -> Cost:
    """Return an outcome's cost."""
    why = None if reason is None else CostReason(reason)
    return Cost(figures(seconds), CostVerdict(verdict), why, ratio=ratio, **changes)


def baseline(
    expected: Recording, *, fingerprint: str = "", reference: bool = True, **changes: Any
) -> Baseline:
    """Return `expected` as a baseline, by default of the default scenario's fingerprint."""
    kept = ("environment", "inputs", "noise", "outputs", "stages", "cost", "tensors_file")
    facts: dict[str, Any] = {
        **{name: getattr(expected, name) for name in kept},
        "format": "harness-baseline/2",
        "scenario": "digits",
        "target": CPU,
        "fingerprint": fingerprint or scenario().fingerprint,
        "reference": reference,
        "provenance": Provenance("A", "2026-01-02T03:04:05+00:00", "R"),
        "decides": {},
        "digest": "0" * 32,
        "tensors_path": expected.tensors_path,
        "path": Path(f"{expected.numerics_class.name}.json"),
    }
    return Baseline(**{**facts, **changes})


def match(expected: Recording, *, same_class: bool = True, **changes: Any) -> Match:
    """Return `expected` as the baseline that judges: of the same class, or the CPU's reference."""
    made = baseline(expected, **changes)
    return Match(made) if same_class else Match(made, Reference(CPU))


def judged_by(name: str = "cpu-a", *, same_class: bool = True, **changes: Any) -> JudgedBy:
    """Return what an outcome says of its baseline."""
    comparison = Comparison.SAME_CLASS if same_class else Comparison.CROSS_CLASS
    return JudgedBy(name, comparison, "" if same_class else "cpu-float32", **changes)


def detection_rate(caught: int = 20, of: int = 20, missed: tuple[str, ...] = ()) -> DetectionRate:
    """Return what a baseline says of its bounds: `caught` of `of` faults above the noise."""
    return DetectionRate(
        faults=of + 2,
        same_class_caught=of + 2,
        above_noise=of,
        cross_class_caught=caught,
        missed=missed,
        platform="ATEN_CPU_CAPABILITY=default",
    )


def accuracy(
    verdict: str = "no-worse", actual: float = 2e-7, expected: float = 2e-7, **changes: Any
) -> StageAccuracy:
    """Return the accuracy of a step, whose errors are both relative L2 and L-inf."""
    errors = StageError(actual, actual), StageError(expected, expected)
    stage = Stage("scheduler.step", 3)
    made = StageAccuracy(stage, "sample", AccuracyVerdict(verdict), *errors, own_error=1e-15)
    return replace(made, **changes)


REASONS = {
    "identical": Reason.SAME_BITS,
    "within": Reason.INSIDE_TOLERANCE,
    "varies": Reason.VARIES_AS_EXPECTED,
    "drifted": Reason.OVER_BOUND,
    "unrepeatable": Reason.EXPECTATION_BROKEN,
    "missing": Reason.NO_BASELINE,
    "stale": Reason.SCENARIO_EDITED,
    "incomparable": Reason.OTHER_STRUCTURE,
    "error": Reason.NOT_RECORDED,
    "unverified": Reason.NOT_RECORDED,
}


def outcome(
    verdict: str = "identical", name: str = "digits", on: str = "cpu-float32", **changes: Any
) -> Outcome:
    """Return the outcome of a case, `REASON` being its message."""
    made = Outcome(
        case=f"{name}[{on}]",
        scenario=name,
        target=target(on),
        verdict=Verdict(verdict),
        reason=REASONS[verdict],
        message="REASON",
    )
    return replace(made, **changes)
