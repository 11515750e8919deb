"""Environments with other package versions, layered on this interpreter's own packages.

Each is built whole or not at all, kept by its content below one cache folder, and shared by all
that ask for the same versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from harness.errors import SandboxError, UsageError
from harness.launch import package_index as index
from harness.launch.environment_lock import locked
from harness.launch.process import INSTALLED
from harness.scenario.fields import Framework
from harness.store.user_folders import cache_root

# Frameworks that do not fit beside today's diffusers: each lives in an environment of its own, with
# pins that are known to work. mindone 0.3 mirrors diffusers 0.32; 0.4 and 0.5 need operators that
# MindSpore's CPU lacks. Source: docs/mindspore.md.
PINS: dict[Framework, tuple[str, ...]] = {
    Framework.MINDSPORE: (
        "mindspore==2.10.0",
        "mindone==0.3.0",
        "numpy==1.26.4",
        "transformers==4.46.3",
        "diffusers==0.32.2",
    ),
}
NOTE = "harness-environment.json"
FORMAT = 1  # part of an environment's key: raise it when environments must be built anew
# They decide bits below the pipelines, and are large: they never move unless they are named.
BASE = ("torch", "numpy", "safetensors")
# What a release uses without saying so in its requirements, and which later version breaks it.
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
BUILDING, LOCK = ".building", ".lock"  # suffixes of what lies beside an environment
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME")  # variables that would lead into this environment
SITES = ("site-packages", "dist-packages")  # folders of installed packages
WINDOWS = os.name == "nt"  # which lets few users make symbolic links
LOG_CHARACTERS = 4000  # of the end of what an installer printed
REASON_CHARACTERS = 300
PIP_ERROR = "ERROR:"

Versions = Mapping[str, str]  # of installed packages, by their canonical names


def cache_folder() -> Path:
    """Return where environments are kept, below the cache of the user."""
    return cache_root() / "environments"


def named(text: str) -> Requirement:
    """Return a requirement that names one version, such as `diffusers==0.30.3`.

    Raises:
        UsageError: The text is something else.
    """
    try:
        found = Requirement(text)
    except InvalidRequirement:
        found = None
    if found is None or not _names_one_version(found):
        raise UsageError(
            f"expected a package with its version, such as `diffusers==0.30.3`, found `{text}`"
        )
    return found


def interpreter(requirements: Sequence[str]) -> Path | None:
    """Return a Python that has `requirements`, and sees everything else that this one sees.

    The environment is built where it is not there. Many callers may ask at once.

    Returns:
        None where this environment has just these versions itself.

    Raises:
        SandboxError: It cannot be built, or what was installed cannot be imported.
        UsageError: A requirement names no version.
    """
    if not requirements:  # reading what is installed takes as long as a small case
        return None
    wanted = [named(text) for text in requirements]
    installed = _installed()
    if _has_all(installed, wanted):
        return None
    folder = _folder(wanted, installed)
    with locked(folder.with_suffix(LOCK)) as descriptors:
        if not folder.is_dir():
            _sweep()
            building = folder.with_suffix(BUILDING)
            try:
                _Build(building, wanted, installed, descriptors).run()
                os.replace(building, folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return _python(folder)


def is_made(requirements: Sequence[str]) -> bool:
    """Whether `interpreter` has nothing to build for `requirements`."""
    wanted = [named(text) for text in requirements]
    installed = _installed()
    return _has_all(installed, wanted) or _folder(wanted, installed).is_dir()


def clear() -> int:
    """Remove every environment that nobody is building, and return how many there were."""
    folders = [folder for folder in sorted(cache_folder().glob("*")) if folder.is_dir()]
    return sum(_remove(folder) for folder in folders)


def reason_of(printed: str) -> str:
    """Return what an installer or an interpreter stumbled over, in one line."""
    lines = [line.strip() for line in printed.strip().splitlines()] or ["no message"]
    errors = [line.removeprefix(PIP_ERROR).strip() for line in lines if line.startswith(PIP_ERROR)]
    return ("; ".join(errors) or lines[-1])[:REASON_CHARACTERS]


def _names_one_version(requirement: Requirement) -> bool:
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==":
        return False
    try:
        Version(specifiers[0].version)
    except InvalidVersion:  # such as `0.30.*`
        return False
    return True


def _has_all(installed: Versions, wanted: Iterable[Requirement]) -> bool:
    """Whether the installed packages are of just the wanted versions."""
    return all(
        requirement.specifier.contains(installed.get(_name(requirement), "0"), prereleases=True)
        for requirement in wanted
    )


def _folder(wanted: Iterable[Requirement], installed: Versions) -> Path:
    """Return where the environment with `wanted` lies, or will lie: its key is its content."""
    facts = [FORMAT, sys.version, sys.prefix, sorted(installed.items()), sorted(map(str, wanted))]
    return cache_folder() / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _python(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if WINDOWS else folder / "bin" / "python"


def _name(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def _installed() -> Versions:
    """Return the versions of the packages that this interpreter sees; the first on its path win.

    Some packages, such as setuptools and ray, carry others along and put them on the path of a
    process that imports them. These are in no other process of this environment, and an
    environment's name must not depend on them.
    """
    return _installed_on(tuple(each for each in sys.path if not _is_carried_along(Path(each))))


@lru_cache(maxsize=1)
def _installed_on(path: tuple[str, ...]) -> Versions:
    """Return the versions of the packages on a path; reading them takes as long as a case."""
    found: dict[str, str] = {}
    for distribution in reversed(list(metadata.distributions(path=list(path)))):
        name = distribution.metadata["Name"]
        if name:
            found[canonicalize_name(name)] = distribution.version
    return found


def _is_carried_along(folder: Path) -> bool:
    """Whether a folder of the path lies inside an installed package."""
    return any(parent.name in SITES for parent in folder.parents)


def _sweep() -> None:
    """Remove what killed builds left."""
    for folder in cache_folder().glob(f"*{BUILDING}"):
        _remove(folder)


def _remove(folder: Path) -> bool:
    """Remove an environment, or what a build left of one; False where it is being built."""
    lock = folder.with_suffix(LOCK)
    try:
        with locked(lock, wait=False):
            leftover = folder.with_suffix(BUILDING)
            if folder != leftover:  # under its own name it must be whole, even if we are killed now
                shutil.rmtree(leftover, ignore_errors=True)
                os.replace(folder, leftover)
            shutil.rmtree(leftover, ignore_errors=True)
            if not WINDOWS:  # where a file that is open cannot be removed
                lock.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    return True


# Building.


@dataclass(frozen=True)
class _Build:
    """An environment in the making.

    `folder` is where it is made, `wanted` what it must have, `installed` what this environment has,
    and `descriptors` those of its lock, which every process that it starts holds too.
    """

    folder: Path
    wanted: Sequence[Requirement]
    installed: Versions
    descriptors: tuple[int, ...]

    def run(self) -> None:
        """Make the environment, and check that it imports.

        Raises:
            SandboxError: Something does not install or import.
        """
        started = time.perf_counter()
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.EnvBuilder(symlinks=not WINDOWS).create(self.folder)
        self._show_packages_behind()
        asked = [*map(str, self.wanted), *_companions(self.wanted, self.installed)]
        self._start([*_installer(_python(self.folder), self.folder, self._fixed()), *asked])
        modules = [requirement.name.replace("-", "_") for requirement in self.wanted]
        self._start([str(_python(self.folder)), "-c", IMPORTS, *CHECKED, *modules])
        note = {"requirements": asked, "seconds": round(time.perf_counter() - started, 1)}
        (self.folder / NOTE).write_text(json.dumps(note), encoding="utf-8")

    def _show_packages_behind(self) -> None:
        """Let the environment see this interpreter's packages, behind its own."""
        base = str(self.folder)
        paths = {"base": base, "platbase": base}
        own = Path(sysconfig.get_path("purelib", "venv", paths))
        behind = dict.fromkeys(path for path in sys.path if Path(path).name in INSTALLED)
        lines = [f"import site; site.addsitedir({path!r})\n" for path in behind]
        (own / "behind.pth").write_text("".join(lines), encoding="utf-8")

    def _fixed(self) -> Versions:
        """Return the packages that must stay as they are here, with their versions."""
        names = {_name(requirement) for requirement in self.wanted}
        kept = [name for name in BASE if name in self.installed and name not in names]
        return {name: self.installed[name] for name in kept}

    def _start(self, command: Sequence[str]) -> None:
        """Run an installer or an interpreter to its end, which holds the lock, too."""
        environment = {
            name: value for name, value in os.environ.items() if name not in NOT_INHERITED
        }
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            pass_fds=self.descriptors,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            printed = index.redacted(done.stderr)
            asked = [str(requirement) for requirement in self.wanted]
            raise SandboxError(asked, reason_of(printed), printed[-LOG_CHARACTERS:])


def _companions(wanted: Sequence[Requirement], installed: Versions) -> list[str]:
    """Return requirements that hold back the companions of the first package.

    Those that are newer than its release are held to the newest version of that day; one that a
    package of today needs newer than that, to what that package asks of it.
    """
    first = wanted[0]
    names = {_name(requirement) for requirement in wanted}
    here = [
        companion
        for companion in COMPANIONS.get(_name(first), ())
        if companion in installed and companion not in names
    ]
    day = _day_of(first) if here else ""
    if not day:
        return []
    users = [package for package in CHECKED if package in installed and package not in names]
    held = []
    for companion in here:
        fit = index.newest(companion, day)
        if fit is not None and fit.version < Version(installed[companion]):
            needed = _needed(companion, users)
            versions = f"<={fit.version}" if needed.contains(fit.version) else str(needed)
            held.append(f"{companion}{versions}")
    return held


def _day_of(requirement: Requirement) -> str:
    """Return the day on which a release was uploaded; empty where the index does not tell."""
    for release in index.releases(requirement.name):
        if requirement.specifier.contains(release.version, prereleases=True):
            return release.day
    return ""


def _needed(name: str, by: Iterable[str]) -> SpecifierSet:
    """Return the versions of a package that the installed packages `by` ask for."""
    asked = SpecifierSet()
    for package in by:
        for text in metadata.requires(package) or ():
            requirement = Requirement(text)
            if _name(requirement) == name and _applies(requirement):
                asked &= requirement.specifier
    return asked


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement holds here, where no extra was asked for."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _installer(python: Path, folder: Path, fixed: Versions) -> list[str]:
    """Return the command that installs into `python`'s environment.

    It is uv's; or pip's, where uv is absent or pip alone knows an index. pip sees the packages
    behind the environment's own, and is told to keep `fixed`. uv does not see them, and is told to
    leave `fixed` out.
    """
    uv = shutil.which("uv")
    listed = folder / "fixed.txt"
    if uv and not index.set_for_pip():
        left_out = [f"{name} ; python_version < '0'\n" for name in fixed]
        listed.write_text("".join(left_out), encoding="utf-8")
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        return [*install, "--override", str(listed)]
    kept = [f"{name}=={version}\n" for name, version in fixed.items()]
    listed.write_text("".join(kept), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    return [*pip, "--quiet", "--no-compile", "--constraint", str(listed)]
