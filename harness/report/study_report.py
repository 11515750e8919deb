"""Owns how studies look on a terminal: overheads, calibrations, challenges and bisections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from harness.judge import reasons
from harness.report.terminal import print_text, table
from harness.scenario.tolerance import BoundKey, Kind, Tolerances

if TYPE_CHECKING:
    from harness.study.bisect import Bisection, Change
    from harness.study.calibrate import Calibration
    from harness.study.challenge import Challenge, Trial
    from harness.study.overhead import Overhead

OVERHEAD_HEADINGS = ("case", "settings", "seconds", "against", "ratio", "spread", "bits")
CALIBRATION_HEADINGS = (
    "drift",
    "perturbation, median",
    "worst platform",
    "which",
    "bound that follows",
    "current bound",
)
CHALLENGE_HEADINGS = ("fault", "effect", "same class", "other class", "proof")
METHOD_HEADINGS = ("method", "detection rate", "of faults above the noise")
BISECTION_HEADINGS = (
    "release",
    "against",
    "L-inf",
    "rel L2",
    "first difference",
    "changed beside it",
)
SHOWN_BESIDE = 4  # changes beside a release; bisect.json has all
# Characters that are shown; the JSON file beside the recordings has all.
SHOWN_PROOF, SHOWN_WITHOUT_EFFECT, SHOWN_SKIPPED = 60, 120, 160


# Overheads.


def overhead_row(found: Overhead) -> tuple[str, ...]:
    """Return one row of the table, in the order of `OVERHEAD_HEADINGS`."""
    return (
        found.case,
        found.pair,
        f"{found.seconds:.3f}",
        f"{found.against:.3f}",
        f"x{found.ratio:.2f}",
        f"{found.least:.2f} to {found.most:.2f}",
        "same" if found.same_bits else "other",
    )


def print_overheads(out: Console, found: Sequence[Overhead], missed: Mapping[str, str]) -> None:
    """Print what each pair of settings costs each case, and why cases could not run."""
    if found:
        out.print(table(OVERHEAD_HEADINGS, [overhead_row(each) for each in found]))
    for case, reason in missed.items():
        print_text(out, f"could not run: {case}: {reason}")


# Calibrations.


def print_calibration(out: Console, found: Calibration, current: Tolerances) -> None:
    """Print what was measured, the bounds that follow, and whether they admit unseen platforms.

    Args:
        out: Where to print.
        found: What was measured.
        current: The tolerances that the scenario has now.
    """
    measured = f"{found.seeds} seeds, {found.perturbations} perturbations"
    print_text(out, f"{found.case} against {found.on}; {measured}")
    out.print(table(CALIBRATION_HEADINGS, calibration_rows(found, current)))
    out.print()
    left_out = found.left_out()
    refused = [name for name, is_admitted in left_out.items() if not is_admitted]
    admitted = f"{len(left_out) - len(refused)} of {len(left_out)}"
    print_text(out, f"leaving one platform out: {admitted} are admitted by the others' bounds")
    for name in refused:
        print_text(out, f"  not admitted: {name}")
    for name, reason in found.missed.items():
        print_text(out, f"not measured: {name}: {reason}")


@dataclass(frozen=True)
class BoundRow:
    """A bound that follows from a calibration.

    Attributes:
        bound: What it bounds, such as `cross-class rel_l2`.
        noise: The median drift over perturbations.
        worst: The largest drift of any platform.
        platform: That platform; empty where none drifted.
        derived: The bound that follows.
        current: The bound that the scenario has now; None where it has none.
    """

    bound: str
    noise: float
    worst: float
    platform: str
    derived: float
    current: float | None


def bound_rows(found: Calibration, current: Tolerances) -> list[BoundRow]:
    """Return a row per bound that follows."""
    from harness.study.calibrate import compact, worst_of

    worst, limits = found.worst(), compact(found.limits())
    current_bounds = _bounds(current)
    rows: list[BoundRow] = []
    for key, limit in limits.items():
        noise = worst_of(key, found.noise, limits).value
        farthest = worst_of(key, worst, limits)
        platform = _platform_of(found, farthest.key, farthest.value)
        rows.append(
            BoundRow(str(key), noise, farthest.value, platform, limit, current_bounds.get(key))
        )
    return rows


def calibration_rows(found: Calibration, current: Tolerances) -> list[tuple[str, ...]]:
    """Return a row of text per bound that follows, in the order of `CALIBRATION_HEADINGS`."""
    return [
        (
            row.bound,
            f"{row.noise:.1e}",
            f"{row.worst:.1e}",
            row.platform,
            f"{row.derived:.1e}",
            "" if row.current is None else f"{row.current:.1e}",
        )
        for row in bound_rows(found, current)
    ]


def _bounds(tolerances: Tolerances) -> dict[BoundKey, float]:
    """Return every bound of a scenario by its key."""
    found: dict[BoundKey, float] = {}
    for kind in Kind:
        tolerance = tolerances.of(kind)
        if tolerance is not None:
            found |= tolerance.by_key(kind)
    return found


def _platform_of(found: Calibration, key: BoundKey, value: float) -> str:
    """Return the first platform that drifted by `value`; empty where none drifted."""
    if value:
        for name, figures in found.platforms.items():
            if figures.get(key) == value:
                return name
    return ""


# Challenges.


def print_challenge(out: Console, found: Challenge) -> None:
    """Print every fault, whether it is caught in the same class and in another, and by what."""
    trials = sorted(found.trials, key=_effect, reverse=True)
    print_text(out, f"{found.case}; the other class is {found.platform}")
    rows = [_trial_row(found, trial) for trial in trials]
    out.print(table(CHALLENGE_HEADINGS, rows))
    for reason, names in _by_reason(found.without_effect).items():
        print_text(out, f"no effect: {', '.join(names)}: {reason[:SHOWN_WITHOUT_EFFECT]}")
    if found.without_noise:
        print_text(
            out,
            f"the evidence has no noise of {', '.join(found.without_noise)}; no fault counts as "
            "above the noise by these until `harness calibrate --write` has measured it",
        )
    out.print()
    out.print(table(METHOD_HEADINGS, method_rows(found)))


def method_rows(found: Challenge) -> list[tuple[str, str, str]]:
    """Return the detection rate of each method, in the order of `METHOD_HEADINGS`.

    The methods in use elsewhere come first, then this harness in the same and in another class.
    """
    from harness.study.other_methods import METHODS

    methods: dict[str, Callable[[Trial], bool]] = {
        **{name: partial(_is_seen_by, name) for name in METHODS},
        "harness, same class": _is_caught_in_the_same_class,
        "harness, other class": _is_caught,
    }
    return [
        (name, _rate(found.trials, catches), _rate(found.above_noise, catches))
        for name, catches in methods.items()
    ]


def _trial_row(found: Challenge, trial: Trial) -> tuple[str, ...]:
    if trial.caught:
        other = f"caught x{trial.ratio:.3g} by {reasons.measured(trial.checks[0])}"
    else:
        word = "MISSED" if found.is_above_noise(trial) else "below the noise"
        other = f"{word} x{trial.ratio:.2g}"
    return trial.fault, f"{trial.effect:.1e}", "caught", other, trial.proof[:SHOWN_PROOF]


def _by_reason(without_effect: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of faults by the first line of why they had no effect."""
    found: dict[str, list[str]] = {}
    for name, reason in without_effect.items():
        found.setdefault(reason.partition("\n")[0], []).append(name)
    return found


def _rate(trials: Sequence[Trial], catches: Callable[[Trial], bool]) -> str:
    caught = sum(map(catches, trials))
    percent = 100 * caught / max(1, len(trials))
    return f"{caught} of {len(trials)} ({percent:.0f} %)"


def _effect(trial: Trial) -> float:
    return trial.effect


def _is_caught(trial: Trial) -> bool:
    return trial.caught


def _is_caught_in_the_same_class(_trial: Trial) -> bool:
    """Return True: the class owes the same bits, and a trial is of a fault that changed some."""
    return True


def _is_seen_by(method: str, trial: Trial) -> bool:
    return method not in trial.unseen_by


# Bisections.


def print_bisection(out: Console, found: Bisection) -> None:
    """Print which releases moved a case's output, how far, where first, and what stays unknown."""
    span = f"{found.releases[0]} to {found.releases[-1]}"
    tried = f"{len(found.tried)} of {len(found.releases)} releases recorded"
    moved = "" if found.changes else ": not moved"
    skipped = f"{len(found.skipped)} skipped"
    print_text(out, f"{found.case}, {found.package} {span}; {tried}, {skipped}{moved}")
    if found.changes:
        out.print(table(BISECTION_HEADINGS, [_change_row(change) for change in found.changes]))
    if found.suspects:
        print_text(out, f"or one of the skipped before it: {', '.join(found.suspects)}")
    for release, reason in found.skipped.items():
        shown = " ".join(reason.split())[:SHOWN_SKIPPED]
        print_text(out, f"skipped: {release}: {shown}")
    out.print()


def _change_row(change: Change) -> tuple[str, ...]:
    return (
        change.release,
        change.against,
        f"{change.move.l_inf:.2e}",
        f"{change.move.rel_l2:.2e}",
        change.move.first,
        "; ".join(change.move.beside[:SHOWN_BESIDE]),
    )
