"""Time and memory of looking inside a stage, beside the same stage seen from outside.

python benchmarks/inside.py            # bundled and synthetic pipelines; --full adds the full-size twin of SD 1.5
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from harness.scenario.model import read
from harness.worker.conditions import determinism
from harness.worker.observe.capture import Capture
from harness.worker.observe.modules import Detail, Enough, Operators, Tracer
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.checkpoints import load
from harness.worker.pipeline.torch_ import Torch

ROOT = Path(__file__).resolve().parent.parent
SEEN = {  # scenario -> the denoiser's stage, and a module in it
    "ddim-digits": ("unet#0", "mid_block.resnets.0.conv1#0"),
    "sd-digits": ("unet#0", "mid_block.resnets.0.conv1#0"),
    "ddim-cifar10-synthetic": ("unet#0", "mid_block.resnets.0.conv1#0"),
    "unclip-synthetic": ("decoder#0", "mid_block.resnets.0.conv1#0"),
}
ROUNDS = 7


def stage_seconds(pipeline: Pipeline, stage: str, detail: Detail) -> float:
    """Return how long one stage takes, looked into as `detail` says; the run ends after it."""
    tracer, spent = Tracer(detail, {}, Operators), []
    capture = Capture(pipeline, last=stage)

    class Around:
        def __init__(self, name: str, owner: Any) -> None:
            self.name, self.inner = name, tracer.around(name, owner)

        def __enter__(self) -> None:
            self.started = time.perf_counter()
            self.inner.__enter__()

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)
            if self.name == stage:
                spent.append(time.perf_counter() - self.started)

    determinism.seed_global_streams(0)
    with contextlib.suppress(Enough):
        pipeline.run(capture.on_stage, capture.on_draw, Around)
    return spent[0]


def main() -> None:
    """Print one line per scenario: seconds from outside, and the ratio with modules and with one module's operators seen."""
    seen = {
        **SEEN,
        **({"sd15-latents-synthetic": SEEN["sd-digits"]} if "--full" in sys.argv else {}),
    }
    print(
        "| scenario | stage | from outside, s | its modules | operators of one module | peak memory after each, MiB |"
    )
    print("|---|---|---|---|---|---|")
    for name, (stage, module) in seen.items():
        case = read(ROOT / "scenarios" / f"{name}.yaml").cases()[0].request()
        framework = Torch("cpu")
        with determinism.settings("full"):
            checkpoint = load(
                case["checkpoint"],
                case["pipeline"],
                {"default": "float32"},
                framework,
                case["enable"],
            )
            pipeline = Pipeline(case, checkpoint, framework)
            levels = (
                Detail(stage="none"),
                Detail(stage=stage),
                Detail(stage=stage, operators=module),
            )
            times: list[list[float]] = [[], [], []]
            peaks = []
            for round_ in range(ROUNDS if "sd15" not in name else 2):
                for level, detail in enumerate(levels):
                    times[level].append(stage_seconds(pipeline, stage, detail))
                    if not round_:
                        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        plain, modules, operators = (median(level[1:]) for level in times)
        peak = ", ".join(map(str, peaks))
        print(
            f"| {name} | {stage} | {plain:.4f} | x{modules / plain:.2f} | x{operators / plain:.2f} | {peak} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
