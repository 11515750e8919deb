"""Owns the way of costs into pytest-benchmark: one benchmark per case, stored by machine type.

pytest-benchmark names a machine by its operating system and its Python alone, so that it would
compare a run on one GPU with a run on another.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.pytest_plugin.machine import machine_type
from harness.records import Outcome

PLUGIN = "pytest-benchmark"
ASKING = (  # its options, as attributes
    "benchmark_autosave",
    "benchmark_save",
    "benchmark_save_data",
    "benchmark_json",
    "benchmark_compare",
    "benchmark_compare_fail",
    "benchmark_histogram",
    "benchmark_only",
    "benchmark_verbose",
)
_ASKED = pytest.StashKey[Any]()  # what --benchmark-compare was given


def postpone_compare(config: pytest.Config) -> None:
    """Take away what --benchmark-compare was given.

    pytest-benchmark would load at once what it compares with, from the folder of its own machine
    name. `store_by_machine_type` lets it load from the right one.
    """
    if hasattr(config.option, "benchmark_compare"):
        config.stash[_ASKED] = config.option.benchmark_compare
        config.option.benchmark_compare = None


def store_by_machine_type(config: pytest.Config) -> None:
    """Let pytest-benchmark save and load in a folder of this machine type."""
    bench = config.pluginmanager.get_plugin(PLUGIN)
    if bench is None or _ASKED not in config.stash:
        return
    name = f"{bench.machine_id}-{machine_type()}"
    bench.machine_id = name
    bench.storage.default_machine_id = name
    bench.compare = config.stash[_ASKED]
    config.option.benchmark_compare = config.stash[_ASKED]
    bench.handle_loading()


def add(item: pytest.Item, outcome: Outcome) -> None:
    """Add the steady rounds of one case to what pytest-benchmark measured.

    Nothing is added where pytest-benchmark is absent, blocked or disabled, and where the case was
    not timed.
    """
    bench = item.config.pluginmanager.get_plugin(PLUGIN)
    if bench is None or bench.disabled or bench.skip or not _is_asked_for(item.config):
        return
    if outcome.cost is None or not outcome.cost.figures.rounds_seconds:
        return
    from pytest_benchmark.stats import Metadata

    # What a fixture of pytest-benchmark would be to its `Metadata`.
    timed = SimpleNamespace(
        name=item.name,
        fullname=item.nodeid,
        group=str(outcome.target),
        param=None,
        params=None,
        extra_info=_extra_info(outcome),
        cprofile_stats=None,
        has_error=False,
    )
    made = Metadata(timed, iterations=1, options={})  # type: ignore[no-untyped-call]
    for seconds in outcome.cost.figures.rounds_seconds:
        made.update(seconds)  # type: ignore[no-untyped-call]
    bench.benchmarks.append(made)


def _is_asked_for(config: pytest.Config) -> bool:
    """Whether an option asks pytest-benchmark to keep, compare or draw what it measures.

    Without one it would print a table under every run.
    """
    return any(getattr(config.option, name, None) for name in ASKING)


def _extra_info(outcome: Outcome) -> dict[str, object]:
    """Return what stands beside the seconds: verdict, device, memory, steps and drift."""
    found: dict[str, object] = {"verdict": str(outcome.verdict), "device": outcome.device_kind}
    if outcome.cost is not None:
        figures = outcome.cost.figures
        found["peak_bytes"] = figures.peak_bytes
        found["first_seconds"] = figures.first_seconds
        found["load_seconds"] = figures.load_seconds
        for scheduler, seconds in figures.step_seconds.items():
            found[f"step_seconds.{scheduler}"] = seconds
    for name, drift in outcome.outputs.items():
        found[f"{name}.l_inf"] = drift.l_inf
        found[f"{name}.rel_l2"] = drift.rel_l2
    return found
