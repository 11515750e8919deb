"""Scenarios, recordings, baselines and outcomes made by hand: what a worker would leave, without a worker or a framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from harness.records import Baseline, Match, Outcome, Recording
from harness.scenario.model import Case, Scenario
from harness.worker.observe.digest import digest
from harness.worker.protocol import RECORDING_FILE, RECORDING_FORMAT, TENSORS_FILE, dumps

IMAGE = np.array([0.25, 0.5, 0.75, 1.0], np.float32).reshape(
    1, 2, 2, 1
)  # abs-sum 2.5, squares 1.875
NOISE = np.array([1.0, -1.0, 0.5, -0.5], np.float32).reshape(1, 1, 2, 2)
STAGES = (
    ("unet#0", {"sample": "n"}, {"sample": "u"}),
    ("scheduler.step#0", {"sample": "n"}, {"prev_sample": "s"}),
)

BASICS = {
    "description": "One step of the digit model.",
    "pipeline": "DDIMPipeline",
    "checkpoint": "{bundled: digits-ddpm}",
    "call": "{num_inference_steps: 1, output_type: np}",
    "seed": "0",
    "cost": "{rounds: 1}",  # a round less is a garbage collection of all of torch less, which takes longer than the case
}


def scenario_text(**changes: str | None) -> str:
    """Return the smallest scenario as YAML, with `changes` to its keys; None leaves a key out."""
    fields: dict[str, str | None] = {**BASICS, **changes}
    return "".join(
        f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items() if value is not None
    )


def scenario(**changes: Any) -> Scenario:
    """Return the smallest scenario, called `digits`, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "path": Path("scenarios/digits.yaml"),
        "name": "digits",
        "description": "A digit.",
        "pipeline": "DDIMPipeline",
        "checkpoint": {"kind": "bundled", "name": "digits-ddpm", "folder": "/here/digits-ddpm"},
        "call": {"num_inference_steps": 2, "output_type": "np"},
    }
    return Scenario(**{**fields, **changes})


def case(device: str = "cpu", dtype: str = "float32", **changes: Any) -> Case:
    """Return a case of `scenario(**changes)`."""
    return Case(scenario(**changes), device, dtype)


def numerics_class(letter: str) -> dict[str, Any]:
    """Return the numerics class `cpu-LETTER`."""
    return {"name": f"cpu-{letter}", "hash": letter * 32, "operators": {"bmm": letter, "silu": "0"}}


def environment(letter: str = "a", **changes: Any) -> dict[str, Any]:
    """Return an environment of class `letter`."""
    facts: dict[str, Any] = {
        "class": numerics_class(letter),
        "device_kind": "cpu",
        "versions": {"torch": "2.9.1", "diffusers": "0.36.0"},
        "hardware": {"cpu": "Xeon", "cores": 2},
        "flags": {"cudnn.benchmark": False},
        "variables": {"OMP_NUM_THREADS": "1"},
    }
    return {**facts, **changes}


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
    letter: str = "a",
    **changes: Any,
) -> Recording:
    """Write a recording to `folder` as a worker would, and read it back.

    Args:
        folder: Made if it is not there.
        outputs: By name; a lone array is the output `image`.
        noise: What was drawn, in order.
        stages: Name, digests of inputs, digests of outputs.
        kept: Tensors of stages, by stage.
        letter: Of the numerics class.
        changes: Members of the recording that replace those made here: `environment`, `inputs`, `repeat`, `cost`, ...
    """
    outputs = {"image": outputs} if isinstance(outputs, np.ndarray) else outputs
    content = {
        "format": RECORDING_FORMAT,
        "case": {},
        "environment": environment(letter),
        "inputs": inputs(),
        "noise": [summary(array) for array in noise],
        "outputs": {name: summary(array) for name, array in outputs.items()},
        "stages": [
            {"name": name, "inputs": taken, "outputs": given} for name, taken, given in stages
        ],
        "repeat": repeat(),
        "cost": cost(2.0),
        **changes,
    }
    tensors = {f"output/{name}": array for name, array in outputs.items()}
    tensors |= {f"noise/{index}": array for index, array in enumerate(noise)}
    tensors |= {f"stage/{name}": array for name, array in (kept or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS_FILE).write_bytes(
        save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    )
    (folder / RECORDING_FILE).write_text(dumps(content), encoding="utf-8")
    return Recording.read(folder)


def inputs(unet: str = "w", **settings: Any) -> dict[str, Any]:
    """Return a recording's inputs: digests of weights, and the scheduler's configuration with `settings`."""
    configuration = {"class": "DDIMScheduler", "timestep_spacing": "leading", **settings}
    return {
        "weights": {"configuration": "c", "unet": unet},
        "commit": None,
        "schedulers": {"scheduler": configuration},
    }


def repeat(
    distinct: int = 1, runs: int = 3, l_inf: float | None = 0.0, *, watched_as_plain: bool = True
) -> dict[str, Any]:
    """Return what a recording says of its runs; the default is that all are the same."""
    return {
        "runs": runs,
        "distinct": distinct,
        "l_inf": l_inf,
        "watched_as_plain": watched_as_plain,
    }


def cost(seconds: float, *slowed_by: str, waited: float = 0.0) -> dict[str, Any]:
    """Return a recording's cost: `seconds` a run, half of it a step, 3 MiB; its GPU was held down, and it waited, as is given."""
    return {
        "first_seconds": 4.0,
        "load_seconds": 1.0,
        "rounds_seconds": [seconds],
        "step_seconds": {"scheduler": seconds / 2},
        "seconds": seconds,
        "peak_bytes": 3 * 2**20,
        "conditions": [{"mhz": 1980, "slowed_by": list(slowed_by), "waited": waited}],
    }


def match(then: Recording, *, same_class: bool = True, fingerprint: str = "") -> Match:
    """Return `then` as the baseline of the scenario with `fingerprint` (the default scenario's if empty)."""
    name = then.numerics_class["name"]
    why = f"the same class {name}" if same_class else f"class {name}, the reference of cpu-float32"
    provenance = {
        "author": "A",
        "date": "2026-01-02T03:04:05+00:00",
        "reason": "R",
        "commit": None,
        "replaced": None,
    }
    baseline = Baseline(
        Path(f"{name}.json"), fingerprint or scenario().fingerprint, True, provenance, then
    )
    return Match(baseline, same_class, why)


def outcome(
    verdict: str = "identical", name: str = "digits", place: str = "cpu-float32", **changes: Any
) -> Outcome:
    """Return the outcome of a case, `REASON` being its reason."""
    fields = {
        "case": f"{name}[{place}]",
        "scenario": name,
        "verdict": verdict,
        "reason": "REASON",
        "place": place,
    }
    return Outcome(**{**fields, **changes})
