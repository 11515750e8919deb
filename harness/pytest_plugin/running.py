"""Owns the harness's session inside a session of pytest: it runs, judges, reports, and writes.

A process of xdist writes its outcomes as one part of the results, which the controller gathers.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError, UsageError
from harness.launch.in_process import InProcessSlot
from harness.pytest_plugin import options
from harness.records import Outcome, Reason
from harness.report import advice
from harness.report.safe_text import safe_lines
from harness.scenario.given import Given
from harness.scenario.model import Case
from harness.session import Session, WhenEvaluated, to_record
from harness.store.recording import Recording
from harness.store.run_folder import REPORT_FILE, RUNS, Scope, new_run, remove_parts
from harness.store.shared_baselines import open_store
from harness.store.shared_folder import is_url
from harness.store.shared_runs import RunOnItsWay, begin_run, name_of_new_run
from harness.study.accepting import FIRST_RECORDING, put_in_store

XDIST_CONTROLLER = "dsession"  # the plugin that xdist registers in its controller only
MOST_SHOWN = 10  # unused baselines that the summary names


class Running:
    """The session of this process, and what it wrote into the store.

    Attributes:
        session: Runs and judges.
        on_its_way: What sends the run when it is over; None for a run in a folder.
        written: The baselines that were written.
        unused: Folders of baselines that belong to no case; None where that cannot be told.
    """

    def __init__(self, config: pytest.Config) -> None:
        given: dict[str, str] = getattr(config, "workerinput", {})
        if given and "harness_out" not in given:
            raise UsageError(
                "with pytest-xdist, processes share one run: write `[tool.harness]` into the "
                "pyproject.toml of the project, so that their controller makes it"
            )
        named = given.get("harness_out") or options.text(config, "out")
        self.on_its_way = _on_its_way(named, options.runs(config))
        self.session = Session(
            open_store(options.text(config, "baselines")),
            self.on_its_way.folder if self.on_its_way else _folder(named, options.runs(config)),
            part=given.get("workerid", ""),
            evaluated=(
                WhenEvaluated.ALWAYS if options.switch(config, "accuracy") else WhenEvaluated.CHEAP
            ),
        )
        self.session.scope = Scope(
            expression=config.option.keyword,
            device=options.text(config, "device"),
            failed_from=options.text(config, "failed-from"),
        )
        self.written: list[Path] = []
        self.unused: list[Path] | None = None
        self._may_update = options.switch(config, "update")
        self._may_accept = options.switch(config, "accept")
        self._reason = options.text(config, "reason") or FIRST_RECORDING
        self._objects: dict[str, object] = {}
        self._own_process = InProcessSlot(self._objects)

    def run(self, case: Case) -> Outcome:
        """Run a case of a scenario's file."""
        if self._may_update and not self.session.store.known(case):
            case = to_record(case)
        return self.session.run(case)

    def run_given(self, given: Given) -> Outcome:
        """Run the case of an object that a test holds, in this process."""
        self._objects.update(given.objects)
        try:
            return self.session.run(given.case, self._own_process)
        finally:
            self._objects.clear()
            self._own_process.forget_objects()

    def passes(self, case: Case, outcome: Outcome) -> bool:
        """Whether a case passes; where an option says so, after its baseline was written.

        Raises:
            FileError: The baseline cannot be written.
        """
        if outcome.passes:
            return True
        is_missing = outcome.reason is Reason.NO_BASELINE
        may_replace = self._may_accept and (is_missing or outcome.reason in advice.ACCEPTABLE)
        if not may_replace and not (self._may_update and is_missing):
            return False
        recording = Recording.read(self.session.folder(case))
        self.written.append(put_in_store(self.session.store, case, recording, self._reason))
        return True


def _on_its_way(named: str, runs: str) -> RunOnItsWay | None:
    """Return what sends the run when it is over; None where it stays in a folder.

    Args:
        named: The run, as an option or a process of xdist's controller names it; may be empty.
        runs: Where the folders of new runs go; may be empty.
    """
    if is_url(named):
        return begin_run(named)
    return begin_run(name_of_new_run(runs)) if not named and is_url(runs) else None


def _folder(named: str, runs: str) -> Path:
    """Return the folder of a run that stays on this machine."""
    return Path(named) if named else new_run(Path(runs or RUNS))


def of(config: pytest.Config) -> Running:
    """Return the harness's session of this process; the first call makes it."""
    if options.RUNNING not in config.stash:
        config.stash[options.RUNNING] = Running(config)
    return config.stash[options.RUNNING]


def claimed_folder(config: pytest.Config) -> Path:
    """Return the run folder of xdist's controller, locked for its processes.

    What the parts of a killed run left there is removed.

    Raises:
        pytest.UsageError: Another run is writing there, or the folder cannot be written to.
    """
    session = of(config).session
    try:
        session.claim()
    except HarnessError as error:
        raise pytest.UsageError(safe_lines(str(error))) from None
    remove_parts(session.out)
    return session.out


def finish(session: pytest.Session) -> None:
    """End the harness's workers and write the results, the report and the history.

    Raises:
        pytest.UsageError: The history cannot be written to, or its URL cannot be used.
    """
    config = session.config
    running = of(config)
    _note_what_did_not_run(session, running.session)
    with running.session:  # leaving it ends the workers and writes `results.json`
        if config.pluginmanager.has_plugin(XDIST_CONTROLLER):
            running.session.gather()
    if _is_xdist_process(config) or not running.session.outcomes:
        return
    _write_report(running.session)
    if _ran_whole(session):
        running.unused = _unused(running.session)
        for folder in running.unused if options.switch(config, "prune") else ():
            running.session.store.remove(folder)
    place = options.text(config, "history")
    if place:
        _add_to_history(place, running.session.out)
    if running.on_its_way is not None:
        _send(running.on_its_way)


def summarize(terminal: Any, config: pytest.Config) -> None:
    """Print causes that several cases share, how many cases got which verdict, and where it is."""
    running = of(config)
    outcomes, out = running.session.outcomes, running.session.out
    if _is_xdist_process(config) or not outcomes:
        return
    from harness.report import annotations, causes, wording
    from harness.report.runs import Run

    runs = [Run(out, tuple(outcomes))]
    terminal.section("harness")
    for line in (*causes.headlines(runs), wording.summary(outcomes)):
        terminal.line(line)
    for path in running.written:
        terminal.line(safe_lines(f"baseline written: {running.session.store.shown(path)}"))
    for folder in (running.unused or [])[:MOST_SHOWN]:
        terminal.line(safe_lines(f"unused baseline: {_shown(folder)}"))
    if running.unused:
        removed = options.switch(config, "prune")
        what = "removed" if removed else "unused; remove them by: pytest --harness-prune"
        terminal.line(f"{len(running.unused)} {what}")
    place = _shown(out) if running.on_its_way is None else running.on_its_way.place
    terminal.line(safe_lines(f"results and recordings: {place}"))
    if any(outcome.fails for outcome in outcomes):
        terminal.line(safe_lines(f"pictures: {place}/{REPORT_FILE}"))
    if annotations.wanted(annotations.Annotations.AUTO, os.environ):
        for line in annotations.annotation_lines(runs):
            terminal.line(line)


def properties(outcome: Outcome) -> list[tuple[str, object]]:
    """Return the properties of a case in pytest's JUnit file: those of the harness's own."""
    from harness.report.junit import properties as of_junit

    return list(of_junit(outcome))


def cause(outcome: Outcome) -> str:
    """Return why a case fails in one short line, for pytest's short summary."""
    first, *_ = outcome.message.splitlines() or [""]
    return safe_lines(f"{outcome.verdict}: {first}")


def failure_text(outcome: Outcome, run: Path) -> str:
    """Return what the harness reports of a case, with the cause before the case's id."""
    from harness.report import wording

    _, _, *rest = wording.paragraph(outcome, run).splitlines()
    return "\n".join([cause(outcome), f"  case:     {safe_lines(outcome.case)}", *rest])


def _note_what_did_not_run(of_pytest: pytest.Session, session: Session) -> None:
    """Note the chosen cases that did not begin, because pytest ended before, as by `-x`."""
    items = getattr(of_pytest, "items", ())  # none where collecting failed
    cases = [getattr(item, "case", None) for item in items]
    asked = [case.id for case in cases if isinstance(case, Case)]
    if of_pytest.config.pluginmanager.has_plugin(XDIST_CONTROLLER):
        return  # its processes collect, and each runs a part
    if not _is_xdist_process(of_pytest.config):
        ran = {outcome.case for outcome in session.outcomes}
        left = tuple(case for case in asked if case not in ran)
        session.scope = replace(session.scope, not_run=left)


def _write_report(session: Session) -> None:
    from harness.report.html.report import write_report
    from harness.report.runs import Run

    run = Run(session.out, tuple(session.outcomes), session.environment)
    write_report([run], run.folder / REPORT_FILE)


def _send(on_its_way: RunOnItsWay) -> None:
    try:
        on_its_way.send()
    except HarnessError as error:
        raise pytest.UsageError(safe_lines(str(error))) from None


def _add_to_history(place: str, run: Path) -> None:
    from harness.store.history import add_run_folder

    try:
        add_run_folder(place, run)
    except HarnessError as error:
        raise pytest.UsageError(safe_lines(str(error))) from None


def _ran_whole(session: pytest.Session) -> bool:
    """Whether everything that the project holds was asked for, and ran to the end."""
    config = session.config
    narrowed = ("keyword", "markexpr", "deselect", "lf", "last_failed", "stepwise", "ignore")
    if any(getattr(config.option, name, None) for name in narrowed):
        return False
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return False
    if options.text(config, "device") or options.text(config, "failed-from"):
        return False
    return not session.shouldstop and not session.shouldfail and not session.testsfailed


def _unused(session: Session) -> list[Path]:
    """Return the folders of baselines that no case of this run belongs to.

    Behind a URL it is none: a shared store may serve other projects.
    """
    if session.store.url:
        return []
    used = {(outcome.scenario, outcome.key) for outcome in session.outcomes}
    return [folder for folder in session.store.folders() if _names(folder) not in used]


def _names(folder: Path) -> tuple[str, str]:
    return folder.parent.name, folder.name


def _is_xdist_process(config: pytest.Config) -> bool:
    """Whether this process was started by xdist's controller; it then has no terminal."""
    return hasattr(config, "workerinput")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_absolute() else str(path)
