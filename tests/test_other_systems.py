"""The harness starts and runs where Linux's modules, functions and signals are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from other_system import ROOT, preamble, write_worker

SYSTEMS = ("win32", "darwin")
EVERY_MODULE = """
import importlib, pkgutil
import harness

found = [module.name for module in pkgutil.walk_packages(harness.__path__, "harness.")]
ours = [name for name in found if not name.startswith("harness.worker.")]
ours.remove("harness.__main__")
for name in [*ours, "harness.worker.guardian", "harness.worker.files", "harness.worker.protocol"]:
    importlib.import_module(name)
print(len(ours))
"""
COMMAND = """
import sys
from harness.commands.main import main
sys.executable = sys.argv[1]
raise SystemExit(main(sys.argv[2:]))
"""


def started(source: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python with `source`, to its end."""
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


LOOK = """
try:
    import fcntl
except ImportError as error:
    print(error)
import os, signal, sys
print(hasattr(os, "fork"), hasattr(signal, "SIGKILL"), sys.platform, os.name)
"""


def test_the_harness_alone_sees_another_system():
    """What the other tests rest on: modules do not load, and names are gone, but for libraries."""
    looks = f"for name in ('harness.a.module', 'torch'): exec({LOOK!r}, {{'__name__': name}})"
    assert started(preamble("win32") + looks).stdout.splitlines() == [
        "No module named 'fcntl'",
        "False False win32 nt",
        "True True linux posix",
    ]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_loads_on_another_system(system: str):
    """Neither a module nor a default at load time needs what only Linux has."""
    done = started(preamble(system) + EVERY_MODULE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize("system", SYSTEMS)
def test_scenarios_are_listed_on_another_system(system: str):
    """`harness list`, whose answer on CUDA depends on the files of a driver."""
    arguments = ("list", "scenarios/ddim-digits.yaml")
    done = started(preamble(system) + COMMAND, sys.executable, *arguments)
    assert done.returncode == 0, done.stderr
    assert "ddim-digits[cpu-float32]" in done.stdout


@pytest.mark.parametrize("system", ["win32", pytest.param("darwin", marks=pytest.mark.slow)])
def test_a_case_runs_on_another_system(system: str, tmp_path: Path):
    """Launcher and worker both lack what the system lacks; the peak of memory is told by others."""
    worker = write_worker(tmp_path / "python", system)
    out = str(tmp_path / "run")
    arguments = ("run", "scenarios/ddim-digits.yaml", "--device", "cpu", "--out", out)
    done = started(preamble(system) + COMMAND, str(worker), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    # macOS tells bytes where Linux, which answers here, tells KiB.
    assert results["outcomes"][0]["cost"]["figures"]["peak_bytes"] > 100 << 10
