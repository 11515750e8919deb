"""Draw free and local drift side by side over the steps of one run, one class against another.

python benchmarks/growth.py docs/drift-over-steps.svg     # DDIM, fifty steps, cifar10's architecture, synthetic weights
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from harness.judge import drift
from harness.scenario.model import read
from harness.session import Session
from harness.store.baselines import Store
from harness.study.platforms import PLATFORMS

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, TOP = 720, 380, 70, 40


def measure(platform: str, steps: int) -> dict[str, list[float]]:
    """Return the relative L2 drift of every scheduler step, free and local."""
    scenario = read(ROOT / "scenarios" / "ddim-cifar10-synthetic.yaml")
    case = replace(
        scenario, call={**scenario.call, "num_inference_steps": steps}, cost={"rounds": 1}
    ).cases()[0]
    with tempfile.TemporaryDirectory() as text, Session(Store(Path(text)), Path(text)) as session:
        base = session.record(case, folder=Path(text) / "base")
        there = PLATFORMS[platform].carry(case)
        free = session.record(there, folder=Path(text) / "free")
        anchored = session.record(
            replace(there, anchors=base.tensors_path.resolve()), folder=Path(text) / "anchored"
        )
        found = {"free": drift.of_stages(free, base), "local": drift.of_stages(anchored, base)}
    return {
        kind: [figures["rel_l2"] for name, figures in stages.items() if ".step#" in name]
        for kind, stages in found.items()
    }


def draw(found: dict[str, list[float]], title: str) -> str:
    """Return an SVG with a logarithmic axis; one line per kind of drift."""
    values = [value for series in found.values() for value in series if value > 0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(index: int, count: int) -> float:
        return LEFT + (WIDTH - LEFT - 110) * index / max(1, count - 1)

    def y(value: float) -> float:
        level = math.log10(max(value, 10.0**low))
        return TOP + (HEIGHT - TOP - 50) * (high - level) / (high - low)

    parts = [f'<text x="{LEFT}" y="22" font-size="14">{title}</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(
            f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - 110}" y2="{at:.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    for (kind, series), colour in zip(found.items(), ("#c0392b", "#2471a3"), strict=True):
        points = " ".join(
            f"{x(index, len(series)):.1f},{y(value):.1f}" for index, value in enumerate(series)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        label = f'<text x="{WIDTH - 102}" y="{y(series[-1]) + 4:.1f}" fill="{colour}">{kind} {series[-1]:.1e}</text>'
        parts.append(label)
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 14}">scheduler step 0 to {len(found["free"]) - 1}; relative L2 drift</text>'
    )
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    )
    return (
        "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"])
        + "\n"
    )


def main() -> None:
    """Measure, draw, and print the largest values and their ratio."""
    platform, steps = "threads-2", 50
    found = measure(platform, steps)
    title = f"DDIM, {steps} steps, cifar10 architecture, synthetic weights: 1 thread against 2"
    Path(sys.argv[1]).write_text(draw(found, title), encoding="utf-8")
    free, local = max(found["free"]), max(found["local"])
    print(
        f"{platform}, {steps} steps: free drift up to {free:.2e}, local drift up to {local:.2e}, ratio {free / local:.0f}"
    )


if __name__ == "__main__":
    main()
