"""Where a run's randomness comes from: generators made anew for every run, and the one door through which pipelines draw.

Every diffusers pipeline and scheduler draws through `randn_tensor`; each module holds its own name for it, so all of
these names are replaced while a run is watched, and put back after it.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch

from ..observe.stages import Around, nothing_around
from ..pipeline.components import as_tensor
from ..protocol import CaseError

DIFFUSERS = "diffusers.utils.torch_utils"  # the module of the library's own door
Draw = Callable[..., torch.Tensor]
OnDraw = Callable[[torch.Tensor], None]


class Source:
    """The generators of a case; `fresh` gives those of the next run.

    Args:
        kind: `cpu`, `device`, `numpy`, `none`, or the controls `reused` (one generator for all runs) and `shared` (one
            generator object for all images of a run).
        seeds: One seed per image, or one for all.
        device: Where `device` generators live.
        numpy_generators: Whether the pipelines take numpy's generators themselves.
    """

    def __init__(
        self,
        kind: str,
        seeds: Sequence[int],
        device: torch.device,
        *,
        numpy_generators: bool = False,
    ) -> None:
        self.kind, self.seeds, self.device = kind, list(seeds), device
        self._given = kind == "numpy" and numpy_generators
        self._kept: Any = None

    def _generator(self, seed: int) -> Any:
        if self._given:
            return _pcg64(seed)
        where = self.device if self.kind == "device" else "cpu"
        return torch.Generator(where).manual_seed(seed)

    def fresh(self) -> Any:
        """Return what the pipeline gets as `generator`: None, one generator, or a list of one per image."""
        if self.kind == "none" or (self.kind == "numpy" and not self._given):
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
        return _numpy_draw(self.seeds) if self.kind == "numpy" and not self._given else None


def _pcg64(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _numpy_draw(seeds: Sequence[int]) -> Draw:
    """Draw float64 normals from PCG64, one generator per seed, and cast: what the MindSpore port of the guide does."""
    generators = [_pcg64(seed) for seed in seeds]

    def draw(
        shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None
    ) -> torch.Tensor:
        shape = tuple(shape)
        if len(generators) == 1:
            values = generators[0].standard_normal(shape)
        else:
            values = np.concatenate([g.standard_normal((1, *shape[1:])) for g in generators])
        return torch.from_numpy(values).to(dtype=dtype or torch.float32).to(device or "cpu")

    return draw


def door(module: str = DIFFUSERS) -> Optional[Draw]:
    """Return the `randn_tensor` of a library's `module`; None in diffusers before 0.11, which draws in many places."""
    try:
        return getattr(importlib.import_module(module), "randn_tensor", None)
    except ImportError:
        return None


@contextmanager
def drawn_by(
    draw: Optional[Draw],
    on_draw: Optional[OnDraw] = None,
    around: Around = nothing_around,
    home: str = DIFFUSERS,
) -> Iterator[None]:
    """Make every `randn_tensor` of a library call `draw` (None: its own) and show what was drawn to `on_draw`.

    A draw is a stage of its own, `noise#0` and so on, to `around`. A release without this door draws unseen.
    """
    own, counter = door(home), itertools.count()
    if own is None:
        if draw is not None:
            raise CaseError(
                "this release of diffusers has no `randn_tensor`, through which `generator: numpy` draws"
            )
        yield
        return

    def randn_tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        with around(f"noise#{next(counter)}", None):
            drawn = (draw or own)(*args, **kwargs)
        if on_draw is not None:
            on_draw(as_tensor(drawn))
        return drawn

    known, held = len(sys.modules), _holding(own)
    for module in held:
        module.randn_tensor = randn_tensor
    try:
        yield
    finally:
        for module in (
            held if len(sys.modules) == known else _holding(randn_tensor)
        ):  # what was imported meanwhile got it too
            module.randn_tensor = own


def _holding(draw: Draw) -> List[Any]:
    """Return the modules whose `randn_tensor` is `draw`."""
    modules: Dict[str, Any] = dict(sys.modules)
    mine = (
        module
        for name, module in modules.items()
        if name.startswith(("diffusers.", "mindone.diffusers."))
    )
    return [module for module in mine if vars(module).get("randn_tensor") is draw]
