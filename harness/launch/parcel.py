"""What a case needs of this machine's disk: the files that go to a node, and where they lie there.

Files go under a folder of the node's own, at the path that they have here. What the package itself
holds is not sent: the node has the package. A checkpoint outside the scenario's repository is not
sent either: it must lie on the node at the same path.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

from harness.scenario.inputs import files_named
from harness.scenario.located_yaml import repository_of
from harness.scenario.weights import DATA
from harness.worker.protocol import CaseRequest, CheckpointSource, RunRequest

PACKAGE = DATA.parent.resolve()
LEFT_OUT = ("__pycache__", ".git")  # folders of a project that no case reads


def files_for(request: RunRequest) -> list[Path]:
    """Return the files that a case needs and a node may lack, as absolute paths, each once."""
    case = request["case"]
    folder = Path(case["inputs_folder"])
    found: list[Path] = []
    if case["teacher_tensors"]:
        found.append(Path(case["teacher_tensors"]))
    calls = [case["call"], *case.get("before", {}).values()]
    for name in files_named([value for call in calls for value in call.values()]):
        found += _below(_plain(folder / name))
    repository = repository_of(folder / "scenario.yaml")
    for source in _sources(case):
        place = _plain(Path(source.get("folder", "")))
        is_ours = place.is_relative_to(repository) and not place.is_relative_to(PACKAGE)
        if source.get("folder") and is_ours:
            found += _below(place)
    trust = case.get("trust")
    for package in trust["packages"] if trust else ():
        root = Path(trust["root"]) if trust else Path()
        found += [*_below(root / package), *_below(root / f"{package}.py")]
    return list(dict.fromkeys(found))


def relocated(request: RunRequest, out: Path, package: Path, mirror: Path) -> RunRequest:
    """Return a request as it is on a node.

    Args:
        request: As the caller made it, on another machine.
        out: Where the recording goes on this node.
        package: Where the package of the harness lies on the caller's machine.
        mirror: The folder under which files that were sent lie at their own paths.
    """
    case = copy.deepcopy(request["case"])
    for source in _sources(case):
        if source.get("folder"):
            source["folder"] = _here(source["folder"], package, mirror)
    if case["teacher_tensors"]:
        case["teacher_tensors"] = _here(case["teacher_tensors"], package, mirror)
    if "trust" in case:
        case["trust"]["root"] = _here(case["trust"]["root"], package, mirror)
    inputs = mirrored(mirror, Path(case["inputs_folder"]))
    inputs.mkdir(parents=True, exist_ok=True)  # paths of inputs may go up from it
    case["inputs_folder"] = str(inputs)
    return {**request, "case": case, "out": str(out)}


def mirrored(mirror: Path, path: Path) -> Path:
    """Return where a file that was sent lies below `mirror`."""
    return mirror / _plain(path).relative_to("/")


def _here(path: str, package: Path, mirror: Path) -> str:
    place = Path(path)
    if place.is_relative_to(package):
        return str(PACKAGE / place.relative_to(package))
    sent = mirrored(mirror, place)
    return str(sent) if sent.exists() else path


def _plain(path: Path) -> Path:
    """Return an absolute path without `..`; links stay, because their names are what is read."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (`absolute` keeps `..`, `resolve` no link)


def _below(path: Path) -> list[Path]:
    """Return a file itself, or every file below a folder; nothing where there is neither."""
    if path.is_file():
        return [path]
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not set(file.relative_to(path).parts) & set(LEFT_OUT)
    ]


def _sources(case: CaseRequest) -> Iterator[CheckpointSource]:
    """Yield everything in a case that says where weights come from."""
    yield case["checkpoint"]
    for parts in case.get("components", {}).values():
        yield from parts
    for adapter in case.get("adapters", ()):
        yield adapter["source"]
