"""Owns how outcomes are worded: rows of a table, paragraphs of failures, one line for a run.

The terminal, Markdown and pytest take their words from here, so that all of them say the same.
A paragraph is safe to print: text that came from a worker or a file cannot leave its line. Single
cells and lines are made safe by the module that prints them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

from harness.judge import reasons
from harness.judge.cause import Cause, causes_of
from harness.judge.cost import CHANGED, slowed_by
from harness.records import (
    Against,
    Check,
    Comparison,
    ContractOutcome,
    Cost,
    CostReason,
    CostVerdict,
    Drift,
    EnvironmentChange,
    JudgedBy,
    Outcome,
    Reason,
    Verdict,
    worst_first,
)
from harness.report import accuracy, advice, batches
from harness.report.safe_text import safe_line
from harness.scenario.tolerance import SYSTEMATIC_METRICS
from harness.store.recording import Recording
from harness.store.run_folder import Scope

HEADINGS = (
    "case",
    "verdict",
    "against",
    "L-inf",
    "rel L2",
    "abs-sum",
    "margin",
    "seconds",
    "cost",
    "peak",
)
VERDICT_COLUMN = HEADINGS.index("verdict")
# The columns that a narrow terminal leaves out, in the order in which it drops them. The others are
# never left out: where they do not fit, the terminal breaks the line.
SPARE = ("peak", "abs-sum", "seconds", "rel L2")

MEANING = {
    Verdict.IDENTICAL: "same bits",
    Verdict.WITHIN: "inside every tolerance",
    Verdict.VARIES: "the scenario expects every run to differ, and they do",
    Verdict.DRIFTED: "outside a bound, or not the same bits as the baseline of the same class",
    Verdict.UNREPEATABLE: "two runs on this machine differ, or another expectation does not hold",
    Verdict.MISSING: "there is no baseline, and no published value",
    Verdict.STALE: "the baseline belongs to another version of the scenario or other weights",
    Verdict.INCOMPARABLE: "an output has another shape or dtype, or holds NaN or infinity",
    Verdict.ERROR: "it did not run to the end, or its baseline is damaged",
    Verdict.UNVERIFIED: "it could not run here, or could not be checked",
}

SHOWN_CHANGES = 8  # changes of the environment in a paragraph; results.json has all of them
SHOWN_LOG_LINES = 6
SHOWN_EXPLAINING = 3  # changes in the line that names a cause; its paragraph has more
KIB, MIB = 1 << 10, 1 << 20


# One outcome as a row of a table.


def row(outcome: Outcome) -> tuple[str, ...]:
    """Return one row of the table, in the order of `HEADINGS`; an unknown value is empty."""
    return (
        outcome.case,
        str(outcome.verdict),
        against(outcome),
        *_drift_cells(list(_compared(outcome).outputs.values())),
        margin(_compared(outcome).checks),
        *_cost_cells(outcome.cost),
    )


def _compared(outcome: Outcome) -> Outcome | ContractOutcome:
    """Return what says how far the outputs moved: the contract where there is no baseline."""
    if outcome.baseline is None and outcome.contract is not None:
        return outcome.contract
    return outcome


def against(outcome: Outcome) -> str:
    """Return what the run was compared with; empty where there was nothing.

    That is a baseline of the `same class` or of an `other class`, a `published` value, or for a
    variant that its contract alone verifies, another case of `this run`.
    """
    if outcome.baseline is not None:
        is_same = outcome.baseline.comparison is Comparison.SAME_CLASS
        return "same class" if is_same else "other class"
    if outcome.contract is not None:
        return "this run"
    return "published" if outcome.reason is Reason.PUBLISHED_VALUE_HOLDS else ""


def margin(checks: Iterable[Check]) -> str:
    """Return the smallest margin of all checks that measured a difference, such as `x0.102`."""
    margins = [check.margin for check in checks if check.value > 0]
    return f"x{min(margins):.3g}" if margins else ""


def _drift_cells(drifts: Sequence[Drift]) -> tuple[str, str, str]:
    """Return L-inf, relative L2 and abs-sum of the output that moved farthest."""
    worst = max(drifts, key=distance, default=None)
    if worst is None:
        return "", "", ""
    return f"{worst.l_inf:.2e}", f"{worst.rel_l2:.2e}", _abs_sum(worst)


def distance(drift: Drift) -> float:
    """Return a key that sorts drifts by their L-inf, one without a value last."""
    return worst_first(drift.l_inf)


def _abs_sum(drift: Drift) -> str:
    if drift.abs_sum == drift.abs_sum_expected:
        return f"{drift.abs_sum:.4f}"
    return f"{drift.abs_sum:.4f} ({drift.abs_sum - drift.abs_sum_expected:+.1e})"


def _cost_cells(cost: Cost | None) -> tuple[str, str, str]:
    """Return the seconds, the verdict on the cost with its ratio, and the peak memory."""
    if cost is None:
        return "", "", ""
    word = str(cost.verdict)
    if cost.ratio is not None:
        word += f" x{cost.ratio:.2f}"
    if cost.reason is not None:
        word += f": {reasons.cost_is_unknown_in_short(cost.reason)}"
    return f"{cost.figures.seconds:.3f}", word, peak_memory(cost.figures.peak_bytes)


def peak_memory(size: int) -> str:
    """Return the most bytes that a process held, as MiB; 0 is not known, as on Windows alone."""
    return f"{size / MIB:.0f} MiB" if size else "unknown"


# One failure as a paragraph.


def paragraph(outcome: Outcome, run: Path) -> str:
    """Return what a person needs to act on an outcome.

    That is: the verdict and why, how far each output moved, which bounds it exceeded, whether the
    case became less accurate, where it moved first, what changed in the environment, the end of the
    log, and what to do next.
    """
    why, *more = outcome.message.splitlines() or [""]
    lines = [f"{outcome.verdict}: {outcome.case}", f"  why:      {why}"]
    lines += [f"            {line.strip()}" for line in more]
    lines += searched_lines(outcome)
    for name, drift in outcome.outputs.items():
        lines += output_lines(name, drift)
    lines += over_lines(outcome)
    lines += batches.paragraph_lines(outcome)
    if outcome.accuracy:
        lines.append(f"  accuracy: {accuracy.line(outcome.accuracy)}")
    if outcome.first_difference is not None:
        lines.append(f"  first:    {reasons.difference(outcome.first_difference)}")
    effective = [effect for effect in outcome.effects if effect.took_effect]
    lines += [f"  effect:   {effect.asked}: {effect.seen}" for effect in effective]
    if outcome.reason is Reason.CONTRACT_BROKEN and outcome.contract is not None:
        lines += _contract_lines(outcome.contract)
    if outcome.baseline is not None:
        lines += _baseline_lines(outcome.baseline, outcome.environment_changes)
    found = causes_of(outcome)
    if len(found) > 1:
        lines.append(f"  causes:   {len(found)} at once, which moved by themselves:")
        lines += cause_lines(found)
    if outcome.log:
        lines += log_lines(outcome.log)
    explanation = advice.explanation(outcome, run)
    if explanation:
        lines.append(f"  explain:  {explanation}")
    next_step = advice.next_step(outcome, run)
    if next_step:
        lines.append(f"  next:     {next_step}")
    return "\n".join(map(safe_line, lines))


def searched_lines(outcome: Outcome) -> list[str]:
    """Return the line that names the store in which a baseline was looked for in vain."""
    if outcome.reason is not Reason.NO_BASELINE or not outcome.store:
        return []
    return [f"  searched: {outcome.store}"]


def first_line(text: str) -> str:
    """Return the first line of a text; empty where it has none."""
    return next(iter(text.splitlines()), "")


def required(check: Check) -> str:
    """Return the smallest bound, rounded up to two digits, that admits what a check measured.

    One on systematic drift holds in proportion to the tensor's own drift, and is not one number.
    """
    if check.metric in SYSTEMATIC_METRICS:
        return "depends on relative L2"
    if not math.isfinite(check.value) or check.value <= 0:
        return "none"
    number = Decimal(repr(check.value))
    last_digit = Decimal(1).scaleb(number.adjusted() - 1)
    return f"{float(number.quantize(last_digit, ROUND_CEILING)):.1e}"


def changed_lines(changes: Sequence[EnvironmentChange]) -> list[str]:
    """Return the lines that name what changed in the environment, the likeliest to matter first."""
    words = reasons.environment_changes(changes)
    shown = words[:SHOWN_CHANGES] or ["nothing in the environment"]
    lines = [f"  changed:  {shown[0]}"]
    lines += [f"            {change}" for change in shown[1:]]
    if len(words) > SHOWN_CHANGES:
        lines.append(f"            and {len(words) - SHOWN_CHANGES} more in results.json")
    return lines


def log_lines(log: str) -> list[str]:
    """Return the end of a log."""
    return ["  log:", *(f"    {line}" for line in log.strip().splitlines()[-SHOWN_LOG_LINES:])]


def output_lines(name: str, drift: Drift) -> list[str]:
    """Return the lines on an output that moved; none where it did not."""
    if drift.l_inf == 0:
        return []
    percent = 100 * drift.differing / drift.size
    share = f"{drift.differing} of {drift.size} elements differ ({percent:.3g} %)"
    expected, actual = f"{drift.worst_expected:.9g}", f"{drift.worst_actual:.9g}"
    return [
        f"  {name}: L-inf {drift.l_inf:.3e}, relative L2 {drift.rel_l2:.3e}; {share}",
        f"    worst:  {drift.worst_index} expected {expected}, actual {actual}",
        f"    abs-sum {drift.abs_sum:.6f}, expected {drift.abs_sum_expected:.6f}",
    ]


def over_lines(outcome: Outcome | ContractOutcome) -> list[str]:
    """Return a line on each bound that an outcome exceeded, with one that it would have passed."""
    return [f"  over:     {_exceeded(check)}" for check in outcome.failed_checks]


def _exceeded(check: Check) -> str:
    verb = ": off by" if check.against is Against.PUBLISHED else " ="
    bound = f"bound {check.bound:.3e}, required tolerance {required(check)}"
    return f"{reasons.measured(check)}{verb} {check.value:.3e}, {bound}"


def _contract_lines(held: ContractOutcome) -> list[str]:
    """Return the lines on a contract that is broken: how far, over which bound, where first."""
    lines = [f"  contract: {held.terms}, against {held.against}"]
    for name, drift in held.outputs.items():
        lines += output_lines(name, drift)
    lines += over_lines(held)
    if held.first_difference is not None:
        lines.append(f"  first:    {reasons.difference(held.first_difference)}")
    return lines


def _baseline_lines(baseline: JudgedBy, changes: Sequence[EnvironmentChange]) -> list[str]:
    label = "against: " if baseline.run else "baseline:"
    return [f"  {label} {reasons.source_of(baseline)}", *changed_lines(changes)]


# Causes.


def cause_words(cause: Cause) -> str:
    """Return a cause in words: what changed in the environment, and what moved."""
    changes = reasons.environment_changes(cause.changes)
    shown = ", ".join(changes[:SHOWN_EXPLAINING])
    if len(changes) > SHOWN_EXPLAINING:
        shown += f" and {len(changes) - SHOWN_EXPLAINING} more changes"
    return f"{shown}, {_places(cause)}" if shown else _places(cause)


def cause_lines(causes: Sequence[Cause]) -> list[str]:
    """Return a line on each cause: what moved, and what in the environment may explain it."""
    lines = []
    for cause in causes:
        changes = reasons.environment_changes(cause.changes)
        shown = ", ".join(changes[:SHOWN_CHANGES])
        explained = f"may come of {shown}" if shown else "no change of the environment explains it"
        lines.append(f"  moved:    {_places(cause)}; {explained}")
    return lines


def _places(cause: Cause) -> str:
    return ", ".join(dict.fromkeys(map(reasons.place, cause.places)))


# Many outcomes.


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line, such as `14 cases: 12 identical, 2 unverified`."""
    counted = Counter(outcome.verdict for outcome in outcomes)
    words = [f"{counted[verdict]} {verdict}" for verdict in Verdict if counted[verdict]]
    cases = "1 case" if len(outcomes) == 1 else f"{len(outcomes)} cases"
    return f"{cases}: {', '.join(words) or 'nothing ran'}"


def not_checked(outcomes: Iterable[Outcome]) -> list[str]:
    """Return what was asked for and could not be verified: a line per reason, with its cases."""
    cases: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.verdict is Verdict.UNVERIFIED:
            cases.setdefault(outcome.message, []).append(outcome.case)
    return [f"{message}: {', '.join(names)}" for message, names in cases.items()]


def left_out(scope: Scope) -> list[str]:
    """Return a line on each kind of cases that a run left out, although it was asked for them."""
    lines = []
    if scope.not_run:
        lines.append(f"did not begin, because the run ended before: {', '.join(scope.not_run)}")
    if scope.unread:
        lines.append(f"files with mistakes, none of whose cases ran: {', '.join(scope.unread)}")
    return lines


def costs(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line per case whose cost changed, or was asked for and could not be compared."""
    lines = []
    for outcome in outcomes:
        words = "" if outcome.cost is None else _cost_words(outcome.cost)
        if words:
            lines.append(f"{outcome.case}: {words}")
    return lines


def _cost_words(cost: Cost) -> str:
    """Return how the cost of a case changed, or why it could not be compared.

    The text is empty where the cost is in order, where the scenario bounds no cost, and where there
    is nothing to compare it with.
    """
    if cost.verdict in CHANGED:
        return f"{cost.verdict}: {', '.join(_changed_seconds(cost))}"
    was_asked_for = cost.ratio is not None and cost.reason is not CostReason.NO_BOUNDS
    if cost.verdict is CostVerdict.UNKNOWN and was_asked_for:
        return f"{cost.verdict}: {reasons.cost_is_unknown(cost)}"
    return ""


def _changed_seconds(cost: Cost) -> list[str]:
    """Return the change of a run's seconds, then of each scheduler step that both sides timed."""
    found = []
    if cost.baseline_seconds is not None:
        found.append(f"a run {_change(cost.figures.seconds, cost.baseline_seconds)}")
    for scheduler, seconds in cost.figures.step_seconds.items():
        if scheduler in cost.baseline_step_seconds:
            before = cost.baseline_step_seconds[scheduler]
            found.append(f"a step of {scheduler} {_change(seconds, before)}")
    return found


def _change(actual: float, expected: float) -> str:
    return f"{expected:.4f} -> {actual:.4f} s (x{actual / expected:.2f})"


# What `record` and `accept` wrote.


def wrote(path: Path | str, recording: Recording) -> str:
    """Return one line on a baseline that was written: its size, and the size by kind of stage.

    It warns where the cost cannot be used.
    """
    amount = size_in_words(recording.tensors_path.stat().st_size)
    words = f"wrote {path} and {amount} of tensors: {_by_stage(recording)}"
    held_down_by = slowed_by(recording.cost)
    if held_down_by:
        names = ", ".join(held_down_by)
        words += f"; no run is compared with its cost, because the GPU was slowed down by {names}"
    return words


def eight_bits(cases: Sequence[str]) -> str:
    """Return the advice for the cases, at least one, whose images have 8 bits a channel."""
    more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
    return (
        f"advice: the images of {cases[0]}{more} have 8 bits a channel, so that drift below one of "
        "255 levels does not show; `output_type: np` in `call` keeps the pipeline's own values"
    )


def too_large(path: Path | str, recording: Recording, most: int) -> str:
    """Return a warning where a baseline is larger than `most` bytes; empty where it is not."""
    size = recording.tensors_path.stat().st_size
    if size <= most:
        return ""
    return (
        f"{path} keeps {size_in_words(size)} of tensors, more than the {size_in_words(most)} of "
        f"--warn-above: {_by_stage(recording)}; `keep-every: N` in the scenario keeps every N-th "
        "step of a scheduler, and a smaller call makes every tensor smaller"
    )


def size_in_words(size: int) -> str:
    """Return a number of bytes as KiB or MiB."""
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / KIB:.0f} KiB"


def _by_stage(recording: Recording) -> str:
    """Return the size of what is kept of each kind of stage, the largest first."""
    sizes = recording.bytes_by_stage()
    return ", ".join(f"{safe_line(kind)} {size_in_words(size)}" for kind, size in sizes.items())
