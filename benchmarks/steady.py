"""Time runs as a warm worker makes them, plain and watched, beside bare calls of the same pipeline, in turn, in one process.

Started by `benchmarks/targets.py` with a worker's environment. Prints JSON: per scenario, the CPU seconds of every turn by kind;
they are the wall seconds of one thread that has a core to itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.scenario.model import read
from harness.worker.conditions import determinism
from harness.worker.observe.modules import NO_STAGE
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.torch_ import Torch
from harness.worker.recorder import Recorder

ROOT = Path(__file__).resolve().parent.parent


def kinds(recorder: Recorder, case: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Return one run of `case` of each kind."""
    framework = Torch("cpu")
    pipeline = Pipeline(
        case, recorder._checkpoint(case, {"default": "float32"}, framework), framework
    )
    bare = pipeline.pipeline
    own = checkpoints.make_scheduler(bare.scheduler, case["scheduler"])

    def call() -> object:
        bare.scheduler = own
        made = [torch.Generator("cpu").manual_seed(seed) for seed in case["seeds"]]
        return bare(**case["call"], generator=made if len(made) > 1 else made[0])

    def watched() -> object:
        return recorder._watched(case, pipeline, {"stage": NO_STAGE})

    return {"bare": call, "steady": lambda: recorder._timed(case, pipeline, 1), "watched": watched}


def main() -> None:
    """Time the scenarios named after the number of turns."""
    turns, found = int(sys.argv[1]), {}
    for name in sys.argv[2:]:
        case = read(ROOT / "scenarios" / f"{name}.yaml").cases()[0].request()
        with determinism.settings(case["determinism"]):
            runs = kinds(Recorder(lambda *_, **__: None), case)
            seconds: dict[str, list[float]] = {kind: [] for kind in runs}
            for turn in range(turns + 1):  # the first warms up
                order = list(runs)[turn % 3 :] + list(runs)[: turn % 3]
                for kind in order:
                    started = time.process_time()
                    runs[kind]()
                    if turn:
                        seconds[kind].append(time.process_time() - started)
        found[name] = seconds
    print(json.dumps(found))


if __name__ == "__main__":
    main()
