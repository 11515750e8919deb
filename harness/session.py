"""The whole way of a case: select, launch, judge, keep. The only place that knows it all."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from harness.errors import BaselineError, LaunchError, NotRecordedError, UsageError
from harness.judge.cost import CHANGED, judge_cost
from harness.judge.verdict import judge, unrun, wants_anchored
from harness.launch.process import Settings, Worker, variables
from harness.launch.sandbox import PINS, interpreter, is_made
from harness.records import Outcome, Recording
from harness.scenario.model import Case, Scenario
from harness.store.baselines import Store
from harness.store.run_folder import PART_FILES, read_results, write_results
from harness.worker.protocol import DESCRIBED, RECORDED, UNVERIFIED

MORE_ROUNDS = 6  # where a case's cost seems to have changed, or will be what others are held against; the first warms up
OnProgress = Callable[[Case, str], None]


class Slot:
    """At most one live worker; another is started when the settings change or the last one was lost."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._ended = False

    def ask(
        self,
        request: dict[str, Any],
        settings: Settings,
        timeout: float,
        on_progress: Callable[[str], None],
        python: Path | None = None,
    ) -> dict[str, Any]:
        """Send a request to a worker of `python` with `settings`; raises LaunchError, after which the next call starts afresh."""
        worker = self._with(settings, python)
        try:
            return worker.ask(request, timeout, on_progress)
        except BaseException:
            self._close()
            raise

    def end(self) -> None:
        """End the worker, if there is one, for good: a thread that asks for another gets a LaunchError."""
        with self._lock:
            self._ended = True
        self._close()

    def _with(self, settings: Settings, python: Path | None) -> Worker:
        if self._worker is None or (self._worker.settings, self._worker.python) != (
            settings,
            python,
        ):
            self._close()
            with self._lock:
                if self._ended:
                    raise LaunchError("the run is over")
                self._worker = Worker(settings, self._log, python)
        return self._worker

    def _close(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker:
            worker.close()


class Session:
    """Runs cases and keeps what they leave in one run folder.

    Args:
        store: Where baselines are.
        out: The run's folder; made when the first case runs.
        on_progress: Called with a case and what it is doing.
        part: Names this process's results and logs, where several processes share the folder.
    """

    def __init__(
        self,
        store: Store,
        out: Path,
        on_progress: OnProgress = lambda case, doing: None,
        part: str = "",
    ) -> None:
        self.store, self.out, self._on_progress, self._part = store, out, on_progress, part
        self.outcomes: list[Outcome] = []
        self.environment: dict[str, Any] = {}
        self._slots: list[Slot] = []
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker and write `results.json`, also when the run was interrupted."""
        self._stop()
        if self.outcomes:
            self.write_results()

    def run(self, case: Case, slot: Slot | None = None) -> Outcome:
        """Run one case, judge it and remember the outcome."""
        try:
            outcome = self._judged(case, slot or self.slot(0))
        except NotRecordedError as error:
            outcome = unrun(case, error.verdict, error.reason, error.log)
        except BaselineError as error:
            outcome = unrun(case, "error", str(error))
        outcome = replace(outcome, path=_shown(case.scenario.path), store=_shown(self.store.root))
        if not self._stopping:  # a case cut short by Ctrl-C has no outcome
            self.outcomes.append(outcome)
        return outcome

    def run_all(
        self, cases: Iterable[Case], jobs: int, on_outcome: Callable[[Outcome], None]
    ) -> None:
        """Run cases by `jobs` workers at once; cases that share settings and a checkpoint follow each other on one worker.

        A worker without a group left helps with the longest one.
        """
        groups: dict[str, list[Case]] = {}
        for case in cases:
            wanted = case.scenario
            loaded = [
                wanted.checkpoint,
                wanted.pipeline,
                case.dtype,
                wanted.component_dtype,
                wanted.enable,
            ]
            shared = [_settings(case), wanted.framework, case.env, *loaded]
            groups.setdefault(json.dumps(shared, sort_keys=True), []).append(case)
        waiting = [deque(groups[key]) for key in sorted(groups)]
        untouched, taking = list(waiting), threading.Lock()
        failures: list[BaseException] = []

        def taken() -> Iterator[Case]:
            mine: deque[Case] = deque()
            while not self._stopping:
                with taking:
                    mine = mine or (
                        untouched.pop(0) if untouched else max(waiting, key=len, default=mine)
                    )
                    if not mine:
                        return
                    case = mine.popleft()
                yield case

        def work(slot: Slot) -> None:
            try:
                for case in taken():
                    on_outcome(self.run(case, slot))
            except Exception as error:  # a defect in the judge: raised again in the caller's thread
                failures.append(error)
                self._stopping = True

        threads = [
            threading.Thread(target=work, args=(self.slot(index),), daemon=True)
            for index in range(max(1, jobs))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stop()
            raise
        if failures:
            raise failures[0]

    def describe(self, framework: str, device: str, dtype: str, determinism: str) -> dict[str, Any]:
        """Return the environment and numerics class of a worker on this machine.

        Raises:
            UsageError: The device or the framework is not here.
        """
        request = {
            "describe": {
                "framework": framework,
                "device": device,
                "dtype": dtype,
                "mode": determinism,
            }
        }
        settings = variables(determinism, {}, framework=framework)
        try:
            python = _interpreter(framework, ())
        except NotRecordedError as error:
            raise UsageError(error.reason) from error
        event = self.slot(0).ask(request, settings, 600.0, lambda _: None, python)
        if event["event"] != DESCRIBED:
            raise UsageError(event["reason"])
        return dict(event["environment"])

    def folder(self, case: Case) -> Path:
        """Return where the recording of a case lies, or will lie, in the run's folder."""
        kind = "" if case.image is None else f"-image{case.image}"
        kind += "-anchored" if case.anchors else ""
        return self.out / "recordings" / case.scenario.name / f"{case.place}{kind}"

    def write_results(self) -> Path:
        """Write `results.json` whole and return its path."""
        return write_results(self.out, self.outcomes, self.environment, self._part)

    def gather(self) -> None:
        """Make one `results.json` of what other processes wrote into the run's folder."""
        parts = sorted(self.out.glob(PART_FILES))
        for part in parts:
            outcomes, environment = read_results(part)
            self.outcomes += outcomes
            self.environment = self.environment or environment
        if parts:
            self.write_results()
        for part in parts:
            part.unlink()

    def slot(self, index: int) -> Slot:
        """Return a slot for a worker; each holds at most one."""
        while len(self._slots) <= index:
            self._slots.append(
                Slot(self.out / "logs" / f"worker-{self._part}{len(self._slots)}.log")
            )
        return self._slots[index]

    def _stop(self) -> None:
        self._stopping = True
        for slot in self._slots:
            slot.end()

    def record(self, case: Case, slot: Slot | None = None, folder: Path | None = None) -> Recording:
        """Run a case and return its recording, unjudged.

        Raises:
            NotRecordedError: It left none; the error says which verdict follows.
        """
        folder, slot = folder or self.folder(case), slot or self.slot(0)
        asked = case.request()
        request = {
            "case": asked,
            "out": str(folder.resolve()),
            "known": self.store.known(case) if asked["rounds"] else {},
        }
        if case.env:
            self._on_progress(case, f"an environment with {', '.join(case.env)}")
        python = _interpreter(case.scenario.framework, case.env)
        event = slot.ask(
            request,
            _settings(case),
            case.scenario.timeout,
            lambda doing: self._on_progress(case, doing),
            python,
        )
        if event["event"] != RECORDED:
            verdict = "unverified" if event["event"] == UNVERIFIED else "error"
            raise NotRecordedError(event["reason"], verdict, event.get("traceback", ""))
        return Recording.read(folder)

    def _judged(self, case: Case, slot: Slot) -> Outcome:
        recording = self.record(case, slot)
        singles = [self.record(replace(case, image=image), slot) for image in alone(case.scenario)]
        self.environment = self.environment or recording.content["environment"]
        match = (
            self.store.match(case, recording.numerics_class)
            if case.scenario.owes_baseline
            else None
        )
        anchored = None
        if match and wants_anchored(case.scenario, recording, match):
            tensors = match.baseline.recording.tensors_path.resolve()
            anchored = self.record(replace(case, anchors=tensors), slot)
        outcome = judge(case, recording, match, singles, anchored)
        if (
            match and outcome.cost["verdict"] in CHANGED
        ):  # one slow minute is no regression: more rounds tell
            with contextlib.suppress(NotRecordedError):  # they take longer, and the verdict stands
                again = self.record(
                    well_timed(case), slot, self.folder(case).with_name(f"{case.place}-timed")
                )
                outcome = replace(
                    outcome, cost=judge_cost(again, match.baseline.recording, case.scenario.cost)
                )
        return outcome


def timed(case: Case, rounds: int) -> Case:
    """Return `case` as it runs `rounds` times, of which the first warms up."""
    return replace(
        case, scenario=replace(case.scenario, cost={**case.scenario.cost, "rounds": rounds})
    )


def well_timed(case: Case) -> Case:
    """Return a case that bounds its cost with rounds enough for a median, any other as it is."""
    cost = case.scenario.cost
    return timed(case, max(MORE_ROUNDS, cost.get("rounds", 1))) if "slower" in cost else case


def alone(scenario: Scenario) -> range:
    """Return the images of a batch that must also be made alone."""
    return range(len(scenario.seeds) if "batch-equals-single" in scenario.expect else 0)


def _shown(path: Path) -> str:
    """Return a path as a person would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _settings(case: Case) -> Settings:
    return variables(
        case.scenario.determinism, dict(case.knobs), case.scenario.profile, case.scenario.framework
    )


def _interpreter(framework: str, env: tuple[str, ...]) -> Path | None:
    """Return the Python of an environment with `env`; a framework's own one is large, and never made unasked.

    Raises:
        NotRecordedError: The framework's environment was not made yet, or others are asked of it.
    """
    if framework not in PINS:
        return interpreter(env)
    if env:
        raise NotRecordedError(
            f"{', '.join(env)} is for scenarios in torch; {framework} has pins of its own",
            "unverified",
        )
    if not is_made(PINS[framework]):
        raise NotRecordedError(
            f"no environment with {framework} here; make it with: harness env --make {framework}",
            "unverified",
        )
    return interpreter(PINS[framework])
