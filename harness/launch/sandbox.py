"""Environments with other package versions: layered on this interpreter's own, built whole or not at all, kept by content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.errors import SandboxError, UsageError
from harness.launch import package_index as index
from harness.launch.process import INSTALLED

# Frameworks that do not fit beside today's diffusers: each lives in an environment of its own, with pins known to work.
# mindone 0.3 mirrors diffusers 0.32; 0.4 and 0.5 need operators that MindSpore's CPU lacks. Source: docs/mindspore.md.
PINS = {
    "mindspore": (
        "mindspore==2.10.0",
        "mindone==0.3.0",
        "numpy==1.26.4",
        "transformers==4.46.3",
        "diffusers==0.32.2",
    ),
}
NOTE = "harness-environment.json"
FORMAT = 1  # part of the key: raise it when environments must be built anew
BASE = (
    "torch",
    "numpy",
    "safetensors",
)  # they decide bits below the pipelines, and are large: never moved unless named
# What a release uses without saying, in its requirements, which later version breaks it.
COMPANIONS = {
    "diffusers": ("transformers", "huggingface-hub", "accelerate", "peft"),
    "transformers": ("huggingface-hub", "accelerate", "peft"),
}
CHECKED = ("torch", "diffusers")  # must import in every environment, beside what was asked for
IMPORTS = """
import importlib, importlib.util, sys
for name in sys.argv[1:]:
    if importlib.util.find_spec(name):
        importlib.import_module(name)
"""


def cache_folder() -> Path:
    """Return where environments are kept: under HARNESS_CACHE, else `~/.cache/harness`."""
    return (
        Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness") / "environments"
    )


def named(text: str) -> Requirement:
    """Return a requirement such as `diffusers==0.30.3`.

    Raises:
        UsageError: It is something else than a package with one version.
    """
    try:
        found = Requirement(text)
        (specifier,) = found.specifier
        Version(specifier.version)
    except (InvalidRequirement, ValueError):
        specifier = None
    if specifier is None or specifier.operator != "==":
        raise UsageError(
            f"expected a package with its version, such as `diffusers==0.30.3`, found `{text}`"
        )
    return found


def interpreter(requirements: Sequence[str]) -> Path | None:
    """Return a Python that sees `requirements` and, behind them, everything that this one sees; builds it where needed.

    None where this environment has just these versions itself. Safe for many callers at once.

    Raises:
        SandboxError: It cannot be built, or what was installed cannot be imported.
        UsageError: A requirement names no version.
    """
    if (
        not requirements
    ):  # nothing to look up: reading what is installed takes as long as a small case
        return None
    wanted, installed = [named(text) for text in requirements], _installed()
    folder = _folder(wanted, installed)
    if folder is None:
        return None
    with _locked(folder) as lock:
        if not folder.is_dir():
            _sweep()
            building = folder.with_suffix(".building")
            try:
                _build(building, wanted, installed, lock)
                os.replace(building, folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return folder / "bin" / "python"


def is_made(requirements: Sequence[str]) -> bool:
    """Whether `interpreter` has nothing to build for `requirements`."""
    folder = _folder([named(text) for text in requirements], _installed())
    return folder is None or folder.is_dir()


def _folder(wanted: Sequence[Requirement], installed: Mapping[str, str]) -> Path | None:
    """Return where the environment with `wanted` lies or will lie; None where this one has just these versions."""
    if all(
        w.specifier.contains(installed.get(canonicalize_name(w.name), "0"), prereleases=True)
        for w in wanted
    ):
        return None
    facts = [FORMAT, sys.version, sys.prefix, sorted(installed.items()), sorted(map(str, wanted))]
    return cache_folder() / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def clear() -> int:
    """Remove every environment that nobody is building, and return their number."""
    return sum(_remove(folder) for folder in sorted(cache_folder().glob("*")) if folder.is_dir())


def _sweep() -> None:
    """Remove what builds left that were killed."""
    for folder in cache_folder().glob("*.building"):
        _remove(folder)


def _remove(folder: Path) -> bool:
    try:
        with _locked(folder.with_suffix(""), wait=False):
            leftover = folder.with_suffix(".building")
            if folder != leftover:  # under its own name it must be whole, even if we are killed now
                shutil.rmtree(leftover, ignore_errors=True)
                os.replace(folder, leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock of an environment; yields its descriptor, which an installer inherits, so that it holds it too."""
    path = folder.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(
                os.fstat(file.fileno()), path.stat()
            ):  # else: removed while we waited
                yield file.fileno()
                return


def _installed() -> dict[str, str]:
    return {
        canonicalize_name(d.metadata["Name"]): d.version
        for d in reversed(list(metadata.distributions()))
        if d.metadata["Name"]
    }


def _companions(wanted: Sequence[Requirement], installed: Mapping[str, str]) -> list[str]:
    """Return the companions newer than the first package's release, each held to the newest version of that day.

    One that a package of today needs newer than that is held to what that package asks of it.
    """
    first, names = wanted[0], {canonicalize_name(requirement.name) for requirement in wanted}
    here = [
        c
        for c in COMPANIONS.get(canonicalize_name(first.name), ())
        if c in installed and c not in names
    ]
    if not here:
        return []
    days = [
        release.day
        for release in index.releases(first.name)
        if first.specifier.contains(release.version, prereleases=True)
    ]
    fits = {companion: index.newest(companion, days[0]) for companion in here if days and days[0]}
    held = []
    for name, fit in fits.items():
        if fit and fit.version < Version(installed[name]):
            needed = _needed(
                name,
                [package for package in CHECKED if package in installed and package not in names],
            )
            held.append(
                f"{name}<={fit.version}" if needed.contains(fit.version) else f"{name}{needed}"
            )
    return held


def _needed(name: str, by: Sequence[str]) -> SpecifierSet:
    """Return the versions of a package that installed packages ask for."""
    asked = SpecifierSet()
    for requirement in (
        Requirement(text) for package in by for text in metadata.requires(package) or ()
    ):
        if canonicalize_name(requirement.name) == name and (
            requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ):
            asked &= requirement.specifier
    return asked


def _build(
    folder: Path, wanted: Sequence[Requirement], installed: Mapping[str, str], lock: int
) -> None:
    """Make a virtual environment in `folder`, with the caller's packages behind its own, and check that it imports."""
    started, texts = time.perf_counter(), [str(requirement) for requirement in wanted]
    shutil.rmtree(folder, ignore_errors=True)
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    own = Path(
        sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    )
    behind = dict.fromkeys(path for path in sys.path if Path(path).name in INSTALLED)
    lines = [f"import site; site.addsitedir({path!r})\n" for path in behind]
    (own / "behind.pth").write_text("".join(lines), encoding="utf-8")
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    fixed = {name: installed[name] for name in BASE if name in installed and name not in names}
    asked = [*texts, *_companions(wanted, installed)]
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")
    }

    def run(command: Sequence[str]) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise SandboxError(texts, _reason(done.stderr), done.stderr[-4000:])

    run([*_installer(python, folder, fixed), *asked])
    run(
        [
            str(python),
            "-c",
            IMPORTS,
            *CHECKED,
            *(requirement.name.replace("-", "_") for requirement in wanted),
        ]
    )
    note = {"requirements": asked, "seconds": round(time.perf_counter() - started, 1)}
    (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")


def _installer(python: Path, folder: Path, fixed: Mapping[str, str]) -> list[str]:
    """Return the command that installs into `python`'s environment: uv, or pip where uv is absent or pip alone knows an index.

    pip sees the packages behind and keeps them; uv does not, so that it is told to leave `fixed` out.
    """
    uv, list_of_fixed = shutil.which("uv"), folder / "fixed.txt"
    if uv and not index.set_for_pip():
        list_of_fixed.write_text(
            "".join(f"{name} ; python_version < '0'\n" for name in fixed), encoding="utf-8"
        )
        return [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            "--override",
            str(list_of_fixed),
        ]
    list_of_fixed.write_text(
        "".join(f"{name}=={version}\n" for name, version in fixed.items()), encoding="utf-8"
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    return [*pip, "--quiet", "--no-compile", "--constraint", str(list_of_fixed)]


def _reason(text: str) -> str:
    """Return what an installer or an interpreter says it stumbled over, in one line."""
    lines = [line.strip() for line in text.strip().splitlines()] or ["no message"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return "; ".join(errors)[:300] if errors else lines[-1][:300]
