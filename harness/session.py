"""Owns the life of a case: a worker runs it, the judge compares it, a run folder keeps the outcome.

This is the only module that uses the launcher, the judge and the store together.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from harness.errors import BaselineError, FileError, NotRecordedError, UsageError, writing
from harness.judge.cost import CHANGED, judge_cost
from harness.judge.verdict import judge, wants_teacher_forcing, without_recording
from harness.launch.availability import missing_environment
from harness.launch.events import Described, Failed, Recorded, Unverified
from harness.launch.process import Settings, variables
from harness.launch.sandbox import PINS, interpreter
from harness.launch.slot import Slot
from harness.records import Device, Dtype, Outcome, Reason, Verdict
from harness.scenario.fields import Determinism, Framework
from harness.scenario.model import Case
from harness.store.baselines import Match, Store, was_replaced
from harness.store.recording import Environment, Recording
from harness.store.run_folder import (
    RunOwner,
    gather_parts,
    remove_parts,
    write_results,
)
from harness.worker.files import remove_leftovers
from harness.worker.protocol import RECORDING_FILE, DescribeRequest, RunRequest

# How many runs time a case whose cost seems to have changed, or whose recording is to become a
# baseline. The first of them only warms up.
MORE_ROUNDS = 6
DESCRIBE_SECONDS = 600.0
MOST_REPLACED = 10  # attempts at judging a case whose baseline other processes keep replacing

OnProgress = Callable[[Case, str], None]
OnOutcome = Callable[[Outcome], None]


def _say_nothing(_case: Case, _doing: str) -> None:
    pass


class Session:
    """Runs and judges cases, and keeps their recordings and outcomes in one run folder.

    Args:
        store: Where baselines are.
        out: The run's folder; made when the first case runs.
        on_progress: Called with a case and, in words, what is being done for it.
        part: Names this process's results and logs, where several processes share the folder.
    """

    def __init__(
        self, store: Store, out: Path, on_progress: OnProgress = _say_nothing, part: str = ""
    ) -> None:
        self.store = store
        self.out = out
        self.outcomes: list[Outcome] = []
        self.environment: Environment | None = None
        self._on_progress = on_progress
        self._part = part
        self._owner: RunOwner | None = None
        self._claiming = threading.Lock()
        self._slots: list[Slot] = []
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker and write `results.json`, also when the run was interrupted."""
        self._stop()
        try:
            if self.outcomes:
                self.write_results()
        finally:
            if self._owner is not None:
                self._owner.release()
                self._owner = None

    def claim(self) -> None:
        """Lock the run's folder, so that no other run writes into it until this session ends.

        A session that writes a `part` locks nothing; the process that gathers the parts does.

        Raises:
            UsageError: Another run is writing there.
            FileError: The folder cannot be written to.
        """
        with self._claiming:
            if self._owner is None and not self._part:
                owner = RunOwner(self.out)
                owner.acquire()
                self._owner = owner

    def run(self, case: Case, slot: Slot | None = None) -> Outcome:
        """Run one case, judge it and remember the outcome."""
        try:
            outcome = self._run_and_judge(case, slot or self.slot(0))
        except NotRecordedError as error:
            outcome = without_recording(case, error.verdict, error.reason, error.log)
        except BaselineError as error:
            outcome = without_recording(
                case, Verdict.ERROR, str(error), reason=Reason.DAMAGED_BASELINE
            )
        outcome = replace(outcome, path=_shown(case.scenario.path), store=_shown(self.store.root))
        if not self._stopping:  # a case that was cut short by Ctrl-C has no outcome
            self.outcomes.append(outcome)
        return outcome

    def run_all(self, cases: Iterable[Case], jobs: int, on_outcome: OnOutcome) -> None:
        """Run cases on `jobs` workers at once.

        Cases that share settings and a checkpoint form a group, and follow each other on one
        worker. When every group is taken, a free worker takes cases from the longest one.

        Args:
            cases: What to run.
            jobs: The number of workers, each with a thread of this process.
            on_outcome: Called with each outcome, in the thread of its worker.

        Raises:
            UsageError: Another run is writing into the run's folder.
        """
        waiting = list(cases)
        if not waiting:
            return
        self.claim()  # in this thread, because it also releases the folder
        queue = _CaseQueue(waiting)
        failures: list[BaseException] = []

        def work(slot: Slot) -> None:
            try:
                for case in queue.take_until(lambda: self._stopping):
                    on_outcome(self.run(case, slot))
            except Exception as error:  # raised again in the caller's thread
                failures.append(error)
                self._stopping = True

        slots = [self.slot(index) for index in range(jobs)]
        threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in slots]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                # With a timeout: two signals at one moment may both reach another thread, and an
                # endless join would then never let this one handle them.
                while thread.is_alive():
                    thread.join(0.5)
        except BaseException:
            self._stop()
            raise
        if failures:
            raise failures[0]

    def describe(
        self, framework: Framework, device: Device, dtype: Dtype, determinism: Determinism
    ) -> Environment:
        """Return the environment and the numerics class of a worker on this machine.

        Raises:
            UsageError: The device or the framework is not here.
        """
        request: DescribeRequest = {
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
        event = self.slot(0).ask(request, settings, DESCRIBE_SECONDS, lambda _: None, python)
        if isinstance(event, Described):
            return event.environment
        raise UsageError(_refusal(event).reason)

    def folder(self, case: Case) -> Path:
        """Return where the recording of a case lies, or will lie, in the run's folder."""
        name = str(case.target)
        if case.image is not None:
            name += f"-image{case.image}"
        if case.teacher_tensors is not None:
            name += "-teacher-forced"
        return self.out / "recordings" / case.scenario.name / name

    def write_results(self) -> Path:
        """Write all outcomes so far to `results.json`, or to this process's part, and return it."""
        return write_results(self.out, self.outcomes, self.environment, self._part)

    def gather(self) -> None:
        """Make one `results.json` of the parts that other processes wrote into the run's folder."""
        outcomes, environment = gather_parts(self.out)
        if not outcomes:
            return
        self.outcomes += outcomes
        self.environment = self.environment or environment
        self.write_results()
        remove_parts(self.out)

    def slot(self, index: int) -> Slot:
        """Return the slot of this index; a slot holds at most one worker."""
        while len(self._slots) <= index:
            log = self.out / "logs" / f"worker-{self._part}{len(self._slots)}.log"
            self._slots.append(Slot(log))
        return self._slots[index]

    def record(self, case: Case, slot: Slot | None = None, folder: Path | None = None) -> Recording:
        """Run a case and return its recording, unjudged.

        Raises:
            NotRecordedError: It left no recording; the error says which verdict follows.
            UsageError: Another run is writing into the run's folder.
        """
        self.claim()
        folder, slot = folder or self.folder(case), slot or self.slot(0)
        asked = case.request()
        request: RunRequest = {
            "case": asked,
            "out": str(folder.resolve()),
            "known": self.store.known(case) if asked["rounds"] else {},
        }
        if case.env:
            self._on_progress(case, f"an environment with {', '.join(case.env)}")
        python = _interpreter(case.scenario.framework, case.env)
        with writing(folder):  # an older recording must not be mistaken for this run's
            (folder / RECORDING_FILE).unlink(missing_ok=True)
            remove_leftovers(folder.parent)
        event = slot.ask(
            request,
            settings_of(case),
            case.scenario.timeout,
            lambda doing: self._on_progress(case, doing),
            python,
        )
        if not isinstance(event, Recorded):
            raise _refusal(event)
        with _reading_recordings():
            return Recording.read(folder)

    def _run_and_judge(self, case: Case, slot: Slot) -> Outcome:
        """Run a case, and judge it again as long as its baseline is replaced meanwhile."""
        recording = self.record(case, slot)
        images = case.scenario.single_images
        singles = [self.record(replace(case, image=image), slot) for image in images]
        self.environment = self.environment or recording.environment
        for _ in range(MOST_REPLACED):
            match = None
            if case.scenario.needs_baseline:
                match = self.store.match(case, recording.numerics_class)
            try:
                outcome = self._judge_recording(match, case, recording, singles, slot)
            except NotRecordedError:
                if match is None or not was_replaced(match.baseline):
                    raise
                continue  # another process replaced the baseline and removed its tensors
            return self._timed_again(case, outcome, match, slot)
        raise NotRecordedError("other processes kept replacing its baseline")

    def _judge_recording(
        self,
        match: Match | None,
        case: Case,
        recording: Recording,
        singles: list[Recording],
        slot: Slot,
    ) -> Outcome:
        """Judge a recording, after a teacher-forced run where the comparison needs one."""
        forced = None
        if match is not None and wants_teacher_forcing(case.scenario, recording, match):
            forced = self._teacher_forced(match, case, slot)
        with _reading_recordings():  # the judge reads tensors only where digests differ
            return judge(case, recording, match, singles, forced)

    def _teacher_forced(self, match: Match, case: Case, slot: Slot) -> Recording | None:
        """Return the recording in which every stage got the baseline's inputs.

        It is None where no such run is possible and the baseline is of the same class: the verdict
        does not depend on it then.

        Raises:
            NotRecordedError: No such run is possible, and the bounds on local drift need one.
        """
        tensors = match.baseline.tensors_path.resolve()
        try:
            return self.record(replace(case, teacher_tensors=tensors), slot)
        except NotRecordedError:
            if match.same_class and not was_replaced(match.baseline):
                return None
            raise

    def _timed_again(
        self, case: Case, outcome: Outcome, match: Match | None, slot: Slot
    ) -> Outcome:
        """Return the outcome; where its cost seems to have changed, with the cost of more rounds.

        One slow run is not yet a regression. A case that cannot be run again keeps its outcome.
        """
        if match is None or outcome.cost is None or outcome.cost.verdict not in CHANGED:
            return outcome
        folder = self.folder(case).with_name(f"{case.target}-timed")
        with contextlib.suppress(NotRecordedError):
            again = self.record(well_timed(case), slot, folder)
            cost = judge_cost(again, match.baseline, case.scenario.cost)
            return replace(outcome, cost=cost)
        return outcome

    def _stop(self) -> None:
        self._stopping = True
        for slot in self._slots:
            slot.end()


class _CaseQueue:
    """Cases in groups, each for one worker's settings and checkpoint; several threads take them."""

    def __init__(self, cases: Iterable[Case]) -> None:
        groups: dict[str, deque[Case]] = {}
        for case in cases:
            groups.setdefault(_shared_by(case), deque()).append(case)
        self._groups = [groups[key] for key in sorted(groups)]
        self._untouched = list(self._groups)
        self._lock = threading.Lock()

    def take_until(self, stopping: Callable[[], bool]) -> Iterator[Case]:
        """Yield cases for one thread until none is left or the run is stopping."""
        own: deque[Case] = deque()
        while not stopping():
            with self._lock:
                own = own or self._next_group()
                if not own:
                    return
                case = own.popleft()
            yield case

    def _next_group(self) -> deque[Case]:
        """Return a group that no thread has taken, or else the one with the most cases left."""
        if self._untouched:
            return self._untouched.pop(0)
        return max(self._groups, key=len, default=deque())


def _shared_by(case: Case) -> str:
    """Return what cases must share for one worker to run them without a restart or a reload."""
    scenario = case.scenario
    facts: Sequence[object] = (
        settings_of(case),
        scenario.framework,
        case.env,
        scenario.checkpoint.request(),
        scenario.pipeline,
        case.target.dtype,
        dict(scenario.component_dtypes),
        scenario.enable,
        {name: [part.request() for part in parts] for name, parts in scenario.components.items()},
        [adapter.request() for adapter in scenario.adapters],
    )
    return json.dumps(facts, sort_keys=True)


def timed(case: Case, rounds: int) -> Case:
    """Return `case` with `rounds` runs, of which the first warms up."""
    scenario = case.scenario
    return replace(case, scenario=replace(scenario, cost=replace(scenario.cost, rounds=rounds)))


def well_timed(case: Case) -> Case:
    """Return a case that bounds its cost with enough rounds for a median, any other unchanged."""
    cost = case.scenario.cost
    if cost.slower is None:
        return case
    return timed(case, max(MORE_ROUNDS, cost.rounds or 1))


def settings_of(case: Case) -> Settings:
    """Return the environment variables that a case's worker gets on top of the caller's own."""
    scenario = case.scenario
    return variables(
        scenario.determinism, dict(case.settings), scenario.profile, scenario.framework
    )


def _shown(path: Path) -> str:
    """Return a path relative to the working directory, where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextlib.contextmanager
def _reading_recordings() -> Iterator[None]:
    """Turn an error in a recording's files into an error of its case; one of a baseline passes."""
    try:
        yield
    except BaselineError:
        raise
    except FileError as error:
        raise NotRecordedError(f"the worker's recording is missing or damaged: {error}") from error


def _refusal(event: object) -> NotRecordedError:
    """Return the error for a final event other than `recorded`."""
    if isinstance(event, Unverified):
        return NotRecordedError(event.reason, Verdict.UNVERIFIED)
    if isinstance(event, Failed):
        return NotRecordedError(event.reason, Verdict.ERROR, event.traceback)
    return NotRecordedError(f"the worker answered with {type(event).__name__}")


def _interpreter(framework: Framework, env: tuple[str, ...]) -> Path | None:
    """Return the Python of an environment with the packages `env`; None for this process's own.

    A framework's own environment is large, so only `harness env --make` makes it.

    Raises:
        NotRecordedError: The framework's environment was not made, or `env` adds packages to it.
    """
    if framework not in PINS:
        return interpreter(env)
    if env:
        asked = ", ".join(env)
        reason = f"{asked} is for scenarios in torch; the packages of {framework} are pinned"
        raise NotRecordedError(reason, Verdict.UNVERIFIED)
    missing = missing_environment(framework)
    if missing:
        raise NotRecordedError(missing, Verdict.UNVERIFIED)
    return interpreter(PINS[framework])
