"""Realistic faults, planted into a loaded pipeline for one case and taken out again; each proves that it took effect."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import torch

from .conditions import noise
from .protocol import CaseError

Undo = Callable[[], Any]
Planter = Callable[
    [Any, Dict[str, Any]], Tuple[str, List[Undo]]
]  # (pipeline, fault) -> (proof, how to take it out)


@contextmanager
def planted(pipeline: Any, fault: Dict[str, Any]) -> Iterator[str]:
    """Plant `fault` and yield the proof of its effect.

    Args:
        pipeline: A loaded pipeline of diffusers.
        fault: `kind`, one of `KINDS`, and what that kind needs.

    Raises:
        CaseError: The fault does not apply to this pipeline, or changed nothing.
    """
    proof, undos = KINDS[fault["kind"]](pipeline, fault)
    with ExitStack() as stack:
        for undo in undos:
            stack.callback(undo)
        if not proof:
            raise CaseError(f"fault {fault}: does not apply to this pipeline, or changes nothing")
        yield proof


def _modules(
    pipeline: Any, component: str, kinds: Tuple[Type[torch.nn.Module], ...]
) -> List[Tuple[str, torch.nn.Module]]:
    part = pipeline.components.get(component)
    if not isinstance(part, torch.nn.Module):
        return []
    return [(name, module) for name, module in part.named_modules() if isinstance(module, kinds)]


def _chosen(pipeline: Any, fault: Dict[str, Any]) -> List[Tuple[str, torch.nn.Module]]:
    """Return the modules that a fault means: of one class, all of them or the one at a fraction of the depth."""
    found = _modules(pipeline, fault["component"], CLASSES[fault["modules"]])
    if not found or fault.get("at") is None:
        return found
    return [found[min(len(found) - 1, int(fault["at"] * len(found)))]]


CLASSES: Dict[str, Tuple[Type[torch.nn.Module], ...]] = {
    "convolution": (torch.nn.Conv2d,),
    "linear": (torch.nn.Linear,),
    "norm": (torch.nn.GroupNorm, torch.nn.LayerNorm),
    "matrix": (torch.nn.Conv2d, torch.nn.Linear),
}


def _round_mantissa(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """Return float32 rounded to `bits` of mantissa, to nearest; 10 is what TF32 keeps of its operands."""
    drop = 23 - bits
    whole = tensor.float().contiguous().view(torch.int32)
    return ((whole + (1 << (drop - 1))) >> drop << drop).view(torch.float32).to(tensor.dtype)


def _rewrite(
    modules: List[Tuple[str, torch.nn.Module]], change: Callable[[torch.Tensor], torch.Tensor]
) -> Tuple[str, List[Undo]]:
    """Overwrite the modules' weights by `change` of them; the proof counts the elements that differ."""
    changed = 0
    names: List[str] = []
    undos: List[Undo] = []
    for name, module in modules:
        weight: torch.Tensor = module.weight.data  # type: ignore[assignment]
        before = weight.clone()
        weight.copy_(change(weight))
        differing = int(torch.ne(weight, before).sum())
        changed += differing
        names += [name] if differing else []
        undos.append(partial(weight.copy_, before))
    where = names[0] if len(names) == 1 else f"{len(names)} modules"
    return (f"{changed} weights of {where}" if changed else ""), undos


def _weights(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Scale weights, nudge one of them, or round them to another type."""
    how = fault["how"]

    def change(weight: torch.Tensor) -> torch.Tensor:
        if how == "scale":
            return weight * fault["factor"]
        if how == "one":
            new = weight.clone()
            flat = new.view(-1)
            largest = int(flat.abs().argmax())
            flat[largest] *= fault["factor"]
            return new
        if how == "one-ulp":
            new = weight.clone()
            flat = new.view(-1)
            flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf"), dtype=flat.dtype))
            return new
        if how == "flip":
            return weight.flip(0)
        if how == "zero":
            return torch.zeros_like(weight)
        return weight.to(getattr(torch, how)).to(weight.dtype)

    return _rewrite(_chosen(pipeline, fault), change)


def _epsilon(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    undos: List[Undo] = []
    found = _chosen(pipeline, fault)
    for _, module in found:
        before: Any = module.eps
        undos.append(partial(setattr, module, "eps", before))
        module.eps = before * fault["factor"]
    return (f"eps of {len(found)} norms" if found else ""), undos


def _outputs(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Change what modules return: rounded to another type, or without their residual."""
    found = _chosen(pipeline, fault)
    dtype = getattr(torch, fault["dtype"])
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: out.to(dtype).to(out.dtype))
        for _, module in found
    ]
    where = found[0][0] if len(found) == 1 else f"{len(found)} modules"
    return (f"results of {where}" if found else ""), [hook.remove for hook in hooks]


def _several(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Plant several faults at once; each must take effect."""
    proofs: List[str] = []
    undos: List[Undo] = []
    for part in fault["faults"]:
        proof, mine = KINDS[part["kind"]](pipeline, part)
        proofs.append(proof)
        undos += mine
    return ("; ".join(proofs) if all(proofs) else ""), undos


def _operands(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Round both operands of matrix products and convolutions, as TF32 does."""
    found = _chosen(pipeline, fault)
    proof, undos = _rewrite(found, lambda weight: _round_mantissa(weight, fault["bits"]))

    def hook(_module: Any, inputs: Tuple[torch.Tensor, ...]) -> Tuple[torch.Tensor, ...]:
        return (_round_mantissa(inputs[0], fault["bits"]), *inputs[1:])

    hooks = [module.register_forward_pre_hook(hook) for _, module in found]
    return proof, [*undos, *(hook.remove for hook in hooks)]


def _residual(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Skip one residual connection: a block returns its own branch alone."""
    part = pipeline.components.get(fault["component"])
    blocks = [
        (name, module)
        for name, module in (part.named_modules() if isinstance(part, torch.nn.Module) else [])
        if type(module).__name__ == "ResnetBlock2D" and module.conv_shortcut is None
    ]
    if not blocks:
        return "", []
    name, block = blocks[int(fault["at"] * len(blocks))]
    hook = block.register_forward_hook(
        lambda _m, inputs, out: out - inputs[0] if out.shape == inputs[0].shape else out
    )
    return f"residual of {name}", [hook.remove]


def _timestep(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Give the denoiser another timestep than the scheduler's."""
    part = pipeline.components.get(fault["component"])
    if not isinstance(part, torch.nn.Module):
        return "", []
    own = part.forward

    def forward(sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        return own(sample, timestep + fault["by"], *args, **kwargs)

    part.forward = forward
    return f"timestep of {fault['component']} moved by {fault['by']}", [
        lambda: delattr(part, "forward")
    ]


def _configuration(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Change one setting of a component, such as the VAE's scaling factor."""
    part = pipeline.components.get(fault["component"])
    name = fault["name"]
    if part is None or name not in getattr(part, "config", {}):
        return "", []
    before = part.config[name]
    after = before * fault["factor"] if "factor" in fault else fault["value"]
    if after == before:
        return "", []
    part.register_to_config(**{name: after})
    return f"{fault['component']}.{name} {before} -> {after}", [
        lambda: part.register_to_config(**{name: before})
    ]


def _attention(pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Let another backend compute scaled dot products."""
    cuda = torch.backends.cuda
    before = cuda.flash_sdp_enabled()
    cuda.enable_flash_sdp(True)
    return "flash attention allowed", [lambda: cuda.enable_flash_sdp(before)]


def _noise(_pipeline: Any, fault: Dict[str, Any]) -> Tuple[str, List[Undo]]:
    """Draw noise in another type than the pipeline's."""
    dtype = getattr(torch, fault["dtype"])

    def rounded(drawn: torch.Tensor) -> None:
        drawn.copy_(drawn.to(dtype))

    rounding = noise.drawn_by(None, rounded)
    rounding.__enter__()
    return f"noise rounded to {fault['dtype']}", [lambda: rounding.__exit__(None, None, None)]


KINDS: Dict[str, Planter] = {
    "weights": _weights,
    "epsilon": _epsilon,
    "outputs": _outputs,
    "several": _several,
    "operands": _operands,
    "residual": _residual,
    "timestep": _timestep,
    "configuration": _configuration,
    "attention": _attention,
    "noise": _noise,
}
