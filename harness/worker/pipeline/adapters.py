"""Adapters on top of a checkpoint: LoRAs, IP-Adapters, textual inversions, each proven to act.

The libraries load an adapter whose names match nothing without an error, and the output is then
that of the checkpoint alone. So each is looked at after it was loaded: layers that are not there,
or hold zeros alone, are an error that says what was seen.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence

import torch

from ..observe.tensors import digest_digests, digest_tensor
from ..protocol import AdapterRequest, CannotRunHere, CaseError
from . import hub
from .executions.adapters import (
    FUSE,
    UNFUSE,
    IpAdapter,
    Lora,
    TextualInversion,
    lora_layers,
    loras_of,
    models_of,
)
from .executions.base import Execution
from .loading import counted

SUFFIX = ".safetensors"
LORA, IP_ADAPTER, TEXTUAL_INVERSION = "lora", "ip-adapter", "textual-inversion"
LOADERS = {
    LORA: "load_lora_weights",
    IP_ADAPTER: "load_ip_adapter",
    TEXTUAL_INVERSION: "load_textual_inversion",
}
LORA_MARKS = ("lora", "lokr_")  # in the name of each tensor of a LoRA


class _File(NamedTuple):
    """The file of an adapter.

    Attributes:
        request: What the case asks for.
        path: Where the file lies.
        tensors: What it holds.
        name: By which the digest of the file is recorded.
    """

    request: AdapterRequest
    path: Path
    tensors: Dict[str, torch.Tensor]
    name: str

    @property
    def said(self) -> str:
        """What a message calls it."""
        return f"`{self.request['kind']}`: {self.path.name}"

    @property
    def asked(self) -> str:
        """What a recording calls it: `lora: ink`."""
        kind, _, name = self.name.partition(".")
        return f"{kind}: {name}"


class LoadedAdapters(NamedTuple):
    """What was loaded on top of a checkpoint.

    Attributes:
        digests: One of each file's tensors, by a name such as `lora.ink`.
        effects: What shows in a run that each of them acts.
    """

    digests: Dict[str, str]
    effects: Sequence[Execution]


def load_adapters(
    pipeline: Any,
    adapters: Sequence[AdapterRequest],
    call: Mapping[str, Any],
    then: Sequence[str] = (),
) -> LoadedAdapters:
    """Load adapters into a pipeline on the CPU, and make sure that each of them acts.

    Args:
        pipeline: The pipeline of a checkpoint.
        adapters: What the case asks for, in its order.
        call: The arguments of the case's call.
        then: What is done with the LoRAs afterwards, in order: `fuse`, `unfuse`, `unload`.

    Raises:
        CannotRunHere: A file is not on this machine, or a package that loads it is missing.
        CaseError: The pipeline takes no such adapter, the file is none, or it changes nothing.
    """
    files = [_read(pipeline, request, index) for index, request in enumerate(adapters)]
    by_kind = {kind: [file for file in files if file.request["kind"] == kind] for kind in LOADERS}
    effects: List[Execution] = []
    if by_kind[LORA]:
        effects += _load_loras(pipeline, by_kind[LORA], then)
    if by_kind[IP_ADAPTER]:
        effects += _load_ip_adapters(pipeline, by_kind[IP_ADAPTER])
    for file in by_kind[TEXTUAL_INVERSION]:
        effects.append(_load_textual_inversion(pipeline, file, call))
    return LoadedAdapters({file.name: digest_of(file.tensors) for file in files}, effects)


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return one digest of the tensors of a file, by name."""
    return digest_digests({name: digest_tensor(tensors[name]) for name in sorted(tensors)})


def _read(pipeline: Any, request: AdapterRequest, index: int) -> _File:
    """Read the file of an adapter, which must be one that the pipeline can load."""
    kind = request["kind"]
    if not callable(getattr(pipeline, LOADERS[kind], None)):
        raise CaseError(f"`{kind}`: {type(pipeline).__name__} loads none")
    if kind == LORA and importlib.util.find_spec("peft") is None:
        raise CannotRunHere("`lora` needs the package peft: pip install 'diffusion-harness[lora]'")
    path = _path_of(request)
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path))
    except Exception as error:  # the reader's own errors, of a file that is damaged or no such file
        raise CaseError(f"`{kind}`: {path} is no file of safetensors: {error}") from error
    if not tensors:
        raise CaseError(f"`{kind}`: {path} holds no tensor")
    return _File(request, path, tensors, f"{kind}.{_name_of(request, index)}")


def _name_of(request: AdapterRequest, index: int) -> str:
    settings = request["settings"]
    return str(settings.get("adapter") or settings.get("token") or index)


def _path_of(request: AdapterRequest) -> Path:
    """Return the file of an adapter: what `path` names, or one file in that folder."""
    kind, source = request["kind"], request["source"]
    wanted = request["settings"].get("weight_name")
    if source["kind"] == "hub":
        return hub.fetch_file(source["repository"], source["revision"], str(wanted))
    path = Path(source["folder"])
    if path.is_dir() and wanted is not None:
        path = path / str(wanted)
    elif path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise CaseError(
                f"`{kind}`: expected one file {SUFFIX} in {path}, found {names}; "
                "`weight_name` names one"
            )
        (path,) = files
    if path.suffix != SUFFIX:
        raise CaseError(f"`{kind}`: {path} is no file {SUFFIX}; no other format is loaded")
    if not path.is_file():
        raise CannotRunHere(f"`{kind}`: no file {path}")
    return path


# LoRA.


def _load_loras(pipeline: Any, files: Sequence[_File], then: Sequence[str]) -> List[Lora]:
    names = [file.name.replace(".", "-") for file in files]
    scales = [float(file.request["settings"].get("scale", 1.0)) for file in files]
    for name, file in zip(names, files):
        wanted = _lora_names(pipeline, file)
        with _loading(pipeline, file):
            pipeline.load_lora_weights(
                str(file.path.parent),
                weight_name=file.path.name,
                adapter_name=name,
                use_safetensors=True,
                local_files_only=True,
            )
        _prove_lora(pipeline, file, name, wanted)
    with _loading(pipeline, files[-1]):
        pipeline.set_adapters(names, adapter_weights=scales)
    for name, file in zip(names, files):
        _check_active(pipeline, file, name)
    for action in then:
        with _loading(pipeline, files[-1]):
            _handle_loras(pipeline, action, names)
        if action == FUSE:
            _check_fused(pipeline, files, names)
    return [
        Lora(pipeline, name, file.asked, scale, then)
        for name, file, scale in zip(names, files, scales)
    ]


def _handle_loras(pipeline: Any, action: str, names: Sequence[str]) -> None:
    """Fuse LoRAs into the weights of their layers, take them out of these, or unload them."""
    if action == FUSE:
        pipeline.fuse_lora(adapter_names=list(names))
    elif action == UNFUSE:
        pipeline.unfuse_lora()
    else:
        pipeline.unload_lora_weights()


def _check_fused(pipeline: Any, files: Sequence[_File], names: Sequence[str]) -> None:
    """Refuse a LoRA that is not in the weights of its layers after it was fused."""
    for name, file in zip(names, files):
        layers = lora_layers(pipeline, name)
        apart = [path for path, layer in layers if name not in layer.merged_adapters]
        if apart:
            raise CaseError(f"{file.said} was not fused into {counted(apart, 'layer')}")


def _lora_names(pipeline: Any, file: _File) -> List[str]:
    """Return the names of the tensors in a LoRA's file, as diffusers converts them.

    A name that begins with no component of the pipeline is refused: diffusers drops it silently.
    """
    with _loading(pipeline, file):
        found = pipeline.lora_state_dict(
            str(file.path.parent),
            weight_name=file.path.name,
            use_safetensors=True,
            local_files_only=True,
        )
    names = found[0] if isinstance(found, tuple) else found
    lost = [name for name in sorted(names) if name.partition(".")[0] not in pipeline.components]
    if lost:
        known = ", ".join(f"`{name}.`" for name, _ in models_of(pipeline))
        raise CaseError(
            f"{file.said} holds {counted(lost, 'name')} of no component of "
            f"{type(pipeline).__name__}, whose names begin with {known}: "
            "they would have no effect"
        )
    return [name for name in names if any(mark in name for mark in LORA_MARKS)]


def _prove_lora(pipeline: Any, file: _File, name: str, wanted: Sequence[str]) -> None:
    """Refuse a LoRA that reached no layer, only some of its layers, or holds zeros alone."""
    layers = list(lora_layers(pipeline, name))
    if not layers:
        raise CaseError(
            f"{file.said} has no effect: it reached no layer of {type(pipeline).__name__}; "
            f"it holds {counted(sorted(file.tensors), 'tensor')}"
        )
    held = sum(loras_of(layer).count(name) for _, layer in layers)
    if held < len(wanted):
        raise CaseError(
            f"{file.said} has no effect in part: {len(wanted) - held} of its {len(wanted)} tensors "
            f"reached no layer of {type(pipeline).__name__}"
        )
    with torch.no_grad():
        if not any(bool(layer.get_delta_weight(name).any()) for _, layer in layers):
            raise CaseError(
                f"{file.said} has no effect: what it adds to each of its {len(layers)} layers is "
                "zero"
            )


def _check_active(pipeline: Any, file: _File, name: str) -> None:
    """Refuse a LoRA that is loaded and does not take part in the layers' results."""
    idle = [
        path
        for path, layer in lora_layers(pipeline, name)
        if name not in layer.active_adapters or layer.disable_adapters
    ]
    if idle:
        raise CaseError(f"{file.said} has no effect in {counted(idle, 'layer')}: it is not active")


# IP-Adapter.


def _load_ip_adapters(pipeline: Any, files: Sequence[_File]) -> List[IpAdapter]:
    for file in files:
        for part in ("image_proj.", "ip_adapter."):
            if not any(name.startswith(part) for name in file.tensors):
                raise CaseError(
                    f"{file.said} has no effect: none of its "
                    f"{counted(sorted(file.tensors), 'tensor')} begins with `{part}`"
                )
    scales = [float(file.request["settings"].get("scale", 1.0)) for file in files]
    with _loading(pipeline, files[-1]):
        pipeline.load_ip_adapter(
            [str(file.path.parent) for file in files],
            subfolder=[""] * len(files),
            weight_name=[file.path.name for file in files],
            image_encoder_folder=None,  # an image encoder is one of the case's `components`
            local_files_only=True,
        )
        pipeline.set_ip_adapter_scale(scales)
    layers: List[Any] = [
        layer
        for _, component in models_of(pipeline)
        for layer in component.modules()
        if hasattr(layer, "to_v_ip")
    ]
    effects = []
    for index, file in enumerate(files):
        values = [layer.to_v_ip[index] for layer in layers]
        _prove_ip_adapter(pipeline, file, values)
        effects.append(IpAdapter(file.asked, values))
    return effects


def _prove_ip_adapter(pipeline: Any, file: _File, values: Sequence[Any]) -> None:
    """Refuse an IP-Adapter that reached no attention, or whose values are zeros alone."""
    if not values:
        raise CaseError(
            f"{file.said} has no effect: it reached no attention of {type(pipeline).__name__}"
        )
    if not any(bool(layer.weight.any()) for layer in values):
        raise CaseError(
            f"{file.said} has no effect: its values are zero in each of {len(values)} layers of "
            "attention"
        )


# Textual inversion.


def _load_textual_inversion(
    pipeline: Any, file: _File, call: Mapping[str, Any]
) -> TextualInversion:
    before = set(pipeline.tokenizer.get_vocab())
    token = file.request["settings"].get("token")
    with _loading(pipeline, file):
        pipeline.load_textual_inversion(
            str(file.path.parent),
            weight_name=file.path.name,
            token=token,
            use_safetensors=True,
            local_files_only=True,
        )
    new = sorted(set(pipeline.tokenizer.get_vocab()) - before)
    if not new:
        raise CaseError(f"{file.said} has no effect: the tokenizer got no token of it")
    if not any(bool(tensor.any()) for tensor in file.tensors.values()):
        raise CaseError(f"{file.said} has no effect: its embedding of {', '.join(new)} is zero")
    texts = " ".join(_texts_in(call))
    if not any(word in texts for word in new):
        raise CaseError(
            f"{file.said} has no effect: no text of `call` holds its token {', '.join(new)}"
        )
    numbers = pipeline.tokenizer.convert_tokens_to_ids(new)
    return TextualInversion(file.asked, pipeline.text_encoder, numbers)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts_in(item)


# What all of them need.


@contextlib.contextmanager
def _loading(pipeline: Any, file: _File) -> Iterator[None]:
    """Turn whatever a library raises while it loads an adapter into an error of the case."""
    try:
        yield
    except (CaseError, CannotRunHere):
        raise
    except Exception as error:  # the libraries raise errors of many kinds
        text = " ".join(str(error).split()) or "no message"
        raise CaseError(
            f"{file.said} cannot be loaded into {type(pipeline).__name__}: "
            f"{type(error).__name__}: {text[:400]}"
        ) from error
