"""Owns how `accept` says what a new baseline replaces, and by how much: whoever accepts has looked.

It also says where bounds were derived from another version of the scenario than the accepted one.
"""

from __future__ import annotations

from collections.abc import Iterable
from shlex import join

from harness.judge import drift
from harness.judge.structure import structure
from harness.records import StageDrift, worst_first
from harness.report.safe_text import safe_line
from harness.report.wording import output_lines
from harness.scenario.model import Case
from harness.store.baselines import Baseline, Match, is_of_another_version
from harness.store.recording import Recording


def replaced_text(case: Case, recording: Recording, match: Match) -> str:
    """Return what a recording lies from the baseline that it replaces, or stands beside.

    That is the drift of each output and of the stage that moved farthest, and what else than the
    numbers differs.

    Args:
        case: The case.
        recording: What is accepted.
        match: The baseline of the same class; the reference where there is none.
    """
    expected = match.baseline
    verb = "replaces the baseline" if match.same_class else "comes beside the reference"
    accepted = f"of {expected.provenance.date} by {expected.provenance.author}"
    lines = [f"{case.id}: {verb} {expected.numerics_class.name} {accepted}"]
    other = structure(recording, expected)
    if other:
        lines.append(f"  {other}")
    moved = drift.of_shared_outputs(recording, expected)
    for name, found in moved.items():
        lines += output_lines(name, found) or [f"  {name}: the same values"]
    lines += _stage_lines(drift.of_stages(recording, expected))
    return "\n".join(map(safe_line, lines))


def bounds_text(case: Case, replaced: Baseline | None) -> str:
    """Return what to do about bounds that were measured for another version of the scenario.

    The text is empty where they were not.
    """
    scenario = case.scenario
    if not is_of_another_version(scenario.tolerances.evidence, scenario, replaced):
        return ""
    command = join(["harness", "calibrate", str(scenario.path), "-k", case.id, "--write"])
    return safe_line(
        f"{case.id}: the bounds in {scenario.path} and their evidence were measured with another "
        "version of the scenario (another scheduler, call or checkpoint), so the new baseline "
        f"keeps no evidence; measure them anew by: {command}"
    )


def _stage_lines(found: Iterable[StageDrift]) -> list[str]:
    """Return a line on the stage that moved farthest, by relative L2; none where none moved."""
    moved = [each for each in found if each.rel_l2 != 0]
    if not moved:
        return []
    worst = max(moved, key=_size)
    first = moved[0]
    sizes = f"relative L2 {worst.rel_l2:.3e}, L-inf {worst.l_inf:.3e}"
    return [f"  stages:   {first.name} is the first that moved; {worst.name} the farthest: {sizes}"]


def _size(moved: StageDrift) -> float:
    return worst_first(moved.rel_l2)
