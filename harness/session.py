"""Owns the life of a case: a worker runs it, the judge compares it, a run folder keeps the outcome.

This is the only module that uses the launcher, the judge and the store together.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from harness.errors import (
    BaselineError,
    FileError,
    LaunchError,
    NotRecordedError,
    UsageError,
    WorkerLostError,
    writing,
)
from harness.judge import contract, reasons
from harness.judge.accuracy import Evaluation, judge_accuracy, unit_of
from harness.judge.batch_certificate import Certified, certify
from harness.judge.cost import CHANGED, judge_cost
from harness.judge.verdict import judge, wants_teacher_forcing, without_recording
from harness.launch.case_queue import CaseQueue, spec_of
from harness.launch.events import Described, Failed, Final, Outlined, Recorded, Unverified
from harness.launch.launcher import Launcher, Request, Slot, WorkerSpec
from harness.launch.local import LocalLauncher
from harness.launch.process import variables
from harness.records import (
    ChangeKind,
    ContractKind,
    ContractOutcome,
    ContractState,
    Device,
    DifferenceKind,
    Dtype,
    Outcome,
    Reason,
    StageAccuracy,
    Verdict,
)
from harness.scenario.fields import Determinism, Expectation, Framework
from harness.scenario.model import Case
from harness.scenario.project import kept_name
from harness.scenario.saved_pipeline import SavedPipeline
from harness.store.baselines import Match, Store, was_replaced
from harness.store.recording import Environment, Observed, Recording
from harness.store.run_folder import (
    EVERYTHING,
    Begun,
    RunOwner,
    contract_folder,
    first_start,
    gather_parts,
    now,
    recording_folder,
    remove_parts,
    write_results,
)
from harness.worker.files import remove_leftovers
from harness.worker.protocol import (
    EVALUATIONS,
    RECORDING_FILE,
    DescribeRequest,
    OutlineArguments,
    RunRequest,
)

# How many runs time a case whose cost seems to have changed, or whose recording is to become a
# baseline. The first of them only warms up.
MORE_ROUNDS = 6
DESCRIBE_SECONDS = 600.0
MOST_REPLACED = 10  # attempts at judging a case whose baseline other processes keep replacing

# An instrumented run of at most this many seconds is evaluated in float64 without being asked for.
CHEAP_SECONDS = 10.0


class WhenEvaluated(StrEnum):
    """Which cases are evaluated in float64; `CHEAP` means those that drifted and take seconds."""

    NEVER = "never"
    CHEAP = "cheap"
    ALWAYS = "always"


OnProgress = Callable[[Case, str], None]
OnOutcome = Callable[[Outcome], None]


def _say_nothing(_case: Case, _doing: str) -> None:
    pass


class Session:
    """Runs and judges cases, and keeps their recordings and outcomes in one run folder.

    Attributes:
        scope: What the run was asked for, for whoever reads its results.

    Args:
        store: Where baselines are.
        out: The run's folder; made when the first case runs.
        on_progress: Called with a case and, in words, what is being done for it.
        part: Names this process's results and logs, where several processes share the folder.
        evaluated: Which cases are evaluated in float64.
        launcher: Where workers start; this machine without one. The session closes it.
    """

    def __init__(
        self,
        store: Store,
        out: Path,
        on_progress: OnProgress = _say_nothing,
        part: str = "",
        evaluated: WhenEvaluated = WhenEvaluated.CHEAP,
        launcher: Launcher | None = None,
    ) -> None:
        self.store = store
        self.out = out
        self.outcomes: list[Outcome] = []
        self.environment: Environment | None = None
        self.environments: dict[str, Environment] = {}  # by the name of their numerics class
        self._described_by: dict[str, str] = {}  # the case of each, by the same name
        self._on_progress = on_progress
        self._part = part
        self._when = evaluated
        self._owner: RunOwner | None = None
        self._claiming = threading.Lock()
        self._launcher: Launcher = LocalLauncher() if launcher is None else launcher
        self._slots: list[Slot] = []
        self._compared = _Compared()
        self._stopping = False
        self._has_enough = False  # a case failed, and none begins after that
        self._asked: list[str] = []
        self._started = now()
        self.scope = EVERYTHING

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
            self._launcher.close()

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
        self._on_progress(case, "waits for a worker")
        try:
            outcome = self._run_also_elsewhere(case, slot or self.slot(0))
        except NotRecordedError as error:
            outcome = without_recording(case, error.verdict, error.reason, error.log)
        except BaselineError as error:
            outcome = without_recording(
                case, Verdict.ERROR, str(error), reason=Reason.DAMAGED_BASELINE
            )
        outcome = replace(
            outcome,
            recording=self._kept_at(case),
            path=kept_name(case.scenario.path),
            test=case.scenario.test,
            store=self.store.url or kept_name(self.store.root),
        )
        if not self._stopping:  # a case that was cut short by Ctrl-C has no outcome
            self.outcomes.append(outcome)
        return outcome

    def run_all(
        self,
        cases: Iterable[Case],
        jobs: int,
        on_outcome: OnOutcome,
        *,
        until_failure: bool = False,
    ) -> None:
        """Run cases on `jobs` workers at once.

        Cases that share settings and a checkpoint form a group, and follow each other on one
        worker. When every group is taken, a free worker takes cases from the longest one.

        Args:
            cases: What to run.
            jobs: The number of workers, each with a thread of this process; or `Jobs.AUTO`, which
                is as many as the launcher has room for.
            on_outcome: Called with each outcome, in the thread of its worker.
            until_failure: Whether no case begins after the first one that fails.

        Raises:
            UsageError: Another run is writing into the run's folder.
        """
        waiting = list(cases)
        if not waiting:
            return
        self._asked += [case.id for case in waiting]
        self.claim()  # in this thread, because it also releases the folder
        self._compared.choose(waiting)
        queue = CaseQueue(waiting, keep_together=not self._launcher.is_one_machine)
        failures: list[BaseException] = []

        before = len(self._slots)
        slots = self._launcher.slots(waiting, jobs, lambda index: self._log(before + index))
        self._slots += slots

        def ended(outcome: Outcome) -> None:
            on_outcome(outcome)
            self._has_enough |= until_failure and outcome.fails

        threads = [
            threading.Thread(target=self._work, args=(slot, queue, ended, failures), daemon=True)
            for slot in slots
        ]
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

    def _work(
        self,
        slot: Slot,
        queue: CaseQueue,
        on_outcome: OnOutcome,
        failures: list[BaseException],
    ) -> None:
        """Run cases of the queue on one slot; what goes wrong is raised in the caller's thread."""
        try:
            if slot.open(lambda: not self._ends() and queue.has(slot.accepts)):
                for case in queue.take_until(self._ends, slot.accepts):
                    on_outcome(self.run(case, slot))
        except Exception as error:
            failures.append(error)
            self._stopping = True
        finally:
            slot.give_back()

    def _ends(self) -> bool:
        """Whether no further case begins."""
        return self._stopping or self._has_enough

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
        spec = WorkerSpec(variables(determinism, {}, framework=framework), framework)
        event = self._answer(request, spec)
        if isinstance(event, Described):
            return event.environment
        raise UsageError(_refusal(event).reason)

    def outline(self, arguments: OutlineArguments) -> SavedPipeline:
        """Return what a saved pipeline consists of and what its call takes, as a worker sees it.

        Raises:
            UsageError: There is no such pipeline, or its class is not one that may be imported.
        """
        event = self._answer({"outline": arguments}, WorkerSpec(variables(Determinism.FULL, {})))
        if isinstance(event, Outlined):
            return event.outline
        raise UsageError(_refusal(event).reason)

    def _answer(self, request: Request, spec: WorkerSpec) -> Final:
        """Return a worker's answer to a request that is about no case."""
        try:
            return self.slot(0).ask(request, spec, DESCRIBE_SECONDS, lambda _: None)
        except LaunchError:
            raise
        except NotRecordedError as error:
            raise UsageError(error.reason) from error

    def accuracy(
        self,
        case: Case,
        actual: Recording,
        expected: Observed,
        forced: Recording | None = None,
        slot: Slot | None = None,
        base: Case | None = None,
    ) -> tuple[StageAccuracy, ...]:
        """Return how far both sides of each stage that moved lie from its evaluation in float64.

        Args:
            case: What was run.
            actual: What it left.
            expected: The baseline, or the recording of `base`, that it is held against.
            forced: The teacher-forced recording; None where it must still be made.
            slot: Where workers run.
            base: The case whose function is evaluated, where that is not `case` itself: of a
                variant, the case that its contract names.

        Raises:
            BaselineError: The baseline is damaged.
            NotRecordedError: A recording of this run is damaged.
        """
        tensors = expected.tensors_path.resolve()
        evaluation = Evaluation()
        try:
            forced = forced or self.record(replace(case, teacher_tensors=tensors), slot)
            result, moved = (
                self.record((base or case).evaluated(tensors, form), slot) for form in EVALUATIONS
            )
            evaluation = Evaluation(result, moved)
        except NotRecordedError as error:
            evaluation = Evaluation(problem=error.reason)
        unit = unit_of(case, [actual.environment, expected.environment])
        with _reading_recordings():
            return judge_accuracy(forced or actual, expected, evaluation, unit)

    def folder(self, case: Case) -> Path:
        """Return where the recording of a case lies, or will lie, in the run's folder."""
        return recording_folder(self.out, case)

    def write_results(self) -> Path:
        """Write all outcomes so far to `results.json`, or to this process's part, and return it."""
        return write_results(
            self.out,
            self.outcomes,
            self.environment,
            self._part,
            self.environments,
            Begun(self._started, replace(self.scope, not_run=self.not_run)),
        )

    @property
    def not_run(self) -> tuple[str, ...]:
        """The cases that were given to `run_all` and have no outcome."""
        ran = {outcome.case for outcome in self.outcomes}
        return tuple(case for case in self._asked if case not in ran) or self.scope.not_run

    def gather(self) -> None:
        """Make one `results.json` of the parts that other processes wrote into the run's folder."""
        outcomes, environment, environments = gather_parts(self.out)
        if not outcomes:
            return
        self.outcomes += outcomes
        self.environment = self.environment or environment
        self.environments = {**environments, **self.environments}
        self._started = first_start(self.out, self._started)
        self.write_results()
        remove_parts(self.out)

    def slot(self, index: int) -> Slot:
        """Return the slot of this index; a slot holds at most one worker."""
        while len(self._slots) <= index:
            self._slots.append(self._launcher.slot(self._log(len(self._slots))))
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
        with writing(folder):  # an older recording must not be mistaken for this run's
            (folder / RECORDING_FILE).unlink(missing_ok=True)
            remove_leftovers(folder.parent)
        event = slot.ask(
            request,
            spec_of(case),
            case.scenario.timeout,
            lambda doing: self._on_progress(case, doing),
        )
        if not isinstance(event, Recorded):
            raise _refusal(event)
        with _reading_recordings():
            return Recording.read(folder)

    def _log(self, index: int) -> Path:
        return self.out / "logs" / f"worker-{self._part}{index}.log"

    def _run_also_elsewhere(self, case: Case, slot: Slot) -> Outcome:
        """Run a case and judge it; once more from its beginning where its worker was lost.

        Raises:
            NotRecordedError: It left no recording, or its worker was lost twice.
        """
        try:
            return self._run_and_judge(case, slot)
        except WorkerLostError as error:
            first = error
        self._compared.forget(case)
        self._on_progress(case, f"starts again: {first.reason}")
        try:
            return self._run_and_judge(case, slot)
        except WorkerLostError as error:
            reason = f"its worker was lost twice: {first.reason}; then: {error.reason}"
            raise LaunchError(reason) from error

    def _run_and_judge(self, case: Case, slot: Slot) -> Outcome:
        """Run a case, and judge it by its baseline and by its contract."""
        recording = self._record_compared(case, slot)
        images = case.scenario.single_images
        singles = [self.record(replace(case, images=(image,)), slot) for image in images]
        made = _Made(recording, singles, self._certified(case, recording, singles, slot))
        self._note_environment(case, recording.environment)
        for _ in range(MOST_REPLACED):  # its baseline may be replaced meanwhile
            match = None
            if case.scenario.needs_baseline:
                match = self._match(case, recording)
            try:
                outcome = self._judge_recording(match, case, made, slot)
            except NotRecordedError:
                if match is None or not was_replaced(match.baseline):
                    raise
                continue  # another process replaced the baseline and removed its tensors
            outcome = self._timed_again(case, outcome, match, slot)
            return self._held_to_contract(case, outcome, recording, slot)
        raise NotRecordedError("other processes kept replacing its baseline")

    def _certified(
        self, case: Case, recording: Recording, singles: list[Recording], slot: Slot
    ) -> Certified | None:
        """Search compositions of a case's batch for one that changes an image, where it asks so.

        Args:
            case: The case.
            recording: Its recording.
            singles: Those of its images alone, where they were made already.
            slot: Where the worker runs.
        """
        if Expectation.BATCH_INVARIANT not in case.scenario.expect:
            return None
        known = dict(zip(case.scenario.single_images, singles, strict=True))

        def make(composed: Case) -> Recording:
            found = known.get(composed.images[0]) if len(composed.images) == 1 else None
            return self.record(composed, slot) if found is None else found

        started = time.perf_counter()
        with _reading_recordings():
            found = certify(case, recording, make)
        seconds = time.perf_counter() - started
        return replace(found, certificate=replace(found.certificate, seconds=seconds))

    def _match(self, case: Case, recording: Recording) -> Match | None:
        """Return the baseline to compare a recording with.

        Behind a URL, its tensors are fetched only where something differs: the judge reads no
        tensors of a baseline of the same version whose bits came out.
        """
        match = self.store.match(case, recording.numerics_class, tensors=False)
        if match is None or not self.store.url:
            return match
        baseline = match.baseline
        is_current = baseline.fingerprint == case.scenario.fingerprint
        has_its_bits = baseline.output_digests == recording.output_digests
        if is_current and has_its_bits and baseline.weights == recording.weights:
            return match
        return self.store.match(case, recording.numerics_class)

    def _note_environment(self, case: Case, environment: Environment) -> None:
        """Keep the environment of each numerics class: that of the first case in the alphabet.

        Cases of one class may differ in their variables. The choice must not depend on which of
        them ended first, or else two nights would seem to differ.
        """
        self.environment = self.environment or environment
        name = environment.numerics_class.name
        if case.id <= self._described_by.get(name, case.id):
            self.environments[name] = environment
            self._described_by[name] = case.id

    def _judge_recording(
        self,
        match: Match | None,
        case: Case,
        made: _Made,
        slot: Slot,
    ) -> Outcome:
        """Judge a recording, after a teacher-forced run where the comparison needs one."""
        recording, forced = made.recording, None
        if match is not None and wants_teacher_forcing(case.scenario, recording, match):
            forced = self._teacher_forced(match, case, slot)
        with _reading_recordings():  # the judge reads tensors only where digests differ
            outcome = judge(case, recording, match, made.singles, forced, made.certified)
        if match is None or not self._wants_accuracy(case, outcome, recording):
            return outcome
        accuracy = self.accuracy(case, recording, match.baseline, forced, slot)
        return replace(outcome, accuracy=accuracy)

    def _wants_accuracy(self, case: Case, outcome: Outcome, recording: Recording) -> bool:
        """Whether a case is evaluated in float64: where asked for, or where it moved and is cheap.

        An evaluation takes many times a run's time. Only where a case has drifted is it worth that
        without being asked for. A pipeline that a test holds is left alone: an evaluation may write
        into its weights.
        """
        has_moved = any(drift.differing for drift in outcome.outputs.values())
        if self._when is WhenEvaluated.NEVER or not has_moved or case.scenario.checkpoint.is_held:
            return False
        if self._when is WhenEvaluated.ALWAYS:
            return True
        is_cheap = recording.cost.first_seconds <= CHEAP_SECONDS
        comparable = not _computes_something_else(outcome)
        return outcome.verdict is Verdict.DRIFTED and is_cheap and comparable

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

    def _held_to_contract(
        self, case: Case, outcome: Outcome, recording: Recording, slot: Slot
    ) -> Outcome:
        """Return the outcome of a case; of a variant with a contract, by its contract too.

        The case that it is held against runs first where it has not run yet.
        """
        other, owed = case.against, case.scenario.contract
        if other is None or owed is None:
            return outcome
        try:
            expected = self._companion(case, other, recording, slot)
        except NotRecordedError as error:
            held = contract.not_held(case, reasons.no_companion(other.id, error.reason))
            return contract.with_contract(outcome, held, error.verdict)
        forced = None
        if contract.wants_teacher_forcing(owed, recording, expected):
            tensors = expected.tensors_path.resolve()
            folder = contract_folder(self.out, case)
            forced = self.record(replace(case, teacher_tensors=tensors), slot, folder)
        with _reading_recordings():
            held = contract.hold(case, recording, expected, forced)
        if self._wants_accuracy_of_contract(held, recording):
            with self._compared.entry(other).lock:  # variants share the folder of its evaluation
                accuracy = self.accuracy(case, recording, expected, forced, slot, base=other)
            with _reading_recordings():
                held = contract.hold(case, recording, expected, forced, accuracy)
        return contract.with_contract(outcome, held)

    def _companion(self, case: Case, other: Case, recording: Recording, slot: Slot) -> Recording:
        """Return the recording that a variant's is held against, of the same numerics class.

        One of another class, made on another machine of a fleet, says nothing of the variant.
        """
        expected = self._record_compared(other, slot, is_companion=True)
        if self._launcher.is_one_machine or _same_class(expected, recording):
            return expected
        folder = self.folder(case).with_name(f"{case.key}-companion")
        return self.record(other, slot, folder)

    def _wants_accuracy_of_contract(self, held: ContractOutcome, recording: Recording) -> bool:
        """Whether a variant is evaluated in float64: always where its contract depends on that.

        Otherwise by the rule of every case: where asked for, or where the contract is broken and
        the case is cheap.
        """
        if held.same_bits is not False or not held.free:  # not moved, or not comparable by stage
            return False
        if held.kind is ContractKind.NO_WORSE or self._when is WhenEvaluated.ALWAYS:
            return True
        is_cheap = recording.cost.first_seconds <= CHEAP_SECONDS
        is_broken = held.state is ContractState.BROKEN
        return is_broken and is_cheap and self._when is WhenEvaluated.CHEAP

    def _record_compared(self, case: Case, slot: Slot, *, is_companion: bool = False) -> Recording:
        """Return the recording of a case that others may be held against: it runs once in a run.

        Where it ran as a companion first, that recording is its own too. Processes that share the
        run's folder make their companions apart, because each of them owns only what it runs.
        """
        entry = self._compared.entry(case)
        with entry.lock:
            may_reuse = is_companion or (entry.is_companion and not self._part)
            if entry.error is not None and may_reuse:
                raise entry.error
            if entry.folder is not None and may_reuse:
                entry.is_companion = is_companion and entry.is_companion
                with _reading_recordings():
                    return Recording.read(entry.folder)
            folder = None
            if is_companion and self._part:
                folder = self.folder(case).with_name(f"{case.key}-of-{self._part}")
            entry.is_companion = is_companion
            entry.folder, entry.error = folder or self.folder(case), None
            try:
                return self.record(entry.case if is_companion else case, slot, folder)
            except NotRecordedError as error:
                entry.error = error
                raise
            except WorkerLostError:
                entry.folder = None
                raise

    def _timed_again(
        self, case: Case, outcome: Outcome, match: Match | None, slot: Slot
    ) -> Outcome:
        """Return the outcome; where its cost seems to have changed, with the cost of more rounds.

        One slow run is not yet a regression. A case that cannot be run again keeps its outcome.
        """
        if match is None or outcome.cost is None or outcome.cost.verdict not in CHANGED:
            return outcome
        folder = self.folder(case).with_name(f"{case.key}-timed")
        with contextlib.suppress(NotRecordedError):
            again = self.record(well_timed(case), slot, folder)
            cost = judge_cost(again, match.baseline, case.scenario.cost)
            return replace(outcome, cost=cost)
        return outcome

    def _kept_at(self, case: Case) -> str:
        """Return where a case's recording lies below the run's folder; empty where there is none.

        One of an earlier run into the same folder is removed before a case runs.
        """
        folder = self.folder(case)
        if not (folder / RECORDING_FILE).is_file():
            return ""
        return folder.relative_to(self.out).as_posix()

    def _stop(self) -> None:
        self._stopping = True
        for slot in self._slots:
            slot.end()


@dataclass(frozen=True)
class _Made:
    """What ran for one case: its recording, its images alone, and what came of other batches."""

    recording: Recording
    singles: list[Recording]
    certified: Certified | None


@dataclass
class _Entry:
    """What is known of one case of the run that others may be held against.

    `case` is how the run makes it, `folder` where its recording lies, `error` why there is none,
    and `is_companion` whether it ran for another case alone so far.
    """

    case: Case
    folder: Path | None = None
    error: NotRecordedError | None = None
    is_companion: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Compared:
    """The cases of a run by their ids, so that one that others are held against runs once."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def choose(self, cases: Iterable[Case]) -> None:
        """Note the cases that were chosen, as the run makes them."""
        with self._lock:
            for case in cases:
                self._entries.setdefault(case.id, _Entry(case))

    def forget(self, case: Case) -> None:
        """Forget the recording of a case, which then runs again."""
        entry = self.entry(case)
        with entry.lock:
            entry.folder, entry.error = None, None

    def entry(self, case: Case) -> _Entry:
        """Return what is known of a case."""
        with self._lock:
            return self._entries.setdefault(case.id, _Entry(case))


def _computes_something_else(outcome: Outcome) -> bool:
    """Whether another input or own code makes the baseline's error in float64 say nothing."""
    first = outcome.first_difference
    kinds = (DifferenceKind.INPUT_FILE, DifferenceKind.INPUT_DECODING)
    own = any(change.kind is ChangeKind.OWN_CODE for change in outcome.environment_changes)
    return own or (first is not None and first.kind in kinds)


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


def to_record(case: Case, *, may_be_stateful: bool = False) -> Case:
    """Return a case as it runs where its recording is to become a baseline.

    It is timed well, and a second call of the same pipeline object must agree with the first unless
    it may be stateful.
    """
    case = well_timed(case)
    if may_be_stateful:
        return case
    scenario = case.scenario
    expect = dict.fromkeys((*scenario.expect, Expectation.STATELESS))
    return replace(case, scenario=replace(scenario, expect=tuple(expect)))


def _same_class(one: Recording, other: Recording) -> bool:
    return one.numerics_class == other.numerics_class


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
