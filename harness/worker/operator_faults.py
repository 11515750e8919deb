"""Faults in functions of torch, such as attention, norms and activations, as modules call them.

While a module works, every call of one function of torch passes through here, whoever makes it.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import torch
from torch.overrides import TorchFunctionMode

from .fault_sites import FORWARD, Fault, Host, component_of, modules_of, put, where
from .tensor_changes import attention_scale, round_to

# Takes a function of torch, the arguments of a call of it by position and by name, and the fault;
# returns what stands in the place of the function's result.
OperatorChange = Callable[[Any, Sequence[Any], Dict[str, Any], Fault], Any]

WORKING = (FORWARD, "encode", "decode")  # methods in which components work
ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


def inject_operator(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Change what one function of torch does while a component, or modules of it, work.

    `function` is its name, such as `gelu`, and `how` one of `CHANGES`.
    """
    component = component_of(host, fault)
    if component is None:
        return ""
    if "modules" in fault:
        found = modules_of(host, fault)
        paths, owners = [path for path, _ in found], [module for _, module in found]
    else:
        paths, owners = [fault["component"]], [component]
    for owner in owners:
        _work_within(owner, fault, undo)
    return f"{fault['function']} of {where(paths)}: {fault['how']}" if paths else ""


def _work_within(owner: Any, fault: Fault, undo: ExitStack) -> None:
    for method in WORKING:
        original = getattr(owner, method, None)
        if callable(original):
            put(owner, method, _within(original, fault), undo)


def _within(original: Any, fault: Fault) -> Any:
    @functools.wraps(original)  # pipelines ask for the signature
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Changed(fault):
            return original(*args, **kwargs)

    return call


class _Changed(TorchFunctionMode):
    """While it is entered, calls of the function that a fault names are changed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault
        self._change = CHANGES[fault["how"]]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named: Dict[str, Any] = kwargs or {}
        if getattr(func, "__name__", "") == self._fault["function"]:
            return self._change(func, args, named, self._fault)
        return func(*args, **named)


# Changes that fit every function.


def _arguments_set(func: Any, args: Sequence[Any], named: Dict[str, Any], fault: Fault) -> Any:
    """Set arguments by name."""
    return func(*args, **{**named, **fault["arguments"]})


def _computed_narrow(func: Any, args: Sequence[Any], named: Dict[str, Any], fault: Fault) -> Any:
    """Compute in another type, as where a cast to float32 is missing or added."""
    dtype = getattr(torch, fault["dtype"])
    first = args[0] if args else next(iter(named.values()))
    result = func(
        *(_cast(each, dtype) for each in args),
        **{name: _cast(each, dtype) for name, each in named.items()},
    )
    return result.to(first.dtype)


def _rounded_operands(func: Any, args: Sequence[Any], named: Dict[str, Any], fault: Fault) -> Any:
    """Round the tensors that a function takes to another type."""
    dtype = getattr(torch, fault["dtype"])
    return func(
        *(_rounded(each, dtype) for each in args),
        **{name: _rounded(each, dtype) for name, each in named.items()},
    )


def _cast(value: Any, dtype: torch.dtype) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float else value


def _rounded(value: Any, dtype: torch.dtype) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return round_to(value, dtype) if is_float else value


# Activations.


def _other_gelu(func: Any, args: Sequence[Any], named: Dict[str, Any], _fault: Fault) -> Any:
    """Approximate by tanh what is exact, and the other way round."""
    is_exact = named.get("approximate", "none") == "none"
    return func(*args, **{**named, "approximate": "tanh" if is_exact else "none"})


def _quick(_func: Any, args: Sequence[Any], _named: Dict[str, Any], _fault: Fault) -> Any:
    """Compute x * sigmoid(1.702 x), which approximates GELU."""
    return args[0] * torch.sigmoid(1.702 * args[0])


def _hard(_func: Any, args: Sequence[Any], _named: Dict[str, Any], _fault: Fault) -> Any:
    """Compute x * clamp(x / 6 + 0.5, 0, 1), which approximates SiLU."""
    return torch.nn.functional.hardswish(args[0])


# Norms.


def _unbiased(func: Any, args: Sequence[Any], named: Dict[str, Any], _fault: Fault) -> Any:
    """Divide the sum of squares by n - 1 in place of n.

    Takes `group_norm(input, groups, weight, bias, eps)` or `layer_norm(input, shape, weight, bias,
    eps)`.
    """
    values, per = args[0], args[1]
    weight = named.get("weight", args[2] if len(args) > 2 else None)
    bias = named.get("bias", args[3] if len(args) > 3 else None)
    eps = named.get("eps", args[4] if len(args) > 4 else 1e-5)
    normed = func(values, per, None, None, eps)
    is_group = func.__name__ == "group_norm"
    count = values[0].numel() // per if is_group else values.shape[-1]
    shape = (-1, *(1,) * (values.dim() - 2)) if is_group else (-1,)
    result = normed * ((count - 1) / count) ** 0.5
    if weight is not None:
        result = result * weight.view(shape)
    return result if bias is None else result + bias.view(shape)


# Scaled dot products.


def _by_name(args: Sequence[Any], named: Mapping[str, Any]) -> Dict[str, Any]:
    return {**dict(zip(ATTENTION, args)), **named}


def _scale_changed(func: Any, args: Sequence[Any], named: Dict[str, Any], fault: Fault) -> Any:
    """Multiply the scale of the products."""
    given = _by_name(args, named)
    scale = given.get("scale") or attention_scale(given["query"])
    return func(**{**given, "scale": scale * fault["factor"]})


def _head_scaled(func: Any, args: Sequence[Any], named: Dict[str, Any], fault: Fault) -> Any:
    """Scale what the first head gives."""
    result = func(*args, **named).clone()
    result[:, 0] *= fault["factor"]
    return result


def _last_key_dropped(func: Any, args: Sequence[Any], named: Dict[str, Any], _fault: Fault) -> Any:
    given = _by_name(args, named)
    if given["key"].shape[-2] < 2 or given.get("is_causal"):
        return func(*args, **named)
    mask = given.get("attn_mask")
    if mask is not None:
        given["attn_mask"] = mask[..., :-1]
    shorter = {name: given[name][..., :-1, :] for name in ("key", "value")}
    return func(**{**given, **shorter})


def _mask_of_first_head(
    func: Any, args: Sequence[Any], named: Dict[str, Any], _fault: Fault
) -> Any:
    """Let the first head not see the last key."""
    given = _by_name(args, named)
    result = func(**given).clone()
    other = _last_key_dropped(func, args, named, _fault)
    result[:, 0] = other[:, 0]
    return result


def _mask_dropped(func: Any, args: Sequence[Any], named: Dict[str, Any], _fault: Fault) -> Any:
    return func(**{**_by_name(args, named), "attn_mask": None, "is_causal": False})


def _with_mask(args: Sequence[Any], named: Mapping[str, Any]) -> Tuple[Dict[str, Any], Any]:
    """Return the arguments by name, with a causal mask written out, and the mask; None without."""
    given = _by_name(args, named)
    if given.get("is_causal"):
        places = given["query"].shape[-2], given["key"].shape[-2]
        causal = torch.ones(places, dtype=torch.bool).tril()
        given = {**given, "is_causal": False, "attn_mask": causal}
    return given, given.get("attn_mask")


def _mask_finite(func: Any, args: Sequence[Any], named: Dict[str, Any], fault: Fault) -> Any:
    """Add a finite number where a key is masked, in place of infinity or the least number."""
    given, mask = _with_mask(args, named)
    if mask is None:
        return func(*args, **named)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=given["query"].dtype).masked_fill(~mask, -torch.inf)
    return func(**{**given, "attn_mask": mask.clamp(min=-fault["limit"])})


def _mask_as_numbers(func: Any, args: Sequence[Any], named: Dict[str, Any], _fault: Fault) -> Any:
    """Take a mask of true and false for numbers that are added: 1 where a key is seen, else 0."""
    given, mask = _with_mask(args, named)
    if mask is None:
        return func(*args, **named)
    seen = mask if mask.dtype == torch.bool else mask > -1
    return func(**{**given, "attn_mask": seen.to(given["query"].dtype)})


CHANGES: Dict[str, OperatorChange] = {
    "arguments": _arguments_set,
    "narrow": _computed_narrow,
    "operands": _rounded_operands,
    "other-gelu": _other_gelu,
    "quick": _quick,
    "hard": _hard,
    "unbiased": _unbiased,
    "scale": _scale_changed,
    "head": _head_scaled,
    "last-key-dropped": _last_key_dropped,
    "mask-of-first-head": _mask_of_first_head,
    "mask-dropped": _mask_dropped,
    "mask-finite": _mask_finite,
    "mask-as-numbers": _mask_as_numbers,
}
