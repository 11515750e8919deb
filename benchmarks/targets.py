"""Holds the speed of the harness against its six targets, beside what users have without it.

1. Runs of a warm worker, plain and instrumented, beside bare calls of the same pipeline.
2. A suite of 24 cases with two workers, beside plain pytest functions.
3. `harness list` of 200 scenarios, beside the import of torch.
4. Comparing two arrays of 1 GiB, beside numpy and torch.
5. The rate of digests.
6. The growth of wall time with the number of cases.

    python benchmarks/targets.py            # all six: nine minutes on two cores, idle otherwise
    python benchmarks/targets.py 3 4 5      # some of them

The targets take, in this order, two minutes, five minutes, half a minute, half a minute, three
seconds and one and a half minutes. What runs on one thread inside one process is timed by CPU
seconds, whole commands by the wall. It prints one table; each line also appears on standard error
as soon as it is known.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy reads it when it is imported
import numpy as np
import suite
from common import ROOT

from harness.judge import drift
from harness.launch.process import variables
from harness.scenario.fields import Determinism
from harness.store.recording import Recording
from harness.worker.observe.digest import digest_bytes

if TYPE_CHECKING:
    from harness.records import Array

Variables = Mapping[str, str | None]  # None takes one away
Command = Sequence[str]

ONE_THREAD: Variables = variables(Determinism.FULL, {})  # those of a worker
AS_IT_IS: Variables = {}
PYTHON = (sys.executable,)
HARNESS = (*PYTHON, "-m", "harness")
PLAIN_PYTEST = (
    *PYTHON, "-m", "pytest", "-q", "-p", "no:harness",
    "-c", "/dev/null", "--rootdir", ".", "test_plain.py",
)  # fmt: skip
STEADY = (
    "ddim-digits",
    "ddpm-digits",
    "ddim-cifar10-synthetic",
    "sd-digits",
    "sd-digits-euler-ancestral",
)
STEADY_TURNS = 11
SMALL_SCENARIO = """description: A case.
pipeline: DDIMPipeline
checkpoint: {bundled: digits-ddpm}
call: {num_inference_steps: 2, output_type: np}
"""
GIB = 1 << 30
ACTUAL, EXPECTED = "actual", "expected"  # files of 1 GiB


@dataclass(frozen=True)
class Line:
    """One figure of the table.

    Attributes:
        what: What it is, after the number of its target.
        figure: Its value as text.
        bound: Its bound as text; empty where it has none.
        met: Whether the bound is met; None where it has none.
    """

    what: str
    figure: str
    bound: str = ""
    met: bool | None = None

    @property
    def word(self) -> str:
        """Whether the bound is met, in a word."""
        if self.met is None:
            return ""
        return "yes" if self.met else "no"


def at_most(what: str, value: float, bound: float, figure: str) -> Line:
    """Return a line whose value must not exceed its bound."""
    return Line(what, figure, f"<= {bound}", value <= bound)


def at_least(what: str, value: float, bound: float, figure: str) -> Line:
    """Return a line whose value must reach its bound."""
    return Line(what, figure, f">= {bound}", value >= bound)


# Timing.


def timed(command: Command, folder: Path, own: Variables) -> float:
    """Run a command and return its wall seconds.

    Raises:
        SystemExit: The command failed.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(own),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        printed = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{printed}")
    return seconds


def _environment(own: Variables) -> dict[str, str]:
    """Return the environment of a command that finds this repository's harness."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    merged = {**os.environ, **own, "PYTHONPATH": path}
    return {name: value for name, value in merged.items() if value is not None}


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of one call on one thread: its wall seconds on an idle machine."""
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turn(kinds: Mapping[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Take the seconds of each kind once per turn, so that a slow minute slows them all.

    A turn before the first warms up and is not counted.
    """
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(turns + 1):
        for kind, seconds_of in kinds.items():
            seconds = seconds_of()
            if turn:
                found[kind].append(seconds)
    return found


def ratio(found: Mapping[str, list[float]], one: str, other: str) -> float:
    """Return the median over turns of one kind's seconds over another's."""
    pairs = zip(found[one], found[other], strict=True)
    return median(mine / its for mine, its in pairs)


def spread(values: Sequence[float]) -> str:
    """Return `median s (least to most)`."""
    return f"{median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


# Target 1.


def steady(folder: Path) -> list[Line]:
    """Time a warm worker's runs beside bare calls."""
    script = str(ROOT / "benchmarks" / "steady.py")
    done = subprocess.run(
        [*PYTHON, script, str(STEADY_TURNS), *STEADY],
        cwd=folder,
        env=_environment(ONE_THREAD),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    bare = [f"{name} {median(seconds['bare']):.3f}" for name, seconds in found.items()]
    return [
        _beside_bare_calls(found, "plain", 1.02),
        _beside_bare_calls(found, "instrumented", 1.05),
        Line("1 seconds of a bare call", ", ".join(bare)),
    ]


def _beside_bare_calls(
    found: Mapping[str, dict[str, list[float]]], kind: str, bound: float
) -> Line:
    ratios = {name: ratio(seconds, kind, "bare") for name, seconds in found.items()}
    worst = max(ratios.values())
    each = ", ".join(f"{name} {value:.3f}" for name, value in ratios.items())
    what = f"1 {kind} run / bare call, worst of {len(ratios)}"
    return at_most(what, worst, bound, f"{worst:.3f} ({each})")


# Target 2.

ONE_WORKER, TWO_WORKERS = "one worker", "two workers"
PLAIN, PLAIN_THREADS = "plain", "plain, threads as they come"


def time_suites(folder: Path) -> list[Line]:
    """Time 24 short cases, in one process and in one each, and 24 longer cases."""
    return [*_short_suite(folder / "short"), *_long_suite(folder / "long")]


def _short_suite(folder: Path) -> list[Line]:
    names = _write_suite(folder, steps=2)
    found = _time_suite(folder)
    seconds = sum(timed([*PLAIN_PYTEST, "-k", f"[{name}]"], folder, ONE_THREAD) for name in names)
    alone = median(found[TWO_WORKERS]) / seconds
    return [
        *_suite_lines(found, steps=2),
        Line("2 one process a case", f"{seconds:.1f} s"),
        at_most("2 two workers / one process a case", alone, 0.25, f"{alone:.2f}"),
        _same_bits_line(folder, names),
    ]


def _long_suite(folder: Path) -> list[Line]:
    names = _write_suite(folder, steps=20)
    found = _time_suite(folder)
    return [*_suite_lines(found, steps=20), _same_bits_line(folder, names)]


def _write_suite(folder: Path, steps: int) -> list[str]:
    """Write a suite, record its baselines, and return the names of its cases."""
    folder.mkdir()
    names = suite.write(folder, steps)
    timed([*HARNESS, "record", "--jobs", "2", "--out", "first"], folder, ONE_THREAD)
    return names


def _time_suite(folder: Path) -> dict[str, list[float]]:
    run = [*HARNESS, "run", "--out"]
    return in_turn(
        {
            ONE_WORKER: partial(timed, [*run, "one"], folder, ONE_THREAD),
            TWO_WORKERS: partial(timed, [*run, "two", "--jobs", "2"], folder, ONE_THREAD),
            PLAIN_THREADS: partial(timed, PLAIN_PYTEST, folder, AS_IT_IS),
            # Last: its images, which are of one thread, are compared with those of the workers.
            PLAIN: partial(timed, PLAIN_PYTEST, folder, ONE_THREAD),
        },
        turns=1,
    )


def _suite_lines(found: Mapping[str, list[float]], steps: int) -> list[Line]:
    suites = f"{suite.CASES} cases of {steps} or {steps + 1} steps"
    same_bits = ratio(found, TWO_WORKERS, PLAIN)
    other_bits = ratio(found, TWO_WORKERS, PLAIN_THREADS)
    what = "2 two workers / plain, which has their bits"
    return [
        *(Line(f"2 {kind}, {suites}", spread(seconds)) for kind, seconds in found.items()),
        at_most(what, same_bits, 0.6, f"{same_bits:.2f}"),
        Line("2 two workers / plain, two threads and other bits", f"{other_bits:.2f}"),
    ]


def _same_bits_line(folder: Path, names: Sequence[str]) -> Line:
    same = sum(_has_same_bits(folder, name) for name in names)
    what = "2 cases with the bits of one worker and of plain diffusers"
    return Line(what, f"{same} of {suite.CASES}", f"{suite.CASES}", same == suite.CASES)


def _has_same_bits(folder: Path, name: str) -> bool:
    """Return whether a case gave the plain function's image, with one worker and with two."""
    plain = np.load(folder / "images" / f"{name}.npy")
    for run in ("one", "two"):
        recording = Recording.read(folder / run / "recordings" / name / "cpu-float32")
        if not np.array_equal(recording.output_tensors["image"], plain):
            return False
    return True


# Target 3.


def listing(folder: Path) -> list[Line]:
    """Time `harness list` of 200 scenarios beside the import of torch."""
    for seed in range(200):
        _write_small_scenario(folder, seed)
    found = in_turn(
        {
            "list": partial(timed, [*HARNESS, "list"], folder, AS_IT_IS),
            "torch": partial(timed, [*PYTHON, "-c", "import torch"], folder, AS_IT_IS),
        },
        turns=7,
    )
    value = ratio(found, "list", "torch")
    figure = f"{value:.3f}: list {spread(found['list'])}, import torch {spread(found['torch'])}"
    return [at_most("3 harness list, 200 scenarios / import torch", value, 0.2, figure)]


# Target 4.


def judging(folder: Path) -> list[Line]:
    """Time the comparison of two files of 1 GiB that differ, beside numpy and torch; one thread."""
    import torch

    torch.set_num_threads(1)
    _write_arrays(folder)
    comparisons: dict[str, Callable[[Array, Array], object]] = {
        "measure": drift.measure,
        "array_equal": np.array_equal,
        "assert_close": _assert_close,
        "assert_allclose": partial(np.testing.assert_allclose, rtol=1e-7),
    }
    kinds = {
        kind: partial(cpu_seconds, partial(_compare_files, compare, folder))
        for kind, compare in comparisons.items()
    }
    found = in_turn(kinds, turns=1)
    times_as_fast = {kind: 1 / ratio(found, "measure", kind) for kind in found}
    lines = [Line(f"4 {kind}, 2 x 1 GiB", spread(seconds)) for kind, seconds in found.items()]
    for kind, name in (
        ("assert_close", "torch.testing.assert_close"),
        ("assert_allclose", "numpy.testing.assert_allclose"),
    ):
        value = times_as_fast[kind]
        what = f"4 judging 2 x 1 GiB: times as fast as {name}"
        lines.append(at_least(what, value, 5, f"{value:.1f}"))
    share = times_as_fast["array_equal"]
    what = "4 judging: share of the rate of numpy.array_equal"
    return [*lines, at_least(what, share, 0.5, f"{share:.2f}")]


def _write_arrays(folder: Path) -> None:
    """Write two files of 1 GiB of float32, which differ by about 1e-4 everywhere."""
    rng = np.random.default_rng(0)
    with (folder / ACTUAL).open("wb") as actual, (folder / EXPECTED).open("wb") as expected:
        for _ in range(16):
            part = rng.standard_normal(GIB // 64, dtype=np.float32)
            noise = rng.standard_normal(len(part), dtype=np.float32)
            part.tofile(expected)
            (part + np.float32(1e-4) * noise).tofile(actual)


def _compare_files(compare: Callable[[Array, Array], object], folder: Path) -> None:
    """Map both files into memory and compare them; that they differ is no failure here."""
    arrays = [np.memmap(folder / name, np.float32, "c") for name in (ACTUAL, EXPECTED)]
    try:
        compare(*arrays)
    except AssertionError:
        return


def _assert_close(actual: Array, expected: Array) -> None:
    import torch

    torch.testing.assert_close(torch.from_numpy(actual), torch.from_numpy(expected))


# Target 5.


def digests(_folder: Path) -> list[Line]:
    """Measure the rate of digests on one thread."""
    data = np.random.default_rng(0).integers(0, 256, GIB, dtype=np.uint8)
    digest = partial(digest_bytes, data)
    rates = [GIB / cpu_seconds(digest) / 1e9 for _ in range(7)]
    figure = f"{median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"
    return [at_least("5 digest of 1 GiB, GB/s", median(rates), 3, figure)]


# Target 6.


def growth(folder: Path) -> list[Line]:
    """Time 10, 100 and 1,000 cases, each run three times by one worker and made a baseline."""
    paths = [_write_small_scenario(folder, seed) for seed in range(1000)]
    seconds = {count: _seconds_of_recording(folder, paths[:count]) for count in (10, 100, 1000)}
    first = (seconds[100] - seconds[10]) / 90
    second = (seconds[1000] - seconds[100]) / 900
    fixed = seconds[10] - 10 * first
    slopes = f"{1000 * first:.0f} then {1000 * second:.0f} ms a case"
    bend = second / first
    return [
        *(Line(f"6 {count} cases", f"{taken:.1f} s") for count, taken in seconds.items()),
        Line("6 slope and fixed part", f"{slopes}, {fixed:.1f} s before the first"),
        at_most("6 slope from 100 to 1,000 / from 10 to 100", bend, 1.2, f"{bend:.2f}"),
    ]


def _seconds_of_recording(folder: Path, paths: Sequence[Path]) -> float:
    count = len(paths)
    options = ["--baselines", f"baselines-{count}", "--out", f"run-{count}"]
    return timed([*HARNESS, "record", *options, *map(str, paths)], folder, AS_IT_IS)


def _write_small_scenario(folder: Path, seed: int) -> Path:
    path = folder / "scenarios" / f"case-{seed:04}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{SMALL_SCENARIO}seed: {seed}\n", encoding="utf-8")
    return path


TARGETS = {
    "1": steady,
    "2": time_suites,
    "3": listing,
    "4": judging,
    "5": digests,
    "6": growth,
}


def main() -> None:
    """Measure the targets that were named, or all of them, and print the table."""
    lines = []
    for name in sys.argv[1:] or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            for line in TARGETS[name](Path(folder)):
                print(line.what, line.figure, file=sys.stderr, flush=True)
                lines.append(line)
    machine = f"{platform.platform()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {platform.python_version()}, load {os.getloadavg()}\n")
    print("| target | figure | bound | met |\n|---|---|---|---|")
    for line in lines:
        print(f"| {line.what} | {line.figure} | {line.bound} | {line.word} |")


if __name__ == "__main__":
    main()
