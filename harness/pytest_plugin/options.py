"""The options of the pytest plugin: what each means, and where its value comes from.

An option of the command line comes first, then the ini key of the same name, then `[tool.harness]`
of the project's `pyproject.toml`. This module imports nothing of the harness at load time, because
pytest loads it in every project of the environment that the harness is installed in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.pytest_plugin.running import Running
    from harness.scenario.project import Project

PREFIX = "--harness-"
PROJECT_FILE = "pyproject.toml"
ANY = "any"  # as a device: every one
TABLE = b"[tool.harness"  # what a project file of the harness holds
FALSE = ("", "0", "false", "no")  # values of the variable `CI` that mean no

TEXTS = {  # options with a value: its placeholder, the default, and what the option is for
    "baselines": ("DIR", "", "the store: a folder, or an fsspec URL (default: baselines)"),
    "out": ("DIR", "", "this run: a folder, or an fsspec URL (default: runs/ and the time)"),
    "history": ("DIR", "", "history that outcomes are added to: a folder, or an fsspec URL"),
    "device": ("DEVICE", "", "only cases on this device, such as cpu"),
    "profile": ("PROFILE", "", "which CPU instructions all cases may use: native or portable"),
    "failed-from": ("RUN", "", "only cases of scenarios that failed in this run"),
    "reason": ("TEXT", "", "why baselines are replaced; kept in each of them"),
}
SWITCHES = {
    "strict": "cases that cannot run here fail",
    "accuracy": "evaluate every case that moved in float64: did it become less accurate?",
    "update": "write the baselines that are missing, and no other",
    "accept": "replace the baselines of checks that fail; needs --harness-reason",
    "prune": "remove the baselines that belong to no case, where all cases ran and passed",
}
WRITING = ("update", "accept", "prune")
USUAL_FOLDERS = ("baselines", "runs")  # of a project that names none
# Nobody writes baselines by habit, or chooses past failures for good.
ONLY_ON_THE_COMMAND_LINE = ("reason", "failed-from", *WRITING)
SCENARIOS_HELP = "folders whose YAML files are scenarios (default: those of [tool.harness])"

# There where anything of the harness ran in this process.
RUNNING: pytest.StashKey[Running] = pytest.StashKey()
_PROJECT: pytest.StashKey[Project | None] = pytest.StashKey()


def add_to(parser: pytest.Parser) -> None:
    """Add every option, and the ini keys of those that a project may set for good."""
    group = parser.getgroup("harness", "reproducibility of diffusion pipelines")
    for name, (placeholder, default, text) in TEXTS.items():
        has_key = name not in ONLY_ON_THE_COMMAND_LINE
        key = f"; ini key harness_{name}" if has_key else ""
        group.addoption(f"{PREFIX}{name}", metavar=placeholder, help=text + key)
        if has_key:
            parser.addini(f"harness_{name}", help=text, default=default)
    for name, text in SWITCHES.items():
        has_key = name not in ONLY_ON_THE_COMMAND_LINE
        key = f"; ini key harness_{name}" if has_key else ""
        group.addoption(f"{PREFIX}{name}", action="store_true", help=text + key)
        if has_key:
            parser.addini(f"harness_{name}", type="bool", default=False, help=text)
    parser.addini("harness_scenarios", type="paths", default=[], help=SCENARIOS_HELP)


def check(config: pytest.Config) -> None:
    """Refuse options that contradict each other, and a project's table with a mistake.

    Raises:
        pytest.UsageError: Baselines would be written by a CI, or replaced without a reason; a
            device or profile is unknown; or `[tool.harness]` is malformed.
    """
    project_of(config)
    writing = [name for name in WRITING if config.getoption(PREFIX + name)]
    if writing and os.environ.get("CI", "").lower() not in FALSE:
        raise pytest.UsageError(
            f"{PREFIX}{writing[0]} writes baselines, and a job of a CI (the variable CI is set) "
            "never does; run it on a machine of your own, or use `harness accept` on the "
            "artefacts of the job"
        )
    has_reason = bool((config.getoption(f"{PREFIX}reason") or "").strip())
    if "accept" in writing and not has_reason:
        raise pytest.UsageError(
            f"{PREFIX}accept needs {PREFIX}reason TEXT: why the new outputs are right, for "
            "whoever reviews the baselines"
        )
    for name in ("device", "profile"):
        _refuse_unknown(config, name)


def _refuse_unknown(config: pytest.Config, name: str) -> None:
    """Refuse a device or profile that does not exist: no case would have it."""
    given = text(config, name)
    if not given:
        return
    from harness.records import Device
    from harness.scenario.fields import Profile

    known = [ANY, *Device] if name == "device" else [*Profile]
    if given not in known:
        raise pytest.UsageError(
            f"{PREFIX}{name}: expected one of {', '.join(map(str, known))}, found {given}"
        )


def text(config: pytest.Config, name: str) -> str:
    """Return the value of an option; empty where it has none.

    A folder in the ini file is relative to pytest's root folder, as one of `[tool.harness]` is to
    the project's.
    """
    given = config.getoption(PREFIX + name)
    if given or name in ONLY_ON_THE_COMMAND_LINE:
        return str(given or "")
    placeholder, _, _ = TEXTS[name]
    in_ini = str(config.getini(f"harness_{name}")) or _of_project(config, name)
    if placeholder != "DIR" or not in_ini or "://" in in_ini:
        return in_ini
    return str(config.rootpath / in_ini)


def _of_project(config: pytest.Config, name: str) -> str:
    """Return what `[tool.harness]` says for an option; of folders, else the usual ones."""
    project = project_of(config)
    usual = name if name in USUAL_FOLDERS else ""
    if project is None:
        return usual
    if name in project.defaults._fields:
        return str(getattr(project.defaults, name) or "")
    named = getattr(project.places, name, "") or usual
    return named if not named or "://" in named else str(project.root / named)


def runs(config: pytest.Config) -> str:
    """Return where the folders of new runs go."""
    return _of_project(config, "runs")


def switch(config: pytest.Config, name: str) -> bool:
    """Return whether a switch is on: by its option, its ini key, or the project."""
    if config.getoption(PREFIX + name):
        return True
    if name in ONLY_ON_THE_COMMAND_LINE:
        return False
    return bool(config.getini(f"harness_{name}") or _of_project(config, name))


def scenario_folders(config: pytest.Config) -> list[Path]:
    """Return the folders whose YAML files are scenarios: of the ini key, or of the project.

    Raises:
        UsageError: The project's `[tool.harness]` is malformed.
    """
    named = config.getini("harness_scenarios")
    if named:
        return [Path(folder) for folder in named]
    project = project_of(config)
    return [] if project is None else [project.root / folder for folder in project.scenarios]


def project_of(config: pytest.Config) -> Project | None:
    """Return the project that pytest's root folder lies in; None where there is none.

    Raises:
        UsageError: The project's `[tool.harness]` is malformed.
    """
    if _PROJECT not in config.stash:
        config.stash[_PROJECT] = _find_project(config.rootpath)
    return config.stash[_PROJECT]


def _find_project(root: Path) -> Project | None:
    """Look for the project; without loading a module where no file can be one."""
    files = (folder / PROJECT_FILE for folder in (root, *root.parents))
    if not any(_may_be_project(file) for file in files):
        return None
    from harness.errors import HarnessError
    from harness.report.safe_text import safe_lines
    from harness.scenario.project import project_of as find

    try:
        return find(root / PROJECT_FILE)
    except HarnessError as error:
        raise pytest.UsageError(safe_lines(str(error))) from None


def _may_be_project(file: Path) -> bool:
    try:
        return TABLE in file.read_bytes()
    except OSError:
        return False
