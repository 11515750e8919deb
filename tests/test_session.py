"""The whole way of a case when things go wrong: crashes, time-outs, Ctrl-C, several workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest
from marked import MARK, alive, until

from harness.errors import (
    FileError,
    HarnessError,
    LaunchError,
    NotRecordedError,
    UsageError,
    WorkerLostError,
)
from harness.launch import process
from harness.launch.events import Final, Recorded
from harness.launch.process import Worker
from harness.records import (
    CostVerdict,
    Device,
    DifferenceKind,
    Dtype,
    Outcome,
    Reason,
    Verdict,
)
from harness.scenario.fields import Determinism, Framework
from harness.scenario.model import Case, CostBounds
from harness.scenario.reading import read, read_all
from harness.scenario.tolerance import Tolerances
from harness.session import Session, WhenEvaluated, timed, well_timed
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import OWNER_LOCK, RESULTS_FILE, new_run, read_results
from harness.study.fault_catalogue import catalogue
from harness.worker.protocol import RECORDING_FILE, TENSORS_FILE, RunRequest

BASICS = "description: One step.\npipeline: DDIMPipeline\ncheckpoint: {bundled: digits-ddpm}\n"
PATIENCE = "timeout: 60\n"  # a harness that waits for nothing fails its test within a minute
REQUEST = {"case": {"id": "x", "call": {}}, "out": "", "known": {}}
ONE_STEP = "{num_inference_steps: 1, output_type: np}"


def scenario(folder: Path, name: str, call: str = "{}", more: str = PATIENCE) -> None:
    """Write `scenarios/NAME.yaml`."""
    path = folder / "scenarios" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{BASICS}call: {call}\n{more}", encoding="utf-8")


def cases(folder: Path) -> list[Case]:
    """Return the cases of every scenario in `folder`."""
    return [case for each in read_all([folder / "scenarios"]) for case in each.cases()]


def ran(folder: Path, jobs: int = 1, out: str = "run") -> Session:
    """Run every scenario in `folder` and return the closed session."""
    with Session(Store(folder / "baselines"), folder / out) as session:
        session.run_all(cases(folder), jobs, lambda _outcome: None)
    return session


def said(session: Session) -> dict[str, tuple[str, str]]:
    """Return verdict and message of every outcome by its scenario.

    Numbers of processes become words, in the order of the outcomes.
    """
    found: dict[str, str] = {}

    def word(match: re.Match[str]) -> str:
        return found.setdefault(match.group(), f"process {'ABC'[len(found)]}")

    return {
        outcome.scenario: (outcome.verdict, re.sub(r"process \d+", word, outcome.message))
        for outcome in session.outcomes
    }


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for the end of a pretended worker, which has no guardian to end it."""
    monkeypatch.setattr(process, "CLOSE_SECONDS", 0.5)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the mark that every process started by the test inherits."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("{signal: 11}", "the worker was killed by SIGSEGV, while run 1 of 2"),
        (
            "{signal: 9}",
            "the worker was killed by SIGKILL (often: out of memory), while run 1 of 2",
        ),
        ("{status: 7}", "the worker ended with status 7, while run 1 of 2"),
        (
            "{last_words: CUDA error, signal: 6}",
            "the worker was killed by SIGABRT, while run 1 of 2; its last words: CUDA error",
        ),
    ],
)
def test_a_crash_ends_its_case_with_the_cause_and_the_next_case_runs_in_a_new_worker(
    call: str, message: str, pretender: Path, tmp_path: Path
):
    """The case before keeps its outcome, the case after gets a process of its own."""
    scenario(tmp_path, "a")
    scenario(tmp_path, "b", call)
    scenario(tmp_path, "c")
    assert said(ran(tmp_path)) == {
        "a": ("unverified", "process A"),
        "b": ("error", message),
        "c": ("unverified", "process B"),
    }


def test_cases_that_share_settings_run_in_one_worker(pretender: Path, tmp_path: Path):
    """Another mode of determinism needs another process."""
    scenario(tmp_path, "a")
    scenario(tmp_path, "b")
    scenario(tmp_path, "c", more="determinism: default\n")
    found = said(ran(tmp_path))
    assert found["a"] == found["b"]
    assert found["c"] != found["a"]


def test_a_time_out_names_what_the_case_was_doing(pretender: Path, tmp_path: Path):
    """The worker that hangs is ended, and the next case runs in a new one."""
    scenario(tmp_path, "a", "{seconds: 60}", "timeout: 0.5\n")
    scenario(tmp_path, "b")
    started = time.monotonic()
    assert said(ran(tmp_path)) == {
        "a": ("error", "timed out after 0.5 s, while run 1 of 2"),
        "b": ("unverified", "process A"),
    }
    assert time.monotonic() - started < 30


def test_last_words_are_those_of_the_worker_that_died(pretender: Path, tmp_path: Path):
    """What an earlier worker wrote into the same log is not quoted again."""
    scenario(tmp_path, "a", "{last_words: mine, signal: 6}")
    scenario(tmp_path, "b", "{signal: 6}")
    found = said(ran(tmp_path))
    assert found["a"][1].endswith("its last words: mine")
    assert "mine" not in found["b"][1]


def test_a_worker_that_does_not_start_is_an_error_of_every_case(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Such as an environment without torch."""
    monkeypatch.setenv("PRETENDER_DIES_AT_START", "1")
    scenario(tmp_path, "a")
    scenario(tmp_path, "b")
    reason = "the worker ended with status 1, while starting; its last words: no module named torch"
    assert said(ran(tmp_path)) == {"a": ("error", reason), "b": ("error", reason)}


def test_closing_a_worker_ends_what_it_started(pretender: Path, mark: str, tmp_path: Path):
    """The whole group of processes; a second time does no harm."""
    worker = Worker({}, tmp_path / "worker.log")
    try:
        worker.ask(REQUEST, 10.0, lambda _doing: None)
        assert len(alive(mark)) == 1
    finally:
        worker.close()
    assert alive(mark) == []
    worker.close()


def test_a_worker_that_died_between_two_cases_is_noticed(pretender: Path, tmp_path: Path):
    """The request meets a closed pipe, and the error says how the process ended."""
    worker = Worker({}, tmp_path / "worker.log")
    try:
        answer = worker.ask(REQUEST, 10.0, lambda _doing: None)
        os.kill(int(answer.reason.split()[-1]), signal.SIGTERM)
        assert worker._process.wait(10) == -signal.SIGTERM
        with pytest.raises(LaunchError, match="the worker was killed by SIGTERM"):
            worker.ask(REQUEST, 10.0, lambda _doing: None)
    finally:
        worker.close()


@pytest.mark.parametrize("starts_in", ["0", "60"])
def test_an_interrupted_session_leaves_no_worker(
    starts_in: str, pretender: Path, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither one that runs a case nor one that starts; the case cut short has no outcome."""
    monkeypatch.setenv("PRETENDER_STARTS_IN", starts_in)
    scenario(tmp_path, "a")
    scenario(tmp_path, "b", "{last_words: asleep, seconds: 60}")
    log = tmp_path / "run" / "logs" / "worker-0.log"
    last_words = "asleep" if starts_in == "0" else ""

    def interrupt() -> None:
        until(lambda: log.exists() and last_words in log.read_text(), 30)
        time.sleep(0.2)  # by then the session waits for the worker, which sleeps
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path)
    interrupter.join()
    assert until(lambda: not alive(mark), 2)
    results = tmp_path / "run" / RESULTS_FILE
    assert results.exists() == (starts_in == "0")
    if results.exists():
        (kept,) = read_results(results).outcomes
        assert (kept.scenario, kept.verdict) == ("a", Verdict.UNVERIFIED)


def test_ctrl_c_leaves_what_had_finished_and_nothing_half_written(tmp_path: Path):
    """The command exits with 130; its worker is gone; the run holds the case that was complete."""
    scenario(tmp_path, "a", ONE_STEP)
    scenario(tmp_path, "b", "{num_inference_steps: 1000, output_type: np}")
    mark, run = str(tmp_path), tmp_path / "run"
    environment = {**os.environ, MARK: mark}
    command = [sys.executable, "-m", "harness", "run", "scenarios", "--out", str(run)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command_line:
        try:
            assert until((run / "recordings" / "a" / "cpu-float32").exists, 120)
            time.sleep(0.3)
            assert any("harness.worker" in line for line in alive(mark))
            command_line.send_signal(signal.SIGINT)
            _, err = command_line.communicate(timeout=30)
        finally:
            command_line.kill()
    assert command_line.returncode == 130
    assert err.splitlines()[1:] == ["harness: interrupted; what had finished is kept"]
    assert alive(mark) == []
    left = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    recording = "recordings/a/cpu-float32"
    assert left == [
        OWNER_LOCK,
        "logs/worker-0.log",
        f"{recording}/{RECORDING_FILE}",
        f"{recording}/{TENSORS_FILE}",
        RESULTS_FILE,
    ]
    (kept,) = read_results(run).outcomes
    assert (kept.case, kept.verdict) == ("a[cpu-float32]", Verdict.MISSING)


@pytest.fixture
def two_checkpoints(pooled, tmp_path: Path) -> Path:
    """Scenarios of two checkpoints, which two workers share between them."""
    for seed in (0, 1):
        scenario(tmp_path, f"digits-{seed}", ONE_STEP, f"seed: {seed}\ncost: {{rounds: 1}}\n")
    text = (
        "description: A prompt.\n"
        "pipeline: StableDiffusionPipeline\n"
        "checkpoint: {bundled: digits-sd}\n"
        "call: {prompt: a handwritten two, num_inference_steps: 1, output_type: np}\n"
        "cost: {rounds: 1}\n"
    )
    (tmp_path / "scenarios" / "prompt.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_two_jobs_give_the_same_bits_as_one(two_checkpoints: Path):
    """Every digest of every recording, stage by stage; and both jobs had work."""
    found = []
    for jobs in (1, 2):
        session = ran(two_checkpoints, jobs, f"run-{jobs}")
        assert len(session._slots) == jobs
        folders = sorted((session.out / "recordings").glob("*/*"))
        recordings = {
            str(folder.relative_to(session.out)): Recording.read(folder) for folder in folders
        }
        found.append(
            {name: (each.outputs, each.stages, each.noise) for name, each in recordings.items()}
        )
    assert set(found[0]) == {
        f"recordings/{name}/cpu-float32" for name in ("digits-0", "digits-1", "prompt")
    }
    assert found[1] == found[0]


def test_a_job_without_a_checkpoint_of_its_own_helps_with_anothers(pretender: Path, tmp_path: Path):
    """Two workers share the cases of one checkpoint, each of which runs once."""
    for name in "abcdef":
        scenario(tmp_path, name, "{seconds: 0.5}")
    session = ran(tmp_path, jobs=2)
    assert sorted(outcome.scenario for outcome in session.outcomes) == list("abcdef")
    assert {message for _, message in said(session).values()} == {"process A", "process B"}


def test_results_can_be_read_back_as_they_were(two_checkpoints: Path):
    """Outcomes of several verdicts, with their drifts, costs and log, and the environment."""
    scenario(two_checkpoints, "wrong", "{num_inference_steps: 5000}")
    first = ran(two_checkpoints, out="first")
    (case,) = read(two_checkpoints / "scenarios" / "prompt.yaml").cases()
    first.store.write(case, Recording.read(first.folder(case)), "a first one")
    session = ran(two_checkpoints, out="second")
    results = read_results(session.out)
    verdicts = [outcome.verdict for outcome in results.outcomes]
    assert verdicts == ["missing", "missing", "identical", "error"]
    in_order = sorted(session.outcomes, key=lambda outcome: outcome.case)
    assert list(results.outcomes) == in_order
    assert results == read_results(session.out / RESULTS_FILE)
    assert "Traceback" in results.outcomes[3].log
    assert results.environment == session.environment
    assert results.environment.numerics_class.name.startswith("cpu-")


def test_an_exception_of_the_judge_ends_the_run_and_keeps_what_was_said_before(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A defect of the harness reaches the caller instead of one thread's end."""
    scenario(tmp_path, "a")
    scenario(tmp_path, "b")
    own = Session.record

    def broken(self, case, *rest):
        if case.scenario.name == "b":
            raise ZeroDivisionError
        return own(self, case, *rest)

    monkeypatch.setattr(Session, "record", broken)
    with pytest.raises(ZeroDivisionError):
        ran(tmp_path)
    (kept,) = read_results(tmp_path / "run").outcomes
    assert kept.case == "a[cpu-float32]"


def test_a_session_in_which_nothing_ran_writes_nothing(tmp_path: Path):
    """No empty folder, no empty results."""
    with Session(Store(tmp_path / "baselines"), tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_results_are_replaced_whole(tmp_path: Path):
    """The old file or the new one; no temporary file stays."""
    session = Session(Store(tmp_path / "baselines"), tmp_path / "run")
    for verdict in ("missing", "error"):
        session.outcomes = [builders.outcome(verdict)]
        session.write_results()
    assert list(read_results(session.out).outcomes) == session.outcomes
    assert [path.name for path in session.out.iterdir()] == [RESULTS_FILE]


@pytest.mark.parametrize(
    ("text", "error"),
    [(None, FileError), ("{", FileError), ('{"format": "harness-results/0"}', FileError)],
    ids=["nothing", "cut-short", "another-format"],
)
def test_what_is_no_run_is_refused_with_its_path(
    text: str | None, error: type[HarnessError], tmp_path: Path
):
    """A folder without results, a file cut short, and another format."""
    if text:
        (tmp_path / RESULTS_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(error, match=re.escape(str(tmp_path / RESULTS_FILE))) as caught:
        read_results(tmp_path)
    assert type(caught.value) is error


def test_a_new_run_is_named_by_its_time(tmp_path: Path):
    """So that runs sort by age."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", new_run(tmp_path).name)


class Played(Session):
    """A session whose recordings take the seconds given, in turn; None: the run is lost."""

    def __init__(self, store: Store, out: Path, seconds: list[float | None]) -> None:
        super().__init__(store, out)
        self._seconds = seconds
        self.asked: list[tuple[int | None, str | None]] = []

    def record(self, case: Case, _slot: object = None, folder: Path | None = None) -> Recording:
        self.asked.append((case.scenario.cost.rounds, folder and folder.name))
        seconds = self._seconds[len(self.asked) - 1]
        if seconds is None:
            raise LaunchError("timed out")
        return builders.recording(self.out / str(len(self.asked)), cost=builders.figures(seconds))


@pytest.mark.parametrize(
    ("seconds", "bounds", "verdict", "last"),
    [
        ([2.0], {"slower": 1.25}, "ok", 2.0),
        ([4.0, 2.0], {"slower": 1.25}, "ok", 2.0),  # a slow minute
        ([4.0, 3.0], {"slower": 1.25}, "slower", 3.0),
        ([1.0, 1.0], {"slower": 1.25}, "faster", 1.0),
        ([4.0, None], {"slower": 1.25}, "slower", 4.0),
        ([4.0], {}, "unknown", 4.0),
    ],
)
def test_a_change_of_cost_is_told_once_more_rounds_confirm_it(
    tmp_path: Path, seconds: list[float | None], bounds: dict[str, Any], verdict: str, last: float
):
    """The verdict is that of the first run, whatever comes of the rounds."""
    case, store = builders.case(cost=bounds), Store(tmp_path / "baselines")
    expected = builders.recording(tmp_path / "expected", cost=builders.figures(2.0))
    store.write(case, expected, "first")
    session = Played(store, tmp_path, seconds)
    outcome = session.run(case)
    assert (outcome.verdict, outcome.cost.verdict, outcome.cost.figures.seconds) == (
        Verdict.IDENTICAL,
        CostVerdict(verdict),
        last,
    )
    assert session.asked == [(None, None), (6, "cpu-float32-timed")][: len(seconds)]


@pytest.mark.parametrize(
    ("cost", "rounds"), [({}, None), ({"slower": 2.0}, 6), ({"slower": 2.0, "rounds": 9}, 9)]
)
def test_what_others_are_held_against_is_timed_well(cost, rounds):
    """Where the scenario bounds cost; never less than it asks for itself."""
    assert well_timed(builders.case(cost=cost)).scenario.cost.rounds == rounds


def test_a_case_that_is_timed_runs_as_often_as_it_is_told():
    """And stays the same case otherwise."""
    case = builders.case(cost={"slower": 2.0})
    again = timed(case, 4)
    assert again.scenario.cost == CostBounds(slower=2.0, rounds=4)
    assert (again.id, again.scenario.fingerprint) == (case.id, case.scenario.fingerprint)


def script_that(path: Path, *lines: str) -> Path:
    """Write a worker that does `lines` with each request, `request` and `out` being at hand."""
    body = "\n    ".join(lines)
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, shutil, sys\n"
        "from pathlib import Path\n"
        "def send(event, **fields):\n"
        "    print(json.dumps(dict(event=event, **fields)), flush=True)\n"
        "send('ready')\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    out = Path(request.get('out', ''))\n"
        f"    {body}\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


RECORDED = "send('recorded')"
# What a worker does to its recording in case `b`, and what the error says of it.
DAMAGED = {
    "leaves-nothing": ("shutil.rmtree(out)", "does not exist"),
    "leaves-no-json": ("recorded.unlink()", "does not exist"),
    "leaves-half-a-json": (
        "recorded.write_bytes(recorded.read_bytes()[:900])",
        "is not the JSON that the harness writes",
    ),
    "changes-the-json": (
        "recorded.write_text(recorded.read_text().replace('2.5', '2.6'))",
        "was changed or cut short: its digest does not fit",
    ),
    "leaves-another-format": ("recorded.write_text('{\"format\": 7}')", "has format 7"),
    "leaves-bytes": ("recorded.write_bytes(bytes(range(256)))", "cannot be read"),
    "leaves-no-tensors": ("tensors.unlink()", "cannot be read: No such file or directory"),
    "leaves-empty-tensors": (
        "tensors.write_bytes(b'')",
        "is damaged: its bytes are not those that were recorded",
    ),
    "leaves-half-the-tensors": (
        "tensors.write_bytes(tensors.read_bytes()[:99])",
        "is damaged: its bytes are not those that were recorded",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_recording_is_its_case_s_error_and_the_others_go_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever a worker left, no verdict is given by a part of it."""
    damage, problem = DAMAGED[name]
    source = tmp_path / "source"
    builders.recording(source)
    worker = script_that(
        tmp_path / "worker",
        f"shutil.copytree({str(source)!r}, out, dirs_exist_ok=True)",
        f"recorded, tensors = out / {RECORDING_FILE!r}, out / {TENSORS_FILE!r}",
        "if request['case']['id'].startswith('b'):",
        f"    {damage}",
        RECORDED,
    )
    monkeypatch.setattr(sys, "executable", str(worker))
    for scenario_name in "abc":
        scenario(tmp_path, scenario_name)
    store = Store(tmp_path / "baselines")
    moved = builders.recording(tmp_path / "moved", **builders.moved(letter="b"))
    for case in cases(tmp_path):
        store.write(case, moved, "first")
    outcomes = {outcome.scenario: outcome for outcome in ran(tmp_path).outcomes}
    assert {outcomes[each].reason for each in "ac"} == {Reason.NO_TOLERANCE}
    assert (outcomes["b"].verdict, outcomes["b"].reason) == (Verdict.ERROR, Reason.NOT_RECORDED)
    assert outcomes["b"].message.startswith("the worker's recording is missing or damaged: ")
    assert problem in outcomes["b"].message


def test_an_older_run_s_recording_is_not_taken_for_this_run_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker that says `recorded` and left nothing is an error, also in a folder used before."""
    scenario(tmp_path, "a")
    (case,) = cases(tmp_path)
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        builders.recording(session.folder(case))
    monkeypatch.setattr(sys, "executable", str(script_that(tmp_path / "worker", RECORDED)))
    (outcome,) = ran(tmp_path).outcomes
    assert outcome.verdict is Verdict.ERROR
    assert outcome.message.startswith("the worker's recording is missing or damaged: ")


def test_a_worker_that_answers_another_question_is_its_case_s_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An environment is no recording."""
    environment = builders.encode(builders.environment())
    answer = f"send('described', environment={environment!r})"
    monkeypatch.setattr(sys, "executable", str(script_that(tmp_path / "worker", answer)))
    scenario(tmp_path, "a")
    (outcome,) = ran(tmp_path).outcomes
    assert (outcome.verdict, outcome.message) == (
        Verdict.ERROR,
        "the worker answered with Described",
    )


def test_a_failure_comes_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reason for people, the traceback for who repairs it."""
    answer = "send('failed', reason='KeyError: x', traceback='Traceback: ...')"
    monkeypatch.setattr(sys, "executable", str(script_that(tmp_path / "worker", answer)))
    scenario(tmp_path, "a")
    (outcome,) = ran(tmp_path).outcomes
    assert (outcome.verdict, outcome.message, outcome.log) == (
        Verdict.ERROR,
        "KeyError: x",
        "Traceback: ...",
    )


def test_a_damaged_baseline_is_its_case_s_error_and_the_others_go_on(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It names the file and the remedy; what is judged by another baseline is judged."""
    recording = tmp_path / "recorded"
    expected = builders.recording(recording)
    monkeypatch.setenv("PRETENDER_RECORDS", str(recording))
    for name in "ab":
        scenario(tmp_path, name)
    store = Store(tmp_path / "baselines")
    damaged, _ = (store.write(case, expected, "first") for case in cases(tmp_path))
    damaged.write_text(damaged.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    found = {outcome.scenario: outcome for outcome in ran(tmp_path).outcomes}
    assert (found["a"].verdict, found["a"].reason) == (Verdict.ERROR, Reason.DAMAGED_BASELINE)
    assert str(damaged) in found["a"].message
    assert found["b"].verdict is Verdict.IDENTICAL


def test_a_run_s_folder_has_one_owner(pretender: Path, mark: str, tmp_path: Path):
    """A second run is refused while the first goes on, before it starts a worker."""
    scenario(tmp_path, "a")
    store, out = Store(tmp_path / "baselines"), tmp_path / "run"
    with Session(store, out) as first:
        first.run_all(cases(tmp_path), 1, lambda _outcome: None)
        first.write_results()
        assert len(alive(mark)) == 1
        with (
            pytest.raises(UsageError, match="another run is writing there now"),
            Session(store, out) as second,
        ):
            second.run_all(cases(tmp_path), 1, lambda _outcome: None)
        assert len(alive(mark)) == 1
        assert list(read_results(out).outcomes) == first.outcomes
        assert second.outcomes == []


def test_a_run_s_folder_is_free_again_after_the_run(pretender: Path, tmp_path: Path):
    """Whichever thread of the session ran the cases, and also in the same process."""
    scenario(tmp_path, "a")
    for _ in range(2):
        (outcome,) = ran(tmp_path).outcomes
        assert outcome.verdict is Verdict.UNVERIFIED


def test_a_run_s_folder_is_free_again_after_its_process_was_killed(tmp_path: Path):
    """A lock of a process that is gone holds nothing."""
    holder = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from harness.session import Session\n"
        "from harness.store.baselines import Store\n"
        "session = Session(Store(Path('baselines')), Path(sys.argv[1]))\n"
        "session.claim()\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    session = Session(Store(tmp_path / "baselines"), tmp_path / "run")
    command = [sys.executable, "-c", holder, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UsageError, match="another run is writing there now"):
                session.claim()
        finally:
            other.kill()
    with session:
        session.claim()


def test_parts_of_one_run_share_its_folder(pretender: Path, tmp_path: Path):
    """The one that gathers them owns it; their results become one file."""
    for name in "ab":
        scenario(tmp_path, name)
    store, out = Store(tmp_path / "baselines"), tmp_path / "run"
    with Session(store, out) as whole:
        whole.claim()
        for part, case in zip(("gw0", "gw1"), cases(tmp_path), strict=True):
            with Session(store, out, part=part) as session:
                session.run(case)
        assert sorted(path.name for path in out.glob("results*")) == [
            "results-gw0.json",
            "results-gw1.json",
        ]
        whole.gather()
    assert [path.name for path in out.glob("results*")] == [RESULTS_FILE]
    assert [outcome.scenario for outcome in read_results(out).outcomes] == ["a", "b"]


def test_the_results_of_an_interrupted_session_are_whole(pretender: Path, tmp_path: Path):
    """What had finished is kept, sealed and readable; what had not is not mentioned."""
    for name in "abc":
        scenario(tmp_path, name)
    interrupt_after = {"b"}

    def interrupt(outcome: Outcome) -> None:
        if outcome.scenario in interrupt_after:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(1)  # the main thread ends the workers meanwhile

    out = tmp_path / "run"
    with (
        pytest.raises(KeyboardInterrupt),
        Session(Store(tmp_path / "baselines"), out) as session,
    ):
        session.run_all(cases(tmp_path), 1, interrupt)
    kept = read_results(out).outcomes
    assert [outcome.scenario for outcome in kept] == ["a", "b"]
    assert list(kept) == session.outcomes
    assert list(out.rglob("*.tmp")) == []


def test_a_session_says_what_is_done_for_which_case(pretender: Path, tmp_path: Path):
    """In the order in which it is done."""
    for name in "ab":
        scenario(tmp_path, name)
    said_of: list[tuple[str, str]] = []

    def note(case: Case, doing: str) -> None:
        said_of.append((case.scenario.name, doing))

    with Session(Store(tmp_path / "baselines"), tmp_path / "run", note) as session:
        session.run_all(cases(tmp_path), 1, lambda _outcome: None)
    doing = ("waits for a worker", "run 1 of 2")
    assert said_of == [(name, each) for name in "ab" for each in doing]


def test_an_outcome_names_its_scenario_and_store_as_a_person_would_type_them(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """For the command that comes next."""
    scenario(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    (outcome,) = ran(tmp_path).outcomes
    assert (outcome.path, outcome.store) == ("scenarios/a.yaml", "baselines")


def test_an_environment_is_described_without_a_case(pretender: Path, tmp_path: Path):
    """Nothing is written but the log, and no folder is claimed."""
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        environment = session.describe(Framework.TORCH, Device.CPU, Dtype.FLOAT32, Determinism.FULL)
    assert environment.numerics_class.name == "cpu-p"
    assert environment.variables["OMP_NUM_THREADS"] == "1"
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()] == [
        "worker-0.log"
    ]


def test_a_device_that_is_not_here_cannot_be_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The worker's reason is the message."""
    answer = "send('unverified', reason='no CUDA device')"
    monkeypatch.setattr(sys, "executable", str(script_that(tmp_path / "worker", answer)))
    with (
        Session(Store(tmp_path / "baselines"), tmp_path / "run") as session,
        pytest.raises(UsageError, match="no CUDA device"),
    ):
        session.describe(Framework.TORCH, Device.CUDA, Dtype.FLOAT32, Determinism.FULL)


def test_a_framework_without_its_environment_is_unverified_and_says_how_to_make_it(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is large, and is never made unasked."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    scenario(tmp_path, "a", more="backend: mindspore\ngenerator: numpy\n")
    remedy = "make it with: harness env --make mindspore"
    assert said(ran(tmp_path)) == {
        "a": ("unverified", f"no environment with mindspore here; {remedy}")
    }


VARIANTS = """\
variants:
  nhwc: {enable: channels_last, contract: {rel_l2: 1.0e-3, local_rel_l2: 1.0e-3}}
  again: {contract: identical}
  twin: {enable: channels_last, contract: {identical-to: nhwc}}
  other: {seed: 1, contract: identical}
  lost: {call: {num_inference_steps: 5000}, contract: identical}
  of-lost: {contract: {identical-to: lost}}
"""


@pytest.fixture
def recorded(pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A scenario with variants, and the name of each recording that a session then makes."""
    scenario(tmp_path, "digits", ONE_STEP, f"cost: {{rounds: 1}}\n{VARIANTS}")
    own, made = Session.record, []

    def noted(self, case, slot=None, folder=None):
        made.append((folder or self.folder(case)).name)
        return own(self, case, slot, folder)

    monkeypatch.setattr(Session, "record", noted)
    return made


def test_variants_are_judged_by_their_contracts(recorded: list[str], tmp_path: Path):
    """The base runs once, before them; who owes local drift runs once more, teacher-forced."""
    session = ran(tmp_path)
    found = {outcome.variant: outcome for outcome in session.outcomes}
    assert {name: outcome.verdict for name, outcome in found.items()} == {
        "": "missing",
        "nhwc": "within" if found["nhwc"].contract.outputs["image"].differing else "identical",
        "again": "identical",
        "twin": "identical",
        "other": "drifted",
        "lost": "error",
        "of-lost": "error",
    }
    assert recorded[0] == "cpu-float32"
    forced = [name for name in recorded if "teacher-forced" in name]
    assert sorted(set(recorded) - set(forced)) == sorted(
        f"cpu-float32{variant}"
        for variant in ("", ",again", ",lost", ",nhwc", ",of-lost", ",other", ",twin")
    )
    assert len(recorded) == len(set(recorded))
    assert found["other"].reason is Reason.CONTRACT_BROKEN
    assert found["of-lost"].contract.against == "digits[cpu-float32,lost]"
    assert "left no recording" in found["of-lost"].message
    assert read_results(session.out).outcomes[0].variant == ""


def test_a_variant_without_its_base_runs_the_base_as_its_companion(
    recorded: list[str], tmp_path: Path
):
    """Once for all variants of the run, and without an outcome: nobody asked for it."""
    chosen = [case for case in cases(tmp_path) if case.scenario.variant in ("again", "other")]
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        session.run_all(chosen, 1, lambda _outcome: None)
    assert [outcome.variant for outcome in session.outcomes] == ["again", "other"]
    free = [name for name in recorded if "teacher-forced" not in name]
    assert sorted(free) == ["cpu-float32", "cpu-float32,again", "cpu-float32,other"]


def test_a_base_that_ran_as_a_companion_does_not_run_again(recorded: list[str], tmp_path: Path):
    """Where pytest runs it after its variant."""
    by_variant = {case.scenario.variant: case for case in cases(tmp_path)}
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        session.run(by_variant["again"])
        assert session.run(by_variant[""]).verdict is Verdict.MISSING
        assert recorded == ["cpu-float32,again", "cpu-float32"]
        session.run(by_variant[""])  # as plugins do that run a failed test again
    assert recorded == ["cpu-float32,again", "cpu-float32", "cpu-float32"]


def test_processes_that_share_a_run_make_their_companions_apart(
    recorded: list[str], tmp_path: Path
):
    """Two of them must not write into one folder."""
    by_variant = {case.scenario.variant: case for case in cases(tmp_path)}
    with Session(Store(tmp_path / "baselines"), tmp_path / "run", part="gw0") as session:
        assert session.run(by_variant["again"]).verdict is Verdict.IDENTICAL
        session.run(by_variant[""])
    assert recorded == ["cpu-float32,again", "cpu-float32-of-gw0", "cpu-float32"]


def test_a_variant_has_a_baseline_of_its_own(recorded: list[str], tmp_path: Path):
    """It is found by the variant's name, and judges beside the contract."""
    by_variant = {case.scenario.variant: case for case in cases(tmp_path)}
    first = ran(tmp_path, out="first")
    again = by_variant["again"]
    path = first.store.write(again, Recording.read(first.folder(again)), "first")
    assert path.parent == tmp_path / "baselines" / "digits" / "cpu-float32,again"
    assert first.store.read(path).variant == "again"
    session = ran(tmp_path, out="second")
    outcome = next(outcome for outcome in session.outcomes if outcome.variant == "again")
    assert (outcome.verdict, outcome.reason) == (Verdict.IDENTICAL, Reason.SAME_BITS)
    assert outcome.contract.same_bits


def faulty(folder: Path) -> tuple[Case, Case]:
    """Return a case, and the same with a fault in its U-Net, which no setting shows."""
    call = "{num_inference_steps: 2, output_type: np}"
    scenario(folder, "digits", call, "cost: {rounds: 1}\n")
    (case,) = cases(folder)
    (fault,) = (each for each in catalogue("unet") if each.name == "one convolution x1.01")
    carrier = fault.apply(case)
    assert carrier is not None
    return case, carrier


def test_a_drift_in_the_same_class_says_what_moved_by_itself(pooled, tmp_path: Path):
    """One more run, in which every stage gets the baseline's inputs, tells causes apart."""
    case, carrier = faulty(tmp_path)
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        session.store.write(case, session.record(case), "first")
        assert session.run(case).origins == ()
        outcome = session.run(carrier)
    assert outcome.reason is Reason.OTHER_BITS
    origins = [(each.kind, each.subject) for each in outcome.origins]
    assert origins == [(DifferenceKind.STAGE_OUTPUT, "unet#0")]
    assert max(drift.rel_l2 for drift in outcome.local) > 0


def test_a_teacher_forced_run_that_fails_takes_no_verdict_away(
    pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same class owes the bits, whatever the stages are found to do."""
    case, carrier = faulty(tmp_path)
    own = Session.record

    def refuse(self, case, slot=None, folder=None):
        if case.teacher_tensors is not None:
            raise NotRecordedError("out of memory")
        return own(self, case, slot, folder)

    monkeypatch.setattr(Session, "record", refuse)
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        session.store.write(case, session.record(case), "first")
        outcome = session.run(carrier)
    assert outcome.reason is Reason.OTHER_BITS
    assert outcome.origins
    assert outcome.local == ()


def test_a_contract_on_accuracy_is_held_against_float64(pooled, tmp_path: Path):
    """Sliced attention rounds otherwise, and no worse; the same bits need no evaluation."""
    text = (
        "description: A prompt.\n"
        "pipeline: StableDiffusionPipeline\n"
        "checkpoint: {bundled: digits-sd}\n"
        "scheduler: {class: DDIMScheduler}\n"
        "call: {prompt: a handwritten two, num_inference_steps: 1, output_type: np}\n"
        "cost: {rounds: 1}\n"
        "variants:\n"
        "  sliced: {enable: attention_slicing, contract: no-worse}\n"
        "  again: {contract: no-worse}\n"
    )
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "prompt.yaml").write_text(text, encoding="utf-8")
    found = {outcome.variant: outcome for outcome in ran(tmp_path).outcomes}
    sliced, again = found["sliced"], found["again"]
    assert (sliced.verdict, sliced.reason) == (Verdict.WITHIN, Reason.CONTRACT_HOLDS)
    assert sliced.contract.accuracy
    assert all(each.verdict.holds for each in sliced.contract.accuracy)
    assert (again.verdict, again.contract.accuracy) == (Verdict.IDENTICAL, ())


class LosingSlot:
    """A slot of a fleet whose worker is lost in the requests of these numbers, counted from 1."""

    def __init__(self, lost: tuple[int, ...]) -> None:
        self._lost = lost
        self.asked = 0

    def ask(self, request: RunRequest, *_: object) -> Final:
        self.asked += 1
        if self.asked in self._lost:
            raise WorkerLostError(f"node {self.asked} was lost")
        builders.recording(Path(request["out"]))
        return Recorded("recorded")


@pytest.mark.parametrize(
    ("lost", "verdict", "asked"),
    [((), "missing", 1), ((1,), "missing", 2), ((1, 2), "error", 2)],
)
def test_a_case_whose_worker_was_lost_runs_again_once(
    lost: tuple[int, ...], verdict: str, asked: int, tmp_path: Path
):
    """It has one outcome; one that loses its worker twice is an error that names both."""
    scenario(tmp_path, "a", ONE_STEP)
    slot, said_to_do = LosingSlot(lost), []
    with Session(
        Store(tmp_path / "baselines"), tmp_path / "run", lambda _, doing: said_to_do.append(doing)
    ) as session:
        outcome = session.run(cases(tmp_path)[0], slot)
    assert (outcome.verdict, slot.asked, len(session.outcomes)) == (verdict, asked, 1)
    again = ["starts again: node 1 was lost"] if lost else []
    assert said_to_do == ["waits for a worker", *again]
    if verdict == "error":
        expected = "its worker was lost twice: node 1 was lost; then: node 2 was lost"
        assert outcome.message == expected


def test_a_case_whose_teacher_forced_run_is_lost_starts_again_from_its_beginning(tmp_path: Path):
    """The second run is on another machine: both of its recordings must be of that one."""
    scenario(tmp_path, "a", ONE_STEP)
    case, store = cases(tmp_path)[0], Store(tmp_path / "baselines")
    loose = replace(
        case.scenario, tolerances=Tolerances.from_yaml({"cross-class": {"rel_l2": 1.0}})
    )
    case = replace(case, scenario=loose)
    store.write(case, builders.recording(tmp_path / "old", builders.IMAGE * 2), "A reason.")
    slot = LosingSlot((2,))
    with Session(store, tmp_path / "run", evaluated=WhenEvaluated.NEVER) as session:
        session.run(case, slot)
    assert slot.asked == 4  # recorded, lost while teacher-forced; then both again
