"""The first five minutes, timed: from an empty folder to a drift that is explained and accepted.

    python tests/first_drift.py FOLDER [--python PYTHON] [--most SECONDS]

FOLDER is new. PYTHON is the interpreter of an environment in which the package is installed, with
its extra `torch`; this one without it. Every command is typed as a new user would, and nothing of
this repository is used: the pipeline that is saved is one that comes with the package. The script
ends with a table of seconds, and with an error where a step does not do what it must, or where all
of them took longer than SECONDS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SAVE = """\
from pathlib import Path
import harness
from diffusers import DDIMPipeline

bundled = Path(harness.__file__).parent / "data" / "bundled" / "digits-ddpm"
DDIMPipeline.from_pretrained(bundled).save_pretrained("models/digits")
"""
SETTING = ("timestep_spacing", "leading", "trailing")
CASE = "digits[cpu-float32]"
REASON = "The last step of the schedule is wanted."
MOST_SECONDS = 600


@dataclass
class FirstDrift:
    """One walk through the steps: `folder` is the project, `python` runs every command."""

    folder: Path
    python: Path
    seconds: dict[str, float] = field(default_factory=dict)
    processor_seconds: dict[str, float] = field(default_factory=dict)

    def walk(self) -> None:
        """Take every step.

        Raises:
            AssertionError: A step printed or left something else than it must.
        """
        self.folder.mkdir(parents=True)
        assert list(self.folder.iterdir()) == [], f"{self.folder} is not empty"
        self.run("save a pipeline", 0, "-c", SAVE)
        self.run("harness init", 0, "-m", "harness", "init", "models/digits")
        self.run("harness record", 0, "-m", "harness", "record")
        assert "1 passed" in self.pytest("pytest: green", 0)
        self.change_the_scheduler()
        self.explained(self.pytest("pytest: red", 1))
        accept = ("--harness-accept", "--harness-reason", REASON)
        self.pytest("pytest: accept with a reason", 0, *accept)
        assert "1 identical" in self.pytest("pytest: green again", 0)
        (baseline,) = (self.folder / "baselines" / "digits" / "cpu-float32").glob("*.json")
        assert REASON in baseline.read_text(encoding="utf-8")

    def change_the_scheduler(self) -> None:
        """Edit one setting in the scheduler's configuration, in the folder of the pipeline."""
        path = self.folder / "models" / "digits" / "scheduler" / "scheduler_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        name, before, after = SETTING
        assert settings[name] == before
        path.write_text(json.dumps(settings | {name: after}), encoding="utf-8")

    def explained(self, printed: str) -> None:
        """Check that a failure names its cause, and a page on which the pictures are."""
        name, before, after = SETTING
        assert f"{name} '{before}' -> '{after}'" in printed, printed
        found = re.search(r"^pictures: (.+)$", printed, re.MULTILINE)
        assert found, printed
        page = (self.folder / found[1]).read_text(encoding="utf-8")
        assert CASE in page
        assert page.count("data:image/png;base64,") >= 3  # the baseline, this run, the difference

    def pytest(self, step: str, code: int, *arguments: str) -> str:
        """Run pytest in the project, and return what it printed."""
        return self.run(step, code, "-m", "pytest", *arguments)

    def run(self, step: str, code: int, *arguments: str) -> str:
        """Run Python, time it, check its exit code, and return what it printed."""
        environment = {name: text for name, text in os.environ.items() if name != "CI"}
        started, worked = time.perf_counter(), children_seconds()
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=MOST_SECONDS,
        )
        self.seconds[step] = time.perf_counter() - started
        self.processor_seconds[step] = children_seconds() - worked
        assert done.returncode == code, f"{step}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def table(self) -> str:
        """Return the seconds of each step, of the clock and of processors, and their sums."""
        rows = [(step, *each) for step, each in self._both().items()]
        rows.append(("**sum**", *(sum(each) for each in zip(*self._both().values(), strict=True))))
        lines = [f"| {step} | {clock:.1f} | {worked:.1f} |" for step, clock, worked in rows]
        return "\n".join(["| step | seconds | of a processor |", "|---|---|---|", *lines])

    def _both(self) -> dict[str, tuple[float, float]]:
        return {step: (self.seconds[step], self.processor_seconds[step]) for step in self.seconds}


def children_seconds() -> float:
    """Return the seconds of processors that ended children took; other work adds none to them."""
    return sum(os.times()[2:4])


def main() -> None:
    """Walk once, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--most", type=float, default=float("inf"))
    asked = parser.parse_args()
    walked = FirstDrift(asked.folder.absolute(), asked.python.absolute())
    walked.walk()
    print(walked.table())
    if sum(walked.seconds.values()) > asked.most:
        raise SystemExit(f"all steps together took longer than {asked.most:g} s")


if __name__ == "__main__":
    main()
