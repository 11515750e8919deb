"""A small project with scenarios, baselines and runs of several machines, made without a worker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import builders
import numpy as np

from harness.judge import contract
from harness.judge.verdict import judge, without_recording
from harness.records import Outcome, Verdict
from harness.scenario.model import Case
from harness.scenario.reading import read_all
from harness.store.baselines import Store
from harness.store.recording import Environment, Recording
from harness.store.run_folder import read_results, recording_folder, write_results
from harness.worker.files import digest_json, dumps

TOLERANCE = "{cross-class: {l_inf: 1.0e-2}}"
FAR = builders.IMAGE + np.float32(0.25)
VERSIONS = {"torch": "2.13.0+cpu", "diffusers": "0.42.1", "transformers": "5.23.0"}


@dataclass(frozen=True)
class Machine:
    """Where a run is made: the letter of its numerics class, its kind of device, its CPU."""

    letter: str = "a"
    kind: str = "cpu"
    cpu: str = "Xeon"

    def environment(self, **versions: str) -> Environment:
        """Return what a recording says of it."""
        return builders.environment(
            self.letter,
            device_kind=self.kind,
            versions={**VERSIONS, **versions},
            hardware={"cpu": self.cpu, "cores": 2},
        )

    def runs(self, case: Case) -> bool:
        """Whether it has the device of a case."""
        return (case.target.device == "cpu") == (self.kind == "cpu")


HERE, OTHER, THIRD = Machine("a"), Machine("b", cpu="EPYC"), Machine("c", cpu="ARM")
GPU = Machine("g", "nvidia-l4")


class World:
    """A project in a folder, which is the current one.

    Args:
        root: The folder.
        harness: Runs a command of the harness, and returns its code and what it printed.
    """

    def __init__(self, root: Path, harness: Callable[..., Any]) -> None:
        self.root = root
        self.harness = harness
        self.store = Store(Path("baselines"))
        self.policy_text = "require:\n  - {scenarios: digits, on: cpu}\n"
        self.runs: list[str] = []
        self.options: list[str] = []

    def scenario(self, name: str = "digits", **changes: str | None) -> None:
        """Write a scenario; the default bounds its drift across classes."""
        path = self.root / "scenarios" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        text = builders.scenario_text(**{"tolerance": TOLERANCE, **changes})
        path.write_text(text, encoding="utf-8")

    def cases(self, name: str = "") -> list[Case]:
        """Return the cases of all scenarios, or of one."""
        found = [case for each in read_all([Path("scenarios")]) for case in each.cases()]
        return [case for case in found if name in ("", case.scenario.name)]

    def case(self, name: str = "digits") -> Case:
        """Return the first case of a scenario."""
        return self.cases(name)[0]

    def baseline(self, machine: Machine = HERE, name: str = "", **facts: Any) -> None:
        """Accept a baseline of every case that the machine runs, or of those of one scenario."""
        for case in self.cases(name):
            if machine.runs(case) and case.scenario.needs_baseline:
                folder = self.root / "accepted" / case.key
                recording = self.record(case, machine, folder, **facts)
                self.store.write(case, recording, "R")

    def record(self, case: Case, machine: Machine, folder: Path, **facts: Any) -> Recording:
        """Write a recording of a case, as a worker would."""
        facts = {"environment": machine.environment(), "case": case.request(), **facts}
        return builders.recording(folder, facts.pop("outputs", builders.IMAGE), **facts)

    def run(
        self,
        name: str = "runs/one",
        machine: Machine = HERE,
        *,
        only: str = "",
        versions: dict[str, str] | None = None,
        **facts: Any,
    ) -> str:
        """Write what a run of every case, or of one scenario, leaves on a machine.

        A case on a device that the machine has not is `unverified`.
        """
        environment = machine.environment(**(versions or {}))
        outcomes = []
        for case in self.cases(only):
            if not machine.runs(case):
                outcomes.append(without_recording(case, Verdict.UNVERIFIED, "no such device"))
                continue
            folder = recording_folder(Path(name), case)
            recording = self.record(case, machine, folder, environment=environment, **facts)
            outcomes.append(self.judged(case, recording, Path(name)))
        environments = {environment.numerics_class.name: environment}
        write_results(Path(name), outcomes, environment, environments=environments)
        self.runs.append(name)
        return name

    def judged(self, case: Case, recording: Recording, run: Path) -> Outcome:
        """Return the outcome of a recording, as a session judges it."""
        match = None
        if case.scenario.needs_baseline:
            match = self.store.match(case, recording.numerics_class)
        outcome = judge(case, recording, match, [])
        if case.against is not None:
            expected = Recording.read(recording_folder(run, case.against))
            outcome = contract.with_contract(outcome, contract.hold(case, recording, expected))
        return outcome

    def outcome(self, change: Callable[[Outcome], Outcome], run: str = "runs/one") -> None:
        """Replace the first outcome of a run by what `change` makes of it."""
        results = read_results(Path(run))
        first, *others = results.outcomes
        write_results(
            Path(run),
            [change(first), *others],
            results.environment,
            environments=results.environments,
        )

    def edit(
        self, change: Callable[[Any], object], run: str = "runs/one", *, seal: bool = True
    ) -> None:
        """Change the JSON of a run's results, and seal it anew, as a forger would."""
        path = Path(run) / "results.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        if seal:
            content["digest"] = digest_json(content)
        path.write_text(dumps(content), encoding="utf-8")

    def policy(self, text: str) -> None:
        """Set the policy."""
        self.policy_text = text

    def git(self, *arguments: str) -> None:
        """Run a git command."""
        identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    def commit(self) -> None:
        """Put scenarios and baselines under version control."""
        with suppress(subprocess.CalledProcessError):
            self.git("init", "-q")
        self.git("add", "scenarios", "baselines")
        self.git("commit", "-q", "-m", "a release")

    def gate(self, *options: str) -> Any:
        """Run `harness gate` over all runs."""
        Path("policy.yaml").write_text(self.policy_text, encoding="utf-8")
        chosen = ["--policy", "policy.yaml", *self.options, *options]
        return self.harness("gate", *self.runs, *chosen)


def changed(**changes: Any) -> Callable[[Outcome], Outcome]:
    """Return a function that replaces fields of an outcome."""
    return lambda outcome: replace(outcome, **changes)


def first(content: Any, **changes: Any) -> None:
    """Change keys of the first outcome of a file of results."""
    content["outcomes"][0].update(changes)


def names(findings: Iterable[Any]) -> list[str]:
    """Return the problems of findings."""
    return [str(each.problem) for each in findings]
