"""The values that cross the harness: verdicts, targets, stages, drifts, checks, costs, outcomes.

Every type here is frozen and knows nothing of files, processes or wording.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

# A mapping of JSON values, such as the arguments of a pipeline's call.
Facts = Mapping[str, object]


class Verdict(StrEnum):
    """What the harness says of one case, in one word."""

    IDENTICAL = "identical"
    WITHIN = "within"
    VARIES = "varies"
    DRIFTED = "drifted"
    UNREPEATABLE = "unrepeatable"
    MISSING = "missing"
    STALE = "stale"
    INCOMPARABLE = "incomparable"
    ERROR = "error"
    UNVERIFIED = "unverified"

    @property
    def passes(self) -> bool:
        """Whether the verdict counts as a pass."""
        return self in (Verdict.IDENTICAL, Verdict.WITHIN, Verdict.VARIES)

    @property
    def fails(self) -> bool:
        """Whether the verdict counts as a failure; `unverified` counts as neither."""
        return not self.passes and self is not Verdict.UNVERIFIED


class Reason(StrEnum):
    """Why a verdict was given: what reports, gates and advice decide by."""

    SAME_BITS = "same-bits"
    INSIDE_TOLERANCE = "inside-tolerance"
    VARIES_AS_EXPECTED = "varies-as-expected"
    PUBLISHED_VALUE_HOLDS = "published-value-holds"
    OTHER_BITS = "other-bits"
    NO_TOLERANCE = "no-tolerance"
    OVER_BOUND = "over-bound"
    OFF_PUBLISHED_VALUE = "off-published-value"
    EXPECTATION_BROKEN = "expectation-broken"
    NO_BASELINE = "no-baseline"
    SCENARIO_EDITED = "scenario-edited"
    OTHER_WEIGHTS = "other-weights"
    OTHER_STRUCTURE = "other-structure"
    NOT_FINITE = "not-finite"
    NOT_RECORDED = "not-recorded"
    NO_EFFECT = "no-effect"
    DAMAGED_BASELINE = "damaged-baseline"
    CONTRACT_HOLDS = "contract-holds"
    CONTRACT_BROKEN = "contract-broken"
    CONTRACT_UNVERIFIED = "contract-unverified"


class Device(StrEnum):
    """Where a case computes."""

    CPU = "cpu"
    CUDA = "cuda"
    ASCEND = "ascend"
    ENDPOINT = "endpoint"  # a served engine, on hardware of its own


class Dtype(StrEnum):
    """The floating-point type that a case computes in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"


@dataclass(frozen=True, order=True)
class Target:
    """The device and the dtype of a case; `str()` gives the name used in ids and folders."""

    device: Device
    dtype: Dtype

    def __str__(self) -> str:
        return f"{self.device}-{self.dtype}"


def case_key(target: Target, variant: str) -> str:
    """Return what tells a case from the others of its scenario, such as `cpu-float32,compiled`.

    It stands in brackets in the case's id, and names its folders.
    """
    return f"{target},{variant}" if variant else str(target)


class Comparison(StrEnum):
    """Which kind of baseline judged a case, and so what is owed: bits, or a tolerance."""

    SAME_CLASS = "same-class"
    CROSS_CLASS = "cross-class"


class Metric(StrEnum):
    """What a check measures; the values are the keys of YAML and JSON."""

    L_INF = "l_inf"
    REL_L2 = "rel_l2"
    LOCAL_L_INF = "local_l_inf"
    LOCAL_REL_L2 = "local_rel_l2"
    ABS_SUM = "abs_sum"
    BITS = "bits"
    SHAPE = "shape"
    STRUCTURE = "structure"
    STAGE_COUNT = "stage_count"


class Against(StrEnum):
    """What a check holds its subject against."""

    BASELINE = "baseline"
    PUBLISHED = "published"
    SAME_IMAGE_ALONE = "same-image-alone"
    FIRST_IMAGE = "first-image"


_STAGE_NAME = re.compile(r"(?P<kind>[^#/]+)#(?P<index>\d+)")


@dataclass(frozen=True, order=True)
class Stage:
    """One observed call in a run: `Stage("unet", 7)` is the eighth call of the U-Net.

    The draws of noise are stages too, of the kind `noise`.
    """

    kind: str
    index: int

    @classmethod
    def parse(cls, name: str) -> Stage:
        """Return the stage that a recording names `unet#7`.

        Raises:
            ValueError: The name is no stage's.
        """
        match = _STAGE_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"expected a stage such as `unet#7`, found `{name}`")
        return cls(match["kind"], int(match["index"]))

    def __str__(self) -> str:
        return f"{self.kind}#{self.index}"

    @property
    def is_noise(self) -> bool:
        """Whether it is a draw of noise."""
        return self.kind == "noise"

    @property
    def is_scheduler_step(self) -> bool:
        """Whether it is a step of a scheduler; each step feeds the next one."""
        return self.kind.endswith(".step")

    @property
    def has_modules(self) -> bool:
        """Whether it is the call of a component, which has modules inside."""
        return not self.is_noise and not self.is_scheduler_step


@dataclass(frozen=True)
class Drift:
    """How far an array moved, over all its elements.

    Differences and sums are in float64 and in the array's own unit. `l_inf` and `rel_l2` are NaN
    where either side is not finite.
    """

    l_inf: float
    rel_l2: float
    abs_sum: float
    abs_sum_expected: float
    differing: int
    size: int
    worst_index: tuple[int, ...]
    worst_actual: float
    worst_expected: float
    finite: bool = True


@dataclass(frozen=True)
class StageDrift:
    """How far one tensor of a stage moved; NaN where this run has no such tensor of that shape."""

    stage: Stage
    key: str
    l_inf: float
    rel_l2: float

    @property
    def name(self) -> str:
        """`scheduler.step#3/sample`, or `noise#0`, which has one tensor only."""
        return f"{self.stage}/{self.key}" if self.key else str(self.stage)

    def value(self, metric: Metric) -> float:
        """Return what `metric` measures: `LOCAL_L_INF` is this drift's `l_inf`."""
        return self.l_inf if metric in (Metric.L_INF, Metric.LOCAL_L_INF) else self.rel_l2


@dataclass(frozen=True)
class Check:
    """One measured value held against one bound.

    `subject` is an output (`image`), one image of a batch (`image[1]`), or a stage's tensor.
    Against a published value, `actual` and `expected` are the two abs-sums, `value` is how far they
    lie apart, and `source` says where the published one comes from.
    """

    subject: str
    metric: Metric
    value: float
    bound: float
    against: Against = Against.BASELINE
    actual: float | None = None
    expected: float | None = None
    source: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is at or under the bound; NaN never is."""
        return self.value <= self.bound

    @property
    def margin(self) -> float:
        """The bound divided by the value; infinite where the value is zero."""
        if self.value == 0:
            return math.inf
        return self.bound / self.value


def worst_first(number: float) -> float:
    """Return a key that sorts NaN as larger than every number: what has no value is worst."""
    return math.inf if math.isnan(number) else number


class DifferenceKind(StrEnum):
    """What the first difference between two recordings is."""

    WEIGHTS = "weights"
    INPUT_FILE = "input-file"
    INPUT_DECODING = "input-decoding"
    CONFIGURATION = "configuration"
    NOISE = "noise"
    NOISE_COUNT = "noise-count"
    SCHEDULER_TABLES = "scheduler-tables"
    STAGE_ORDER = "stage-order"
    STAGE_INPUT = "stage-input"
    STAGE_OUTPUT = "stage-output"
    STAGE_COUNT = "stage-count"
    OUTPUTS = "outputs"


@dataclass(frozen=True)
class Difference:
    """The first difference between two recordings, in the order of the run.

    `subject` is the component, scheduler or stage; `names` are the tensors, inputs or outputs of it
    that differ, and `more` counts those left out; `expected` and `actual` are the two sides where
    they are short.
    """

    kind: DifferenceKind
    subject: str
    names: tuple[str, ...] = ()
    more: int = 0
    expected: str = ""
    actual: str = ""


class OutputKind(StrEnum):
    """What an output is; `judge/output_layout.py` decides it."""

    IMAGE = "image"
    LATENTS = "latents"
    VIDEO = "video"
    AUDIO = "audio"
    OTHER = "other"


@dataclass(frozen=True)
class PixelChange:
    """How many pixels look different, on both sides rounded to 8 bits as in a saved file.

    A pixel has changed where any of its channels has. `over_1`, `over_2` and `over_8` count the
    pixels that changed by more than so many of the 255 levels, `largest` is the largest change in
    levels. `psnr` is in dB, over all channels and with a peak of 255; None where no pixel changed,
    for which it is infinite.
    """

    pixels: int
    changed: int
    over_1: int
    over_2: int
    over_8: int
    largest: int
    psnr: float | None

    @property
    def changed_percent(self) -> float:
        """The share of changed pixels in percent."""
        return 100 * self.changed / self.pixels if self.pixels else 0.0


@dataclass(frozen=True)
class StructuralSimilarity:
    """SSIM of two images: its mean, its worst window, and the row and column of its centre.

    1 is equal. A mean over the image can hide a small hole, which the worst window shows.
    """

    mean: float
    worst: float
    worst_at: tuple[int, ...]


@dataclass(frozen=True)
class Flip:
    """FLIP of two images: what flips when one looks at them in turn; 0 is equal, 1 the most.

    `p99` is the value that 99 % of the pixels do not exceed.
    """

    mean: float
    p99: float
    largest: float


@dataclass(frozen=True)
class Appearance:
    """How the change of one output looks. It is shown to people; no verdict depends on it.

    Attributes:
        output: The name of the output.
        index: Which image, video or sample of the batch.
        kind: What the output is.
        pixels: For images, and for all frames of a video.
        frame: Of a video, the frame with the largest change; `ssim` and `flip` are of that one.
        ssim: Where the extra `images` is installed, and the image is large enough for a window.
        flip: Where the extra `images` is installed.
        signal_to_noise: For latents, audio and other arrays: 10 log10(sum e^2 / sum (a - e)^2) in
            dB, for the actual array a and the expected one e; None where it has no value.
    """

    output: str
    index: int
    kind: OutputKind
    pixels: PixelChange | None = None
    frame: int | None = None
    ssim: StructuralSimilarity | None = None
    flip: Flip | None = None
    signal_to_noise: float | None = None


class ChangeKind(StrEnum):
    """What part of an environment changed, in the order in which reports list the changes.

    `library` is torch, diffusers or transformers, which compute; `package` is any other.
    `unobserved` is something that one of the two sides does not show, such as noise. `own-code` is
    a source file of the project, named `PACKAGE/PATH`. `stated` is a line of text, as files of
    results held it before changes had types.
    """

    FRAMEWORK = "framework"
    UNOBSERVED = "unobserved"
    OWN_CODE = "own-code"
    LIBRARY = "library"
    GPU = "gpu"
    FLAG = "flag"
    VARIABLE = "variable"
    MACHINE = "machine"
    OPERATOR = "operator"
    PACKAGE = "package"
    STATED = "stated"


@dataclass(frozen=True)
class Change:
    """One fact that differs between a baseline and a run: its name, and both sides as text."""

    name: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.name} {self.expected} -> {self.actual}"


@dataclass(frozen=True)
class EnvironmentChange(Change):
    """One fact of the environment that differs between a baseline and a run.

    The two sides of an operator are the digests of its results. `unobserved` has none.
    """

    kind: ChangeKind

    @classmethod
    def from_text(cls, text: str) -> EnvironmentChange:
        """Return the change that a line of an older file of results states."""
        return cls(text, "", "", ChangeKind.STATED)


class CostVerdict(StrEnum):
    """What is said of a run's cost beside its verdict."""

    OK = "ok"
    SLOWER = "slower"
    FASTER = "faster"
    UNKNOWN = "unknown"


class CostReason(StrEnum):
    """Why a cost is `unknown`."""

    NO_BASELINE = "no-baseline"
    NO_BOUNDS = "no-bounds"
    OTHER_MACHINE = "other-machine"
    ONE_RUN_ONLY = "one-run-only"
    SLOWED_DOWN = "slowed-down"
    OTHER_WORK = "other-work"


@dataclass(frozen=True)
class Conditions:
    """How the machine ran during one timed run; None where it does not tell.

    `load` is the load average over a minute, `mhz` and `most_mhz` are clocks, `waited` is for how
    many seconds threads were ready while other work had the processor, `slowed_by` what held a
    GPU's clock down, `celsius` and `watts` a GPU's temperature and power.
    """

    load: float | None = None
    mhz: float | None = None
    most_mhz: float | None = None
    waited: float = 0.0
    slowed_by: tuple[str, ...] = ()
    celsius: float | None = None
    watts: float | None = None


@dataclass(frozen=True)
class CostFigures:
    """What a case cost; all but `load_seconds` is zero or empty where it was not timed.

    `seconds` is the median of `rounds_seconds`, or the first run's where there is no other;
    `first_seconds` is the instrumented run, which warms up; `step_seconds` the median of one
    scheduler step, by scheduler.
    """

    load_seconds: float
    first_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0
    rounds_seconds: tuple[float, ...] = ()
    step_seconds: dict[str, float] = field(default_factory=dict)
    conditions: tuple[Conditions, ...] = ()


@dataclass(frozen=True)
class Cost:
    """A run's cost held against its baseline's.

    `ratio` is this run's seconds over the baseline's, None where the two cannot be compared;
    `side` is `this run` or `the baseline` where the reason holds for one of them, and `detail` what
    the reason names: the other machine type, or what held a clock down.
    """

    figures: CostFigures
    verdict: CostVerdict
    reason: CostReason | None = None
    side: str = ""
    detail: str = ""
    ratio: float | None = None
    baseline_seconds: float | None = None
    baseline_step_seconds: dict[str, float] = field(default_factory=dict)


class AccuracyVerdict(StrEnum):
    """Whether this run lies farther from a float64 evaluation than the baseline does.

    It stands beside the verdict of a case and never changes it.
    """

    BETTER = "better"
    NO_WORSE = "no-worse"
    WORSE = "worse"
    UNKNOWN = "unknown"

    @property
    def holds(self) -> bool:
        """Whether it is `better` or `no-worse`: what a contract or a gate asks for."""
        return self in (AccuracyVerdict.BETTER, AccuracyVerdict.NO_WORSE)


class AccuracyReason(StrEnum):
    """Why an accuracy is `unknown`."""

    NOT_EVALUATED = "not-evaluated"
    NOT_FINITE = "not-finite"
    LOWER_PRECISION = "lower-precision"
    OWN_ERROR = "own-error"
    OTHER_FUNCTION = "other-function"
    CHANCE = "chance"


@dataclass(frozen=True)
class StageError:
    """How far one tensor of a stage lies from its evaluation in float64.

    `l_inf` is in the tensor's own unit; `rel_l2` is relative to the evaluation's L2 norm.
    """

    l_inf: float
    rel_l2: float


@dataclass(frozen=True)
class StageAccuracy:
    """The errors of both sides of one tensor that moved, against float64 from the same inputs.

    `actual_error` and `expected_error` are None where there is no evaluation. `own_error` is how
    far the evaluation itself moves, in relative L2, when each of its operators errs by one unit in
    the last place of float64. `reason` says why the verdict is `unknown`, None for any other
    verdict; `detail` is what the reason names, such as operators.
    """

    stage: Stage
    key: str
    verdict: AccuracyVerdict
    actual_error: StageError | None = None
    expected_error: StageError | None = None
    own_error: float | None = None
    reason: AccuracyReason | None = None
    detail: str = ""

    @property
    def name(self) -> str:
        """`scheduler.step#3/sample`."""
        return f"{self.stage}/{self.key}" if self.key else str(self.stage)

    @property
    def ratio(self) -> float:
        """The actual error over the expected one, in relative L2; NaN without an evaluation.

        It is infinite where the expected error alone is zero, and 1.0 where both are.
        """
        if self.actual_error is None or self.expected_error is None:
            return math.nan
        if self.actual_error.rel_l2 == self.expected_error.rel_l2:
            return 1.0
        if self.expected_error.rel_l2 == 0:
            return math.inf
        return self.actual_error.rel_l2 / self.expected_error.rel_l2


@dataclass(frozen=True)
class Effect:
    """Whether an execution that a case asked for took effect.

    `asked` is the key of the scenario, the component and what was asked for; `seen` is what the
    worker observed, in words.
    """

    asked: str
    seen: str
    took_effect: bool


@dataclass(frozen=True)
class DetectionRate:
    """How many known faults a scenario's bounds catch: what `harness challenge --write` measured.

    `above_noise` counts the faults whose effect exceeds that of one unit in the last place;
    `cross_class_caught` how many of those the bounds catch on another platform.
    """

    faults: int
    same_class_caught: int
    above_noise: int
    cross_class_caught: int
    missed: tuple[str, ...]
    platform: str


@dataclass(frozen=True)
class JudgedBy:
    """The baseline that judged a case.

    `reference` names the case whose reference it is, empty for a baseline of the same class.
    `digest` is the baseline's seal, and `file` its path below the store. `run` names the other run
    where `harness diff` judged by a run's recording in the place of a baseline.
    """

    numerics_class: str
    comparison: Comparison
    reference: str = ""
    digest: str = ""
    file: str = ""
    detection_rate: DetectionRate | None = None
    run: str = ""


class ContractKind(StrEnum):
    """What a variant owes the case that it is held against."""

    IDENTICAL = "identical"
    TOLERANCE = "tolerance"
    NO_WORSE = "no-worse"


class ContractState(StrEnum):
    """Whether a contract holds; `unverified` where it could not be told."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class ContractOutcome:
    """How a variant compares with the case that its contract names, both of the same run.

    Attributes:
        kind: What is owed.
        terms: What is owed, in one line: `identical`, or the bounds.
        against: The id of the other case: the base, or another variant.
        state: Whether the contract holds.
        message: Why, in a sentence.
        same_bits: Whether every output has the same bits; None where that was not compared.
        outputs: How far each output lies from the other case's.
        checks: What was held against the contract's bounds.
        first_difference: Where the two recordings first differ.
        free: The drift of the kept tensors of stages in the run that went its own way.
        local: Their drift in the run that got the other case's tensors for every stage.
        accuracy: How far both sides of each stage that moved lie from float64; empty where that was
            not evaluated.
        cost: This case's cost against the other's: `ratio` is its seconds over the other's, and
            `baseline_seconds` are the other's. It is `unknown` where the two cannot be compared.
        peak_bytes_expected: The most memory that the other case held; 0 where it is not known.
    """

    kind: ContractKind
    terms: str
    against: str
    state: ContractState
    message: str
    same_bits: bool | None = None
    outputs: dict[str, Drift] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    first_difference: Difference | None = None
    free: tuple[StageDrift, ...] = ()
    local: tuple[StageDrift, ...] = ()
    accuracy: tuple[StageAccuracy, ...] = ()
    cost: Cost | None = None
    peak_bytes_expected: int = 0

    @property
    def failed_checks(self) -> list[Check]:
        """The checks whose bound was exceeded, in the order in which they were made."""
        return [check for check in self.checks if not check.passed]


@dataclass(frozen=True)
class Outcome:
    """What the harness says of one case: the verdict, and everything that a report shows.

    `message` is the reason in words. `path` is the scenario's file and `store` the folder of the
    baselines, both for the command that comes next; `fingerprint` is the scenario's. `recording` is
    the folder of its recording, below the run's folder. `device_kind` and `recording` are empty
    where the case left no recording, `accuracy` where no stage was evaluated in float64;
    `judge.accuracy.deciding` gives the verdict on all of it. `appearance` is how the outputs that
    differ look: one entry for each image of a batch; it decides nothing. `numerics_class` is the
    one that the case ran in, empty where it left no recording.

    `origins` are the differences that no other difference explains; where there are several,
    several things moved by themselves. `edits` are the keys of the scenario that were edited since
    a `stale` baseline.

    `variant` is empty for a scenario as it stands, and `contract` says how a variant compares with
    the case that it is held against.
    """

    case: str
    scenario: str
    target: Target
    verdict: Verdict
    reason: Reason
    message: str
    tags: tuple[str, ...] = ()
    device_kind: str = ""
    baseline: JudgedBy | None = None
    outputs: dict[str, Drift] = field(default_factory=dict)
    appearance: tuple[Appearance, ...] = ()
    checks: tuple[Check, ...] = ()
    first_difference: Difference | None = None
    free: tuple[StageDrift, ...] = ()
    local: tuple[StageDrift, ...] = ()
    accuracy: tuple[StageAccuracy, ...] = ()
    cost: Cost | None = None
    repeat_l_inf: float | None = None
    environment_changes: tuple[EnvironmentChange, ...] = ()
    effects: tuple[Effect, ...] = ()
    log: str = ""
    recording: str = ""
    path: str = ""
    store: str = ""
    fingerprint: str = ""
    origins: tuple[Difference, ...] = ()
    edits: tuple[Change, ...] = ()
    variant: str = ""
    contract: ContractOutcome | None = None
    numerics_class: str = ""

    @property
    def key(self) -> str:
        """What tells the case from the others of its scenario: the target, then the variant."""
        return case_key(self.target, self.variant)

    @property
    def passes(self) -> bool:
        """Whether the verdict counts as a pass."""
        return self.verdict.passes

    @property
    def fails(self) -> bool:
        """Whether the verdict counts as a failure; `unverified` is neither."""
        return self.verdict.fails

    @property
    def failed_checks(self) -> list[Check]:
        """The checks whose bound was exceeded, in the order in which they were made."""
        return [check for check in self.checks if not check.passed]
