"""Holds a run's cost against the baseline's, within one machine type only; says a word and why, never a verdict."""

from __future__ import annotations

from statistics import median
from typing import Any

from harness.records import Recording

FIGURES = (
    "seconds",
    "rounds_seconds",
    "step_seconds",
    "first_seconds",
    "load_seconds",
    "peak_bytes",
    "conditions",
)
UNBOUNDED = "the scenario bounds no cost"
CHANGED = ("slower", "faster")
USUAL = ("power cap",)  # of what slows a GPU down: every long run of a large GPU meets it


def machine_of(recording: Recording) -> str:
    """Return what makes two machines comparable in speed: GPU and CPU model, the cores in use, a framework beside torch."""
    environment = recording.content["environment"]
    hardware, framework = environment["hardware"], environment.get("framework", "torch")
    gpu = hardware.get("gpu", {}).get("name", "")
    return f"{gpu} {hardware['cpu']} x{hardware['cores']}{'' if framework == 'torch' else f' {framework}'}".strip()


def judge_cost(now: Recording, then: Recording | None, bounds: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of `now`, the ratio to the baseline, and `ok`, `slower`, `faster` or `unknown` with `why`.

    A change counts when it exceeds both bounds, the relative `slower` and the absolute `at_least_seconds`: noise on a run
    of milliseconds passes the first, a drift of a long run the second. The word is `unknown` without bounds, where heat or a
    fault held a GPU's clock down in either run, and where the change is no more than the time for which other work had the
    processor.
    """
    mine = now.content["cost"]
    said = {key: mine[key] for key in FIGURES if key in mine}
    unfit = _unfit(now, then)
    if unfit or then is None:
        return {**said, "verdict": "unknown", "why": unfit, "ratio": None}
    theirs = then.content["cost"]
    seconds, before = mine["seconds"], theirs["seconds"]
    found = {
        **said,
        "ratio": seconds / before,
        "baseline_seconds": before,
        "baseline_step_seconds": theirs.get("step_seconds", {}),
    }
    if "slower" not in bounds:
        return {**found, "verdict": "unknown", "why": UNBOUNDED}
    for side, its in (("this run", mine), ("the baseline", theirs)):
        if slowed(its):
            return {
                **found,
                "verdict": "unknown",
                "why": f"the GPU was slowed down in {side} by {', '.join(slowed(its))}",
            }
    word = _word(seconds, before, bounds)
    fair = {
        "slower": _word(_unhindered(mine), before, bounds),
        "faster": _word(seconds, _unhindered(theirs), bounds),
    }
    if fair.get(word, word) != word:
        side = "this run" if word == "slower" else "the baseline"
        why = f"{word}, but other work had the processor in {side} for as long as that takes"
        return {**found, "verdict": "unknown", "why": why}
    return {**found, "verdict": word, "why": ""}


def _word(seconds: float, before: float, bounds: dict[str, Any]) -> str:
    if abs(seconds - before) <= bounds.get("at_least_seconds", 0.0):
        return "ok"
    return (
        "slower"
        if seconds > bounds["slower"] * before
        else "faster"
        if bounds["slower"] * seconds < before
        else "ok"
    )


def _unhindered(cost: dict[str, Any]) -> float:
    """Return the seconds of a run without those for which its threads waited while other work had the processor."""
    waited = [one.get("waited", 0.0) for one in cost.get("conditions", [])] or [0.0] * len(
        cost["rounds_seconds"]
    )
    return float(
        median(
            seconds - other for seconds, other in zip(cost["rounds_seconds"], waited, strict=True)
        )
    )


def _unfit(now: Recording, then: Recording | None) -> str:
    """Return why the two have no ratio, or nothing."""
    if then is None:
        return "no baseline of this version of the scenario"
    if machine_of(now) != machine_of(then):
        return f"the baseline is of another machine type, {machine_of(then)}"
    steady = all(
        one.content["cost"]["rounds_seconds"] and one.content["cost"]["seconds"]
        for one in (now, then)
    )
    return "" if steady else "one run only, which warms up"


def slowed(cost: dict[str, Any]) -> list[str]:
    """Return what unusual held the clock of a recording's GPU down while it was timed."""
    return sorted(
        {
            name
            for one in cost.get("conditions", [])
            for name in one.get("slowed_by", [])
            if name not in USUAL
        }
    )
