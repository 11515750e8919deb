"""Where weights come from: the checkpoint, components in place of its own, and adapters.

Weights are named here and never opened: the worker loads them, from safetensors alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast

import yaml

from harness.records import Facts
from harness.scenario import project
from harness.scenario.located_yaml import (
    Either,
    Number,
    OneOrMore,
    Place,
    Record,
    Shape,
    Table,
    Text,
    Values,
    nearest,
)
from harness.worker.protocol import AdapterRequest, CheckpointSource, ComponentSource

DATA = Path(__file__).parents[1] / "data"
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # of the environment
REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # a branch, a tag or a commit; no path upwards
SUBFOLDER = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
WEIGHTS_FILE = re.compile(r"\w[\w .+-]*(/\w[\w .+-]*)*\.safetensors")
ADAPTER_NAME = re.compile(r"\w[\w-]*")  # a part of the names of layers: it may hold no dot
LORA_THEN = "lora-then"
LORA_ACTIONS = ("fuse", "unfuse", "unload")  # methods of diffusers
WITHOUT = "none"  # a component that the pipeline goes without


class CheckpointKind(StrEnum):
    """Where weights come from.

    `endpoint` is a server that holds them; `build` is a function of the project that returns a
    pipeline. `given` is a pipeline, and `array` an array or image, that a test or a notebook holds
    in its own process; no scenario file names these two.
    """

    BUNDLED = "bundled"
    SYNTHETIC = "synthetic"
    PATH = "path"
    HUB = "hub"
    ENDPOINT = "endpoint"
    BUILD = "build"
    GIVEN = "given"
    ARRAY = "array"


IN_FOLDERS = (  # what a scenario may name as a source of files
    CheckpointKind.BUNDLED,
    CheckpointKind.SYNTHETIC,
    CheckpointKind.PATH,
    CheckpointKind.HUB,
)
OF_CHECKPOINTS = (*IN_FOLDERS, CheckpointKind.ENDPOINT)
OF_ADAPTERS = (CheckpointKind.BUNDLED, CheckpointKind.PATH, CheckpointKind.HUB)


class AdapterKind(StrEnum):
    """What is loaded on top of a checkpoint; the values are keys of YAML."""

    LORA = "lora"
    IP_ADAPTER = "ip-adapter"
    TEXTUAL_INVERSION = "textual-inversion"


@dataclass(frozen=True)
class Checkpoint:
    """Where weights come from.

    A checkpoint of the Hub has a `repository` and a `revision`; every other one has a `name`, as
    the scenario gives it, and the `folder` in which it lies on this machine. That of an adapter may
    be a file. One that is built has the name of its function, and no folder. One that is served has
    the name of an environment variable with the server's address, and perhaps a `model`.
    """

    kind: CheckpointKind
    name: str = ""
    folder: str = ""
    repository: str = ""
    revision: str = ""
    model: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """What names the checkpoint wherever the repository is checked out: all but its folder."""
        if self.kind is CheckpointKind.HUB:
            names = {"repository": self.repository, "revision": self.revision}
        else:
            names = {"name": self.name}
        if self.model:
            names["model"] = self.model
        return {"kind": str(self.kind), **names}

    @property
    def is_held(self) -> bool:
        """Whether it is no checkpoint but an object that a test or a notebook holds."""
        return self.kind in (CheckpointKind.GIVEN, CheckpointKind.ARRAY)

    def request(self) -> CheckpointSource:
        """Return the checkpoint as the worker reads it."""
        folder = {"folder": self.folder} if self.folder else {}
        return cast("CheckpointSource", {**self.identity, **folder})

    def __str__(self) -> str:
        return f"{self.kind}: {self.repository or self.name}"


@dataclass(frozen=True)
class Component:
    """A component that replaces the checkpoint's own, or is added to it.

    `class_name` is empty where its own configuration names the class; `subfolder` where it is the
    component of the same name of a pipeline, or lies in no folder of its own.
    """

    source: Checkpoint
    class_name: str = ""
    subfolder: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """What names it wherever the repository is checked out."""
        own = {"class": self.class_name, "subfolder": self.subfolder}
        return {**self.source.identity, **{key: value for key, value in own.items() if value}}

    def request(self) -> ComponentSource:
        """Return the component as the worker reads it."""
        own = {"class_name": self.class_name, "subfolder": self.subfolder}
        return cast("ComponentSource", {**self.source.request(), **own})


@dataclass(frozen=True)
class Adapter:
    """An adapter on top of the checkpoint: a LoRA, an IP-Adapter or a textual inversion.

    `settings` are the other keys of YAML: the name of the file in `weight_name`, and `adapter`,
    `scale` or `token`.
    """

    kind: AdapterKind
    source: Checkpoint
    settings: Facts = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, object]:
        """What names it wherever the repository is checked out."""
        return {**self.source.identity, **self.settings}

    def request(self) -> AdapterRequest:
        """Return the adapter as the worker reads it."""
        source, settings = self.source.request(), dict(self.settings)
        return {"kind": str(self.kind), "source": source, "settings": settings}


# Shapes.


_FOLDERS = {str(kind): Text() for kind in IN_FOLDERS} | {"revision": Text()}
_FILES = {str(kind): Text() for kind in OF_ADAPTERS} | {"revision": Text(), "weight_name": Text()}
_SCALE = Number()
CHECKPOINT = Record({**_FOLDERS, str(CheckpointKind.ENDPOINT): Text(), "model": Text()})
_COMPONENT = Record({**_FOLDERS, "class": Text(), "subfolder": Text()})

FIELDS: Mapping[str, Shape] = {
    "build": Text(what="a function of the project, such as `package.module:function`"),
    "components": Table(Either(Text((WITHOUT,)), OneOrMore(_COMPONENT))),
    str(AdapterKind.LORA): OneOrMore(Record({**_FILES, "adapter": Text(), "scale": _SCALE})),
    LORA_THEN: OneOrMore(Text(LORA_ACTIONS)),
    str(AdapterKind.IP_ADAPTER): OneOrMore(Record({**_FILES, "scale": _SCALE})),
    str(AdapterKind.TEXTUAL_INVERSION): OneOrMore(Record({**_FILES, "token": Text()})),
}
HELP = {
    "build": "a function that returns the pipeline, in place of `pipeline` and `checkpoint`",
    "components": "components that replace the checkpoint's own, or are added, by name; or none",
    str(AdapterKind.LORA): "LoRAs in their order: path or hub, weight_name, adapter, scale",
    LORA_THEN: "what is done with the LoRAs after they are loaded, in order",
    str(AdapterKind.IP_ADAPTER): "IP-Adapters in their order: path or hub, weight_name, scale",
    str(AdapterKind.TEXTUAL_INVERSION): "embeddings of tokens: path or hub, weight_name, token",
}


# Reading.


def read_checkpoint(values: Values, members: Mapping[str, Place]) -> Checkpoint:
    """Return the checkpoint of a scenario: the one that it names, or the one that it builds.

    Raises:
        ScenarioError: The error names the line.
    """
    if "build" not in values:
        return read_source(values["checkpoint"], members["checkpoint"], OF_CHECKPOINTS)
    name, place = values["build"], members["build"]
    project.check_trusted(name, place)
    return Checkpoint(CheckpointKind.BUILD, name)


def read_components(values: Values, place: Place) -> dict[str, tuple[Component, ...]]:
    """Return the components of a scenario by name; an empty tuple is one that it goes without."""
    places = place.members()
    return {name: tuple(_components(value, places[name][1])) for name, value in values.items()}


def _components(value: object, place: Place) -> Iterator[Component]:
    if not isinstance(value, list):
        return
    for one, own_place in zip(value, _places(place), strict=True):
        members = own_place.members()
        class_name, subfolder = one.get("class", ""), one.get("subfolder", "")
        if class_name and project.is_code(class_name):
            project.check_trusted(class_name, members["class"][1])
        if subfolder and not SUBFOLDER.fullmatch(subfolder):
            raise members["subfolder"][1].wrong("a folder below it", f"`{subfolder}`")
        yield Component(read_source(one, own_place), class_name, subfolder)


def read_adapters(values: Values, members: Mapping[str, Place]) -> tuple[Adapter, ...]:
    """Return the adapters of a scenario in the order in which they are loaded."""
    found: list[Adapter] = []
    for kind in AdapterKind:
        for value, place in zip(values.get(kind, ()), _places(members.get(kind)), strict=True):
            found.append(_adapter(kind, value, place))
    _check_distinct(found, members.get(AdapterKind.LORA))
    if LORA_THEN in members and AdapterKind.LORA not in values:
        raise members[LORA_THEN].wrong(f"`{LORA_THEN}` beside `lora` alone", "no `lora`")
    return tuple(found)


def _adapter(kind: AdapterKind, value: Values, place: Place) -> Adapter:
    source = read_source(value, place, OF_ADAPTERS)
    named = value.get("weight_name")
    members = place.members()
    if named is not None and not WEIGHTS_FILE.fullmatch(named):
        expected = "the name of a file of safetensors, such as `ink.safetensors`"
        raise members["weight_name"][1].wrong(expected, f"`{named}`")
    if named is None and source.kind is CheckpointKind.HUB:
        raise place.wrong("`weight_name` beside `hub`: which file of the repository", "no such key")
    name = value.get("adapter", "")
    if name and not ADAPTER_NAME.fullmatch(name):
        raise members["adapter"][1].wrong("a name of letters, digits, `-` and `_`", f"`{name}`")
    ours = (*OF_ADAPTERS, "revision")
    settings = {key: setting for key, setting in value.items() if key not in ours}
    return Adapter(kind, source, settings)


def _check_distinct(adapters: list[Adapter], place: Place | None) -> None:
    """Refuse two LoRAs of one name."""
    names = [adapter.settings["adapter"] for adapter in adapters if "adapter" in adapter.settings]
    if place is not None and len(set(names)) < len(names):
        raise place.wrong("another `adapter` for each", ", ".join(f"`{name}`" for name in names))


def _places(place: Place | None) -> list[Place]:
    """Return the places of one or more items."""
    if place is None:
        return []
    if not isinstance(place.node, yaml.SequenceNode):
        return [place]
    return [place.inside(node, index) for index, node in enumerate(place.node.value)]


def read_source(
    value: Values, place: Place, kinds: tuple[CheckpointKind, ...] = IN_FOLDERS
) -> Checkpoint:
    """Return where files come from.

    Args:
        value: A mapping that names exactly one of `kinds`.
        place: Where it stands.
        kinds: What may be named.

    Raises:
        ScenarioError: The error names the line.
    """
    named = [kind for kind in kinds if kind in value]
    if len(named) != 1:
        found = " and ".join(f"`{kind}`" for kind in named) or "none of them"
        expected = ", ".join(f"`{kind}`" for kind in kinds)
        raise place.wrong(f"exactly one of {expected}", found)
    (kind,) = named
    member = place.members()[kind][1]
    if kind is CheckpointKind.ENDPOINT:
        return _of_endpoint(value, member)
    if "model" in value:
        wrong = place.members()["model"][0]
        raise wrong.wrong("`model` only beside `endpoint`", f"`model` beside `{kind}`")
    if kind is CheckpointKind.HUB:
        return _of_hub(value, place, member)
    if "revision" in value:
        wrong = place.members()["revision"][0]
        raise wrong.wrong("`revision` only beside `hub`", f"`revision` beside `{kind}`")
    if kind is CheckpointKind.PATH:
        return Checkpoint(kind, value["path"], _folder(value["path"], member))
    known = sorted(folder.name for folder in (DATA / kind).iterdir())
    if value[kind] not in known:
        expected = "one of " + ", ".join(f"`{name}`" for name in known)
        raise member.wrong(expected, f"`{value[kind]}`", nearest(value[kind], known))
    return Checkpoint(kind, value[kind], str(DATA / kind / value[kind]))


def _of_hub(value: Values, place: Place, member: Place) -> Checkpoint:
    if not REPOSITORY.fullmatch(value["hub"]):
        raise member.wrong("a repository such as `google/ddpm-cifar10-32`", f"`{value['hub']}`")
    revision = value.get("revision", "main")
    if not REVISION.fullmatch(revision):
        wrong = place.members()["revision"][1]
        raise wrong.wrong("a branch, a tag or a commit", f"`{revision}`")
    return Checkpoint(CheckpointKind.HUB, repository=value["hub"], revision=revision)


def _of_endpoint(value: Values, member: Place) -> Checkpoint:
    """Return a served checkpoint: what the scenario names is never an address itself."""
    if not VARIABLE.fullmatch(value["endpoint"]):
        expected = "the name of an environment variable that holds the server's address"
        raise member.wrong(expected, f"`{value['endpoint']}`")
    return Checkpoint(CheckpointKind.ENDPOINT, value["endpoint"], model=value.get("model", ""))


def _folder(text: str, place: Place) -> str:
    """Return the folder that a path relative to the scenario's file means; it may not be there."""
    absent = (FileNotFoundError, NotADirectoryError, PermissionError)
    try:
        folder = os.path.realpath(place.path.parent / text)
        with contextlib.suppress(*absent):
            Path(folder).stat()
    except (OSError, ValueError) as error:  # too long, links in a circle, or it holds NUL
        problem = getattr(error, "strerror", None) or error
        raise place.wrong("a path of a folder", f"{text[:60]!r} ({problem})") from error
    return folder
