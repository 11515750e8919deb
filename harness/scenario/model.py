"""Scenarios: YAML files that become cases. Reads files; loads no weights, imports no framework."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError, UsageError
from harness.scenario.fields import (
    FRAMEWORKS,
    REFERENCE,
    SHAPE,
    SOURCES,
    UNREPEATABLE,
    diffusers_names,
)
from harness.scenario.located_yaml import Place, load, nearest
from harness.scenario.tolerance import check_evidence

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Scenario:
    """One YAML file, read and checked.

    `name` is the file's stem; `checkpoint` holds what the worker needs to load it; `expect`, `tolerance`, `published` and
    `cost` are the judge's.
    """

    path: Path
    name: str
    description: str
    pipeline: str
    checkpoint: dict[str, str]
    call: dict[str, Any]
    framework: str = "torch"
    scheduler: dict[str, Any] | None = None
    seeds: tuple[int, ...] = (0,)
    generator: str = "cpu"
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("float32",)
    enable: tuple[str, ...] = ()
    attention: str | None = None
    component_dtype: dict[str, str] = field(default_factory=dict)
    determinism: str = "full"
    profile: str = "native"
    expect: tuple[str, ...] = ("repeatable",)
    reference: str | None = None
    tolerance: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    keep_every: int = 1
    timeout: float = 3600.0
    tags: tuple[str, ...] = ()

    @property
    def decides(self) -> dict[str, Any]:
        """Everything that decides the numbers, by the keys of the YAML."""
        found: dict[str, Any] = {
            "pipeline": self.pipeline,
            "checkpoint": anywhere(self.checkpoint),
            "scheduler": self.scheduler,
        }
        found |= {"call": self.call, "seed": list(self.seeds), "generator": self.generator}
        found |= {"enable": list(self.enable), "determinism": self.determinism}
        younger = {
            "attention": self.attention,
            "component-dtype": self.component_dtype,
        }  # older fingerprints stay without them
        return found | {key: value for key, value in younger.items() if value}

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the numbers; a baseline of another fingerprint is `stale`."""
        return hashlib.sha256(
            json.dumps(list(self.decides.values()), sort_keys=True).encode()
        ).hexdigest()[:16]

    @property
    def owes_baseline(self) -> bool:
        """Whether the outputs can be held against stored ones at all."""
        return "varies" not in self.expect

    def cases(self) -> list[Case]:
        """Return the scenario on each of its devices with each of its dtypes."""
        return [Case(self, device, dtype) for device in self.devices for dtype in self.dtypes]


def anywhere(checkpoint: dict[str, str]) -> dict[str, str]:
    """Return a checkpoint without its folder, which differs from checkout to checkout."""
    return {key: value for key, value in checkpoint.items() if key != "folder"}


@dataclass(frozen=True)
class Case:
    """A scenario on one device with one dtype: the unit that runs.

    `knobs` are environment variables that the worker starts with (None: without); `image` picks one image of a batch, to be made
    alone; `anchors` is a baseline's tensors, fed to every stage in place of what came before it; `perturb`
    seeds a nudge by one unit in the last place of what is fed: the anchors, or the initial noise;
    `fault` is planted into the pipeline; `detail` asks to see the inside of one stage, after which the run ends; `env` names
    the package versions that the worker's environment has instead of this one's, such as `diffusers==0.30.3`.
    """

    scenario: Scenario
    device: str
    dtype: str
    knobs: tuple[tuple[str, str | None], ...] = ()
    image: int | None = None
    anchors: Path | None = None
    perturb: int | None = None
    fault: dict[str, Any] | None = None
    detail: dict[str, Any] | None = None
    env: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Device and dtype: `cpu-float32`."""
        return f"{self.device}-{self.dtype}"

    @property
    def id(self) -> str:
        """`ddim-digits[cpu-float32]`, as pytest would write it."""
        return f"{self.scenario.name}[{self.place}]"

    def request(self) -> dict[str, Any]:
        """Return the case as the worker reads it."""
        scenario, seeds, call = self.scenario, list(self.scenario.seeds), self.scenario.call
        rounds = max(scenario.cost.get("rounds", 1), 2 if "slower" in scenario.cost else 1)
        if self.image is not None:
            call, seeds, rounds = _alone(call, len(seeds), self.image), [seeds[self.image]], 0
        if any(part is not None for part in (self.anchors, self.perturb, self.fault, self.detail)):
            rounds = 0
        return {
            "id": self.id,
            "framework": scenario.framework,
            "pipeline": scenario.pipeline,
            "checkpoint": scenario.checkpoint,
            "scheduler": scenario.scheduler,
            "call": call,
            "seeds": seeds,
            "generator": scenario.generator,
            "dtypes": scenario.component_dtype,
            "attention": scenario.attention,
            "enable": list(scenario.enable),
            "device": self.device,
            "dtype": self.dtype,
            "determinism": scenario.determinism,
            "rounds": rounds,
            "keep_every": scenario.keep_every,
            "anchors": str(self.anchors) if self.anchors else None,
            "perturb": self.perturb,
            "fault": self.fault,
            "detail": self.detail,
            **({"env": list(self.env)} if self.env else {}),
        }


def _alone(call: dict[str, Any], images: int, image: int) -> dict[str, Any]:
    """Return the call that makes one image of a batch: lists of one per image give theirs, counts become one."""
    counts = (
        "batch_size",
        "num_images_per_prompt",
        "num_videos_per_prompt",
        "num_waveforms_per_prompt",
    )
    single: dict[str, Any] = {}
    for key, value in call.items():
        if key in counts and value == images:
            single[key] = 1
        else:
            each = (
                isinstance(value, list)
                and len(value) == images
                and key not in ("timesteps", "sigmas")
            )
            single[key] = [value[image]] if each else value
    return single


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the scenario files that `paths` mean: files as they are, folders with every `*.yaml` below them.

    Raises:
        UsageError: A path does not exist, or nothing was found.
    """
    found: list[Path] = []
    for path in (given := list(paths)):
        if path.is_dir():
            found += sorted(p for pattern in ("*.yaml", "*.yml") for p in path.rglob(pattern))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder; expected scenarios (YAML)")
    if not found:
        raise UsageError(f"no scenarios in {', '.join(map(str, given))}")
    return list(dict.fromkeys(found))


def read_all(paths: Iterable[Path]) -> list[Scenario]:
    """Read every scenario that `paths` mean; raises ScenarioError at the first mistake or at two files of one name."""
    scenarios: dict[str, Scenario] = {}
    for path in find(paths):
        scenario = read(path)
        if scenario.name in scenarios:
            other = scenarios[scenario.name].path
            raise ScenarioError(
                path,
                1,
                "",
                "a file name of its own",
                f"`{scenario.name}` is also {other}",
                "rename one file",
            )
        scenarios[scenario.name] = scenario
    return list(scenarios.values())


def read(path: Path) -> Scenario:
    """Read and check one scenario.

    Raises:
        ScenarioError: The file has a mistake; the error names its line.
    """
    values, place = load(path, SHAPE)
    members = {key: value_place for key, (_, value_place) in place.members().items()}
    _check_names(values, members)
    _check_together(values, members, place)
    cases = values.get("cases", {})
    generator = values.get("generator", "cpu")
    return Scenario(
        path=path,
        name=path.stem,
        description=values["description"],
        pipeline=values["pipeline"],
        checkpoint=_checkpoint(values["checkpoint"], members["checkpoint"]),
        call=values["call"],
        framework=values.get("framework", "torch"),
        scheduler=values.get("scheduler"),
        seeds=tuple(values.get("seed", [0])),
        generator=generator,
        devices=tuple(cases.get("device", ["cpu"])),
        dtypes=tuple(cases.get("dtype", ["float32"])),
        enable=tuple(values.get("enable", [])),
        attention=values.get("attention"),
        component_dtype=values.get("component-dtype", {}),
        determinism=values.get("determinism", "full"),
        profile=values.get("profile", "native"),
        expect=tuple(
            values.get("expect", ["varies" if generator in UNREPEATABLE else "repeatable"])
        ),
        reference=values.get("reference"),
        tolerance=values.get("tolerance", {}),
        published=values.get("published", {}),
        cost=values.get("cost", {}),
        keep_every=values.get("keep-every", 1),
        timeout=float(values.get("timeout", 3600.0)),
        tags=tuple(values.get("tags", [])),
    )


def _checkpoint(value: dict[str, str], place: Place) -> dict[str, str]:
    named = [source for source in SOURCES if source in value]
    if len(named) != 1:
        found = " and ".join(f"`{source}`" for source in named) or "none of them"
        raise place.wrong("exactly one of `bundled`, `synthetic`, `path`, `hub`", found)
    (kind,) = named
    member = place.members()[kind][1]
    if kind == "hub":
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", value["hub"]):
            raise member.wrong("a repository such as `google/ddpm-cifar10-32`", f"`{value['hub']}`")
        return {
            "kind": "hub",
            "repository": value["hub"],
            "revision": value.get("revision", "main"),
        }
    if "revision" in value:
        raise place.members()["revision"][0].wrong(
            "`revision` only beside `hub`", f"`revision` beside `{kind}`"
        )
    if kind == "path":
        return {
            "kind": "path",
            "name": value["path"],
            "folder": str((place.path.parent / value["path"]).resolve()),
        }
    known = sorted(folder.name for folder in (DATA / kind).iterdir())
    if value[kind] not in known:
        raise member.wrong(
            "one of " + ", ".join(f"`{name}`" for name in known),
            f"`{value[kind]}`",
            nearest(value[kind], known),
        )
    return {"kind": kind, "name": value[kind], "folder": str(DATA / kind / value[kind])}


def _check_names(values: dict[str, Any], members: dict[str, Place]) -> None:
    pairs = [("pipeline", values["pipeline"], members["pipeline"])]
    if "class" in values.get("scheduler", {}):
        pairs.append(
            ("scheduler", values["scheduler"]["class"], members["scheduler"].members()["class"][1])
        )
    for what, name, place in pairs:
        known = diffusers_names(what.capitalize())
        if known and str(name) not in known:
            raise place.wrong(
                f"a {what} class of diffusers", f"`{name}`", nearest(str(name), known)
            )


def _check_together(values: dict[str, Any], members: dict[str, Place], place: Place) -> None:
    """Check what no single field can tell."""
    generator, seeds, expect = (
        values.get("generator", "cpu"),
        values.get("seed", [0]),
        values.get("expect", []),
    )
    framework, devices = (
        values.get("framework", "torch"),
        values.get("cases", {}).get("device", ["cpu"]),
    )
    if framework == "mindspore" and generator != "numpy":
        expected = "`generator: numpy` beside `framework: mindspore`, whose pipelines draw from nothing else"
        raise members.get("generator", place).wrong(expected, f"`{generator}`")
    for key in ("attention", "component-dtype"):
        if framework != "torch" and key in members:
            raise members[key].wrong(
                f"`{key}` with `framework: torch` alone", f"`{key}` beside `framework: {framework}`"
            )
    if not {*devices} <= {*FRAMEWORKS[framework]}:
        raise (
            members["cases"]
            .members()["device"][1]
            .wrong(f"devices of {framework}: {FRAMEWORKS[framework]}", f"{devices}")
        )
    call = members["call"].members()
    for key in ("generator", "latents"):
        if key in call:
            raise call[key][0].wrong(
                "call arguments without it", f"`{key}`", "noise is set by `generator` and `seed`"
            )
    if generator == "shared" and len(set(seeds)) > 1:
        raise members["seed"].wrong(
            "one seed, repeated once per image, because `generator: shared` is one generator",
            f"{seeds}",
        )
    if ("varies" in expect) != (generator in UNREPEATABLE) and expect:
        fits = "`varies`" if generator in UNREPEATABLE else "anything but `varies`"
        raise members["expect"].wrong(f"{fits} with `generator: {generator}`", f"{expect}")
    for pair in (("varies", "repeatable"), ("identical-images", "distinct-images")):
        if set(pair) <= set(expect):
            raise members["expect"].wrong(f"`{pair[0]}` or `{pair[1]}`", "both")
    if "batch-equals-single" in expect:
        if len(seeds) < 2:
            raise members["expect"].wrong(
                "a list of seeds, one per image, for `batch-equals-single`", f"seed: {seeds}"
            )
        if "batch" not in values.get("tolerance", {}):
            raise members.get("tolerance", place).wrong(
                "`tolerance.batch` for `batch-equals-single`", "no such key"
            )
    check_evidence(values.get("tolerance", {}), members)
    if "reference" in values and not REFERENCE.fullmatch(values["reference"]):
        expected = "a device and dtype such as `cpu-float32`, behind another scenario's name and `/` if it is that one's"
        raise members["reference"].wrong(expected, f"`{values['reference']}`")
