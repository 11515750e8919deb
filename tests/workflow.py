"""Runs the jobs of a workflow file of GitHub here: its own commands, with artefacts as folders.

Only what the workflow uses is known; anything else is an error, so that what a test shows is what
the file says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
# What stands for the command line of GitHub: it knows one repository's issues, kept in a file.
GH = """\
#!{python}
import argparse, json, sys
from pathlib import Path

path = Path({state!r})
issues = json.loads(path.read_text()) if path.exists() else []
parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["issue", "label"])
parser.add_argument("verb", choices=["list", "create", "edit", "comment", "close"])
parser.add_argument("name", nargs="?")
for option in ("label", "state", "limit", "json", "jq", "title", "body", "body-file", "comment"):
    parser.add_argument("--" + option)
parser.add_argument("--force", action="store_true")
asked = parser.parse_args()
if asked.what == "label":
    sys.exit(0)
body = Path(asked.body_file).read_text() if asked.body_file else ""
if asked.verb == "list":
    assert (asked.json, asked.jq) == ("number", ".[].number")
    fitting = [i for i in issues if i["label"] == asked.label and i["state"] == asked.state]
    for issue in fitting[: int(asked.limit)]:
        print(issue["number"])
elif asked.verb == "create":
    issues.append(dict(number=len(issues) + 1, state="open", label=asked.label,
                       title=asked.title, body=body, comments=[]))
else:
    (issue,) = [i for i in issues if str(i["number"]) == asked.name]
    if asked.verb == "edit":
        issue["body"] = body
    else:
        issue["comments"].append(asked.body or asked.comment)
    if asked.verb == "close":
        issue["state"] = "closed"
path.write_text(json.dumps(issues))
"""


@dataclass
class Service:
    """What GitHub gives a workflow: the repository, artefacts, a command line, expressions.

    Attributes:
        origin: The repository, which jobs check out.
        root: Where jobs work, and artefacts lie.
        facts: What other expressions than those of the matrix and of steps stand for.
    """

    origin: Path
    root: Path
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def issues(self) -> list[dict[str, Any]]:
        """The issues of the repository, the oldest first."""
        path = self.root / "issues.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def environment(self, summary: Path) -> dict[str, str]:
        """Return the variables of a job: this interpreter's commands come first on the path."""
        commands = self.root / "bin"
        commands.mkdir(parents=True, exist_ok=True)
        gh = commands / "gh"
        state = str(self.root / "issues.json")
        gh.write_text(GH.format(python=sys.executable, state=state), encoding="utf-8")
        gh.chmod(0o755)
        path = os.pathsep.join(
            [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        return {**os.environ, "PATH": path, "GITHUB_STEP_SUMMARY": str(summary)}


@dataclass
class Job:
    """A job of a workflow on one line of its matrix.

    Attributes:
        service: Where it runs.
        definition: What the workflow says of it.
        env: The workflow's own variables.
        matrix: The line of the matrix.
        machine: Variables that make this machine another one.
        artefacts: Where this night's artefacts lie.
        folder: Where it works; made by the step that checks out.
        outcomes: How its steps ended, by their ids.
        printed: All that it printed.
        failed: Whether a step failed that may not.
    """

    service: Service
    definition: dict[str, Any]
    env: dict[str, str]
    artefacts: Path
    folder: Path
    matrix: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    printed: str = ""
    failed: bool = False

    @property
    def summary(self) -> Path:
        """The file that stands for the summary of the job."""
        return self.folder.with_suffix(".md")

    def run(self) -> Job:
        """Run every step whose condition holds."""
        for step in self.definition["steps"]:
            if self._holds(step.get("if")):
                self._step(step)
        return self

    def _step(self, step: dict[str, Any]) -> None:
        if "uses" in step:
            self._use(step["uses"].partition("@")[0], step.get("with", {}))
            return
        if step.get("name") == "Install":
            assert self._text(step["run"]).startswith("python -m pip install ")
            return
        done = self._bash(step)
        self.printed += done.stdout + done.stderr
        if "id" in step:
            self.outcomes[step["id"]] = "failure" if done.returncode else "success"
        if done.returncode and not step.get("continue-on-error"):
            self.failed = True

    def _bash(self, step: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run a step's commands as GitHub does: by `bash -e`."""
        own = {name: self._text(text) for name, text in {**self.env, **step.get("env", {})}.items()}
        return subprocess.run(
            ["bash", "-e", "-c", self._text(step["run"])],
            cwd=self.folder,
            env={**self.service.environment(self.summary), **own, **self.machine},
            capture_output=True,
            text=True,
            check=False,
        )

    def _use(self, action: str, options: dict[str, Any]) -> None:
        if action == "actions/checkout":
            command = ["git", "clone", "--quiet", str(self.service.origin), str(self.folder)]
            subprocess.run(command, check=True)
        elif action == "actions/upload-artifact":
            self._upload(self._text(options["name"]), options["path"].split("\n"))
        elif action == "actions/download-artifact":
            for artefact in sorted(self.artefacts.glob(options["pattern"])):
                shutil.copytree(artefact, self.folder / options["path"], dirs_exist_ok=True)
        else:
            assert action in ("actions/setup-python", "actions/cache"), action

    def _upload(self, name: str, paths: list[str]) -> None:
        place = self.artefacts / name
        shutil.rmtree(place, ignore_errors=True)
        for path in paths:
            source = self.folder / path
            if source.is_dir():  # of a folder its content, as GitHub does
                shutil.copytree(source, place, dirs_exist_ok=True)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)

    def _holds(self, condition: str | None) -> bool:
        """Whether a step runs: of conditions, only those that the workflows use are known."""
        if condition == "always()":
            return True
        if self.failed:
            return False
        if condition is None:
            return True
        named = re.fullmatch(r"(\S+) != '(\w+)'", condition)
        if named:
            return self._value(named[1]) != named[2]
        return bool(self._value(condition))

    def _text(self, text: str) -> str:
        return EXPRESSION.sub(lambda found: str(self._value(found[1])), str(text))

    def _value(self, expression: str) -> object:
        kind, _, name = expression.partition(".")
        if kind == "matrix":
            return self.matrix.get(name, "")
        step = re.fullmatch(r"steps\.(\w+)\.outcome", expression)
        if step:
            return self.outcomes[step[1]]
        return self.service.facts[expression]


def read_workflow(path: Path) -> dict[str, Any]:
    """Return a workflow file."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
