"""Holds a run's cost against the baseline's, within one machine type only; says a word, never a verdict."""

from __future__ import annotations

from typing import Any

from harness.records import Recording


def machine_of(recording: Recording) -> str:
    """Return what makes two machines comparable in speed: GPU and CPU model, the cores in use, a framework beside torch."""
    environment = recording.content["environment"]
    hardware, framework = environment["hardware"], environment.get("framework", "torch")
    gpu = hardware.get("gpu", {}).get("name", "")
    return f"{gpu} {hardware['cpu']} x{hardware['cores']}{'' if framework == 'torch' else f' {framework}'}".strip()


def judge_cost(now: Recording, then: Recording | None, bounds: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of runs, peak bytes, the ratio to the baseline, and `ok`, `slower`, `faster` or `unknown`.

    A change counts when it exceeds both bounds, the relative `slower` and the absolute `at_least_seconds`: noise on a run
    of milliseconds passes the first, a drift of a long run the second. Without bounds the word is `unknown`.
    """
    mine = now.content["cost"]
    said = {key: mine[key] for key in ("seconds", "rounds_seconds", "first_seconds", "load_seconds", "peak_bytes")}
    steady = then is not None and mine["rounds_seconds"] and then.content["cost"]["rounds_seconds"]  # a first run warms up
    if then is None or not steady or machine_of(now) != machine_of(then):
        return {**said, "verdict": "unknown", "ratio": None}
    seconds, before = mine["seconds"], then.content["cost"]["seconds"]
    ratio = seconds / before if before else None
    word = "unknown"
    if ratio is not None and "slower" in bounds:
        large = abs(seconds - before) > bounds.get("at_least_seconds", 0.0)
        slower, faster = ratio > bounds["slower"], ratio < 1 / bounds["slower"]
        word = "slower" if slower and large else "faster" if faster and large else "ok"
    return {**said, "verdict": word, "ratio": ratio, "baseline_seconds": before}
