"""What pip makes of a requirements file beside the packages that are here; without a network."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from wheels import only_from, write_wheel

from harness.errors import UsageError
from harness.launch.requirement_files import read_requirements
from harness.launch.resolution import installed_packages, resolve


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    """Write wheels and a requirements file, and let pip resolve it."""
    only_from(monkeypatch, tmp_path / "links", tmp_path / "cache")

    def run(text, *wheels):
        for name, number, requires in wheels:
            write_wheel(tmp_path / "links", name, number, requires=requires)
        path = tmp_path / "requirements.txt"
        path.write_text(text, encoding="utf-8")
        return resolve(read_requirements(path), installed_packages(), path)

    return run


def test_what_would_be_installed_is_found_with_what_it_requires(resolved):
    """Its dependencies too; a package that is here and fits stays."""
    found = resolved(
        f"wobble>=1\nnumpy=={version('numpy')}\n",
        ("wobble", "1.0", ""),
        ("wobble", "2.0", "jelly<3"),
        ("jelly", "2.5", ""),
        ("jelly", "3.0", ""),
    )
    assert {name: package.version for name, package in found.items()} == {
        "wobble": "2.0",
        "jelly": "2.5",
    }
    assert [str(each) for each in found["wobble"].needs()] == ["jelly<3"]


def test_torch_numpy_and_safetensors_stay_unless_they_are_named(resolved):
    """A package that needs another numpy does not bring it along."""
    with pytest.raises(UsageError, match="conflicting dependencies"):
        resolved("wobble==1.0\n", ("wobble", "1.0", "numpy==9.9"), ("numpy", "9.9", ""))
    found = resolved("wobble==1.0\nnumpy==9.9\n")
    assert {package.name for package in found.values()} == {"wobble", "numpy"}


def test_what_the_index_lacks_is_refused_with_pips_reason(resolved):
    """The file is named."""
    with pytest.raises(UsageError, match=r"requirements\.txt: .*No matching distribution"):
        resolved("no-such-package==1.0\n")


def test_the_packages_that_are_here_are_known_with_what_they_require():
    """Extras bring requirements of their own."""
    here = installed_packages()
    assert here["numpy"].version == version("numpy")
    plain = {each.name for each in here["diffusers"].needs()}
    assert "numpy" in plain
    assert "torch" not in plain
    assert "torch" in {each.name for each in here["diffusers"].needs(["torch"])}
