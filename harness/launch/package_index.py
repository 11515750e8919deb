"""What a package index offers: the releases of a package, their days, and which were withdrawn."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPException
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from harness.errors import UsageError

SIMPLE = "application/vnd.pypi.simple.v1+json"  # the standard page of a package as JSON, by PEP 691
SECONDS = 30.0
DAY = len("2024-09-17")  # characters of a moment that name its day
NO = ("0", "false", "no", "off", "")  # as pip reads a switch
USER_INFO = re.compile(r"://[^/?#\s]*@")
REDACTED = "://****@"

# The user's settings that say where packages come from: pip's by name, and uv's variables.
PIP_SOURCES = ("index_url", "extra_index_url", "find_links", "no_index")
UV_PREFIX = "UV_"
UV_SOURCES = ("INDEX", "LINKS")
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")


@dataclass(frozen=True)
class Release:
    """One release of a package.

    `day` is that of its upload such as `2024-09-17`, empty where the index does not tell; `yanked`
    says that it was withdrawn.
    """

    version: Version
    day: str = ""
    yanked: bool = False

    @property
    def is_withdrawn(self) -> bool:
        """Whether nobody gets it unasked: it was yanked, or is a pre-release."""
        return self.yanked or self.version.is_prerelease


@cache
def releases(package: str) -> tuple[Release, ...]:
    """Return the releases of `package` that this interpreter can install, the oldest first.

    pip names them, by the user's own settings. The index itself is asked for days and withdrawals,
    by its JSON, where it has one.

    Raises:
        UsageError: There is no such package, or no pip and no uv to ask.
    """
    done = _ran([*pip_command(), "index", "versions", "--pre", package])
    listed = _listed_versions(done.stdout)
    if listed is None:
        address = redacted(_root())
        where = f"the package index {address}" if address else "the package index"
        last_line = (done.stderr.strip().splitlines() or ["no versions listed"])[-1]
        raise UsageError(f"no releases of `{package}` in {where}: {redacted(last_line)}")
    uploads = _uploads(package, _root())
    return tuple(
        replace(uploads.get(version, Release(version)), version=version)
        for version in sorted(listed)
    )


def between(package: str, good: str, bad: str, *, withdrawn: bool = False) -> list[str]:
    """Return the versions from `good` to `bad`, both included, the oldest first.

    Args:
        package: Whose releases.
        good: The older end.
        bad: The newer end.
        withdrawn: Whether yanked releases and pre-releases count, too; the ends always do.

    Raises:
        UsageError: An end is no release, or `good` is not older than `bad`.
    """
    found = releases(package)
    try:
        first, last = Version(good), Version(bad)
    except InvalidVersion as error:
        raise UsageError(f"expected versions of {package}, found {error}") from error
    for end in (first, last):
        _check_release(package, end, found)
    if first >= last:
        raise UsageError(f"--good {good} must be older than --bad {bad}")
    return [
        str(release.version)
        for release in found
        if first <= release.version <= last
        and (withdrawn or not release.is_withdrawn or release.version in (first, last))
    ]


def newest(package: str, day: str) -> Release | None:
    """Return the newest release that was uploaded up to `day`; None where the index tells no days.

    Yanked releases and pre-releases do not count.
    """
    fitting = [
        release
        for release in releases(package)
        if release.day and release.day <= day and not release.is_withdrawn
    ]
    return max(fitting, key=_version, default=None)


def set_for_pip() -> bool:
    """Whether the user told pip, and pip alone, where packages come from."""
    if any(_is_source_of_uv(name) for name in os.environ):
        return False
    if any(f"PIP_{name.upper()}" in os.environ for name in PIP_SOURCES):
        return True
    return any(name in PIP_SOURCES for name in _pip_settings())


def redacted(text: str) -> str:
    """Return a text without the user and the password of any address in it."""
    return USER_INFO.sub(REDACTED, text)


def _version(release: Release) -> Version:
    return release.version


def _check_release(package: str, version: Version, known: Iterable[Release]) -> None:
    """Raise UsageError where a version is no known release; it names those of its major number."""
    versions = [release.version for release in known]
    if version in versions:
        return
    near = [str(other) for other in versions if other.release[:1] == version.release[:1]]
    raise UsageError(
        f"{package} {version} is no release that installs here; there are: "
        f"{', '.join(near) or 'none of that number'}"
    )


def _is_source_of_uv(variable: str) -> bool:
    return variable.startswith(UV_PREFIX) and any(word in variable for word in UV_SOURCES)


# What pip says.


def pip_command() -> list[str]:
    """Return the command of pip: this interpreter's own, else the one that uv brings."""
    own = [sys.executable, "-m", "pip"]
    if _ran([*own, "--version"]).returncode and shutil.which("uv"):
        return ["uv", "tool", "run", "pip"]
    return own


def _listed_versions(printed: str) -> set[Version] | None:
    """Return the versions that `pip index versions` printed; None where it lists none."""
    for line in printed.splitlines():
        heading, _, versions = line.partition(":")
        if heading == "Available versions":
            return _versions(versions.split(","))
    return None


def _versions(words: Iterable[str]) -> set[Version]:
    found = set()
    for word in words:
        with suppress(InvalidVersion):  # of a time before PEP 440: no installer takes it
            found.add(Version(word.strip()))
    return found


def _pip_settings() -> dict[str, str]:
    """Return what the user's configuration files set for pip, by names such as `index_url`."""
    found = {}
    for line in _ran([sys.executable, "-m", "pip", "config", "list"]).stdout.splitlines():
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2].lower().replace("-", "_")] = value.strip("'\"")
    return found


def _root() -> str:
    """Return the address of the user's index; empty where it is switched off."""
    settings = _pip_settings()
    switched_off = os.environ.get("PIP_NO_INDEX", settings.get("no_index", "0"))
    if switched_off.lower() not in NO:
        return ""
    for name in INDEX_VARIABLES:
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    return (settings.get("index_url") or _default_of_pip()).rstrip("/")


def _default_of_pip() -> str:
    """Return the index that pip asks where nothing is set, as its own help names it."""
    printed = _ran([sys.executable, "-m", "pip", "download", "--help"]).stdout
    found = re.search(r"--index-url <url>.*?\(default\s+(\S+?)\)", printed, re.DOTALL)
    return found.group(1) if found else ""


def _ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


# What the index says.


def _uploads(package: str, root: str) -> dict[Version, Release]:
    """Return what the index tells of each release, by its version.

    That is its standard page (PEP 700), else the older JSON beside it, else nothing. A release is
    as old as its first file, and withdrawn where all its files are.
    """
    if not root:
        return {}
    try:
        uploaded = list(_uploaded_files(package, root))
    except (AttributeError, KeyError, TypeError, ValueError):  # a page of another form
        return {}
    found: dict[Version, Release] = {}
    for file in uploaded:
        before = found.get(file.version, file)
        day, yanked = min(file.day, before.day), file.yanked and before.yanked
        found[file.version] = Release(file.version, day, yanked)
    return found


def _uploaded_files(package: str, root: str) -> Iterator[Release]:
    """Yield each file of a package as a release of its own."""
    page = _json(f"{root}/{package}/")
    if page is not None:
        yield from _of_standard_page(page)
    elif root.endswith("/simple"):
        older = _json(f"{root.removesuffix('/simple')}/pypi/{package}/json")
        yield from _of_older_json(older or {})


def _of_standard_page(page: dict[str, Any]) -> Iterator[Release]:
    """Yield each file of a package's standard page as a release of its own."""
    for file in page.get("files", []):
        for version in _version_of(file["filename"]):
            yield _uploaded(version, file.get("upload-time"), file.get("yanked"))


def _of_older_json(content: dict[str, Any]) -> Iterator[Release]:
    """Yield each file of a package's older JSON as a release of its own."""
    for text, files in content.get("releases", {}).items():
        for version in _versions([text]):
            for file in files:
                yield _uploaded(version, file.get("upload_time"), file.get("yanked"))


def _uploaded(version: Version, moment: object, yanked: object) -> Release:
    return Release(version, str(moment or "")[:DAY], bool(yanked))


def _version_of(filename: str) -> list[Version]:
    """Return the version that a file's name states; the list is empty where it states none."""
    with suppress(InvalidWheelFilename):
        return [parse_wheel_filename(filename)[1]]
    with suppress(InvalidSdistFilename):
        return [parse_sdist_filename(filename)[1]]
    return []


def _json(address: str) -> dict[str, Any] | None:
    """Return the JSON object at an address; None where there is none, or a page for people."""
    try:
        context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
        request = _request(urlsplit(address))
        with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:  # noqa: S310 (the user's own index)
            found = json.load(answer)
    except (OSError, ValueError, HTTPException):
        return None
    return found if isinstance(found, dict) else None


def _request(address: SplitResult) -> urllib.request.Request:
    """Return the request for a page, with the address's user and password as basic credentials.

    `urllib` takes them for a part of the host's name. They go to that host alone: a redirect to
    another one does not carry them.
    """
    user_info, _, host = address.netloc.rpartition("@")
    bare = urlunsplit(address._replace(netloc=host))
    request = urllib.request.Request(bare, headers={"Accept": SIMPLE})  # noqa: S310 (the user's own index)
    if user_info:
        user, _, password = map(unquote, user_info.partition(":"))
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    return request
