"""Which results of stages a run reads: a baseline keeps those, and not what nobody goes on with.

A language model that encodes a prompt also returns its logits, which may take a gigabyte, and the
hidden states of every layer, of which the pipeline takes one. Between the stages, torch shows every
call that takes a tensor; inside a stage, what was handed to it counts as read.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Set

import torch

from .tensors import leaves_in

try:
    from torch.overrides import TorchFunctionMode, _get_current_function_mode
except ImportError:  # a torch older than 2.0
    TorchFunctionMode = None  # type: ignore[assignment, misc]

# What only asks for the form of a tensor, and reads none of its values.
FORM = frozenset(
    (
        *("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "grad_fn"),
        *("size", "dim", "numel", "nelement", "element_size", "stride", "__len__"),
        *("is_contiguous", "is_floating_point", "is_complex", "get_device"),
    )
)


class _Watched(NamedTuple):
    """A tensor that a stage returned, and its names in a recording."""

    tensor: "weakref.ref[torch.Tensor]"
    names: List[str]


class Reads:
    """Notes which of the tensors that it watches are read while `noting` is entered.

    What is not watched counts as read, and so does everything where this torch is too old to show
    what is read.
    """

    def __init__(self) -> None:
        self._watched: Dict[int, _Watched] = {}
        self._unread: Set[str] = set()
        self._mode = None if TorchFunctionMode is None else _Mode(self)
        self._is_noting = False

    def watch(self, name: str, tensor: torch.Tensor) -> None:
        """Watch a tensor; one that a stage returned twice has several names."""
        if self._mode is None:
            return
        known = self._watched.get(id(tensor))
        if known is None or known.tensor() is not tensor:
            known = _Watched(weakref.ref(tensor), [])
            self._watched[id(tensor)] = known
        known.names.append(name)
        self._unread.add(name)

    def saw(self, value: Any) -> None:
        """Note that the tensors inside a value are read."""
        for _, leaf in leaves_in(value):
            known = self._watched.get(id(leaf))
            if known is not None and known.tensor() is leaf:
                self._unread.difference_update(known.names)
                del self._watched[id(leaf)]

    def is_unread(self, name: str) -> bool:
        """Whether a tensor was watched and nobody has read it so far."""
        return name in self._unread

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what the code inside reads, until `paused`."""
        if self._mode is None:
            yield
            return
        self._is_noting = True
        try:
            with self._mode:
                yield
        finally:
            self._is_noting = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Note nothing that the code inside reads: a stage, or the harness itself.

        The mode is left for the time, because what torch compiles depends on it. Where the pipeline
        has entered a mode of its own since, it cannot be left, and is only silent.
        """
        if not self._is_noting or self._mode is None:
            yield
            return
        self._is_noting = False
        is_innermost = _get_current_function_mode() is self._mode
        try:
            with _left(self._mode) if is_innermost else _unchanged():
                yield
        finally:
            self._is_noting = True

    def on_call(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note what a call of a function of torch reads."""
        if self._is_noting and self._watched and _name_of(function) not in FORM:
            self.saw([*args, *kwargs.values()])


@contextmanager
def _left(mode: Any) -> Iterator[None]:
    """Leave the innermost mode of torch for the time."""
    mode.__exit__(None, None, None)
    try:
        yield
    finally:
        mode.__enter__()


@contextmanager
def _unchanged() -> Iterator[None]:
    yield


def _name_of(function: Any) -> str:
    """Return the name of a function of torch, or of the attribute that a getter reads."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "")
    return str(name)


if TorchFunctionMode is not None:

    class _Mode(TorchFunctionMode):
        """Shows every call of a function of torch to `Reads`."""

        def __init__(self, reads: Reads) -> None:
            super().__init__()
            self._reads = reads

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            named = kwargs or {}
            self._reads.on_call(func, args, named)
            return func(*args, **named)
