"""Hands the costs of scenario items to pytest-benchmark, where it is active, and keeps them apart by machine type."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.records import Outcome

DRIVER = Path("/proc/driver/nvidia/gpus")
CONTROL = Path("/dev/nvidiactl")  # there where a GPU can be used
CPUS = Path("/proc/cpuinfo")
_ASKED = pytest.StashKey[Any]()  # what --benchmark-compare was given


def postpone_compare(config: pytest.Config) -> None:
    """Keep pytest-benchmark from loading what it compares with before `keep_apart` has named this machine type."""
    if hasattr(config.option, "benchmark_compare"):
        config.stash[_ASKED], config.option.benchmark_compare = (
            config.option.benchmark_compare,
            None,
        )


def keep_apart(config: pytest.Config) -> None:
    """Save and load in a folder of this machine type: pytest-benchmark's own name for it knows neither CPU nor GPU."""
    bench = config.pluginmanager.get_plugin("pytest-benchmark")
    if bench is None or _ASKED not in config.stash:
        return
    bench.machine_id = bench.storage.default_machine_id = f"{bench.machine_id}-{machine_type()}"
    bench.compare = config.option.benchmark_compare = config.stash[_ASKED]
    bench.handle_loading()


def add(item: pytest.Item, outcome: Outcome) -> None:
    """Add the steady rounds of one case; nothing where pytest-benchmark is absent, blocked, disabled or has nothing to time."""
    bench = item.config.pluginmanager.get_plugin("pytest-benchmark")
    rounds = outcome.cost.get("rounds_seconds")
    if bench is None or bench.disabled or bench.skip or not rounds:
        return
    from pytest_benchmark.stats import Metadata

    kept = ("peak_bytes", "first_seconds", "load_seconds")
    extra = {
        "verdict": outcome.verdict,
        "device": outcome.device_kind,
        **{name: outcome.cost[name] for name in kept},
    }
    extra |= {
        f"step_seconds.{name}": seconds for name, seconds in outcome.cost["step_seconds"].items()
    }
    extra |= {
        f"{name}.{metric}": getattr(d, metric)
        for name, d in outcome.outputs.items()
        for metric in ("l_inf", "rel_l2")
    }
    timed = SimpleNamespace(
        name=item.name, fullname=item.nodeid, group=outcome.place, param=None, params=None,
        extra_info=extra, cprofile_stats=None, has_error=False,
    )  # fmt: skip
    made = Metadata(timed, iterations=1, options={})  # type: ignore[no-untyped-call]
    for seconds in rounds:
        made.update(seconds)  # type: ignore[no-untyped-call]
    bench.benchmarks.append(made)


def gpus() -> list[str]:
    """Return the models of this machine's GPUs without importing a framework; a GPU of unknown model has the machine's name."""
    found = [
        re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE)
        for path in sorted(DRIVER.glob("*/information"))
    ]
    names = [match[1].strip() for match in found if match]
    if not names and CONTROL.exists():
        try:
            query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            names = subprocess.run(
                query, capture_output=True, text=True, check=True, timeout=60
            ).stdout.split("\n")
        except (OSError, subprocess.SubprocessError):
            names = [f"gpu of {platform.node()}"]
    return [name for name in names if name]


def machine_type() -> str:
    """Return this machine's type for file names: its GPU models, else its CPU model, such as `nvidia-h200`."""
    try:
        models = re.findall(
            r"^model name\s*:\s*(.+)$", CPUS.read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        models = []
    names = sorted(set(gpus())) or models[:1] or [platform.processor() or platform.machine()]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(names).lower()).strip("-")
