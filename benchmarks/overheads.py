"""Measures what the harness adds to a command: to listing, to one small case, to a foreign suite.

    python benchmarks/overheads.py [--turns N]

Every command runs in a process of its own, one after the other in turn, so that other work on the
machine meets all of them alike; the ratios are those of the medians. Beside the seconds of the wall
clock stand those of the processor, with those of the command's own processes, which other work
moves less. The commands:

- `list`    harness list, 200 scenarios                      over `python -c "import torch"`
- `run`     harness run of one small case, with a baseline   over a script that imports torch and
            diffusers, loads the same pipeline and calls it
- `pytest`  a suite of one test without scenarios            minus the same with the plugin blocked
- `served`  harness run of the same case while `harness serve` runs: its seconds
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.launch.process import FULL
from harness.scenario.weights import DATA

SCENARIOS = 200
SMALL = """description: A case.
pipeline: DDIMPipeline
checkpoint: {{bundled: digits-ddpm}}
call: {{num_inference_steps: 2, output_type: np}}
seed: {seed}
"""
BARE = f"""
import torch, diffusers
pipeline = diffusers.DDIMPipeline.from_pretrained({str(DATA / "bundled" / "digits-ddpm")!r})
pipeline.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
pipeline(num_inference_steps=2, output_type="np", generator=generator)
"""
PYTHON, HARNESS = [sys.executable, "-c"], [sys.executable, "-m", "harness"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


class Seconds(NamedTuple):
    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--only", default="", help="names of commands, between semicolons")
    arguments = parser.parse_args()
    # As for whoever installed it, Python keeps what it has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        os.environ["PYTHONPYCACHEPREFIX"] = str(root / "compiled")
        commands = prepared(root)
        if arguments.only:
            names = arguments.only.split(";")
            commands = {name: each for name, each in commands.items() if name in names}
        with serving(root):
            found = in_turn(commands, arguments.turns)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    for name, times in found.items():
        walls = [each.wall for each in times]
        cpu = statistics.median(each.cpu for each in times)
        spread = f"{min(walls):.3f} to {max(walls):.3f}"
        print(f"{name:26} {statistics.median(walls):.3f} s ({spread}), processor {cpu:.3f} s")
    told("wall clock", {name: [each.wall for each in times] for name, times in found.items()})
    told("processor", {name: [each.cpu for each in times] for name, times in found.items()})


def prepared(root: Path) -> dict[str, tuple[list[str], Path, dict[str, str]]]:
    """Write the projects, and return each command with its folder and its own variables."""
    many, one, suite = root / "many", root / "one", root / "suite"
    for seed in range(SCENARIOS):
        write(many / "scenarios" / f"case-{seed}.yaml", SMALL.format(seed=seed))
    write(one / "scenarios" / "case.yaml", SMALL.format(seed=0))
    write(suite / "test_one.py", "def test_one():\n    pass\n")
    call([*HARNESS, "record"], one, {})
    run = [*HARNESS, "run", "--out", "runs/main"]
    runtime = {"XDG_RUNTIME_DIR": str(root / "runtime")}
    settings = {name: value for name, value in FULL.items() if value is not None}
    return {
        "import torch": ([*PYTHON, "import torch"], root, {}),
        "list": ([*HARNESS, "list"], many, {}),
        "import torch, diffusers": ([*PYTHON, "import torch, diffusers"], root, settings),
        "bare": ([*PYTHON, BARE], root, settings),
        "run": ([*run, "--no-serve"], one, {}),
        "run, served": (run, one, runtime),
        "pytest without the plugin": ([*PYTEST, "-p", "no:harness"], suite, {}),
        "pytest": ([*PYTEST, "-p", "no:nothing"], suite, {}),
    }


@contextmanager
def serving(root: Path) -> Iterator[None]:
    """Keep workers warm for those commands that have the same runtime folder."""
    runtime = root / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    server = subprocess.Popen([*HARNESS, "serve"], env=environment, stderr=subprocess.DEVNULL)
    while not list(runtime.rglob("*.sock")):
        time.sleep(0.1)
    yield
    server.terminate()
    server.wait()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def in_turn(
    commands: dict[str, tuple[list[str], Path, dict[str, str]]], turns: int
) -> dict[str, list[Seconds]]:
    """Run every command once, unmeasured, and then `turns` times in turn."""
    found: dict[str, list[Seconds]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, (command, folder, variables) in commands.items():
            seconds = call(command, folder, variables)
            if turn:
                found[name].append(seconds)
    return found


def call(command: list[str], folder: Path, variables: dict[str, str]) -> Seconds:
    started, used = time.perf_counter(), os.times()
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    if done.returncode:
        raise SystemExit(f"{json.dumps(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Seconds(seconds, cpu)


def told(what: str, found: dict[str, list[float]]) -> None:
    """Print the ratios and the difference that have a target."""
    print(f"by the {what}:")
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    if {"list", "import torch"} <= set(median):
        print(
            f"  list / import torch: {median['list'] / median['import torch']:.3f} (at most 0.15)"
        )
    if {"run", "bare"} <= set(median):
        print(f"  run / bare: {median['run'] / median['bare']:.3f} (at most 1.25)")
    if "run, served" in median:
        print(f"  run, served: {median['run, served']:.3f} s (the wall clock: below 1)")
    if "pytest" in median:
        pair = ("pytest", "pytest without the plugin")
        more = median[pair[0]] - median[pair[1]]
        least = min(found[pair[0]]) - min(found[pair[1]])
        print(f"  the plugin in a foreign suite: {1000 * more:.0f} ms (at most 20), ", end="")
        print(f"{1000 * least:.0f} ms between the fastest of each")


if __name__ == "__main__":
    main()
