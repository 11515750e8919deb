"""Owns how variants are worded: what each feature buys and costs, against the case it is held to.

A row holds one variant against the case that its contract names, both of the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.accuracy import deciding
from harness.judge.reasons import cost_is_unknown
from harness.records import (
    ContractOutcome,
    Cost,
    CostReason,
    CostVerdict,
    Drift,
    Outcome,
    StageDrift,
    worst_first,
)

HEADINGS = (
    "variant",
    "against",
    "contract",
    "state",
    "L-inf",
    "rel L2",
    "local rel L2",
    "accuracy",
    "seconds",
    "ratio",
    "peak",
    "more memory",
)
STATE_COLUMN = HEADINGS.index("state")
# The columns that a narrow terminal leaves out, in the order in which it drops them.
SPARE = ("peak", "local rel L2", "L-inf", "accuracy", "seconds", "more memory")
MIB = 1 << 20


def rows(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """Return one row for each variant that is held to a contract, in the order of `HEADINGS`.

    A value that is not known is empty; a ratio of seconds that cannot be compared is `unknown`.
    """
    return [_row(each, each.contract) for each in outcomes if each.contract is not None]


def notes(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line per reason for which seconds were not compared, with the variants."""
    cases: dict[str, list[str]] = {}
    for outcome in outcomes:
        cost = None if outcome.contract is None else outcome.contract.cost
        if cost is not None and not _is_compared(cost):
            cases.setdefault(cost_is_unknown(cost), []).append(outcome.case)
    return [f"{why}: {', '.join(names)}" for why, names in cases.items()]


def _row(outcome: Outcome, held: ContractOutcome) -> tuple[str, ...]:
    decided = deciding(held.accuracy)
    return (
        outcome.case,
        _key_of(held.against),
        held.terms,
        str(held.state),
        *_drift_cells(list(held.outputs.values())),
        _local_cell(held.local),
        "" if decided is None else str(decided.verdict),
        *_cost_cells(held),
    )


def _key_of(case: str) -> str:
    """Return what stands in brackets in the id of a case, whose scenario is that of its variant."""
    return case.partition("[")[2].removesuffix("]")


def _drift_cells(drifts: Sequence[Drift]) -> tuple[str, str]:
    """Return L-inf and relative L2 of the output that moved farthest; `0` where none moved."""
    worst = max(drifts, key=_distance, default=None)
    if worst is None:
        return "", ""
    return _number(worst.l_inf), _number(worst.rel_l2)


def _distance(drift: Drift) -> float:
    return worst_first(drift.l_inf)


def _local_cell(local: Sequence[StageDrift]) -> str:
    values = [drift.rel_l2 for drift in local]
    return _number(max(values, key=worst_first)) if values else ""


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2e}"


def _cost_cells(held: ContractOutcome) -> tuple[str, str, str, str]:
    """Return the seconds, their ratio, the peak memory, and how much more that is."""
    cost = held.cost
    if cost is None:
        return "", "", "", ""
    seconds, peak = f"{cost.figures.seconds:.3f}", cost.figures.peak_bytes
    ratio = "unknown" if cost.ratio is None or not _is_compared(cost) else f"x{cost.ratio:.2f}"
    more = ""
    if peak and held.peak_bytes_expected:
        more = f"{(peak - held.peak_bytes_expected) / MIB:+.0f} MiB"
    return seconds, ratio, f"{peak / MIB:.0f} MiB" if peak else "", more


def _is_compared(cost: Cost) -> bool:
    """Whether the ratio of seconds means something, also where the scenario bounds no cost."""
    if cost.ratio is None:
        return False
    return cost.verdict is not CostVerdict.UNKNOWN or cost.reason is CostReason.NO_BOUNDS
