"""Reading scenarios: YAML becomes `Scenario`s; what no single field can tell is checked here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError, ScenarioErrors, UsageError
from harness.records import ContractKind, Device, Dtype, Target
from harness.scenario import executions, project, weights
from harness.scenario.fields import (
    DEVICES_OF,
    SHAPE,
    Determinism,
    Expectation,
    Framework,
    Generator,
    Profile,
    diffusers_names,
)
from harness.scenario.located_yaml import Place, Values, load, nearest
from harness.scenario.model import (
    Contract,
    CostBounds,
    NodeNeeds,
    PublishedValue,
    Reference,
    Scenario,
    is_count,
    is_per_image,
)
from harness.scenario.overlay import BASE, Draft
from harness.scenario.tolerance import LOCAL_METRICS, LOOSE, BoundKey, Tolerance, Tolerances

NAME = re.compile(r"\w[\w.+-]*")  # of a scenario: a folder, a word of -k and part of an id
CONTRADICTIONS = (
    (Expectation.VARIES, Expectation.REPEATABLE),
    (Expectation.VARIES, Expectation.STATELESS),
    (Expectation.VARIES, Expectation.BATCH_INVARIANT),
    (Expectation.IDENTICAL_IMAGES, Expectation.DISTINCT_IMAGES),
)
FROM_SEEDS = ("generator", "latents")  # arguments of a call that the harness makes itself
TORCH_ONLY = (*executions.FIELDS, *weights.FIELDS, "component-dtype")
BESIDE_BUILD = ("pipeline", "checkpoint", "components")  # what a function that builds decides
IDENTICAL_TO, IMAGES = "identical-to", "images"  # keys of a contract beside its bounds
ENDPOINT_CALL = "images/generations"  # the pipeline of a served engine
INSIDE_PIPELINES = ("before", "scheduler", "enable", "determinism", "profile", "keep-every")

Members = Mapping[str, Place]


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the scenario files that `paths` mean: files, and all YAML files below folders.

    Raises:
        UsageError: A path does not exist, or nothing was found.
    """
    given = list(paths)
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += sorted([*path.rglob("*.yaml"), *path.rglob("*.yml")])
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder; expected scenarios (YAML)")
    if not found:
        raise UsageError(f"no scenarios in {', '.join(map(str, given))}")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class ReadFiles:
    """Scenario files that were read: the scenarios, and an error for each file with mistakes."""

    scenarios: tuple[Scenario, ...]
    refused: tuple[ScenarioError, ...] = ()


def read_each(paths: Iterable[Path]) -> ReadFiles:
    """Return every scenario that `paths` mean, and what is wrong with the files of the others.

    Raises:
        UsageError: A path does not exist, or nothing was found.
    """
    scenarios: dict[str, Scenario] = {}
    refused: list[ScenarioError] = []
    for path in find(paths):
        try:
            scenario = read(path)
            first = scenarios.setdefault(scenario.name, scenario)
            if first is not scenario:
                found = f"`{scenario.name}` is also {first.path}"
                raise ScenarioError(path, 1, "", "a file name of its own", found, "rename one file")
        except ScenarioError as error:
            refused.append(error)
    return ReadFiles(tuple(scenarios.values()), tuple(refused))


def refusal_of(refused: Sequence[ScenarioError]) -> ScenarioError:
    """Return one error that tells every mistake of files that were refused, at least one."""
    mistakes = [mistake for error in refused for mistake in error.mistakes]
    return mistakes[0] if len(mistakes) == 1 else ScenarioErrors(mistakes)


def read_all(paths: Iterable[Path]) -> list[Scenario]:
    """Return every scenario that `paths` mean.

    Raises:
        ScenarioError: Files have mistakes, or two files have one name; all mistakes are told.
        UsageError: A path does not exist, or nothing was found.
    """
    found = read_each(paths)
    if found.refused:
        raise refusal_of(found.refused)
    return list(found.scenarios)


def read(path: Path) -> Scenario:
    """Return one scenario, read and checked.

    Raises:
        ScenarioError: The file has a mistake; the error names its line.
    """
    if not NAME.fullmatch(path.stem):
        expected = "a file name of letters, digits, `-`, `_`, `+` and `.`"
        raise ScenarioError(path, 1, "", expected, repr(path.stem), "rename the file")
    values, place = load(path, SHAPE)
    draft = Draft.of_file(values, place)
    scenario = _scenario_of(draft, path)
    if not draft.expands:
        return scenario
    found: list[Scenario] = []
    for point in draft.points():
        found += _expanded(point, path)
    return replace(scenario, expanded=tuple(found))


def _expanded(point: Draft, path: Path) -> list[Scenario]:
    """Return a scenario without its variants, then each variant with its contract."""
    drafts = list(point.variants())
    base = _scenario_of(point, path)
    known = {BASE: base}
    for draft in drafts:
        known[draft.variant] = _scenario_of(draft, path)
        _check_targets(known[draft.variant], base, draft)
    if any(draft.contract for draft in drafts):
        known = {name: replace(each, cost=each.cost.compared()) for name, each in known.items()}
    held = [replace(known[draft.variant], contract=_contract(draft, known)) for draft in drafts]
    return [known[BASE], *held]


def _scenario_of(draft: Draft, path: Path) -> Scenario:
    """Return one execution of a scenario, checked; its contract comes later."""
    values, members, place = draft.values, draft.members, draft.place
    _check_source(values, members, place)
    _check_names(values, members)
    executions.check(values, members)
    scenario = replace(_scenario(path, values, members), variant=draft.name)
    _check_framework(scenario, members, place)
    _check_call(members)
    _check_expectations(scenario, members, place)
    _check_compositions(scenario, members)
    _check_evidence(scenario.tolerances, members)
    return scenario


def _contract(draft: Draft, known: Mapping[str, Scenario]) -> Contract | None:
    """Return what a variant owes one of the scenarios that are `known` by the variant's name."""
    if draft.contract is None:
        return None
    value, place = draft.contract
    made = known[draft.variant]
    if isinstance(value, str):
        contract = Contract(ContractKind(value), known[BASE])
    else:
        contract = _contract_of(value, place, draft, known)
    for each in (made, contract.against):
        if not each.needs_baseline:
            raise place.wrong("a contract only where runs repeat", f"`generator: {each.generator}`")
    return contract


def _contract_of(
    value: Values, place: Place, draft: Draft, known: Mapping[str, Scenario]
) -> Contract:
    """Return the contract that a mapping means."""
    images = tuple(value.get(IMAGES, ()))
    bounds = {key: bound for key, bound in value.items() if key not in (IDENTICAL_TO, IMAGES)}
    local = [key for key in bounds if key in LOCAL_METRICS]
    if images and local:
        expected = f"no local bound beside `{IMAGES}`, which names single images of the outputs"
        raise place.members()[local[0]][0].wrong(expected, f"`{local[0]}`")
    if IDENTICAL_TO not in value:
        if not bounds:
            raise place.wrong(f"`{IDENTICAL_TO}` or a bound beside `{IMAGES}`", f"`{IMAGES}` alone")
        tolerance = Tolerance.from_yaml(bounds)
        return Contract(ContractKind.TOLERANCE, known[BASE], tolerance, images)
    member = place.members()[IDENTICAL_TO][1]
    if bounds:
        raise place.wrong(f"either `{IDENTICAL_TO}` or bounds", "both")
    others = [name for name in known if name != draft.variant]
    if value[IDENTICAL_TO] not in others:
        hint = nearest(value[IDENTICAL_TO], others)
        raise member.wrong(f"one of {_listed(others)}", f"`{value[IDENTICAL_TO]}`", hint)
    return Contract(ContractKind.IDENTICAL, known[value[IDENTICAL_TO]], images=images)


def _check_targets(variant: Scenario, base: Scenario, draft: Draft) -> None:
    """Refuse a variant on a device or dtype on which the scenario itself does not run."""
    pairs = (("device", variant.devices, base.devices), ("dtype", variant.dtypes, base.dtypes))
    for key, own, offered in pairs:
        if not set(own) <= set(offered):
            wrong = draft.members["cases"].members()[key][1]
            raise wrong.wrong(f"some of the scenario's own: {_listed(offered)}", _listed(own))


def _scenario(path: Path, values: Values, members: Members) -> Scenario:
    """Return the scenario; only keys that the file sets replace the defaults of the type."""
    given: dict[str, Any] = {
        "path": path,
        "name": path.stem,
        "description": values["description"],
        "pipeline": values.get("pipeline", ""),
        "checkpoint": weights.read_checkpoint(values, members),
        "adapters": weights.read_adapters(values, members),
        "project": project.project_of(path),
        "call": values["call"],
        "executions": executions.executions_of(values),
    }
    if isinstance(values.get("attention"), str):
        given["attention"] = values["attention"]
    if weights.LORA_THEN in values:
        given["lora_then"] = tuple(values[weights.LORA_THEN])
    plain = {"scheduler": "scheduler", "before": "before", "keep-every": "keep_every"}
    given |= {field: values[key] for key, field in plain.items() if key in values}
    if "components" in values:
        given["components"] = weights.read_components(values["components"], members["components"])
    for key, make in _MAKERS.items():
        if key in values:
            given[_FIELDS.get(key, key)] = make(values[key])
    cases = values.get("cases", {})
    if "device" in cases:
        given["devices"] = tuple(map(Device, cases["device"]))
    if "dtype" in cases:
        given["dtypes"] = tuple(map(Dtype, cases["dtype"]))
    if "expect" not in values and given.get("generator", Generator.CPU).must_vary:
        given["expect"] = (Expectation.VARIES,)
    return Scenario(**given)


def _component_dtypes(value: Mapping[str, str]) -> dict[str, Dtype]:
    return {component: Dtype(dtype) for component, dtype in value.items()}


def _expectations(value: list[str]) -> tuple[Expectation, ...]:
    return tuple(map(Expectation, value))


def _reference(value: Mapping[str, str]) -> Reference:
    target = Target(Device(value["device"]), Dtype(value["dtype"]))
    return Reference(target, value.get("scenario", ""))


def _published(value: Mapping[str, Values]) -> dict[str, PublishedValue]:
    return {output: _published_value(facts) for output, facts in value.items()}


def _published_value(facts: Values) -> PublishedValue:
    device = Device(facts["on"]) if "on" in facts else None
    return PublishedValue(facts["abs_sum"], facts["within"], facts["source"], device)


def _cost(value: Values) -> CostBounds:
    return CostBounds(**value)


def _node(value: Values) -> NodeNeeds:
    labels, resources = value.get("labels", {}), value.get("resources", {})
    return NodeNeeds(
        value.get("accelerator", ""),
        tuple(sorted(labels.items())),
        tuple(sorted(resources.items())),
    )


_FIELDS = {
    "backend": "framework",
    "seed": "seeds",
    "component-dtype": "component_dtypes",
    "tolerance": "tolerances",
}
_MAKERS: Mapping[str, Any] = {
    "backend": Framework,
    "seed": tuple,
    "generator": Generator,
    "enable": tuple,
    "component-dtype": _component_dtypes,
    "determinism": Determinism,
    "profile": Profile,
    "expect": _expectations,
    "reference": _reference,
    "tolerance": Tolerances.from_yaml,
    "published": _published,
    "cost": _cost,
    "node": _node,
    "timeout": float,
    "compositions": int,
    "tags": tuple,
}


def _check_source(values: Values, members: Members, place: Place) -> None:
    """Check that the file names a pipeline with a checkpoint, or else what builds it."""
    if "build" not in values:
        for key in ("pipeline", "checkpoint"):
            if key not in values:
                raise place.wrong(f"the key `{key}`", "no such key")
        return
    for key in BESIDE_BUILD:
        if key in members:
            expected = "`build` alone, which returns the whole pipeline"
            raise members[key].wrong(expected, f"`{key}` beside `build`")


def _check_names(values: Values, members: Members) -> None:
    """Check the names of the pipeline and of the scheduler.

    Each is one that the installed diffusers has, where it is there, or code of the project.
    """
    pairs = []
    if "pipeline" in values and values.get("backend") != Framework.HTTP:
        pairs.append(("pipeline", values["pipeline"], members["pipeline"]))
    if "class" in values.get("scheduler", {}):
        place = members["scheduler"].members()["class"][1]
        pairs.append(("scheduler", values["scheduler"]["class"], place))
    for what, name, place in pairs:
        if project.is_code(str(name)):
            project.check_trusted(str(name), place)
            continue
        known = diffusers_names(what.capitalize())
        if known and str(name) not in known:
            raise place.wrong(
                f"a {what} class of diffusers", f"`{name}`", nearest(str(name), known)
            )


def _check_framework(scenario: Scenario, members: Members, place: Place) -> None:
    framework = scenario.framework
    if framework is Framework.MINDSPORE and scenario.generator is not Generator.NUMPY:
        expected = (
            "`generator: numpy` beside `backend: mindspore`, whose pipelines draw from nothing else"
        )
        raise members.get("generator", place).wrong(expected, f"`{scenario.generator}`")
    for key in TORCH_ONLY:
        if framework is not Framework.TORCH and key in members:
            expected = f"`{key}` with `backend: torch` alone"
            raise members[key].wrong(expected, f"`{key}` beside `backend: {framework}`")
    _check_endpoint(scenario, members, place)
    offered = DEVICES_OF[framework]
    if not set(scenario.devices) <= set(offered):
        wrong = members["cases"].members()["device"][1]
        raise wrong.wrong(f"devices of {framework}: {_listed(offered)}", _listed(scenario.devices))


def _check_endpoint(scenario: Scenario, members: Members, place: Place) -> None:
    """Refuse a served engine without an address, and keys that nothing outside it could honour."""
    is_served = scenario.framework is Framework.HTTP
    if is_served != (scenario.checkpoint.kind is weights.CheckpointKind.ENDPOINT):
        expected = "`backend: http` and `checkpoint: {endpoint: VARIABLE}` together"
        raise members.get("checkpoint", place).wrong(expected, "only one of them")
    if not is_served:
        return
    if scenario.pipeline != ENDPOINT_CALL:
        raise members["pipeline"].wrong(f"`{ENDPOINT_CALL}`", f"`{scenario.pipeline}`")
    if scenario.generator not in (Generator.CPU, Generator.NONE):
        expected = "`generator: cpu`, whose seed is sent, or `generator: none`"
        raise members["generator"].wrong(expected, f"`{scenario.generator}`")
    for key in INSIDE_PIPELINES:
        if key in members:
            expected = "no such key with `backend: http`, which cannot set it in the server"
            raise members[key].wrong(expected, f"`{key}`")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _check_call(members: Members) -> None:
    before = members["before"].members() if "before" in members else {}
    for arguments in (members["call"], *(place for _, place in before.values())):
        call = arguments.members()
        for key in FROM_SEEDS:
            if key in call:
                hint = "noise is set by `generator` and `seed`"
                raise call[key][0].wrong("call arguments without it", f"`{key}`", hint)


def _check_expectations(scenario: Scenario, members: Members, place: Place) -> None:
    generator, seeds, expect = scenario.generator, scenario.seeds, scenario.expect
    if generator is Generator.SHARED and len(set(seeds)) > 1:
        expected = "one seed, repeated once per image, because `generator: shared` is one generator"
        raise members["seed"].wrong(expected, str(list(seeds)))
    if (Expectation.VARIES in expect) != generator.must_vary:
        fitting = "`varies`" if generator.must_vary else "anything but `varies`"
        expected = f"{fitting} with `generator: {generator}`"
        raise members["expect"].wrong(expected, _listed(expect))
    for one, other in CONTRADICTIONS:
        if one in expect and other in expect:
            raise members["expect"].wrong(f"`{one}` or `{other}`", "both")
    if Expectation.BATCH_EQUALS_SINGLE in expect:
        if len(seeds) < 2:
            expected = "a list of seeds, one per image, for `batch-equals-single`"
            raise members["expect"].wrong(expected, f"seed: {list(seeds)}")
        if scenario.tolerances.batch is None:
            expected = "`tolerance.batch` for `batch-equals-single`"
            raise members.get("tolerance", place).wrong(expected, "no such key")


def _check_compositions(scenario: Scenario, members: Members) -> None:
    """Refuse `batch-invariant` where images of the batch cannot be chosen one by one.

    An image is the same image in another batch only where it has a generator of its own.
    """
    if Expectation.BATCH_INVARIANT not in scenario.expect:
        if "compositions" in members:
            expected = "`compositions` beside `expect: batch-invariant`, whose search it bounds"
            raise members["compositions"].wrong(expected, "no such expectation")
        return
    expect, seeds = members["expect"], scenario.seeds
    if scenario.framework is Framework.HTTP:
        expected = "another backend than `http`, which sends one request for each image"
        raise expect.wrong(f"for `batch-invariant` {expected}", "`backend: http`")
    if len(seeds) < 2:
        expected = "a list of seeds, one per image, for `batch-invariant`"
        hint = "without one, all images draw from one generator, and an image alone draws otherwise"
        raise expect.wrong(expected, f"seed: {list(seeds)}", hint)
    if scenario.generator is Generator.SHARED:
        expected = "a generator for each image, for `batch-invariant`"
        raise members["generator"].wrong(expected, f"`{scenario.generator}`")
    batch = [
        key
        for key, value in scenario.call.items()
        if is_count(key, value, len(seeds)) or is_per_image(value, key, len(seeds))
    ]
    if not batch:
        expected = f"a list with one value for each of the {len(seeds)} seeds, or a count of them"
        hint = "such as a list of prompts, or `num_images_per_prompt`"
        raise members["call"].wrong(f"{expected}, for `batch-invariant`", "neither", hint)


def _check_evidence(tolerances: Tolerances, members: Members) -> None:
    """Refuse a bound that is much looser than what was measured, unless a person says why."""
    for key, bound, measured in tolerances.too_loose():
        expected = f"at most {LOOSE} times the measured {measured:g}, or a `reason` beside it"
        raise _place_of(key, members["tolerance"]).wrong(expected, f"{bound:g}")


def _place_of(key: BoundKey, tolerance: Place) -> Place:
    """Return where a bound stands in the file."""
    place = tolerance.members()[str(key.kind)][1].members()[str(key.metric)][1]
    return place.members()[key.pattern][1] if key.pattern else place
