"""What each switch of deterministic mode costs, and whether it alone moves the bits: one scenario, one switch at a time.

python benchmarks/switches.py unclip-synthetic sd-digits
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median

from harness.launch.process import FULL, QUIET
from harness.scenario.model import read

os.environ.update({**QUIET, **FULL})  # read at import: one thread
from harness.worker.conditions import determinism
from harness.worker.observe.capture import digests_of
from harness.worker.pipeline.call import Pipeline
from harness.worker.pipeline.torch_ import Torch
from harness.worker.recorder import Recorder

ROOT = Path(__file__).resolve().parent.parent
TURNS = 7


def main() -> None:
    """Print one line per scenario and switch that costs 3 % or moves a bit; the switches are set in turn, beside none of them."""
    print("| scenario | switch alone | ratio of seconds | bits |\n|---|---|---|---|")
    for name in sys.argv[1:]:
        case, framework = (
            read(ROOT / "scenarios" / f"{name}.yaml").cases()[0].request(),
            Torch("cpu"),
        )
        recorder = Recorder(lambda *_, **__: None)
        pipeline = Pipeline(
            case, recorder._checkpoint(case, {"default": "float32"}, framework), framework
        )
        wanted = {
            switch.name: switch.wanted
            for switch in determinism.switches()
            if switch.name != "num_threads"
        }
        attention = determinism.chosen("math", tf32=False)
        kinds = {"none": {}, "all": wanted, "math attention": attention}
        kinds.update(
            {switch: {switch: value} for switch, value in wanted.items() if switch not in attention}
        )
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        bits = {}
        for turn in range(TURNS + 1):
            for kind, own in kinds.items():
                with determinism.settings("default", own):
                    determinism.seed_global_streams(0)
                    started = time.process_time()
                    bits[kind] = digests_of(pipeline.run())
                    if turn:
                        seconds[kind].append(time.process_time() - started)
        for kind in kinds:
            value = median(a / b for a, b in zip(seconds[kind], seconds["none"], strict=True))
            moved = bits[kind] != bits["none"]
            if moved or value > 1.03 or kind == "all":
                print(
                    f"| `{name}` | {kind} | x{value:.2f} | {'other' if moved else 'same'} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
