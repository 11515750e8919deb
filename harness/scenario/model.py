"""Scenarios and cases as values: what one YAML file asks for, and the unit that runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard, cast

from harness.records import ContractKind, Device, Dtype, Facts, Target, case_key
from harness.scenario.fields import (
    Determinism,
    Expectation,
    Framework,
    Generator,
    Profile,
)
from harness.scenario.project import Project
from harness.scenario.tolerance import (
    EXACT,
    NO_DIFFERENCE,
    NO_WORSE,
    Kind,
    Tolerance,
    Tolerances,
)
from harness.scenario.weights import Adapter, AdapterKind, Checkpoint, Component
from harness.worker.protocol import (
    CaseExtras,
    CaseRequest,
    DetailRequest,
    EmulationRequest,
    ExecutionsRequest,
    SlotRequest,
)

# Arguments of a call that count images; a run of one image alone sets them to one.
COUNTS = (
    "batch_size",
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "num_waveforms_per_prompt",
)
# Executions that choose kernels for a function and leave the function as it is.
ONLY_HOW_IT_IS_COMPUTED = ("attention", "compile", "fuse_qkv", "onnx")
SCHEDULES = ("timesteps", "sigmas")  # lists with one value per step, never one per image
# How many compositions of a batch `batch-invariant` tries, where the scenario does not say.
MOST_COMPOSITIONS = 16
# How often a case runs whose seconds are held against those of a variant: a first run, which warms
# up, and three that are timed.
COMPARED_ROUNDS = 4


@dataclass(frozen=True)
class Reference:
    """The case whose reference baseline judges cases that have none of their own.

    `scenario` is empty where it is the same scenario, `variant` where it is no variant.
    """

    target: Target
    scenario: str = ""
    variant: str = ""

    @property
    def key(self) -> str:
        """What tells the case from the others of its scenario."""
        return case_key(self.target, self.variant)

    def __str__(self) -> str:
        return f"{self.scenario}[{self.key}]" if self.scenario else self.key


@dataclass(frozen=True)
class PublishedValue:
    """The abs-sum of an output that a paper or a guide states.

    `device` is None where it holds on every device.
    """

    abs_sum: float
    within: float
    source: str
    device: Device | None = None


@dataclass(frozen=True)
class CostBounds:
    """When a change of run time counts, and how often a case is timed.

    `slower` is a ratio, None where the scenario bounds no cost. `rounds` counts runs, the first of
    which warms up and is instrumented.
    """

    slower: float | None = None
    at_least_seconds: float = 0.0
    rounds: int | None = None

    @property
    def runs(self) -> int:
        """How often the case runs: at least twice where its cost is bounded."""
        return max(self.rounds or 1, 1 if self.slower is None else 2)

    def compared(self) -> CostBounds:
        """Return the bounds of a case whose seconds are compared with those of another case.

        Where the scenario does not say how often it is timed, it is `COMPARED_ROUNDS`.
        """
        return self if self.rounds is not None else replace(self, rounds=COMPARED_ROUNDS)


@dataclass(frozen=True)
class NodeNeeds:
    """What a scenario asks of the node of a fleet that runs it; this machine is taken as it is.

    Attributes:
        accelerator: The fleet's name of an accelerator type, such as `H100`; empty for any.
        labels: Labels that the node must have, with their values.
        resources: Resources of the fleet's own, with the amount of each that a worker takes.
    """

    accelerator: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    resources: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Contract:
    """What a variant owes another execution of the same scenario, in the same run.

    Attributes:
        kind: The same bits, a bounded drift, or an accuracy that is no worse.
        against: The execution that it is held against: the base, or another variant.
        tolerance: The bounds, where the kind is `TOLERANCE`.
        images: For each image of the variant's batch, which image of the other batch it must be;
            empty where both batches are compared as a whole.
    """

    kind: ContractKind
    against: Scenario
    tolerance: Tolerance = NO_DIFFERENCE
    images: tuple[int, ...] = ()

    @property
    def terms(self) -> str:
        """What is owed, in one line: an outcome states it, and a gate compares it."""
        bounds = self.tolerance.by_key(Kind.CROSS_CLASS)
        words = {
            ContractKind.IDENTICAL: EXACT,
            ContractKind.NO_WORSE: NO_WORSE,
            ContractKind.TOLERANCE: ", ".join(f"{key} <= {bounds[key]!r}" for key in bounds),
        }
        owed = words[self.kind]
        return f"{owed} for images {list(self.images)}" if self.images else owed


@dataclass(frozen=True)
class Scenario:
    """One YAML file, read and checked; `name` is the stem of its file.

    Where the file has variants, or arguments of the call that vary, the scenario itself stands for
    the file, and `expanded` is what runs: the scenario without any change first, then each
    variant. `variant` names one of them, and `contract` is what it owes another one.

    `test` is the id of the pytest test that holds the pipeline or array, for which there is no
    YAML file; empty for every scenario that has one.
    """

    path: Path
    name: str
    description: str
    pipeline: str
    checkpoint: Checkpoint
    call: Facts
    framework: Framework = Framework.TORCH
    before: Mapping[str, Facts] = field(default_factory=dict)
    components: Mapping[str, tuple[Component, ...]] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()
    lora_then: tuple[str, ...] = ()
    scheduler: Facts | None = None
    seeds: tuple[int, ...] = (0,)
    generator: Generator = Generator.CPU
    devices: tuple[Device, ...] = (Device.CPU,)
    dtypes: tuple[Dtype, ...] = (Dtype.FLOAT32,)
    enable: tuple[str, ...] = ()
    attention: str | None = None
    executions: ExecutionsRequest = field(default_factory=ExecutionsRequest)
    component_dtypes: Mapping[str, Dtype] = field(default_factory=dict)
    determinism: Determinism = Determinism.FULL
    profile: Profile = Profile.NATIVE
    expect: tuple[Expectation, ...] = (Expectation.REPEATABLE,)
    compositions: int = MOST_COMPOSITIONS
    reference: Reference | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)
    published: Mapping[str, PublishedValue] = field(default_factory=dict)
    cost: CostBounds = CostBounds()
    keep_every: int = 1
    timeout: float = 3600.0
    tags: tuple[str, ...] = ()
    node: NodeNeeds = NodeNeeds()
    project: Project | None = None
    variant: str = ""
    contract: Contract | None = None
    expanded: tuple[Scenario, ...] = ()
    test: str = ""

    @property
    def decides(self) -> dict[str, object]:
        """Everything that decides the numbers, by the keys of the YAML.

        Keys that came with a later version stand here only where they are set, so that the
        fingerprints of scenarios without them stay as they were.
        """
        found: dict[str, object] = {
            "pipeline": self.pipeline,
            "checkpoint": self.checkpoint.identity,
            "scheduler": self.scheduler,
            "call": self.call,
            "seed": list(self.seeds),
            "generator": self.generator,
            "enable": list(self.enable),
            "determinism": self.determinism,
        }
        if self.before:
            found["before"] = [[method, arguments] for method, arguments in self.before.items()]
        if self.attention:
            found["attention"] = self.attention
        if self.component_dtypes:
            found["component-dtype"] = dict(self.component_dtypes)
        if self.components:
            found["components"] = {
                name: [part.identity for part in parts] for name, parts in self.components.items()
            }
        for kind in AdapterKind:
            of_kind = [adapter.identity for adapter in self.adapters if adapter.kind is kind]
            if of_kind:
                found[kind] = of_kind
        if self.lora_then:
            found["lora-then"] = list(self.lora_then)
        if self.executions:
            found["executions"] = dict(self.executions)
        if self.checkpoint.is_held:
            found["test"] = self.test
        return found

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides the numbers; 16 hexadecimal digits.

        A baseline of another fingerprint is `stale`.
        """
        return _short_digest(list(self.decides.values()))

    @property
    def terms(self) -> str:
        """Digest of what the outputs are held to; 16 hexadecimal digits.

        That is every expectation, bound, published value and contract. No baseline depends on it,
        but a verdict does: a gate tells by it that bounds were edited after a run.
        """
        tolerances, cost, contract = self.tolerances, self.cost, self.contract
        bounds = (tolerances.cross_class, tolerances.batch)
        held_to: list[object] = [
            list(self.expect),
            [None if each is None else each.as_yaml() for each in bounds],
            {
                name: [each.abs_sum, each.within, each.device]
                for name, each in self.published.items()
            },
            [cost.slower, cost.at_least_seconds],
            "" if contract is None else contract.terms,
        ]
        if Expectation.BATCH_INVARIANT in self.expect:
            held_to.append(self.compositions)
        return _short_digest(held_to)

    @property
    def evidence_digest(self) -> str:
        """Digest of the evidence that the bounds rest on; empty where there is none."""
        evidence = self.tolerances.evidence
        return "" if evidence is None else _short_digest(evidence.as_yaml())

    @property
    def needs_baseline(self) -> bool:
        """Whether the outputs can be held against stored ones at all."""
        return Expectation.VARIES not in self.expect

    @property
    def single_images(self) -> range:
        """The images of a batch that must also be made alone, by their index."""
        wanted = Expectation.BATCH_EQUALS_SINGLE in self.expect
        return range(len(self.seeds) if wanted else 0)

    def cases(self) -> list[Case]:
        """Return each execution of the scenario on each of its devices with each of its dtypes."""
        if self.expanded:
            return [case for each in self.expanded for case in each.cases()]
        targets = [Target(device, dtype) for device in self.devices for dtype in self.dtypes]
        return [Case(self, target) for target in targets]

    def with_profile(self, profile: Profile) -> Scenario:
        """Return the scenario, and all that it expands to, with other CPU instructions."""
        contract = self.contract
        if contract is not None:
            contract = replace(contract, against=contract.against.with_profile(profile))
        expanded = tuple(each.with_profile(profile) for each in self.expanded)
        return replace(self, profile=profile, contract=contract, expanded=expanded)


@dataclass(frozen=True)
class Case:
    """A scenario on one target: the unit that runs.

    Attributes:
        scenario: What to run.
        target: The device and the dtype.
        settings: Environment variables that the worker starts with; None takes one away.
        images: The images of the scenario's batch that are made, by their indices and in this
            order, which may repeat one; empty for the batch as it stands.
        teacher_tensors: The tensor file of a baseline, which is fed to every stage in place of what
            came before it: a teacher-forced run.
        perturbation: Seeds a perturbation by one unit in the last place, of the teacher's tensors
            or else of the initial noise.
        fault: Is injected into the pipeline.
        detail: Asks to see the inside of one stage, after which the run ends.
        slot: Asks that of every tensor only one image of the batch counts.
        env: Package versions of the worker's environment in place of the installed ones, such as
            `diffusers==0.30.3`.
        emulation: Lets chosen stages compute as an emulation of a GPU's arithmetic says.
    """

    scenario: Scenario
    target: Target
    settings: tuple[tuple[str, str | None], ...] = ()
    images: tuple[int, ...] = ()
    teacher_tensors: Path | None = None
    perturbation: int | None = None
    fault: Facts | None = None
    detail: DetailRequest | None = None
    slot: SlotRequest | None = None
    env: tuple[str, ...] = ()
    emulation: EmulationRequest | None = None

    @property
    def id(self) -> str:
        """`ddim-digits[cpu-float32]` or `sd[cpu-float32,compiled]`, as pytest writes it."""
        return f"{self.scenario.name}[{self.key}]"

    @property
    def key(self) -> str:
        """What tells it from the other cases of its scenario: the target, then the variant."""
        return case_key(self.target, self.scenario.variant)

    @property
    def against(self) -> Case | None:
        """The case that its contract holds it against; None without a contract."""
        contract = self.scenario.contract
        return None if contract is None else replace(self, scenario=contract.against)

    @property
    def is_variation(self) -> bool:
        """Whether a study made it of another case, so that nobody asks what it costs."""
        changes = (
            self.teacher_tensors,
            self.perturbation,
            self.fault,
            self.detail,
            self.emulation,
        )
        return bool(self.images) or any(change is not None for change in changes)

    @property
    def _may_call_twice(self) -> bool:
        """Whether a run may call the pipeline twice; a fault may show in the second call."""
        return not replace(self, fault=None).is_variation

    def evaluated(self, teacher_tensors: Path, form: str) -> Case:
        """Return the case whose stages are evaluated in float64 from a baseline's tensors.

        It has no fault, and nothing that only chooses how the same function is computed: kernels
        of attention, compilation, fused projections.

        Args:
            teacher_tensors: The tensor file of the baseline.
            form: `exact`, or `moved` to show the evaluation's own error.
        """
        asked = {
            name: value
            for name, value in self.scenario.executions.items()
            if name not in ONLY_HOW_IT_IS_COMPUTED
        }
        enable = tuple(name for name in self.scenario.enable if name != "compile")
        scenario = replace(
            self.scenario,
            attention=None,
            enable=enable,
            executions=cast("ExecutionsRequest", asked),
        )
        detail: DetailRequest = {"stage": "", "to_end": True, "evaluation": form}
        return replace(
            self, scenario=scenario, teacher_tensors=teacher_tensors, fault=None, detail=detail
        )

    def request(self) -> CaseRequest:
        """Return the case as the worker reads it."""
        scenario = self.scenario
        call, seeds = scenario.call, list(scenario.seeds)
        if self.images:
            call = composed_call(call, len(seeds), self.images)
            seeds = [seeds[image] for image in self.images]
        return {
            "id": self.id,
            "framework": scenario.framework,
            "pipeline": scenario.pipeline,
            "checkpoint": scenario.checkpoint.request(),
            "scheduler": None if scenario.scheduler is None else dict(scenario.scheduler),
            "call": dict(call),
            "inputs_folder": str(scenario.path.parent.resolve()),
            "seeds": seeds,
            "generator": scenario.generator,
            "component_dtypes": {name: str(d) for name, d in scenario.component_dtypes.items()},
            "attention": scenario.attention,
            "enable": list(scenario.enable),
            "device": self.target.device,
            "dtype": self.target.dtype,
            "determinism": scenario.determinism,
            "rounds": 0 if self.is_variation else scenario.cost.runs,
            "reuse": Expectation.STATELESS in scenario.expect and self._may_call_twice,
            "keep_every": scenario.keep_every,
            "teacher_tensors": str(self.teacher_tensors) if self.teacher_tensors else None,
            "perturbation": self.perturbation,
            "fault": None if self.fault is None else dict(self.fault),
            "detail": self.detail,
            **self._extras(),
        }

    def _extras(self) -> CaseExtras:
        """Return the keys of the request that stand there only where they ask for something."""
        scenario = self.scenario
        request: CaseExtras = {}
        if self.env:
            request["env"] = list(self.env)
        if self.slot is not None:
            request["slot"] = self.slot
        if scenario.executions:
            request["executions"] = scenario.executions
        if scenario.components:
            request["components"] = {
                name: [part.request() for part in parts]
                for name, parts in scenario.components.items()
            }
        if scenario.before:
            request["before"] = {name: dict(each) for name, each in scenario.before.items()}
        if scenario.adapters:
            request["adapters"] = [adapter.request() for adapter in scenario.adapters]
        if scenario.lora_then:
            request["lora_then"] = list(scenario.lora_then)
        if scenario.project is not None and scenario.project.trust:
            root, packages = str(scenario.project.root), list(scenario.project.trust)
            request["trust"] = {"root": root, "packages": packages}
        if self.emulation is not None:
            request["emulation"] = self.emulation
        return request


def _short_digest(content: object) -> str:
    """Return the digest of JSON values; 16 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def composed_call(call: Facts, images: int, chosen: Sequence[int]) -> Facts:
    """Return the call that makes some images of a batch of `images`, in the order `chosen`.

    Lists with one value per image give those of the chosen ones, and counts of images count them.
    """
    composed: dict[str, object] = {}
    for key, value in call.items():
        if is_count(key, value, images):
            composed[key] = len(chosen)
        elif is_per_image(value, key, images):
            composed[key] = [value[image] for image in chosen]
        else:
            composed[key] = value
    return composed


def is_count(key: str, value: object, images: int) -> bool:
    """Whether an argument of a call counts the images of the whole batch."""
    return key in COUNTS and value == images


def is_per_image(value: object, key: str, images: int) -> TypeGuard[list[object]]:
    """Whether an argument of a call holds one value for each image of the batch."""
    return isinstance(value, list) and len(value) == images and key not in SCHEDULES
