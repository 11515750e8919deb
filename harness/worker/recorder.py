"""One case run to a recording: timed without capture, repeated, then once more watched, and written whole or not at all."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import safetensors.torch
import torch

from . import checkpoints, cost, determinism, noise, protocol
from .capture import Capture, Tensors, digests_of, repeat_of, summary
from .faults import planted
from .frameworks import Torch
from .modules import NO_STAGE, Detail, Enough, Tracer
from .pipeline import Pipeline


class Recorder:
    """Runs cases one after another; keeps the last checkpoint loaded, and each numerics class once measured."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._loaded_key: Optional[str] = None
        self._loaded: Optional[checkpoints.Checkpoint] = None
        self._load_seconds = 0.0
        self._classes: Dict[str, Dict[str, Any]] = {}

    def describe(self, framework: str, device: str, dtype: str, mode: str) -> Dict[str, Any]:
        """Return the environment and numerics class of this process for one framework, device, dtype and mode."""
        here = _framework(framework, device)
        with determinism.settings(mode):
            return self._environment(here, device, dtype, mode)

    def record(self, case: Dict[str, Any], folder: Path, known: Sequence[Dict[str, str]] = ()) -> None:
        """Run `case` and write its recording to `folder`.

        Args:
            case: What to run; see `harness.scenarios.Case.request`.
            folder: Replaced as a whole.
            known: Digests of outputs, by name, that raise no question: with other ones the inside of stages is noted too,
                as where the case asks for it; it takes time, and serves those who will ask why.

        Raises:
            CannotRunHere: No such device, nothing can be fed there, or the weights are not at hand.
            CaseError: The case names what this environment's libraries do not have.
        """
        framework = _framework(case["framework"], case["device"])
        if case["anchors"] and not framework.feeds:
            raise protocol.CannotRunHere(f"anchored runs: what is fed on {case['device']} does not reach the next stage")
        proof = None
        own = determinism.chosen(case.get("attention"), tf32="tf32" in case["enable"])
        with determinism.settings(case["determinism"], own), ExitStack() as faults:
            here = self._environment(framework, case["device"], case["dtype"], case["determinism"])
            checkpoint = self._checkpoint(case, framework)
            pipeline = Pipeline(case, checkpoint, framework)
            try:
                if case.get("fault"):
                    proof = faults.enter_context(planted(pipeline.pipeline, case["fault"]))
                figures, runs = self._timed(case, pipeline, framework.device)
                asked = {} if runs and digests_of(runs[0]) not in known else {"stage": NO_STAGE}
                detail = Detail(**(asked if case["detail"] is None else case["detail"]))
                tensors = safetensors.torch.load_file(case["anchors"]) if case["anchors"] else {}
                tracer = Tracer(detail, tensors, framework.operators)
                last = None if detail.to_end else detail.stage
                fed = {} if detail.feed else tensors
                capture = Capture(pipeline, fed, case["perturb"], last, case["keep_every"])
                self._progress(case, "recording")
                outputs = self._watched(case, pipeline, capture, tracer)
            finally:
                pipeline.close()
        content = {
            "format": protocol.RECORDING_FORMAT,
            "case": case,
            "fault": proof,
            "environment": here,
            "inputs": {
                "weights": checkpoint.weights,
                "commit": checkpoint.commit,
                "schedulers": capture.schedulers,
                "tables": capture.tables,
            },
            "noise": [summary(tensor) for tensor in capture.noise()],
            "outputs": {name: summary(tensor) for name, tensor in outputs.items()},
            "stages": capture.stages,
            "operators": tracer.operators,
            "repeat": repeat_of([*runs, outputs]),
            "cost": {"load_seconds": self._load_seconds, **figures},
        }
        kept = {f"output/{name}": tensor for name, tensor in outputs.items()}
        kept.update({**capture.tensors(), **tracer.kept})
        _write(folder, content, kept, {"modules": tracer.modules, "weights": checkpoint.tensors})

    def _watched(self, case: Dict[str, Any], pipeline: Pipeline, capture: Capture, tracer: Tracer) -> Tensors:
        """Run once, every stage seen; returns nothing where the run ends early."""

        def on_stage(name: str, inputs: Dict[str, Any], result: Any) -> Any:
            return capture.on_stage(name, inputs, tracer.end(name, result))

        def on_draw(drawn: torch.Tensor) -> None:
            capture.on_draw(tracer.end(f"noise#{len(capture.noise())}", drawn))

        try:
            return self._seeded(case, lambda: pipeline.run(on_stage, on_draw, tracer.around))
        except Enough:
            return {}

    def _timed(self, case: Dict[str, Any], pipeline: Pipeline, device: torch.device) -> Tuple[Dict[str, Any], List[Tensors]]:
        """Run without capture: the first run apart, because it also warms up; then the steady ones."""
        meters, runs = [], []
        for index in range(case["rounds"]):
            self._progress(case, f"run {index + 1} of {case['rounds']}")
            with cost.measured(device) as meter:
                runs.append(self._seeded(case, pipeline.run))
            meters.append(meter)
        if not meters:
            return {}, runs
        steady = [meter.seconds for meter in meters[1:]] or [meters[0].seconds]
        figures = {
            "first_seconds": meters[0].seconds,
            "rounds_seconds": steady,
            "seconds": median(steady),
            "peak_bytes": max(meter.peak_bytes for meter in meters),
        }
        return figures, runs

    def _seeded(self, case: Dict[str, Any], run: Callable[[], Tensors]) -> Tensors:
        if case["generator"] == "none":
            determinism.scatter_global_streams()
        else:
            determinism.seed_global_streams(case["seeds"][0])
        return run()

    def _checkpoint(self, case: Dict[str, Any], framework: Torch) -> checkpoints.Checkpoint:
        key = json.dumps([case.get(part) for part in ("checkpoint", "pipeline", "dtype", "dtypes", "enable")], sort_keys=True)
        if self._loaded is None or key != self._loaded_key:
            self._loaded = self._loaded_key = None  # frees the last one before the next is loaded
            self._progress(case, "loading the checkpoint")
            started = time.perf_counter()
            dtypes = {"default": case["dtype"], **case.get("dtypes", {})}
            self._loaded = checkpoints.load(case["checkpoint"], case["pipeline"], dtypes, framework, case["enable"])
            self._load_seconds = time.perf_counter() - started
            self._loaded_key = key
        return self._loaded

    def _environment(self, framework: Torch, device: str, dtype: str, mode: str) -> Dict[str, Any]:
        framework.settle(mode)
        key = f"{device} {dtype} {mode} {determinism.effective()}"
        if key not in self._classes:
            self._classes[key] = framework.numerics_class(dtype)
        unobserved = [] if noise.door(framework.door) else ["noise"]
        return {**framework.describe(), "class": self._classes[key], "unobserved": unobserved}

    def _progress(self, case: Dict[str, Any], doing: str) -> None:
        self._send(protocol.PROGRESS, case=case["id"], doing=doing)


def _write(folder: Path, content: Dict[str, Any], kept: Tensors, inside: Dict[str, Any]) -> None:
    """Write a recording whole: `content` as JSON, the kept tensors with what is `inside` stages in their header."""
    header = {"format": "pt", **{name: json.dumps(value) for name, value in inside.items()}}
    packed = safetensors.torch.save({name: t.contiguous().clone() for name, t in kept.items()}, header)
    text = protocol.dumps(content).encode()
    protocol.write_folder(folder, {protocol.TENSORS_FILE: packed, protocol.RECORDING_FILE: text})


def _framework(name: str, device: str) -> Torch:
    """Return the framework `torch` or `mindspore` on a device; raises CannotRunHere where there is no such device."""
    if name == "torch":
        return Torch(device)
    from .mindspore_ import MindSpore  # imports MindSpore, which only its own environment has

    return MindSpore(device)
