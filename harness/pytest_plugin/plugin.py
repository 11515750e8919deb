"""The pytest face: every case of a scenario file is an item, with the command line's own texts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.pytest_plugin import benchmark
from harness.scenario.model import Case, read

if TYPE_CHECKING:
    from harness.records import Outcome
    from harness.session import Session

OPTIONS = {
    "baselines": ("baselines", "folder of the baselines"),
    "out": ("", "folder of this run's results (default: runs/ and the time)"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each with an ini key of the same name."""
    group = parser.getgroup("harness", "reproducibility of diffusion pipelines")
    for name, (default, text) in OPTIONS.items():
        group.addoption(f"--harness-{name}", metavar="DIR", help=f"{text}; ini key harness_{name}")
        parser.addini(f"harness_{name}", help=text, default=default)
    group.addoption(
        "--harness-strict",
        action="store_true",
        help="cases that cannot run here fail; ini key harness_strict",
    )
    parser.addini(
        "harness_strict", type="bool", default=False, help="cases that cannot run here fail"
    )
    parser.addini(
        "harness_scenarios",
        type="paths",
        default=[],
        help="folders of scenarios (default: scenarios)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark's own, which comes last: in a project with scenarios it stores by machine type."""
    if any(folder.is_dir() for folder in _folders(config)):
        benchmark.postpone_compare(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """When every plugin is configured."""
    benchmark.keep_apart(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the GPUs, so that a comparison with other ones is warned about."""
    machine_info["gpu"] = benchmark.gpus()


def pytest_report_header(config: pytest.Config) -> str:
    """Name what is measured, without importing it."""
    versions = []
    for name in ("torch", "diffusers"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    baselines = os.path.relpath(_option(config, "baselines"), config.rootpath)
    return f"harness: {', '.join(versions)}; baselines: {baselines}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Collect YAML files in the folders of scenarios, and those named on the command line."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    if not parent.session.isinitpath(file_path) and not any(
        f in file_path.parents for f in _folders(parent.config)
    ):
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let cases that share a checkpoint follow each other, so that it loads once."""
    places = [index for index, item in enumerate(items) if isinstance(item, CaseItem)]
    ordered = sorted(
        (item for item in items if isinstance(item, CaseItem)), key=lambda item: item.shared
    )
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the processes of xdist share one run's folder."""
    node.workerinput["harness_out"] = str(_session(node.config).out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the workers and write the results."""
    if _SESSION in session.config.stash:
        session.config.stash[_SESSION].__exit__()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how the cases stand and where the results are."""
    from harness.report import wording as rows

    session = config.stash.get(_SESSION, None)
    if session is None or hasattr(config, "workerinput"):  # the processes of xdist have no terminal
        return
    session.gather()
    if session.outcomes:
        terminalreporter.section("harness")
        terminalreporter.line(rows.summary(session.outcomes))
        terminalreporter.line(f"results and recordings: {session.out}")


class ScenarioFile(pytest.File):
    """A scenario's YAML file."""

    def collect(self) -> Iterator[CaseItem]:
        """Yield its cases; a mistake in the file is a collection error with its line."""
        try:
            cases = read(self.path).cases()
        except HarnessError as error:
            raise self.CollectError(str(error)) from None
        first = self.config.stash.setdefault(_FILES, {}).setdefault(self.path.stem, self.path)
        if first != self.path:
            raise self.CollectError(
                f"{self.path}:1: `{self.path.stem}` is also {first}; they would share a baseline: rename one"
            )
        for case in cases:
            yield CaseItem.from_parent(self, name=case.id, case=case)


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.shared = f"{case.scenario.determinism} {case.scenario.checkpoint} {case.scenario.pipeline} {case.dtype}"
        for tag in case.scenario.tags:
            self.extra_keyword_matches.add(tag)

    def runtest(self) -> None:
        """Run the case; fail, or skip with the reason, by its verdict."""
        outcome = _session(self.config).run(self.case)
        self.user_properties += _properties(outcome)
        benchmark.add(self, outcome)
        if outcome.verdict == "unverified" and not _strict(self.config):
            raise pytest.skip.Exception(outcome.reason, _use_item_location=True)
        if not outcome.passes:
            raise CaseFailedError(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Print what the command line prints."""
        from harness.report import wording as rows

        if isinstance(excinfo.value, CaseFailedError):
            return rows.paragraph(excinfo.value.outcome, _session(self.config).out)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return where the item stands, for reports."""
        return self.path, 0, self.name


class CaseFailedError(Exception):
    """A case does not pass."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.verdict}: {outcome.reason}")


_SESSION = pytest.StashKey["Session"]()
_FILES = pytest.StashKey[dict[str, Path]]()  # the scenario files by name


def _session(config: pytest.Config) -> Session:
    """Return this process's session, made when the first case runs; under xdist all of them share a folder."""
    if _SESSION not in config.stash:
        from harness.session import Session
        from harness.store.baselines import Store
        from harness.store.run_folder import new_run

        given: dict[str, str] = getattr(config, "workerinput", {})
        named = given.get("harness_out") or _option(config, "out")
        store, out = Store(Path(_option(config, "baselines"))), Path(named) if named else new_run()
        config.stash[_SESSION] = Session(store, out, part=given.get("workerid", ""))
    return config.stash[_SESSION]


def _option(config: pytest.Config, name: str) -> str:
    """Return an option as it was given, else the ini key's value, which counts from the ini file's folder."""
    given, kept = config.getoption(f"--harness-{name}"), config.getini(f"harness_{name}")
    return str(given or (config.rootpath / kept if kept else ""))


def _folders(config: pytest.Config) -> list[Path]:
    return [
        Path(folder)
        for folder in config.getini("harness_scenarios") or [config.rootpath / "scenarios"]
    ]


def _strict(config: pytest.Config) -> bool:
    return bool(config.getoption("--harness-strict") or config.getini("harness_strict"))


def _properties(outcome: Outcome) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("verdict", outcome.verdict)]
    for name, drift in outcome.outputs.items():
        found += [(f"{name}.l_inf", drift.l_inf), (f"{name}.rel_l2", drift.rel_l2)]
    return found + [
        (name, outcome.cost[name]) for name in ("seconds", "peak_bytes") if name in outcome.cost
    ]
