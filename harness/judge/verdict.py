"""From a recording and a baseline to a verdict. Order: expectations, staleness, structure, digests, numbers."""

from __future__ import annotations

import math
from typing import Any

from harness.judge import (
    checks as tolerance,
)
from harness.judge import (
    drift,
)
from harness.judge import (
    environment_diff as changes,
)
from harness.judge import (
    expectations as expect,
)
from harness.judge import (
    first_difference as divergence,
)
from harness.judge.cost import judge_cost
from harness.records import NO_BOUNDS, Baseline, Check, Drift, Match, Outcome, Recording
from harness.scenario.model import Case, Scenario
from harness.scenario.tolerance import flat


def unrun(case: Case, verdict: str, reason: str, log: str = "") -> Outcome:
    """Return the outcome of a case that left no recording: `unverified` or `error`."""
    return Outcome(
        case=case.id,
        scenario=case.scenario.name,
        verdict=verdict,
        reason=reason,
        place=case.place,
        tags=case.scenario.tags,
        log=log,
    )


def wants_anchored(scenario: Scenario, now: Recording, match: Match) -> bool:
    """Whether the case must run once more on the baseline's inputs: other bits, in another class, of the same structure."""
    then = match.baseline.recording
    if match.same_class or _stale(scenario, match, now) or structure(now, then):
        return False
    return not same_bits(now, then)


def judge(
    case: Case,
    recording: Recording,
    match: Match | None,
    singles: list[Recording],
    anchored: Recording | None = None,
) -> Outcome:
    """Say the verdict on one recording.

    Args:
        case: What was run.
        recording: What it left.
        match: The baseline to hold it against, or None if there is none.
        singles: The recordings of each image made alone, where the scenario expects `batch-equals-single`.
        anchored: The recording in which every stage got the baseline's inputs, where `wants_anchored` says so.
    """
    scenario = case.scenario
    then = match.baseline.recording if match else None
    stale = _stale(scenario, match, recording) if match else ""
    problem, checks = expect.broken(scenario, recording, singles)
    common: dict[str, Any] = {
        "case": case.id,
        "scenario": scenario.name,
        "place": case.place,
        "tags": scenario.tags,
        "device_kind": recording.content["environment"]["device_kind"],
        "cost": judge_cost(recording, None if stale else then, scenario.cost),
        "repeat_l_inf": recording.content["repeat"]["l_inf"],
        "checks": tuple(checks),
    }
    infinite = [name for name, output in recording.outputs.items() if not output["finite"]]
    if infinite:
        return Outcome(
            verdict="incomparable", reason=f"{', '.join(infinite)} holds NaN or infinity", **common
        )
    if problem:
        return Outcome(verdict="unrepeatable", reason=problem, **common)
    if not scenario.owes_baseline:
        distance = common["repeat_l_inf"]
        reason = "varies as expected: " + (
            "in shape" if distance is None else f"L-inf between runs {distance:.3g}"
        )
        return Outcome(verdict="within", reason=reason, **common)
    published = _published(scenario, case.device, recording)
    if match is None or then is None:
        return _without_baseline(published, scenario.reference or "", common)
    common["baseline"] = {
        "class": then.numerics_class["name"],
        "same_class": match.same_class,
        "why": match.why,
    }
    if "certificate" in match.baseline.notes:
        common["baseline"]["certificate"] = match.baseline.notes["certificate"]
    common["changes"] = changes.list_changes(
        recording.content["environment"], then.content["environment"]
    )
    if stale:
        return Outcome(verdict="stale", reason=stale, **common)
    other = structure(recording, then)
    if other:
        return Outcome(verdict="incomparable", reason=other, **common)
    if anchored is not None:
        common["local"] = drift.of_stages(anchored, then)
    return _compared(case, recording, match, published, common)


def _compared(
    case: Case, now: Recording, match: Match, published: list[Check], common: dict[str, Any]
) -> Outcome:
    """Compare outputs of one structure: by digest, then by numbers against the bounds of this kind of comparison."""
    scenario, then = case.scenario, match.baseline.recording
    common["checks"] = (*common["checks"], *published)
    common["first_divergence"] = divergence.first(now, then)
    same, bounds = (
        same_bits(now, then),
        "identical" if match.same_class else scenario.tolerance.get("cross-class", "identical"),
    )
    if not same:
        common["outputs"], common["free"] = drift.of_outputs(now, then), drift.of_stages(now, then)
        held = [
            check
            for name, d in common["outputs"].items()
            for check in tolerance.check(name, d, bounds)
        ]
        common["checks"] = (
            *held,
            *tolerance.check_local(common.get("local", {}), bounds),
            *common["checks"],
        )
    else:
        common["outputs"] = {name: _still(output) for name, output in then.outputs.items()}
    failed = [check for check in common["checks"] if not check.passed]
    if not same and bounds == "identical" and not failed:  # minus zero: other bits, equal numbers
        failed = [Check("bits", math.nan, 0.0)]
    if failed:
        return Outcome(
            verdict="drifted", reason=_why_drifted(failed[0], match, scenario, common), **common
        )
    if same:
        return Outcome(
            verdict="identical", reason=f"same bits as the baseline of {match.why}", **common
        )
    reason = f"inside the cross-class tolerance of {match.why}; first difference: {common['first_divergence']}"
    return Outcome(verdict="within", reason=reason, **common)


def _why_drifted(failed: Check, match: Match, scenario: Scenario, common: dict[str, Any]) -> str:
    where = (
        f"; first difference: {common['first_divergence']}" if common["first_divergence"] else ""
    )
    if "published" in failed.what:
        return f"{failed.what}: off by {failed.value:.3g} (bound {failed.bound:.3g}){where}"
    if match.same_class:
        return f"other bits than the baseline of the same class {match.baseline.recording.numerics_class['name']}{where}"
    if "cross-class" not in scenario.tolerance:
        return f"other bits than the baseline of {match.why}, and {NO_BOUNDS}{where}"
    return f"{failed.what} = {failed.value:.3g} (bound {failed.bound:.3g}) against the baseline of {match.why}{where}"


def _without_baseline(published: list[Check], reference: str, common: dict[str, Any]) -> Outcome:
    if not published:
        sought = f", nor one of {reference}, its reference" if "/" in reference else ""
        return Outcome(verdict="missing", reason=f"no baseline for this case{sought}", **common)
    failed = [check for check in published if not check.passed]
    common["checks"] = (*common["checks"], *published)
    if failed:
        reason = f"{failed[0].what}: off by {failed[0].value:.3g} (bound {failed[0].bound:.3g})"
        return Outcome(verdict="drifted", reason=reason, **common)
    reason = f"by the published value alone, there is no baseline: {published[0].what}"
    return Outcome(verdict="within", reason=reason, **common)


def _published(scenario: Scenario, device: str, recording: Recording) -> list[Check]:
    """Hold published sums against this run's; the source is part of the check's name."""
    checks = []
    for name, value in scenario.published.items():
        if value.get("on", device) != device:
            continue
        abs_sum = recording.outputs[name]["abs_sum"] if name in recording.outputs else float("nan")
        what = f"{name} abs_sum {abs_sum:.4f}, published {value['abs_sum']:.4f} ({value['source']})"
        checks.append(Check(what, abs(abs_sum - value["abs_sum"]), value["within"]))
    return checks


def _stale(scenario: Scenario, match: Match, now: Recording) -> str:
    if match.baseline.fingerprint != scenario.fingerprint:
        edited = ", ".join(_edited(scenario, match.baseline))
        when = match.baseline.provenance["date"]
        return f"the baseline belongs to another version of the scenario (of {when}){f': {edited}' if edited else ''}"
    other = divergence.other_weights(now, match.baseline.recording)
    return f"the baseline belongs to other weights: {', '.join(other)}" if other else ""


def _edited(scenario: Scenario, then: Baseline) -> list[str]:
    """Return what of the scenario decides the numbers and was edited since, as far as the baseline knows."""
    if "decides" not in then.notes:
        return []
    both = (flat(side) for side in (then.notes["decides"], scenario.decides))
    before, after = (
        {key: value for key, value in side.items() if value is not None} for side in both
    )
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return [
        f"{'.'.join(key)} {before.get(key, 'unset')} -> {after.get(key, 'unset')}" for key in keys
    ]


def structure(now: Recording, then: Recording) -> str:
    """Return what makes two recordings' outputs incomparable: a name, shape or dtype; else nothing."""
    for name in sorted({*now.outputs, *then.outputs}):
        if name not in now.outputs or name not in then.outputs:
            return f"output `{name}` is only in {'this run' if name in now.outputs else 'the baseline'}"
        for fact in ("shape", "dtype"):
            if now.outputs[name][fact] != then.outputs[name][fact]:
                return f"output `{name}` has another {fact}: {then.outputs[name][fact]} -> {now.outputs[name][fact]}"
    return ""


def same_bits(now: Recording, then: Recording) -> bool:
    """Return whether every output of `then` has the same bits now."""
    return all(now.outputs[name]["digest"] == then.outputs[name]["digest"] for name in then.outputs)


def _still(output: dict[str, Any]) -> Drift:
    size = 1
    for extent in output["shape"]:
        size *= extent
    return Drift(0.0, 0.0, output["abs_sum"], output["abs_sum"], 0, size, (), 0.0, 0.0)
