"""Evaluating a run in float64: every operator computes in it, whatever types the pipeline asks for.

Nothing is written into the components: an operator gets copies of its arguments in float64, one
operator at a time, so that memory beside the activations is bounded by the largest weight. What
cannot be computed in float64 is computed as before and noted by name.

The own error of such a run shows when it runs again with every operator's result moved at random by
one unit in the last place (Monte Carlo arithmetic: D. S. Parker, "Monte Carlo Arithmetic:
exploiting randomness in floating-point arithmetic", UCLA CSD-970002, 1997).
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Sequence

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ..protocol import MOVED
from .stages import schedulers_of, wrapped

# One unit in the last place of float64: the relative distance to the next larger number at 1.0.
ULP = 2.0**-52

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
# The wide type in place of each narrower one.
WIDE: Dict[torch.dtype, torch.dtype] = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    **{getattr(torch, name): torch.float64 for name in _FLOAT8 if hasattr(torch, name)},
}
# In which types an operator is tried that has no float64.
NARROW = (torch.float32, torch.bfloat16, torch.float16)
# Functions that refuse arguments of several types before their operators are seen.
CHECKING = ("conv", "linear", "bilinear", "scaled_dot_product_attention")
CHECKING_ENDS = ("_norm",)
# Operators that only move values: they need no copies in float64.
MOVING = frozenset({"clone", "cat", "stack", "embedding", "index_select", "gather", "_to_copy"})
# Operators that write constants or random numbers, whose type decides no arithmetic.
FILLING = frozenset({"fill_", "zero_", "masked_fill_", "copy_"})
RANDOM = ("rand", "normal", "uniform", "bernoulli", "multinomial", "exponential")


class Float64(TorchDispatchMode):
    """Lets every operator of torch compute in float64 while it is entered.

    Args:
        form: `protocol.EXACT`, or `protocol.MOVED` to move each result at random by one unit in the
            last place.

    Attributes:
        wrote_weights: Whether the pipeline itself wrote or cast weights while it ran.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self._moves = form == MOVED
        self._generators: Dict[torch.device, torch.Generator] = {}
        self._lower: Dict[str, None] = {}  # in the order of the calls, each once
        self._is_paused = False
        self.wrote_weights = False
        self._own_default = torch.get_default_dtype()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: Dict[str, Any] = kwargs or {}
        if self._is_paused:
            return func(*args, **named)
        operator = _operator(func)
        if operator.is_random or operator.is_view:
            return func(*args, **named)
        named = {key: _wide_dtype(value) for key, value in named.items()}
        if operator.is_moving:
            return func(*args, **named)
        if operator.is_written:
            return self._write(func, operator, args, named)
        return self._compute(func, args, named)

    def take_lower_precision(self) -> List[str]:
        """Return the operators that computed with less than float64 since the last such call."""
        found = list(self._lower)
        self._lower = {}
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let operators compute as they are asked to: those of the harness, and of tables."""
        was_paused = self._is_paused
        self._is_paused = True
        try:
            with _default_dtype(self._own_default):
                yield
        finally:
            self._is_paused = was_paused

    @contextmanager
    def around(self, pipeline: Any) -> Iterator[None]:
        """Let a pipeline compute in float64 while it is entered.

        The tables of its schedulers, such as timesteps and sigmas, are inputs: they keep the values
        that they have without this, in tensors of float64. Weights that the pipeline casts, as a
        VAE's that must not overflow, are cast as without this.
        """
        weights = _identities(pipeline)
        with ExitStack() as stack:
            schedulers = list(schedulers_of(pipeline).values())
            for scheduler in schedulers:
                _widen_tables(scheduler)
            for own_class in set(map(type, schedulers)):
                if callable(getattr(own_class, "set_timesteps", None)):
                    replaced = wrapped(own_class, "set_timesteps", self._keeping_tables)
                    stack.enter_context(replaced)
            stack.enter_context(wrapped(torch.nn.Module, "_apply", self._unchanged))
            stack.enter_context(_without_compilation())
            stack.enter_context(_default_dtype(torch.float64))
            stack.enter_context(self)
            stack.enter_context(_EqualTypes(self._own_default))
            yield
        self.wrote_weights = _identities(pipeline) != weights

    def _keeping_tables(self, original: Any) -> Any:
        @functools.wraps(original)
        def set_timesteps(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            with self.paused():
                result = original(scheduler, *args, **kwargs)
                _widen_tables(scheduler)
            return result

        return set_timesteps

    def _unchanged(self, original: Any) -> Any:
        @functools.wraps(original)
        def apply(*args: Any, **kwargs: Any) -> Any:
            with self.paused():
                return original(*args, **kwargs)

        return apply

    def _compute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call an operator on copies of its arguments in float64."""
        wide_args, wide_kwargs = tree_map(_widened, (tuple(args), dict(kwargs)))
        try:
            result = func(*wide_args, **wide_kwargs)
        except (RuntimeError, NotImplementedError):  # such as a kernel that has no float64
            result = _compute_narrow(func, wide_args, wide_kwargs)
            self._lower[str(func)] = None
            return tree_map(_widened, result)
        if _is_narrow(result) and _has_floats(args):
            self._lower[str(func)] = None
        return tree_map(self._moved, result) if self._moves else result

    def _write(
        self, func: Any, operator: _Operator, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call an operator that writes into its first argument, which keeps its type."""
        target = args[0] if args else None
        is_narrow = _is_narrow(target)
        if not is_narrow:
            rest, kwargs = tree_map(_widened, (tuple(args[1:]), dict(kwargs)))
            args = (*args[:1], *rest)
        result = func(*args, **kwargs)
        if operator.name == "copy_":
            is_narrow = is_narrow and not torch.equal(_widened(target), _widened(args[1]))
        elif operator.name in FILLING:
            is_narrow = False
        if is_narrow:
            self._lower[str(func)] = None
        return result

    def _moved(self, value: Any) -> Any:
        """Move every element of a tensor of float64 up or down by one unit in the last place."""
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float64:
            return value
        generator = self._generator(value.device)
        ups = torch.randint(0, 2, value.shape, generator=generator, device=value.device)
        return value * (1 + ULP * (2 * ups - 1).to(torch.float64))

    def _generator(self, device: torch.device) -> torch.Generator:
        """Return a stream of its own, so that the pipeline's draws stay as they are."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


class _EqualTypes(TorchFunctionMode):
    """Gives functions that refuse arguments of several types all of them in float64.

    Random numbers are drawn in the type that they have without this, because another type has other
    numbers.

    Args:
        default: The type in which numbers are drawn where none is asked for.
    """

    def __init__(self, default: torch.dtype) -> None:
        super().__init__()
        self._default = default

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: Dict[str, Any] = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.startswith(CHECKING) or name.endswith(CHECKING_ENDS):
            args, named = tree_map(_widened, (tuple(args), dict(named)))
        if name.startswith(RANDOM):
            with _default_dtype(self._default):
                return func(*args, **named)
        return func(*args, **named)


class _Operator:
    """What matters of one operator of torch.

    Attributes:
        name: Without namespace and overload, such as `copy_`.
        is_view: Whether it gives a view of an argument, and computes nothing.
        is_written: Whether it writes into an argument.
        is_random: Whether it draws random numbers.
        is_moving: Whether it only moves values.
    """

    def __init__(self, func: Any) -> None:
        schema = func._schema
        self.name = schema.name.rpartition("::")[2]
        returns = [each.alias_info for each in schema.returns if each.alias_info is not None]
        self.is_view = any(not alias.is_write for alias in returns)
        self.is_written = bool(schema.is_mutable)
        self.is_random = self.name.startswith(RANDOM)
        self.is_moving = self.name in MOVING


@functools.lru_cache(maxsize=None)
def _operator(func: Any) -> _Operator:
    return _Operator(func)


def _wide_dtype(value: Any) -> Any:
    return WIDE.get(value, value) if isinstance(value, torch.dtype) else value


def _widened(value: Any) -> Any:
    """Return a tensor in float64; a tensor of whole numbers, or of a class of its own, as it is."""
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.dtype in WIDE:
        return value.detach().to(WIDE[value.dtype])
    return _wide_dtype(value)


def _compute_narrow(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call an operator in the widest type that it has.

    Raises:
        RuntimeError: It has none, or it failed for another reason.
    """
    for dtype in NARROW:
        narrowed = functools.partial(_narrowed, dtype=dtype)
        narrow_args, narrow_kwargs = tree_map(narrowed, (tuple(args), dict(kwargs)))
        try:
            return func(*narrow_args, **narrow_kwargs)
        except (RuntimeError, NotImplementedError) as error:
            problem = error
    raise problem


def _narrowed(value: Any, dtype: torch.dtype) -> Any:
    """Return a tensor of float64 in a narrower type, and any other value as it is."""
    if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
        return value.to(dtype)
    return dtype if isinstance(value, torch.dtype) and value == torch.float64 else value


def _is_narrow(value: Any) -> bool:
    """Return whether a value is, or begins with, a tensor of a narrower type than float64."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return isinstance(first, torch.Tensor) and first.dtype in WIDE


def _has_floats(args: Sequence[Any]) -> bool:
    flat: List[Any] = []
    for value in args:
        flat += value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(value, torch.Tensor) and not _is_whole(value) for value in flat)


def _is_whole(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _identities(pipeline: Any) -> Dict[str, Any]:
    """Return what changes for a weight that is written to or replaced: memory, type, version."""
    found = {}
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            for path, tensor in component.state_dict(keep_vars=True).items():
                version = None if tensor.is_inference() else tensor._version
                found[f"{name}/{path}"] = (id(tensor), tensor.dtype, version)
    return found


def _widen_tables(scheduler: Any) -> None:
    """Give what a scheduler holds the type float64, with the same values."""
    for name, value in list(vars(scheduler).items()):
        if isinstance(value, torch.Tensor) and value.dtype in WIDE:
            setattr(scheduler, name, value.to(WIDE[value.dtype]))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _without_compilation() -> Iterator[None]:
    """Run compiled components as they were before, where this torch can."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield
