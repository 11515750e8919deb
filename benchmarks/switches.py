"""Measures what each switch of deterministic mode costs, and whether it alone moves the bits.

The switches are set one at a time, in turn, beside none of them and all of them, on one thread.

    python benchmarks/switches.py unclip-synthetic sd-digits

It prints one line per scenario and switch that costs over 3 % or moves a bit. It takes about 200
runs a scenario: one to five minutes where a run takes less than a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from common import first_case

from harness.launch.process import variables
from harness.scenario.fields import Determinism

# The variables of a worker, for one thread, before torch is imported, which reads them then.
os.environ.update({k: v for k, v in variables(Determinism.FULL, {}).items() if v is not None})

from harness.worker.conditions import determinism
from harness.worker.observe.repeat import digests_of
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.torch_ import Torch

TURNS = 7
COSTS = 1.03  # a switch whose ratio of seconds is above this has a line of its own
NONE, ALL, MATH = "none", "all", "math attention"
Values = Mapping[str, object]  # of switches, by name


@dataclass(frozen=True)
class Effect:
    """What one set of switches does: its seconds over those of none, and whether bits move."""

    ratio: float
    moves_bits: bool


def sets_of_switches() -> dict[str, Values]:
    """Return the values of the switches of each set, by its name."""
    wanted = {
        switch.name: switch.wanted
        for switch in determinism.switches()
        if switch.name != "num_threads"
    }
    attention = determinism.chosen("math", tf32=False)
    sets: dict[str, Values] = {NONE: {}, ALL: wanted, MATH: attention}
    for name, value in wanted.items():
        if name not in attention:  # those are set together
            sets[name] = {name: value}
    return sets


def load(name: str) -> Pipeline:
    """Return the pipeline of a scenario's first case, on the CPU."""
    case = first_case(name).request()
    framework = Torch("cpu")
    dtypes = {checkpoints.DEFAULT: "float32"}
    checkpoint = checkpoints.load(
        case["checkpoint"], case["pipeline"], dtypes, framework, case["enable"]
    )
    return Pipeline(case, checkpoint, framework)


def measure(pipeline: Pipeline) -> dict[str, Effect]:
    """Return the effect of every set of switches; the first turn warms up and is not counted."""
    sets = sets_of_switches()
    seconds: dict[str, list[float]] = {name: [] for name in sets}
    digests: dict[str, dict[str, str]] = {}
    for turn in range(TURNS + 1):
        for name, values in sets.items():
            with determinism.settings("default", values):
                determinism.seed_global_streams(0)
                started = time.process_time()
                digests[name] = digests_of(pipeline.run())
                if turn:
                    seconds[name].append(time.process_time() - started)
    effects = {}
    for name in sets:
        ratios = [own / none for own, none in zip(seconds[name], seconds[NONE], strict=True)]
        effects[name] = Effect(median(ratios), digests[name] != digests[NONE])
    return effects


def main() -> None:
    """Print one table of the scenarios that were named."""
    print("| scenario | switch alone | ratio of seconds | bits |\n|---|---|---|---|")
    for name in sys.argv[1:]:
        for switch, effect in measure(load(name)).items():
            if effect.moves_bits or effect.ratio > COSTS or switch == ALL:
                bits = "other" if effect.moves_bits else "same"
                print(f"| `{name}` | {switch} | x{effect.ratio:.2f} | {bits} |", flush=True)


if __name__ == "__main__":
    main()
