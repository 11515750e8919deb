"""What changed in the environment between a baseline and now, sorted by how likely it is to matter."""

from __future__ import annotations

from typing import Any

ORDER = ("torch", "diffusers", "transformers", "numpy", "safetensors", "tokenizers", "accelerate", "huggingface_hub", "python")


def list_changes(now: dict[str, Any], then: dict[str, Any]) -> tuple[str, ...]:
    """Return one line per difference between two environments: versions, GPU and driver, flags, variables, CPU, class."""
    versions = _differences(now["versions"], then["versions"])
    versions.sort(key=lambda item: ORDER.index(item[0]) if item[0] in ORDER else len(ORDER))
    gpu = _differences(now["hardware"].get("gpu", {}), then["hardware"].get("gpu", {}))
    flags = _differences(now["flags"], then["flags"])
    variables = _differences(now["variables"], then["variables"])
    machine = [item for item in _differences(now["hardware"], then["hardware"]) if item[0] != "gpu"]
    lines = [f"{name} {old} -> {new}" for name, old, new in [*versions, *gpu, *flags, *variables, *machine]]
    operators = [name for name, _, _ in _differences(now["class"]["operators"], then["class"]["operators"])]
    if operators:
        lines.append("operators with other bits: " + ", ".join(operators))
    return tuple(lines)


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = sorted({*now, *then})
    return [(n, _word(then, n), _word(now, n)) for n in names if now.get(n) != then.get(n) or (n in now) != (n in then)]


def _word(facts: dict[str, Any], name: str) -> str:
    return str(facts[name]) if name in facts else "unset"
