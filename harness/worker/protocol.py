"""The protocol between the two halves: every message and every file, as types.

The judge's half writes one request as one line of JSON to the worker's standard input. The worker
answers with one line of JSON per event; the last event of a request is one of `FINAL_EVENTS`. What
a case leaves is a folder: `RECORDING_FILE`, whose content is a `RecordingContent`, and
`TENSORS_FILE`. This module defines those types and nothing else that behaves, so that both halves
can import it.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, TextIO, TypedDict, Union

RECORDING_FORMAT = "harness-recording/2"
RECORDING_FILE = "recording.json"
TENSORS_FILE = "tensors.safetensors"

# The names under which `TENSORS_FILE` holds tensors, each followed by what is in its comment.
OUTPUT = "output/"  # the output's name
NOISE = "noise/"  # the index of the draw
STAGE = "stage/"  # the stage and the key of the tensor: `scheduler.step#3/sample`
CLAMPED = "clamped"  # the key of what went into the clamp that decides most of a scheduler's step
MODULE = "module/"  # the stage, the module with its call, and the key
OPERATOR = "operator/"  # the index of the operator and the key
ARGUMENT = "argument:"  # begins the key of an operator's argument

# The forms of an evaluation in float64: as it is, and with each operator's result moved by one unit
# in the last place, which shows the evaluation's own error.
EXACT, MOVED = EVALUATIONS = ("exact", "moved")

OWN_CODE = "#0"  # stands for a module's path and call: what a stage computes outside its modules

READY = "ready"
PROGRESS = "progress"
RECORDED = "recorded"
DESCRIBED = "described"
OUTLINED = "outlined"
CHECKED = "checked"
UNVERIFIED = "unverified"
FAILED = "failed"
FINAL_EVENTS = (RECORDED, DESCRIBED, OUTLINED, CHECKED, UNVERIFIED, FAILED)

# A value of JSON; recursive aliases are beyond the type checkers of Python 3.9.
Json = Union[None, bool, int, float, str, List[Any], Dict[str, Any]]


# Requests.


# Variables of the environment that libraries read, and that decide bits or cost.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_DYNAMIC",
    "NPY_DISABLE_CPU_FEATURES",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DISABLED",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTHONHASHSEED",
)


class CheckpointSource(TypedDict, total=False):
    """Where weights come from.

    `kind` is `bundled`, `synthetic`, `path`, `hub`, `endpoint` or `build`. A checkpoint of the Hub
    has `repository` and `revision`. A served one has as its `name` the environment variable that
    holds the server's address, and perhaps a `model`. One that is built has only the name of its
    function. Every other one has a `name` and the `folder` in which it lies on this machine.
    """

    kind: str
    name: str
    folder: str
    repository: str
    revision: str
    model: str


class ComponentSource(CheckpointSource, total=False):
    """Where a component comes from; `class_name` and `subfolder` are empty where none is named."""

    class_name: str
    subfolder: str


class AdapterRequest(TypedDict):
    """An adapter: its `kind` is `lora`, `ip-adapter` or `textual-inversion`.

    `settings` has the `weight_name`, and `adapter`, `scale` or `token`, where they are named.
    """

    kind: str
    source: CheckpointSource
    settings: Dict[str, Any]


class TrustRequest(TypedDict):
    """The packages whose code may run, and the project's root, in which they are looked for."""

    root: str
    packages: List[str]


class DetailRequest(TypedDict, total=False):
    """What a case asks to see of its stages; `observe.modules.Detail` explains each key."""

    stage: Optional[str]
    to_end: bool
    operators: Optional[str]
    arguments: Optional[int]
    keep: List[str]
    feed: List[str]
    lines: bool
    files: bool
    evaluation: Optional[str]


ALL_COMPONENTS = "default"  # stands for every component that is not named


class _AttentionBackend(TypedDict):
    backend: str


class AttentionChoice(_AttentionBackend, total=False):
    """A backend of diffusers' dispatcher of attention, and the revision of a kernel of the Hub."""

    revision: str


class CompileRequest(TypedDict, total=False):
    """Arguments of `torch.compile`, and the components that it is applied to."""

    mode: str
    fullgraph: bool
    dynamic: bool
    options: Dict[str, Any]
    components: List[str]


class ExecutionsRequest(TypedDict, total=False):
    """How a pipeline is executed; a key that is missing asks for nothing.

    `attention` has the backend of each component, or of `ALL_COMPONENTS`. `cache` has one cache of
    diffusers by name, with its fields. `quantize` has the `backend` of each component and its
    fields, `group_offload` the arguments of each component's group offloading, `layerwise_casting`
    the type that each component's weights are stored in, `fuse_qkv` the components whose
    projections are fused, and `onnx` those that run in ONNX Runtime.
    """

    attention: Dict[str, AttentionChoice]
    compile: CompileRequest
    cache: Dict[str, Dict[str, Any]]
    quantize: Dict[str, Dict[str, Any]]
    group_offload: Dict[str, Dict[str, Any]]
    layerwise_casting: Dict[str, str]
    fuse_qkv: List[str]
    onnx: List[str]


class EmulationRequest(TypedDict):
    """An emulation of a GPU's arithmetic, by its name, and the stages that compute so."""

    name: str
    stages: List[str]


class _CaseBasics(TypedDict):
    """The keys that every case has.

    `rounds` is how often the case runs; 0 is a single run of a study, which nobody times.
    `keep_every` is N where a recording keeps the tensor of every N-th scheduler step.
    `teacher_tensors` is the tensor file of the baseline that a teacher-forced run is fed with.
    `perturbation` is the seed of a perturbation by one unit in the last place.
    `call` may hold references to inputs, whose paths are relative to `inputs_folder`; see
    `pipeline.inputs`. `fault` is what `worker.faults.injected` takes.
    `reuse` asks for a second call of the same pipeline object, with nothing renewed but generators.
    """

    id: str
    framework: str
    pipeline: str
    checkpoint: CheckpointSource
    scheduler: Optional[Dict[str, Any]]
    call: Dict[str, Any]
    inputs_folder: str
    seeds: List[int]
    generator: str
    component_dtypes: Dict[str, str]
    attention: Optional[str]
    enable: List[str]
    device: str
    dtype: str
    determinism: str
    rounds: int
    reuse: bool
    keep_every: int
    teacher_tensors: Optional[str]
    perturbation: Optional[int]
    fault: Optional[Dict[str, Any]]
    detail: Optional[DetailRequest]


class SlotRequest(TypedDict):
    """Asks that of every tensor only one image of a batch counts; see `observe.slot`.

    `index` is the slot of the image, `size` how many images the batch has, 1 for the image alone,
    and `noted` the file in which the run of the image alone notes the digests of its tensors.
    """

    index: int
    size: int
    noted: str


class CaseExtras(TypedDict, total=False):
    """The keys that a case has only where it asks for something by them.

    It has `env` only where other package versions than the installed ones were asked for, such as
    `diffusers==0.30.3`, and `executions` only where it asks for one. `components` has what replaces
    each component, in a list; an empty one stands for none. `before` has the arguments of methods
    of the pipeline that are called before it, by name and in order; they are as those of `call`.
    `lora_then` is what is done with the LoRAs after they are loaded: `fuse`, `unfuse`, `unload`.
    `trust` is there where the project trusts code of its own, `emulation` where a study asks for
    one, and `slot` where of every tensor only one image of a batch counts.
    """

    env: List[str]
    executions: ExecutionsRequest
    components: Dict[str, List[ComponentSource]]
    adapters: List[AdapterRequest]
    lora_then: List[str]
    before: Dict[str, Dict[str, Any]]
    trust: TrustRequest
    emulation: EmulationRequest
    slot: SlotRequest


class CaseRequest(_CaseBasics, CaseExtras):
    """A case as the worker reads it."""


class RunRequest(TypedDict):
    """Asks for a recording of `case` in the folder `out`.

    `known` has the digests of the outputs of each baseline of the case, by the name of its numerics
    class and then by output.
    """

    case: CaseRequest
    out: str
    known: Dict[str, Dict[str, str]]


class DescribeArguments(TypedDict):
    """What an environment is described for."""

    framework: str
    device: str
    dtype: str
    mode: str


class DescribeRequest(TypedDict):
    """Asks for the environment and the numerics class of the worker's process."""

    describe: DescribeArguments


class OutlineArguments(TypedDict):
    """A saved pipeline that is to be outlined; `pipeline` is empty where its index names it."""

    source: CheckpointSource
    pipeline: str
    trust: Optional[TrustRequest]


class OutlineRequest(TypedDict):
    """What a saved pipeline consists of, and what its call takes; nothing runs."""

    outline: OutlineArguments


class CheckRequest(TypedDict):
    """Which files of the code that the worker has loaded are others now; the value is empty."""

    changed: Dict[str, Json]


Request = Union[RunRequest, DescribeRequest, OutlineRequest, CheckRequest]


# What a recording holds.


class NumericsClassRecord(TypedDict):
    """A numerics class: its readable name, its hash, and each operator's digest by name."""

    name: str
    hash: str
    operators: Dict[str, str]


class _EnvironmentBasics(TypedDict):
    """Where a case ran: versions, hardware, flags in effect, variables, and the numerics class.

    `framework` is `torch` or `mindspore`; `device_kind` is `cpu` or the GPU's model such as
    `nvidia-h200`; `unobserved` names what this release of the libraries does not show.
    """

    numerics_class: NumericsClassRecord
    framework: str
    device_kind: str
    versions: Dict[str, str]
    hardware: Dict[str, Any]
    flags: Dict[str, Any]
    variables: Dict[str, str]
    unobserved: List[str]


class EnvironmentRecord(_EnvironmentBasics, total=False):
    """The environment of a case, with `own_code` where code of the project took part.

    It has the digest of each source file, by package and path.
    """

    own_code: Dict[str, Dict[str, str]]


class TensorRecord(TypedDict):
    """What a recording says of a tensor; statistics are None where the tensor is not finite."""

    shape: List[int]
    dtype: str
    digest: str
    finite: bool
    abs_sum: Optional[float]
    l2: Optional[float]
    min: Optional[float]
    max: Optional[float]


class StageRecord(TypedDict):
    """One observed call: its name such as `unet#7`, and digests of both sides by key."""

    name: str
    inputs: Dict[str, str]
    outputs: Dict[str, str]


class ClampRecord(TypedDict):
    """The limits of a clamp, in the tensor's own unit; see `observe/clamps.py`."""

    low: float
    high: float


class ModuleRecord(TypedDict):
    """One call of a module inside a stage: its path and call, its type, digests of both sides."""

    module: str
    type: str
    inputs: str
    outputs: str


class _OperatorArguments(TypedDict, total=False):
    """What an operator was called with, where it was asked for: `observe.arguments` explains it."""

    arguments: Json


class OperatorRecord(_OperatorArguments):
    """One call of an operator inside a module; `source` is the file and line that called it."""

    operator: str
    inputs: Dict[str, str]
    outputs: Dict[str, str]
    shapes: List[str]
    source: str


class _CalledStage(TypedDict, total=False):
    """The stage that a statement called, where it called one: `values` are what the stage took."""

    stage: str


class LineRecord(_CalledStage):
    """A statement that made a value: its file from the package on, its lines and its text.

    `after` is the last stage, or the last module, that ended before. `values` has the digest of
    each value that was made, by the name of the variable.
    """

    after: str
    file: str
    first: int
    last: int
    function: str
    text: str
    values: Dict[str, str]


class InputRecord(TypedDict):
    """One input of the call: a file, or something made.

    `name` is such as `image#0`, `argument` the call's; `digest` is of what was decoded, `file` of
    the file's bytes, empty where there is none.
    """

    name: str
    kind: str
    argument: str
    digest: str
    file: str


class InputsRecord(TypedDict):
    """Digests of what a run started from, apart from noise.

    `weights` has one digest per component, and `configuration`. `commit` is the Hub's. `schedulers`
    has each scheduler's configuration, `tables` the digests of what each one held before its
    first step and unchanged after it. `arguments` are the inputs of the call, in order.
    """

    weights: Dict[str, str]
    commit: Optional[str]
    schedulers: Dict[str, Dict[str, Any]]
    tables: Dict[str, Dict[str, str]]
    arguments: List[InputRecord]


class RepeatRecord(TypedDict):
    """How the runs of one case compare.

    `l_inf` is the largest difference from the instrumented run, None where it has no value.
    `instrumented_equals_plain` is None where no plain run was made. `reused_equals_fresh` says
    whether a second call of the same pipeline object, with nothing renewed but generators, gave
    the same output; None where it was not asked for.
    """

    runs: int
    distinct: int
    l_inf: Optional[float]
    instrumented_equals_plain: Optional[bool]
    reused_equals_fresh: Optional[bool]


class ConditionsRecord(TypedDict, total=False):
    """How the machine ran during one timed run, as far as it tells.

    `load` is the machine's load average over a minute; `mhz` and `most_mhz` are clocks; `waited`
    the seconds for which threads were ready while other work had the processor; `slowed_by` what
    held a GPU's clock down; `celsius` and `watts` are a GPU's.
    """

    load: float
    mhz: int
    most_mhz: int
    waited: float
    slowed_by: List[str]
    celsius: int
    watts: float


class CostRecord(TypedDict, total=False):
    """What a case cost; all but `load_seconds` only where the case was timed.

    `seconds` is the median of `rounds_seconds`, which do not count the first run; `first_seconds`
    is that one, which warms up and is instrumented. `step_seconds` has the median seconds of one
    scheduler step, by scheduler.
    """

    load_seconds: float
    first_seconds: float
    rounds_seconds: List[float]
    seconds: float
    step_seconds: Dict[str, float]
    peak_bytes: int
    conditions: List[ConditionsRecord]


class TensorsRecord(TypedDict):
    """The tensor file of a recording or baseline: its name and the digest of its bytes."""

    file: str
    digest: str


class EffectRecord(TypedDict):
    """Whether something that a case asked for took effect.

    `asked` is the key, the component and what was asked for; `seen` is what was observed instead of
    being believed, in words.
    """

    asked: str
    seen: str
    took_effect: bool


class _RecordingBasics(TypedDict):
    """The keys that every recording has.

    `fault` is the proof that an injected fault took effect. `digest` seals all other keys:
    `worker.files.digest_json`.
    """

    format: str
    case: CaseRequest
    fault: Optional[str]
    environment: EnvironmentRecord
    inputs: InputsRecord
    noise: List[TensorRecord]
    outputs: Dict[str, TensorRecord]
    stages: List[StageRecord]
    operators: List[OperatorRecord]
    repeat: RepeatRecord
    cost: CostRecord
    tensors_file: TensorsRecord
    digest: str


class RecordingContent(_RecordingBasics, total=False):
    """The content of `RECORDING_FILE`.

    It has `effects` only where the case asked for an execution. `lower_precision` has the operators
    that an evaluation in float64 computed with less, by the kept tensor that they led to; it is
    there only where there are any. `lines` and `edited_files` are there only where the case asked
    for them.
    """

    effects: List[EffectRecord]
    lines: List[LineRecord]
    edited_files: List[str]
    lower_precision: Dict[str, List[str]]


class ParameterRecord(TypedDict):
    """One parameter of a pipeline's call; `default` is null where JSON cannot hold it."""

    name: str
    required: bool
    default: Json


class OutlineRecord(TypedDict):
    """A saved pipeline: its class, what configures each component, and what its call takes.

    `commit` is that to which the Hub's revision resolved, and empty for any other source.
    """

    pipeline: str
    commit: str
    components: Dict[str, Dict[str, Json]]
    parameters: List[ParameterRecord]


# Events.


class Event(TypedDict, total=False):
    """One event; which keys it has depends on `event`.

    `progress`: `case`, `doing`. `described`: `environment`. `outlined`: `outline`. `checked`:
    `changed`, files. `unverified`: `reason`. `failed`: `reason`, `traceback`. `ready` and
    `recorded` have no other key.
    """

    event: str
    case: str
    doing: str
    environment: EnvironmentRecord
    outline: OutlineRecord
    changed: List[str]
    reason: str
    traceback: str


class CannotRunHere(Exception):
    """The case asks for something that this machine does not have; the verdict is `unverified`."""


class CaseError(Exception):
    """The case asks for what this environment's libraries do not have; the verdict is `error`."""


class Events:
    """Writes events to the pipe that the launcher reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def send(self, event: str, **fields: Any) -> None:
        """Write one event as one line."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()
