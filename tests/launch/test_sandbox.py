"""Environments with other package versions: layered, whole or absent, kept, shared, removable.

No test needs a network.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from wheels import only_from, write_wheel

from harness.errors import SandboxError, UsageError
from harness.launch import package_index as index
from harness.launch import sandbox
from harness.launch.environment_lock import locked
from harness.launch.package_index import Release
from harness.launch.sandbox import interpreter

# Says that it is being imported, then waits for leave.
WAITS = """\
import os, time
from pathlib import Path
folder = Path({folder!r})
with (folder / "imported").open("a") as file:
    file.write("once ")
while not (folder / "leave").exists():
    time.sleep(0.01)
"""
BUILD = (
    "from harness.launch import sandbox; sandbox.CHECKED = (); sandbox.interpreter(['wobble==1.0'])"
)


@pytest.fixture
def links(tmp_path, monkeypatch):
    """The only folder in which releases are found.

    torch, which takes seconds to import, is left out of the check.
    """
    monkeypatch.setattr(sandbox, "CHECKED", ())
    index.releases.cache_clear()
    only_from(monkeypatch, tmp_path / "links", tmp_path / "cache")
    yield tmp_path / "links"
    index.releases.cache_clear()


@pytest.fixture
def kept(tmp_path):
    """What the cache holds, lock files apart."""
    return lambda: sorted(
        p.name for p in (tmp_path / "cache" / "environments").glob("*") if p.suffix != ".lock"
    )


def said_by(python: Path, code: str) -> str:
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_an_environment_has_its_own_version_and_everything_else_from_behind(links):
    """numpy comes from this environment, and is not installed again."""
    write_wheel(links, "wobble", "1.0", "number = 1")
    write_wheel(links, "wobble", "2.0", "number = 2")
    code = """
import wobble, numpy, importlib.metadata
print(wobble.number, importlib.metadata.version("wobble"), numpy.__file__)
"""
    for version in ("1.0", "2.0"):
        python = interpreter([f"wobble=={version}"])
        number, found, numpy_file = said_by(python, code).split()
        assert (number, found) == (version[0], version)
        assert numpy_file == sys.modules["numpy"].__file__


def test_what_is_kept_is_not_built_again(links, kept):
    """The second call asks no index: the release is gone from it by then."""
    wheel = write_wheel(links, "wobble", "1.0")
    first = interpreter(["wobble==1.0"])
    wheel.unlink()
    assert interpreter(["wobble==1.0"]) == first
    assert len(kept()) == 1


def test_the_versions_that_are_here_need_no_environment(links, kept):
    """What runs in this environment is not made a second time."""
    assert interpreter([]) is None
    assert interpreter([f"numpy=={sys.modules['numpy'].__version__}"]) is None
    assert kept() == []


@pytest.mark.parametrize(
    ("source", "requires", "reason"),
    [
        ("raise RuntimeError('not beside this torch')", "", "RuntimeError: not beside this torch"),
        ("import no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "numpy<1.0", "wobble==1.0"),
        ("", "no-such-package", "No matching distribution found for no-such-package"),
    ],
)
def test_a_release_that_does_not_install_or_import_is_refused_with_its_reason(
    links, kept, source, requires, reason
):
    """The error counts as `unverified`, and nothing stays behind; numpy stays as it is."""
    write_wheel(links, "wobble", "1.0", source, requires)
    with pytest.raises(SandboxError) as caught:
        interpreter(["wobble==1.0"])
    assert reason in caught.value.reason
    assert caught.value.reason.startswith("no environment with wobble==1.0: ")
    assert caught.value.verdict == "unverified"
    assert kept() == []


def test_two_at_once_build_it_once(links, kept, tmp_path):
    """Both get the same environment, imported for a check one time."""
    write_wheel(links, "wobble", "1.0", WAITS.format(folder=str(tmp_path)))
    (tmp_path / "leave").touch()
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(interpreter, [["wobble==1.0"]] * 2)
    assert first == second
    assert len(kept()) == 1
    assert (tmp_path / "imported").read_text() == "once "


def test_packages_that_another_one_carries_along_are_not_installed(monkeypatch, tmp_path):
    """A process that imported setuptools must find the environments that others built."""
    carried = tmp_path / "site-packages" / "ray" / "files" / "wobble-9.9.dist-info"
    carried.mkdir(parents=True)
    (carried / "METADATA").write_text("Name: wobble\nVersion: 9.9\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(carried.parent)])
    assert not sandbox.is_made(["wobble==9.9"])


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_build_leaves_nothing_broken(links, kept, tmp_path, whole_group):
    """The next call builds afresh, after an installer that outlived its parent has ended."""
    write_wheel(links, "wobble", "1.0", WAITS.format(folder=str(tmp_path)))
    root = Path(sandbox.__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    killed = subprocess.Popen(
        [sys.executable, "-c", BUILD], env=environment, start_new_session=True
    )
    while not (tmp_path / "imported").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    (building,) = kept()
    assert building.endswith(".building")
    (os.killpg if whole_group else os.kill)(killed.pid, signal.SIGKILL)
    killed.wait()
    assert kept() == [building]
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(interpreter, ["wobble==1.0"])
        (tmp_path / "leave").touch()
        assert said_by(found.result(), "import wobble; print(wobble.__name__)") == "wobble"
    assert kept() == [building.removesuffix(".building")]


def test_what_a_killed_build_left_is_cleared_by_the_next_one_of_another_release(
    links, kept, tmp_path
):
    """Nobody needs to ask for the same release again."""
    write_wheel(links, "wobble", "1.0")
    (tmp_path / "cache" / "environments" / "0123.building" / "bin").mkdir(parents=True)
    interpreter(["wobble==1.0"])
    assert [name for name in kept() if name.endswith(".building")] == []


def test_one_command_removes_every_environment(links, kept, tmp_path):
    """Lock files too."""
    for version in ("1.0", "2.0"):
        write_wheel(links, "wobble", version)
        interpreter([f"wobble=={version}"])
    assert sandbox.clear() == 2
    assert list((tmp_path / "cache" / "environments").iterdir()) == []


def test_an_environment_that_is_being_removed_is_never_taken_for_a_whole_one(
    links, kept, monkeypatch
):
    """A removal that is killed in the middle leaves it under the name of a leftover."""
    write_wheel(links, "wobble", "1.0")
    interpreter(["wobble==1.0"])
    (name,) = kept()
    monkeypatch.setattr(
        sandbox.shutil,
        "rmtree",
        lambda folder, **_: (folder / "bin" / "python").unlink(missing_ok=True),
    )
    sandbox.clear()
    assert kept() == [f"{name}.building"]


def test_clearing_leaves_what_is_being_built(links, tmp_path):
    """The builder holds its lock."""
    folder = tmp_path / "cache" / "environments" / "0123"
    (folder.with_suffix(".building")).mkdir(parents=True)
    with locked(folder.with_suffix(".lock")):
        assert sandbox.clear() == 0
    assert sandbox.clear() == 1


@pytest.mark.parametrize(
    "text",
    ["diffusers", "diffusers>=0.30", "diffusers==0.30.*", "diffusers==0.30,!=0.31", "==", ""],
)
def test_an_environment_names_versions(text):
    """Anything that leaves a choice could not be kept by content."""
    with pytest.raises(
        UsageError,
        match=r"expected a package with its version, such as `diffusers==0\.30\.3`, found",
    ):
        sandbox.named(text)


DAYS = {
    "diffusers": (
        Release(Version("0.29.0"), "2024-06-12"),
        Release(Version("0.99.0"), "2030-01-01"),
        Release(Version("0.1")),
    ),
    "transformers": (
        Release(Version("4.41.0"), "2024-05-17"),
        Release(Version("4.41.1"), "2024-06-12"),
        Release(Version("4.41.2"), "2024-06-12", yanked=True),
        Release(Version("4.42.0rc1"), "2024-06-12"),
        Release(Version("4.42.0"), "2024-06-27"),
        Release(Version("5.0.0"), "2026-01-26"),
    ),
    "huggingface-hub": (Release(Version("0.23.3")), Release(Version("2.0.0"))),
}


@pytest.mark.parametrize(
    ("requirements", "companions"),
    [
        (["diffusers==0.29.0"], ["transformers<=4.41.1"]),  # the index tells no days of the other
        (["diffusers==0.99.0"], []),  # newer than what is installed
        (["diffusers==0.1"], []),  # of no known day
        (["diffusers==0.29.0", "transformers==4.40.0"], []),  # the user knows better
        (["torch==2.3.0"], []),  # everything else stays
    ],
)
def test_a_companion_newer_than_the_release_is_held_to_its_day(
    monkeypatch, requirements, companions
):
    """Neither yanked nor pre-releases; only what is installed here can break a release."""
    monkeypatch.setattr(index, "releases", lambda name: DAYS.get(name, ()))
    installed = {"transformers": "5.0.0", "huggingface-hub": "2.0.0", "diffusers": "0.50.0"}
    assert (
        sandbox._companions([Requirement(text) for text in requirements], installed) == companions
    )


def test_a_companion_that_today_s_packages_need_newer_is_held_to_what_they_ask(monkeypatch):
    """Such as huggingface-hub, by today's diffusers beside an old transformers."""
    days = {
        **DAYS,
        "huggingface-hub": (
            Release(Version("0.23.3"), "2024-05-17"),
            Release(Version("2.0.0"), "2026-08-01"),
        ),
    }
    monkeypatch.setattr(index, "releases", lambda name: days.get(name, ()))
    asked = ["huggingface-hub<3.0,>=1.32", "huggingface-hub<1 ; extra == 'old'", "numpy"]
    monkeypatch.setattr(
        sandbox.metadata, "requires", lambda name: asked if name == "diffusers" else None
    )
    installed = {"transformers": "5.23.0", "huggingface-hub": "2.0.0", "diffusers": "0.42.1"}
    assert sandbox._companions([Requirement("transformers==4.41.1")], installed) == [
        "huggingface-hub<3.0,>=1.32"
    ]
    both = [Requirement("transformers==4.41.1"), Requirement("diffusers==0.29.0")]
    assert sandbox._companions(both, installed) == ["huggingface-hub<=0.23.3"]


def test_uv_installs_where_it_is_unless_pip_alone_knows_the_index(monkeypatch, tmp_path):
    """pip is told to keep the large packages; uv, which does not see them, to leave them out."""
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/bin/uv")
    monkeypatch.setattr(index, "set_for_pip", lambda: False)
    command = sandbox._installer(Path("python"), tmp_path, {"torch": "2.13.0"})
    assert command[:5] == ["/bin/uv", "pip", "install", "--quiet", "--python"]
    assert (tmp_path / "fixed.txt").read_text() == "torch ; python_version < '0'\n"
    monkeypatch.setattr(index, "set_for_pip", lambda: True)
    command = sandbox._installer(Path("python"), tmp_path, {"torch": "2.13.0"})
    assert command[:5] == [sys.executable, "-m", "pip", "--python", "python"]
    assert (tmp_path / "fixed.txt").read_text() == "torch==2.13.0\n"


def test_no_error_shows_the_password_of_an_index(tmp_path):
    """Neither its reason nor its log: both go into results that people pass on."""
    address = "https://somebody:secret@index.example/simple"
    command = [sys.executable, "-c", f"import sys; sys.exit('ERROR: no answer from {address}')"]
    with locked(tmp_path / "lock") as lock:
        build = sandbox._Build(tmp_path, [sandbox.named("wobble==1.0")], {}, lock)
        with pytest.raises(SandboxError) as caught:
            build._start(command)
    hidden = "no answer from https://****@index.example/simple"
    assert caught.value.reason == f"no environment with wobble==1.0: {hidden}"
    assert "secret" not in caught.value.log
