"""Where a run's randomness comes from: its generators, and the function through which it draws.

Every pipeline and scheduler of diffusers draws through `randn_tensor`. Each module holds its own
name for that function, so all of these names are replaced during a run and put back afterwards.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch

from ..observe.stages import DRAW, Around, Stage, nothing_around
from ..pipeline.components import as_tensor
from ..protocol import CaseError

DRAW_MODULE = "diffusers.utils.torch_utils"  # where diffusers defines `randn_tensor`
LIBRARIES = ("diffusers.", "mindone.diffusers.")  # the modules that hold a name for it

Draw = Callable[..., torch.Tensor]
# Takes the stage of a draw and what was drawn; what it writes into the tensor is what the run gets.
OnDraw = Callable[[Stage, torch.Tensor], None]


class Source:
    """The generators of a case, made anew for every run.

    Args:
        kind: `cpu`, `device`, `numpy` or `none`; or one of the two controls: `reused` is one
            generator for all runs, `shared` is one generator for all images of a run.
        seeds: One seed per image, or one for all.
        device: Where the generators of the kind `device` live.
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
        self._kind = kind
        self._seeds = list(seeds)
        self._device = device
        self._passes_numpy = kind == "numpy" and numpy_generators
        self._replaces_draws = kind == "numpy" and not numpy_generators
        self._reused: Any = None

    def fresh(self) -> Any:
        """Return what the pipeline gets as `generator` for the next run.

        Returns:
            None, one generator, or a list of one per image.
        """
        if self._kind == "none" or self._replaces_draws:
            return None
        if self._kind == "reused":
            self._reused = self._reused or self._generator(self._seeds[0])
            return self._reused
        if self._kind == "shared":
            return [self._generator(self._seeds[0])] * len(self._seeds)
        made = [self._generator(seed) for seed in self._seeds]
        return made if len(made) > 1 else made[0]

    def drawing(self) -> Optional[Draw]:
        """Return what stands in the place of `randn_tensor` for the next run; None for itself."""
        return _numpy_draw(self._seeds) if self._replaces_draws else None

    def _generator(self, seed: int) -> Any:
        if self._passes_numpy:
            return _numpy_generator(seed)
        where = self._device if self._kind == "device" else "cpu"
        return torch.Generator(where).manual_seed(seed)


def _numpy_generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _numpy_draw(seeds: Sequence[int]) -> Draw:
    """Return a draw of float64 normals from PCG64, cast to the type that is asked for.

    There is one generator per seed. The MindSpore port of the guide draws in the same way.
    """
    generators = [_numpy_generator(seed) for seed in seeds]

    def draw(
        shape: Tuple[int, ...],
        generator: Any = None,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
        layout: Any = None,
    ) -> torch.Tensor:
        lengths = tuple(shape)
        if len(generators) == 1:
            values = generators[0].standard_normal(lengths)
        else:
            each = (1, *lengths[1:])
            values = np.concatenate([one.standard_normal(each) for one in generators])
        return torch.from_numpy(values).to(dtype=dtype or torch.float32).to(device or "cpu")

    return draw


def library_draw(module: str = DRAW_MODULE) -> Optional[Draw]:
    """Return the `randn_tensor` that a module of a library defines.

    Returns:
        None in diffusers before 0.11, which draws in many places.
    """
    try:
        return getattr(importlib.import_module(module), "randn_tensor", None)
    except ImportError:
        return None


@contextmanager
def intercepted_draws(
    draw: Optional[Draw],
    on_draw: Optional[OnDraw] = None,
    around: Around = nothing_around,
    module: str = DRAW_MODULE,
) -> Iterator[None]:
    """Intercept every call of a library's `randn_tensor`; each is a stage of the kind `DRAW`.

    A release of the library without `randn_tensor` draws unobserved.

    Args:
        draw: What stands in its place; None for the library's own.
        on_draw: Called with what was drawn.
        around: What each draw runs within.
        module: Where the library defines `randn_tensor`.

    Raises:
        CaseError: There is no `randn_tensor` that `draw` could stand in for.
    """
    own = library_draw(module)
    if own is None:
        if draw is not None:
            raise CaseError(
                "this release of diffusers has no `randn_tensor`, through which "
                "`generator: numpy` draws"
            )
        yield
        return
    make = draw or own
    indices = itertools.count()

    def randn_tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        stage = Stage(DRAW, next(indices))
        with around(stage, None, {}):
            drawn = make(*args, **kwargs)
        if on_draw is not None:
            on_draw(stage, as_tensor(drawn))
        return drawn

    holders = _modules_holding(own)
    imported = len(sys.modules)
    for holder in holders:
        holder.randn_tensor = randn_tensor
    try:
        yield
    finally:
        if len(sys.modules) != imported:  # a module that was imported during the run has it too
            holders = _modules_holding(randn_tensor)
        for holder in holders:
            holder.randn_tensor = own


def _modules_holding(draw: Draw) -> List[Any]:
    """Return the library's modules whose `randn_tensor` is `draw`."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(LIBRARIES) and vars(module).get("randn_tensor") is draw
    ]
