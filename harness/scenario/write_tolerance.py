"""Puts bounds, and the evidence that they came from, into a scenario's file; every other line stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.scenario.fields import SHAPE
from harness.scenario.located_yaml import load


def write_tolerance(path: Path, bounds: dict[str, Any], evidence: dict[str, Any]) -> None:
    """Replace the bounds and the evidence of `tolerance` in a scenario's file; every other line stays as it is."""
    values, place = load(path, SHAPE)
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = {
        key: value
        for key, value in values.get("tolerance", {}).items()
        if key not in (*bounds, "evidence")
    }
    made = ["tolerance:", *(f"  {key}: {_flow(value)}" for key, value in bounds.items())]
    made += [f"  {key}: {_flow(value)}" for key, value in kept.items()]
    made += [
        "  evidence:  # written by `harness calibrate --write`",
        *(f"    {key}: {_flow(value)}" for key, value in evidence.items()),
    ]
    members = place.members()
    if "tolerance" in members:
        key_place, value_place = members["tolerance"]
        first, last = key_place.node.start_mark.line, value_place.node.end_mark
        end = last.line + (1 if last.column else 0)
        while end > first + 1 and (
            not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")
        ):
            end -= 1  # blank lines and comments belong to what follows
        lines[first:end] = made
    else:
        lines += made
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.1e}" if value else "0.0"
    return json.dumps(value, ensure_ascii=False)
