"""What changed in the environment between a baseline and now, sorted by how likely it is to matter."""

from __future__ import annotations

from typing import Any

FRAMEWORKS = ("torch", "diffusers", "transformers")  # what computes; other packages come last


def list_changes(now: dict[str, Any], then: dict[str, Any]) -> tuple[str, ...]:
    """Return one line per difference between two environments, the likeliest to matter first.

    Versions of frameworks, GPU and driver, flags, variables, CPU, operators; then other packages.
    """
    versions = _differences(now["versions"], then["versions"])
    frameworks = sorted(
        (item for item in versions if item[0] in FRAMEWORKS),
        key=lambda item: FRAMEWORKS.index(item[0]),
    )
    packages = [item for item in versions if item[0] not in FRAMEWORKS]
    gpu = _differences(now["hardware"].get("gpu", {}), then["hardware"].get("gpu", {}))
    flags = _differences(now["flags"], then["flags"])
    variables = _differences(now["variables"], then["variables"])
    machine = [item for item in _differences(now["hardware"], then["hardware"]) if item[0] != "gpu"]
    unseen = sorted({name for side in (now, then) for name in side.get("unobserved", ())})
    operators = [
        name for name, _, _ in _differences(now["class"]["operators"], then["class"]["operators"])
    ]
    computes = [side.get("framework", "torch") for side in (then, now)]
    lines = [f"framework {computes[0]} -> {computes[1]}"] if computes[0] != computes[1] else []
    lines += [f"not observed in one of the two: {name}" for name in unseen]
    lines += [
        f"{name} {old} -> {new}"
        for name, old, new in [*frameworks, *gpu, *flags, *variables, *machine]
    ]
    lines += [f"operators with other bits: {', '.join(operators)}"] if operators else []
    return (*lines, *(f"{name} {old} -> {new}" for name, old, new in packages))


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = sorted({*now, *then})
    return [
        (n, _word(then, n), _word(now, n))
        for n in names
        if now.get(n) != then.get(n) or (n in now) != (n in then)
    ]


def _word(facts: dict[str, Any], name: str) -> str:
    return str(facts[name]) if name in facts else "unset"
