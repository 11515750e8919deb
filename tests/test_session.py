"""The whole way of a case when things go wrong: crashes, time-outs, Ctrl-C, and several workers at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import builders
import pytest

from harness.errors import HarnessError, LaunchError, UsageError
from harness.launch.process import Worker
from harness.records import Outcome, Recording
from harness.scenario.model import Case, read_all
from harness.session import Session, well_timed
from harness.store.baselines import Store
from harness.store.run_folder import RESULTS_FILE, new_run, read_results

BASICS = "description: One step.\npipeline: DDIMPipeline\ncheckpoint: {bundled: digits-ddpm}\n"
PATIENCE = "timeout: 60\n"  # a harness that waits for nothing fails its test instead of waiting for an hour
REQUEST = {"case": {"id": "x", "call": {}}}
ONE_STEP = "{num_inference_steps: 1, output_type: np}"


def scenario(folder: Path, name: str, call: str = "{}", more: str = PATIENCE) -> None:
    """Write `scenarios/NAME.yaml`."""
    path = folder / "scenarios" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{BASICS}call: {call}\n{more}", encoding="utf-8")


def ran(folder: Path, jobs: int = 1, out: str = "run") -> Session:
    """Run every scenario in `folder` and return the closed session."""
    with Session(Store(folder / "baselines"), folder / out) as session:
        session.run_all(
            [case for each in read_all([folder / "scenarios"]) for case in each.cases()],
            jobs,
            lambda outcome: None,
        )
    return session


def said(session: Session) -> dict[str, tuple[str, str]]:
    """Return verdict and reason of every outcome by its scenario; numbers of processes become words."""
    found: dict[str, str] = {}

    def word(match: re.Match[str]) -> str:
        return found.setdefault(match.group(), f"process {'ABC'[len(found)]}")

    return {
        o.scenario: (o.verdict, re.sub(r"process \d+", word, o.reason)) for o in session.outcomes
    }


def alive(mark: str) -> list[str]:
    """Return the command lines of the processes that inherited `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait until `true` holds, at most so many seconds, and return whether it does."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("call", "reason"),
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
    call: str, reason: str, pretender: Path, tmp_path: Path
):
    """The case before keeps its outcome, the case after gets a process of its own."""
    scenario(tmp_path, "a")
    scenario(tmp_path, "b", call)
    scenario(tmp_path, "c")
    assert said(ran(tmp_path)) == {
        "a": ("unverified", "process A"),
        "b": ("error", reason),
        "c": ("unverified", "process B"),
    }


def test_cases_that_share_settings_run_in_one_worker(pretender: Path, tmp_path: Path):
    """Which the crash test above would not notice; another mode of determinism needs another process."""
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


def test_closing_a_worker_ends_what_it_started(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The whole group of processes; a second time does no harm."""
    mark = f"HARNESS_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*mark.split("=", 1))
    worker = Worker({}, tmp_path / "worker.log")
    try:
        worker.ask(REQUEST, 10.0, lambda doing: None)
        assert len(alive(mark)) == 1
    finally:
        worker.close()
    assert alive(mark) == []
    worker.close()


def test_a_worker_that_died_between_two_cases_is_noticed(pretender: Path, tmp_path: Path):
    """The request meets a closed pipe, and the error says how the process ended."""
    worker = Worker({}, tmp_path / "worker.log")
    try:
        answer = worker.ask(REQUEST, 10.0, lambda doing: None)
        os.kill(int(answer["reason"].split()[-1]), signal.SIGTERM)
        assert worker._process.wait(10) == -signal.SIGTERM
        with pytest.raises(LaunchError, match="the worker was killed by SIGTERM"):
            worker.ask(REQUEST, 10.0, lambda doing: None)
    finally:
        worker.close()


@pytest.mark.parametrize("starts_in", ["0", "60"])
def test_an_interrupted_session_leaves_no_worker(
    starts_in: str, pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither one that runs a case nor one that is still starting; the case that was cut short has no outcome."""
    mark = f"HARNESS_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*mark.split("=", 1))
    monkeypatch.setenv("PRETENDER_STARTS_IN", starts_in)
    scenario(tmp_path, "a")
    scenario(tmp_path, "b", "{last_words: asleep, seconds: 60}")
    log = tmp_path / "run" / "logs" / "worker-0.log"
    last_words = "asleep" if starts_in == "0" else ""

    def interrupt() -> None:
        until(lambda: log.exists() and last_words in log.read_text(), 30)
        time.sleep(
            0.2
        )  # by then the session waits for the worker, which sleeps in case b or in its start
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path)
    interrupter.join()
    assert until(lambda: not alive(mark), 2)
    assert (tmp_path / "run" / RESULTS_FILE).exists() == (starts_in == "0")


def test_ctrl_c_leaves_what_had_finished_and_nothing_half_written(tmp_path: Path):
    """The command exits with 130; its worker is gone, and the run holds the one case that was complete."""
    scenario(tmp_path, "a", ONE_STEP)
    scenario(tmp_path, "b", "{num_inference_steps: 1000, output_type: np}")
    mark = f"HARNESS_TEST_MARK={tmp_path}"
    run, environment = tmp_path / "run", dict([*os.environ.items(), mark.split("=", 1)])
    command = [sys.executable, "-m", "harness", "run", "scenarios", "--out", str(run)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert until((run / "recordings" / "a" / "cpu-float32").exists, 120)
            time.sleep(0.3)
            assert any("harness.worker" in command for command in alive(mark))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err == "harness: interrupted; what had finished is kept\n"
    assert alive(mark) == []
    left = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    recording = "recordings/a/cpu-float32"
    assert left == [
        "logs/worker-0.log",
        f"{recording}/recording.json",
        f"{recording}/tensors.safetensors",
        RESULTS_FILE,
    ]
    assert [(o.case, o.verdict) for o in read_results(run)[0]] == [("a[cpu-float32]", "missing")]


@pytest.fixture
def two_checkpoints(pooled, tmp_path: Path) -> Path:
    """Scenarios of two checkpoints, which two workers share between them."""
    for seed in (0, 1):
        scenario(tmp_path, f"digits-{seed}", ONE_STEP, f"seed: {seed}\ncost: {{rounds: 1}}\n")
    text = "description: A prompt.\npipeline: StableDiffusionPipeline\ncheckpoint: {bundled: digits-sd}\n"
    call = "call: {prompt: a handwritten two, num_inference_steps: 1, output_type: np}\ncost: {rounds: 1}\n"
    (tmp_path / "scenarios" / "prompt.yaml").write_text(text + call, encoding="utf-8")
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
            {
                name: (each.outputs, each.stages, each.content["noise"])
                for name, each in recordings.items()
            }
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
    assert {reason for _, reason in said(session).values()} == {"process A", "process B"}


def test_results_can_be_read_back_as_they_were(two_checkpoints: Path):
    """Outcomes of several verdicts, with their drifts, costs and log, and the environment."""
    scenario(two_checkpoints, "wrong", "{num_inference_steps: 5000}")
    first = ran(two_checkpoints, out="first")
    (case,) = (
        case
        for each in read_all([two_checkpoints / "scenarios" / "prompt.yaml"])
        for case in each.cases()
    )
    first.store.write(case, Recording.read(first.folder(case)), "a first one")
    session = ran(two_checkpoints, out="second")
    outcomes, environment = read_results(session.out)
    assert [outcome.verdict for outcome in outcomes] == ["missing", "missing", "identical", "error"]
    assert outcomes == sorted(session.outcomes, key=lambda outcome: outcome.case)
    assert outcomes == read_results(session.out / RESULTS_FILE)[0]
    assert "Traceback" in outcomes[3].log
    assert environment == session.environment
    assert environment["class"]["name"].startswith("cpu-")


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
    assert [outcome.case for outcome in read_results(tmp_path / "run")[0]] == ["a[cpu-float32]"]


def test_a_session_in_which_nothing_ran_writes_nothing(tmp_path: Path):
    """No empty folder, no empty results."""
    with Session(Store(tmp_path / "baselines"), tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_results_are_replaced_whole(tmp_path: Path):
    """The old file or the new one; no temporary file stays."""
    session = Session(Store(tmp_path / "baselines"), tmp_path / "run")
    for verdict in ("missing", "error"):
        session.outcomes = [Outcome("x[cpu-float32]", "x", verdict, "why")]
        session.write_results()
    assert read_results(session.out)[0] == session.outcomes
    assert [path.name for path in session.out.iterdir()] == [RESULTS_FILE]


@pytest.mark.parametrize(
    ("text", "error"),
    [(None, UsageError), ("{", UsageError), ('{"format": "harness-results/0"}', HarnessError)],
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
    """A session whose recordings take the seconds that it is given, in turn; None: the run is lost."""

    def __init__(self, store: Store, out: Path, seconds: list[float | None]) -> None:
        super().__init__(store, out)
        self._seconds, self.asked = seconds, []

    def record(self, case: Case, _slot: object = None, folder: Path | None = None) -> Recording:
        self.asked.append((case.scenario.cost.get("rounds"), folder and folder.name))
        seconds = self._seconds[len(self.asked) - 1]
        if seconds is None:
            raise LaunchError("timed out")
        return builders.recording(self.out / str(len(self.asked)), cost=builders.cost(seconds))


@pytest.mark.parametrize(
    ("seconds", "bounds", "word", "last"),
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
    tmp_path: Path, seconds, bounds, word, last
):
    """The verdict is that of the first run, whatever comes of the rounds."""
    case, store = builders.case(cost=bounds), Store(tmp_path / "baselines")
    store.write(case, builders.recording(tmp_path / "then", cost=builders.cost(2.0)), "first")
    session = Played(store, tmp_path, seconds)
    outcome = session.run(case)
    assert (outcome.verdict, outcome.cost["verdict"], outcome.cost["seconds"]) == (
        "identical",
        word,
        last,
    )
    assert session.asked == [(None, None), (6, "cpu-float32-timed")][: len(seconds)]


@pytest.mark.parametrize(
    ("cost", "rounds"), [({}, None), ({"slower": 2.0}, 6), ({"slower": 2.0, "rounds": 9}, 9)]
)
def test_what_others_are_held_against_is_timed_well(cost, rounds):
    """Where the scenario bounds cost; never less than it asks for itself."""
    assert well_timed(builders.case(cost=cost)).scenario.cost.get("rounds") == rounds
