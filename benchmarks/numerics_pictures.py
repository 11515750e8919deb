"""Draws how two settings of one machine give other bits, from two recordings of one scenario.

One run uses every instruction of the processor, the other one those of AVX2 alone. The first
picture shows both images, and their difference amplified; the second one counts the elements by
their distance in units in the last place (ULP), of the image and of single scheduler steps that
were teacher-forced. Both are on docs/numerics.md.

    python benchmarks/numerics_pictures.py docs

It writes numerics-difference.png and numerics-ulps.svg into that folder, and prints the figures
that the page states. It takes half a minute on an idle core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import first_case, teacher_forced, temporary_session
from matplotlib.figure import Figure

from harness.store.recording import Recording
from harness.study.platforms import PLATFORMS

if TYPE_CHECKING:
    from harness.records import Array

SCENARIO = "sd-digits"
PLATFORM = "all-avx2"
EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 256, 1024, 2**31)
COLOURS = {"the image, run freely": "#c0392b", "each step, teacher-forced": "#2471a3"}


@dataclass(frozen=True)
class Recorded:
    """The arrays of one scenario in both settings: images of shape (height, width), and steps."""

    native: Array
    other: Array
    steps_native: Array
    steps_other: Array


def record() -> Recorded:
    """Run the scenario in both settings, and in the other one teacher-forced too."""
    case = first_case(SCENARIO)
    with temporary_session() as session:
        base = session.record(case, folder=session.out / "base")
        carried = PLATFORMS[PLATFORM].carry(case)
        free = session.record(carried, folder=session.out / "free")
        forced = session.record(teacher_forced(carried, base), folder=session.out / "forced")
        return Recorded(image_of(base), image_of(free), steps_of(base), steps_of(forced))


def image_of(recording: Recording) -> Array:
    """Return the first image, as float32 of shape (height, width)."""
    (image,) = recording.output_tensors.values()
    return np.array(image[0]).squeeze()


def steps_of(recording: Recording) -> Array:
    """Return the results of all scheduler steps as one array of one dimension."""
    found = recording.stage_tensors.items()
    steps = [np.ravel(array) for (stage, _), array in found if stage.is_scheduler_step]
    return np.concatenate(steps)


def ulps(actual: Array, expected: Array) -> Array:
    """Return the distance of each pair of float32 values: how many values lie between them."""

    def place(values: Array) -> Array:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return np.abs(place(actual) - place(expected))


def draw_difference(found: Recorded) -> tuple[Figure, float]:
    """Return the picture of both images and of their difference, and the largest difference."""
    difference = found.other.astype(np.float64) - found.native.astype(np.float64)
    largest = float(np.abs(difference).max())
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    panels = (
        ("every instruction", found.native, "gray", (0, 1)),
        ("AVX2 alone", found.other, "gray", (0, 1)),
        (
            f"difference, from {-largest:.1e} to {largest:.1e}",
            difference,
            "RdBu",
            (-largest, largest),
        ),
    )
    for axes, (title, image, colours, limits) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1])
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    return figure, largest


def draw_ulps(distances: Mapping[str, Array]) -> Figure:
    """Return the shares of elements by their distance, one bar for each kind of run."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(distances)
    for offset, (name, values) in enumerate(distances.items()):
        counts, _ = np.histogram(values, EDGES)
        places = np.arange(len(counts)) + offset * width
        axes.bar(places, 100 * counts / values.size, width, label=name, color=COLOURS[name])
    axes.set_xticks(np.arange(len(EDGES) - 1) + width / 2, [label(*pair) for pair in bins()])
    axes.set_xlabel("units in the last place (ULP) between the two settings")
    axes.set_ylabel("share of elements, %")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def bins() -> list[tuple[int, int]]:
    return list(pairwise(EDGES))


def label(low: int, high: int) -> str:
    """Return how a bin is called: `0`, `4-7`, `1024+`."""
    if high == EDGES[-1]:
        return f"{low}+"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"


def main() -> None:
    """Record, draw, and print what the page states."""
    folder = Path(sys.argv[1])
    found = record()
    picture, largest = draw_difference(found)
    picture.savefig(folder / "numerics-difference.png", dpi=100)
    distances = {
        "the image, run freely": ulps(found.other, found.native),
        "each step, teacher-forced": ulps(found.steps_other, found.steps_native),
    }
    draw_ulps(distances).savefig(folder / "numerics-ulps.svg", metadata={"Date": None})
    print(f"{SCENARIO}, {PLATFORM}: largest difference of the image {largest:.2e}")
    for name, values in distances.items():
        same = 100 * float(np.mean(values == 0))
        print(f"{name}: {same:.1f} % equal, median {np.median(values):.0f}, most {values.max()}")


if __name__ == "__main__":
    main()
