"""Realistic faults, injected into a loaded pipeline for one case and removed afterwards.

Each fault proves that it took effect: a fault that changes nothing would be counted as missed.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Type

import torch

from .conditions import noise
from .observe.stages import Stage
from .protocol import CaseError

Fault = Mapping[str, Any]
# Injects a fault into a pipeline and puts onto the stack what removes it. Returns the proof of its
# effect in words, or nothing where the fault does not apply or changes nothing.
Injector = Callable[[Any, Fault, ExitStack], str]
# Returns the changed values of a weight.
Change = Callable[[torch.Tensor], torch.Tensor]
# Returns the sum of tensors of one shape.
Sum = Callable[[List[torch.Tensor]], torch.Tensor]

MODULES: Dict[str, Tuple[Type[torch.nn.Module], ...]] = {
    "convolution": (torch.nn.Conv2d,),
    "linear": (torch.nn.Linear,),
    "norm": (torch.nn.GroupNorm, torch.nn.LayerNorm),
    "matrix": (torch.nn.Conv2d, torch.nn.Linear),
}
FLOAT32_MANTISSA = 23  # bits


class _Found(NamedTuple):
    """A module inside a component, and its path."""

    path: str
    module: Any


@contextmanager
def injected(pipeline: Any, fault: Fault) -> Iterator[str]:
    """Inject a fault, yield the proof of its effect, and remove the fault.

    Args:
        pipeline: A loaded pipeline of diffusers.
        fault: `kind`, one of `INJECTORS`, and what that kind needs.

    Raises:
        CaseError: The fault does not apply to this pipeline, or changed nothing.
    """
    inject = INJECTORS[fault["kind"]]
    with ExitStack() as undo:
        proof = inject(pipeline, fault, undo)
        if not proof:
            raise CaseError(f"fault {fault}: does not apply to this pipeline, or changes nothing")
        yield proof


def _component(pipeline: Any, fault: Fault) -> Optional[torch.nn.Module]:
    """Return the component that a fault names, if it is one of torch with weights."""
    component = pipeline.components.get(fault["component"])
    return component if isinstance(component, torch.nn.Module) else None


def _chosen(pipeline: Any, fault: Fault) -> List[_Found]:
    """Return the modules that a fault means.

    They are of one class of `MODULES`: all of them, or with `at` the one at that fraction of the
    depth.
    """
    component = _component(pipeline, fault)
    if component is None:
        return []
    classes = MODULES[fault["modules"]]
    found = [
        _Found(path, module)
        for path, module in component.named_modules()
        if isinstance(module, classes)
    ]
    if not found or fault.get("at") is None:
        return found
    index = int(fault["at"] * len(found))
    return [found[min(len(found) - 1, index)]]


def _where(paths: List[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} modules"


def _rewrite(modules: List[_Found], change: Change, undo: ExitStack) -> str:
    """Overwrite the modules' weights; the proof counts the elements that differ."""
    differing = 0
    paths: List[str] = []
    for path, module in modules:
        weight: torch.Tensor = module.weight.data
        before = weight.clone()
        undo.callback(weight.copy_, before)
        weight.copy_(change(weight))
        changed = int(torch.ne(weight, before).sum())
        differing += changed
        if changed:
            paths.append(path)
    return f"{differing} weights of {_where(paths)}" if differing else ""


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


def _round_to(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the values rounded to a type, in their own type."""
    return tensor.to(dtype).to(tensor.dtype)


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
    changes: Dict[str, Change] = {
        "one-ulp": _move_first,
        "flip": _reverse_outputs,
        "zero": torch.zeros_like,
    }
    if how in changes:
        return changes[how]
    return partial(_round_to, dtype=getattr(torch, how))


# The kinds of faults.


def _inject_weights(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Scale weights, change one of them, or round them to another type."""
    return _rewrite(_chosen(pipeline, fault), _change_of(fault), undo)


def _inject_epsilon(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Scale the epsilon of norms."""
    found = _chosen(pipeline, fault)
    for _, module in found:
        undo.callback(setattr, module, "eps", module.eps)
        module.eps = module.eps * fault["factor"]
    return f"eps of {len(found)} norms" if found else ""


def _inject_outputs(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Round what modules return to another type."""
    dtype = getattr(torch, fault["dtype"])

    def round_output(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return _round_to(output, dtype)

    found = _chosen(pipeline, fault)
    for _, module in found:
        undo.callback(module.register_forward_hook(round_output).remove)
    return f"results of {_where([path for path, _ in found])}" if found else ""


def _inject_operands(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Round both operands of matrix products and convolutions, as TF32 does."""
    bits = fault["bits"]

    def round_input(_module: Any, inputs: Tuple[torch.Tensor, ...]) -> Tuple[torch.Tensor, ...]:
        return (_round_mantissa(inputs[0], bits), *inputs[1:])

    found = _chosen(pipeline, fault)
    proof = _rewrite(found, partial(_round_mantissa, bits=bits), undo)
    for _, module in found:
        undo.callback(module.register_forward_pre_hook(round_input).remove)
    return proof


def _inject_sums(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Let matrix products and convolutions add their products in another way.

    The inputs of each module are cut into pieces of `inputs` channels, whose results are added as
    `how`, one of `SUMS`, says.
    """
    add = SUMS[fault["how"]]
    found = [each for each in _chosen(pipeline, fault) if getattr(each.module, "groups", 1) == 1]
    for _, module in found:
        undo.callback(delattr, module, "forward")
        module.forward = partial(_summed, module, add, fault["inputs"])
    paths = [path for path, _ in found]
    return f"sums of {_where(paths)}: {fault['how']}" if found else ""


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
        total = _round_to(total + part, torch.bfloat16)
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


def _inject_wide(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Compute modules in float64 and round their results once, as a kernel that fuses them may."""
    found = _chosen(pipeline, fault)
    for _, module in found:
        wide = copy.deepcopy(module).double()
        undo.callback(delattr, module, "forward")
        module.forward = partial(_computed_wide, wide)
    return f"{_where([path for path, _ in found])} in float64" if found else ""


def _computed_wide(wide: Any, values: torch.Tensor) -> torch.Tensor:
    computed: torch.Tensor = wide(values.double())
    return computed.to(values.dtype)


def _inject_residual(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Skip one residual connection: a block returns its own branch alone."""
    component = _component(pipeline, fault)
    if component is None:
        return ""
    blocks = [
        _Found(path, module)
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


def _inject_timestep(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Give the denoiser another timestep than the scheduler's."""
    component: Any = _component(pipeline, fault)
    if component is None:
        return ""
    own_forward = component.forward

    def forward(sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        return own_forward(sample, timestep + fault["by"], *args, **kwargs)

    component.forward = forward
    undo.callback(delattr, component, "forward")
    return f"timestep of {fault['component']} moved by {fault['by']}"


def _inject_configuration(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Change one setting of a component, such as the VAE's scaling factor."""
    component = pipeline.components.get(fault["component"])
    name = fault["name"]
    if component is None or name not in getattr(component, "config", {}):
        return ""
    before = component.config[name]
    after = before * fault["factor"] if "factor" in fault else fault["value"]
    if after == before:
        return ""
    component.register_to_config(**{name: after})
    undo.callback(component.register_to_config, **{name: before})
    return f"{fault['component']}.{name} {before} -> {after}"


def _inject_attention(_pipeline: Any, _fault: Fault, undo: ExitStack) -> str:
    """Let another backend compute scaled dot products."""
    cuda = torch.backends.cuda
    undo.callback(cuda.enable_flash_sdp, cuda.flash_sdp_enabled())
    cuda.enable_flash_sdp(True)
    return "flash attention allowed"


def _inject_noise(_pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Draw noise in another type than the pipeline's."""
    dtype = getattr(torch, fault["dtype"])

    def round_noise(_stage: Stage, drawn: torch.Tensor) -> None:
        drawn.copy_(drawn.to(dtype))

    undo.enter_context(noise.intercepted_draws(None, round_noise))
    return f"noise rounded to {fault['dtype']}"


def _inject_several(pipeline: Any, fault: Fault, undo: ExitStack) -> str:
    """Inject several faults at once; each must take effect."""
    proofs = [INJECTORS[part["kind"]](pipeline, part, undo) for part in fault["faults"]]
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
    "noise": _inject_noise,
    "several": _inject_several,
}
