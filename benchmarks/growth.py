"""Draws free and local drift side by side over the steps of one run, one thread against two.

The run is DDIM with fifty steps, on the architecture of google/ddpm-cifar10-32 with synthetic
weights. It shows why a tolerance bounds local drift: free drift grows from step to step, because
each step starts from what the last one left, and local drift does not.

    python benchmarks/growth.py docs/drift-over-steps.svg

It writes that picture and prints the largest values. It takes about a minute on two idle cores.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import scenario_named, teacher_forced, temporary_session

from harness.judge import drift
from harness.records import StageDrift
from harness.scenario.model import CostBounds
from harness.study.platforms import PLATFORMS

PLATFORM = "threads-2"
STEPS = 50
TITLE = f"DDIM, {STEPS} steps, cifar10 architecture, synthetic weights: 1 thread against 2"

# Pixels of the picture, and of the margins around the plot.
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 110, 40, 50
COLOURS = {"free": "#c0392b", "local": "#2471a3"}


def measure(platform: str, steps: int) -> dict[str, list[float]]:
    """Return the relative L2 drift of every scheduler step, by the kind of drift: free or local."""
    scenario = scenario_named("ddim-cifar10-synthetic")
    call = {**scenario.call, "num_inference_steps": steps}
    case = replace(scenario, call=call, cost=CostBounds(rounds=1)).cases()[0]
    with temporary_session() as session:
        base = session.record(case, folder=session.out / "base")
        other = PLATFORMS[platform].carry(case)
        free = session.record(other, folder=session.out / "free")
        forced = session.record(teacher_forced(other, base), folder=session.out / "teacher-forced")
        return {
            "free": _of_steps(drift.of_stages(free, base)),
            "local": _of_steps(drift.of_stages(forced, base)),
        }


def _of_steps(drifts: Sequence[StageDrift]) -> list[float]:
    return [each.rel_l2 for each in drifts if each.stage.is_scheduler_step]


@dataclass(frozen=True)
class Plot:
    """The area of the curves: `count` steps wide, the powers of ten from `low` to `high` high."""

    count: int
    low: int
    high: int

    def x(self, index: int) -> float:
        """Return where a step lies, in pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * index / max(1, self.count - 1)

    def y(self, value: float) -> float:
        """Return where a value lies, in pixels from the top; what is too small lies at the end."""
        level = math.log10(max(value, 10.0**self.low))
        share = (self.high - level) / (self.high - self.low)
        return TOP + (HEIGHT - TOP - BOTTOM) * share

    def grid(self) -> list[str]:
        """Return one line and one label for each power of ten."""
        parts = []
        for power in range(self.low, self.high + 1):
            y = self.y(10.0**power)
            parts.append(
                f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
            )
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
        return parts

    def series(self, kind: str, values: Sequence[float]) -> list[str]:
        """Return the curve of one kind of drift, and its label at the last value."""
        colour = COLOURS[kind]
        points = [f"{self.x(index):.1f},{self.y(value):.1f}" for index, value in enumerate(values)]
        last = values[-1]
        x = WIDTH - RIGHT + 8
        y = self.y(last) + 4
        stroke = f'fill="none" stroke="{colour}" stroke-width="2"'
        return [
            f'<polyline points="{" ".join(points)}" {stroke}/>',
            f'<text x="{x}" y="{y:.1f}" fill="{colour}">{kind} {last:.1e}</text>',
        ]


def draw(found: dict[str, list[float]], title: str) -> str:
    """Return a picture in SVG with a logarithmic axis and one curve per kind of drift."""
    values = [value for series in found.values() for value in series if value > 0]
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    count = len(found["free"])
    plot = Plot(count, low, high)
    axis = f"scheduler step 0 to {count - 1}; relative L2 drift"
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    font = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{title}</text>',
        *plot.grid(),
    ]
    for kind, series in found.items():
        parts += plot.series(kind, series)
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 14}">{axis}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Measure, draw, and print the largest values and their ratio."""
    found = measure(PLATFORM, STEPS)
    Path(sys.argv[1]).write_text(draw(found, TITLE), encoding="utf-8")
    free = max(found["free"])
    local = max(found["local"])
    print(
        f"{PLATFORM}, {STEPS} steps: free drift up to {free:.2e}, "
        f"local drift up to {local:.2e}, ratio {free / local:.0f}"
    )


if __name__ == "__main__":
    main()
