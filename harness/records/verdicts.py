"""The words that the judge says of a case, and why."""

from __future__ import annotations

from enum import StrEnum


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


class Comparison(StrEnum):
    """Which kind of baseline judged a case, and so what is owed: bits, or a tolerance."""

    SAME_CLASS = "same-class"
    CROSS_CLASS = "cross-class"
