"""How far arrays moved, and what was held against which bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.records.cases import Stage
from harness.worker.protocol import CLAMPED


class Metric(StrEnum):
    """What a check measures; the values are the keys of YAML and JSON."""

    L_INF = "l_inf"
    REL_L2 = "rel_l2"
    LOCAL_L_INF = "local_l_inf"
    LOCAL_REL_L2 = "local_rel_l2"
    LOCAL_GAIN = "local_gain"
    LOCAL_BIAS = "local_bias"
    LOCAL_CHANNEL_BIAS = "local_channel_bias"
    LOCAL_SPATIAL = "local_spatial"
    LOCAL_PERSISTENCE = "local_persistence"
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


@dataclass(frozen=True)
class Drift:
    """How far an array moved, over all its elements.

    Differences and sums are in float64 and in the array's own unit. The other figures have none,
    and `gain`, `bias`, `channel_bias` and `spatial` have a sign; `judge/drift.py` has the formulas.
    They are NaN where either side is not finite, and these four also in files of older releases.
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
    gain: float = math.nan
    bias: float = math.nan
    channel_bias: float = math.nan
    spatial: float = math.nan


def bounded_stage(stage: Stage, key: str) -> Stage:
    """Return the stage under which a tolerance bounds a tensor: its own, nearly always.

    What goes into the clamp of a step rounds coarsely, and what comes out hardly at all. So it has
    bounds of its own: of `decoder_scheduler.step#0` under `decoder_scheduler.step.clamped#0`.
    """
    return replace(stage, kind=f"{stage.kind}.{CLAMPED}") if key == CLAMPED else stage


@dataclass(frozen=True)
class StageDrift:
    """How far one tensor of a stage moved; NaN where this run has no such tensor of that shape.

    The figures are those of `Drift`, and `persistence`: how much of the difference points the same
    way as in the calls of the same stage before it, times `rel_l2`. It is 0.0 for the first call.
    """

    stage: Stage
    key: str
    l_inf: float
    rel_l2: float
    gain: float = math.nan
    bias: float = math.nan
    channel_bias: float = math.nan
    spatial: float = math.nan
    persistence: float = math.nan

    @property
    def name(self) -> str:
        """`scheduler.step#3/sample`, or `noise#0`, which has one tensor only."""
        return f"{self.stage}/{self.key}" if self.key else str(self.stage)

    @property
    def held_as(self) -> Stage:
        """The stage under which a tolerance bounds the tensor; see `bounded_stage`."""
        return bounded_stage(self.stage, self.key)

    def value(self, metric: Metric) -> float:
        """Return the size of what `metric` measures: `LOCAL_L_INF` is this drift's `l_inf`."""
        sizes = {
            Metric.LOCAL_L_INF: self.l_inf,
            Metric.LOCAL_GAIN: self.gain,
            Metric.LOCAL_BIAS: self.bias,
            Metric.LOCAL_CHANNEL_BIAS: self.channel_bias,
            Metric.LOCAL_SPATIAL: self.spatial,
            Metric.LOCAL_PERSISTENCE: self.persistence,
        }
        return abs(sizes.get(metric, self.rel_l2))


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

    @property
    def excess(self) -> float:
        """How many times the bound the value is; where the bound is zero, the value itself.

        It is infinite where the value is NaN, so that what has no value is worst.
        """
        return worst_first(self.value / self.bound if self.bound else self.value)


def worst_first(number: float) -> float:
    """Return a key that sorts NaN as larger than every number: what has no value is worst."""
    return math.inf if math.isnan(number) else number
