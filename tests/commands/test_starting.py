"""`init` and `new`, as a new user types them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from harness.pytest_plugin.plugin import MARKERS
from harness.scenario.weights import DATA

FILES = [
    ".github/workflows/harness.yml",
    ".gitignore",
    "pyproject.toml",
    "scenarios/digits-ddpm.yaml",
    "scenarios/scenario.schema.json",
]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "starting.md"
OWN = """\
from diffusers import DDIMPipeline


class InkPipeline(DDIMPipeline):
    def __call__(self, ink, num_inference_steps=50, output_type="pil", generator=None):
        return super().__call__(1, generator, 0.0, num_inference_steps, output_type=output_type)
"""


def files(root: Path) -> list[str]:
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in found)


@pytest.fixture
def own(shop) -> Path:
    """Have a project with a pipeline class of its own, and a folder in which it was saved."""
    (shop.root / "inkworks").mkdir()
    (shop.root / "inkworks" / "pipelines.py").write_text(OWN, encoding="utf-8")
    folder = shop.checkpoint("models/ink")
    index = folder / "model_index.json"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace("DDIMPipeline", "InkPipeline"), encoding="utf-8")
    return folder


def test_an_empty_folder_gets_a_first_scenario_that_runs_and_repeats(shop):
    """What it wrote is named, and the two commands that it names next do what they say."""
    done = shop.harness("init")
    assert done.code == 0, done.err
    assert files(shop.root) == FILES
    assert all(f"wrote {name}\n" in done.out for name in FILES)
    commands = [line.split() for line in done.out.rpartition("next:\n")[2].splitlines()]
    assert [command[:2] for command in commands] == [["harness", "record"], ["harness", "run"]]
    assert [shop.harness(*command[1:]).code for command in commands] == [0, 0]
    assert "digits-ddpm[cpu-float32]" in shop.harness("list").out


def test_a_second_time_nothing_changes(shop):
    """Every file is kept, and named."""
    shop.harness("init")
    before = {name: (shop.root / name).read_bytes() for name in FILES}
    done = shop.harness("init")
    assert done.code == 0
    assert "wrote" not in done.out
    assert done.out.count("kept ") == 4
    assert {name: (shop.root / name).read_bytes() for name in FILES} == before


def test_a_project_keeps_what_it_has(shop):
    """Its own scenario of the same name, its project file, its workflow."""
    for name in ("scenarios/faces.yaml", ".github/workflows/harness.yml"):
        (shop.root / name).parent.mkdir(parents=True, exist_ok=True)
        (shop.root / name).write_text("mine: 1\n", encoding="utf-8")
    (shop.root / "pyproject.toml").write_text('[project]\nname = "x"\n', encoding="utf-8")
    shop.checkpoint("models/faces")
    done = shop.harness("init", "models/faces")
    assert done.code == 0
    assert "kept scenarios/faces.yaml: it is there already" in done.out
    assert "added to pyproject.toml: [tool.harness]" in done.out
    assert (shop.root / "scenarios" / "faces.yaml").read_text(encoding="utf-8") == "mine: 1\n"


def test_a_saved_pipeline_becomes_a_scenario_that_the_plugin_collects(shop):
    """Its class, its size, a prompt, the relative path, and the mark of a scenario."""
    shop.checkpoint("models/digits", "digits-sd")
    done = shop.harness("new", "seven", "models/digits")
    assert done.code == 0, done.err
    text = (shop.root / "scenarios" / "seven.yaml").read_text(encoding="utf-8")
    assert any(marker.decode() in text.splitlines()[0] for marker in MARKERS)
    written = yaml.safe_load(text)
    assert written["pipeline"] == "StableDiffusionPipeline"
    assert written["checkpoint"] == {"path": "../models/digits"}
    call = written["call"]
    assert (call["height"], call["width"], call["output_type"]) == (16, 16, "np")
    assert call["prompt"]
    assert shop.harness("list", "scenarios/seven.yaml").code == 0


def test_a_scenario_that_is_there_is_refused(shop):
    """Nothing is overwritten; the error names the file."""
    path = shop.scenario("digits")
    before = path.read_bytes()
    done = shop.harness("new", "digits", "bundled")
    assert done.code == 2
    assert "scenarios/digits.yaml: is there already" in done.err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "nowhere: no such folder; expected a folder that"),
        ("bundled:other", "bundled:other: expected one of digits-ddpm, digits-flux, digits-sd"),
        ("empty", "holds no model_index.json"),
        ("../x/y/z", "no such folder"),
    ],
)
def test_what_is_no_pipeline_is_refused_and_nothing_is_written(shop, source: str, said: str):
    """Before a worker starts."""
    (shop.root / "empty").mkdir()
    done = shop.harness("init", source)
    assert done.code == 2
    assert said in done.err
    assert files(shop.root) == []


def test_a_name_that_cannot_be_a_scenario_s_is_refused(shop):
    """It would become a path."""
    done = shop.harness("new", "../x", "bundled")
    assert done.code == 2
    assert "a name has letters" in done.err


def test_a_table_that_is_there_is_not_edited_to_trust_a_package(shop, own: Path):
    """The option would be ignored; the message has the line to write, and not the option."""
    table = '[tool.harness]\nscenarios = ["scenarios"]\n'
    (shop.root / "pyproject.toml").write_text(table, encoding="utf-8")
    done = shop.harness("init", "models/ink", "--trust", "inkworks")
    assert done.code == 2
    assert "has [tool.harness] already, and is not edited" in done.err
    assert 'do: write trust = ["inkworks"] under [tool.harness] in ' in done.err
    assert "added to harness init" not in done.err
    assert (shop.root / "pyproject.toml").read_text(encoding="utf-8") == table


def test_an_own_class_is_found_and_says_how_to_trust_it(shop, own: Path):
    """It is not imported before; with --trust it is, and its own arguments are asked for."""
    done = shop.harness("init", "models/ink")
    assert done.code == 2
    assert "inkworks.pipelines:InkPipeline is code of the package inkworks" in done.err
    assert "--trust inkworks added to harness init" in done.err
    assert not (shop.root / "scenarios").exists()
    trusted = shop.harness("init", "models/ink", "--trust", "inkworks")
    assert trusted.code == 0, trusted.err
    assert 'trust = ["inkworks"]' in (shop.root / "pyproject.toml").read_text(encoding="utf-8")
    text = (shop.root / "scenarios" / "ink.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["pipeline"] == "inkworks.pipelines:InkPipeline"
    assert "# ink: the pipeline asks for this too" in text
    assert "first give values to these arguments in scenarios/ink.yaml: ink" in trusted.out
    assert shop.harness("list").code == 0


def test_an_own_class_in_no_package_of_the_project_is_asked_for(shop, own: Path):
    """And taken where --pipeline names it."""
    shutil.rmtree(shop.root / "inkworks")
    done = shop.harness("new", "ink", "models/ink")
    assert done.code == 2
    assert "names the class InkPipeline, which is not one of diffusers" in done.err
    assert "add --pipeline package.module:InkPipeline" in done.err
    named = shop.harness("new", "ink", "models/ink", "--pipeline", "DDIMPipeline")
    assert named.code == 0, named.err


def test_code_that_a_folder_brings_is_never_imported(shop):
    """The worker refuses it, and no scenario is left."""
    folder = shop.checkpoint("models/evil")
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["unet"] = ["evil", "Evil"]
    index.write_text(json.dumps(content), encoding="utf-8")
    (folder / "evil.py").write_text("raise SystemExit(7)", encoding="utf-8")
    done = shop.harness("new", "evil", "models/evil")
    assert done.code == 2
    assert "code of a checkpoint is never run" in done.err
    assert not (shop.root / "scenarios").exists()


def test_a_repository_that_the_hub_does_not_give_is_an_error_with_the_reason(
    shop, monkeypatch: pytest.MonkeyPatch
):
    """Without a network, and without a cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = shop.harness("new", "x", "org/nowhere")
    assert done.code == 2
    assert "org/nowhere" in done.err
    assert not (shop.root / "scenarios").exists()


def test_the_schema_that_is_written_is_the_package_s(shop):
    """An editor that reads it knows every key."""
    shop.harness("init")
    written = (shop.root / "scenarios" / "scenario.schema.json").read_bytes()
    assert written == (DATA / "scenario.schema.json").read_bytes()


def test_the_page_shows_what_is_printed_and_written(shop):
    """docs/starting.md, of the bundled pipeline with a prompt."""
    shop.checkpoint("models/digits", "digits-sd")
    blocks = re.findall(r"<!-- runs: \w+ -->\n```\w+\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    command, _, printed = blocks[0].partition("\n")
    done = shop.harness(*command.split()[2:])
    assert done.out == printed
    assert (shop.root / "scenarios" / "digits.yaml").read_text(encoding="utf-8") == blocks[1]
