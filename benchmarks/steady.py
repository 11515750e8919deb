"""Times runs as a warm worker makes them, plain and instrumented, beside bare calls.

All three kinds call the same loaded pipeline in one process, in turn. A bare call is what a user's
own script would make; a plain and an instrumented run are those of the worker.

    OMP_NUM_THREADS=1 python benchmarks/steady.py 3 ddim-digits sd-digits

The number says how many turns are timed. `targets.py` starts it with all variables of a worker. It
takes about ten seconds, and per turn three times as long as the scenarios' calls.

It prints JSON: per scenario, the CPU seconds of every turn, by kind. They are the wall seconds of
one thread that has a core to itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from common import first_case

from harness.worker.conditions import determinism
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.library import make_scheduler
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CaseRequest
from harness.worker.recorder import OUTSIDE_ONLY, Recorder

BARE, PLAIN, INSTRUMENTED = "bare", "plain", "instrumented"
Run = Callable[[], object]


def _ignore_event(_event: str, **_fields: object) -> None:
    pass


def runs_of(case: CaseRequest) -> dict[str, Run]:
    """Return what makes one run of a case, by kind; loads its checkpoint."""
    framework = Torch("cpu")
    recorder = Recorder(_ignore_event)
    loaded = recorder._load(case, {"default": "float32"}, framework)
    pipeline = Pipeline(case, loaded.checkpoint, framework)
    bare_pipeline = pipeline.pipeline
    scheduler = make_scheduler(bare_pipeline.scheduler, case["scheduler"])

    def bare() -> object:
        bare_pipeline.scheduler = scheduler
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in case["seeds"]]
        generator = generators if len(generators) > 1 else generators[0]
        return bare_pipeline(**case["call"], generator=generator)

    def plain() -> object:
        return recorder._run_timed(case, pipeline, 1)

    def instrumented() -> object:
        return recorder._run_instrumented(case, pipeline, OUTSIDE_ONLY)

    return {BARE: bare, PLAIN: plain, INSTRUMENTED: instrumented}


def time_in_turn(runs: dict[str, Run], turns: int) -> dict[str, list[float]]:
    """Return the CPU seconds of `turns` runs of each kind, after one of each that warms up.

    Each turn begins with another kind than the one before.
    """
    kinds = list(runs)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(turns + 1):
        first = turn % len(kinds)
        for kind in [*kinds[first:], *kinds[:first]]:
            started = time.process_time()
            runs[kind]()
            if turn:
                seconds[kind].append(time.process_time() - started)
    return seconds


def main() -> None:
    """Time the scenarios named after the number of turns."""
    turns = int(sys.argv[1])
    found = {}
    for name in sys.argv[2:]:
        case = first_case(name).request()
        with determinism.settings(case["determinism"]):
            found[name] = time_in_turn(runs_of(case), turns)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
