"""What is kept of a watched run: digests of every stage, the tensors that a baseline needs, and how runs differ."""

from __future__ import annotations

import json
import math
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch

from ..conditions.portable import uniform
from ..pipeline.call import Pipeline
from .modules import Enough
from .tensors import Later, digest_later, digest_tensor, dtype_name, tensors_in, to_numpy

Tensors = Dict[str, torch.Tensor]


class Capture:
    """What is seen of one watched run: stages in order, the noise drawn, and the tensors that a baseline needs.

    With `anchors`, a baseline's tensors, every stage's own result is kept and then overwritten by the baseline's, so that
    the next stage gets the baseline's inputs and shows its own arithmetic alone. With `perturb`, a seed, what is fed on
    moves by one unit in the last place: the anchors, or without them the initial noise. With `last`, a stage's name, the
    run ends after it with `Enough`. Of the schedulers' steps, every `every`-th tensor is kept.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        anchors: Optional[Tensors] = None,
        perturb: Optional[int] = None,
        last: Optional[str] = None,
        every: int = 1,
    ) -> None:
        self.schedulers: Dict[str, Any] = {}
        self._tables: Dict[str, Dict[str, Later]] = {}
        self._stages: List[Tuple[str, Dict[str, Later], Dict[str, Later]]] = []
        self._pipeline, self._last, self._every = pipeline, last, every
        self._anchors = anchors or {}
        self._perturb = perturb
        self._kept: Tensors = {}
        self._pending: Tensors = {}

    def on_draw(self, drawn: torch.Tensor) -> None:
        """Keep noise, then put the baseline's in its place if there is one."""
        index = sum(name.startswith("noise/") for name in self._kept)
        self._keep({f"noise/{index}": drawn})
        if self._last == f"noise#{index}":
            raise Enough

    def on_stage(self, name: str, inputs: Dict[str, Any], result: Any) -> Any:
        """Note a stage's digests and keep its tensors, but for those of a denoiser, which its scheduler's step contains."""
        if not self.schedulers:
            self.schedulers = self._pipeline.scheduler_configuration()
        found = tensors_in(result)
        taken = {key: digest_later(tensor) for key, tensor in tensors_in(inputs).items()}
        self._stages.append(
            (name, taken, {key: digest_later(tensor) for key, tensor in found.items()})
        )
        is_step = ".step#" in name
        if name.endswith(".step#0"):
            scheduler = name.partition(".")[0]
            held = self._pipeline.scheduler_tensors(scheduler)
            self._tables[scheduler] = {key: digest_later(tensor) for key, tensor in held.items()}
        if is_step:
            self._pending = {}
            found = dict(
                [("sample", found.get("prev_sample", next(iter(found.values()))))] if found else []
            )
        self._flush()
        tensors = {f"stage/{name}/{key}": tensor for key, tensor in found.items()}
        if is_step:
            due = (int(name.rsplit("#", 1)[1]) + 1) % self._every == 0
            self._keep(
                {full: tensor for full, tensor in tensors.items() if due or full in self._anchors}
            )
        elif any(full in self._anchors for full in tensors):
            self._keep(tensors)
        else:
            self._pending = tensors
        if name == self._last:
            raise Enough
        return result

    def stages(self) -> List[Dict[str, Any]]:
        """Return the stages in order: `name`, and the digests of `inputs` and `outputs` by key."""
        return [
            {
                "name": name,
                "inputs": {key: later() for key, later in taken.items()},
                "outputs": {k: later() for k, later in given.items()},
            }
            for name, taken, given in self._stages
        ]

    def tables(self) -> Dict[str, Dict[str, str]]:
        """Return the digests of what each scheduler held after its first step, by its name."""
        return {
            scheduler: {key: later() for key, later in held.items()}
            for scheduler, held in self._tables.items()
        }

    def tensors(self) -> Tensors:
        """Return what was kept: `noise/INDEX` and `stage/NAME/KEY`."""
        self._flush()
        return self._kept

    def noise(self) -> List[torch.Tensor]:
        """Return the noise drawn, in order."""
        return [tensor for name, tensor in self._kept.items() if name.startswith("noise/")]

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        self._keep(pending)

    def _keep(self, tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            self._kept[name] = tensor.detach().to("cpu", copy=True)
            fed = self._anchors.get(name)
            if fed is None and self._perturb is not None and name == "noise/0":
                fed = self._kept[name]
            if fed is not None and fed.shape == tensor.shape and fed.dtype == tensor.dtype:
                tensor.copy_(
                    fed if self._perturb is None else nudged(fed, f"{self._perturb} {name}")
                )


def nudged(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Return a copy whose every element lies one unit in the last place away, up or down as the stream `name` says.

    Zeros, infinities and NaN stay, and so do tensors of whole numbers.
    """
    if not tensor.is_floating_point():
        return tensor.clone()
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().cpu().contiguous().view(kinds[tensor.element_size()])
    up = torch.from_numpy(uniform(name, tuple(tensor.shape))) >= 0
    moves = torch.isfinite(tensor) & (tensor != 0)
    return torch.where(moves, bits + torch.where(up, 1, -1).to(bits.dtype), bits).view(tensor.dtype)


def summary(tensor: torch.Tensor) -> Dict[str, Any]:
    """Return shape, dtype, digest and statistics of a tensor; sums are accumulated in float64."""
    array = to_numpy(tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor)
    wide = array.astype(np.float64)
    finite = bool(np.isfinite(wide).all())
    filled = bool(array.size) and finite
    return {
        "shape": list(tensor.shape),
        "dtype": dtype_name(tensor.dtype),
        "digest": digest_tensor(tensor),
        "finite": finite,
        "abs_sum": float(np.abs(wide).sum()) if finite else None,
        "l2": float(np.sqrt((wide * wide).sum())) if finite else None,
        "min": float(wide.min()) if filled else None,
        "max": float(wide.max()) if filled else None,
    }


def digests_of(run: Tensors) -> Dict[str, str]:
    """Return the digests of a run's outputs by name."""
    return {name: digest_tensor(tensor) for name, tensor in run.items()}


def repeat_of(watched: Tensors, plain: List[Tensors]) -> Dict[str, Any]:
    """Return how far the runs of one case lie apart: one that was watched, and those that were not, if there were any.

    `l_inf` is the largest difference from the watched run, 0.0 when all bits are the same and None where it has no value;
    `watched_as_plain` is None where there was no other.
    """
    own, digests = digests_of(watched), [digests_of(run) for run in plain]
    distance: Optional[float] = 0.0
    for run, theirs in zip(plain, digests):
        for name in {*own, *theirs}:
            if theirs.get(name) == own.get(name):
                continue
            one, other = watched.get(name), run.get(name)
            if one is None or other is None or one.shape != other.shape:
                distance = None
            elif distance is not None:
                gap = (
                    (other.to(torch.float64) - one.to(torch.float64)).abs().max().item()
                    if one.numel()
                    else 0.0
                )
                distance = None if math.isnan(gap) else max(distance, gap)
    distinct = len({json.dumps(d, sort_keys=True) for d in [own, *digests]})
    return {
        "runs": 1 + len(plain),
        "distinct": distinct,
        "l_inf": distance,
        "watched_as_plain": own == digests[0] if digests else None,
    }
