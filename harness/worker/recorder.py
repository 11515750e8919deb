"""One case run to a recording: watched, again where its bits are new or its cost counts, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import safetensors.torch
import torch

from . import protocol
from .conditions import cost, determinism, noise, numerics
from .faults import planted
from .observe.capture import Capture, Tensors, digests_of, repeat_of, summary
from .observe.modules import NO_STAGE, Detail, Enough, Tracer
from .pipeline import checkpoints
from .pipeline.call import Pipeline
from .pipeline.torch_ import Torch


class Watched(NamedTuple):
    """One watched run: its outputs, what was kept of its stages and of their inside, and what it cost."""

    outputs: Tensors
    capture: Capture
    tracer: Tracer
    meter: cost.Meter


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
            return self._environment(here, device, [dtype], mode)

    def record(
        self, case: Dict[str, Any], folder: Path, known: Optional[Dict[str, Dict[str, str]]] = None
    ) -> None:
        """Run `case` and write its recording to `folder`.

        The first run is watched. Where it gives the bits that are known of this numerics class, it has repeated what an earlier
        process did, and only a cost needs more runs; else a plain run must give the same bits.

        Args:
            case: What to run; see `harness.scenarios.Case.request`.
            folder: Replaced as a whole.
            known: By the name of a numerics class, the digests of the outputs of its baseline, by name. Without one for this
                class, and with other bits than it, the inside of stages is noted too: somebody will ask for it.

        Raises:
            CannotRunHere: No such device, nothing can be fed there, or the weights are not at hand.
            CaseError: The case names what this environment's libraries do not have.
        """
        framework = _framework(case["framework"], case["device"])
        if case["anchors"] and not framework.feeds:
            raise protocol.CannotRunHere(
                f"anchored runs: what is fed on {case['device']} does not reach the next stage"
            )
        proof = None
        dtypes = {"default": case["dtype"], **case["dtypes"]}
        own = determinism.chosen(case["attention"], tf32="tf32" in case["enable"])
        with determinism.settings(case["determinism"], own), ExitStack() as faults:
            here = self._environment(
                framework, case["device"], list(dict.fromkeys(dtypes.values())), case["determinism"]
            )
            checkpoint = self._checkpoint(case, dtypes, framework)
            pipeline = Pipeline(case, checkpoint, framework)
            try:
                if case.get("fault"):
                    proof = faults.enter_context(planted(pipeline.pipeline, case["fault"]))
                seen, runs, figures = self._runs(
                    case, pipeline, (known or {}).get(here["class"]["name"])
                )
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
                "schedulers": seen.capture.schedulers,
                "tables": seen.capture.tables(),
            },
            "noise": [summary(tensor) for tensor in seen.capture.noise()],
            "outputs": {name: summary(tensor) for name, tensor in seen.outputs.items()},
            "stages": seen.capture.stages(),
            "operators": seen.tracer.operators,
            "repeat": repeat_of(seen.outputs, runs),
            "cost": {"load_seconds": self._load_seconds, **figures},
        }
        kept = {f"output/{name}": tensor for name, tensor in seen.outputs.items()}
        kept.update({**seen.capture.tensors(), **seen.tracer.kept})
        _write(
            folder, content, kept, {"modules": seen.tracer.modules(), "weights": checkpoint.tensors}
        )

    def _runs(
        self, case: Dict[str, Any], pipeline: Pipeline, expected: Optional[Dict[str, str]]
    ) -> Tuple[Watched, List[Tensors], Dict[str, Any]]:
        """Run as often as the case needs; returns the watched run, the outputs of the others, and what they cost."""
        if not case["rounds"]:  # a study's variation: run once, timed by nobody
            detail = {"stage": NO_STAGE} if case["detail"] is None else case["detail"]
            return self._watched(case, pipeline, detail), [], {}
        seen = self._watched(case, pipeline, {} if expected is None else {"stage": NO_STAGE})
        same = digests_of(seen.outputs) == expected
        steady, runs = self._timed(case, pipeline, max(case["rounds"] - 1, 0 if same else 1))
        meters = steady or [seen.meter]
        figures = {
            "first_seconds": seen.meter.seconds,  # it warms up, and pays for being watched
            "rounds_seconds": [meter.seconds for meter in steady],
            "seconds": median(meter.seconds for meter in meters),
            "step_seconds": cost.step_seconds(steady),
            "peak_bytes": max(meter.peak_bytes for meter in meters),
            "conditions": [meter.conditions for meter in steady],
        }
        if same or expected is None:
            return seen, runs, figures
        return self._watched(case, pipeline, {}), [*runs, seen.outputs], figures

    def _watched(self, case: Dict[str, Any], pipeline: Pipeline, detail: Dict[str, Any]) -> Watched:
        """Run once, every stage seen; the outputs are empty where the run ends early."""
        wanted = Detail(**detail)
        tensors = safetensors.torch.load_file(case["anchors"]) if case["anchors"] else {}
        tracer = Tracer(wanted, tensors, pipeline.framework.operators)
        last = None if wanted.to_end else wanted.stage
        capture = Capture(
            pipeline, {} if wanted.feed else tensors, case["perturb"], last, case["keep_every"]
        )

        def on_stage(name: str, inputs: Dict[str, Any], result: Any) -> Any:
            return capture.on_stage(name, inputs, tracer.end(name, result))

        def on_draw(drawn: torch.Tensor) -> None:
            capture.on_draw(tracer.end(f"noise#{len(capture.noise())}", drawn))

        self._progress(case, "recording")
        outputs: Tensors = {}
        with cost.measured(pipeline.framework.device) as meter, contextlib.suppress(Enough):
            outputs = self._seeded(case, lambda: pipeline.run(on_stage, on_draw, tracer.around))
        return Watched(outputs, capture, tracer, meter)

    def _timed(
        self, case: Dict[str, Any], pipeline: Pipeline, count: int
    ) -> Tuple[List[cost.Meter], List[Tensors]]:
        """Run without capture, measured as a whole and step by step."""
        meters, runs = [], []
        for index in range(count):
            self._progress(case, f"run {index + 1} of {count}")
            with cost.measured(pipeline.framework.device) as meter:
                runs.append(self._seeded(case, partial(pipeline.run, on_step=meter.mark)))
            meters.append(meter)
        return meters, runs

    def _seeded(self, case: Dict[str, Any], run: Callable[[], Tensors]) -> Tensors:
        if case["generator"] == "none":
            determinism.scatter_global_streams()
        else:
            determinism.seed_global_streams(case["seeds"][0])
        return run()

    def _checkpoint(
        self, case: Dict[str, Any], dtypes: Dict[str, str], framework: Torch
    ) -> checkpoints.Checkpoint:
        decides = [case[part] for part in ("checkpoint", "pipeline", "enable", "attention")]
        key = json.dumps([*decides, dtypes], sort_keys=True)
        if self._loaded is None or key != self._loaded_key:
            self._loaded = self._loaded_key = None  # frees the last one before the next is loaded
            self._progress(case, "loading the checkpoint")
            started = time.perf_counter()
            self._loaded = checkpoints.load(
                case["checkpoint"], case["pipeline"], dtypes, framework, case["enable"]
            )
            self._load_seconds = time.perf_counter() - started
            self._loaded_key = key
        return self._loaded

    def _environment(
        self, framework: Torch, device: str, dtypes: List[str], mode: str
    ) -> Dict[str, Any]:
        framework.settle(mode)
        key = f"{device} {dtypes} {mode} {determinism.effective()}"
        if key not in self._classes:
            self._classes[key] = numerics.of_all(
                {dtype: framework.numerics_class(dtype) for dtype in dtypes}
            )
        unobserved = [] if noise.door(framework.door) else ["noise"]
        return {**framework.describe(), "class": self._classes[key], "unobserved": unobserved}

    def _progress(self, case: Dict[str, Any], doing: str) -> None:
        self._send(protocol.PROGRESS, case=case["id"], doing=doing)


def _write(folder: Path, content: Dict[str, Any], kept: Tensors, inside: Dict[str, Any]) -> None:
    """Write a recording whole: `content` as JSON, the kept tensors with what is `inside` stages in their header."""
    header = {"format": "pt", **{name: json.dumps(value) for name, value in inside.items()}}
    packed = safetensors.torch.save(
        {name: t.contiguous().clone() for name, t in kept.items()}, header
    )
    text = protocol.dumps(content).encode()
    protocol.write_folder(folder, {protocol.TENSORS_FILE: packed, protocol.RECORDING_FILE: text})


def _framework(name: str, device: str) -> Torch:
    """Return the framework `torch` or `mindspore` on a device; raises CannotRunHere where there is no such device."""
    if name == "torch":
        return Torch(device)
    from .pipeline.mindspore_ import (
        MindSpore,
    )  # imports MindSpore, which only its own environment has

    return MindSpore(device)
