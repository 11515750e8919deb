"""Realistic faults, injected into a loaded pipeline for one case and removed afterwards.

Each fault proves that it took effect: a fault that changes nothing would be counted as missed.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import torch

from .call_faults import (
    inject_argument,
    inject_attribute,
    inject_noise,
    inject_result,
    inject_table,
)
from .fault_sites import (
    FORWARD,
    Fault,
    Found,
    Host,
    Injector,
    component_of,
    modules_of,
    replace_method,
    where,
)
from .operator_faults import inject_operator
from .protocol import CaseError
from .tensor_changes import round_to

# Returns the changed values of a weight.
Change = Callable[[torch.Tensor], torch.Tensor]
# Returns the sum of tensors of one shape.
Sum = Callable[[List[torch.Tensor]], torch.Tensor]

FLOAT32_MANTISSA = 23  # bits


@contextmanager
def injected(
    pipeline: Any,
    fault: Fault,
    scheduler_classes: Mapping[str, type] = MappingProxyType({}),
) -> Iterator[str]:
    """Inject a fault, yield the proof of its effect, and remove the fault.

    Args:
        pipeline: A loaded pipeline of diffusers.
        fault: `kind`, one of `INJECTORS`, and what that kind needs.
        scheduler_classes: The class of each scheduler that the runs are made with, by the name of
            the component.

    Raises:
        CaseError: The fault does not apply to this pipeline, or changed nothing.
    """
    inject = INJECTORS[fault["kind"]]
    host = Host(pipeline, pipeline.components, scheduler_classes)
    with ExitStack() as undo:
        proof = inject(host, fault, undo)
        if not proof:
            raise CaseError("the fault does not apply to this pipeline, or changes nothing")
        yield proof


def _rewrite(
    modules: List[Found], change: Change, undo: ExitStack, parameter: str = "weight"
) -> str:
    """Overwrite a parameter of modules that have it; the proof counts the elements that differ."""
    differing = 0
    paths: List[str] = []
    for path, module in modules:
        held = getattr(module, parameter, None)
        if held is None:
            continue
        weight: torch.Tensor = held.data
        before = weight.clone()
        undo.callback(weight.copy_, before)
        weight.copy_(change(weight))
        changed = int(torch.ne(weight, before).sum())
        differing += changed
        if changed:
            paths.append(path)
    said = "biases" if parameter == "bias" else f"{parameter}s"
    return f"{differing} {said} of {where(paths)}" if differing else ""


# The ways to change a weight.


def _scale_all(weight: torch.Tensor, factor: float) -> torch.Tensor:
    return weight * factor


def _scale_largest(weight: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale the element of the largest magnitude."""
    changed = weight.clone()
    flat = changed.view(-1)
    flat[int(flat.abs().argmax())] *= factor
    return changed


def _move_first(weight: torch.Tensor) -> torch.Tensor:
    """Move the first element up by one unit in the last place."""
    changed = weight.clone()
    flat = changed.view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf"), dtype=flat.dtype))
    return changed


def _reverse_outputs(weight: torch.Tensor) -> torch.Tensor:
    """Reverse the order of the output channels."""
    return weight.flip(0)


def _add_to_first(weight: torch.Tensor, by: float) -> torch.Tensor:
    """Add to the first element, which of a bias is that of the first channel."""
    changed = weight.clone()
    changed.view(-1)[0] += by
    return changed


def _mix(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Move every element by a random share of the standard deviation, as another average would."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + share * weight.std() * draws if weight.numel() > 1 else weight


def _next_position(weight: torch.Tensor) -> torch.Tensor:
    """Give each position the embedding of the one before it."""
    return weight.roll(1, 0)


def _round_mantissa(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """Return float32 values rounded to nearest, to `bits` of mantissa.

    TF32 keeps 10 bits of its operands.
    """
    dropped = FLOAT32_MANTISSA - bits
    half = 1 << (dropped - 1)
    whole = tensor.float().contiguous().view(torch.int32)
    rounded = (whole + half) >> dropped << dropped
    return rounded.view(torch.float32).to(tensor.dtype)


def _change_of(fault: Fault) -> Change:
    """Return how a fault changes weights; any other word than these is a type to round to."""
    how = fault["how"]
    if how == "scale":
        return partial(_scale_all, factor=fault["factor"])
    if how == "one":
        return partial(_scale_largest, factor=fault["factor"])
    if how == "add":
        return partial(_add_to_first, by=fault["by"])
    if how == "mix":
        return partial(_mix, share=fault["share"])
    changes: Dict[str, Change] = {
        "one-ulp": _move_first,
        "flip": _reverse_outputs,
        "zero": torch.zeros_like,
        "next-position": _next_position,
    }
    if how in changes:
        return changes[how]
    return partial(round_to, dtype=getattr(torch, how))


# The kinds of faults.


def _inject_weights(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Scale weights or biases, change one of them, or round them to another type."""
    parameter = fault.get("parameter", "weight")
    return _rewrite(modules_of(host, fault), _change_of(fault), undo, parameter)


def _inject_epsilon(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Scale the epsilon of norms."""
    found = modules_of(host, fault)
    for _, module in found:
        undo.callback(setattr, module, "eps", module.eps)
        module.eps = module.eps * fault["factor"]
    return f"eps of {len(found)} norms" if found else ""


def _inject_outputs(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Round what modules return to another type."""
    dtype = getattr(torch, fault["dtype"])

    def round_output(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return round_to(output, dtype)

    found = modules_of(host, fault)
    for _, module in found:
        undo.callback(module.register_forward_hook(round_output).remove)
    return f"results of {where([path for path, _ in found])}" if found else ""


def _inject_operands(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Round both operands of matrix products and convolutions, as TF32 does."""
    bits = fault["bits"]

    def round_input(_module: Any, inputs: Tuple[torch.Tensor, ...]) -> Tuple[torch.Tensor, ...]:
        return (_round_mantissa(inputs[0], bits), *inputs[1:])

    found = modules_of(host, fault)
    proof = _rewrite(found, partial(_round_mantissa, bits=bits), undo)
    for _, module in found:
        undo.callback(module.register_forward_pre_hook(round_input).remove)
    return proof


def _inject_sums(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Let matrix products and convolutions add their products in another way.

    The inputs of each module are cut into pieces of `inputs` channels, whose results are added as
    `how`, one of `SUMS`, says.
    """
    add = SUMS[fault["how"]]
    found = [each for each in modules_of(host, fault) if getattr(each.module, "groups", 1) == 1]
    for _, module in found:
        undo.callback(delattr, module, "forward")
        module.forward = partial(_summed, module, add, fault["inputs"])
    paths = [path for path, _ in found]
    return f"sums of {where(paths)}: {fault['how']}" if found else ""


def _summed(module: Any, add: Sum, inputs: int, values: torch.Tensor) -> torch.Tensor:
    """Return what a linear layer or convolution gives, its inputs taken in pieces."""
    is_linear = isinstance(module, torch.nn.Linear)
    pieces = zip(values.split(inputs, -1 if is_linear else 1), module.weight.split(inputs, 1))
    if is_linear:
        total = add([torch.nn.functional.linear(piece, weight) for piece, weight in pieces])
        return total if module.bias is None else total + module.bias
    total = add([module._conv_forward(piece, weight, None) for piece, weight in pieces])
    return total if module.bias is None else total + module.bias.view(-1, 1, 1)


def _add_reversed(parts: List[torch.Tensor]) -> torch.Tensor:
    total = parts[-1]
    for part in reversed(parts[:-1]):
        total = total + part
    return total


def _add_in_bfloat16(parts: List[torch.Tensor]) -> torch.Tensor:
    """Round the running sum to bfloat16 after each addition."""
    total = parts[0]
    for part in parts[1:]:
        total = round_to(total + part, torch.bfloat16)
    return total


def _add_compensated(parts: List[torch.Tensor]) -> torch.Tensor:
    """Carry the rounding error of each addition into the next one.

    W. Kahan, "Further remarks on reducing truncation errors", Communications of the ACM 8 (1965).
    """
    total = parts[0]
    lost = torch.zeros_like(total)
    for part in parts[1:]:
        term = part - lost
        after = total + term
        lost = (after - total) - term
        total = after
    return total


SUMS: Dict[str, Sum] = {
    "reversed": _add_reversed,
    "bfloat16": _add_in_bfloat16,
    "compensated": _add_compensated,
}


def _inject_wide(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Compute modules in float64 and round their results once, as a kernel that fuses them may.

    With `dtype` it is another type, such as that of weights whose norm is not cast to float32.
    """
    dtype = getattr(torch, fault.get("dtype", "float64"))
    found = modules_of(host, fault)
    for _, module in found:
        other = copy.deepcopy(module).to(dtype)
        undo.callback(delattr, module, FORWARD)
        module.forward = partial(_computed_in, other, dtype)
    return f"{where([path for path, _ in found])} in {dtype}" if found else ""


def _computed_in(other: Any, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """Call a module of another type on arguments of that type; return the type of the first."""
    first = args[0] if args else next(iter(kwargs.values()))
    computed = other(
        *(_cast(each, dtype) for each in args),
        **{name: _cast(each, dtype) for name, each in kwargs.items()},
    )
    return _cast(computed, first.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float else value


def _inject_residual(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Skip one residual connection: a block returns its own branch alone."""
    component = component_of(host, fault)
    if component is None:
        return ""
    blocks = [
        Found(path, module)
        for path, module in component.named_modules()
        if type(module).__name__ == "ResnetBlock2D" and module.conv_shortcut is None
    ]
    if not blocks:
        return ""

    def remove_input(
        _module: Any, inputs: Tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        return output - inputs[0] if output.shape == inputs[0].shape else output

    path, block = blocks[int(fault["at"] * len(blocks))]
    undo.callback(block.register_forward_hook(remove_input).remove)
    return f"residual of {path}"


def _inject_timestep(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Give the denoiser another timestep than the scheduler's."""
    component = component_of(host, fault)
    if component is None:
        return ""

    def move(given: Dict[str, Any]) -> None:
        given["timestep"] = _moved(given["timestep"], fault["by"])

    replace_method(component, FORWARD, undo, on_arguments=move)
    return f"timestep of {fault['component']} moved by {fault['by']}"


def _moved(timestep: Any, by: int) -> Any:
    """Return a timestep moved by a thousandth of `by` where it counts from 0 to 1, else by it."""
    counts_to_one = isinstance(timestep, torch.Tensor) and bool((timestep.abs() <= 1).all())
    is_float = isinstance(timestep, torch.Tensor) and timestep.is_floating_point()
    return timestep + (by / 1000 if counts_to_one and is_float else by)


def _inject_configuration(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Change one setting of a component, such as the VAE's scaling factor."""
    component = host.components.get(
        fault["component"], getattr(host.pipeline, fault["component"], None)
    )
    name = fault["name"]
    if component is None or name not in getattr(component, "config", {}):
        return ""
    before = component.config[name]
    if before is None and "factor" in fault:
        return ""
    after = before * fault["factor"] if "factor" in fault else fault["value"]
    if after == before:
        return ""
    component.register_to_config(**{name: after})
    undo.callback(component.register_to_config, **{name: before})
    return f"{fault['component']}.{name} {before} -> {after}"


def _inject_attention(_host: Host, _fault: Fault, undo: ExitStack) -> str:
    """Let another backend compute scaled dot products."""
    cuda = torch.backends.cuda
    undo.callback(cuda.enable_flash_sdp, cuda.flash_sdp_enabled())
    cuda.enable_flash_sdp(True)
    return "flash attention allowed"


def _inject_several(host: Host, fault: Fault, undo: ExitStack) -> str:
    """Inject several faults at once; each must take effect."""
    proofs = [INJECTORS[part["kind"]](host, part, undo) for part in fault["faults"]]
    return "; ".join(proofs) if all(proofs) else ""


INJECTORS: Dict[str, Injector] = {
    "weights": _inject_weights,
    "epsilon": _inject_epsilon,
    "outputs": _inject_outputs,
    "operands": _inject_operands,
    "sums": _inject_sums,
    "wide": _inject_wide,
    "residual": _inject_residual,
    "timestep": _inject_timestep,
    "configuration": _inject_configuration,
    "attention": _inject_attention,
    "noise": inject_noise,
    "argument": inject_argument,
    "result": inject_result,
    "attribute": inject_attribute,
    "table": inject_table,
    "operator": inject_operator,
    "several": _inject_several,
}
