"""Takes any number of saved pipelines through the harness, and says which of them pass each step.

    python benchmarks/pipelines.py FOLDER              # all of them; it resumes where it stopped
    python benchmarks/pipelines.py FOLDER NAME...      # some of them
    python benchmarks/pipelines.py FOLDER --steps record,verify,bare
    python benchmarks/pipelines.py FOLDER --minutes 90 # no batch is begun after this time
    python benchmarks/pipelines.py FOLDER --table      # only the table of what is known by now

Every folder `FOLDER/NAME` is a pipeline as `save_pretrained` writes it, with safetensors, and a
file `call.json` beside `model_index.json`:

    {"pipeline": "FluxPipeline", "call": {"prompt": "a cat", "image": {"image": "inputs/cat.png"}}}

`call` holds what a scenario's `call` holds (docs/scenarios.md); the files that it names are
relative to `FOLDER/NAME`. A key `before` holds what a scenario's `before` holds; `enable` lists
memory savers of the VAE, such as `vae_tiling`. The script writes a scenario beside it,
`FOLDER/NAME/NAME.yaml`, and results into `FOLDER/.results`: one line of JSON per pipeline in
`results.jsonl`.

The steps, in this order:

- `record`     the scenario is read, the pipeline runs, and its baseline is written;
- `verify`     another process runs it again: the verdict must be `identical`;
- `bare`       diffusers alone loads and calls it (`bare.py`): the outputs must have the same bits;
- `cross`      it runs in another numerics class, whose bits nobody owes: `drifted` or `identical`;
- `calibrate`  its tolerance is measured on a few platforms, which are not those of `cross`;
- `judged`     it runs in the other class again: the verdict must be `identical` or `within`.

The smallest pipelines come first. One worker runs at a time, and a batch of pipelines shares it. A
step is not run for a pipeline that failed in one of the steps that it needs. A case that takes more
than `--timeout` seconds ends as an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.launch.case_queue import settings_of
from harness.launch.launcher import Slot
from harness.launch.process import variables
from harness.records import Outcome, Verdict
from harness.scenario.fields import Determinism
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.scenario.write_tolerance import write_tolerance
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import read_results
from harness.study.calibrate import Effort, calibrate
from harness.study.platforms import PLATFORMS
from harness.worker.files import write_file

CALL_FILE = "call.json"
RESULTS_FOLDER = ".results"
RESULTS_FILE = "results.jsonl"
BATCH = 12  # pipelines that share one worker
# The other numerics class, and the platforms over which a tolerance is measured: none of them sets
# what the other class sets.
OTHER_CLASS = {"ATEN_CPU_CAPABILITY": "avx2"}
CALIBRATED_ON = ("aten-default", "onednn-sse41", "channels-last")
SEEDS, PERTURBATIONS = 1, 2  # of a calibration


class Step(StrEnum):
    """What is done with every pipeline, in this order."""

    RECORD = "record"
    VERIFY = "verify"
    BARE = "bare"
    CROSS = "cross"
    CALIBRATE = "calibrate"
    JUDGED = "judged"


# The step that must have passed before another one is run.
NEEDS = {
    Step.VERIFY: Step.RECORD,
    Step.BARE: Step.RECORD,
    Step.CROSS: Step.RECORD,
    Step.CALIBRATE: Step.VERIFY,
    Step.JUDGED: Step.CALIBRATE,
}


@dataclass
class Result:
    """What became of one pipeline in one step: a word, whether it passes, and why not."""

    word: str
    passes: bool
    why: str = ""
    seconds: float = 0.0


@dataclass
class Pipeline:
    """A saved pipeline, and what became of it by step."""

    name: str
    folder: Path
    steps: dict[Step, Result] = field(default_factory=dict)

    @property
    def scenario(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def case_id(self) -> str:
        return f"{self.name}[cpu-float32]"

    @property
    def size(self) -> int:
        """The size of its folder, in bytes."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def is_due(self, step: Step) -> bool:
        """Whether a step is not done yet, and may be."""
        needed = NEEDS.get(step)
        before = None if needed is None else self.steps.get(needed)
        return step not in self.steps and (needed is None or (before is not None and before.passes))


class Results:
    """The results of all pipelines, which are written after each batch.

    Args:
        root: The folder of the saved pipelines.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / RESULTS_FOLDER
        self.out.mkdir(exist_ok=True)
        self._file = self.out / RESULTS_FILE
        self.pipelines = {
            path.parent.name: Pipeline(path.parent.name, path.parent)
            for path in sorted(root.glob(f"*/{CALL_FILE}"))
        }
        for line in self._lines():
            pipeline = self.pipelines.get(line["name"])
            if pipeline is not None:
                pipeline.steps = {
                    Step(step): Result(**each) for step, each in line["steps"].items()
                }

    def _lines(self) -> Iterator[dict[str, object]]:
        if self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def save(self) -> None:
        lines = [
            json.dumps({"name": each.name, "steps": {s: asdict(r) for s, r in each.steps.items()}})
            for each in self.pipelines.values()
        ]
        write_file(self._file, "".join(f"{line}\n" for line in lines).encode())

    @property
    def store(self) -> Path:
        return self.out / "baselines"


def write_scenario(pipeline: Pipeline, timeout: int) -> None:
    """Write the scenario of a saved pipeline beside it; if there is one, only its time-out.

    Args:
        pipeline: A saved pipeline.
        timeout: How long one of its cases may take, in seconds.
    """
    if pipeline.scenario.exists():
        before = pipeline.scenario.read_text(encoding="utf-8")
        after = re.sub(r"(?m)^timeout: .*$", f"timeout: {timeout}", before)
        pipeline.scenario.write_text(after, encoding="utf-8")
        return
    asked = json.loads((pipeline.folder / CALL_FILE).read_text(encoding="utf-8"))
    keys = {
        "description": json.dumps(f"The saved pipeline {pipeline.name}."),
        "pipeline": asked["pipeline"],
        "checkpoint": "{path: .}",
        "before": json.dumps(asked.get("before", []), ensure_ascii=False),  # JSON is YAML
        "call": json.dumps(asked["call"], ensure_ascii=False),
        "enable": json.dumps(asked.get("enable", [])),
        "seed": "0",
        "timeout": str(timeout),
    }
    text = "".join(f"{key}: {value}\n" for key, value in keys.items() if value != "[]")
    pipeline.scenario.write_text(text, encoding="utf-8")


# Each step takes the results and a batch, and returns a result for each of the batch's pipelines.


def record(results: Results, batch: Sequence[Pipeline]) -> dict[str, Result]:
    """Run `harness record` on the scenarios that can be read."""
    found = {}
    readable = []
    for pipeline in batch:
        try:
            read(pipeline.scenario)
            readable.append(pipeline)
        except HarnessError as error:
            found[pipeline.name] = Result("not expressible", passes=False, why=str(error))
    outcomes = _harness("record", results, readable, {})
    for pipeline in readable:
        outcome = outcomes.get(pipeline.case_id)
        is_recorded = outcome is not None and outcome.verdict is Verdict.MISSING
        found[pipeline.name] = _result(outcome, passes=is_recorded)
    return found


def verify(results: Results, batch: Sequence[Pipeline]) -> dict[str, Result]:
    """Run the cases in another process, where they must give the bits of their baselines."""
    return _run(results, batch, {}, (Verdict.IDENTICAL,))


def cross(results: Results, batch: Sequence[Pipeline]) -> dict[str, Result]:
    """Run the cases in another numerics class, with no tolerance yet."""
    return _run(results, batch, OTHER_CLASS, (Verdict.IDENTICAL, Verdict.DRIFTED))


def judged(results: Results, batch: Sequence[Pipeline]) -> dict[str, Result]:
    """Run the cases in another numerics class, and hold them to their tolerances."""
    return _run(results, batch, OTHER_CLASS, (Verdict.IDENTICAL, Verdict.WITHIN))


def _run(
    results: Results,
    batch: Sequence[Pipeline],
    settings: Mapping[str, str],
    passing: Sequence[Verdict],
) -> dict[str, Result]:
    outcomes = _harness("run", results, batch, settings)
    found = {}
    for pipeline in batch:
        outcome = outcomes.get(pipeline.case_id)
        passes = outcome is not None and outcome.verdict in passing
        found[pipeline.name] = _result(outcome, passes=passes)
    return found


def _result(outcome: Outcome | None, *, passes: bool) -> Result:
    if outcome is None:
        return Result("no outcome", passes=False)
    return Result(str(outcome.verdict), passes, "" if passes else outcome.message)


def _harness(
    command: str, results: Results, batch: Sequence[Pipeline], settings: Mapping[str, str]
) -> dict[str, Outcome]:
    """Run a command of the harness in a process of its own, and return the outcomes by case."""
    if not batch:
        return {}
    out = results.out / f"run-{command}"
    arguments = [command, *(str(each.scenario) for each in batch)]
    options = ["--baselines", str(results.store), "--out", str(out)]
    environment = {**os.environ, **settings}
    subprocess.run(
        [sys.executable, "-m", "harness", *arguments, *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return {outcome.case: outcome for outcome in read_results(out).outcomes}


def bare(results: Results, batch: Sequence[Pipeline]) -> dict[str, Result]:
    """Compare the bits of each baseline's outputs with those of a bare call of diffusers."""
    answers: dict[str, Mapping[str, object]] = {}
    waiting = [pipeline.name for pipeline in batch]
    while waiting:
        found = _bare_calls(results.root, waiting)
        # The process ended without a word of the first pipeline that it does not name.
        first = next((name for name in waiting if name not in found), None)
        if first is not None:
            found[first] = {"error": "the process of the bare call ended"}
        answers |= found
        waiting = [name for name in waiting if name not in answers]
    return {each.name: _compared(results, each, answers[each.name]) for each in batch}


def _bare_calls(root: Path, names: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """Return what one process says of each pipeline, by name."""
    settings = {**os.environ, **variables(Determinism.FULL, {})}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bare.py")), str(root), *names],
        env={name: value for name, value in settings.items() if value is not None},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {answer["name"]: answer for answer in map(json.loads, lines)}


def _compared(results: Results, pipeline: Pipeline, answer: Mapping[str, object]) -> Result:
    if "outputs" not in answer:
        return Result("error", passes=False, why=str(answer.get("error", "no answer")))
    (path,) = (results.store / pipeline.name / "cpu-float32").glob("*.json")
    baseline = Store(results.store).read(path)
    own = sorted(_digest(np.asarray(array)) for array in baseline.output_tensors.values())
    same = own == answer["outputs"]
    why = "" if same else f"{len(own)} outputs here, {len(answer['outputs'])} of the bare call"  # type: ignore[arg-type]
    return Result("same bits" if same else "other bits", same, why)


def _digest(array: np.ndarray) -> str:
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def measure_tolerances(results: Results, batch: Sequence[Pipeline]) -> dict[str, Result]:
    """Measure the tolerances of the cases on a few platforms, and write them into the scenarios."""
    found = {}
    platforms = {name: PLATFORMS[name] for name in CALIBRATED_ON}
    with _WorkerPerSetting(Store(results.store), results.out / "run-calibrate") as session:
        for pipeline in batch:
            (case,) = read(pipeline.scenario).cases()
            try:
                measured = calibrate(
                    session,
                    case,
                    platforms,
                    effort=Effort(SEEDS, PERTURBATIONS),
                    on_step=lambda _: None,
                )
                bounds = measured.bounds()
                write_tolerance(pipeline.scenario, bounds, measured.evidence())
            except HarnessError as error:
                found[pipeline.name] = Result("error", passes=False, why=str(error))
            else:
                skipped = "; ".join(f"{name}: {why}" for name, why in measured.missed.items())
                found[pipeline.name] = Result("calibrated", passes=True, why=skipped)
    return found


class _WorkerPerSetting(Session):
    """A session that keeps one worker for each set of environment variables.

    A calibration changes them from run to run, and a worker takes seconds to start.
    """

    def __init__(self, store: Store, out: Path) -> None:
        super().__init__(store, out)
        self._settings: list[object] = []

    def record(self, case: Case, slot: Slot | None = None, folder: Path | None = None) -> Recording:
        settings = settings_of(case)
        if settings not in self._settings:
            self._settings.append(settings)
        own = self.slot(self._settings.index(settings))
        return super().record(case, slot or own, folder)


RUN: dict[Step, Callable[[Results, Sequence[Pipeline]], dict[str, Result]]] = {
    Step.RECORD: record,
    Step.VERIFY: verify,
    Step.BARE: bare,
    Step.CROSS: cross,
    Step.CALIBRATE: measure_tolerances,
    Step.JUDGED: judged,
}


def run_all(results: Results, arguments: argparse.Namespace, steps: Sequence[Step]) -> None:
    """Run the steps that are due, batch by batch, and keep what became of each."""
    ends = time.monotonic() + 60 * arguments.minutes
    named = [results.pipelines[name] for name in (arguments.names or results.pipelines)]
    due = [pipeline for pipeline in named if any(pipeline.is_due(step) for step in steps)]
    for pipeline in due:
        write_scenario(pipeline, arguments.timeout)
    smallest_first = sorted(due, key=lambda pipeline: pipeline.size)
    for first in range(0, len(smallest_first), BATCH):
        if time.monotonic() > ends:
            print(f"{len(smallest_first) - first} pipelines are left: the time is over")
            return
        for step in steps:
            run_step(results, smallest_first[first : first + BATCH], step)


def run_step(results: Results, batch: Sequence[Pipeline], step: Step) -> None:
    """Run one step for those of a batch for which it is due, and keep what became of each."""
    due = [pipeline for pipeline in batch if pipeline.is_due(step)]
    if not due:
        return
    started = time.monotonic()
    found = RUN[step](results, due)
    seconds = (time.monotonic() - started) / len(due)
    for pipeline in due:
        result = found[pipeline.name]
        result.seconds = round(seconds, 2)
        pipeline.steps[step] = result
        print(f"{step:<10} {pipeline.name:<48} {result.word}  {result.why[:200]}")
    sys.stdout.flush()
    results.save()


def print_table(results: Results) -> None:
    """Print how many pipelines passed each step, and by name why others did not."""
    pipelines = list(results.pipelines.values())
    print(f"{len(pipelines)} pipelines")
    print("| step | run | passed | words |")
    print("|---|---|---|---|")
    for step in Step:
        done = [each.steps[step] for each in pipelines if step in each.steps]
        words = sorted({each.word for each in done})
        counts = ", ".join(f"{sum(each.word == word for each in done)} {word}" for word in words)
        print(f"| {step} | {len(done)} | {sum(each.passes for each in done)} | {counts} |")
    for pipeline in pipelines:
        for step, result in pipeline.steps.items():
            if not result.passes:
                print(f"{pipeline.name}: {step}: {result.word}: {result.why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of saved pipelines")
    parser.add_argument("names", nargs="*", help="some of them (default: all)")
    parser.add_argument("--steps", default=",".join(Step), help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after these")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that a case may take")
    parser.add_argument("--again", action="store_true", help="run these steps again")
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    results = Results(arguments.folder.resolve())
    steps = [Step(step) for step in arguments.steps.split(",")]
    if arguments.again:
        for name, pipeline in results.pipelines.items():
            if not arguments.names or name in arguments.names:
                pipeline.steps = {s: r for s, r in pipeline.steps.items() if s not in steps}
    if not arguments.table:
        run_all(results, arguments, steps)
    print_table(results)


if __name__ == "__main__":
    main()
