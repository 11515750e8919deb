"""The values that a gate's decision is made of: problems, findings, rows and the decision itself.

No words are here; `report/gate_report.py` has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """How a requirement, or the whole release, stands."""

    PASSES = "passes"
    WAIVED = "waived"
    UNVERIFIED = "unverified"
    FAILS = "fails"


class Problem(StrEnum):
    """What a gate found; the words by which a policy's waivers name it."""

    # What fails.
    FAILS = "fails"
    CONTRADICTS_ITSELF = "contradicts-itself"
    DUPLICATES_DISAGREE = "duplicates-disagree"
    RECORDING_DISAGREES = "recording-disagrees"
    VERDICT_NOT_ALLOWED = "verdict-not-allowed"
    SLOWER = "slower"
    OVER_BUDGET = "over-budget"
    LESS_ACCURATE = "less-accurate"
    # What was not verified: of one case.
    NOT_RUN = "not-run"
    COULD_NOT_RUN = "could-not-run"
    COST_UNKNOWN = "cost-unknown"
    ACCURACY_UNKNOWN = "accuracy-unknown"
    NO_DETECTION_RATE = "no-detection-rate"
    LOW_DETECTION_RATE = "low-detection-rate"
    OLD_DETECTION_RATE = "old-detection-rate"
    SCENARIO_EDITED = "scenario-edited"
    TERMS_EDITED = "terms-edited"
    EVIDENCE_EDITED = "evidence-edited"
    OTHER_BASELINE = "other-baseline"
    NEW_BASELINE = "new-baseline"
    BASELINE_GONE = "baseline-gone"
    BASELINE_DAMAGED = "baseline-damaged"
    OLDER_THAN_BASELINE = "older-than-baseline"
    NO_ENVIRONMENT = "no-environment"
    NO_DIGESTS = "no-digests"
    NO_RECORDING = "no-recording"
    # What was not verified: of a run, or of all runs.
    NO_TIME = "no-time"
    IN_FUTURE = "in-future"
    ENDS_BEFORE_START = "ends-before-start"
    TOO_OLD = "too-old"
    NO_COMMIT = "no-commit"
    OTHER_COMMIT = "other-commit"
    MIXED_COMMITS = "mixed-commits"
    DIRTY = "dirty"
    DIRTY_HERE = "dirty-here"
    OTHER_HARNESS = "other-harness"
    NO_VERSION = "no-version"
    OTHER_VERSION = "other-version"
    MIXED_VERSIONS = "mixed-versions"
    UNREAD_SCENARIOS = "unread-scenarios"
    # What does not block, and is worth knowing.
    SAME_RUN_TWICE = "same-run-twice"
    DUPLICATE = "duplicate"
    UNKNOWN_CASE = "unknown-case"
    WAIVER_EXPIRED = "waiver-expired"
    WAIVER_UNUSED = "waiver-unused"

    @property
    def state(self) -> State:
        """What the problem makes of the release."""
        if self in FAILING:
            return State.FAILS
        return State.PASSES if self in NOTES else State.UNVERIFIED

    @property
    def can_be_waived(self) -> bool:
        """Whether a policy may accept it for a time: what is known of one case, not of a run."""
        return self in WAIVABLE


FAILING = frozenset(
    {
        Problem.FAILS,
        Problem.CONTRADICTS_ITSELF,
        Problem.DUPLICATES_DISAGREE,
        Problem.RECORDING_DISAGREES,
        Problem.VERDICT_NOT_ALLOWED,
        Problem.SLOWER,
        Problem.OVER_BUDGET,
        Problem.LESS_ACCURATE,
    }
)
NOTES = frozenset(
    {
        Problem.SAME_RUN_TWICE,
        Problem.DUPLICATE,
        Problem.UNKNOWN_CASE,
        Problem.WAIVER_EXPIRED,
        Problem.WAIVER_UNUSED,
    }
)
WAIVABLE = frozenset(
    {
        Problem.FAILS,
        Problem.VERDICT_NOT_ALLOWED,
        Problem.SLOWER,
        Problem.OVER_BUDGET,
        Problem.LESS_ACCURATE,
        Problem.NOT_RUN,
        Problem.COULD_NOT_RUN,
        Problem.COST_UNKNOWN,
        Problem.ACCURACY_UNKNOWN,
        Problem.NO_DETECTION_RATE,
        Problem.LOW_DETECTION_RATE,
        Problem.OLD_DETECTION_RATE,
    }
)


class Contradiction(StrEnum):
    """How an outcome contradicts itself, its scenario or its baseline."""

    OTHER_REASON = "other-reason"
    FAILED_CHECK = "failed-check"
    NO_EFFECT = "no-effect"
    NO_BASELINE = "no-baseline"
    NO_OUTPUT = "no-output"
    NO_CHECK = "no-check"
    OUTPUT_MOVED = "output-moved"
    NOT_FINITE = "not-finite"
    NO_CONTRACT = "no-contract"
    CONTRACT_BROKEN = "contract-broken"
    CONTRACT_MOVED = "contract-moved"
    BITS_OWED = "bits-owed"
    ACCURACY = "accuracy"
    COST = "cost"
    LABELS = "labels"
    OTHER_DIGESTS = "other-digests"
    SAME_DIGESTS = "same-digests"
    OTHER_COMPARISON = "other-comparison"
    CHECK_MISSING = "check-missing"
    VARIES_UNASKED = "varies-unasked"
    MUST_VARY = "must-vary"
    NOTHING_PUBLISHED = "nothing-published"
    NOT_REPEATABLE = "not-repeatable"


@dataclass(frozen=True)
class Finding:
    """One thing that a gate found.

    Attributes:
        problem: What.
        run: The run that it is about; empty for all, and where no run is.
        case: The id of the case; empty where it is about no case.
        on: The kind of device, machine or class that was required, or that the case ran on.
        expected: What was asked for, in one or a few words.
        found: What was found instead.
        detail: More of it: a message of the judge, a reason, a remedy.
        cause: Of a failing outcome, the id of its cause, by which `accept` chooses it.
        owner: Of a finding that is waived: who answers for it, and `until` which day.
    """

    problem: Problem
    run: str = ""
    case: str = ""
    on: str = ""
    expected: str = ""
    found: str = ""
    detail: str = ""
    cause: str = ""
    owner: str = ""
    until: str = ""

    @property
    def state(self) -> State:
        """What the finding makes of the release; a waived one does not block it."""
        return State.WAIVED if self.owner else self.problem.state


@dataclass(frozen=True)
class Row:
    """One line of a decision: a scenario, where it was required, and how that stands.

    `cases` counts the cases that were required there, `seen` how often each verdict was seen.
    """

    scenario: str
    on: str
    state: State
    cases: int
    seen: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What a gate decided: every requirement, what blocks it, what was waived, what to know."""

    rows: tuple[Row, ...]
    blocking: tuple[Finding, ...] = ()
    waived: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def state(self) -> State:
        """`passes` where the gate is open: everything required was seen and nothing blocks."""
        if not self.rows:
            return State.UNVERIFIED
        found = worst(
            [*(each.state for each in self.blocking), *(each.state for each in self.rows)]
        )
        return State.PASSES if found is State.WAIVED else found

    @property
    def is_open(self) -> bool:
        """Whether the release may go out."""
        return self.state is State.PASSES

    @property
    def exit_code(self) -> int:
        """0 where the gate is open, 1 where something fails, 3 where something was not verified."""
        return {State.PASSES: 0, State.FAILS: 1}.get(self.state, 3)


def worst(states: Iterable[State]) -> State:
    """Return the state that decides: fails before unverified before waived before passes."""
    order = list(State)
    return max(states, key=order.index, default=State.PASSES)
