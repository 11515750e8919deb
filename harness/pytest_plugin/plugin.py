"""Owns the pytest plugin: cases as items, their verdicts as results, one run folder per session.

pytest loads it in every project of the environment that the harness is installed in. So it imports
as little as it can, and a project without scenarios sees no more of it than a line in the header.

Two kinds of processes are called workers elsewhere: those of pytest-xdist, which run items, and
those of the harness, which run pipelines. Here, "processes of xdist" are the former.
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
    "history": ("", "history that the outcomes are added to: a folder, or an fsspec URL"),
}
FLAG_OPTIONS = {
    "strict": "cases that cannot run here fail",
    "accuracy": "every case that moved is evaluated in float64",
}
SCENARIOS_HELP = "folders of scenarios (default: scenarios)"
XDIST_CONTROLLER = "dsession"  # the plugin that xdist registers in its controller only
SCENARIO_SUFFIXES = (".yaml", ".yml")

_SESSION = pytest.StashKey["Session"]()  # the harness's session of this process
_FILES = pytest.StashKey[dict[str, Path]]()  # the scenario files that were collected, by name


# Hooks, in the order in which pytest calls them.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each with a key of the same name in the ini file."""
    group = parser.getgroup("harness", "reproducibility of diffusion pipelines")
    for name, (default, text) in FOLDER_OPTIONS.items():
        group.addoption(f"--harness-{name}", metavar="DIR", help=f"{text}; ini key harness_{name}")
        parser.addini(f"harness_{name}", help=text, default=default)
    for name, text in FLAG_OPTIONS.items():
        words = f"{text}; ini key harness_{name}"
        group.addoption(f"--harness-{name}", action="store_true", help=words)
        parser.addini(f"harness_{name}", type="bool", default=False, help=text)
    parser.addini("harness_scenarios", type="paths", default=[], help=SCENARIOS_HELP)


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-benchmark from loading what it compares with, in a project with scenarios.

    pytest-benchmark reads its options in its own `pytest_configure`, which is marked `trylast` and
    so runs after this one.
    """
    if any(folder.is_dir() for folder in _scenario_folders(config)):
        benchmark.postpone_compare(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Set the folder of pytest-benchmark's storage, now that every plugin is configured."""
    benchmark.store_by_machine_type(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # xdist does not type it
    """Tell a process of xdist the run folder, which the controller owns and all of them share.

    xdist calls this in the controller, once for each process before it starts.
    """
    if _SESSION not in node.config.stash:
        _claim_folder(_session(node.config))
    node.workerinput["harness_out"] = str(_session(node.config).out)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the GPUs, so that pytest-benchmark warns when it compares runs on different ones."""
    machine_info["gpu"] = gpus()


def pytest_report_header(config: pytest.Config) -> str:
    """Name the versions of torch and diffusers, without importing them, and the baselines."""
    versions = ", ".join(map(_version, ("torch", "diffusers")))
    baselines = _folder_option(config, "baselines")
    if "://" not in baselines:
        baselines = os.path.relpath(baselines, config.rootpath)
    return f"harness: {versions}; baselines: {baselines}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Collect YAML files that lie in a folder of scenarios or are named on the command line."""
    if file_path.suffix not in SCENARIO_SUFFIXES:
        return None
    is_named = parent.session.isinitpath(file_path)
    is_inside = any(folder in file_path.parents for folder in _scenario_folders(parent.config))
    if not is_named and not is_inside:
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put cases that share a checkpoint next to each other, so that it is loaded once.

    Cases change places only with cases; every other item keeps its place.
    """
    indices = [index for index, item in enumerate(items) if isinstance(item, CaseItem)]
    cases = sorted((item for item in items if isinstance(item, CaseItem)), key=_shared_by)
    for index, item in zip(indices, cases, strict=True):
        items[index] = item


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the harness's workers and write the results.

    The controller of xdist gathers the results of the other processes, which have ended by then:
    xdist waits for them in its own hook, which is not marked `trylast`.
    """
    harness_session = session.config.stash.get(_SESSION, None)
    if harness_session is None:
        return
    with harness_session:  # leaving it ends the workers and writes `results.json`
        if session.config.pluginmanager.has_plugin(XDIST_CONTROLLER):
            harness_session.gather()
    if harness_session.outcomes and not _is_xdist_worker(session.config):
        _write_report(harness_session)
    _add_to_history(session.config, harness_session)


def _write_report(session: Session) -> None:
    """Write the HTML report of a run into its folder."""
    from harness.report.html.report import write_report
    from harness.report.runs import Run
    from harness.store.run_folder import REPORT_FILE

    run = Run(session.out, tuple(session.outcomes), session.environment)
    write_report([run], run.folder / REPORT_FILE)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print causes that several cases share, how many cases got which verdict, and where it is."""
    harness_session = config.stash.get(_SESSION, None)
    if harness_session is None or _is_xdist_worker(config) or not harness_session.outcomes:
        return
    from harness.report import annotations, causes, wording
    from harness.report.runs import Run

    runs = [Run(harness_session.out, tuple(harness_session.outcomes))]
    terminalreporter.section("harness")
    for line in (*causes.headlines(runs), wording.summary(harness_session.outcomes)):
        terminalreporter.line(line)
    terminalreporter.line(_safe(f"results and recordings: {harness_session.out}"))
    if annotations.wanted(annotations.Annotations.AUTO, os.environ):
        for line in annotations.annotation_lines(runs):
            terminalreporter.line(line)


# Items.


class ScenarioFile(pytest.File):
    """A scenario's YAML file."""

    def collect(self) -> Iterator[CaseItem]:
        """Yield its cases.

        Raises:
            CollectError: The file has a mistake, or another scenario file has the same name.
        """
        try:
            cases = read(self.path).cases()
        except HarnessError as error:
            raise self.CollectError(_safe(str(error))) from None
        first = self.config.stash.setdefault(_FILES, {}).setdefault(self.path.stem, self.path)
        if first != self.path:
            problem = f"{self.path}:1: `{self.path.stem}` is also the name of {first}"
            raise self.CollectError(f"{problem}; they would share a baseline: rename one")
        for case in cases:
            yield CaseItem.from_parent(self, name=case.id, case=case)


class CaseItem(pytest.Item):
    """The test item of one case; the tags of its scenario are keywords for `-k`."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:  # the rest is for pytest.Item
        super().__init__(**kwargs)
        self.case = case
        for tag in case.scenario.tags:
            self.extra_keyword_matches.add(tag)

    def runtest(self) -> None:
        """Run the case, then pass, fail, or skip with the reason, according to its verdict."""
        outcome = _session(self.config).run(self.case)
        self.user_properties += _properties(outcome)
        benchmark.add(self, outcome)
        if outcome.verdict is Verdict.UNVERIFIED and not _flag_option(self.config, "strict"):
            # Not `pytest.skip()`: the skip is reported at the scenario's file, not at this line.
            raise pytest.skip.Exception(_safe(outcome.message), _use_item_location=True)
        if not outcome.passes:
            raise CaseFailedError(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what `harness run` would print; a defect of the harness keeps its traceback."""
        from harness.report import wording

        error = excinfo.value
        if isinstance(error, CaseFailedError):
            return wording.paragraph(error.outcome, _session(self.config).out)
        if isinstance(error, UsageError):
            return _safe(str(error))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the file, the line and the name that reports show for this item."""
        return self.path, 0, self.name


class CaseFailedError(Exception):
    """Raised by an item whose case does not pass; it carries the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.verdict}: {outcome.message}")


def _shared_by(item: CaseItem) -> tuple[str, ...]:
    """Return what cases must share for a worker to run them without loading a checkpoint again."""
    scenario = item.case.scenario
    checkpoint, dtype = str(scenario.checkpoint), item.case.target.dtype
    return scenario.determinism, checkpoint, scenario.pipeline, dtype


def _properties(outcome: Outcome) -> list[tuple[str, object]]:
    """Return the properties of a case in pytest's JUnit file: those of the harness's own."""
    from harness.report.junit import properties

    return list(properties(outcome))


def _safe(text: str) -> str:
    """Return a text of unknown origin with everything escaped that could control a terminal."""
    from harness.report.safe_text import safe_lines

    return safe_lines(text)


# The harness's session, and the options that it is made from.


def _session(config: pytest.Config) -> Session:
    """Return the harness's session of this process; the first call makes it.

    In a process of xdist it writes into the controller's folder, as one part of the results.
    """
    if _SESSION not in config.stash:
        from harness.session import Session, WhenEvaluated
        from harness.store.run_folder import new_run
        from harness.store.shared_baselines import open_store

        given: dict[str, str] = getattr(config, "workerinput", {})
        named = given.get("harness_out") or _folder_option(config, "out")
        out = Path(named) if named else new_run()
        store = open_store(_folder_option(config, "baselines"))
        is_always = _flag_option(config, "accuracy")
        evaluated = WhenEvaluated.ALWAYS if is_always else WhenEvaluated.CHEAP
        part = given.get("workerid", "")
        config.stash[_SESSION] = Session(store, out, part=part, evaluated=evaluated)
    return config.stash[_SESSION]


def _claim_folder(session: Session) -> None:
    """Lock a run's folder for the processes of xdist, and remove the parts of a killed run.

    Raises:
        pytest.UsageError: Another run is writing there, or the folder cannot be written to.
    """
    from harness.store.run_folder import remove_parts

    try:
        session.claim()
    except HarnessError as error:
        raise pytest.UsageError(_safe(str(error))) from None
    remove_parts(session.out)


def _add_to_history(config: pytest.Config, session: Session) -> None:
    """Add the outcomes to the history, where there is one; a process of xdist adds none.

    Raises:
        pytest.UsageError: The history cannot be written to, or its URL cannot be used.
    """
    place = _folder_option(config, "history")
    if not place or _is_xdist_worker(config) or not session.outcomes:
        return
    from harness.store.history import add_run_folder

    try:
        add_run_folder(place, session.out)
    except HarnessError as error:
        raise pytest.UsageError(_safe(str(error))) from None


def _is_xdist_worker(config: pytest.Config) -> bool:
    """Whether this process was started by xdist's controller; it then has no terminal."""
    return hasattr(config, "workerinput")


def _folder_option(config: pytest.Config, name: str) -> str:
    """Return the folder that an option names, or else the ini key; empty where neither does.

    A folder in the ini file is relative to pytest's root folder.
    """
    given = config.getoption(f"--harness-{name}")
    if given:
        return str(given)
    in_ini = config.getini(f"harness_{name}")
    if not in_ini or "://" in in_ini:
        return str(in_ini)
    return str(config.rootpath / in_ini)


def _scenario_folders(config: pytest.Config) -> list[Path]:
    named = config.getini("harness_scenarios")
    return [Path(folder) for folder in named or [config.rootpath / "scenarios"]]


def _flag_option(config: pytest.Config, name: str) -> bool:
    return bool(config.getoption(f"--harness-{name}") or config.getini(f"harness_{name}"))


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} not installed"
