"""Holds a run's cost against the baseline's, within one machine type only; says a word and why, never a verdict."""

from __future__ import annotations

from typing import Any

from harness.records import Recording

FIGURES = ("seconds", "rounds_seconds", "step_seconds", "first_seconds", "load_seconds", "peak_bytes", "conditions")
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
    of milliseconds passes the first, a drift of a long run the second. Without bounds, and where heat or a fault held a
    GPU's clock down in either run, the word is `unknown`.
    """
    mine = now.content["cost"]
    said = {key: mine[key] for key in FIGURES if key in mine}
    unfit = _unfit(now, then)
    if unfit or then is None:
        return {**said, "verdict": "unknown", "why": unfit, "ratio": None}
    theirs = then.content["cost"]
    seconds, before = mine["seconds"], theirs["seconds"]
    found = {**said, "ratio": seconds / before, "baseline_seconds": before, "baseline_step_seconds": theirs.get("step_seconds", {})}
    if "slower" not in bounds:
        return {**found, "verdict": "unknown", "why": "the scenario bounds no cost"}
    for side, its in (("this run", mine), ("the baseline", theirs)):
        if slowed(its):
            why = f"the GPU was slowed down in {side} by {', '.join(slowed(its))}"
            return {**found, "verdict": "unknown", "why": why, "slowed_by": slowed(its)}
    large = abs(seconds - before) > bounds.get("at_least_seconds", 0.0)
    slower, faster = found["ratio"] > bounds["slower"], found["ratio"] < 1 / bounds["slower"]
    return {**found, "verdict": "slower" if slower and large else "faster" if faster and large else "ok", "why": ""}


def _unfit(now: Recording, then: Recording | None) -> str:
    """Return why the two have no ratio, or nothing."""
    if then is None:
        return "no baseline"
    if machine_of(now) != machine_of(then):
        return f"the baseline is of another machine type, {machine_of(then)}"
    steady = all(one.content["cost"]["rounds_seconds"] and one.content["cost"]["seconds"] for one in (now, then))
    return "" if steady else "one run only, which warms up"


def slowed(cost: dict[str, Any]) -> list[str]:
    """Return what unusual held the clock of a recording's GPU down while it was timed."""
    return sorted({name for one in cost.get("conditions", []) for name in one.get("slowed_by", []) if name not in USUAL})
