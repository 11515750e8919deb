"""Owns the commands that a project starts with: `init`, and `new` for one more scenario."""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.commands.output import complain, say
from harness.commands.parser import Command
from harness.errors import FileError, UsageError
from harness.scenario.fields import diffusers_names
from harness.scenario.first_scenario import SCHEMA, FirstScenario, first_scenario
from harness.scenario.own_classes import code_of_class
from harness.scenario.project import CODE, FILE, PACKAGE, Project, is_code, project_of
from harness.scenario.reading import NAME, read
from harness.scenario.saved_pipeline import SavedPipeline
from harness.scenario.weights import DATA, REPOSITORY, REVISION, Checkpoint, CheckpointKind
from harness.store.project_files import (
    Change,
    Written,
    write_ignore_rule,
    write_new,
    write_schema,
    write_table,
    write_workflow,
)
from harness.worker.protocol import TrustRequest

FIRST = "bundled"  # what `init` starts with where nothing is named
FIRST_BUNDLED = "digits-ddpm"
INDEX = "model_index.json"
SOURCE = (
    "a folder that `pipeline.save_pretrained` wrote; a repository of the Hub, as ORG/NAME or "
    "ORG/NAME@REVISION; or bundled:NAME, one that comes with the harness"
)


def init(arguments: argparse.Namespace) -> int:
    """Start to use the harness in the working directory, which may be empty or a project.

    This writes a first scenario that runs, `[tool.harness]` in `pyproject.toml`, a workflow for
    GitHub, and a line in `.gitignore`. What is there already is kept as it is.
    """
    root = Path.cwd()
    checkpoint = _source_of(arguments.source)
    trust = list(dict.fromkeys(arguments.trust))
    for package in trust:
        if not PACKAGE.fullmatch(package):
            raise UsageError(f"--trust {package}: expected a top-level package, such as inkworks")
    project = project_of(root / FILE)
    if project is None or project.root != root:
        project = Project(root, tuple(trust))
    for package in trust:
        if package not in project.trust:
            raise UsageError(
                f"--trust {package}: {root / FILE} has [tool.harness] already, and is not edited\n"
                f"  do: {_how_to_trust(project, package)}"
            )
    path = _scenario_file(project, arguments.name or _name_for(checkpoint))
    scenario = None
    if not path.exists():
        scenario = _outlined(arguments, path, project, checkpoint)
    done = [write_table(root, project.scenarios[0], trust)]
    done += [] if scenario is None else _written(path, scenario)
    if scenario is None:
        done.append(Written(path, Change.KEPT, "it is there already"))
    done += [write_workflow(root), write_ignore_rule(root)]
    _tell(done)
    _advise(path, scenario, checkpoint, root)
    return 0


def new(arguments: argparse.Namespace) -> int:
    """Write a scenario of a saved pipeline.

    Its class, its size and what its call takes are read from the folder and from the class; a few
    steps keep it short. Bounds are left to `harness calibrate`.
    """
    here = Path.cwd()
    project = project_of(here / FILE) or Project(here)
    checkpoint = _source_of(arguments.source)
    path = _scenario_file(project, arguments.name)
    if path.exists():
        raise FileError(_shown(path), "is there already", "choose another name, or remove it")
    scenario = _outlined(arguments, path, project, checkpoint)
    _tell(_written(path, scenario))
    _advise(path, scenario, checkpoint, project.root)
    return 0


# From what is named to a saved pipeline.


def _source_of(text: str) -> Checkpoint:
    """Return where a pipeline was saved.

    Raises:
        UsageError: Nothing is there.
    """
    kind, _, name = text.partition(":")
    if kind == CheckpointKind.BUNDLED:
        return _bundled(name or FIRST_BUNDLED)
    folder = Path(text)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            problem = f"holds no {INDEX}, so it is no folder of a whole pipeline"
            raise FileError(folder, problem, "name the folder that pipeline.save_pretrained wrote")
        return Checkpoint(CheckpointKind.PATH, text, str(folder.resolve()))
    repository, _, revision = text.partition("@")
    if REPOSITORY.fullmatch(repository) and REVISION.fullmatch(revision or "main"):
        return Checkpoint(CheckpointKind.HUB, repository=repository, revision=revision or "main")
    raise UsageError(f"{text}: no such folder; expected {SOURCE}")


def _bundled(name: str) -> Checkpoint:
    folder = DATA / CheckpointKind.BUNDLED
    known = sorted(each.parent.name for each in folder.glob(f"*/{INDEX}"))
    if name not in known:
        raise UsageError(f"bundled:{name}: expected one of {', '.join(known)}")
    return Checkpoint(CheckpointKind.BUNDLED, name, str(folder / name))


def _name_for(checkpoint: Checkpoint) -> str:
    """Return a name for the first scenario of a pipeline: that of its folder or repository."""
    last = Path(checkpoint.folder).name if checkpoint.folder else checkpoint.repository
    return re.sub(r"[^\w.+-]+", "-", last.rpartition("/")[2]).strip("-.") or "first"


def _scenario_file(project: Project, name: str) -> Path:
    """Return the file of a scenario in a project.

    Raises:
        UsageError: It cannot be the name of a scenario.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name}: a name has letters, digits, `-`, `_`, `+` and `.` alone")
    return project.root / project.scenarios[0] / f"{name}.yaml"


def _outlined(
    arguments: argparse.Namespace, path: Path, project: Project, checkpoint: Checkpoint
) -> FirstScenario:
    """Return the scenario of a pipeline, which a worker looks at without running it."""
    pipeline = arguments.pipeline or _own_class(checkpoint, project)
    if pipeline and is_code(pipeline):
        _check_trust(pipeline, project)
    complain(f"looking at {checkpoint}")
    return first_scenario(path, _outline(pipeline, project, checkpoint), checkpoint)


def _own_class(checkpoint: Checkpoint, project: Project) -> str:
    """Return the class of a folder's pipeline where it is code of the project; else nothing.

    Raises:
        UsageError: The folder names a class that is neither of diffusers nor of the project.
    """
    if checkpoint.kind is not CheckpointKind.PATH:
        return ""
    name = _class_named(Path(checkpoint.folder) / INDEX)
    known = diffusers_names("Pipeline")
    if not name or not known or name in known:
        return ""
    found = code_of_class(project.root, name)
    if len(found) == 1:
        return found[0]
    where = "in several modules: " + ", ".join(found) if found else "in no package below it"
    raise UsageError(
        f"{checkpoint.name}/{INDEX} names the class {name}, which is not one of diffusers; the "
        f"project {project.root} has it {where}\n"
        f"  do: add --pipeline package.module:{name}"
    )


def _class_named(index: Path) -> str:
    """Return the class that an index names; empty where it names none by a plain name."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(index, f"cannot be read: {error}") from error
    name = found.get("_class_name") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def _check_trust(pipeline: str, project: Project) -> None:
    """Refuse code of a package that the project does not trust, and say how it would.

    Raises:
        UsageError: It does not, or this is no name of code.
    """
    if CODE.fullmatch(pipeline) is None:
        raise UsageError(f"--pipeline {pipeline}: expected a name such as package.module:Class")
    package = pipeline.partition(":")[0].partition(".")[0]
    if package in project.trust:
        return
    raise UsageError(
        f"{pipeline} is code of the package {package}, which this project does not trust, so it "
        f"is not imported\n  do: {_how_to_trust(project, package)}"
    )


def _how_to_trust(project: Project, package: str) -> str:
    """Return what to do so that a project trusts a package; its table is never edited."""
    line = f'write trust = ["{package}"] under [tool.harness] in {project.root / FILE}'
    if project_of(project.root / FILE) is not None:
        return line
    return f"{line}, or begin the project with --trust {package} added to harness init"


def _outline(pipeline: str, project: Project, checkpoint: Checkpoint) -> SavedPipeline:
    from harness.session import Session
    from harness.store.baselines import Store

    trust: TrustRequest | None = None
    if project.trust:
        trust = {"root": str(project.root), "packages": list(project.trust)}
    with (
        tempfile.TemporaryDirectory(prefix="harness-") as folder,
        Session(Store(Path(folder)), Path(folder)) as session,
    ):
        return session.outline(
            {"source": checkpoint.request(), "pipeline": pipeline, "trust": trust}
        )


# From a scenario to files, and to words.


def _written(path: Path, scenario: FirstScenario) -> list[Written]:
    """Write a scenario and its schema; it is read back, so that a mistake is not left behind."""
    done = [write_new(path, scenario.text)]
    try:
        read(path)
    except UsageError:
        path.unlink()
        raise
    schema = write_schema(path.parent, SCHEMA)
    return done if schema.change is Change.KEPT else [*done, schema]


def _tell(done: Sequence[Written]) -> None:
    for each in done:
        say(f"{each.change} {_shown(each.path)}" + (f": {each.what}" if each.what else ""))


def _advise(path: Path, scenario: FirstScenario | None, checkpoint: Checkpoint, root: Path) -> None:
    """Say what is still to be done by hand, and which commands come next."""
    if checkpoint.kind is CheckpointKind.PATH:
        folder = Path(checkpoint.folder)
        if not folder.is_relative_to(root.resolve()):
            say(f"note: {checkpoint.name} lies outside {root}; whoever runs the scenario needs it")
    shown = _shown(path)
    if scenario is not None and scenario.missing:
        say(f"first give values to these arguments in {shown}: {', '.join(scenario.missing)}")
    say(f"next:\n  harness record {shown}\n  harness run {shown}")


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        default=FIRST,
        metavar="PIPELINE_FOLDER|HUB_ID|bundled",
        help=f"{SOURCE} (default: {FIRST}:{FIRST_BUNDLED})",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="of the scenario (default: that of the folder or repository)"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="write that scenarios may name code of this package of yours; may be repeated",
    )
    _add_pipeline(parser)


def _new_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the scenario, and of its file")
    parser.add_argument("source", metavar="PIPELINE_FOLDER|HUB_ID", help=SOURCE)
    _add_pipeline(parser)


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pipeline",
        default="",
        metavar="CLASS",
        help="a class of diffusers, or package.module:Class of a package that the project trusts "
        f"(default: the one that {INDEX} names)",
    )


COMMANDS = (
    Command(
        "init",
        "start to use the harness here: a first scenario, and what belongs beside it",
        "models/faces",
        init,
        _init_options,
    ),
    Command(
        "new",
        "write a scenario of a saved pipeline",
        "faces models/faces",
        new,
        _new_options,
    ),
)
