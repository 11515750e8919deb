# ruff: noqa: INP001, S101
"""What the attacks share: a workshop with scenarios, commands that can be killed, and a tally.

A command of the harness runs in a forked copy of this process, which has imported everything: a try
then costs the command alone. Its workers are processes of their own, under the real guardian, but
they only pretend to compute: they copy prepared recordings. The state of a folder is read back
with the harness's own readers, which check seals and digests.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import builders  # noqa: E402 (of the tests, which are no package)
import marked  # noqa: E402
import numpy as np  # noqa: E402

from harness.errors import FileError  # noqa: E402
from harness.store.baselines import Store  # noqa: E402
from harness.store.recording import Recording  # noqa: E402
from harness.store.run_folder import RESULTS_FILE, read_results  # noqa: E402
from harness.store.typed_json import encode  # noqa: E402
from harness.worker.files import TEMPORARY  # noqa: E402
from harness.worker.protocol import RECORDING_FILE  # noqa: E402

# What commands import only when they run; a forked copy should not have to.
LATE_IMPORTS = (
    "harness.commands.main",
    "harness.commands.baseline_writing",
    "harness.gate.policy_file",
    "harness.report.markdown",
    "harness.report.run_report",
    "harness.report.study_report",
    "harness.report.terminal",
    "harness.session",
    "harness.study.calibrate",
    "harness.study.challenge",
    "harness.study.overhead",
    "rich.progress",
)
ANSWERS = "ATTACK_ANSWERS"  # the variable that names the folder of prepared recordings
ANSWER = "ATTACK_ANSWER"  # which of them an ordinary case gets
LAUNCHER = "ATTACK_LAUNCHER"  # the process that a worker kills
KILL_AT = "ATTACK_KILL_AT"  # at the worker's change of a file with this number, counted from 1
PROCESS_SECONDS = 5.0  # after which nothing that a killed command started may be alive
MOST_SHOWN = 10  # losses that are printed
PIPE_BYTES = 1 << 20

# Events of Python's audit hooks that come before something on a disk changes.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

WORKER = """\
#!{python} -S
import json, os, signal, sys

CHANGES, WRITING = {changes!r}, {writing!r}
kill_at, count = int(os.environ.get("{kill_at}", "0")), 0

def watch(event, arguments):
    global count
    opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if kill_at and (opens or event in CHANGES):
        count += 1
        if count == kill_at:
            os.kill(int(os.environ["{launcher}"]), signal.SIGKILL)

sys.addaudithook(watch)
from pathlib import Path
from harness.worker.files import digest_json, dumps, write_folder
from harness.worker.guardian import guarded

def send(event, **fields):
    print(json.dumps(dict(event=event, **fields)), flush=True)

def cannot_write(folder, error):
    reason = error.strerror or str(error)
    return f"{{folder}}: cannot be written: {{reason}}; make room, or give this user the right to write there"

def answer(case):
    if case["fault"] is not None:
        return "faulty"
    if "ATEN_CPU_CAPABILITY" in os.environ or "MKL_CBWR" in os.environ and "ONEDNN_MAX_CPU_ISA" in os.environ:
        return "elsewhere"
    return "perturbed" if case["perturbation"] is not None else os.environ.get("{answer}", "base")

def record(case, out):
    prepared = Path(os.environ["{answers}"], answer(case))
    content = json.loads((prepared / "recording.json").read_text(encoding="utf-8"))
    content["case"] = case
    content["fault"] = None if case["fault"] is None else "1 weight of unet"
    content["digest"] = digest_json(content)
    tensors = (prepared / "tensors.safetensors").read_bytes()
    files = {{"tensors.safetensors": tensors, "recording.json": dumps(content).encode()}}
    write_folder(Path(out), files)

def serve():
    send("ready")
    for line in sys.stdin:
        request = json.loads(line)
        send("progress", case=request["case"]["id"], doing="pretending")
        teacher_tensors = request["case"]["teacher_tensors"]
        if teacher_tensors is not None and not Path(teacher_tensors).is_file():
            send("failed", reason=f"no file {{teacher_tensors}}", traceback="")
            continue
        try:
            record(request["case"], request["out"])
        except OSError as error:
            send("failed", reason=cannot_write(Path(request["out"]), error), traceback="")
        else:
            send("recorded")

guarded(serve)
"""  # noqa: E501

SCENARIOS = ("digits", "numbers")
TOLERANCE = "{cross-class: {rel_l2: 1.0e-6}}"


# The command line of an attack, and what it counts.


def options(description: str | None, tries: int, parts: Iterable[str] = ()) -> argparse.Namespace:
    """Return the options of an attack: `tries`, `seed`, and `only` where it has parts."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=tries, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    if parts:
        parser.add_argument("--only", choices=list(parts), help="one part alone")
    return parser.parse_args()


def dice(seed: int, *words: object) -> random.Random:
    """Return a stream of random numbers that depends on a seed and on what it is for."""
    return random.Random(f"{seed} {words}")  # noqa: S311 (nothing is kept secret by it)


@dataclass
class Tally:
    """Counts the tries of one attack on one promise, and what was lost."""

    name: str
    tries: int
    done: int = 0
    lost: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Let Ctrl-C print what was counted so far."""

        def stop(_number: int, _frame: object) -> NoReturn:
            self.report()
            raise SystemExit(128 + signal.SIGINT)

        signal.signal(signal.SIGINT, stop)

    def count(self, problems: Sequence[str] = (), note: str = "", *, about: object = "") -> None:
        """Count one try, with what it lost."""
        self.done += 1
        if problems:
            self.lost.append(f"{self.name}, {about}: " + "; ".join(problems))
        if note:
            self.note(note)
        self._show()

    def note(self, note: str) -> None:
        """Count something that is worth knowing and is no loss."""
        self.notes[note] = self.notes.get(note, 0) + 1

    def _show(self) -> None:
        if sys.stderr.isatty():
            text = f"\r{self.name}: {self.done} of {self.tries}, {len(self.lost)} lost "
            print(text, end="", file=sys.stderr, flush=True)
        elif self.done % max(1, self.tries // 10) == 0:
            text = f"  {self.name}: {self.done} of {self.tries}, {len(self.lost)} lost"
            print(text, file=sys.stderr, flush=True)

    def report(self) -> int:
        """Print the result, and return how many tries lost something."""
        if sys.stderr.isatty():
            print(file=sys.stderr)
        seconds = time.monotonic() - self.started
        notes = "".join(f", {count} {note}" for note, count in sorted(self.notes.items()))
        print(f"{self.name}: {self.done} tries, {len(self.lost)} lost, {seconds:.0f} s{notes}")
        for line in self.lost[:MOST_SHOWN]:
            print(f"  LOST: {line}")
        sys.stdout.flush()
        return len(self.lost)


def finish(tallies: Sequence[Tally]) -> NoReturn:
    """Exit with 1 where anything was lost, or where nothing was tried."""
    lost = sum(len(tally.lost) for tally in tallies)
    tries = sum(tally.done for tally in tallies)
    print(f"in all: {tries} tries, {lost} lost")
    raise SystemExit(1 if lost or not tries else 0)


# Running a command.


@dataclass(frozen=True)
class Moment:
    """When a command is killed.

    Attributes:
        by: `file`, before the harness's change of a file with number `at`; `worker`, before the
            change with that number of one of its workers; `clock`, after `at` seconds.
        at: The number, or the seconds.
    """

    by: str
    at: float

    def __str__(self) -> str:
        return f"{self.by} {self.at:.4g}"


@dataclass(frozen=True)
class Ending:
    """How a command ended: `code` is None where it was killed; `changes` counts its own changes."""

    code: int | None
    out: str
    err: str
    seconds: float
    changes: int


class Workshop:
    """A temporary folder with prepared recordings, the pretended worker, and folders to attack."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.worker = root / "worker"
        self._number = 0
        for name in LATE_IMPORTS:
            import_module(name)
        self._write_worker()
        self._write_answers()

    def _write_worker(self) -> None:
        text = WORKER.format(
            python=sys.executable,
            changes=CHANGES,
            writing=WRITING,
            kill_at=KILL_AT,
            launcher=LAUNCHER,
            answers=ANSWERS,
            answer=ANSWER,
        )
        self.worker.write_text(text, encoding="utf-8")
        self.worker.chmod(0o755)

    def _write_answers(self) -> None:
        """Prepare one recording for each kind of case, and one for each of twenty writers."""
        kept = {"scheduler.step#0/prev_sample": builders.NOISE}
        moved = builders.moved(kept=kept)
        self.answer("base", kept=kept)
        self.answer("moved", **moved)
        self.answer("faulty", **moved)
        self.answer("perturbed", outputs=nudged(builders.IMAGE, 1), kept=kept)
        self.answer("elsewhere", outputs=nudged(builders.IMAGE, 2), kept=kept, letter="b")

    def answer(self, name: str, **content: object) -> None:
        """Prepare a recording that workers give under a name."""
        builders.recording(self.root / "answers" / name, **content)

    def folder(self, template: Path | None = None) -> Path:
        """Return a new folder to attack: a copy of another one, or one with scenarios alone."""
        self._number += 1
        path = self.root / "tries" / str(self._number)
        if template is not None:
            shutil.copytree(template, path)
            return path
        for name in SCENARIOS:
            scenario = path / "scenarios" / f"{name}.yaml"
            scenario.parent.mkdir(parents=True, exist_ok=True)
            scenario.write_text(builders.scenario_text(tolerance=TOLERANCE), encoding="utf-8")
        return path

    def run(
        self,
        folder: Path,
        *arguments: str,
        answer: str = "base",
        moment: Moment | None = None,
        before: Callable[[], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ending:
        """Run a command of the harness in a folder, and wait for its end.

        Args:
            folder: The current folder of the command.
            arguments: What follows the name `harness`.
            answer: The prepared recording that ordinary cases get.
            moment: When the command is killed.
            before: Called in the command's process before it begins.
            env: Variables beside this process's own.
        """
        variables = {ANSWER: answer, marked.MARK: str(folder), **(env or {})}
        out, err, count = Spout(), Spout(), Spout()
        started = time.monotonic()
        process = os.fork()
        if process == 0:
            with _never_returning():
                os.dup2(out.writer, 1)
                os.dup2(err.writer, 2)
                self._enter(folder, variables)
                changes = _count_changes(moment)
                if before is not None:
                    before()
                code = _main(arguments)
                os.write(count.writer, str(changes[0]).encode())
                os._exit(code)
        if moment is not None and moment.by == "clock":
            time.sleep(moment.at)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        return Ending(
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            out=out.drained(),
            err=err.drained(),
            seconds=time.monotonic() - started,
            changes=int(count.drained() or "0"),
        )

    def _enter(self, folder: Path, variables: Mapping[str, str]) -> None:
        """Make the forked process look like one that a shell started."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.update(variables)
        os.environ[ANSWERS] = str(self.root / "answers")
        os.environ[LAUNCHER] = str(os.getpid())
        sys.executable = str(self.worker)


class Spout:
    """A pipe from a command, which is read when the command has ended.

    It holds more than any command here prints. No limit on files and no full disk holds for it.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def drained(self) -> str:
        """Return what is in the pipe, and close it; somebody may still hold its other end."""
        os.close(self.writer)
        try:
            data = os.read(self._reader, PIPE_BYTES)
        except BlockingIOError:
            data = b""
        os.close(self._reader)
        return data.decode(errors="replace")


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Yield a workshop in a temporary folder, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="harness-attack-") as root:
        yield Workshop(Path(root))


@contextmanager
def _never_returning() -> Iterator[None]:
    """End a forked process with a traceback where it would return into its parent's program."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def _main(arguments: Sequence[str]) -> int:
    from harness.commands.main import main

    try:
        return main(list(arguments))
    except SystemExit as wrong_usage:
        return int(str(wrong_usage.code))


def _count_changes(moment: Moment | None) -> list[int]:
    """Count what this process changes on the disk, and kill it at its moment.

    Returns:
        The count, as a list of one.
    """
    count = [0]
    kill_at = int(moment.at) if moment is not None and moment.by == "file" else 0
    if moment is not None and moment.by == "worker":
        os.environ[KILL_AT] = str(int(moment.at))

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if not _is_change(event, arguments):
            return
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


def _is_change(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        flags = arguments[2]
        return isinstance(flags, int) and bool(flags & WRITING)
    return event in CHANGES


def nudged(array: np.ndarray, times: int) -> np.ndarray:
    """Return an array moved up by units in the last place."""
    for _ in range(times):
        array = np.nextafter(array, np.float32(np.inf))
    return array


# What is in a folder.


@dataclass(frozen=True)
class State:
    """What a folder holds: each file's content by its path, and what is wrong with it.

    Times, and digests over times, are left out of the content.
    """

    content: dict[str, object]
    problems: tuple[str, ...]


def state_of(folder: Path) -> State:
    """Read everything that commands keep in a folder, with the harness's own readers."""
    content: dict[str, object] = {}
    problems: list[str] = []
    readers: tuple[tuple[str, Callable[[Path], object]], ...] = (
        ("scenarios/*.yaml", _read_bytes),
        ("baselines/*/*/*.json", _read_baseline),
        (f"*/{RESULTS_FILE}", _read_results),
        (f"*/recordings/**/{RECORDING_FILE}", _read_recording),
        ("*/challenge.json", _read_bytes),
        ("*/summary.md", _read_bytes),
    )
    for pattern, read in readers:
        for path in sorted(folder.glob(pattern)):
            if any(TEMPORARY.fullmatch(part) for part in path.relative_to(folder).parts):
                continue  # no reader of the harness looks there
            name = str(path.relative_to(folder))
            try:
                content[name] = read(path)
            except FileError as error:
                problems.append(f"{name}: {str(error.problem)[:200]}")
    return State(content, tuple(problems))


def _read_bytes(path: Path) -> object:
    return path.read_bytes()


def _read_baseline(path: Path) -> object:
    content = encode(Store(path.parents[2]).read(path))
    assert isinstance(content, dict)
    del content["digest"], content["provenance"]
    return content


def _read_results(path: Path) -> object:
    content = encode(read_results(path))
    assert isinstance(content, dict)
    del content["digest"], content["written"]
    for outcome in content["outcomes"]:
        if outcome["baseline"]:
            outcome["baseline"]["digest"] = ""  # over the time at which it was accepted
    return content


def _read_recording(path: Path) -> object:
    recording = Recording.read(path.parent)
    recording.verify_tensors()
    return recording.numerics_class.name, recording.tensors_file.digest


def mixed(found: State, *allowed: State) -> list[str]:
    """Return what a folder holds that is of none of the allowed states, each file as a whole.

    A recording that is being made again is absent meanwhile, so that none is taken for another.
    """
    names = sorted(set(found.content).union(*(state.content for state in allowed)))
    wrong = []
    for name in names:
        known = [state.content.get(name) for state in allowed]
        if len(allowed) > 1 and name.endswith(RECORDING_FILE):
            known.append(None)
        if found.content.get(name) not in known:
            wrong.append(f"{name} is neither old nor new")
    return [*found.problems, *wrong]


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files in a folder, and the tensors that no baseline names."""
    names = [path for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]
    named = set()
    for path in folder.glob("baselines/*/*/*.json"):
        named.add(path.with_name(json.loads(path.read_bytes())["tensors_file"]["file"]))
    tensors = set(folder.glob("baselines/*/*/*.safetensors"))
    return [f"left over: {path.relative_to(folder)}" for path in [*names, *sorted(tensors - named)]]


def survivors(folder: Path) -> list[str]:
    """Return the processes that a command left and that are still alive after five seconds."""
    mark = str(folder)
    if marked.until(lambda: not marked.alive(mark), PROCESS_SECONDS):
        return []
    return [f"still alive: {line}" for line in marked.alive(mark)]
