"""Owns reproducers: a script that shows a root cause without the harness, run before it is claimed.

A reproducer is a folder: `reproduce.py`, its inputs, and what it printed when it was run in both
settings. Only where the difference showed, `ISSUE.md` is ready for an issue tracker.
"""

from __future__ import annotations

import os
import pprint
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from harness.errors import UsageError, writing
from harness.launch.sandbox import interpreter
from harness.scenario.fields import Framework
from harness.scenario.model import Case
from harness.session import Session
from harness.store.baselines import Baseline
from harness.store.recording import Observed, Recording
from harness.store.safetensors import pack_some
from harness.study.explain import Explanation
from harness.study.revert import Candidates, candidates
from harness.study.root_causes import RootCause
from harness.worker.files import write_file
from harness.worker.protocol import ARGUMENT, NOISE, OPERATOR

SCRIPT, INPUTS, PRINTED, ISSUE = "reproduce.py", "inputs.safetensors", "output.txt", "ISSUE.md"
TEMPLATES = "data/reproducer"  # inside the package
NAME = re.compile(r"[\w.]+")  # of an operator or a class, before it stands in a script's text
FLAGS = (
    "num_threads",
    "deterministic_algorithms",
    "sdpa.math",
    "sdpa.flash",
    "sdpa.mem_efficient",
)
SECONDS = 600.0
SHOWS, DOES_NOT_SHOW = 0, 1  # exit codes of the script
WIDTH = 100


@dataclass(frozen=True)
class Reproduction:
    """What came of a reproducer: its folder, what it printed, and whether the difference showed."""

    folder: Path
    printed: str
    shows: bool


@dataclass(frozen=True)
class _Draft:
    """A script in the making.

    `title` is its first line, `packages` what it needs, `template` the part that computes, `values`
    what is put into it, `inputs` the bytes of its tensors, and `facts` what it must know of each
    side beyond variables and versions.
    """

    title: str
    packages: tuple[str, ...]
    template: str
    values: Mapping[str, object]
    inputs: bytes
    facts: Mapping[str, Mapping[str, object]]


def reproduce(  # noqa: PLR0913 (each is a side, or says where and how)
    session: Session,
    case: Case,
    actual: Recording,
    expected: Baseline,
    found: Explanation,
    folder: Path,
    *,
    packages: bool,
) -> Reproduction:
    """Write a script that shows the first root cause, and run it in both settings.

    Args:
        session: Runs the case once more, for the operator's arguments.
        case: The case without settings of its own.
        actual: What the run left.
        expected: The baseline.
        found: Why the case moved.
        folder: Where the reproducer goes.
        packages: Whether the baseline's side has its own versions of packages.

    Raises:
        UsageError: What was found cannot be shown by a script of this kind.
        FileError: The folder cannot be written to.
        NotRecordedError: The case does not run here any more.
    """
    sides = candidates(case, actual, expected, packages=packages)
    if Framework.MINDSPORE in (case.scenario.framework, sides.expected.scenario.framework):
        raise UsageError("a reproducer can be written for torch and diffusers only")
    if not found.root_causes:
        raise UsageError(f"{case.id}: no root cause was found, so there is nothing to reproduce")
    cause = found.root_causes[0]
    if cause.operator is not None:
        draft = _operator_draft(session, sides, actual, expected, cause)
    elif cause.stage.is_scheduler_step:
        draft = _scheduler_draft(actual, expected, cause)
    else:
        raise UsageError(
            f"{case.id}: the root cause {cause.module} of {cause.stage} is neither an operator nor "
            "a scheduler; a script for it would need the whole model"
        )
    return _written(draft, sides, actual, expected, folder)


def _operator_draft(
    session: Session, sides: Candidates, actual: Recording, expected: Baseline, cause: RootCause
) -> _Draft:
    """Return the script that calls one operator with the arguments that it got in the run."""
    operator = cause.operator
    assert operator is not None  # noqa: S101 (for the type checker: the caller looked)
    asked = replace(
        sides.actual,
        detail={
            "stage": str(cause.stage),
            "operators": cause.module,
            "arguments": operator.index,
        },
    )
    folder = session.out / "explain" / sides.actual.scenario.name / "arguments"
    recording = session.record(asked, session.slot(0), folder)
    called = recording.operators[operator.index]
    if called.arguments is None:
        raise UsageError(f"the arguments of {operator.name} cannot be written down for a script")
    prefix = f"{OPERATOR}{operator.index}/{ARGUMENT}"
    names = {name: name for name in recording.tensors if name.startswith(prefix)}
    name = _checked(operator.name)
    return _Draft(
        title=f"{name} gives another result from the same inputs under other settings.",
        packages=("torch", "numpy", "safetensors"),
        template="operator.py.txt",
        values={
            "OPERATOR": name,
            "DEVICE": str(sides.actual.target.device),
            "ARGUMENTS": called.arguments,
        },
        inputs=pack_some(recording.tensors_path, names),
        facts={
            "expected": {"flags": _flags(expected)},
            "actual": {"flags": _flags(actual)},
        },
    )


def _flags(side: Observed) -> dict[str, object]:
    """Return the flags of torch that a script sets, as one side had them."""
    missing = [name for name in FLAGS if name not in side.environment.flags]
    if missing:
        raise UsageError(f"the recording does not tell the flag {missing[0]}, which a script needs")
    return {name: side.environment.flags[name] for name in FLAGS}


def _scheduler_draft(actual: Recording, expected: Baseline, cause: RootCause) -> _Draft:
    """Return the script that makes a scheduler's tables and takes its steps.

    Each side gets the settings that both sides have. What only one of them has is a default of its
    release, which that release adds by itself.
    """
    kind = cause.stage.kind
    scheduler = kind.rpartition(".")[0]
    one, other = (side.inputs.schedulers.get(scheduler) for side in (expected, actual))
    if one is None or other is None:
        raise UsageError(f"the recordings do not hold the settings of {scheduler}")
    if not actual.noise:
        raise UsageError(f"the recording holds no noise that {scheduler} could start from")
    shared = [name for name in one if name in other and name != "class" and name[0] != "_"]
    name = _checked(str(other.get("class", "")))
    return _Draft(
        title=f"{name} computes something else under other settings or in another release.",
        packages=("diffusers", "torch", "numpy", "safetensors"),
        template="scheduler.py.txt",
        values={
            "SCHEDULER": name,
            "STEPS": sum(observed.stage.kind == kind for observed in actual.stages),
        },
        inputs=pack_some(actual.tensors_path, {f"{NOISE}0": "noise"}),
        facts={
            "expected": {"config": {key: one[key] for key in shared}},
            "actual": {"config": {key: other[key] for key in shared}},
        },
    )


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name that a script can call")
    return name


# Writing and running.


def _written(
    draft: _Draft, sides: Candidates, actual: Recording, expected: Baseline, folder: Path
) -> Reproduction:
    """Write a reproducer, run it, and say what came of it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ISSUE).unlink(missing_ok=True)
        write_file(folder / INPUTS, draft.inputs)
        write_file(folder / SCRIPT, _script(draft, actual, expected).encode())
    printed, shows = _run(folder, sides)
    with writing(folder):
        write_file(folder / PRINTED, printed.encode(errors="backslashreplace"))
        if shows:
            write_file(folder / ISSUE, _issue(draft, printed).encode(errors="backslashreplace"))
    return Reproduction(folder, printed, shows)


def _script(draft: _Draft, actual: Recording, expected: Baseline) -> str:
    """Return the text of a script; every value in it is a literal of Python."""
    sides = {
        name: {**_side(side, other, draft.packages), **draft.facts[name]}
        for name, side, other in (("expected", expected, actual), ("actual", actual, expected))
    }
    compute = _template(draft.template)
    for name, value in draft.values.items():
        compute = compute.replace(f"@{name}@", _literal(value))
    text = _template("frame.py.txt").replace("@TITLE@", draft.title)
    text = text.replace("@NEEDS@", ", ".join(draft.packages))
    text = text.replace("@PACKAGES@", _literal(draft.packages))
    return text.replace("@COMPUTE@", compute).replace("@SIDES@", _literal(sides))


def _side(side: Observed, other: Observed, packages: tuple[str, ...]) -> dict[str, object]:
    """Return the variables that either side sets, and the versions, of one side."""
    mine, others = side.environment.variables, other.environment.variables
    versions = side.environment.versions
    return {
        "variables": {name: mine.get(name) for name in sorted({*mine, *others})},
        "packages": {name: versions[name] for name in packages if name in versions},
    }


def _literal(value: object) -> str:
    return pprint.pformat(value, width=WIDTH - 4, sort_dicts=True)


def _template(name: str) -> str:
    return files("harness").joinpath(TEMPLATES, name).read_text(encoding="utf-8")


def _run(folder: Path, sides: Candidates) -> tuple[str, bool]:
    """Run a script with the interpreters of both sides; return what it printed, and if it shows."""
    command = [sys.executable, SCRIPT]
    for name, case in (("expected", sides.expected), ("actual", sides.actual)):
        command += [f"--{name}-python", str(interpreter(case.env) or sys.executable)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the script did not end within {SECONDS:.0f} s\n", False
    if done.returncode not in (SHOWS, DOES_NOT_SHOW):
        return f"{done.stdout}\nthe script ended with status {done.returncode}\n", False
    return done.stdout, done.returncode == SHOWS and "the difference shows" in done.stdout


def _issue(draft: _Draft, printed: str) -> str:
    """Return the text of an issue."""
    fence = "~" * 6
    return (
        f"# {draft.title.rstrip('.')}\n\n"
        f"`python {SCRIPT}`, with `{INPUTS}` beside it, runs the same code from the same inputs in "
        f"two new processes that differ only in what is named below. It needs "
        f"{', '.join(draft.packages)}.\n\n{fence}text\n{printed.rstrip()}\n{fence}\n\n"
        f"Both files are attached.\n"
    )
