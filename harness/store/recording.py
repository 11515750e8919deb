"""What a run left, as attributes: the reader of recordings, and the parts shared with baselines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from harness.errors import FileError
from harness.records import CostFigures, Effect, Stage
from harness.store.safetensors import digest_file, open_tensors, read_header, tensor_bytes
from harness.store.sealed import SealedFormat
from harness.store.typed_json import NOT_IN_JSON, MalformedError, decode, parse_json
from harness.worker.protocol import (
    MODULE,
    NOISE,
    OPERATOR,
    OUTPUT,
    RECORDING_FILE,
    RECORDING_FORMAT,
    STAGE,
    TENSORS_FILE,
)

if TYPE_CHECKING:
    from harness.records import Array

T = TypeVar("T")
AGAIN = "run the case again"  # what to do about a damaged recording
TENSOR_NAMES = (  # what a recording may hold; see `worker.protocol`
    rf"{OUTPUT}.+",
    rf"{NOISE}[0-9]{{1,9}}",
    rf"{STAGE}[^#/]+#[0-9]{{1,9}}/.*",
    rf"{MODULE}[^#/]+#[0-9]{{1,9}}/.+",
    rf"{OPERATOR}[0-9]{{1,9}}/.*",
)
TENSOR_NAME = re.compile("|".join(TENSOR_NAMES), re.DOTALL)


def _kind_of(name: str) -> str:
    """Return which kind of stage a tensor of a recording is of: `noise`, `text_encoder`, `output`.

    `name` is the tensor's name in the file.
    """
    if name.startswith(STAGE):
        return name.removeprefix(STAGE).partition("#")[0]
    return name.partition("/")[0]


@dataclass(frozen=True)
class NumericsClass:
    """A numerics class: its readable name, its hash, and each operator's digest by name."""

    name: str
    hash: str
    operators: dict[str, str]


@dataclass(frozen=True)
class Environment:
    """Where a case ran: versions, hardware, flags in effect, variables, and the numerics class.

    `unobserved` names what that release of the libraries does not show, such as `noise`. `own_code`
    has the digest of each source file of the project's packages, by package and path, where code of
    the project took part.
    """

    numerics_class: NumericsClass
    framework: str
    device_kind: str
    versions: dict[str, str]
    hardware: dict[str, object]
    flags: dict[str, object]
    variables: dict[str, str]
    unobserved: tuple[str, ...] = ()
    own_code: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def gpu(self) -> dict[str, object]:
        """The facts of the GPU by name; empty on a CPU."""
        found = self.hardware.get("gpu", {})
        return dict(found) if isinstance(found, dict) else {}

    @property
    def machine_type(self) -> str:
        """What makes two machines comparable in speed.

        That is the GPU, the CPU, the cores in use, and a framework other than torch.
        """
        machine = f"{self.hardware.get('cpu', '')} x{self.hardware.get('cores', '')}"
        gpu = str(self.gpu.get("name", ""))
        framework = "" if self.framework == "torch" else self.framework
        return " ".join(part for part in (gpu, machine, framework) if part)


@dataclass(frozen=True)
class TensorFacts:
    """What a recording says of a tensor; statistics are None where it is not finite."""

    shape: tuple[int, ...]
    dtype: str
    digest: str
    finite: bool
    abs_sum: float | None
    l2: float | None
    min: float | None
    max: float | None

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class ObservedStage:
    """One observed call: its name such as `unet#7`, and digests of both sides by key."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def stage(self) -> Stage:
        """The stage that the name means."""
        return Stage.parse(self.name)

    def __post_init__(self) -> None:
        """Refuse a name that is no stage's, by ValueError."""
        Stage.parse(self.name)


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module inside a stage: its path and call, its type, digests of both sides."""

    module: str
    type: str
    inputs: str
    outputs: str


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator inside a module; `source` is the file and line that called it.

    `arguments` are what it was called with, where that was asked for: `worker.observe.arguments`
    explains them.
    """

    operator: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    shapes: tuple[str, ...]
    source: str
    arguments: dict[str, object] | None = None


@dataclass(frozen=True)
class ClampLimits:
    """The smallest and the largest number that a clamp lets through, in the tensor's own unit."""

    low: float
    high: float


@dataclass(frozen=True)
class TracedLine:
    """A statement that made a value: its file from the package on, its lines and its text.

    `after` is the last stage, or the last module, that ended before. `values` has the digest of
    each value that was made, by the name of the variable; of a statement that called a `stage`,
    the digest of each input of it.
    """

    after: str
    file: str
    first: int
    last: int
    function: str
    text: str
    values: dict[str, str]
    stage: str = ""


@dataclass(frozen=True)
class ArgumentInput:
    """One input of the call, such as `image#0`: digests of what was decoded and of its file.

    `file` is empty where the input was made and no file was read.
    """

    name: str
    kind: str
    argument: str
    digest: str
    file: str


@dataclass(frozen=True)
class Inputs:
    """What a run started from, apart from noise.

    `weights` has one digest per component, and `configuration`; `schedulers` each scheduler's
    configuration; `tables` the digests of what each scheduler held before its first step and
    unchanged after it; `arguments` the inputs of the call in order.
    """

    weights: dict[str, str]
    commit: str | None
    schedulers: dict[str, dict[str, object]]
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    arguments: tuple[ArgumentInput, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """How the runs of one case compare; `l_inf` is None where it has no value.

    `instrumented_equals_plain` is None where no plain run was made, `reused_equals_fresh` where no
    second call of the same pipeline object was asked for.
    """

    runs: int
    distinct: int
    l_inf: float | None
    instrumented_equals_plain: bool | None
    reused_equals_fresh: bool | None = None


@dataclass(frozen=True)
class TensorsFile:
    """The tensor file beside a recording or baseline: its name and the digest of its bytes."""

    file: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What recordings and baselines have in common: all that the judge compares."""

    format: str
    environment: Environment
    inputs: Inputs
    noise: tuple[TensorFacts, ...]
    outputs: dict[str, TensorFacts]
    stages: tuple[ObservedStage, ...]
    cost: CostFigures
    tensors_file: TensorsFile
    digest: str
    tensors_path: Path = field(default=Path(), metadata=NOT_IN_JSON)

    @property
    def numerics_class(self) -> NumericsClass:
        """The numerics class that it was made in."""
        return self.environment.numerics_class

    @property
    def weights(self) -> dict[str, str]:
        """Digests of the checkpoint: each component's weights, and `configuration`."""
        return self.inputs.weights

    @property
    def output_digests(self) -> dict[str, str]:
        """The digest of every output by name."""
        return {name: output.digest for name, output in self.outputs.items()}

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """Every kept tensor by its name in the file; see `worker.protocol`.

        Raises:
            FileError: The file is missing, or its bytes are not those that were sealed.
        """
        self.verify_tensors()
        found = open_tensors(self.tensors_path)
        self._check_tensors(found)
        return found

    @property
    def output_tensors(self) -> dict[str, Array]:
        """The outputs by name."""
        return self._named(OUTPUT)

    @property
    def noise_tensors(self) -> list[Array]:
        """The draws of noise in order."""
        found = self._named(NOISE)
        return [found[index] for index in sorted(found, key=int)]

    @property
    def stage_tensors(self) -> dict[tuple[Stage, str], Array]:
        """Noise and the kept tensors of stages, by stage and key, in the order of the run."""
        noise = {(Stage("noise", i), ""): array for i, array in enumerate(self.noise_tensors)}
        order = {observed.name: index for index, observed in enumerate(self.stages)}
        kept: dict[tuple[Stage, str], Array] = {}
        found = [(*name.partition("/")[::2], array) for name, array in self._named(STAGE).items()]
        for stage, key, array in sorted(found, key=lambda each: (order.get(each[0], -1), each[1])):
            kept[Stage.parse(stage), key] = array
        return noise | kept

    @property
    def clamps(self) -> dict[str, ClampLimits]:
        """The limits of each clamp whose operand was kept, by the name of the step."""
        return self._decoded(dict[str, ClampLimits], self._metadata("clamps"))

    def bytes_by_stage(self) -> dict[str, int]:
        """Return how many bytes the kept tensors of each kind of stage take, the most first.

        The outputs count as `output`.
        """
        found: dict[str, int] = {}
        for name, size in tensor_bytes(self.tensors_path).items():
            kind = _kind_of(name)
            found[kind] = found.get(kind, 0) + size
        return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))

    def modules_inside(self, stage: Stage | str) -> list[ModuleCall]:
        """Return the calls of modules inside a stage, in the order in which they ended.

        The list is empty where the inside of that stage was not recorded.
        """
        found = self._metadata("modules").get(str(stage), [])
        return self._decoded(list[ModuleCall], found)

    def has_modules_inside(self, stage: Stage | str) -> bool:
        """Whether the inside of a stage was recorded."""
        return str(stage) in self._metadata("modules")

    def weight_digests(self, component: str) -> dict[str, str]:
        """Return a short digest of each tensor of a component's weights by name; may be empty."""
        return self._decoded(dict[str, str], self._metadata("weights").get(component, {}))

    def verify_tensors(self) -> None:
        """Check the tensor file against the digest that the sealed JSON states.

        Raises:
            FileError: The file is missing, or its bytes are not those that were sealed.
        """
        if digest_file(self.tensors_path) != self.tensors_file.digest:
            raise FileError(
                self.tensors_path,
                "is damaged: its bytes are not those that were recorded",
                AGAIN,
            )

    def _named(self, prefix: str) -> dict[str, Array]:
        found = self.tensors.items()
        return {name[len(prefix) :]: array for name, array in found if name.startswith(prefix)}

    def _check_tensors(self, found: Mapping[str, Array]) -> None:
        """Raise FileError where the tensor file does not hold what the JSON says that it holds.

        A seal is no signature: whoever changes both files can seal them anew.
        """
        for name, output in self.outputs.items():
            array = found.get(f"{OUTPUT}{name}")
            if array is None or array.shape != output.shape:
                raise self._damaged(f"has no output `{name}` of the shape {list(output.shape)}")
        for name in found:
            if not TENSOR_NAME.fullmatch(name):
                raise self._damaged(f"holds `{name[:60]}`, which no recording holds")

    def _metadata(self, name: str) -> dict[str, object]:
        text = read_header(self.tensors_path).metadata.get(name, "{}")
        content: object = None
        with suppress(MalformedError):
            content = parse_json(text) if isinstance(text, str) else None
        return self._decoded(dict[str, object], content)

    def _decoded(self, kind: type[T], content: object) -> T:
        """Return a part of the tensor file's metadata as `kind`."""
        try:
            return decode(kind, content)
        except MalformedError as error:
            raise self._damaged(f"has metadata that cannot be read: {error}") from error

    def _damaged(self, problem: str) -> FileError:
        return FileError(self.tensors_path, f"is damaged: it {problem}", AGAIN)


@dataclass(frozen=True, kw_only=True)
class Recording(Observed):
    """What one run of a case left: the folder that a worker wrote.

    `case` is the request that was run; `fault` the proof that an injected fault took effect;
    `effects` what was seen of each execution that the case asked for. `lower_precision` has the
    operators that an evaluation in float64 computed with less, by the kept tensor that they led
    to, such as `scheduler.step#0/sample`. `lines` are the statements that made values, where the
    case asked for them, and `edited_files` those of installed packages that are not as they were
    installed, as far as the process had loaded them.
    """

    case: dict[str, object]
    fault: str | None
    operators: tuple[OperatorCall, ...]
    repeat: Repeat
    lower_precision: dict[str, tuple[str, ...]] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    lines: tuple[TracedLine, ...] = ()
    edited_files: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the recording in `folder`.

        Raises:
            FileError: It is gone, damaged, or of another format.
        """
        sealed = SealedFormat(RECORDING_FORMAT, cls, "a recording", AGAIN)
        recording = sealed.read(folder / RECORDING_FILE)
        return replace(recording, tensors_path=folder / TENSORS_FILE)
