"""What a case cost, and how that compares with its baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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
