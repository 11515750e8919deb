"""From a case to a recording: which runs a case needs, and what is kept from one case to the next.

The first run is instrumented. If its output is not what an earlier process recorded on this
numerics class, the case runs again without instrumentation, to tell drift from randomness.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import safetensors.torch
import torch

from . import protocol
from .conditions import compiler, cost, determinism, numerics
from .faults import injected
from .installed_code import edited_files
from .observe.capture import Capture
from .observe.modules import NO_STAGE, Detail, Enough, Tracer
from .observe.repeat import compare_runs, digests_of
from .observe.slot import Whole, slot_of
from .observe.stages import Stage
from .observe.tensors import Tensors
from .pipeline import checkpoints
from .pipeline.call import Pipeline, Within, nothing_within
from .pipeline.enable import TF32
from .pipeline.endpoint import Http, Server
from .pipeline.executions import onnx
from .pipeline.executions.plan import AT_LOAD, NATIVE, Executions, backends_in, executions_in
from .pipeline.framework import Framework
from .pipeline.outline import outline
from .pipeline.outputs import outputs_of
from .pipeline.own_code import Digests, OwnCode
from .pipeline.torch_ import Torch
from .protocol import (
    CaseRequest,
    CheckpointSource,
    CostRecord,
    EnvironmentRecord,
    InputRecord,
    InputsRecord,
    NumericsClassRecord,
    OutlineArguments,
    OutlineRecord,
)
from .recording import Observation, write_recording

if TYPE_CHECKING:
    from .observe.float64 import Float64

FIRST_STAGES = Detail()  # looks into the first stage of every kind
OUTSIDE_ONLY = Detail(stage=NO_STAGE)
# Kinds of checkpoints that the caller of this process holds: a pipeline, and an array or image.
GIVEN = "given"
ARRAY = "array"
OUTPUT_OF_ARRAY = "value"  # the name of its output
Known = Mapping[str, Mapping[str, str]]


class Instrumented(NamedTuple):
    """One instrumented run.

    Attributes:
        outputs: Its outputs by name; none where the run ended early.
        capture: What was kept of its stages.
        tracer: What was kept of the inside of its stages.
        meter: What it cost.
    """

    outputs: Tensors
    capture: Capture
    tracer: Tracer
    meter: cost.Meter


class Runs(NamedTuple):
    """All runs of a case.

    Attributes:
        instrumented: The run that the recording is of.
        others: The outputs of every other run, plain ones first.
        cost: What they cost; empty where nothing was timed.
        reused: The outputs of a second call of the same pipeline object; None without one.
    """

    instrumented: Instrumented
    others: List[Tensors]
    cost: CostRecord
    reused: Optional[Tensors] = None


class _Loaded(NamedTuple):
    """The checkpoint that stays loaded, what it was loaded for, and the seconds that it took."""

    key: str
    checkpoint: checkpoints.Checkpoint
    seconds: float


class Recorder:
    """Runs cases one after another.

    The last checkpoint stays loaded, and each numerics class is measured once.

    Args:
        send: Sends an event: its name, and its fields as keywords.
        given: What the caller of this process holds, by the names that a case refers to: the
            pipeline or the array that stands in the place of a checkpoint, and values of a call.
    """

    def __init__(
        self, send: Callable[..., None], given: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._send = send
        self._given = given
        self._loaded: Optional[_Loaded] = None
        self._classes: Dict[str, NumericsClassRecord] = {}

    def describe(self, framework: str, device: str, dtype: str, mode: str) -> EnvironmentRecord:
        """Return the environment and numerics class of this process.

        Args:
            framework: `torch` or `mindspore`.
            device: A device of the framework, such as `cuda`.
            dtype: A type such as `float32`.
            mode: `full` for deterministic mode, or `default`.

        Raises:
            CannotRunHere: There is no such device.
        """
        here = _framework(framework, device, {})
        with determinism.settings(mode):
            return self._environment(here, device, [dtype], mode)

    def outline(self, arguments: OutlineArguments) -> OutlineRecord:
        """Return what a saved pipeline consists of and what its call takes; see `outline`."""
        return outline(arguments, _framework("torch", "cpu", arguments["source"]))

    def record(self, case: CaseRequest, folder: Path, known: Optional[Known] = None) -> None:
        """Run a case and replace `folder` by its recording.

        A run with the output that is known of this numerics class has repeated what an earlier
        process did, and only timing needs more runs. Otherwise a plain run must give the same
        output, and the inside of the stages is noted too, because somebody will ask for it.

        Args:
            case: What to run.
            folder: The folder of the recording.
            known: The digests of the outputs of each baseline of the case, by the name of its
                numerics class and then by output.

        Raises:
            CannotRunHere: There is no such device, nothing can be fed there, or the weights are
                not at hand.
            CaseError: The case names what this environment's libraries do not have.
        """
        framework = _framework(case["framework"], case["device"], case["checkpoint"])
        if case["checkpoint"]["kind"] == ARRAY:
            self._record_array(case, framework, folder)
            return
        _check_possible(case, framework)
        code = OwnCode.of(case)
        # A pipeline that the caller holds was imported by the caller, and stays as it is.
        is_held = case["checkpoint"]["kind"] == GIVEN
        own_code = code.digests() if is_held else code.prepare()
        dtypes = {checkpoints.DEFAULT: case["dtype"], **case["component_dtypes"]}
        request = executions_in(case)
        own = _own_switches(case)
        proof: Optional[str] = None
        with determinism.settings(case["determinism"], own), ExitStack() as cleanup:
            distinct = list(dict.fromkeys(dtypes.values()))
            here = self._environment(framework, case["device"], distinct, case["determinism"])
            if "compile" in request:
                here = compiler.with_compiler(here, framework.device)
            if "onnx" in request:
                here = compiler.with_runtime(here, onnx.facts())
            loaded = self._load(case, dtypes, framework, own_code)
            executions = Executions(
                case, loaded.checkpoint.pipeline, framework.device, loaded.checkpoint.effects
            )
            executions.apply(cleanup)
            pipeline = Pipeline(case, loaded.checkpoint, framework, executions, self._given)
            cleanup.callback(pipeline.close)
            parts = [pipeline.pipeline, *pipeline.pipeline.components.values()]
            if code.takes_part(case, parts):
                here = {**here, "own_code": own_code}
            if case["fault"] is not None:
                classes = pipeline.scheduler_classes()
                entered = injected(pipeline.pipeline, case["fault"], classes)
                proof = cleanup.enter_context(entered)
            expected = (known or {}).get(here["numerics_class"]["name"])
            runs = self._run_all(case, pipeline, expected)
            effects = executions.effects()
        runs.cost["load_seconds"] = loaded.seconds
        observed = _observation(case, proof, here, loaded.checkpoint, runs, pipeline.inputs)
        edited = edited_files() if (case["detail"] or {}).get("files") else []
        write_recording(folder, observed._replace(effects=effects, edited_files=edited))

    def forget(self) -> None:
        """Hold the last checkpoint no longer."""
        self._loaded = None

    def _record_array(self, case: CaseRequest, framework: Framework, folder: Path) -> None:
        """Write a recording whose outputs are a value that the caller holds; nothing runs."""
        name = case["checkpoint"]["name"]
        outputs = outputs_of({OUTPUT_OF_ARRAY: self._given[name]})
        with determinism.settings(case["determinism"]):
            here = self._environment(
                framework, case["device"], [case["dtype"]], case["determinism"]
            )
        inputs: InputsRecord = {
            "weights": {},
            "commit": None,
            "schedulers": {},
            "tables": {},
            "arguments": [],
        }
        observed = Observation(
            case=case,
            fault=None,
            environment=here,
            inputs=inputs,
            noise=[],
            outputs=outputs,
            stages=[],
            modules={},
            operators=[],
            tensors={},
            weights={},
            repeat=compare_runs(outputs, [], None),
            cost={"load_seconds": 0.0},
            lower_precision={},
        )
        write_recording(folder, observed)

    def _run_all(
        self, case: CaseRequest, pipeline: Pipeline, expected: Optional[Mapping[str, str]]
    ) -> Runs:
        """Run a case as often as it needs.

        Args:
            case: What to run.
            pipeline: Its pipeline.
            expected: The digests of the outputs of this class's baseline; None without one.
        """
        if not case["rounds"]:
            return self._run_once(case, pipeline)
        first = self._run_instrumented(
            case, pipeline, FIRST_STAGES if expected is None else OUTSIDE_ONLY
        )
        is_known = digests_of(first.outputs) == expected
        steady = max(case["rounds"] - 1, 0 if is_known else 1)
        meters, others = self._run_timed(case, pipeline, steady)
        figures = _cost_of(first.meter, meters)
        reused = self._run_reused(case, pipeline) if case["reuse"] else None
        if is_known or expected is None:
            return Runs(first, others, figures, reused)
        inside = self._run_instrumented(case, pipeline, FIRST_STAGES)
        return Runs(inside, [*others, first.outputs], figures, reused)

    def _run_once(self, case: CaseRequest, pipeline: Pipeline) -> Runs:
        """Run a variation that a study asks for, which nobody times."""
        request = case["detail"]
        detail = OUTSIDE_ONLY if request is None else Detail.read(request)
        instrumented = self._run_instrumented(case, pipeline, detail)
        reused = self._run_reused(case, pipeline) if case["reuse"] else None
        return Runs(instrumented, [], {}, reused)

    def _run_instrumented(
        self, case: CaseRequest, pipeline: Pipeline, detail: Detail
    ) -> Instrumented:
        """Run once and observe every stage."""
        teacher_tensors: Tensors = {}
        if case["teacher_tensors"] is not None:
            teacher_tensors = safetensors.torch.load_file(case["teacher_tensors"])
        evaluation = None if detail.evaluation is None else _evaluation(detail.evaluation)
        counts = slot_of(case["slot"]) if "slot" in case else Whole()
        tracer = Tracer(detail, teacher_tensors, pipeline.framework.observe_operators, counts)
        capture = Capture(
            pipeline,
            # Where single modules are fed, the stages keep their own inputs.
            teacher_tensors={} if detail.feed else teacher_tensors,
            perturbation=case["perturbation"],
            last_stage=detail.last_stage,
            keep_every=case["keep_every"],
            evaluation=evaluation,
            counts=counts,
        )
        within: Within = nothing_within
        unobserved: Callable[[], ContextManager[Any]] = nullcontext
        if evaluation is not None:
            within, unobserved = evaluation.around, evaluation.paused

        reads = capture.reads

        def on_stage(stage: Stage, inputs: Dict[str, Any], result: Any) -> Any:
            with unobserved(), reads.paused(), tracer.between(stage, inputs):
                return capture.on_stage(stage, inputs, tracer.on_result(stage, result))

        def on_draw(stage: Stage, drawn: torch.Tensor) -> None:
            with unobserved(), reads.paused(), tracer.between(stage, {}):
                capture.on_draw(stage, tracer.on_result(stage, drawn))

        @contextmanager
        def around(stage: Stage, component: Any, inputs: Dict[str, Any]) -> Iterator[None]:
            with reads.paused():
                with unobserved():
                    capture.before(stage, inputs)
                with tracer.around(stage, component), capture.during(stage):
                    yield

        self._progress(case, "recording" if evaluation is None else "evaluating in float64")
        outputs: Tensors = {}
        executions = pipeline.executions
        measured = cost.measured(pipeline.framework.device)
        watching = executions.watching() if evaluation is None else nullcontext()
        with watching, measured as meter, suppress(Enough):
            _seed(case)
            # What an evaluation reads are copies, so that nothing could be noted of it.
            with reads.noting() if evaluation is None else nullcontext(), tracer.tracing():
                outputs = pipeline.run(on_stage, on_draw, executions.around(around), within=within)
        if evaluation is not None and evaluation.wrote_weights:
            self._loaded = None  # the next case must find them as they were stored
        counts.close()
        outputs = {name: counts.part(tensor) for name, tensor in outputs.items()}
        return Instrumented(outputs, capture, tracer, meter)

    def _run_timed(
        self, case: CaseRequest, pipeline: Pipeline, count: int
    ) -> Tuple[List[cost.Meter], List[Tensors]]:
        """Run without instrumentation, measured as a whole and step by step.

        Returns:
            The meters and the outputs of the runs.
        """
        meters: List[cost.Meter] = []
        outputs: List[Tensors] = []
        for index in range(count):
            self._progress(case, f"run {index + 1} of {count}")
            with cost.measured(pipeline.framework.device) as meter:
                _seed(case)
                outputs.append(pipeline.run(on_step=meter.mark))
            meters.append(meter)
        return meters, outputs

    def _run_reused(self, case: CaseRequest, pipeline: Pipeline) -> Tensors:
        """Call the pipeline object of the last run once more, as its users do."""
        self._progress(case, "a second call of the same pipeline object")
        _seed(case)
        return pipeline.run(renew=False)

    def _load(
        self,
        case: CaseRequest,
        dtypes: Mapping[str, str],
        framework: Framework,
        own_code: Digests,
    ) -> _Loaded:
        """Return the checkpoint of a case, which may be the last one that was loaded."""
        sources: List[CheckpointSource] = [case["checkpoint"]]
        sources += [one for several in case.get("components", {}).values() for one in several]
        sources += [adapter["source"] for adapter in case.get("adapters", [])]
        files = [checkpoints.files_of(source) for source in sources]
        parts = [case["pipeline"], case["enable"], case["attention"], dtypes, own_code]
        executions = executions_in(case)
        for_good = {key: executions.get(key) for key in AT_LOAD}
        adapters = [case.get("adapters"), case.get("lora_then")]
        more = [case["checkpoint"], case.get("components"), adapters, for_good]
        key = json.dumps([*parts, *more, files], sort_keys=True)
        is_given = case["checkpoint"]["kind"] == GIVEN  # its owner may have changed it meanwhile
        if self._loaded is not None and self._loaded.key == key and not is_given:
            return self._loaded
        self._loaded = None  # frees the last one before the next is loaded
        self._progress(case, "loading the checkpoint")
        started = time.perf_counter()
        checkpoint = checkpoints.load(
            case["checkpoint"],
            case["pipeline"],
            dtypes,
            framework,
            case["enable"],
            checkpoints.Extras.of(case, self._given.get(case["checkpoint"].get("name", ""))),
        )
        self._loaded = _Loaded(key, checkpoint, time.perf_counter() - started)
        return self._loaded

    def _environment(
        self, framework: Framework, device: str, dtypes: Sequence[str], mode: str
    ) -> EnvironmentRecord:
        """Return this process's environment, and its class for all types of a case together."""
        framework.settle(mode)
        key = f"{device} {dtypes} {mode} {determinism.effective()}"
        if key not in self._classes:
            classes = {dtype: framework.numerics_class(dtype) for dtype in dtypes}
            self._classes[key] = numerics.combine_classes(classes)
        return framework.describe(self._classes[key])

    def _progress(self, case: CaseRequest, doing: str) -> None:
        self._send(protocol.PROGRESS, case=case["id"], doing=doing)


def _framework(name: str, device: str, source: CheckpointSource) -> Framework:
    """Return the framework `torch`, `mindspore` or `http` on a device.

    Raises:
        CannotRunHere: There is no such device, or no such server.
    """
    if name == "torch":
        return Torch(device)
    if name == "http":
        return Http(Server(source.get("name", "")))
    from .pipeline.mindspore_ import MindSpore  # only an environment of its own has MindSpore

    return MindSpore(device)


def _check_possible(case: CaseRequest, framework: Framework) -> None:
    """Refuse what a framework cannot do: feed tensors to stages, or evaluate them in float64.

    Raises:
        CannotRunHere: It is asked for, and the framework cannot.
    """
    if case["teacher_tensors"] is not None and not framework.can_feed:
        raise protocol.CannotRunHere(
            f"teacher-forced runs: what is fed on {case['device']} does not reach the next stage"
        )
    detail = Detail.read(case["detail"] or {})
    if detail.evaluation is not None and not framework.can_evaluate:
        raise protocol.CannotRunHere(
            f"{case['framework']} has no evaluation in float64: its operators cannot be "
            "replaced one by one"
        )


def _evaluation(form: str) -> Float64:
    """Return an evaluation in float64, which no recording needs that does not ask for one.

    Raises:
        CannotRunHere: This torch has no modes that see its operators.
    """
    try:
        from .observe.float64 import Float64
    except ImportError as error:
        raise protocol.CannotRunHere(
            f"torch {torch.__version__} is too old to be evaluated in float64: {error}"
        ) from error
    return Float64(form)


def _own_switches(case: CaseRequest) -> Dict[str, Any]:
    """Return the values that a case demands of torch's switches."""
    every_kernel = NATIVE in backends_in(executions_in(case))
    return determinism.chosen(
        case["attention"], tf32=TF32 in case["enable"], every_kernel=every_kernel
    )


def _seed(case: CaseRequest) -> None:
    """Seed the global streams for one run; a case without generators must vary, and gets others."""
    if case["generator"] == "none":
        determinism.scatter_global_streams()
    else:
        determinism.seed_global_streams(case["seeds"][0])


def _cost_of(first: cost.Meter, steady: Sequence[cost.Meter]) -> CostRecord:
    """Return what the runs cost; the first one warms up and pays for its instrumentation."""
    meters = steady or [first]
    return {
        "first_seconds": first.seconds,
        "rounds_seconds": [meter.seconds for meter in steady],
        "seconds": median(meter.seconds for meter in meters),
        "step_seconds": cost.step_seconds(steady),
        "peak_bytes": max(meter.peak_bytes for meter in meters),
        "conditions": [meter.conditions for meter in steady],
    }


def _observation(
    case: CaseRequest,
    proof: Optional[str],
    environment: EnvironmentRecord,
    checkpoint: checkpoints.Checkpoint,
    runs: Runs,
    arguments: List[InputRecord],
) -> Observation:
    outputs, capture, tracer, _ = runs.instrumented
    inputs: InputsRecord = {
        "weights": checkpoint.weights,
        "commit": checkpoint.commit,
        "schedulers": capture.schedulers,
        "tables": capture.tables(),
        "arguments": arguments,
    }
    return Observation(
        case=case,
        fault=proof,
        environment=environment,
        inputs=inputs,
        noise=capture.noise(),
        outputs=outputs,
        stages=capture.stages(),
        modules=tracer.modules(),
        operators=tracer.operators.records,
        tensors={**capture.tensors(), **tracer.tensors()},
        clamps=capture.clamps,
        weights=checkpoint.tensors,
        repeat=compare_runs(outputs, runs.others, runs.reused),
        cost=runs.cost,
        lower_precision=capture.lower_precision,
        lines=tracer.lines.records,
    )
