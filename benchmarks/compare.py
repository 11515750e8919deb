"""Time whole processes of the harness beside what users have without it: interleaved in one run, medians and spread.

python benchmarks/compare.py            # everything, about six minutes
python benchmarks/compare.py startup    # `harness list` beside `import diffusers`
python benchmarks/compare.py suite      # twelve cases beside twelve plain pytest functions
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from harness.launch.local import variables
from harness.scenarios import Case, read_all

ROOT = Path(__file__).resolve().parent.parent
TWELVE = [
    "ddim-digits",
    "ddim-digits-50",
    "ddim-cifar10-synthetic",
    "ddim-cifar10-synthetic-device-generator",
    "sd-digits",
    "sd-digits-pil",
    "sd-digits-latents",
    "sd-digits-prompts",
    "sd-digits-same-seeds",
    "sd-digits-dpmsolver",
    "sd-digits-euler-ancestral",
    "ddpm-digits",
]

PLAIN = """
import diffusers, torch
from pathlib import Path

def check(folder, pipeline, call, seeds, scheduler):
    pipe = getattr(diffusers, pipeline).from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    made = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    assert pipe(**call, generator=made if len(made) > 1 else made[0]) is not None
"""


def timed(commands: Mapping[str, list[str]], rounds: int, environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Run each command once per round, in turn, and return its wall seconds; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(rounds + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{name} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            if index:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def show(title: str, seconds: Mapping[str, list[float]]) -> None:
    """Print medians with their spread, and each median over the last one's."""
    base = statistics.median(list(seconds.values())[-1])
    print(f"\n{title}\n\n| command | median s | least | most | against the last |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} | {middle / base:.3f} |")


def startup(rounds: int = 5) -> None:
    """Time `harness list` beside importing diffusers and torch."""
    commands = {
        "harness list": [sys.executable, "-m", "harness", "list"],
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
        "python -c 'import diffusers'": [sys.executable, "-c", "import diffusers"],
        'python -c "import diffusers; diffusers.DDIMPipeline"': [sys.executable, "-c", "import diffusers; diffusers.DDIMPipeline"],
    }
    show("Starting up", timed(commands, rounds, {}))


def suite(rounds: int = 2) -> None:
    """Time twelve cases, each run three times and judged, beside twelve plain tests that load and call once."""
    cases = [s.cases()[0] for s in read_all([ROOT / "scenarios"]) if s.name in TWELVE]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        plain = write_plain(cases, folder)
        harness = [
            sys.executable,
            "-m",
            "harness",
            "run",
            "scenarios",
            "-k",
            " or ".join(f"{c.id}" for c in cases),
            "--device",
            "cpu",
        ]
        commands = {
            "harness run, 1 worker": [*harness, "--out", str(folder / "one")],
            "harness run --jobs 2": [*harness, "--jobs", "2", "--out", str(folder / "two")],
            "plain pytest, from_pretrained in every test": [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:harness",
                "-c",
                "/dev/null",
                str(plain),
            ],
        }
        show("Twelve cases", timed(commands, rounds, variables("full", {})))


def write_plain(cases: list[Case], folder: Path) -> Path:
    """Write the plain tests, and the synthetic checkpoints as ordinary folders; return the file."""
    import torch

    from harness.worker import checkpoints

    lines = [PLAIN]
    for case in cases:
        request = case.request()
        source = Path(request["checkpoint"]["folder"])
        if request["checkpoint"]["kind"] == "synthetic":
            saved = folder / source.name
            if not saved.exists():
                checkpoints.synthesize(
                    source, checkpoints.named("pipeline", case.scenario.pipeline), torch.float32
                ).save_pretrained(saved)
            source = saved
        name = case.scenario.name.replace("-", "_")
        scheduler = (request["scheduler"] or {}).get("class")
        arguments = (str(source), request["pipeline"], request["call"], request["seeds"], scheduler)
        lines.append(f"def test_{name}():\n    check(*{arguments!r})\n")
    path = folder / "test_plain.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def main() -> None:
    """Run what was asked for."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    chosen = sys.argv[1:] or ["startup", "suite"]
    for name in chosen:
        {"startup": startup, "suite": suite}[name]()


if __name__ == "__main__":
    main()
