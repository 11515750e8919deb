"""All wording of reports: outcomes as table rows, failures as paragraphs, runs as a line. Knows no medium."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Decimal
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from harness.judge.cost import CHANGED, UNBOUNDED, slowed
from harness.records import FAIL, NO_BOUNDS, PASS, UNVERIFIED, Check, Outcome, Recording

if TYPE_CHECKING:
    from harness.study.challenge import Challenge, Trial
    from harness.study.overhead import Price

HEADINGS = (
    "case",
    "verdict",
    "against",
    "L-inf",
    "rel L2",
    "abs-sum",
    "head-room",
    "seconds",
    "cost",
    "peak",
)
SPARE = (
    "peak",
    "head-room",
    "abs-sum",
    "against",
    "rel L2",
    "seconds",
    "cost",
)  # what a narrow terminal does without, in turn
PRICE_HEADINGS = ("case", "settings", "seconds", "against", "ratio", "spread", "bits")
MEANING = {
    "identical": "same bits",
    "within": "inside every tolerance",
    "drifted": "outside a tolerance, or other bits where the class owes the same",
    "unrepeatable": "runs on this machine differ, or an expectation does not hold",
    "missing": "no baseline",
    "stale": "the baseline belongs to another version of the scenario or other weights",
    "incomparable": "structure differs, or not finite",
    "error": "it did not run to the end",
    "unverified": "it could not run here",
}


def row(outcome: Outcome) -> tuple[str, ...]:
    """Return one line of the table, in the order of `HEADINGS`; empty where there is nothing to say."""
    worst = max(outcome.outputs.values(), key=lambda drift: _sortable(drift.l_inf), default=None)
    cost = outcome.cost
    return (
        outcome.case,
        outcome.verdict,
        against(outcome),
        f"{worst.l_inf:.2e}" if worst else "",
        f"{worst.rel_l2:.2e}" if worst else "",
        _abs_sum(worst.abs_sum, worst.abs_sum_expected) if worst else "",
        head_room(outcome.checks),
        f"{cost['seconds']:.3f}" if "seconds" in cost else "",
        " ".join(
            filter(
                None,
                [cost.get("verdict", ""), f"x{cost['ratio']:.2f}" if cost.get("ratio") else ""],
            )
        ),
        f"{cost['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in cost else "",
    )


def against(outcome: Outcome) -> str:
    """Return which kind of baseline judged: `same class`, `other class`, or nothing."""
    if outcome.baseline is None:
        return "published" if outcome.passes and "published" in outcome.reason else ""
    return "same class" if outcome.baseline["same_class"] else "other class"


def head_room(checks: Iterable[Check]) -> str:
    """Return how many times the tightest used tolerance is larger than what it was held against."""
    used = [check.bound / check.value for check in checks if check.value > 0]
    return f"x{min(used):.3g}" if used else ""


def required(check: Check) -> str:
    """Return the smallest bound with two digits that would have admitted this number."""
    if not math.isfinite(check.value) or check.value <= 0:
        return "none"
    number = Decimal(repr(check.value))
    return f"{float(number.quantize(Decimal(1).scaleb(number.adjusted() - 1), ROUND_CEILING)):.1e}"


def paragraph(outcome: Outcome, run: Path) -> str:
    """Return what a person needs to act on an outcome: what, where, how far, what changed, what to do next."""
    lines = [f"{outcome.verdict}: {outcome.case}", f"  why:      {outcome.reason}"]
    for name, drift in outcome.outputs.items():
        if drift.l_inf == 0:
            continue
        share = f"{drift.differing} of {drift.size} elements differ ({100 * drift.differing / drift.size:.3g} %)"
        lines.append(f"  {name}: L-inf {drift.l_inf:.3e}, relative L2 {drift.rel_l2:.3e}; {share}")
        lines.append(
            f"    worst:  {drift.worst_index} expected {drift.worst_expected:.9g}, actual {drift.worst_actual:.9g}"
        )
        lines.append(f"    abs-sum {drift.abs_sum:.6f}, expected {drift.abs_sum_expected:.6f}")
    for check in outcome.checks:
        if not check.passed:
            lines.append(
                f"  over:     {check.what} = {check.value:.3e}, bound {check.bound:.3e}, required tolerance {required(check)}"
            )
    if outcome.first_divergence:
        lines.append(f"  first:    {outcome.first_divergence}")
    if outcome.baseline:
        lines.append(f"  baseline: {outcome.baseline['why']}")
        changed = outcome.changes or ("nothing in the environment",)
        lines.append(f"  changed:  {changed[0]}")
        lines += [f"            {change}" for change in changed[1:8]]
        if len(changed) > 8:
            lines.append(f"            and {len(changed) - 8} more in results.json")
    if outcome.log:
        lines += ["  log:", *(f"    {line}" for line in outcome.log.strip().splitlines()[-6:])]
    if outcome.verdict == "drifted" and outcome.baseline:
        lines.append(
            f"  explain:  harness explain {quote(str(run))} '{outcome.case}'{_store(outcome)}"
        )
    advice = advise(outcome, run)
    return "\n".join([*lines, *([f"  next:     {advice}"] if advice else [])])


def _store(outcome: Outcome) -> str:
    return f" --baselines {quote(outcome.store)}" if outcome.store not in ("", "baselines") else ""


def advise(outcome: Outcome, run: Path) -> str:
    """Return the command that comes next, or nothing."""
    chosen = f"-k '{outcome.case}'{_store(outcome)}"
    if outcome.verdict == "missing":
        return " ".join(
            filter(None, ["harness record", quote(outcome.path) if outcome.path else "", chosen])
        )
    if outcome.verdict in ("drifted", "stale", "incomparable"):
        bound = f"harness calibrate {quote(outcome.path)} {chosen} --write, to admit what other machines do; or "
        chosen += f" --scenarios {quote(outcome.path)}" if outcome.path else ""
        accept = f"harness accept {quote(str(run))} {chosen} --reason TEXT, if this is what you want from now on"
        return bound + accept if NO_BOUNDS in outcome.reason and outcome.path else accept
    return ""


def summary(outcomes: list[Outcome]) -> str:
    """Return one line: `14 cases: 12 identical, 2 unverified`."""
    counted = Counter(outcome.verdict for outcome in outcomes)
    words = [
        f"{counted[verdict]} {verdict}"
        for verdict in (*PASS, *FAIL, UNVERIFIED)
        if counted[verdict]
    ]
    return f"{len(outcomes)} case{'s' if len(outcomes) != 1 else ''}: {', '.join(words) or 'nothing ran'}"


def not_checked(outcomes: Iterable[Outcome]) -> list[str]:
    """Return what was asked for and not verified: a line per reason, with the cases that it holds for."""
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.verdict == UNVERIFIED:
            reasons.setdefault(outcome.reason, []).append(outcome.case)
    return [f"{reason}: {', '.join(cases)}" for reason, cases in reasons.items()]


def costs(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line per case whose cost changed, with where, or whose seconds are no measure of it, with why."""
    lines = []
    for outcome in outcomes:
        cost = outcome.cost
        if cost.get("verdict") in CHANGED:
            steps = [
                f"a step of {name} {_change(seconds, cost['baseline_step_seconds'][name])}"
                for name, seconds in cost.get("step_seconds", {}).items()
                if name in cost.get("baseline_step_seconds", {})
            ]
            run = f"a run {_change(cost['seconds'], cost['baseline_seconds'])}"
            lines.append(f"{outcome.case}: {cost['verdict']}: {', '.join([run, *steps])}")
        elif cost.get("verdict") == "unknown" and cost.get("ratio") and cost["why"] != UNBOUNDED:
            lines.append(f"{outcome.case}: {cost['verdict']}: {cost['why']}")
    return lines


def _change(now: float, before: float) -> str:
    return f"{before:.4f} -> {now:.4f} s (x{now / before:.2f})"


def wrote(path: Path, recording: Recording) -> str:
    """Return what was written of a recording as the baseline at `path`, and whether its seconds are good for nothing."""
    size = recording.tensors_path.stat().st_size
    told = (
        f"wrote {path} and {size / 2**20:.1f} MiB of tensors"
        if size >= 2**20
        else f"wrote {path} and {size / 2**10:.0f} KiB of tensors"
    )
    by = slowed(recording.content["cost"])
    return (
        f"{told}; its cost judges no run, for the GPU was slowed down by {', '.join(by)}"
        if by
        else told
    )


def price(found: Price) -> tuple[str, ...]:
    """Return one line of the table of prices, in the order of `PRICE_HEADINGS`."""
    seconds, spread = (
        (f"{found.seconds:.3f}", f"{found.against:.3f}"),
        f"{found.least:.2f} to {found.most:.2f}",
    )
    return (
        found.case,
        found.pair,
        *seconds,
        f"x{found.ratio:.2f}",
        spread,
        "same" if found.same_bits else "other",
    )


def methods(found: Challenge) -> list[tuple[str, str, str]]:
    """Return how many faults each method catches: those in use elsewhere, and this harness in the same and another class."""
    from harness.study.other_methods import METHODS

    def line(name: str, caught: Callable[[Trial], bool]) -> tuple[str, str, str]:
        counts = [
            (sum(map(caught, trials)), len(trials))
            for trials in (list(found.trials), found.above_noise)
        ]
        every, above = (
            f"{hits} of {total} ({100 * hits / max(1, total):.0f} %)" for hits, total in counts
        )
        return name, every, above

    elsewhere = [line(name, partial(_seen_by, name)) for name in METHODS]
    own = [
        line("harness, same class", lambda _: True),
        line("harness, other class", lambda trial: trial.cross_class),
    ]
    return [*elsewhere, *own]


def _seen_by(method: str, trial: Trial) -> bool:
    return method not in trial.unseen_by


def _abs_sum(actual: float, expected: float) -> str:
    return f"{actual:.4f}" if actual == expected else f"{actual:.4f} ({actual - expected:+.1e})"


def _sortable(number: float) -> float:
    return math.inf if math.isnan(number) else number
