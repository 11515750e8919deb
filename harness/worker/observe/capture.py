"""What is kept of an instrumented run: digests of every stage, and the tensors of a baseline.

Teacher forcing and perturbation happen here too, because both change a tensor at the moment at
which it is kept.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import (
    TYPE_CHECKING,
    Any,
    ContextManager,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
)

import torch

from ..conditions.portable import uniform
from ..pipeline.call import Pipeline
from ..protocol import CLAMPED, NOISE, STAGE, ClampRecord, StageRecord
from .clamps import Clamps
from .modules import Enough
from .reads import Reads
from .slot import Whole
from .stages import Stage
from .tensors import PendingDigest, Tensors, leaves_in, tensors_in

if TYPE_CHECKING:
    from .float64 import Float64

FIRST_NOISE = f"{NOISE}0"  # the name of the initial noise in a recording
ENCODE = ".encode"  # how the kind of a stage ends in which a VAE encodes
# The integer type of each width, in bytes, whose order is that of floating-point numbers.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
PendingDigests = Dict[str, PendingDigest]


class _NotedStage(NamedTuple):
    """A stage whose digests may still be computed by a device."""

    stage: Stage
    inputs: PendingDigests
    outputs: PendingDigests


class Capture:
    """What is seen of one instrumented run.

    Args:
        pipeline: The pipeline that runs.
        teacher_tensors: A baseline's tensors. In a teacher-forced run, every stage's own result is
            kept and then overwritten by the baseline's, so that the next stage gets the baseline's
            inputs and shows its own arithmetic alone.
        perturbation: A seed. What is fed on is moved by one unit in the last place: the teacher
            tensors, or without them the initial noise. So is what the stages before that take, and
            what is encoded, such as a picture: nothing that is fed on reaches it.
        last_stage: The name of the stage after which the run ends with `Enough`; None for none.
        keep_every: N where the tensor of every N-th step of a scheduler is kept.
        evaluation: The evaluation in float64 that the run is; None for an ordinary run.
        counts: What counts of each tensor; None for the whole.

    Attributes:
        schedulers: Each scheduler's configuration, by component name.
        reads: What the run reads of the stages' results, while `reads.noting` is entered. What it
            does not read is not kept, unless the baseline has it.
        clamps: The two limits of each clamp that decides most of a kept step, by the step's name.
        lower_precision: The operators that an evaluation computed with less than float64, by the
            stage and key of the kept tensor that they led to.
    """

    def __init__(  # noqa: PLR0913 (each is something that a case asks for)
        self,
        pipeline: Pipeline,
        teacher_tensors: Optional[Tensors] = None,
        perturbation: Optional[int] = None,
        last_stage: Optional[str] = None,
        *,
        keep_every: int = 1,
        evaluation: Optional[Float64] = None,
        counts: Optional[Whole] = None,
    ) -> None:
        self.schedulers: Dict[str, Dict[str, Any]] = {}
        self.reads = Reads()
        self._counts = counts or Whole()
        self.clamps: Dict[str, ClampRecord] = {}
        self._pipeline = pipeline
        self._teacher_tensors = teacher_tensors or {}
        self._perturbation = perturbation
        self._last_stage = last_stage
        self._keep_every = keep_every
        self._evaluation = evaluation
        self.lower_precision: Dict[str, List[str]] = {}
        self._stages: List[_NotedStage] = []
        self._seen_clamps = Clamps()
        # What each scheduler held before its first step, and after it.
        self._before_step: Dict[str, PendingDigests] = {}
        self._after_step: Dict[str, PendingDigests] = {}
        self._noise: List[torch.Tensor] = []
        self._kept: Tensors = {}
        # The last stage's tensors, kept unless a scheduler's step follows, which contains them.
        self._pending: Tensors = {}

    def on_draw(self, stage: Stage, drawn: torch.Tensor) -> None:
        """Keep noise that was drawn, and put the baseline's in its place if there is one."""
        name = f"{NOISE}{stage.index}"
        self._keep({name: drawn})
        self._noise.append(self._kept[name])
        self._end_after(stage)

    def before(self, stage: Stage, inputs: Mapping[str, Any]) -> None:
        """Note what a scheduler holds before its first step, and perturb what an encoder takes."""
        if stage.scheduler is not None and stage.index == 0:
            self._before_step[stage.scheduler] = self._held_by(stage.scheduler)
        if self._perturbation is not None and not self._is_reached(stage):
            for key, tensor in tensors_in(inputs).items():
                if not _shares_memory_within(tensor):
                    tensor.copy_(perturbed(tensor, f"{self._perturbation} {stage.name} {key}"))

    def _is_reached(self, stage: Stage) -> bool:
        """Return whether something that is fed on reaches what a stage takes.

        It reaches whatever follows the first noise or the first step, but for what is encoded.
        """
        has_begun = bool(self._noise or self._after_step)
        return stage.scheduler is not None or (has_begun and not stage.kind.endswith(ENCODE))

    def during(self, stage: Stage) -> ContextManager[None]:
        """Return what a stage runs within, so that its clamps are noted."""
        return nullcontext() if stage.scheduler is None else self._seen_clamps.noting()

    def on_stage(self, stage: Stage, inputs: Mapping[str, Any], result: Any) -> Any:
        """Note a stage's digests, keep its tensors, and return its result."""
        if not self.schedulers:
            self.schedulers = self._pipeline.scheduler_configuration()
        outputs = tensors_in(result)
        taken = self._start_digests(tensors_in(inputs))
        noted = _NotedStage(stage, taken, self._start_digests(outputs))
        self._stages.append(noted)
        self.reads.saw(inputs)
        if stage.scheduler is not None:
            self._on_step(stage, stage.scheduler, outputs)
        else:
            self._on_call(stage, outputs)
            self._watch(stage, result)
        self._end_after(stage)
        return result

    def stages(self) -> List[StageRecord]:
        """Return the stages in order, with the digests of their inputs and outputs."""
        return [
            {
                "name": noted.stage.name,
                "inputs": _finish_digests(noted.inputs),
                "outputs": _finish_digests(noted.outputs),
            }
            for noted in self._stages
        ]

    def tables(self) -> Dict[str, Dict[str, str]]:
        """Return the digests of what each scheduler held around its first step, by its name.

        What the step itself made or changed is the solver's state and no table: it differs because
        the stages before it did.
        """
        found = {}
        for scheduler, held in self._after_step.items():
            before = _finish_digests(self._before_step.get(scheduler, {}))
            after = _finish_digests(held)
            found[scheduler] = {key: after[key] for key in after if after[key] == before.get(key)}
        return found

    def tensors(self) -> Tensors:
        """Return the tensors of noise and stages that were kept, by their names in a recording."""
        self._keep_pending()
        return {name: tensor for name, tensor in self._kept.items() if not self._is_unread(name)}

    def noise(self) -> List[torch.Tensor]:
        """Return what counts of the noise that was drawn, in order."""
        return [self._counts.part(drawn) for drawn in self._noise]

    def _start_digests(self, tensors: Tensors) -> PendingDigests:
        return {key: self._counts.digest_later(tensor) for key, tensor in tensors.items()}

    def _on_step(self, stage: Stage, scheduler: str, outputs: Tensors) -> None:
        """Keep the sample of a scheduler's step if it is due, or if the baseline has it."""
        if stage.index == 0:
            self._after_step[scheduler] = self._held_by(scheduler)
        self._pending = {}
        is_due = (stage.index + 1) % self._keep_every == 0
        sample = _sample_of(outputs)
        name = f"{STAGE}{stage.name}/sample"
        if sample is not None and (is_due or name in self._teacher_tensors):
            self._keep_clamped(stage, sample)
            self._keep({name: sample})
            self._note_lower_precision([name])

    def _keep_clamped(self, stage: Stage, sample: torch.Tensor) -> None:
        """Keep what went into the clamp that decides most of a step, or that the baseline has."""
        clamp = self._seen_clamps.take(sample)
        name = f"{STAGE}{stage.name}/{CLAMPED}"
        if clamp is not None and (name in self._teacher_tensors or clamp.decides):
            self.clamps[stage.name] = {"low": clamp.low, "high": clamp.high}
            self._kept[name] = clamp.tensor.to("cpu")

    def _held_by(self, scheduler: str) -> PendingDigests:
        return self._start_digests(self._pipeline.scheduler_tensors(scheduler))

    def _on_call(self, stage: Stage, outputs: Tensors) -> None:
        """Keep a call's tensors at once if the baseline has any of them, else when the next comes.

        A denoiser's result is therefore not kept: the step of its scheduler contains it.
        """
        self._keep_pending()
        named = {_kept_name(stage, key): tensor for key, tensor in outputs.items()}
        if any(name in self._teacher_tensors for name in named):
            self._keep(named)
            self._note_lower_precision(named)
        else:
            # A copy: a pipeline may write into a result before the next stage.
            self._pending = {name: tensor.detach().clone() for name, tensor in named.items()}

    def _watch(self, stage: Stage, result: Any) -> None:
        """Watch which of a call's tensors the run reads; arrays and numbers count as read."""
        for key, leaf in leaves_in(result):
            if isinstance(leaf, torch.Tensor):
                self.reads.watch(_kept_name(stage, key), leaf)

    def _is_unread(self, name: str) -> bool:
        return self.reads.is_unread(name) and name not in self._teacher_tensors

    def _end_after(self, stage: Stage) -> None:
        if stage.name == self._last_stage:
            raise Enough

    def _keep_pending(self) -> None:
        pending = self._pending
        self._pending = {}
        self._keep(pending)

    def _keep(self, tensors: Tensors) -> None:
        """Keep copies of tensors, then feed on what the run asks for in their place."""
        for name, tensor in tensors.items():
            self._kept[name] = tensor.detach().to("cpu", copy=True)
            fed = self._fed_in_place_of(name)
            if fed is not None and self._can_feed(fed, tensor):
                if self._perturbation is not None:
                    fed = perturbed(fed, f"{self._perturbation} {name}")
                tensor.copy_(fed)

    def _can_feed(self, fed: torch.Tensor, own: torch.Tensor) -> bool:
        """Return whether a run's own tensor can hold what is fed: float64 holds any number."""
        is_wide = self._evaluation is not None and own.dtype == torch.float64
        return fed.shape == own.shape and (is_wide or fed.dtype == own.dtype)

    def _note_lower_precision(self, names: Iterable[str]) -> None:
        """Note what computed with less than float64 since tensors were last kept."""
        if self._evaluation is None:
            return
        operators = self._evaluation.take_lower_precision()
        if operators:
            self.lower_precision.update({name[len(STAGE) :]: operators for name in names})

    def _fed_in_place_of(self, name: str) -> Optional[torch.Tensor]:
        """Return the tensor that is fed on, before it is perturbed; None leaves the run's own."""
        if name in self._teacher_tensors:
            return self._teacher_tensors[name]
        if self._perturbation is not None and name == FIRST_NOISE:
            return self._kept[name]
        return None


def perturbed(tensor: torch.Tensor, stream: str) -> torch.Tensor:
    """Return a copy whose every element lies one unit in the last place away.

    Args:
        tensor: Of any floating-point type; a tensor of whole numbers is returned as it is.
        stream: Names the portable numbers that decide which elements go up and which go down.

    Returns:
        The perturbed copy; zeros, infinities, NaN and what would become infinite stay as they are.
    """
    if not tensor.is_floating_point():
        return tensor.clone()
    bits = tensor.detach().cpu().contiguous().view(INTEGERS[tensor.element_size()])
    goes_up = torch.from_numpy(uniform(stream, tuple(tensor.shape))) >= 0
    moves = torch.isfinite(tensor) & (tensor != 0)
    neighbours = bits + torch.where(goes_up, 1, -1).to(bits.dtype)
    moves &= torch.isfinite(neighbours.view(tensor.dtype))  # above the largest number is infinity
    return torch.where(moves, neighbours, bits).view(tensor.dtype)


def _shares_memory_within(tensor: torch.Tensor) -> bool:
    """Return whether several elements lie in one place, as after `expand`: none can be written."""
    strides = zip(tensor.stride(), tensor.shape)
    return any(stride == 0 and size > 1 for stride, size in strides)


def _kept_name(stage: Stage, key: str) -> str:
    """Return the name in a recording of a tensor that a call returned."""
    return f"{STAGE}{stage.name}/{key or '0'}"


def _sample_of(outputs: Tensors) -> Optional[torch.Tensor]:
    """Return the tensor of a scheduler's step that the pipeline goes on with, if there is any."""
    first = next(iter(outputs.values()), None)
    return outputs.get("prev_sample", first)


def _finish_digests(pending: PendingDigests) -> Dict[str, str]:
    return {key: finish() for key, finish in pending.items()}
