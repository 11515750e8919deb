"""Owns the hooks of the pytest plugin: what pytest calls, passed on to the modules that do it.

pytest loads this module in every project of the environment that the harness is installed in. So it
imports nothing else of the harness at load time than its options, and a project without scenarios
and without the fixture `baseline` sees nothing of it.

Two kinds of processes are called workers elsewhere: those of pytest-xdist, which run items, and
those of the harness, which run pipelines. Here, "processes of xdist" are the former.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.pytest_plugin import options

if TYPE_CHECKING:
    from harness.pytest_plugin.fixture import BaselineFixture
    from harness.pytest_plugin.items import ScenarioFile

SCENARIO_SUFFIXES = (".yaml", ".yml")
# In a comment among the first lines of a YAML file, each of these says that it is a scenario.
MARKERS = (b"scenario.schema.json", b"harness: scenario")
MARKED_LINES = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each with a key of the same name in the ini file."""
    options.add_to(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that contradict each other, and share GPUs out among processes of xdist.

    pytest-benchmark reads its options in its own `pytest_configure`, which is marked `trylast` and
    so runs after this one.
    """
    options.check(config)
    if hasattr(config, "workerinput"):
        from harness.pytest_plugin.machine import take_own_gpu

        take_own_gpu(config.workerinput["workerid"])
    if _measures(config):
        from harness.pytest_plugin import benchmark

        benchmark.postpone_compare(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Set the folder of pytest-benchmark's storage, now that every plugin is configured."""
    if _measures(session.config):
        from harness.pytest_plugin import benchmark

        benchmark.store_by_machine_type(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # xdist does not type it
    """Tell a process of xdist the run folder, which the controller owns and all of them share.

    xdist calls this in the controller, once for each process before it starts.
    """
    if not _is_of_harness(node.config):
        return
    from harness.pytest_plugin import running

    node.workerinput["harness_out"] = str(running.claimed_folder(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the GPUs, so that pytest-benchmark warns when it compares runs on different ones."""
    from harness.pytest_plugin.machine import gpus

    machine_info["gpu"] = gpus()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Collect the YAML files that are scenarios: by their folder, or by their first lines."""
    if file_path.suffix not in SCENARIO_SUFFIXES or not _is_scenario(file_path, parent.config):
        return None
    from harness.pytest_plugin.items import ScenarioFile

    return ScenarioFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose cases by device, and put those that share a checkpoint next to each other."""
    if any(item.path.suffix in SCENARIO_SUFFIXES for item in items):
        from harness.pytest_plugin import items as cases

        cases.choose_and_order(config, items)


@pytest.fixture
def baseline(request: pytest.FixtureRequest) -> BaselineFixture:
    """Hold arrays, images and pipelines of this test against stored baselines.

    `baseline.check(value)` compares an array, a tensor or an image; `baseline.run(pipeline, ...)`
    calls a pipeline and compares its outputs and every stage.
    """
    from harness.pytest_plugin.fixture import BaselineFixture

    return BaselineFixture(request.node)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the harness's workers and write the results, where anything of the harness ran.

    The controller of xdist gathers the results of the other processes, which have ended by then:
    xdist waits for them in its own hook, which is not marked `trylast`.
    """
    if options.RUNNING in session.config.stash:
        from harness.pytest_plugin import running

        running.finish(session)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print causes that several cases share, how many cases got which verdict, and where it is."""
    if options.RUNNING in config.stash:
        from harness.pytest_plugin import running

        running.summarize(terminalreporter, config)


def _measures(config: pytest.Config) -> bool:
    """Whether pytest-benchmark takes part, in a project that has scenarios."""
    return config.pluginmanager.has_plugin("benchmark") and _is_of_harness(config)


def _is_of_harness(config: pytest.Config) -> bool:
    """Whether the project says that it uses the harness."""
    return bool(config.getini("harness_scenarios")) or options.project_of(config) is not None


def _is_scenario(path: Path, config: pytest.Config) -> bool:
    """Whether a YAML file lies in a folder of scenarios, or says that it is one.

    A project may have YAML files of its own in a folder that is called `scenarios`.
    """
    if any(folder in path.parents for folder in options.scenario_folders(config)):
        return True
    with path.open("rb") as file:
        first = [file.readline() for _ in range(MARKED_LINES)]
    return any(line.startswith(b"#") and marker in line for line in first for marker in MARKERS)
