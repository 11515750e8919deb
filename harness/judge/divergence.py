"""Names the first thing that differs between two recordings, from their digests alone."""

from __future__ import annotations

from typing import Any

from harness.records import Recording


def other_weights(now: Recording, then: Recording) -> list[str]:
    """Return the components of the checkpoint whose digests differ, in alphabetical order."""
    return sorted(name for name in {*now.weights, *then.weights} if now.weights.get(name) != then.weights.get(name))


def first(now: Recording, then: Recording) -> str | None:
    """Return the first differing input or stage in the order of the run: schedulers, noise, then stages; None if none."""
    return _schedulers(now, then) or _noise(now, then) or _stages(now.stages, then.stages) or _outputs(now, then)


def _outputs(now: Recording, then: Recording) -> str | None:
    names = sorted({*now.outputs, *then.outputs})
    changed = [n for n in names if now.outputs.get(n, {}).get("digest") != then.outputs.get(n, {}).get("digest")]
    return f"{', '.join(changed)}, after the last stage" if changed else None


def _schedulers(now: Recording, then: Recording) -> str | None:
    mine, theirs = now.content["inputs"]["schedulers"], then.content["inputs"]["schedulers"]
    for name in sorted({*mine, *theirs}):
        a, b = mine.get(name, {}), theirs.get(name, {})
        changed = sorted(key for key in {*a, *b} if a.get(key) != b.get(key))
        if changed:
            words = ", ".join(f"{key} {b.get(key)!r} -> {a.get(key)!r}" for key in changed[:3])
            return f"configuration of {name}: {words}"
    return None


def _noise(now: Recording, then: Recording) -> str | None:
    mine, theirs = now.content["noise"], then.content["noise"]
    for index, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a["digest"] != b["digest"]:
            return f"noise#{index}"
    return f"count of noise draws: {len(theirs)} -> {len(mine)}" if len(mine) != len(theirs) else None


def _stages(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str | None:
    for a, b in zip(mine, theirs, strict=False):
        if a["name"] != b["name"]:
            return f"order of stages: {b['name']} -> {a['name']}"
        inputs = sorted(key for key in {*a["inputs"], *b["inputs"]} if a["inputs"].get(key) != b["inputs"].get(key))
        if inputs:
            return f"{a['name']}, its input {', '.join(inputs)}"
        if a["outputs"] != b["outputs"]:
            return str(a["name"])
    return f"count of stages: {len(theirs)} -> {len(mine)}" if len(mine) != len(theirs) else None
