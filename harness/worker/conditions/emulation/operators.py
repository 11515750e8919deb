"""Puts emulated kernels in the place of torch's operators, and counts what it emulated."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from . import functions, sums
from .attention import Attention, online_attention
from .functions import MOST_ULP, Function, moved, rounded
from .products import Product, Step, multiply
from .rounding import BF16, F16, F32
from .sums import Affine, Arithmetic, Sum, sum_as_tree, sum_in_float64

HALVES = (F16, BF16)
EMULATED_TYPES = (F32, *HALVES)
ATTENTION = "scaled_dot_product_attention"
# Operators that consist of others, which come undecomposed in torch's inference mode.
COMPOSITES = frozenset({"linear", "matmul", "conv1d", "conv2d", "conv3d", "einsum", "softmax"})


class Emulation(NamedTuple):
    """What is emulated; what is None or False stays as torch computes it.

    Attributes:
        product: How matrix products and convolutions are computed.
        add: How sums are taken: of means, norms and softmax.
        function: How functions such as exp are computed, and what consists of them.
        online: Whether attention runs by blocks of keys.
        dtypes: The types whose operators are emulated.
    """

    product: Optional[Product] = None
    add: Optional[Sum] = None
    function: Optional[Function] = None
    online: bool = False
    dtypes: Sequence[torch.dtype] = EMULATED_TYPES

    @property
    def arithmetic(self) -> Arithmetic:
        """How sums and functions are computed where anything of an operator is emulated.

        What is not emulated is computed in float64 and rounded.
        """
        return Arithmetic(self.add or sum_in_float64, self.function or rounded)


SLICES = 4
TILE = 16
EMULATIONS: Dict[str, Emulation] = {
    "fma": Emulation(Product()),
    "split-k": Emulation(Product(slices=SLICES)),
    "tile-order": Emulation(Product(tile=TILE)),
    "tree-sums": Emulation(add=sum_as_tree),
    "ulp": Emulation(function=moved),
    "together": Emulation(Product(slices=SLICES), sum_as_tree, moved),
    "tf32": Emulation(Product(Step.ROUNDED, tf32=True), dtypes=(F32,)),
    "online-softmax": Emulation(online=True),
    "tensor-core": Emulation(Product(Step.TENSOR_CORE), dtypes=HALVES),
    "half-reduction": Emulation(Product(slices=SLICES, narrow_slices=True), dtypes=HALVES),
    "float16-accumulate": Emulation(Product(Step.FUSED_FLOAT16), dtypes=(F16,)),
}

# Takes an operator's arguments; returns its result, or NotImplemented where it is not emulated.
Kernel = Callable[..., Any]


class EmulatedOperators(TorchDispatchMode):
    """Lets operators of torch compute as an emulation says, while it is entered.

    Args:
        emulation: What is emulated.

    Attributes:
        emulated: How often each operator was emulated, by its name in torch.
        left: How often an operator of the same kind stayed as torch computes it.
    """

    def __init__(self, emulation: Emulation) -> None:
        super().__init__()
        self.emulated: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self._emulation = emulation
        self._kernels = kernels_of(emulation)
        self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: Dict[str, Any] = kwargs or {}
        if self._is_paused:
            return func(*args, **named)
        name = func._schema.name.rpartition("::")[2]
        if name in COMPOSITES:
            with self:
                return func.decompose(*args, **named)
        is_written = name.endswith("_") and name[:-1] in self._kernels
        kernel = self._kernels.get(name[:-1] if is_written else name)
        if kernel is None:
            return func(*args, **named)
        found = self._computed(kernel, args, named)
        if found is NotImplemented:
            self.left[name] += 1
            return func(*args, **named)
        self.emulated[name] += 1
        return args[0].copy_(found) if is_written else found

    def attention(self, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return attention by blocks, or NotImplemented where it is left to other operators."""
        if not self._emulation.online:
            return NotImplemented
        was_paused, self._is_paused = self._is_paused, True
        try:
            found = _online(self._emulation, _AttentionCall(*args, **named))
        finally:
            self._is_paused = was_paused
        (self.left if found is NotImplemented else self.emulated)[ATTENTION] += 1
        return found

    def _computed(self, kernel: Kernel, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        tensors = [each for each in (*args, *named.values()) if isinstance(each, torch.Tensor)]
        types = {each.dtype for each in tensors}
        if len(types) != 1 or not types <= set(self._emulation.dtypes) or "out" in named:
            return NotImplemented
        return kernel(*args, **named)


class _Attention(TorchFunctionMode):
    """Sees attention before torch chooses a kernel for it."""

    def __init__(self, operators: EmulatedOperators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: Dict[str, Any] = kwargs or {}
        if getattr(func, "__name__", "") == ATTENTION:
            found = self._operators.attention(args, named)
            if found is not NotImplemented:
                return found
        return func(*args, **named)


@contextmanager
def emulating(operators: EmulatedOperators) -> Iterator[None]:
    """Let operators of torch be emulated while it is entered.

    Attention that is not emulated as a whole consists of matrix products and a softmax: the kernels
    that fuse them would hide those.
    """
    cuda = torch.backends.cuda
    before = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()
    cuda.enable_flash_sdp(False)
    cuda.enable_mem_efficient_sdp(False)
    cuda.enable_math_sdp(True)
    try:
        with operators, _Attention(operators):
            yield
    finally:
        cuda.enable_flash_sdp(before[0])
        cuda.enable_mem_efficient_sdp(before[1])
        cuda.enable_math_sdp(before[2])


def kernels_of(emulation: Emulation) -> Dict[str, Kernel]:
    """Return the kernels of an emulation, by the names of the operators that they stand for."""
    found: Dict[str, Kernel] = {}
    if emulation.product is not None:
        found.update(_products(emulation.product))
    if emulation.add is not None or emulation.function is not None:
        found.update(_with_sums(emulation.arithmetic))
    if emulation.add is not None:
        found.update(_pure_sums(emulation.add))
    if emulation.function is not None:
        found.update(_of_one_value(emulation.function))
    return found


# Matrix products and convolutions.


def _products(product: Product) -> Dict[str, Kernel]:
    def mm(left: Any, right: Any) -> Any:
        return multiply(left[None], right[None], product)[0].to(left.dtype)

    def bmm(left: Any, right: Any) -> Any:
        return multiply(left, right, product).to(left.dtype)

    def addmm(bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        found = multiply(left[None], right[None], product)[0]
        return _with_bias(found, bias, beta, alpha).to(left.dtype)

    def baddbmm(bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        return _with_bias(multiply(left, right, product), bias, beta, alpha).to(left.dtype)

    def convolution(values: Any, weight: Any, bias: Any, *rest: Any) -> Any:
        how = _Convolution(*rest)
        return NotImplemented if how.transposed else _convolve(product, values, weight, bias, how)

    return {
        "mm": mm,
        "bmm": bmm,
        "addmm": addmm,
        "baddbmm": baddbmm,
        "convolution": convolution,
    }


def _with_bias(found: torch.Tensor, bias: Any, beta: float, alpha: float) -> torch.Tensor:
    """Return alpha * product + beta * bias, in float32."""
    found = found if alpha == 1 else found * alpha
    if beta == 0:
        return found
    bias = bias.to(F32)
    return found + (bias if beta == 1 else bias * beta)


class _Convolution(NamedTuple):
    """The arguments of a convolution, as torch's operator has them after the bias."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int


def _convolve(
    product: Product,
    values: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],
    how: _Convolution,
) -> torch.Tensor:
    """Return a convolution as a matrix product: k runs over channels, then kernel positions."""
    extents = weight.shape[2:]
    patches = _patches(values, extents, how)
    positions = patches.shape[2 + len(extents) :]
    batch, outputs = values.shape[0], weight.shape[0] // how.groups
    patches = patches.reshape(batch, how.groups, -1, math.prod(positions))
    weights = weight.reshape(how.groups, outputs, -1)
    found = [
        multiply(weights[group].expand(batch, -1, -1), patches[:, group], product)
        for group in range(how.groups)
    ]
    whole = torch.cat(found, 1).reshape(batch, -1, *positions)
    if bias is not None:
        whole = whole + bias.to(F32).reshape(-1, *[1] * len(positions))
    return whole.to(values.dtype)


def _patches(values: torch.Tensor, extents: Sequence[int], how: _Convolution) -> torch.Tensor:
    """Return the inputs of each position: (batch, channels, kernel's extents, positions)."""
    count = len(extents)
    sides = [side for each in reversed(how.padding) for side in (each, each)]
    found = torch.nn.functional.pad(values, sides)
    for index, extent in enumerate(extents):
        reach = (extent - 1) * how.dilation[index] + 1
        found = found.unfold(2 + index, reach, how.stride[index])[..., :: how.dilation[index]]
    positions, inside = range(2, 2 + count), range(2 + count, 2 + 2 * count)
    return found.permute(0, 1, *inside, *positions)


# Norms, softmax and sums.


def _with_sums(by: Arithmetic) -> Dict[str, Kernel]:
    def softmax(values: Any, dim: int, _half_to_float: bool = False, *, safe: bool = False) -> Any:
        rows = values.to(F32).movedim(dim, -1)
        return sums.softmax(by, rows, safe=safe).movedim(-1, dim).to(values.dtype)

    def safe_softmax(values: Any, dim: int, dtype: Any = None) -> Any:
        found = softmax(values, dim, safe=True)
        return found if dtype is None else found.to(dtype)

    def layer_norm(values: Any, shape: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        rows = values.to(F32).reshape(-1, math.prod(shape))
        found = sums.layer_norm(by, rows, _affine(weight, bias), epsilon)
        kept = (*values.shape[: values.dim() - len(shape)], *[1] * len(shape))
        result = found.values.reshape(values.shape).to(values.dtype)
        return result, found.mean.reshape(kept), found.rstd.reshape(kept)

    def group_norm(values: Any, weight: Any, bias: Any, *rest: Any) -> Any:
        batch, channels, positions, groups, epsilon = rest
        rows = values.to(F32).reshape(batch, channels, positions)
        found = sums.group_norm(by, rows, _affine(weight, bias), groups, epsilon)
        result = found.values.reshape(values.shape).to(values.dtype)
        return result, found.mean.to(values.dtype), found.rstd.to(values.dtype)

    return {
        "_softmax": softmax,
        "_safe_softmax": safe_softmax,
        "native_layer_norm": layer_norm,
        "native_group_norm": group_norm,
    }


def _affine(weight: Optional[torch.Tensor], bias: Optional[torch.Tensor]) -> Affine:
    flat = [None if each is None else each.to(F32).reshape(-1) for each in (weight, bias)]
    return Affine(*flat)


def _pure_sums(add: Sum) -> Dict[str, Kernel]:
    def total(values: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        rows, shape, _ = _rows(values, dims, keepdim)
        return add(rows).reshape(shape).to(dtype or values.dtype)

    def mean(values: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        rows, shape, extent = _rows(values, dims, keepdim)
        return (add(rows) / extent).reshape(shape).to(dtype or values.dtype)

    return {"sum": total, "mean": mean}


class _Rows(NamedTuple):
    """Values in float32 whose last dimension is what is summed, and the shape of the sums."""

    values: torch.Tensor
    shape: List[int]
    extent: int


def _rows(values: torch.Tensor, dims: Any, keepdim: bool) -> _Rows:
    count = values.dim()
    summed = sorted({dim % count for dim in dims}) if dims else list(range(count))
    kept = [dim for dim in range(count) if dim not in summed]
    extent = math.prod(values.shape[dim] for dim in summed)
    shape = [1 if dim in summed else size for dim, size in enumerate(values.shape)]
    shape = shape if keepdim else [values.shape[dim] for dim in kept]
    rows = values.to(F32).permute(*kept, *summed).reshape(-1, extent)
    return _Rows(rows, shape, extent)


# Functions of one value.


def _of_one_value(function: Function) -> Dict[str, Kernel]:
    def alone(name: str) -> Kernel:
        return lambda values: function(name, values.to(F32)).to(values.dtype)

    def made_of(kernel: Callable[[Function, torch.Tensor], torch.Tensor]) -> Kernel:
        return lambda values: kernel(function, values.to(F32)).to(values.dtype)

    def gelu(values: Any, *, approximate: str = "none") -> Any:
        kernel = functions.gelu_by_tanh if approximate == "tanh" else functions.gelu
        return made_of(kernel)(values)

    found = {name: alone(name) for name in MOST_ULP}
    made = {"sigmoid": made_of(functions.sigmoid), "silu": made_of(functions.silu), "gelu": gelu}
    return {**found, **made}


# Attention as a whole.


class _AttentionCall(NamedTuple):
    """The arguments of torch's function, with their names."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: Optional[torch.Tensor] = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: Optional[float] = None
    enable_gqa: bool = False


def _online(emulation: Emulation, call: _AttentionCall) -> Any:
    """Return attention by blocks; NotImplemented for dropout, grouped queries and other types."""
    query, key, value = call.query, call.key, call.value
    types = {query.dtype, key.dtype, value.dtype}
    if call.dropout_p or call.enable_gqa or len(types) != 1 or not types <= set(emulation.dtypes):
        return NotImplemented
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    mask = _mask(call.attn_mask, call.is_causal, (*batch, query.shape[-2], key.shape[-2]))
    of = Attention(
        _flat(query, batch),
        _flat(key, batch),
        _flat(value, batch),
        None if mask is None else mask.reshape(-1, *mask.shape[-2:]),
        1 / math.sqrt(query.shape[-1]) if call.scale is None else call.scale,
    )
    found = online_attention(of, emulation.product or Product(), emulation.arithmetic)
    return found.reshape(*batch, *found.shape[-2:]).to(query.dtype)


def _flat(values: torch.Tensor, batch: Sequence[int]) -> torch.Tensor:
    return values.expand(*batch, *values.shape[-2:]).reshape(-1, *values.shape[-2:])


def _mask(given: Optional[torch.Tensor], is_causal: bool, shape: Sequence[int]) -> Any:
    """Return what is added to scores, in float32 of the shape given; None for nothing."""
    if given is None and not is_causal:
        return None
    added = torch.zeros(tuple(shape), dtype=F32)
    if given is not None and given.dtype == torch.bool:
        added = added.masked_fill(~given, -torch.inf)
    elif given is not None:
        added = added + given.to(F32)
    if is_causal:
        seen = torch.ones(tuple(shape[-2:]), dtype=torch.bool).tril()
        added = added.masked_fill(~seen, -torch.inf)
    return added
