"""Hold the speed of the harness against its six targets, side by side with what users have without it; print one table.

python benchmarks/targets.py            # all six, about a quarter of an hour
python benchmarks/targets.py 3 4 5      # some of them
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy reads it when it loads
import numpy as np  # noqa: E402

from harness.judge import drift  # noqa: E402
from harness.launch.process import variables  # noqa: E402
from harness.records import Recording  # noqa: E402
from harness.worker.observe.digest import digest_bytes  # noqa: E402

ONE = variables("full", {})  # the environment of a worker: one thread
PYTHON = [sys.executable]
HARNESS = [*PYTHON, "-m", "harness"]
STEADY = [
    "ddim-digits",
    "ddpm-digits",
    "ddim-cifar10-synthetic",
    "sd-digits",
    "sd-digits-euler-ancestral",
]
TINY = """description: A case.
pipeline: DDIMPipeline
checkpoint: {bundled: digits-ddpm}
call: {num_inference_steps: 2, output_type: np}
"""
GIB = 1 << 30


class Line(NamedTuple):
    """One figure: what it is, its value as text, its bound, and whether it is met; None where there is no bound."""

    what: str
    figure: str
    bound: str = ""
    met: bool | None = None


def timed(command: list[str], folder: Path, environment: Mapping[str, str]) -> float:
    """Run a command and return its wall seconds; it must succeed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.perf_counter() - started


def clocked(call: Callable[[], object]) -> float:
    """Return the CPU seconds of one call on one thread: its wall seconds, were the machine its own."""
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turn(kinds: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Take seconds of each kind once per turn, so that a slow minute slows all; the first turn warms up and is not counted."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(turns + 1):
        for kind, seconds in kinds.items():
            took = seconds()
            if turn:
                found[kind].append(took)
    return found


def ratio(found: Mapping[str, list[float]], one: str, other: str) -> float:
    """Return the median over turns of one kind's seconds over another's."""
    return median(a / b for a, b in zip(found[one], found[other], strict=True))


def spread(values: list[float]) -> str:
    """Return `median s (least to most)`."""
    return f"{median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


def steady(folder: Path) -> list[Line]:
    """Target 1: a warm worker's runs beside bare calls."""
    command = [*PYTHON, str(ROOT / "benchmarks" / "steady.py"), "11", *STEADY]
    path = {"PYTHONPATH": str(ROOT), **ONE}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    lines = []
    for kind, bound in (("steady", 1.02), ("watched", 1.05)):
        ratios = {name: ratio(seconds, kind, "bare") for name, seconds in found.items()}
        each = ", ".join(f"{name} {value:.3f}" for name, value in ratios.items())
        worst = max(ratios.values())
        lines.append(
            Line(
                f"1 {kind} / bare call, worst of {len(ratios)}",
                f"{worst:.3f} ({each})",
                f"<= {bound}",
                worst <= bound,
            )
        )
    took = {name: median(seconds["bare"]) for name, seconds in found.items()}
    return [
        *lines,
        Line(
            "1 seconds of a bare call",
            ", ".join(f"{name} {value:.3f}" for name, value in took.items()),
        ),
    ]


def suite(folder: Path) -> list[Line]:
    """Target 2: 24 cases over four checkpoints beside plain pytest functions, in one process and in one each; then longer cases."""
    return [*_suite(folder / "short", 2, apart=True), *_suite(folder / "long", 20, apart=False)]


def _suite(folder: Path, steps: int, *, apart: bool) -> list[Line]:
    import suite as cases

    folder.mkdir()
    names = list(cases.write(folder, steps))
    timed([*HARNESS, "record", "--jobs", "2", "--out", "first"], folder, ONE)
    plain = [
        *PYTHON,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:harness",
        "-c",
        "/dev/null",
        "--rootdir",
        ".",
        "test_plain.py",
    ]
    found = in_turn(
        {
            "one worker": lambda: timed([*HARNESS, "run", "--out", "one"], folder, ONE),
            "two workers": lambda: timed(
                [*HARNESS, "run", "--jobs", "2", "--out", "two"], folder, ONE
            ),
            "plain, threads as they come": lambda: timed(plain, folder, {}),
            "plain": lambda: timed(
                plain, folder, ONE
            ),  # last: its images, of one thread, are compared
        },
        turns=1,
    )
    value, threads = (
        ratio(found, "two workers", kind) for kind in ("plain", "plain, threads as they come")
    )
    lines = [
        Line(f"2 {kind}, 24 cases of {steps} or {steps + 1} steps", spread(seconds))
        for kind, seconds in found.items()
    ]
    lines.append(
        Line("2 two workers / plain, which has their bits", f"{value:.2f}", "<= 0.6", value <= 0.6)
    )
    lines.append(Line("2 two workers / plain, two threads and other bits", f"{threads:.2f}"))
    if apart:
        seconds = sum(timed([*plain, "-k", f"[{name}]"], folder, ONE) for name in names)
        alone = median(found["two workers"]) / seconds
        lines.append(Line("2 one process a case", f"{seconds:.1f} s"))
        lines.append(
            Line("2 two workers / one process a case", f"{alone:.2f}", "<= 0.25", alone <= 0.25)
        )
    same = sum(_same_bits(folder, name) for name in names)
    return [
        *lines,
        Line(
            "2 cases with the bits of one worker and of plain diffusers",
            f"{same} of 24",
            "24",
            same == 24,
        ),
    ]


def _same_bits(folder: Path, name: str) -> bool:
    images = np.load(folder / "made" / f"{name}.npy")
    runs = [
        Recording.read(folder / run / "recordings" / name / "cpu-float32") for run in ("one", "two")
    ]
    return all(np.array_equal(run.tensors()["output/image"], images) for run in runs)


def listing(folder: Path) -> list[Line]:
    """Target 3: `harness list` of 200 scenarios beside importing torch."""
    for index in range(200):
        _scenario(folder, index)
    kinds = {
        "list": lambda: timed([*HARNESS, "list"], folder, {}),
        "torch": lambda: timed([*PYTHON, "-c", "import torch"], folder, {}),
    }
    found = in_turn(kinds, turns=7)
    value = ratio(found, "list", "torch")
    what = f"list {spread(found['list'])}, import torch {spread(found['torch'])}"
    return [
        Line(
            "3 harness list, 200 scenarios / import torch",
            f"{value:.3f}: {what}",
            "<= 0.2",
            value <= 0.2,
        )
    ]


def judging(folder: Path) -> list[Line]:
    """Target 4: two arrays of 1 GiB that differ, mapped from files, beside what numpy and torch have; one thread."""
    import torch

    rng = np.random.default_rng(0)
    with (folder / "now").open("wb") as now, (folder / "then").open("wb") as then:
        for _ in range(16):
            part = rng.standard_normal(GIB // 64, dtype=np.float32)
            part.tofile(then)
            (part + np.float32(1e-4) * rng.standard_normal(len(part), dtype=np.float32)).tofile(now)
    torch.set_num_threads(1)

    def against(compare: Callable[[np.ndarray, np.ndarray], object]) -> Callable[[], float]:
        def run() -> object:
            try:
                return compare(
                    *(np.memmap(folder / name, np.float32, "c") for name in ("now", "then"))
                )
            except AssertionError as error:
                return error

        return lambda: clocked(run)

    found = in_turn(
        {
            "measure": against(drift.measure),
            "array_equal": against(np.array_equal),
            "assert_close": against(
                lambda a, b: torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(b))
            ),
            "assert_allclose": against(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7)),
        },
        turns=1,
    )
    slower = {kind: 1 / ratio(found, "measure", kind) for kind in found}
    rate = slower["array_equal"]
    what = "4 judging 2 x 1 GiB: times as fast as "
    return [
        *(Line(f"4 {kind}, 2 x 1 GiB", spread(seconds)) for kind, seconds in found.items()),
        Line(
            f"{what}torch.testing.assert_close",
            f"{slower['assert_close']:.1f}",
            ">= 5",
            slower["assert_close"] >= 5,
        ),
        Line(
            f"{what}numpy.testing.assert_allclose",
            f"{slower['assert_allclose']:.1f}",
            ">= 5",
            slower["assert_allclose"] >= 5,
        ),
        Line(
            "4 judging: share of the rate of numpy.array_equal",
            f"{rate:.2f}",
            ">= 0.5",
            rate >= 0.5,
        ),
    ]


def digests(_: Path) -> list[Line]:
    """Target 5: the rate of digests on one thread."""
    data = np.random.default_rng(0).integers(0, 256, GIB, dtype=np.uint8)
    rates = [GIB / clocked(lambda: digest_bytes(data)) / 1e9 for _ in range(7)]
    figure = f"{median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"
    return [Line("5 digest of 1 GiB, GB/s", figure, ">= 3", median(rates) >= 3)]


def growth(folder: Path) -> list[Line]:
    """Target 6: wall time against the number of cases, each run three times by one worker and made a baseline."""
    took: dict[int, float] = {}
    for index in range(1000):
        _scenario(folder, index)
    counts = {
        count: [str(path) for path in sorted((folder / "scenarios").iterdir())[:count]]
        for count in (10, 100, 1000)
    }
    for count, paths in counts.items():
        command = [
            *HARNESS,
            "record",
            "--baselines",
            f"baselines-{count}",
            "--out",
            f"run-{count}",
            *paths,
        ]
        took[count] = timed(command, folder, {})
    first, second = (took[100] - took[10]) / 90, (took[1000] - took[100]) / 900
    fixed = took[10] - 10 * first
    bent = second / first
    return [
        *(Line(f"6 {count} cases", f"{seconds:.1f} s") for count, seconds in took.items()),
        Line(
            "6 slope and fixed part",
            f"{1000 * first:.0f} then {1000 * second:.0f} ms a case, {fixed:.1f} s before the first",
        ),
        Line("6 slope from 100 to 1,000 / from 10 to 100", f"{bent:.2f}", "<= 1.2", bent <= 1.2),
    ]


def _scenario(folder: Path, seed: int) -> None:
    path = folder / "scenarios" / f"case-{seed:04}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{TINY}seed: {seed}\n", encoding="utf-8")


TARGETS = {"1": steady, "2": suite, "3": listing, "4": judging, "5": digests, "6": growth}


def main() -> None:
    """Measure what was asked for, and print the table."""
    lines = []
    for name in sys.argv[1:] or list(TARGETS):
        with tempfile.TemporaryDirectory() as folder:
            for line in TARGETS[name](Path(folder)):
                print(line.what, line.figure, file=sys.stderr, flush=True)
                lines.append(line)
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}\n"
    )
    print("| target | figure | bound | met |\n|---|---|---|---|")
    for line in lines:
        print(
            f"| {line.what} | {line.figure} | {line.bound} | {'' if line.met is None else 'yes' if line.met else 'no'} |"
        )


if __name__ == "__main__":
    main()
