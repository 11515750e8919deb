"""Cases of objects that a test or a notebook holds in its own process: pipelines and arrays.

No file describes such a case. Its name, its call and its tolerance come from the code that holds
the object, and everything else is as in a scenario that says nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast

from harness.errors import UsageError
from harness.records import Device, Dtype, Facts, Target
from harness.scenario.fields import Determinism, Expectation, Generator
from harness.scenario.model import Case, CostBounds, Scenario
from harness.scenario.project import project_at
from harness.scenario.reading import NAME
from harness.scenario.tolerance import FREE_METRICS, LOCAL_METRICS, Tolerance, Tolerances
from harness.scenario.weights import Checkpoint, CheckpointKind

LONGEST_NAME = 150  # a file system takes 255 bytes, and a run's folders add to a name
GENERATOR = "generator"
VALUE = "value"  # the name by which a case refers to its pipeline or array
ONE_RUN = CostBounds(rounds=1)
BOUNDS = ", ".join((*FREE_METRICS, *LOCAL_METRICS))

Bounds = Mapping[str, float | Mapping[str, float]]


@dataclass(frozen=True)
class GivenSpec:
    """What the code that holds an object says of it.

    Attributes:
        name: What its baseline is called.
        path: The file of that code.
        bounds: The cross-class tolerance by metric; without any, every class owes the same bits.
        test: The id of the pytest test that holds it; empty for any other code.
    """

    name: str
    path: Path
    bounds: Bounds = field(default_factory=dict)
    test: str = ""


@dataclass(frozen=True)
class Given:
    """A case, and the objects that it refers to by name."""

    case: Case
    objects: Mapping[str, object]


class _TorchGenerator(Protocol):
    """What is used of `torch.Generator`."""

    device: object

    def initial_seed(self) -> int: ...

    def get_state(self) -> object: ...


def of_array(value: object, spec: GivenSpec) -> Given:
    """Return the case of an array, a tensor or an image.

    Args:
        value: A numpy array, a tensor of torch, an image of Pillow, or a list or mapping of these.
        spec: What is said of it; its bounds are `l_inf` and `rel_l2`.

    Raises:
        UsageError: The name or the bounds cannot be used.
    """
    tolerance = _tolerance(spec.bounds)
    local = [str(metric) for metric in tolerance.metrics if metric not in FREE_METRICS]
    if local:
        raise UsageError(f"an array has no stages, so that {local[0]} bounds nothing")
    scenario = _scenario(spec, CheckpointKind.ARRAY, {}, tolerance)
    scenario = replace(scenario, expect=(), determinism=Determinism.DEFAULT)
    return Given(Case(scenario, _target_of(value)), {VALUE: value})


def of_pipeline(
    pipeline: object,
    call: Mapping[str, object],
    spec: GivenSpec,
    seed: int | Sequence[int] = 0,
    determinism: Determinism = Determinism.FULL,
) -> Given:
    """Return the case of a pipeline that is called with some arguments.

    Args:
        pipeline: A pipeline of diffusers, on its device.
        call: The arguments. A `generator` must be a fresh one of torch, or a list of such: its seed
            is used, and every run gets a new one.
        spec: What is said of it; its bounds may be `local_l_inf` and `local_rel_l2` too.
        seed: Of the generators, where `call` has none; one for each image of a batch.
        determinism: Whether deterministic mode is on while it runs.

    Raises:
        UsageError: The name, the bounds or an argument cannot be used.
    """
    seeds: tuple[int, ...] = (seed,) if isinstance(seed, int) else tuple(seed)
    kind = Generator.CPU
    arguments = dict(call)
    generators = arguments.pop(GENERATOR, None)
    if generators is not None:
        seeds, kind = _seeds_of(generators)
    facts, objects = _split(arguments)
    scenario = _scenario(spec, CheckpointKind.GIVEN, facts, _tolerance(spec.bounds))
    scenario = replace(
        scenario,
        pipeline=type(pipeline).__name__,
        seeds=seeds,
        generator=kind,
        determinism=determinism,
        expect=(Expectation.REPEATABLE,),
    )
    return Given(Case(scenario, _target_of(pipeline)), {**objects, VALUE: pipeline})


def _scenario(spec: GivenSpec, kind: CheckpointKind, call: Facts, tolerance: Tolerance) -> Scenario:
    name = spec.name
    if NAME.fullmatch(name) is None or len(name) > LONGEST_NAME:
        raise UsageError(
            f"a baseline cannot be called {name[:60]!r}: expected letters, digits, `_`, `.`, `+` "
            f"and `-`, of which at most {LONGEST_NAME}"
        )
    folder = spec.path.parent if spec.path.suffix else spec.path
    return Scenario(
        path=spec.path,
        project=project_at(folder.resolve()),
        name=name,
        test=spec.test,
        description="",
        pipeline="",
        checkpoint=Checkpoint(kind, VALUE),
        call=call,
        tolerances=Tolerances(cross_class=tolerance if tolerance.metrics else None),
        cost=ONE_RUN,
    )


def _tolerance(bounds: Bounds) -> Tolerance:
    try:
        found = Tolerance.from_yaml(bounds)
    except ValueError:
        raise UsageError(f"expected bounds among {BOUNDS}, found {', '.join(bounds)}") from None
    numbers = [*found.free.values()]
    numbers += [bound for by_stage in found.local.values() for bound in by_stage.values()]
    if found.metrics - {*FREE_METRICS, *LOCAL_METRICS}:
        raise UsageError(f"expected bounds among {BOUNDS}, found {', '.join(bounds)}")
    if not all(number >= 0 for number in numbers):  # NaN is not
        raise UsageError(f"expected bounds >= 0, found {dict(bounds)}")
    return found


def _target_of(value: object) -> Target:
    """Return the device and dtype of a pipeline or array; a CPU and float32 where it has none."""
    device = getattr(value, "device", "cpu")
    kind = str(getattr(device, "type", device))
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if kind not in tuple(Device):
        raise UsageError(f"expected an object on cpu or cuda, found one on {kind}")
    return Target(Device(kind), Dtype(dtype) if dtype in tuple(Dtype) else Dtype.FLOAT32)


def _seeds_of(generators: object) -> tuple[tuple[int, ...], Generator]:
    """Return the seeds of fresh generators, and where they draw.

    Raises:
        UsageError: One has been drawn from, is none of torch, or they are on several devices.
    """
    given = generators if isinstance(generators, list | tuple) else [generators]
    if not given or not all(hasattr(one, "initial_seed") for one in given):
        raise UsageError("expected `generator` to be a torch.Generator or a list of them")
    found = [cast("_TorchGenerator", one) for one in given]
    if any(_is_used(one) for one in found):
        raise UsageError(
            "`generator` was drawn from before; give a fresh one, such as "
            "torch.Generator().manual_seed(0)"
        )
    places = {str(getattr(one.device, "type", one.device)) for one in found}
    if len(places) > 1:
        raise UsageError("expected the generators of one call on one device")
    kind = Generator.CPU if places == {"cpu"} else Generator.DEVICE
    return tuple(one.initial_seed() for one in found), kind


def _is_used(generator: _TorchGenerator) -> bool:
    """Whether a generator's state is another one than right after its seed was set."""
    made = type(generator)(generator.device)  # type: ignore[call-arg]
    fresh = made.manual_seed(generator.initial_seed())  # type: ignore[attr-defined]
    return bool((fresh.get_state() != generator.get_state()).any())


def _split(call: Mapping[str, object]) -> tuple[Facts, Mapping[str, object]]:
    """Divide a call into values of JSON and objects, to which references stand in the former."""
    facts: dict[str, object] = {}
    objects: dict[str, object] = {}
    for name, value in call.items():
        if _is_json(value):
            facts[name] = value
        else:
            objects[name] = value
            facts[name] = {"given": name}
    return facts, objects


def _is_json(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float | bool)
