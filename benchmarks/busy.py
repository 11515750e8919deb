"""Say what is told of cost on a busy machine: by one run's ratio alone, and by the harness, which repeats and looks at waits.

python benchmarks/busy.py 2 ddim-cifar10-synthetic-default ddpm-digits sd-digits-float16      # two busy loops beside one worker
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from harness.judge.cost import CHANGED
from harness.records import Recording
from harness.scenario.model import read
from harness.session import Session
from harness.store.baselines import Store

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the scenarios named after the number of busy loops, and print one table."""
    loops, names = int(sys.argv[1]), sys.argv[2:]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    alarms = {"alone": 0, "told": 0}
    print("| case | ratio of one run | word by it alone | word told | why |\n|---|---|---|---|---|")
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Session(Store(ROOT / "baselines"), Path(folder)) as session,
        ):
            for name in names:
                (case, *_) = read(ROOT / "scenarios" / f"{name}.yaml").cases()
                cost, most = session.run(case).cost, case.scenario.cost["slower"]
                one = (
                    Recording.read(session.folder(case)).content["cost"]["seconds"]
                    / cost["baseline_seconds"]
                )
                alone = "slower" if one > most else "faster" if one < 1 / most else "ok"
                alarms["alone"] += alone in CHANGED
                alarms["told"] += cost["verdict"] in CHANGED
                print(
                    f"| `{name}` | {one:.2f} | {alone} | {cost['verdict']} | {cost['why']} |",
                    flush=True,
                )
    finally:
        for process in busy:
            process.kill()
    print(
        f"\n{loops} busy loops, {len(names)} cases: {alarms['alone']} changes by one run alone, {alarms['told']} told"
    )


if __name__ == "__main__":
    main()
