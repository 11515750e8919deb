"""Which files of this machine a node gets, and that a case finds them there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.launch.parcel import PACKAGE, files_for, relocated
from harness.scenario.reading import read
from harness.worker.protocol import RunRequest

SCENARIO = """\
description: A digit.
pipeline: StableDiffusionImg2ImgPipeline
checkpoint: {path: ../weights}
lora: {path: /elsewhere/ink.safetensors}
before: {set_style: {image: {image: ../inputs/style.png}}}
call: {image: {image: ../inputs/a.png}, masks: [{mask: mask.png}], clip: {video: ../inputs/frames}}
"""


@pytest.fixture
def request_of_all(tmp_path: Path) -> RunRequest:
    """Return the request of a case with inputs, weights beside it and elsewhere, and code."""
    root = tmp_path / "project"
    files = {
        "pyproject.toml": '[tool.harness]\ntrust = ["inkworks"]\n',
        "inkworks/__init__.py": "",
        "inkworks/__pycache__/x.pyc": "",
        "inputs/a.png": "a",
        "inputs/style.png": "s",
        "inputs/unused.png": "",
        "inputs/frames/1.png": "1",
        "scenarios/mask.png": "m",
        "scenarios/digits.yaml": SCENARIO,
        "weights/model_index.json": "{}",
        "weights/unet/model.safetensors": "w",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    teacher = tmp_path / "baseline.safetensors"
    teacher.write_text("t", encoding="utf-8")
    case = read(root / "scenarios" / "digits.yaml").cases()[0].request()
    case["teacher_tensors"] = str(teacher)
    return {"case": case, "out": "/out", "known": {}}


def test_a_node_gets_what_the_case_reads_and_nothing_else(
    request_of_all: RunRequest, tmp_path: Path
):
    """Inputs, frames, the teacher's tensors, weights inside the repository, trusted code."""
    found = [path.relative_to(tmp_path).as_posix() for path in files_for(request_of_all)]
    assert sorted(found) == [
        "baseline.safetensors",
        "project/inkworks/__init__.py",
        "project/inputs/a.png",
        "project/inputs/frames/1.png",
        "project/inputs/style.png",
        "project/scenarios/mask.png",
        "project/weights/model_index.json",
        "project/weights/unet/model.safetensors",
    ]


def test_a_case_finds_on_the_node_what_was_sent(request_of_all: RunRequest, tmp_path: Path):
    """Paths lead below the node's folder; what was not sent keeps its path."""
    mirror = tmp_path / "node"
    for path in files_for(request_of_all):
        place = mirror / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    out = tmp_path / "made"
    there = relocated(request_of_all, out, Path("/their/harness"), mirror)
    case = there["case"]
    assert there["out"] == str(out)
    assert (Path(case["checkpoint"]["folder"]) / "model_index.json").is_file()
    assert Path(case["checkpoint"]["folder"]).is_relative_to(mirror)
    assert case["adapters"][0]["source"]["folder"] == "/elsewhere/ink.safetensors"
    assert (Path(case["inputs_folder"]) / "../inputs/a.png").read_text(encoding="utf-8") == "a"
    assert Path(case["teacher_tensors"] or "").read_text(encoding="utf-8") == "t"
    assert (Path(case["trust"]["root"]) / "inkworks" / "__init__.py").is_file()
    assert request_of_all["case"]["teacher_tensors"] == str(tmp_path / "baseline.safetensors")


def test_a_bundled_checkpoint_is_the_one_of_the_node_s_own_package(tmp_path: Path):
    """It lies in the package, which the node has wherever it is installed there."""
    path = tmp_path / "digits.yaml"
    text = "description: A digit.\npipeline: DDIMPipeline\ncheckpoint: {bundled: digits-ddpm}\n"
    path.write_text(f"{text}call: {{}}\n", encoding="utf-8")
    case = read(path).cases()[0].request()
    case["checkpoint"]["folder"] = "/their/harness/data/bundled/digits-ddpm"
    request: RunRequest = {"case": case, "out": "/out", "known": {}}
    there = relocated(request, tmp_path / "made", Path("/their/harness"), tmp_path / "node")
    assert there["case"]["checkpoint"]["folder"] == str(PACKAGE / "data/bundled/digits-ddpm")
