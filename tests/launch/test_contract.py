"""What every launcher owes a session: here, in another environment, by `harness serve`, on Ray."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import builders
import pytest
from clusters import NEEDS_RAY, fleet
from marked import MARK, alive, until
from servers import serving
from wheels import only_from, write_wheel

from harness.errors import LaunchError, WorkerLostError
from harness.launch import package_index, sandbox
from harness.launch.events import Described, Failed, Final, Recorded, Unverified
from harness.launch.launcher import Launcher, Slot, WorkerSpec
from harness.launch.local import LocalLauncher
from harness.launch.process import variables
from harness.launch.serve_socket import identity
from harness.launch.served import ServedLauncher
from harness.records import Device
from harness.scenario.fields import Determinism
from harness.scenario.reading import read
from harness.store.recording import Recording
from harness.worker.protocol import RunRequest

# A worker under the real guardian, which does what its requests say, in Python.
PUPPET = """\
import json, os, signal, sys, time
from harness.worker.guardian import guarded

def send(event, **fields):
    os.write(1, (json.dumps(dict(event=event, **fields)) + "\\n").encode())

def tell():
    send("failed", reason=json.dumps(dict(os.environ)))

def serve():
    at_start = dict(os.environ)
    send("ready")
    for line in sys.stdin:
        exec(json.loads(line)["case"]["call"]["do"], dict(globals(), at_start=at_start))

"""
LONG = 60.0  # seconds that no test waits for
DEAD = (LaunchError, WorkerLostError)  # what a crash is, without and with a second place to run
SILENT: Callable[[str], None] = lambda _doing: None  # noqa: E731
PROGRESS = "send('progress', case='x', doing={!r}); "
ANSWER = "send('unverified', reason=str(os.getpid()))"


@dataclass(frozen=True)
class Kind:
    """One way to start workers: a launcher, and how to have it start the puppet or the worker."""

    name: str
    launcher: Launcher
    puppet: WorkerSpec
    worker: WorkerSpec
    forget: Callable[[], None] = lambda: None  # ends workers that outlive their slot by design


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the puppet as a program."""
    path = tmp_path_factory.mktemp("puppet") / "puppet"
    path.write_text(f"#!{sys.executable}\n{PUPPET}guarded(serve)\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a release whose environment starts the puppet where a variable asks for it."""
    folder = tmp_path_factory.mktemp("environments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "CHECKED", ())
        package_index.releases.cache_clear()
        only_from(patch, folder / "links", folder / "cache")
        asked = "if 'PUPPET' in os.environ:\n    guarded(serve)\n    os._exit(0)\n"
        source = f"import os\nif 'PUPPET' in os.environ:\n{_indented(PUPPET)}\n{asked}"
        write_wheel(folder / "links", "wobble", "1.0", source, at_start="import wobble")
        yield
    package_index.releases.cache_clear()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Run a cluster of two nodes with one type of accelerator each."""
    types = ({"accelerator_type:A100": 1}, {"accelerator_type:H100": 1})
    with fleet([{"num_cpus": 2, "resources": each} for each in types]):
        yield


@pytest.fixture(
    scope="module",
    params=["here", "other-environment", "served", pytest.param("ray", marks=NEEDS_RAY)],
)
def kind(request: pytest.FixtureRequest, script: Path) -> Iterator[Kind]:
    """Give one launcher after the other."""
    real = variables(Determinism.FULL, {})
    name = request.param
    if name == "other-environment":
        request.getfixturevalue("environments")
        env = ("wobble==1.0",)
        puppet = WorkerSpec({"PUPPET": "1"}, env=env)
        yield Kind(name, LocalLauncher(), puppet, WorkerSpec(real, env=env))
        return
    if name == "served":
        with serving() as server:
            made = ServedLauncher(identity(), server.path)
            yield Kind(name, made, WorkerSpec(python=script), WorkerSpec(real), server.end_waiting)
        return
    launcher: Launcher = LocalLauncher()
    if name == "ray":
        request.getfixturevalue("cluster")
        from harness.launch.ray_cluster import RayLauncher

        launcher = RayLauncher("ray")
    yield Kind(name, launcher, WorkerSpec(python=script), WorkerSpec(real))
    launcher.close()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """Return the mark that every process started by the test has in its environment."""
    return str(tmp_path)


@pytest.fixture
def slot(kind: Kind, mark: str, tmp_path: Path) -> Iterator[Slot]:
    """Return a slot; at the end nothing that it started is alive."""
    slot = kind.launcher.slot(tmp_path / "logs" / "worker.log")
    assert slot.open(lambda: True)
    yield slot
    slot.give_back()
    slot.end()

    def is_over() -> bool:
        kind.forget()  # a server takes a worker back once it has seen that the connection is gone
        return not alive(mark)

    assert until(is_over, 10), alive(mark)


def doing(do: str) -> RunRequest:
    """Return a request that has the puppet do something, in Python."""
    case = builders.scenario().cases()[0].request()
    return {"case": {**case, "call": {"do": do}}, "out": "/nowhere", "known": {}}


def asked(
    kind: Kind, slot: Slot, mark: str, do: str = ANSWER, timeout: float = LONG, **settings: str
) -> Final:
    """Have the puppet do something, under a mark, and return its answer."""
    spec = WorkerSpec(
        {**kind.puppet.settings, MARK: mark, **settings},
        env=kind.puppet.env,
        python=kind.puppet.python,
    )
    return slot.ask(doing(do), spec, timeout, SILENT)


def process_of(event: Final) -> int:
    """Return the process that answered."""
    assert isinstance(event, Unverified), event
    return int(event.reason)


def test_a_case_gives_the_bits_that_a_worker_gives_here(
    kind: Kind, slot: Slot, take: Callable[..., Recording], tmp_path: Path
):
    """The same worker, case and recording wherever it runs, every stage and the noise included."""
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "digits.yaml").write_text(builders.scenario_text(), encoding="utf-8")
    case = read(folder / "digits.yaml").cases()[0].request()
    out = tmp_path / "recording"
    event = slot.ask({"case": case, "out": str(out), "known": {}}, kind.worker, 300.0, SILENT)
    assert isinstance(event, Recorded), event
    actual, expected = Recording.read(out), take()
    assert actual.numerics_class == expected.numerics_class
    assert actual.environment.variables == expected.environment.variables
    assert (actual.outputs, actual.stages, actual.noise, actual.inputs) == (
        expected.outputs,
        expected.stages,
        expected.noise,
        expected.inputs,
    )


def test_a_teacher_forced_run_is_fed_with_the_tensors_of_another_recording(
    kind: Kind, slot: Slot, take: Callable[..., Recording], tmp_path: Path
):
    """A file of this machine's disk reaches the worker, and the stages keep their bits."""
    expected = take()
    (tmp_path / "digits.yaml").write_text(builders.scenario_text(), encoding="utf-8")
    case = read(tmp_path / "digits.yaml").cases()[0].request()
    case = {**case, "rounds": 0, "teacher_tensors": str(expected.tensors_path)}
    out = tmp_path / "recording"
    event = slot.ask({"case": case, "out": str(out), "known": {}}, kind.worker, 300.0, SILENT)
    assert isinstance(event, Recorded), event
    assert Recording.read(out).stages == expected.stages


def test_the_environment_is_described(kind: Kind, slot: Slot):
    """A request without a case, which `harness env` sends."""
    arguments = {"framework": "torch", "device": "cpu", "dtype": "float32", "mode": "full"}
    event = slot.ask({"describe": arguments}, kind.worker, 300.0, SILENT)
    assert isinstance(event, Described)
    assert event.environment.device_kind == "cpu"


def test_events_arrive_in_order_while_the_worker_is_busy(kind: Kind, slot: Slot, mark: str):
    """Progress is seen before the answer, not with it."""
    seen: list[tuple[str, float]] = []
    do = PROGRESS.format("one") + PROGRESS.format("two") + "time.sleep(1.5); " + ANSWER
    spec = WorkerSpec(
        {**kind.puppet.settings, MARK: mark}, env=kind.puppet.env, python=kind.puppet.python
    )
    slot.ask(doing(do), spec, LONG, lambda what: seen.append((what, time.monotonic())))
    answered = time.monotonic()
    said = [(what, at) for what, at in seen if what.split()[0] in ("one", "two")]
    assert [what.split()[0] for what, _ in said] == ["one", "two"]
    assert answered - said[0][1] > 0.5


def test_a_worker_stays_warm_until_another_kind_is_needed(kind: Kind, slot: Slot, mark: str):
    """Two requests are one process; other settings are another one."""
    first, again = (process_of(asked(kind, slot, mark)) for _ in range(2))
    other = process_of(asked(kind, slot, mark, OTHER="1"))
    assert first == again != other


def test_settings_are_there_before_the_worker_imports_anything(
    kind: Kind, slot: Slot, mark: str, monkeypatch: pytest.MonkeyPatch
):
    """A variable that is set, one that is taken away, and the caller's own number of threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    do = "send('failed', reason=json.dumps(at_start))"
    event = asked(kind, slot, mark, do, SETTING="set", MKL_CBWR=None)
    assert isinstance(event, Failed)
    found = json.loads(event.reason)
    assert (found["SETTING"], found["OMP_NUM_THREADS"]) == ("set", "3")
    assert "MKL_CBWR" not in found


def test_no_number_of_threads_is_set_that_the_caller_did_not_set(
    kind: Kind, slot: Slot, mark: str, monkeypatch: pytest.MonkeyPatch
):
    """Ray sets one for what it starts; it would decide bits."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    event = asked(kind, slot, mark, "send('failed', reason=json.dumps(at_start))")
    assert isinstance(event, Failed)
    assert "OMP_NUM_THREADS" not in json.loads(event.reason)


def test_a_crash_is_an_error_and_the_next_worker_works(kind: Kind, slot: Slot, mark: str):
    """The error names the signal; nothing of the crashed worker stays."""
    before = process_of(asked(kind, slot, mark))
    with pytest.raises(DEAD, match="killed by SIGSEGV"):
        asked(kind, slot, mark, "os.kill(os.getpid(), signal.SIGSEGV)")
    assert process_of(asked(kind, slot, mark)) != before


def test_what_a_worker_logged_last_is_in_the_error_and_in_the_log(
    kind: Kind, slot: Slot, mark: str, tmp_path: Path
):
    """A person looks at one machine, wherever the worker ran."""
    with pytest.raises(DEAD, match="its last words: out of luck"):
        asked(kind, slot, mark, "print('out of luck', file=sys.stderr, flush=True); os._exit(3)")
    assert "out of luck" in (tmp_path / "logs" / "worker.log").read_text(encoding="utf-8")


def test_a_time_out_ends_the_worker(kind: Kind, slot: Slot, mark: str):
    """The wait is bounded, and no process stays."""
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"timed out after 0\.5 s"):
        asked(kind, slot, mark, "time.sleep(600)", timeout=0.5)
    assert time.monotonic() - started < 30
    assert until(lambda: not alive(mark), 10), alive(mark)


def test_an_end_from_another_thread_leaves_nothing_running(kind: Kind, slot: Slot, mark: str):
    """As Ctrl-C does while a case runs."""
    failures: list[Exception] = []

    def ask() -> None:
        try:
            asked(kind, slot, mark, "os.fork() or time.sleep(600); time.sleep(600)")
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert until(lambda: len(alive(mark)) >= 2, 60)
    slot.end()
    thread.join(30)
    assert isinstance(failures[0], LaunchError), failures
    assert until(lambda: not alive(mark), 10), alive(mark)
    with pytest.raises(LaunchError, match="the run is over"):
        asked(kind, slot, mark)


def test_every_case_has_a_slot_that_accepts_it(kind: Kind, tmp_path: Path):
    """And with `Jobs.AUTO` too, on a machine or cluster without the case's device."""
    cases = [
        builders.scenario(devices=(device,)).cases()[0] for device in (Device.CPU, Device.CUDA)
    ]
    for jobs in (0, 1, 2):
        slots = kind.launcher.slots(cases, jobs, lambda index: tmp_path / f"{index}.log")
        assert all(any(slot.accepts(case) for slot in slots) for case in cases)


def _indented(source: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in source.splitlines())
