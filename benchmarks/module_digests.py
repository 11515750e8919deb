"""Measures time and memory of noting the inside of a stage, beside noting the stage alone.

Three runs of one stage are compared: only the stage's own digests are noted; those of every module
in it, too; and those of every operator of one of its modules, too. Each run ends after the stage.

    python benchmarks/module_digests.py
    python benchmarks/module_digests.py ddim-digits     # some of the scenarios
    python benchmarks/module_digests.py --full          # also the full-size stand-in of SD 1.5

Without the full-size stand-in, it takes about a minute; that one needs 6 GiB and ten minutes more.
Peaks of memory are of the whole process, and so only grow from scenario to scenario.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from common import first_case

from harness.worker.conditions import determinism
from harness.worker.observe.capture import Capture
from harness.worker.observe.modules import NO_STAGE, Detail, Enough, Tracer
from harness.worker.observe.stages import Stage
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.torch_ import Torch

STAGES = {  # the denoiser's first stage, by scenario
    "ddim-digits": "unet#0",
    "sd-digits": "unet#0",
    "ddim-cifar10-synthetic": "unet#0",
    "unclip-synthetic": "decoder#0",
}
FULL_SIZE = {"sd15-latents-synthetic": "unet#0"}
MODULE = "mid_block.resnets.0.conv1#0"  # whose operators are noted: all these stages have it
ROUNDS = 7  # the first of which warms up
FULL_SIZE_ROUNDS = 2


@dataclass(frozen=True)
class Level:
    """What one amount of detail costs: the median seconds of the stage, and the process's peak."""

    seconds: float
    peak_mib: int


def stage_seconds(pipeline: Pipeline, stage_name: str, detail: Detail) -> float:
    """Return how long one stage takes with a detail noted; the run ends after it."""
    tracer = Tracer(detail, {}, pipeline.framework.observe_operators)
    capture = Capture(pipeline, last_stage=stage_name)
    seconds: list[float] = []

    @contextlib.contextmanager
    def timed(stage: Stage, component: object) -> Iterator[None]:
        started = time.perf_counter()
        with tracer.around(stage, component):
            yield
        if stage.name == stage_name:
            seconds.append(time.perf_counter() - started)

    determinism.seed_global_streams(0)
    with contextlib.suppress(Enough):
        pipeline.run(capture.on_stage, capture.on_draw, timed)
    return seconds[0]


def measure(name: str, stage: str, rounds: int) -> list[Level]:
    """Return the cost of a scenario's stage alone, with its modules, and with operators."""
    details = (
        Detail(stage=NO_STAGE),
        Detail(stage=stage),
        Detail(stage=stage, operators=MODULE),
    )
    seconds: list[list[float]] = [[] for _ in details]
    peaks: list[int] = []
    case = first_case(name).request()
    framework = Torch("cpu")
    dtypes = {checkpoints.DEFAULT: "float32"}
    with determinism.settings("full"):
        checkpoint = checkpoints.load(
            case["checkpoint"], case["pipeline"], dtypes, framework, case["enable"]
        )
        pipeline = Pipeline(case, checkpoint, framework)
        for index in range(rounds):
            for taken, detail in zip(seconds, details, strict=True):
                taken.append(stage_seconds(pipeline, stage, detail))
                if index == 0:
                    peaks.append(_peak_mib())
    return [Level(median(taken[1:]), peak) for taken, peak in zip(seconds, peaks, strict=True)]


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def chosen_stages(names: Sequence[str], *, full: bool) -> dict[str, str]:
    """Return the stages to look into, by scenario; all where no scenario is named."""
    known = {**STAGES, **FULL_SIZE} if full else STAGES
    return {name: known[name] for name in names or known}


def main() -> None:
    """Print one line per scenario."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="NAME")
    parser.add_argument("--full", action="store_true", help="also the full-size stand-in")
    arguments = parser.parse_args()
    print(
        "| scenario | stage | stage alone, s | with its modules "
        "| with the operators of one module | peak memory after each, MiB |"
    )
    print("|---|---|---|---|---|---|")
    for name, stage in chosen_stages(arguments.scenarios, full=arguments.full).items():
        rounds = FULL_SIZE_ROUNDS if name in FULL_SIZE else ROUNDS
        alone, modules, operators = levels = measure(name, stage, rounds)
        peaks = ", ".join(str(level.peak_mib) for level in levels)
        print(
            f"| {name} | {stage} | {alone.seconds:.4f} | x{modules.seconds / alone.seconds:.2f} "
            f"| x{operators.seconds / alone.seconds:.2f} | {peaks} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
