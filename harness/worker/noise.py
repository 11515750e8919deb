"""Where a run's randomness comes from: generators made anew for every run, and the one door through which pipelines draw.

Every diffusers pipeline and scheduler draws through `randn_tensor`; each module holds its own name for it, so all of
these names are replaced while a run is watched, and put back after it.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional, Sequence

import numpy as np
import torch

from .protocol import CaseError
from .stages import Around, nothing_around

Draw = Callable[..., torch.Tensor]
OnDraw = Callable[[torch.Tensor], None]


class Source:
    """The generators of a case; `fresh` gives those of the next run.

    Args:
        kind: `cpu`, `device`, `numpy`, `none`, or the controls `reused` (one generator for all runs) and `shared` (one
            generator object for all images of a run).
        seeds: One seed per image, or one for all.
        device: Where `device` generators live.
    """

    def __init__(self, kind: str, seeds: Sequence[int], device: torch.device) -> None:
        self.kind, self.seeds, self.device = kind, list(seeds), device
        self._kept: Any = None

    def _generator(self, seed: int) -> torch.Generator:
        where = self.device if self.kind == "device" else "cpu"
        return torch.Generator(where).manual_seed(seed)

    def fresh(self) -> Any:
        """Return what the pipeline gets as `generator`: None, one generator, or a list of one per image."""
        if self.kind in ("none", "numpy"):
            return None
        if self.kind == "reused":
            self._kept = self._kept or self._generator(self.seeds[0])
            return self._kept
        if self.kind == "shared":
            return [self._generator(self.seeds[0])] * len(self.seeds)
        made = [self._generator(seed) for seed in self.seeds]
        return made if len(made) > 1 else made[0]

    def drawing(self) -> Optional[Draw]:
        """Return the draw that replaces torch's own for one run, or None: only `numpy` brings its own."""
        return _numpy_draw(self.seeds) if self.kind == "numpy" else None


def _numpy_draw(seeds: Sequence[int]) -> Draw:
    """Draw float64 normals from PCG64, one generator per seed, and cast: what the MindSpore port of the guide does."""
    generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]

    def draw(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None) -> torch.Tensor:
        shape = tuple(shape)
        if len(generators) == 1:
            values = generators[0].standard_normal(shape)
        else:
            values = np.concatenate([g.standard_normal((1, *shape[1:])) for g in generators])
        return torch.from_numpy(values).to(dtype=dtype or torch.float32).to(device or "cpu")

    return draw


def door() -> Optional[Draw]:
    """Return the `randn_tensor` of this diffusers; None before 0.11, which draws in many places."""
    try:
        from diffusers.utils import torch_utils
    except ImportError:
        return None
    return getattr(torch_utils, "randn_tensor", None)


@contextmanager
def drawn_by(draw: Optional[Draw], on_draw: Optional[OnDraw] = None, around: Around = nothing_around) -> Iterator[None]:
    """Make every `randn_tensor` of diffusers call `draw` (None: its own) and show what was drawn to `on_draw`.

    A draw is a stage of its own, `noise#0` and so on, to `around`. A release without this door draws unseen.
    """
    own, counter = door(), itertools.count()
    if own is None:
        if draw is not None:
            raise CaseError("this release of diffusers has no `randn_tensor`, through which `generator: numpy` draws")
        yield
        return

    def randn_tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        with around(f"noise#{next(counter)}", None):
            drawn = (draw or own)(*args, **kwargs)
        if on_draw is not None:
            on_draw(drawn)
        return drawn

    def swap(old: Draw, new: Draw) -> None:
        modules: Dict[str, Any] = dict(sys.modules)
        for name, module in modules.items():
            if name.startswith("diffusers.") and vars(module).get("randn_tensor") is old:
                module.randn_tensor = new

    swap(own, randn_tensor)
    try:
        yield
    finally:
        swap(randn_tensor, own)
