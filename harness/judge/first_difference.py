"""Names the first thing that differs between two recordings, from their digests alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from harness.judge import checks as tolerance
from harness.records import Recording

Figures = dict[str, dict[str, float]]  # `rel_l2` and `l_inf` by stage


def other_weights(now: Recording, then: Recording) -> list[str]:
    """Return the components of the checkpoint whose digests differ, in alphabetical order."""
    return sorted(
        name
        for name in {*now.weights, *then.weights}
        if now.weights.get(name) != then.weights.get(name)
    )


def other_tensors(now: Recording, then: Recording, component: str) -> list[str]:
    """Return the tensors of a component's weights whose digests differ; empty where a recording does not hold them."""
    mine, theirs = (
        now.inside("weights").get(component, {}),
        then.inside("weights").get(component, {}),
    )
    return (
        sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
        if mine and theirs
        else []
    )


def first(now: Recording, then: Recording) -> str | None:
    """Return the first differing input or stage in the order of the run, in words; None if nothing differs.

    Inputs come first: weights, the schedulers' configurations, noise, the schedulers' tables; then the stages.
    """
    return _weights(now, then) or configuration(now, then) or besides_settings(now, then)


def besides_settings(now: Recording, then: Recording) -> str | None:
    """Return the same without weights and configurations: a release that adds a setting need not move anything by it."""
    return (
        _noise(now, then)
        or _tables(now, then)
        or _stages(now.stages, then.stages)
        or _outputs(now, then)
    )


def first_stage(now: Recording, then: Recording) -> str | None:
    """Return the first draw of noise or stage that gave other bits from the same bits; None where no stage did."""
    for index, (a, b) in enumerate(zip(now.content["noise"], then.content["noise"], strict=False)):
        if a["digest"] != b["digest"]:
            return f"noise#{index}"
    for mine, theirs in zip(now.stages, then.stages, strict=False):
        if mine["name"] != theirs["name"] or mine["inputs"] != theirs["inputs"]:
            return None
        if mine["outputs"] != theirs["outputs"]:
            return str(mine["name"])
    return None


def by_value(local: Figures, free: Figures, bounds: dict[str, Any]) -> list[str]:
    """Return what sizes say across classes, where every stage has other bits: who leaves its envelope, and where drift jumps.

    Args:
        local: Drift of each stage on the baseline's inputs, in the order of the run.
        free: Drift of each stage in the free run.
        bounds: The scenario's cross-class bounds.
    """
    said = []
    checks = [
        (stage, check)
        for stage in local
        for check in tolerance.check_local({stage: local[stage]}, bounds)
    ]
    checks = [
        (stage, check) for stage, check in checks if check.what.endswith(f" {stage}")
    ]  # else another stage's bound
    outside = [(stage, check) for stage, check in checks if not check.passed]
    if outside:
        stage, check = outside[0]
        said.append(
            f"{stage} is the first outside its envelope: {check.value:.2e}, bound {check.bound:.2e}"
        )
    elif checks:
        stage, check = max(
            checks, key=lambda item: item[1].value / item[1].bound if item[1].bound else 0.0
        )
        said.append(
            f"no stage leaves its envelope; nearest is {stage}: {check.value:.2e}, bound {check.bound:.2e}"
        )
    steps: dict[str, list[tuple[str, float]]] = {}
    for stage, figures in free.items():
        if (
            ".step#" in stage and figures["rel_l2"] > 0
        ):  # a step feeds the next one: other stages need not
            steps.setdefault(tolerance.kind_of(stage), []).append((stage, figures["rel_l2"]))
    jumps = [
        (after / before, stage)
        for same in steps.values()
        for (_, before), (stage, after) in pairwise(same)
    ]
    if jumps and max(jumps)[0] > 1:
        ratio, stage = max(jumps)
        said.append(f"free drift grows most at {stage}: {ratio:.3g} times what it was")
    return said


def _weights(now: Recording, then: Recording) -> str | None:
    found = other_weights(now, then)
    if not found:
        return None
    tensors = other_tensors(now, then, found[0])
    some = (
        f": {', '.join(tensors[:3])}"
        + (f" and {len(tensors) - 3} more" if len(tensors) > 3 else "")
        if tensors
        else ""
    )
    return f"weights of {found[0]}{some}"


def _tables(now: Recording, then: Recording) -> str | None:
    mine, theirs = now.content["inputs"].get("tables", {}), then.content["inputs"].get("tables", {})
    for scheduler in sorted({*mine} & {*theirs}):
        both = {*mine[scheduler]} & {*theirs[scheduler]}
        changed = sorted(name for name in both if mine[scheduler][name] != theirs[scheduler][name])
        if changed:
            return f"{', '.join(changed[:3])} of {scheduler}"
    return None


def _outputs(now: Recording, then: Recording) -> str | None:
    names = sorted({*now.outputs, *then.outputs})
    changed = [
        n
        for n in names
        if now.outputs.get(n, {}).get("digest") != then.outputs.get(n, {}).get("digest")
    ]
    return f"{', '.join(changed)}, after the last stage" if changed else None


def configuration(now: Recording, then: Recording) -> str | None:
    """Return the first scheduler whose configuration differs, with up to three of its settings; None if none does."""
    mine, theirs = now.content["inputs"]["schedulers"], then.content["inputs"]["schedulers"]
    for name in sorted({*mine, *theirs}):
        a, b = mine.get(name, {}), theirs.get(name, {})
        changed = sorted(key for key in {*a, *b} if a.get(key) != b.get(key))
        if changed:
            words = ", ".join(f"{key} {b.get(key)!r} -> {a.get(key)!r}" for key in changed[:3])
            return f"configuration of {name}: {words}"
    return None


def _noise(now: Recording, then: Recording) -> str | None:
    if any(
        "noise" in recording.content["environment"].get("unobserved", ())
        for recording in (now, then)
    ):
        return None  # a release in which it cannot be seen
    mine, theirs = now.content["noise"], then.content["noise"]
    for index, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a["digest"] != b["digest"]:
            return f"noise#{index}"
    return (
        f"count of noise draws: {len(theirs)} -> {len(mine)}" if len(mine) != len(theirs) else None
    )


def _stages(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str | None:
    for a, b in zip(mine, theirs, strict=False):
        if a["name"] != b["name"]:
            return f"order of stages: {b['name']} -> {a['name']}"
        inputs = sorted(
            key
            for key in {*a["inputs"], *b["inputs"]}
            if a["inputs"].get(key) != b["inputs"].get(key)
        )
        if inputs:
            return f"{a['name']}, its input {', '.join(inputs)}"
        if a["outputs"] != b["outputs"]:
            return str(a["name"])
    return f"count of stages: {len(theirs)} -> {len(mine)}" if len(mine) != len(theirs) else None
