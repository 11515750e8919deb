"""Code of a trusted project runs, and no other; a digest of its files says when it changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.scenario.weights import DATA
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.own_code import OwnCode
from harness.worker.pipeline.schedulers import make_scheduler
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CaseError

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

FOLDER = DATA / "bundled" / "digits-ddpm"
MODULE = f"""\
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline, UNet2DModel

FOLDER = {str(FOLDER)!r}

class InkPipeline(DDIMPipeline):
    pass

class InkScheduler(DDIMScheduler):
    pass

class InkModel(UNet2DModel):
    pass

class Careless(UNet2DModel):
    @classmethod
    def from_pretrained(cls, folder, **options):
        return cls.from_config(cls.load_config(folder))

class Seeded(Careless):
    @classmethod
    def from_pretrained(cls, folder, **options):
        torch.manual_seed(0)
        return super().from_pretrained(folder)

def loaded():
    return InkPipeline.from_pretrained(FOLDER, use_safetensors=True)

def careless():
    made = loaded()
    made.unet.conv_out = torch.nn.Conv2d(made.unet.conv_out.in_channels, 1, 3, padding=1)
    return made

def wrong():
    return 3

def failing():
    raise RuntimeError("no ink")

number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Iterator[OwnCode]:
    """Return the code of a project with the package `inkworks`, ready to be imported."""
    package = tmp_path / "inkworks"
    package.mkdir()
    (package / "__init__.py").write_text(MODULE, encoding="utf-8")
    (package / "tones.py").write_text("TONE = 1\n", encoding="utf-8")
    (tmp_path / "stray.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    made = OwnCode(str(tmp_path), ["inkworks"])
    made.prepare()
    yield made
    OwnCode().prepare()


def load(code: OwnCode, pipeline: str, **changes: Any) -> checkpoints.Checkpoint:
    source = {"kind": "bundled", "name": "digits-ddpm", "folder": str(FOLDER)}
    source = changes.pop("source", source)
    extras = checkpoints.Extras(code=code, **changes)
    return checkpoints.load(source, pipeline, {"default": "float32"}, Torch("cpu"), (), extras)


def build(code: OwnCode, function: str) -> checkpoints.Checkpoint:
    return load(code, "", source={"kind": "build", "name": f"inkworks:{function}"})


def component(class_name: str) -> dict[str, list[dict[str, str]]]:
    """Return the request for the U-Net of `digits-ddpm` by another class."""
    source = {"kind": "bundled", "name": "digits-ddpm", "folder": str(FOLDER)}
    return {"unet": [{**source, "class_name": class_name, "subfolder": ""}]}


def test_classes_of_the_project_take_the_place_of_the_libraries(code: OwnCode):
    """A pipeline, a component and a scheduler; the weights are those of the checkpoint."""
    plain = load(OwnCode(), "DDIMPipeline")
    own = load(code, "inkworks:InkPipeline", components=component("inkworks:InkModel"))
    assert type(own.pipeline).__name__ == "InkPipeline"
    assert type(own.pipeline.unet).__name__ == "InkModel"
    assert own.weights["unet"] == plain.weights["unet"]
    replacement = {"class": "inkworks:InkScheduler", "timestep_spacing": "leading"}
    scheduler = make_scheduler(plain.pipeline.scheduler, replacement, "diffusers", code)
    assert (type(scheduler).__name__, scheduler.config.timestep_spacing) == (
        "InkScheduler",
        "leading",
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("inkworks:InkPipelin", "has no `InkPipelin`; did you mean `InkPipeline`"),
        ("inkworks:InkScheduler", "is no pipeline: expected a class that inherits from Diff"),
        ("inkworks:number", "is no pipeline"),
        ("inkworks.absent:InkPipeline", "cannot be imported from .*: ModuleNotFoundError"),
        ("stray:InkPipeline", "the project does not trust `stray`"),
        ("os:system", "the project does not trust `os`"),
    ],
)
def test_a_name_that_means_no_pipeline_is_refused(name: str, problem: str, code: OwnCode):
    """With the nearest right spelling, or with what was expected."""
    with pytest.raises(CaseError, match=problem):
        load(code, name)


def test_only_trusted_packages_of_the_root_can_be_imported(code: OwnCode):
    """Any other file of the root stays unseen by every import, also of a library."""
    with pytest.raises(ModuleNotFoundError):
        __import__("stray")
    assert code.load("inkworks.tones:TONE") == 1


def test_an_edit_is_imported_anew_and_has_another_digest(code: OwnCode, tmp_path: Path):
    """The digests are those of the files that were imported; so a worker may live long."""
    before = code.prepare()
    first = code.load("inkworks.tones:TONE")
    (tmp_path / "inkworks" / "tones.py").write_text("TONE = 25\n", encoding="utf-8")
    after = code.prepare()
    assert (first, code.load("inkworks.tones:TONE")) == (1, 25)
    assert before["inkworks"]["__init__.py"] == after["inkworks"]["__init__.py"]
    assert before["inkworks"]["tones.py"] != after["inkworks"]["tones.py"]


def test_another_project_brings_its_own_package_of_the_same_name(code: OwnCode, tmp_path: Path):
    """One worker may serve scenarios of several projects."""
    assert code.load("inkworks.tones:TONE") == 1
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "inkworks", other / "inkworks")
    (other / "inkworks" / "tones.py").write_text("TONE = 7\n", encoding="utf-8")
    second = OwnCode(str(other), ["inkworks"])
    second.prepare()
    assert second.load("inkworks.tones:TONE") == 7
    code.prepare()
    assert code.load("inkworks.tones:TONE") == 1


def test_what_a_function_builds_is_a_checkpoint(code: OwnCode):
    """Its weights are digested as any others."""
    built = build(code, "loaded")
    assert built.weights["unet"] == load(OwnCode(), "DDIMPipeline").weights["unet"]
    assert set(built.weights) == {"unet", "configuration"}


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("careless", r"gives `unet` random numbers: .* 2 weights \(conv_out.bias, conv_out.we"),
        ("wrong", "returned int; expected a pipeline"),
        ("failing", "raised RuntimeError: no ink"),
        ("number", "is no function"),
    ],
)
def test_a_function_that_builds_no_such_pipeline_is_refused(
    function: str, problem: str, code: OwnCode
):
    """Random weights most of all: nobody else would notice them."""
    with pytest.raises(CaseError, match=f"`build`: `inkworks:{function}` {problem}"):
        build(code, function)


def test_a_component_that_starts_from_random_numbers_is_refused(code: OwnCode):
    """Its own `from_pretrained` reads no weights; one that seeds itself gives the same bits."""
    with pytest.raises(CaseError, match="gives `unet` random numbers"):
        load(code, "DDIMPipeline", components=component("inkworks:Careless"))
    seeded = load(code, "DDIMPipeline", components=component("inkworks:Seeded"))
    again = load(code, "DDIMPipeline", components=component("inkworks:Seeded"))
    assert seeded.weights == again.weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a checkpoint whose index names a class of the project."""
    path = Path(shutil.copytree(FOLDER, tmp_path / "checkpoint"))
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    index["unet"] = ["inkworks", "InkModel"]
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


def test_a_checkpoint_may_name_classes_of_a_trusted_package(code: OwnCode, folder: Path):
    """As diffusers writes them when such a pipeline is saved."""
    source = {"kind": "path", "name": "checkpoint", "folder": str(folder)}
    loaded = load(code, "DDIMPipeline", source=source)
    assert type(loaded.pipeline.unet).__name__ == "InkModel"


def test_a_checkpoint_that_names_any_other_code_is_refused(code: OwnCode, folder: Path):
    """Also a trusted name, where the checkpoint carries a file that could stand in for it."""
    source = {"kind": "path", "name": "checkpoint", "folder": str(folder)}
    with pytest.raises(CaseError, match="asks for code that is no part of the libraries"):
        load(OwnCode(), "DDIMPipeline", source=source)
    (folder / "unet" / "inkworks.py").write_text("raise SystemExit\n", encoding="utf-8")
    with pytest.raises(CaseError, match="asks for code that is no part of the libraries"):
        load(code, "DDIMPipeline", source=source)


def test_nothing_of_a_project_stays_when_it_is_over(code: OwnCode):
    """The next case may be of a project that trusts nothing."""
    code.load("inkworks.tones:TONE")
    OwnCode().prepare()
    assert not [name for name in sys.modules if name.startswith("inkworks")]
    with pytest.raises(ModuleNotFoundError):
        __import__("inkworks")
