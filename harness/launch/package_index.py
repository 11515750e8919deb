"""What a package index offers: the releases of a package, with the day of each and whether it was withdrawn."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from harness.errors import UsageError

SIMPLE = "application/vnd.pypi.simple.v1+json"
SECONDS = 30.0


@dataclass(frozen=True)
class Release:
    """One release: its version, the day of its upload (`2024-09-17`, or empty where the index is silent), and if it was yanked."""

    version: Version
    day: str = ""
    yanked: bool = False


@cache
def releases(package: str) -> tuple[Release, ...]:
    """Return the releases of `package` that this interpreter can install, oldest first, by the user's own index settings.

    pip names them; the index itself is asked for days and withdrawals, by its JSON, where it has one.

    Raises:
        UsageError: There is no such package, or no pip and no uv to ask.
    """
    pip = [sys.executable, "-m", "pip"]
    if _ran([*pip, "--version"]).returncode and shutil.which("uv"):
        pip = ["uv", "tool", "run", "pip"]
    done = _ran([*pip, "index", "versions", "--pre", package])
    listed = [
        line.partition(":")[2]
        for line in done.stdout.splitlines()
        if line.startswith("Available versions:")
    ]
    if not listed:
        last = (done.stderr.strip().splitlines() or ["no versions listed"])[-1]
        raise UsageError(f"no releases of `{package}` in the package index: {last}")
    facts = _facts(package, _root())
    versions = sorted(_versions(listed[0].split(",")))
    return tuple(Release(version, *facts.get(version, ("", False))) for version in versions)


def between(package: str, good: str, bad: str, *, withdrawn: bool = False) -> list[str]:
    """Return the versions from `good` to `bad`, both included; without yanked and pre-releases unless `withdrawn`.

    Raises:
        UsageError: An end is no release, or `good` is not older than `bad`.
    """
    found = releases(package)
    known = {release.version for release in found}
    try:
        first, last = Version(good), Version(bad)
    except InvalidVersion as error:
        raise UsageError(f"expected versions of {package}, found {error}") from error
    for end in (first, last):
        if end not in known:
            near = ", ".join(str(v) for v in sorted(known) if v.release[:1] == end.release[:1])
            raise UsageError(
                f"{package} {end} is no release that installs here; there are: {near or 'none of that number'}"
            )
    if first >= last:
        raise UsageError(f"--good {good} must be older than --bad {bad}")
    return [
        str(release.version)
        for release in found
        if first <= release.version <= last
        and (
            withdrawn
            or release.version in (first, last)
            or not (release.yanked or release.version.is_prerelease)
        )
    ]


def newest(package: str, day: str) -> Release | None:
    """Return the newest release, neither yanked nor a pre-release, uploaded up to `day`; None where the index tells no days."""
    fits = [
        r
        for r in releases(package)
        if r.day and r.day <= day and not r.yanked and not r.version.is_prerelease
    ]
    return max(fits, key=lambda release: release.version, default=None)


def _versions(words: Iterable[str]) -> set[Version]:
    found = set()
    for word in words:
        with suppress(InvalidVersion):  # of a time before PEP 440: no installer takes it
            found.add(Version(word.strip()))
    return found


def _root() -> str:
    """Return the address of the user's index, or nothing where it is switched off."""
    settings = {key.lower().replace("-", "_"): value for key, value in _pip_settings()}
    if os.environ.get("PIP_NO_INDEX", settings.get("no_index", "0")).lower() not in (
        "0",
        "false",
        "no",
        "off",
        "",
    ):
        return ""
    named = (os.environ.get(name) for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"))
    return (next(filter(None, named), "") or settings.get("index_url") or _default_of_pip()).rstrip(
        "/"
    )


def _default_of_pip() -> str:
    """Return the index that pip asks when nothing is set, as its own help names it."""
    found = re.search(
        r"--index-url <url>.*?\(default\s+(\S+?)\)",
        _ran([sys.executable, "-m", "pip", "download", "--help"]).stdout,
        re.DOTALL,
    )
    return found.group(1) if found else ""


def set_for_pip() -> bool:
    """Return whether the user told pip, and pip alone, where to look."""
    names = ("index_url", "extra_index_url", "find_links", "no_index")
    for_pip = any(f"PIP_{name.upper()}" in os.environ for name in names) or any(
        key.replace("-", "_") in names for key, _ in _pip_settings()
    )
    return for_pip and not any(
        name.startswith("UV_") and ("INDEX" in name or "LINKS" in name) for name in os.environ
    )


def _pip_settings() -> list[tuple[str, str]]:
    lines = _ran([sys.executable, "-m", "pip", "config", "list"]).stdout.splitlines()
    pairs = (line.partition("=") for line in lines)
    return [(key.rpartition(".")[2], value.strip("'\"")) for key, _, value in pairs]


def _facts(package: str, root: str) -> dict[Version, tuple[str, bool]]:
    """Return day and withdrawal by version: from the standard page (PEP 700), else from the older JSON beside it, else nothing."""
    content = _json(f"{root}/{package}/") if root else None
    if content is None and root.endswith("/simple"):
        content = _json(f"{root.removesuffix('/simple')}/pypi/{package}/json")
    files: list[tuple[str, dict[str, Any]]] = []
    if content and "releases" in content:
        files = [
            (version, file)
            for version, uploaded in content["releases"].items()
            for file in uploaded
        ]
    elif content:
        files = [(_version_of(file["filename"]), file) for file in content.get("files", [])]
    found: dict[Version, tuple[str, bool]] = {}
    for text, file in files:
        for version in _versions([text]):
            day, yanked = (
                str(file.get("upload-time") or file.get("upload_time") or "")[:10],
                bool(file.get("yanked")),
            )
            before = found.get(version, (day, yanked))
            found[version] = (min(day, before[0]), yanked and before[1])
    return found


def _version_of(filename: str) -> str:
    with suppress(InvalidWheelFilename):
        return str(parse_wheel_filename(filename)[1])
    with suppress(InvalidSdistFilename):
        return str(parse_sdist_filename(filename)[1])
    return ""


def _json(address: str) -> dict[str, Any] | None:
    request = urllib.request.Request(address, headers={"Accept": SIMPLE})  # noqa: S310 (the user's own index)
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:  # noqa: S310
            found = json.load(answer)
    except (OSError, ValueError):  # no such page, or one for people
        return None
    return found if isinstance(found, dict) else None


def _ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
