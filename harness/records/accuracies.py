"""How far both sides of a stage lie from an evaluation in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from harness.records.cases import Stage


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
