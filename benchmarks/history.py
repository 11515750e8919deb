"""A year of nights in a history: what is found, how often it is wrong, and how long reading takes.

200 scenarios on six types of machines are added night by night, as runs are. On one type, one case
creeps to three times its drift over 60 nights, and another steps on the night on which diffusers
changes. All other series are noise. Then everything is read and searched, in a new process.

    python benchmarks/history.py make FOLDER     # 2,190 files
    python benchmarks/history.py read FOLDER     # what `harness history` finds, and its seconds
    python benchmarks/history.py time FOLDER     # reading and searching, each by itself
    python benchmarks/history.py alarms          # false alarms and dates, by simulation
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from harness.judge.change_points import (
    Kind,
    average_run_length,
    change_points,
    first_alarm,
    noise_of,
    without_spikes,
)
from harness.judge.trends import series_of, trends_of
from harness.records import (
    Check,
    Comparison,
    Cost,
    CostFigures,
    CostVerdict,
    Device,
    Drift,
    Dtype,
    JudgedBy,
    Metric,
    Outcome,
    Reason,
    Stage,
    StageDrift,
    Target,
    Verdict,
)
from harness.store.history import add_run, read_history
from harness.store.recording import Environment, NumericsClass
from harness.store.run_folder import RESULTS_FORMAT, Results
from harness.store.shared_folder import open_folder

FIRST_NIGHT = datetime(2025, 11, 21, 3, 0, tzinfo=UTC)
TARGET = Target(Device.CUDA, Dtype.FLOAT16)
BOUND = 1e-4
NOISE = 0.1  # standard deviation of the logarithm of drift and of seconds, from night to night
CREEP, CREEP_NIGHTS, STEP = 3.0, 60, 1.5


@dataclass(frozen=True)
class Year:
    """What is generated.

    `creep` and `step` are nights, counted from 0; `creeping` and `stepping` the scenarios that they
    are planted in, on the first machine type.
    """

    nights: int = 365
    scenarios: int = 200
    machines: int = 6
    creep: int = 150
    step: int = 220
    creeping: int = 17
    stepping: int = 101
    seed: int = 0

    def runs(self) -> Iterator[Results]:
        """Yield the results of each night on each machine type."""
        random = np.random.default_rng(self.seed)
        usual = np.exp(random.normal(np.log(5e-6), 0.5, (self.machines, self.scenarios)))
        for night in range(self.nights):
            for index in range(self.machines):
                noise = np.exp(random.normal(0, NOISE, (3, self.scenarios)))
                yield self._results(night, index, usual[index], noise)

    def _results(self, night: int, index: int, usual: np.ndarray, noise: np.ndarray) -> Results:
        names = [f"scenario-{number:03d}" for number in range(self.scenarios)]
        numerics_class = f"gpu-type-{index}"
        outcomes = []
        for number, name in enumerate(names):
            moved = self._moved(number, night) if index == 0 else 1.0
            free, local = usual[number] * moved * noise[:2, number]
            seconds = (1 + number / 50) * noise[2, number]
            outcomes.append(outcome(name, numerics_class, free, local / 10, seconds))
        moment = FIRST_NIGHT + timedelta(days=night, minutes=index)
        release = "0.36.0" if night < self.step else "0.37.0"
        return Results(
            format=RESULTS_FORMAT,
            outcomes=tuple(outcomes),
            written=moment.isoformat(timespec="seconds"),
            digest=f"{night:08x}{index:08x}",
            environments={numerics_class: environment(numerics_class, release)},
            commit=hashlib.sha256(str(night).encode()).hexdigest()[:40],
        )

    def _moved(self, scenario: int, night: int) -> float:
        """Return how many times its usual drift a scenario has on a night."""
        if scenario == self.creeping:
            along = min(max(night - self.creep, 0), CREEP_NIGHTS) / CREEP_NIGHTS
            return float(CREEP**along)
        if scenario == self.stepping:
            return STEP if night >= self.step else 1.0
        return 1.0


def outcome(name: str, numerics_class: str, free: float, local: float, seconds: float) -> Outcome:
    """Return the outcome of a case that is within its bounds on a machine of another class."""
    drift = Drift(10 * free, free, 1.0, 1.0, 1, 1, (0,), 1.0, 1.0)
    figures = CostFigures(1.0, seconds, seconds, int(1e9 + 1e8 * seconds))
    return Outcome(
        case=f"{name}[{TARGET}]",
        scenario=name,
        target=TARGET,
        verdict=Verdict.WITHIN,
        reason=Reason.INSIDE_TOLERANCE,
        message="",
        tags=("nightly",),
        device_kind=numerics_class,
        numerics_class=numerics_class,
        baseline=JudgedBy("gpu-type-reference", Comparison.CROSS_CLASS, str(TARGET), "d" * 32),
        outputs={"image": drift},
        checks=(Check("image", Metric.REL_L2, free, BOUND),),
        local=(StageDrift(Stage("unet", 0), "sample", 10 * local, local),),
        cost=Cost(figures, CostVerdict.OK),
    )


def environment(numerics_class: str, release: str) -> Environment:
    """Return the environment of one machine type with one release of diffusers."""
    operators = {f"operator-{index}": numerics_class[-1] * 12 for index in range(30)}
    return Environment(
        numerics_class=NumericsClass(numerics_class, numerics_class[-1] * 32, operators),
        framework="torch",
        device_kind=numerics_class,
        versions={"torch": "2.9.1", "diffusers": release, "transformers": "5.6.0"},
        hardware={"cpu": "Xeon", "cores": 16, "gpu": {"name": numerics_class}},
        flags={"cudnn.deterministic": True},
        variables={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    )


def make(place: str, year: Year) -> None:
    """Add every night to the history in a folder."""
    folder = open_folder(place)
    for number, results in enumerate(year.runs()):
        add_run(folder, results, f"night-{number}")


def read(place: str) -> None:
    """Time the command in a new process, and print what it finds."""
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "harness", "history", place, "--silent", "3650"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wall, after = time.perf_counter() - started, os.times()
    processor = after.children_user + after.children_system
    processor -= before.children_user + before.children_system
    print(printed[printed.index("changes of drift") :])
    print(f"harness history: {wall:.1f} s, {processor:.1f} s of the processor")


def read_only(place: str) -> None:
    """Time reading and searching inside this process."""
    started = time.process_time(), time.perf_counter()
    history = read_history(open_folder(place))
    have_read = time.process_time(), time.perf_counter()
    series = series_of(history, lambda _words: True)
    trends = [trend for each in series for trend in trends_of(history, each)]
    done = time.process_time(), time.perf_counter()
    for name, from_, to in (("read", started, have_read), ("searched", have_read, done)):
        seconds, processor = to[1] - from_[1], to[0] - from_[0]
        print(f"{name}: {seconds:.2f} s, {processor:.2f} s of the processor")
    changed = {(trend.case, trend.numerics_class) for trend in trends}
    print(f"{len(series)} series, {len(changed)} with changes: {sorted(changed)}")


def alarms(series: int = 4000) -> None:
    """Count false alarms in quiet series, and how often creep and steps are found and dated."""
    random = np.random.default_rng(1)
    per_year = 365 / average_run_length()
    print(f"calculated: {per_year:.1e} of the series of a year")
    draws = {"normal": random.standard_normal, "t3": lambda n: random.standard_t(3, n)}
    for name, draw in draws.items():
        for nights in (20, 60, 365):
            found = 0
            for _ in range(series):
                values = NOISE * draw(nights)
                noise = noise_of(values)
                found += first_alarm(without_spikes(values, noise), noise) is not None
            print(f"{name}, {nights} nights: {found} of {series}")
    ramp = np.log(CREEP) * np.clip((np.arange(365) - 150) / CREEP_NIGHTS, 0, 1)
    jump = np.log(STEP) * (np.arange(365) >= 220)
    for noise in (0.02, 0.1, 0.2, 0.3):
        print(f"noise {noise}: creep {_dated(random, ramp, noise, Kind.CREEP, 150)}")
        print(f"noise {noise}: step {_dated(random, jump, noise, Kind.STEP, 220)}")


def _dated(
    random: np.random.Generator, planted: np.ndarray, noise: float, kind: Kind, night: int
) -> str:
    """Return how many of 100 planted changes are found as such and alone, and how late."""
    late = []
    for _ in range(100):
        found = change_points(random.normal(0, noise, len(planted)) + planted)
        if [each.kind for each in found] == [kind]:
            late.append(found[0].first - night)
    low, middle, high = np.percentile(late, [5, 50, 95])
    return (
        f"{len(late)} of 100, nights off: median {middle:.0f}, 5 to 95 %: {low:.0f} to {high:.0f}"
    )


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    {"make": lambda place: make(place, Year()), "read": read, "time": read_only, "alarms": alarms}[
        command
    ](*rest)
