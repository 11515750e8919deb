# ruff: noqa: INP001, S101
"""Much of everything: thousands of scenarios, an output of 4 GiB, thousands of stages.

    python attacks/load.py --tries 1 --seed 0

`--tries` is how often each load is measured. Each measurement is a process of its own, which says
how long it took and how much memory it had at most. Needs 9 GiB of disk in the folder for temporary
files, whose name TMPDIR has. See attacks/README.md for the limits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import ROOT, Tally, builders, dice, finish, workshop

from harness.judge.verdict import judge
from harness.records import Verdict
from harness.store.baselines import Match, Store
from harness.store.recording import Recording
from harness.store.safetensors import digest_file
from harness.worker.files import digest_json, dumps
from harness.worker.observe.digest import digest
from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE

MIB = 1 << 20
SCENARIOS = 5_000
STAGES = 10_000
GIB = 4
CHUNK = 1 << 22  # elements that are written at once
FREE_BYTES = 9 << 30
LOOK_SECONDS = 0.02  # between two looks at this process's memory


@dataclass(frozen=True)
class Limit:
    """What a measurement may need.

    Attributes:
        seconds: Of the wall, on a machine that others use too.
        mib: Of memory that belongs to the process alone. Pages of files that it maps do not count:
            the system takes them back when it needs them.
    """

    seconds: float
    mib: float


class Memory:
    """Watches the largest memory that this process has had for itself."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            self.peak = max(self.peak, anonymous_mib())

    def stop(self) -> float:
        """Stop watching, and return the peak in MiB."""
        self._stopped.set()
        self._thread.join()
        return max(self.peak, anonymous_mib())


def anonymous_mib() -> float:
    """Return how much memory this process has now that is not a page of a file."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


# What is measured; each runs in a process of its own and returns what it found wrong.


def list_scenarios(folder: Path) -> str:
    """List 5,000 scenarios."""
    os.chdir(folder)
    from harness.commands.main import main

    return "" if main(["list"]) == 0 else "list failed"


def judge_large_output(folder: Path) -> str:
    """Judge an output of 4 GiB that moved in one element, against a baseline of 4 GiB."""
    actual, expected = Recording.read(folder / "actual"), Recording.read(folder / "expected")
    case = builders.case(tolerance={"cross-class": {"rel_l2": 1e-6}})
    outcome = judge(case, actual, Match(builders.baseline(expected)), [])
    if outcome.verdict is not Verdict.DRIFTED:
        return f"the verdict is {outcome.verdict}: {outcome.message}"
    differing = outcome.outputs["image"].differing
    return "" if differing == 1 else f"{differing} elements differ"


def judge_many_stages(folder: Path) -> str:
    """Accept a recording of 10,000 stages, and judge another whose last stage moved."""
    store = Store(folder / "baselines")
    case = builders.case(tolerance={"cross-class": {"rel_l2": 1e-6}})
    actual, expected = Recording.read(folder / "actual"), Recording.read(folder / "expected")
    path = store.write(case, expected, "load")
    assert path.exists()
    match = store.match(case, actual.numerics_class)
    outcome = judge(case, actual, match, [])
    return "" if outcome.verdict is Verdict.DRIFTED else f"the verdict is {outcome.verdict}"


# What they need.


def write_scenarios(folder: Path, seed: int) -> None:
    """Write 5,000 scenarios of four lengths."""
    (folder / "scenarios").mkdir(parents=True)
    stream = dice(seed, "scenarios")
    for index in range(SCENARIOS):
        bounds = ", ".join(
            f"scheduler.step#{step}: 1.0e-6" for step in range(stream.choice([1, 20]))
        )
        tolerance = f"{{cross-class: {{rel_l2: 1.0e-6, local_rel_l2: {{{bounds}}}}}}}"
        text = builders.scenario_text(tolerance=tolerance, tags=stream.choice(["[a]", "[b, c]"]))
        (folder / "scenarios" / f"s-{index:04}.yaml").write_text(text, encoding="utf-8")


def write_large_outputs(folder: Path, seed: int) -> None:
    """Write two recordings with one output of 4 GiB, which differ in one element."""
    free = shutil.disk_usage(folder.parent).free
    if free < FREE_BYTES:
        raise SystemExit(f"{folder.parent} has {free >> 30} GiB left; 9 GiB are needed")
    at = dice(seed, "element").randrange(GIB << 28)
    for name in ("expected", "actual"):
        builders.recording(folder / name)
        write_output(folder / name, at if name == "actual" else None)


def write_output(folder: Path, moved_at: int | None) -> None:
    """Replace the output of a recording by one of 4 GiB, chunk by chunk, and seal it anew."""
    shape = [1, GIB << 14, 1 << 12, 4]
    count = shape[1] * shape[2] * shape[3]
    header = json.dumps(
        {"output/image": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * count]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    path = folder / TENSORS_FILE
    piece = np.random.Generator(np.random.PCG64(0)).random(CHUNK, np.float32)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count // CHUNK):
            file.write(piece.data)
    array = np.memmap(path, np.float32, "r+", offset=8 + len(header))
    if moved_at is not None:
        array[moved_at] += np.float32(0.5)
    facts = {
        **builders.summary(builders.IMAGE),
        "shape": shape,
        "digest": digest(array, shape=shape),
    }
    array.flush()
    content = json.loads((folder / RECORDING_FILE).read_bytes())
    content["outputs"] = {"image": facts}
    content["noise"] = []
    content["tensors_file"]["digest"] = digest_file(path)
    content["digest"] = digest_json(content)
    (folder / RECORDING_FILE).write_text(dumps(content), encoding="utf-8")


def write_many_stages(folder: Path, _seed: int) -> None:
    """Write two recordings of 10,000 stages with a kept tensor each; the last one differs."""
    names = [f"scheduler.step#{index}" for index in range(STAGES)]
    kept = {f"{name}/prev_sample": builders.NOISE for name in names}
    stages = [(name, {"sample": "n"}, {"prev_sample": "s"}) for name in names]
    builders.recording(folder / "expected", stages=stages, kept=kept)
    moved = [*stages[:-1], (names[-1], {"sample": "n"}, {"prev_sample": "S"})]
    builders.recording(folder / "actual", builders.MOVED, stages=moved, kept=kept)


LOADS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], str], Limit]] = {
    "5,000 scenarios listed": (write_scenarios, list_scenarios, Limit(120, 500)),
    "an output of 4 GiB judged": (write_large_outputs, judge_large_output, Limit(600, 300)),
    "10,000 stages accepted and judged": (write_many_stages, judge_many_stages, Limit(60, 500)),
}


# Measuring.


def measure(name: str, folder: Path) -> int:
    """Measure one load in this process, and print what it needed as JSON, last."""
    work = LOADS[name][1]
    before = anonymous_mib()
    memory, started, started_cpu = Memory(), time.monotonic(), time.process_time()
    problem = work(folder)
    seconds = time.monotonic() - started
    found = {
        "seconds": seconds,
        "cpu": time.process_time() - started_cpu,
        "mib": memory.stop(),
        "before": before,
        "problem": problem,
    }
    print(json.dumps(found))
    return 0


def measured_apart(name: str, folder: Path) -> dict[str, float | str]:
    """Return what a load needed in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        nothing = dict.fromkeys(("seconds", "cpu", "mib", "before"), 0.0)
        return {**nothing, "problem": done.stderr[-500:]}
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def attack(name: str, root: Path, tries: int, seed: int) -> Tally:
    """Measure one load several times."""
    prepare, _, limit = LOADS[name]
    tally = Tally(name, tries)
    folder = root / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    prepare(folder, seed)
    tally.started = time.monotonic()
    for index in range(tries):
        found = measured_apart(name, folder)
        seconds, mib = float(found["seconds"]), float(found["mib"])
        print(
            f"  {name}: {seconds:.1f} s, {found['cpu']:.1f} s of a processor, {mib:.0f} MiB, "
            f"of which {found['before']:.0f} at first"
        )
        problems = [str(found["problem"])] if found["problem"] else []
        if seconds > limit.seconds:
            problems.append(f"{seconds:.0f} s are more than {limit.seconds:.0f}")
        if mib > limit.mib:
            problems.append(f"{mib:.0f} MiB are more than {limit.mib:.0f}")
        shutil.rmtree(folder / "baselines", ignore_errors=True)
        tally.count(problems, about=f"try {index}")
    shutil.rmtree(folder)
    return tally


def main() -> None:
    """Measure every load."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--measure", choices=LOADS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=LOADS, help="one load alone")
    chosen = parser.parse_args()
    if chosen.measure:
        raise SystemExit(measure(chosen.measure, chosen.folder))
    with workshop() as shop:
        names = [chosen.only] if chosen.only else list(LOADS)
        tallies = [attack(name, shop.root, chosen.tries, chosen.seed) for name in names]
        for tally in tallies:
            tally.report()
    finish(tallies)


if __name__ == "__main__":
    main()
