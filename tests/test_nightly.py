"""The nightly as its workflow file says it: machines, artefacts, one gate, history, one issue.

The commands come out of the file itself; see `workflow`. Three machine types are three numerics
classes of this processor.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from workflow import Job, Service, read_workflow

from harness.store.run_folder import read_results

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "nightly.yml"
# Three machine types: what makes this one another, by its name in the matrix.
MACHINES = {
    "native": {},
    "older": {"ATEN_CPU_CAPABILITY": "default"},
    "oldest": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
POLICY = """\
description: The digits on three machine types.
require:
  - scenarios: [ddim-digits]
    on: cpu
"""
# An upgrade that scales every step of DDIM, for workers alone.
UPGRADE = """\
import sys
if "harness.worker" in sys.orig_argv:
    import functools
    from diffusers import DDIMScheduler
    plain = DDIMScheduler.step
    @functools.wraps(plain)
    def step(*arguments, **named):
        result = plain(*arguments, **named)
        result.prev_sample.mul_(1.01)
        return result
    DDIMScheduler.step = step
"""


class Fleet:
    """A repository with the nightly, and nights of it."""

    def __init__(self, root: Path, machines: dict[str, dict[str, str]]) -> None:
        self.root, self.machines = root, machines
        self.origin, self.work = root / "origin.git", root / "work"
        self.service = Service(self.origin, root / "service")
        self.nights = 0

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", *author, *arguments],
            cwd=cwd or self.work,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def make(self) -> None:
        """Make the repository, with a baseline of the first machine."""
        (self.work / "scenarios").mkdir(parents=True)
        (self.work / ".ci").mkdir()
        content = yaml.safe_load((ROOT / "scenarios" / "ddim-digits.yaml").read_text())
        content |= {"cases": {"device": "cpu"}, "cost": {"rounds": 1}}
        del content["tolerance"]["evidence"]
        scenario = self.work / "scenarios" / "ddim-digits.yaml"
        scenario.write_text(yaml.safe_dump(content), encoding="utf-8")
        (self.work / ".ci" / "release.yaml").write_text(POLICY, encoding="utf-8")
        (self.work / ".gitignore").write_text("runs/\n", encoding="utf-8")
        done = self.harness("record", "scenarios", "--out", "runs/first")
        assert done.returncode == 0, done.stdout + done.stderr
        self.git("init", "--quiet", "--bare", str(self.origin), cwd=self.root)
        self.git("init", "--quiet")
        self.git("remote", "add", "origin", str(self.origin))
        self.push("Begin")

    def push(self, *message: str) -> None:
        """Commit everything and push it."""
        self.git("add", "--all")
        options = message if len(message) > 1 else ("-m", *message)
        self.git("commit", "--quiet", *options)
        self.git("push", "--quiet", "origin", "HEAD:main")

    def harness(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the harness in the working copy, on the first machine."""
        environment = self.service.environment(self.root / "summary.md")
        return subprocess.run(
            ["harness", *arguments],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def night(self, extra: dict[str, str] | None = None) -> Job:
        """Run the jobs of all machines, then that of the gate, which is returned."""
        self.nights += 1
        workflow = read_workflow(WORKFLOW)
        artefacts = self.root / f"artefacts-{self.nights}"
        for machine, variables in self.machines.items():
            job = self._job(workflow, "run", artefacts, machine)
            job.matrix = {"machine": machine}
            job.machine = {**variables, **(extra or {})}
            job.run()
            assert not job.failed, job.printed
            assert job.summary.read_text(encoding="utf-8").startswith("# ")
        return self.gate_again()

    def gate_again(self) -> Job:
        """Run the job of the gate over the artefacts of the last night."""
        artefacts = self.root / f"artefacts-{self.nights}"
        job = self._job(read_workflow(WORKFLOW), "gate", artefacts, "gate")
        shutil.rmtree(job.folder, ignore_errors=True)
        self.service.facts = {
            "github.token": "none",
            "github.server_url": "https://github.example",
            "github.repository": "team/models",
            "github.run_id": str(self.nights),
        }
        return job.run()

    def _job(self, workflow: dict, name: str, artefacts: Path, folder: str) -> Job:
        place = self.root / f"jobs-{self.nights}" / folder
        place.parent.mkdir(exist_ok=True)
        return Job(self.service, workflow["jobs"][name], workflow["env"], artefacts, place)


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """Make a repository with the nightly for some of the machines."""
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def made(*machines: str) -> Fleet:
        fleet = Fleet(tmp_path, {name: MACHINES[name] for name in machines})
        fleet.make()
        return fleet

    return made


def nights_of(job: Job) -> list[Path]:
    """Return the files of runs in the history that a job kept."""
    return sorted((job.folder / "history" / "nights" / "runs").glob("*.json"))


def test_a_night_on_one_machine_is_decided_reported_and_kept(fleet):
    """The shorter form of the test below: green, and no issue is opened."""
    made = fleet("native")
    gate = made.night()
    assert not gate.failed, gate.printed
    assert gate.outcomes == {"decide": "success"}
    kept = {path.name for path in (made.root / "artefacts-1" / "night").iterdir()}
    assert kept == {"gate.json", "decision.txt", "report.html", "history.html"}
    assert "open" in gate.summary.read_text(encoding="utf-8")
    assert len(nights_of(gate)) == 1
    assert made.git("ls-remote", "origin", "harness-history")
    assert made.service.issues == []


@pytest.mark.slow
def test_three_machine_types_three_nights_and_an_accept_by_cause(fleet):
    """Green; then an upgrade moves all machines; accepted by its causes, it is green again.

    One cause is that of the machine in whose class the baseline is; the others differ by their
    class, too.

    One issue is opened, updated and closed, and the history has each machine of each night.
    """
    made = fleet(*MACHINES)
    gate = made.night()
    assert not gate.failed, gate.printed
    runs = [made.root / "artefacts-1" / f"run-{name}" / name for name in MACHINES]
    outcomes = [read_results(run).outcomes[0] for run in runs]
    assert len({each.numerics_class for each in outcomes}) == 3
    assert [each.verdict for each in outcomes] == ["identical", "within", "within"]
    assert made.service.issues == []

    (made.root / "upgrade").mkdir()
    (made.root / "upgrade" / "sitecustomize.py").write_text(UPGRADE, encoding="utf-8")
    others = os.environ.get("PYTHONPATH", "")
    upgraded = {"PYTHONPATH": os.pathsep.join(filter(None, [str(made.root / "upgrade"), others]))}
    gate = made.night(upgraded)
    assert gate.failed
    assert gate.outcomes == {"decide": "failure"}
    runs = [made.root / "artefacts-2" / f"run-{name}" / name for name in MACHINES]
    assert [read_results(run).outcomes[0].verdict for run in runs] == ["drifted"] * 3
    assert "blocked" in gate.summary.read_text(encoding="utf-8")
    (issue,) = made.service.issues
    assert (issue["state"], issue["label"]) == ("open", "harness-nightly")
    assert "https://github.example/team/models/actions/runs/2" in issue["body"]
    assert "blocked" in issue["body"]
    assert made.gate_again().failed
    (issue,) = made.service.issues
    assert issue["comments"] == ["Still red: https://github.example/team/models/actions/runs/2"]

    night = made.work / "runs" / "night"
    for name in MACHINES:
        shutil.copytree(made.root / "artefacts-2" / f"run-{name}", night, dirs_exist_ok=True)
    listed = made.harness("accept", "runs/night", "--list").stdout
    causes = re.findall(r"^([0-9a-f]{6,}) ", listed, re.MULTILINE)
    assert len(causes) == listed.count("arithmetic of scheduler") == 2, listed
    chosen = [word for cause in causes for word in ("--cause", cause)]
    reason = ("--reason", "the steps of DDIM are scaled now", "--message", "runs/message.txt")
    accepted = made.harness("accept", "runs/night", *chosen, *reason)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    baselines = made.work / "baselines" / "ddim-digits" / "cpu-float32"
    assert len(list(baselines.glob("*.json"))) == 3
    made.push("-F", "runs/message.txt")

    gate = made.night(upgraded)
    assert not gate.failed, gate.printed
    (issue,) = made.service.issues
    assert issue["state"] == "closed"
    assert issue["comments"][-1].startswith("Green again: ")
    assert len(nights_of(gate)) == 3 * len(MACHINES)
    record = json.loads((gate.folder / "gate.json").read_text(encoding="utf-8"))
    assert record["decision"]["blocking"] == []


# The workflow file itself.


def test_every_command_of_the_workflows_is_sound():
    """Each is read by bash, asks for no more rights than it needs, and pins its actions."""
    for path in WORKFLOW.parent.glob("*.yml"):
        workflow = read_workflow(path)
        assert workflow["permissions"] == {"contents": "read"}, path
        steps = [step for job in workflow["jobs"].values() for step in job.get("steps", ())]
        for step in steps:
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@v\d+|[\w./-]+@[0-9a-f]{40}", step["uses"]), step
                continue
            read = subprocess.run(["bash", "-n", "-c", step["run"]], check=False)
            assert read.returncode == 0, step


# The snippets of the page.


def snippet(name: str) -> str:
    """Return the block of docs/nightly.md that is marked with a name."""
    page = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- runs: {name} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found, name
    return found[1]


@pytest.mark.slow
def test_the_commands_for_gitlab_and_slurm_run_a_night(fleet, tmp_path):
    """Each on one machine: an open gate, a report and a history."""
    made = fleet("native")
    gitlab = yaml.safe_load(snippet("gitlab"))
    ways = {
        "gitlab": [
            ("\n".join(gitlab[job]["script"]), {"MACHINE": "cpu"}) for job in ("run", "gate")
        ],
        "slurm": [
            (snippet("slurm"), {"SLURM_ARRAY_TASK_ID": "0", "NIGHT": "night"}),
            (snippet("slurm-gate"), {"NIGHT": "night"}),
        ],
    }
    for name, scripts in ways.items():
        folder = tmp_path / name
        made.git("clone", "--quiet", str(made.origin), str(folder), cwd=tmp_path)
        for script, variables in scripts:
            done = subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=folder,
                env={**made.service.environment(folder / "summary.md"), **variables},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        kept = {path.name for path in folder.iterdir()}
        assert {"gate.json", "report.html", "history", "night"} <= kept
        assert [path.name for path in (folder / "night").iterdir()] == ["cpu"]
