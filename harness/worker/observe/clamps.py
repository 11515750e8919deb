"""The clamps that decide most of a scheduler's step, and what went into them.

The first steps of some schedules divide by the root of a number near zero and then clamp the result
to a small range. Nearly all elements come out as one of the two limits, whatever their rounding;
the few that lie between are rounded as coarsely as the division says. What went into such a clamp
is kept, so that the judge can tell these elements from the others.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence

import torch

try:
    from torch.overrides import TorchFunctionMode
except ImportError:  # a torch older than 2.0
    TorchFunctionMode = None  # type: ignore[assignment, misc]

CLAMPS = frozenset(
    getattr(owner, name)
    for owner in (torch, torch.Tensor)
    for name in ("clamp", "clip", "clamp_", "clip_")
    if hasattr(owner, name)
)
PARAMETERS = ("input", "min", "max")
NUMBERS = (int, float)
# A clamp decides most elements where the root mean square of what goes in is at least so many times
# the larger limit: about one element in ten lies between the limits then, or fewer.
DECIDES = 8.0


class Clamp(NamedTuple):
    """A clamp: the tensor that went in, and the two limits."""

    tensor: torch.Tensor
    low: float
    high: float

    @property
    def decides(self) -> bool:
        """Whether it makes most elements one of its limits."""
        size = float(self.tensor.double().square().mean().sqrt())
        return size >= DECIDES * max(abs(self.low), abs(self.high))


class Clamps:
    """Notes the last clamp of each step, while `noting` is entered.

    Nothing is noted where this torch is too old to show it.
    """

    def __init__(self) -> None:
        self._last: Optional[Clamp] = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note every clamp to two numbers of a tensor of floating-point numbers."""
        self._last = None
        if TorchFunctionMode is None:
            yield
            return
        with _Mode(self):
            yield

    def take(self, sample: torch.Tensor) -> Optional[Clamp]:
        """Return the last clamp of a tensor of the shape of a step's result, and forget it."""
        last, self._last = self._last, None
        return last if last is not None and last.tensor.shape == sample.shape else None

    def on_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note a clamp, by what it is called with."""
        given: Dict[str, Any] = {**dict(zip(PARAMETERS, args)), **kwargs}
        tensor, low, high = given["input"], given.get("min"), given.get("max")
        if isinstance(low, NUMBERS) and isinstance(high, NUMBERS) and tensor.is_floating_point():
            self._last = Clamp(tensor.detach().clone(), float(low), float(high))


if TorchFunctionMode is not None:

    class _Mode(TorchFunctionMode):
        """Shows every clamp to `Clamps`."""

        def __init__(self, clamps: Clamps) -> None:
            super().__init__()
            self._clamps = clamps

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            named = kwargs or {}
            if func in CLAMPS:
                self._clamps.on_call(args, named)
            return func(*args, **named)
