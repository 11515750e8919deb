"""Owns the pytest plugin: cases as items, their verdicts as results, one run folder per session.

It is loaded wherever the harness is installed, so it loads as little as it can, and is silent in a
project without scenarios.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, UsageError
from harness.pytest_plugin import benchmark
from harness.pytest_plugin.machine import gpus
from harness.records import Outcome, Verdict
from harness.scenario.model import Case
from harness.scenario.reading import read

if TYPE_CHECKING:
    from harness.session import Session

FOLDER_OPTIONS = {
    "baselines": ("baselines", "folder of the baselines"),
    "out": ("", "folder of this run's results (default: runs/ and the time)"),
}
STRICT_HELP = "cases that cannot run here fail"
SCENARIOS_HELP = "folders of scenarios (default: scenarios)"
XDIST_CONTROLLER = "dsession"  # the plugin of the process that starts the others
SCENARIO_SUFFIXES = (".yaml", ".yml")

_SESSION = pytest.StashKey["Session"]()
_FILES = pytest.StashKey[dict[str, Path]]()  # the scenario files that were collected, by name


# Hooks, in the order in which pytest calls them.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each with a key of the same name in the ini file."""
    group = parser.getgroup("harness", "reproducibility of diffusion pipelines")
    for name, (default, text) in FOLDER_OPTIONS.items():
        group.addoption(f"--harness-{name}", metavar="DIR", help=f"{text}; ini key harness_{name}")
        parser.addini(f"harness_{name}", help=text, default=default)
    group.addoption(
        "--harness-strict", action="store_true", help=f"{STRICT_HELP}; ini key harness_strict"
    )
    parser.addini("harness_strict", type="bool", default=False, help=STRICT_HELP)
    parser.addini("harness_scenarios", type="paths", default=[], help=SCENARIOS_HELP)


def pytest_configure(config: pytest.Config) -> None:
    """Prepare pytest-benchmark's storage, in a project with scenarios.

    This runs before pytest-benchmark's own hook, which reads its options there.
    """
    if any(folder.is_dir() for folder in _scenario_folders(config)):
        benchmark.postpone_compare(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Set pytest-benchmark's storage, now that every plugin is configured."""
    benchmark.store_by_machine_type(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # xdist does not type it
    """Let the processes of xdist share one run folder, which this process, the controller, owns."""
    if _SESSION not in node.config.stash:
        _claim_folder(_session(node.config))
    node.workerinput["harness_out"] = str(_session(node.config).out)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the GPUs, so that pytest-benchmark warns about a comparison with other ones."""
    machine_info["gpu"] = gpus()


def pytest_report_header(config: pytest.Config) -> str:
    """Name the versions of what is measured, without importing it."""
    versions = ", ".join(map(_version, ("torch", "diffusers")))
    baselines = os.path.relpath(_folder_option(config, "baselines"), config.rootpath)
    return f"harness: {versions}; baselines: {baselines}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Collect YAML files in the folders of scenarios, and those named on the command line."""
    if file_path.suffix not in SCENARIO_SUFFIXES:
        return None
    is_named = parent.session.isinitpath(file_path)
    is_inside = any(folder in file_path.parents for folder in _scenario_folders(parent.config))
    if not is_named and not is_inside:
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let cases that share a checkpoint follow each other, so that it loads once.

    They stand where cases stood before; other items keep their places.
    """
    indices = [index for index, item in enumerate(items) if isinstance(item, CaseItem)]
    cases = sorted((item for item in items if isinstance(item, CaseItem)), key=_shared_by)
    for index, item in zip(indices, cases, strict=True):
        items[index] = item


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the workers and write the results, when the processes of xdist have written theirs."""
    own = session.config.stash.get(_SESSION, None)
    if own is None:
        return
    with own:
        if session.config.pluginmanager.has_plugin(XDIST_CONTROLLER):
            own.gather()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how the cases stand and where the results are."""
    session = config.stash.get(_SESSION, None)
    if session is None or _is_worker(config) or not session.outcomes:
        return
    from harness.report import wording

    terminalreporter.section("harness")
    terminalreporter.line(wording.summary(session.outcomes))
    terminalreporter.line(_shown(f"results and recordings: {session.out}"))


# Items.


class ScenarioFile(pytest.File):
    """A scenario's YAML file."""

    def collect(self) -> Iterator[CaseItem]:
        """Yield its cases.

        Raises:
            CollectError: The file has a mistake, or another file has its name.
        """
        try:
            cases = read(self.path).cases()
        except HarnessError as error:
            raise self.CollectError(_shown(str(error))) from None
        first = self.config.stash.setdefault(_FILES, {}).setdefault(self.path.stem, self.path)
        if first != self.path:
            problem = f"{self.path}:1: `{self.path.stem}` is also {first}"
            raise self.CollectError(f"{problem}; they would share a baseline: rename one")
        for case in cases:
            yield CaseItem.from_parent(self, name=case.id, case=case)


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:  # as pytest passes them on
        super().__init__(**kwargs)
        self.case = case
        for tag in case.scenario.tags:
            self.extra_keyword_matches.add(tag)

    def runtest(self) -> None:
        """Run the case; fail, or skip with the reason, by its verdict."""
        outcome = _session(self.config).run(self.case)
        self.user_properties += _properties(outcome)
        benchmark.add(self, outcome)
        if outcome.verdict is Verdict.UNVERIFIED and not _is_strict(self.config):
            raise pytest.skip.Exception(_shown(outcome.message), _use_item_location=True)
        if not outcome.passes:
            raise CaseFailedError(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what the command line prints; a defect of the harness keeps its traceback."""
        from harness.report import wording

        error = excinfo.value
        if isinstance(error, CaseFailedError):
            return wording.paragraph(error.outcome, _session(self.config).out)
        if isinstance(error, UsageError):
            return _shown(str(error))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return where the item stands, for reports."""
        return self.path, 0, self.name


class CaseFailedError(Exception):
    """A case does not pass."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.verdict}: {outcome.message}")


def _shared_by(item: CaseItem) -> tuple[str, ...]:
    """Return what cases must have in common to follow each other on one worker at no cost."""
    scenario = item.case.scenario
    checkpoint, dtype = str(scenario.checkpoint), item.case.target.dtype
    return scenario.determinism, checkpoint, scenario.pipeline, dtype


def _properties(outcome: Outcome) -> list[tuple[str, object]]:
    """Return what a JUnit file holds of a case."""
    found: list[tuple[str, object]] = [("verdict", str(outcome.verdict))]
    for name, drift in outcome.outputs.items():
        found += [(f"{name}.l_inf", drift.l_inf), (f"{name}.rel_l2", drift.rel_l2)]
    if outcome.cost is not None:
        figures = outcome.cost.figures
        found += [("seconds", figures.seconds), ("peak_bytes", figures.peak_bytes)]
    return found


def _shown(text: str) -> str:
    """Return a text from elsewhere as a terminal may show it."""
    from harness.report.safe_text import safe_lines

    return safe_lines(text)


# The session, and the options that make it.


def _session(config: pytest.Config) -> Session:
    """Return this process's session, which is made when it is first asked for.

    A process of xdist writes a part of the results into the controller's folder.
    """
    if _SESSION not in config.stash:
        from harness.session import Session
        from harness.store.baselines import Store
        from harness.store.run_folder import new_run

        given: dict[str, str] = getattr(config, "workerinput", {})
        named = given.get("harness_out") or _folder_option(config, "out")
        out = Path(named) if named else new_run()
        store = Store(Path(_folder_option(config, "baselines")))
        config.stash[_SESSION] = Session(store, out, part=given.get("workerid", ""))
    return config.stash[_SESSION]


def _claim_folder(session: Session) -> None:
    """Take a run's folder for the processes of xdist, without what a killed run left there.

    Raises:
        pytest.UsageError: Another run is writing there, or the folder cannot be written to.
    """
    from harness.store.run_folder import remove_parts

    try:
        session.claim()
    except HarnessError as error:
        raise pytest.UsageError(_shown(str(error))) from None
    remove_parts(session.out)


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is a process of xdist, which has no terminal and whose results are a part."""
    return hasattr(config, "workerinput")


def _folder_option(config: pytest.Config, name: str) -> str:
    """Return an option as given, else the ini key's value, relative to the ini file's folder."""
    given = config.getoption(f"--harness-{name}")
    if given:
        return str(given)
    kept = config.getini(f"harness_{name}")
    return str(config.rootpath / kept) if kept else ""


def _scenario_folders(config: pytest.Config) -> list[Path]:
    named = config.getini("harness_scenarios")
    return [Path(folder) for folder in named or [config.rootpath / "scenarios"]]


def _is_strict(config: pytest.Config) -> bool:
    return bool(config.getoption("--harness-strict") or config.getini("harness_strict"))


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} not installed"
