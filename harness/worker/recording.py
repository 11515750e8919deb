"""A recording's two files: their content, the seals over it, and how a folder with them is written.

The judge's half trusts a recording whose digests are right, so nothing is written before both seals
are made: the digest of the tensor file, and the digest of everything else.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import torch

from . import files
from .observe.digest import digest_bytes
from .observe.tensor_file import pack_tensors
from .observe.tensors import Tensors, digest_tensor, dtype_name, to_numpy
from .protocol import (
    OUTPUT,
    RECORDING_FILE,
    RECORDING_FORMAT,
    TENSORS_FILE,
    CaseError,
    CaseRequest,
    ClampRecord,
    CostRecord,
    EffectRecord,
    EnvironmentRecord,
    InputsRecord,
    LineRecord,
    ModuleRecord,
    OperatorRecord,
    RecordingContent,
    RepeatRecord,
    StageRecord,
    TensorRecord,
)


class Observation(NamedTuple):
    """All that is known of a case when its runs are over.

    Attributes:
        case: The case as it was asked for.
        fault: The proof that an injected fault took effect; None without one.
        environment: The process in which it ran.
        inputs: The digests of what the runs started from.
        noise: The noise that the instrumented run drew, in order.
        outputs: The outputs of the instrumented run by name.
        stages: Its stages in order.
        modules: Its modules' calls by stage.
        operators: The operators of one module, where they were asked for.
        tensors: All other tensors that are kept, by their names in a recording.
        weights: A short digest of every tensor of each component.
        repeat: How the runs compare.
        cost: What they cost.
        lower_precision: The operators that an evaluation computed with less than float64, by the
            kept tensor that they led to.
        effects: What was seen of each execution that the case asked for.
        clamps: The two limits of each clamp whose operand was kept, by the step's name.
        lines: The statements that made values, where they were asked for.
        edited_files: The loaded files that are not as their packages installed them, where they
            were asked for.
    """

    case: CaseRequest
    fault: Optional[str]
    environment: EnvironmentRecord
    inputs: InputsRecord
    noise: List[torch.Tensor]
    outputs: Tensors
    stages: List[StageRecord]
    modules: Dict[str, List[ModuleRecord]]
    operators: List[OperatorRecord]
    tensors: Tensors
    weights: Dict[str, Dict[str, str]]
    repeat: RepeatRecord
    cost: CostRecord
    lower_precision: Dict[str, List[str]]
    effects: Sequence[EffectRecord] = ()
    clamps: Mapping[str, ClampRecord] = MappingProxyType({})
    lines: Sequence[LineRecord] = ()
    edited_files: Sequence[str] = ()


def write_recording(folder: Path, observed: Observation) -> None:
    """Replace `folder` by a sealed recording; a reader sees the old one or the whole new one.

    Raises:
        CaseError: The folder cannot be written, or the disk is full.
    """
    outputs = {f"{OUTPUT}{name}": tensor for name, tensor in observed.outputs.items()}
    metadata = {
        "format": "pt",
        "modules": json.dumps(observed.modules, sort_keys=True),
        "weights": json.dumps(observed.weights, sort_keys=True),
    }
    if observed.clamps:
        metadata["clamps"] = json.dumps(finite_json(observed.clamps), sort_keys=True)
    packed = pack_tensors({**outputs, **observed.tensors}, metadata)
    content: RecordingContent = {
        "format": RECORDING_FORMAT,
        "case": finite_json(observed.case),
        "fault": observed.fault,
        "environment": observed.environment,
        "inputs": finite_json(observed.inputs),
        "noise": [tensor_record(tensor) for tensor in observed.noise],
        "outputs": {name: tensor_record(tensor) for name, tensor in observed.outputs.items()},
        "stages": observed.stages,
        "operators": observed.operators,
        "repeat": observed.repeat,
        "cost": observed.cost,
        "tensors_file": {
            "file": TENSORS_FILE,
            "digest": digest_bytes(np.frombuffer(packed, dtype=np.uint8)),
        },
        "digest": "",
    }
    if observed.lower_precision:
        content["lower_precision"] = observed.lower_precision
    if observed.effects:
        content["effects"] = list(observed.effects)
    if observed.lines:
        content["lines"] = list(observed.lines)
    if observed.edited_files:
        content["edited_files"] = list(observed.edited_files)
    content["digest"] = files.digest_json(content)
    text = files.dumps(content).encode()
    write_folder(folder, {TENSORS_FILE: packed, RECORDING_FILE: text})


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace a folder as a whole.

    Raises:
        CaseError: It cannot be written; the error says what to do.
    """
    try:
        files.write_folder(folder, contents)
    except OSError as error:
        raise CaseError(
            f"{folder}: cannot be written: {error.strerror or error}; make room, or give this user "
            "the right to write there"
        ) from error


def tensor_record(tensor: torch.Tensor) -> TensorRecord:
    """Return what a recording says of a tensor; sums are accumulated in float64."""
    exact = tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor
    wide = to_numpy(exact).astype(np.float64)
    is_finite = bool(np.isfinite(wide).all())
    record: TensorRecord = {
        "shape": list(tensor.shape),
        "dtype": dtype_name(tensor.dtype),
        "digest": digest_tensor(tensor),
        "finite": is_finite,
        "abs_sum": None,
        "l2": None,
        "min": None,
        "max": None,
    }
    if not is_finite:
        return record
    with np.errstate(over="ignore"):  # a sum that overflows has no value
        record["abs_sum"] = _if_finite(np.abs(wide).sum())
        record["l2"] = _if_finite(np.sqrt((wide * wide).sum()))
    if wide.size:
        record["min"] = float(wide.min())
        record["max"] = float(wide.max())
    return record


def _if_finite(value: float) -> Optional[float]:
    return float(value) if math.isfinite(value) else None


def finite_json(value: Any) -> Any:
    """Return a value of JSON in which `inf`, `-inf` and `nan` are texts.

    JSON has no such numbers, but settings of schedulers do: several bounds are infinite by default.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return value
