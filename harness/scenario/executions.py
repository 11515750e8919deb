"""The keys of a scenario that change how its pipeline is executed, such as `compile` and `cache`.

Their shapes and the checks that need no framework are here. What diffusers alone knows (the fields
of a cache, the backends of quantization) the worker checks against the installed release.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import cast

import yaml

from harness.scenario.located_yaml import (
    Anything,
    Flag,
    OneOrMore,
    Place,
    Record,
    Shape,
    Table,
    Text,
    Values,
    nearest,
)
from harness.worker.protocol import ALL_COMPONENTS, AttentionChoice, ExecutionsRequest

TORCH_ATTENTION = ("math", "flash", "mem_efficient", "cudnn")  # backends of torch's own attention
BACKEND = "backend"
COMPILE = "compile"  # a key, and a word of `enable` that stands for the key without settings
QUANTIZE = "quantize"
ATTENTION = "attention"

_CHOICE = Record({BACKEND: Text(what="a backend of attention"), "revision": Text()}, (BACKEND,))
_FIELDS = Table(Anything())


@cache
def dispatched_attention() -> tuple[str, ...]:
    """Return the backends that the installed diffusers' dispatcher of attention names.

    It is read without importing diffusers, and empty where diffusers is not installed.
    """
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return ()
    home = Path(spec.origin).parent / "models" / "attention_dispatch.py"
    if not home.is_file():
        return ()
    text = home.read_text(encoding="utf-8", errors="replace")
    _, _, rest = text.partition("class AttentionBackendName(")
    body, _, _ = rest.partition("\nclass ")
    return tuple(re.findall(r'^    \w+ = "(\w+)"$', body, re.MULTILINE))


class Attention:
    """A backend of attention for the whole pipeline, or one for each component that is named.

    A word of `TORCH_ATTENTION` is read as that word. Everything else is read as the backend of each
    component, under `ALL_COMPONENTS` where it is for all of them.
    """

    def read(self, place: Place) -> str | dict[str, AttentionChoice]:
        """Return the word or the choices at `place`; raises ScenarioError if it does not fit."""
        if not isinstance(place.node, yaml.MappingNode):
            word = Text(what="a backend of attention, or a mapping").read(place)
            if word in TORCH_ATTENTION:
                return word
            _check_backend(word, place, TORCH_ATTENTION)
            return {ALL_COMPONENTS: {"backend": word}}
        members = place.members()
        if BACKEND in members:
            return {ALL_COMPONENTS: _choice(place)}
        return {name: _choice(member) for name, (_, member) in members.items()}

    def schema(self) -> dict[str, object]:
        """Return the same as JSON Schema."""
        word = {"type": "string", "minLength": 1}
        of_component = {"anyOf": [word, _CHOICE.schema()]}
        by_component = {"type": "object", "additionalProperties": of_component}
        return {"anyOf": [word, _CHOICE.schema(), by_component]}


def _choice(place: Place) -> AttentionChoice:
    if isinstance(place.node, yaml.MappingNode):
        choice = cast("AttentionChoice", _CHOICE.read(place))
        _check_backend(choice["backend"], place.members()[BACKEND][1])
        return choice
    word = Text(what="a backend of attention, or a mapping").read(place)
    _check_backend(word, place)
    return {"backend": word}


def _check_backend(word: str, place: Place, more: tuple[str, ...] = ()) -> None:
    """Refuse a backend that the installed diffusers does not name; without diffusers, none."""
    known = dispatched_attention()
    if known and word not in known:
        offered = tuple(dict.fromkeys((*more, *known)))
        listed = ", ".join(f"`{name}`" for name in offered)
        raise place.wrong(f"one of {listed}", f"`{word}`", nearest(word, offered))


FIELDS: Mapping[str, Shape] = {
    ATTENTION: Attention(),
    COMPILE: Record(
        {
            "mode": Text(),
            "fullgraph": Flag(),
            "dynamic": Flag(),
            "options": _FIELDS,
            "components": OneOrMore(Text(), distinct=True),
        }
    ),
    "cache": Table(_FIELDS),
    QUANTIZE: Table(_FIELDS),
    "group-offload": Table(_FIELDS),
    "layerwise-casting": Table(Text(what="the name of a type, such as `float8_e4m3fn`")),
    "fuse-qkv": OneOrMore(Text(), distinct=True),
    "onnx": OneOrMore(Text(), distinct=True),
}
HELP = {
    ATTENTION: "the one attention backend, or one by component; math where determinism is full",
    COMPILE: "torch.compile of the denoisers or of `components`: mode, fullgraph, dynamic, options",
    "cache": "one cache of diffusers and its fields, such as {first_block: {threshold: 0.1}}",
    QUANTIZE: "for each component a backend of quantization and its fields",
    "group-offload": "for each component the arguments of diffusers' group offloading",
    "layerwise-casting": "for each component the type that its weights are stored in",
    "fuse-qkv": "components whose query, key and value projections are fused",
    "onnx": "components that are exported, and run in ONNX Runtime",
}


def executions_of(values: Values) -> ExecutionsRequest:
    """Return what a checked scenario file asks for, in the form that the worker reads.

    Args:
        values: The values of the file, as `FIELDS` read them.
    """
    found = {key.replace("-", "_"): values[key] for key in FIELDS if key in values}
    if isinstance(found.get(ATTENTION), str):  # one of torch's own, which is a switch of torch
        del found[ATTENTION]
    return cast("ExecutionsRequest", found)


def check(values: Values, members: Mapping[str, Place]) -> None:
    """Refuse what the shapes alone admit: several caches, a component without its backend.

    Raises:
        ScenarioError: The error names the line.
    """
    if COMPILE in values and COMPILE in values.get("enable", ()):
        expected = "`compile` as a key, or as a word of `enable`"
        raise members[COMPILE].wrong(expected, "both")
    settings = values.get(COMPILE, {})
    if "mode" in settings and "options" in settings:
        raise members[COMPILE].wrong("`mode` or `options`, as in torch.compile", "both")
    if len(values.get("cache", {None: None})) != 1:
        found = ", ".join(f"`{name}`" for name in values["cache"]) or "an empty mapping"
        raise members["cache"].wrong("one cache, such as `first_block`", found)
    for key in ("quantize", "group-offload", "layerwise-casting"):
        if not values.get(key, {None: None}):
            raise members[key].wrong("at least one component", "an empty mapping")
    for component, fields in values.get(QUANTIZE, {}).items():
        if not isinstance(fields.get(BACKEND), str):
            place = members[QUANTIZE].members()[component][1]
            expected = "`backend`, such as `torchao`, `bitsandbytes`, `quanto` or `gguf`"
            raise place.wrong(expected, "no such key" if BACKEND not in fields else "")
