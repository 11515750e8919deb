"""Runs trivial cases on a real Ray cluster of four nodes on this machine, beside a local run.

    nice -n 10 env OMP_NUM_THREADS=1 python benchmarks/fleet.py lost --cases 200
    nice -n 10 env OMP_NUM_THREADS=1 python benchmarks/fleet.py overhead 10 100 1000
    nice -n 10 env OMP_NUM_THREADS=1 python benchmarks/fleet.py requests 1000

`lost` gives half of the cases to each of two types of accelerator, kills one node after a third of
them, and says where each case ran, how many results each one has, and whether all recordings have
the bits of a local run. `overhead` runs the same cases on one local worker, on one slot of the
cluster and on all four. `requests` asks a worker that answers at once with a copy of a recording,
here and on a node in turn: what Ray itself adds to a request. It prints JSON; all need Ray, and
some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import cast

from common import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from clusters import Fleet, fleet  # the clusters of the tests

from harness.launch.launcher import Jobs, Launcher, WorkerSpec
from harness.launch.local import LocalLauncher
from harness.launch.ray_cluster import PLACEMENT_LOG, RayLauncher
from harness.records import Outcome, Verdict
from harness.scenario.model import Case
from harness.scenario.reading import read_all
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.worker.protocol import RunRequest

TYPES = ("A100", "H100", "A100", "H100")  # of the four nodes, in their order
KILLED = 3
SCENARIO = """\
description: A trivial case.
pipeline: DDIMPipeline
checkpoint: {{bundled: digits-ddpm}}
call: {{num_inference_steps: 1, output_type: np}}
seed: {seed}
node: {{accelerator: {accelerator}}}
"""


# A worker that answers every request with a copy of one recording.
COPIES = """\
#!{python}
import json, shutil, sys

print(json.dumps(dict(event="ready")), flush=True)
for line in sys.stdin:
    shutil.copytree("{folder}", json.loads(line)["out"])
    print(json.dumps(dict(event="recorded")), flush=True)
"""


@dataclass(frozen=True)
class Ran:
    """One run of all cases: its folder, wall seconds, and how many results each case has."""

    out: Path
    seconds: float
    results: Counter[str]
    verdicts: Counter[Verdict]


@dataclass(frozen=True)
class Lost:
    """What came of a run in which a node was killed.

    Attributes:
        cases: How many cases ran.
        with_one_result: How many of them have exactly one result.
        placed_right: How many requests went to a node with the case's type of accelerator.
        requests: How many requests there were, those that were lost included.
        lost: How many of them were lost with the node.
        same_bits: How many recordings have the outputs, stages and noise of the local run.
        by_node: How many requests each node answered.
        seconds: The wall time, from connecting to the end.
        sum_of_requests: The sum of the seconds of all requests that were answered.
        local_seconds: The wall time of the same cases on one local worker.
        load: The machine's load average over a minute, before and after.
    """

    cases: int
    with_one_result: int
    placed_right: int
    requests: int
    lost: int
    same_bits: int
    by_node: dict[str, int]
    seconds: float
    sum_of_requests: float
    local_seconds: float
    load: tuple[float, float]


@dataclass(frozen=True)
class Overhead:
    """Wall seconds for some cases: on one local worker, one slot of the cluster, and all four."""

    cases: int
    local: float
    one_slot: float
    four_slots: float
    sum_of_requests: float
    load: tuple[float, float]


@dataclass(frozen=True)
class Requests:
    """Milliseconds of one request whose worker only copies a recording: median, and 10 to 90 %."""

    requests: int
    recording_bytes: int
    here: float
    here_spread: tuple[float, float]
    ray: float
    ray_spread: tuple[float, float]
    load: tuple[float, float]


def write_cases(folder: Path, count: int) -> list[Case]:
    """Write scenarios for both types of accelerator in turn, and return their cases."""
    folder.mkdir(parents=True)
    for index in range(count):
        text = SCENARIO.format(seed=index, accelerator=TYPES[index % 2])
        (folder / f"trivial-{index:04}.yaml").write_text(text, encoding="utf-8")
    return [case for scenario in read_all([folder]) for case in scenario.cases()]


def run(
    cases: Sequence[Case], out: Path, launcher: Launcher, jobs: int, kill: Fleet | None = None
) -> Ran:
    """Run cases; with `kill`, one node of that cluster is killed after a third of them."""
    started = time.perf_counter()
    done: list[Outcome] = []

    def count(outcome: Outcome) -> None:
        done.append(outcome)
        if kill is not None and len(done) == len(cases) // 3:
            kill.kill(KILLED)

    with Session(Store(out.parent / "baselines"), out, launcher=launcher) as session:
        session.run_all(cases, jobs, count)
    seconds = time.perf_counter() - started
    verdicts = Counter(outcome.verdict for outcome in done)
    return Ran(out, seconds, Counter(outcome.case for outcome in done), verdicts)


def requests_of(ran: Ran) -> list[dict[str, str | float]]:
    """Return what the launcher noted of each request."""
    lines = (ran.out / "logs" / PLACEMENT_LOG).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def same_bits(cases: Sequence[Case], one: Ran, other: Ran) -> int:
    """Return how many cases have the same bits in two runs."""
    found = 0
    for case in cases:
        where = Path("recordings") / case.scenario.name / case.key
        first, second = Recording.read(one.out / where), Recording.read(other.out / where)
        same = (first.outputs, first.stages, first.noise) == (
            second.outputs,
            second.stages,
            second.noise,
        )
        found += same and first.numerics_class == second.numerics_class
    return found


def four_nodes() -> list[dict[str, object]]:
    """Return the nodes of the cluster: one CPU and one type of accelerator each."""
    return [{"num_cpus": 1, "resources": {f"accelerator_type:{name}": 1}} for name in TYPES]


def lose_a_node(folder: Path, count: int) -> Lost:
    """Run cases on four nodes of which one is killed, and compare with a local run."""
    before = os.getloadavg()[0]
    cases = write_cases(folder / "scenarios", count)
    with fleet(four_nodes()) as cluster:
        launcher = RayLauncher("ray")
        accelerators = {node.name: node.accelerators for node in launcher.nodes()}
        ran = run(cases, folder / "ray", launcher, Jobs.AUTO, kill=cluster)
    local = run(cases, folder / "local", LocalLauncher(), 1)
    assert set(ran.verdicts) == set(local.verdicts) == {Verdict.MISSING}, ran.verdicts
    wanted = {case.id: case.scenario.node.accelerator for case in cases}
    requests = requests_of(ran)
    answered = [each for each in requests if each["ending"] == "recorded"]
    return Lost(
        cases=len(cases),
        with_one_result=sum(ran.results[case.id] == 1 for case in cases),
        placed_right=sum(
            wanted[str(each["case"])] in accelerators[str(each["node"])] for each in answered
        ),
        requests=len(requests),
        lost=len(requests) - len(answered),
        same_bits=same_bits(cases, ran, local),
        by_node=dict(Counter(str(each["node"]) for each in answered)),
        seconds=round(ran.seconds, 1),
        sum_of_requests=round(sum(float(each["seconds"]) for each in answered), 1),
        local_seconds=round(local.seconds, 1),
        load=(round(before, 2), round(os.getloadavg()[0], 2)),
    )


def overhead(folder: Path, count: int) -> Overhead:
    """Time the same cases on one local worker, on one slot of a cluster, and on all slots."""
    before = os.getloadavg()[0]
    cases = write_cases(folder / "scenarios", count)
    local = run(cases, folder / "local", LocalLauncher(), 1)
    one_type = [{"num_cpus": 1, "resources": {"accelerator_type:A100": 1}}]
    with fleet(four_nodes()):
        four = run(cases, folder / "four", RayLauncher("ray"), Jobs.AUTO)
    for case in cases:  # a single slot serves one need
        case.scenario.path.unlink()
    text = [SCENARIO.format(seed=index, accelerator="A100") for index in range(count)]
    for index, each in enumerate(text):
        path = folder / "scenarios" / f"trivial-{index:04}.yaml"
        path.write_text(each, encoding="utf-8")
    alike = [case for each in read_all([folder / "scenarios"]) for case in each.cases()]
    with fleet(one_type):
        one = run(alike, folder / "one", RayLauncher("ray"), Jobs.AUTO)
    return Overhead(
        count,
        round(local.seconds, 2),
        round(one.seconds, 2),
        round(four.seconds, 2),
        round(sum(float(each["seconds"]) for each in requests_of(four)), 2),
        (round(before, 2), round(os.getloadavg()[0], 2)),
    )


def requests(folder: Path, count: int) -> Requests:
    """Time requests to a worker that copies a recording, here and on a node in turn."""
    before = os.getloadavg()[0]
    (case,) = write_cases(folder / "scenarios", 1)
    recorded = run([case], folder / "recorded", LocalLauncher(), 1).out
    recording = recorded / "recordings" / case.scenario.name / case.key
    script = folder / "copies"
    script.write_text(COPIES.format(python=sys.executable, folder=recording), encoding="utf-8")
    script.chmod(0o755)
    spec, asked = WorkerSpec(python=script), {"case": case.request(), "known": {}}
    seconds: dict[str, list[float]] = {"here": [], "ray": []}
    with fleet([{"num_cpus": 1}]):
        launchers: dict[str, Launcher] = {"here": LocalLauncher(), "ray": RayLauncher("ray")}
        slots = {name: each.slot(folder / name / "log") for name, each in launchers.items()}
        for index in range(-10, count):  # the first ones start workers, and are not counted
            for name, slot in slots.items():
                request = cast("RunRequest", {**asked, "out": str(folder / f"{name}-{index}")})
                started = time.perf_counter()
                slot.ask(request, spec, 60.0, lambda _doing: None)
                if index >= 0:
                    seconds[name].append(time.perf_counter() - started)
        for slot in slots.values():
            slot.end()
        launchers["ray"].close()
    here, ray = (
        [round(1e3 * each, 2) for each in quantiles(seconds[name], n=10)]
        for name in ("here", "ray")
    )
    size = sum(file.stat().st_size for file in recording.iterdir())
    load = (round(before, 2), round(os.getloadavg()[0], 2))
    return Requests(count, size, here[4], (here[0], here[8]), ray[4], (ray[0], ray[8]), load)


MEASURES = {"lost": lose_a_node, "overhead": overhead, "requests": requests}


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subparsers = parser.add_subparsers(dest="what", required=True)
    subparsers.add_parser("lost").add_argument("--cases", type=int, default=200)
    for name in ("overhead", "requests"):
        subparsers.add_parser(name).add_argument("cases", type=int, nargs="+")
    arguments = parser.parse_args()
    counts = [arguments.cases] if arguments.what == "lost" else arguments.cases
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            measured = MEASURES[arguments.what](Path(folder), count)
            print(json.dumps(asdict(measured), indent=1), flush=True)


if __name__ == "__main__":
    main()
