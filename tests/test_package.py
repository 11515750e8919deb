"""The wheel and the sdist: what is in them, and what a new environment can do with the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from first_drift import FirstDrift

import harness

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "harness" / "data"
MOST_SECONDS = 120


def in_git(*folders: str) -> set[str]:
    """Return the files below folders of the repository that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@dataclass(frozen=True)
class Built:
    """What a build left."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both by the backend that is installed here, the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment that has the wheel, and sees its dependencies.

    They are those of this environment, by one line in a `.pth` file: to install torch anew takes
    minutes. The job `wheel` of the workflow `test.yml` does without, and installs everything.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.EnvBuilder(symlinks=os.name != "nt").create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    quiet = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, *quiet, str(built.wheel)], check=True)
    base = str(folder)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": base, "platbase": base}))
    (own / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(built: Built):
    """Checkpoints, schemas and templates are among them; its metadata names command and plugin."""
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
        points = next(name for name in names if name.endswith(".dist-info/entry_points.txt"))
        text = wheel.read(points).decode()
    assert {name for name in names if name.startswith("harness/")} == in_git("harness")
    others = {name.partition("/")[0] for name in names if not name.startswith("harness/")}
    assert others == {f"diffusion_harness-{harness.__version__}.dist-info"}
    assert "harness = harness.commands.main:main" in text
    assert "harness = harness.pytest_plugin.plugin" in text
    for needed in ("*.schema.json", "html/*.j2", "bundled/*/unet/*.safetensors", "project/*"):
        found = [path.relative_to(ROOT).as_posix() for path in DATA.glob(needed)]
        assert found, needed
        assert names.issuperset(found), needed


def test_the_sdist_holds_the_repository_without_baselines_and_runs(built: Built):
    """Whoever builds from it can run the tests; baselines are of the machines of this project."""
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()} - {"PKG-INFO"}
    kept = {name for name in in_git(".") if not name.startswith(("baselines/", "runs/"))}
    assert names == kept


def started(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_installed_wheel_lists_and_runs_cases_by_command_and_by_plugin(
    installed: Path, tmp_path: Path
):
    """The package that answers is the installed one; its bundled weights come with it."""
    where = started(installed, tmp_path, "-c", "import harness; print(harness.__file__)").stdout
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    started(installed, tmp_path, "-m", "harness", "init")
    listed = started(installed, tmp_path, "-m", "harness", "list")
    assert "digits-ddpm[cpu-float32]" in listed.stdout, listed.stderr
    assert started(installed, tmp_path, "-m", "harness", "record").returncode == 0
    command = installed.with_name("harness.exe" if os.name == "nt" else "harness")
    run = subprocess.run([str(command), "run"], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert b"1 case: 1 identical" in run.stdout
    tested = started(installed, tmp_path, "-m", "pytest")
    assert "1 passed" in tested.stdout, tested.stdout + tested.stderr


@pytest.mark.slow
def test_the_first_drift_is_explained_and_accepted(installed: Path, tmp_path: Path):
    """From an empty folder, within two minutes of a processor, whatever else the machine does.

    The wall time is in docs/measurements/first-drift.md; the job `wheel` of CI bounds it.
    """
    walked = FirstDrift(tmp_path / "shop", installed)
    walked.walk()
    assert sum(walked.processor_seconds.values()) < MOST_SECONDS, walked.table()
