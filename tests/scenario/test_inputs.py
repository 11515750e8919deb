"""References to inputs in a scenario's `call`: right ones are kept, wrong ones have their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.scenario.inputs import InputKind, kind_of, repository_of
from harness.scenario.reading import read

SCENARIO = """\
description: An image.
pipeline: StableDiffusionImg2ImgPipeline
checkpoint: {{bundled: digits-sd}}
call:
  image: {reference}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a repository with a folder of scenarios, an image and a folder of frames."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "scenarios" / "frames").mkdir(parents=True)
    (tmp_path / "scenarios" / "cat.png").touch()
    (tmp_path / "shared.npy").touch()
    return tmp_path


def written(project: Path, reference: str) -> Path:
    """Write a scenario whose call has one reference, on line 5."""
    path = project / "scenarios" / "image.yaml"
    path.write_text(SCENARIO.format(reference=reference), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "reference",
    [
        "{image: cat.png}",
        "{image: cat.png, mode: L}",
        "{mask: cat.png}",
        "{images: [cat.png, cat.png]}",
        "{video: frames}",
        "{array: ../shared.npy, as: numpy}",
        "{noise: {shape: [1, 4, 8, 8], seed: 3}}",
        "{pattern: {size: [64, 64], mode: RGB}}",
        "[{image: cat.png}, {image: cat.png}]",
        "{object: LTXVideoCondition, image: {image: cat.png}, frame_index: 0}",
        "{scale: 0.5, nested: {image: cat.png}}",
    ],
)
def test_a_right_reference_stays_as_it_is_written(project: Path, reference: str):
    """The worker resolves it; the fingerprint holds its text and no path of this machine."""
    scenario = read(written(project, reference))
    assert str(project) not in str(scenario.decides)
    assert scenario.cases()[0].request()["inputs_folder"] == str(project / "scenarios")


@pytest.mark.parametrize(
    ("reference", "expected", "found"),
    [
        ("{image: dog.png}", "a file", "`dog.png`, and there is no {folder}/dog.png"),
        ("{image: frames}", "a file", "`frames`, and there is no {folder}/frames"),
        (
            "{image: ../../elsewhere.png}",
            "a file inside {root}",
            "`../../elsewhere.png`, which is {above}/elsewhere.png",
        ),
        ("{image: /etc/passwd}", "a file inside {root}", "`/etc/passwd`, which is /etc/passwd"),
        ("{image: cat.png, colour: RGB}", "one of `image`, `mode`", "`colour`"),
        ("{image: cat.png, mode: rgb}", "one of `RGB`, `RGBA`, `L`", "`rgb`"),
        ("{noise: {shape: [1, 4]}}", "the key `seed`", "no such key"),
        ("{pattern: {size: [0, 4]}}", "a whole number >= 1", "'0' (a whole number)"),
        (
            "[{image: cat.png}, {image: dog.png}]",
            "a file",
            "`dog.png`, and there is no {folder}/dog.png",
        ),
    ],
)
def test_a_wrong_reference_is_refused_on_its_line(
    project: Path, reference: str, expected: str, found: str
):
    """`harness list` already says so: a mistake of the file is never a case that is skipped."""
    with pytest.raises(ScenarioError) as caught:
        read(written(project, reference))
    folder = project / "scenarios"
    places = {"folder": folder, "root": project, "above": project.parent}
    assert caught.value.line == 5
    assert caught.value.expected == expected.format(**places)
    assert caught.value.found == found.format(**places)


def test_a_link_that_leads_out_of_the_repository_is_refused(project: Path):
    """Where a path leads counts, and not how it is written."""
    (project / "scenarios" / "link.png").symlink_to("/etc/hostname")
    with pytest.raises(ScenarioError, match="a file inside"):
        read(written(project, "{image: link.png}"))


def test_a_mapping_that_begins_with_no_kind_is_passed_on():
    """Arguments such as `cross_attention_kwargs: {scale: 0.5}` are no references."""
    assert kind_of({"scale": 0.5, "image": "cat.png"}) is None
    assert kind_of({"image": "cat.png", "scale": 0.5}) is InputKind.IMAGE


def test_without_a_repository_files_stay_in_the_scenarios_folder(tmp_path: Path):
    """The nearest folder above with `.git` or `pyproject.toml` is the repository."""
    folder = tmp_path / "scenarios"
    folder.mkdir()
    assert repository_of(folder / "image.yaml") == folder
    (tmp_path / ".git").mkdir()
    assert repository_of(folder / "image.yaml") == tmp_path
