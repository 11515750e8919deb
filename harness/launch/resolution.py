"""Which versions a set of requirements stands for, on top of the packages that are installed here.

pip resolves them and installs nothing: it reports what it would install (`pip install --dry-run
--report`, a format of the Python Packaging User Guide).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from harness.errors import UsageError
from harness.launch.package_index import pip_command, redacted
from harness.launch.requirement_files import Requested
from harness.launch.sandbox import BASE, NOT_INHERITED, reason_of


@dataclass(frozen=True)
class Package:
    """One release of a package, and all that its metadata says that it requires."""

    name: str
    version: str
    requires: tuple[Requirement, ...] = ()

    def needs(self, extras: Iterable[str] = ()) -> Iterator[Requirement]:
        """Yield what it requires in this interpreter, with some of its extras."""
        asked = ["", *extras]
        for requirement in self.requires:
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in asked):
                yield requirement


Packages = Mapping[str, Package]  # by their canonical names


def installed_packages() -> dict[str, Package]:
    """Return the packages that this interpreter sees; the first on its path win."""
    found: dict[str, Package] = {}
    for distribution in metadata.distributions():
        text = distribution.metadata["Name"]
        name = canonicalize_name(text) if text else ""
        if name and name not in found:
            found[name] = _package(name, distribution.version, distribution.requires or ())
    return found


def resolve(asked: Sequence[Requested], installed: Packages, file: Path) -> dict[str, Package]:
    """Return the packages that would be installed anew to meet what a file asks for.

    An installed package that meets the file stays. So do torch, numpy and safetensors, unless the
    file names them.

    Raises:
        UsageError: No versions meet all that is asked for, or there is no pip.
    """
    names = {each.name for each in asked}
    fixed = [
        f"{name}=={installed[name].version}"
        for name in BASE
        if name in installed and name not in names
    ]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "fixed.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join(fixed), encoding="utf-8")
        command = [*pip_command(), "--python", sys.executable, "install", "--dry-run", "--quiet"]
        options = ["--report", str(report), "--constraint", str(constraints)]
        done = subprocess.run(
            [*command, *options, *(str(each.requirement) for each in asked)],
            capture_output=True,
            text=True,
            check=False,
            env={name: text for name, text in os.environ.items() if name not in NOT_INHERITED},
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            reason = reason_of(redacted(done.stderr))
            raise UsageError(f"{file}: no versions meet all that it asks for: {reason}")
        content = json.loads(report.read_text(encoding="utf-8"))
    return {package.name: package for package in _reported(content)}


def _reported(content: dict[str, Any]) -> Iterator[Package]:
    """Yield the packages of pip's report."""
    for item in content["install"]:
        about = item["metadata"]
        name = canonicalize_name(about["name"])
        yield _package(name, about["version"], about.get("requires_dist", ()))


def _package(name: str, version: str, requires: Iterable[str]) -> Package:
    return Package(name, version, tuple(_readable(requires)))


def _readable(texts: Iterable[str]) -> Iterator[Requirement]:
    """Yield requirements; one of a time before PEP 508 binds no installer of today."""
    for text in texts:
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue
