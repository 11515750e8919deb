"""Owns cases as items of pytest: how they are collected, chosen, run, and shown when they fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest._code.code import (
    ReprEntryNative,
    ReprExceptionInfo,
    ReprFileLocation,
    ReprTraceback,
)

from harness.errors import HarnessError, UsageError
from harness.pytest_plugin import options
from harness.records import Outcome, Verdict
from harness.report.safe_text import safe_lines
from harness.scenario.fields import Profile
from harness.scenario.model import Case
from harness.scenario.reading import read

_FILES = pytest.StashKey[dict[str, Path]]()  # the scenario files that were collected, by name


class ScenarioFile(pytest.File):
    """A scenario's YAML file."""

    def collect(self) -> Iterator[CaseItem]:
        """Yield its cases.

        Raises:
            CollectError: The file has a mistake, or another scenario file has the same name.
        """
        try:
            scenario = read(self.path)
        except HarnessError as error:
            raise self.CollectError(safe_lines(str(error))) from None
        first = self.config.stash.setdefault(_FILES, {}).setdefault(self.path.stem, self.path)
        if first != self.path:
            problem = f"{self.path}:1: `{self.path.stem}` is also the name of {first}"
            raise self.CollectError(f"{problem}; they would share a baseline: rename one")
        profile = options.text(self.config, "profile")
        if profile:
            scenario = scenario.with_profile(Profile(profile))
        for case in scenario.cases():
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
        from harness.pytest_plugin import benchmark, running

        run = running.of(self.config)
        outcome = run.run(self.case)
        self.user_properties += running.properties(outcome)
        benchmark.add(self, outcome)
        if outcome.verdict is Verdict.UNVERIFIED and not options.switch(self.config, "strict"):
            # Not `pytest.skip()`: the skip is reported at the scenario's file, not at this line.
            raise pytest.skip.Exception(safe_lines(outcome.message), _use_item_location=True)
        if not run.passes(self.case, outcome):
            raise CaseFailedError(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what `harness run` would print; a defect of the harness keeps its traceback."""
        from harness.pytest_plugin import running

        error = excinfo.value
        if isinstance(error, CaseFailedError):
            text = running.failure_text(error.outcome, running.of(self.config).session.out)
            return self._shown(text, running.cause(error.outcome))
        if isinstance(error, UsageError):
            text = safe_lines(str(error))
            return self._shown(text, text.partition("\n")[0])
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the file, the line and the name that reports show for this item."""
        return self.path, 0, self.name

    def _shown(self, text: str, cause: str) -> ReprExceptionInfo:
        """Return a text as pytest shows a failure, with a cause for its short summary."""
        lines = ReprTraceback([ReprEntryNative([f"{text}\n"])], None, "native")
        return ReprExceptionInfo(lines, ReprFileLocation(str(self.path), 1, cause))


class CaseFailedError(Exception):
    """Raised by an item whose case does not pass; it carries the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.verdict}: {outcome.message}")


def choose_and_order(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose cases by device and past failures, and put those that share a checkpoint together.

    A checkpoint is then loaded once. Cases change places only with cases; every other item keeps
    its place.

    Raises:
        UsageError: No case failed in the run that an option names, or it cannot be read.
    """
    device = options.text(config, "device")
    chosen = device not in ("", options.ANY)
    left = [one for one in items if chosen and _is_elsewhere(one, device)]
    failed = _failed_in(options.text(config, "failed-from"))
    left += [
        one
        for one in items
        if failed and isinstance(one, CaseItem) and one.case.id not in failed and one not in left
    ]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    indices = [index for index, item in enumerate(items) if isinstance(item, CaseItem)]
    cases = sorted((item for item in items if isinstance(item, CaseItem)), key=_shared_by)
    for index, item in zip(indices, cases, strict=True):
        items[index] = item


def _failed_in(run: str) -> set[str]:
    """Return the cases that failed in a run; none where no run is named.

    Raises:
        UsageError: None failed, or the run cannot be read.
    """
    if not run:
        return set()
    from harness.store.run_folder import read_results
    from harness.store.shared_runs import fetch_run

    try:
        outcomes = read_results(fetch_run(run, recordings=False)).outcomes
    except HarnessError as error:
        raise pytest.UsageError(safe_lines(str(error))) from None
    failed = {outcome.case for outcome in outcomes if outcome.fails}
    if not failed:
        raise pytest.UsageError(f"{options.PREFIX}failed-from: no case failed in {run}")
    return failed


def _is_elsewhere(item: pytest.Item, device: str) -> bool:
    return isinstance(item, CaseItem) and item.case.target.device != device


def _shared_by(item: CaseItem) -> tuple[str, ...]:
    """Return what cases must share for a worker to run them without loading a checkpoint again."""
    scenario = item.case.scenario
    checkpoint, dtype = str(scenario.checkpoint), item.case.target.dtype
    return scenario.determinism, checkpoint, scenario.pipeline, dtype
