"""What the README and the pages of docs/ show is what happens: files, commands, outputs, names."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import NEEDS_RAY
from printed import shape_of

from harness.commands.main import COMMANDS, main
from harness.gate.policy_file import POLICY, REQUIREMENT, read_policy
from harness.launch.placement import need_of
from harness.launch.sandbox import interpreter
from harness.records import Verdict
from harness.report.causes import failures
from harness.report.runs import Run
from harness.scenario.fields import ENABLES, SHAPE, Expectation, Generator
from harness.scenario.reading import read, read_all
from harness.scenario.weights import DATA
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import read_results
from harness.study.fault_catalogue import catalogue
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.torch_ import Torch

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
COLUMNS = 100
OLD_DIFFUSERS = "diffusers==0.27.2"  # the release before the upgrade of the README


def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def block(name: str, page: str = "README.md") -> str:
    """Return the fenced block of a page that follows `<!-- runs: NAME -->`."""
    found = re.search(rf"<!-- runs: {name} -->\n```\w+\n(.*?)```", page_text(page), re.DOTALL)
    assert found, f"{page} has no block {name!r}"
    return found[1]


def command_of(text: str) -> list[str]:
    """Return the arguments of `harness` in the first line of a console's block."""
    first = text.partition("\n")[0]
    words = shlex.split(first.removeprefix("$ "))
    return words[words.index("harness") + 1 :]


def output_of(text: str) -> str:
    """Return what a console's block shows beneath its command."""
    return text.partition("\n")[2]


def paragraph_of(printed: str) -> str:
    """Return the paragraph on the one case that drifted."""
    return printed[printed.index("drifted: ") :].partition("\n\n")[0]


def scenario_without_evidence(name: str) -> Any:
    content = yaml.safe_load(page_text(f"scenarios/{name}.yaml"))
    del content["tolerance"]["evidence"]
    return content


# What the README shows.


def test_the_scenario_of_the_readme_is_the_one_in_the_repository() -> None:
    """It has the keys and values of the file, without the evidence that `calibrate` keeps there."""
    assert yaml.safe_load(block("scenario")) == scenario_without_evidence("ddim-digits")


def test_the_command_of_the_readme_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines are the same but for figures; in a class of its own baseline it is `identical`."""
    monkeypatch.chdir(ROOT)
    shown = output_of(block("command"))
    assert main([*command_of(block("command")), "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    if "other class" in printed:
        shown = shown.replace("identical", "within   ").replace("same class", "other class")
        assert printed.count("within") == shown.count("within")
    else:
        assert shape_of(printed) == shape_of(shown)


@pytest.fixture
def own_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder that the README begins with: a scenario, and a pipeline that was saved."""
    source = {"kind": "synthetic", "name": "ldm-small", "folder": str(DATA / "synthetic/ldm-small")}
    loaded = checkpoints.load(source, "LDMPipeline", {"default": "float32"}, Torch("cpu"))
    loaded.pipeline.save_pretrained(tmp_path / "models" / "faces")
    scenario = tmp_path / "scenarios" / "faces.yaml"
    scenario.parent.mkdir()
    scenario.write_text(block("own"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return scenario


def test_a_pipeline_of_the_readers_own_is_recorded_and_runs_again(
    own_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recording prints what the README shows, and the next run has the same bits."""
    assert main(command_of(block("record"))) == 0
    assert shape_of(capsys.readouterr().out) == shape_of(output_of(block("record")))
    assert main(["run"]) == 0
    assert "1 case: 1 identical" in capsys.readouterr().out


@pytest.mark.slow
def test_an_upgrade_prints_and_explains_what_the_readme_shows(
    own_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Recorded with the old release, run with the installed one. Needs a package index."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    old = [str(interpreter((OLD_DIFFUSERS,))), "-m", "harness"]
    done = subprocess.run(
        [*old, *command_of(block("record"))], capture_output=True, text=True, check=True
    )
    assert shape_of(done.stdout) == shape_of(output_of(block("record")))
    assert main(command_of(block("drift"))) == 1
    printed = capsys.readouterr().out
    assert shape_of(paragraph_of(printed)) == shape_of(output_of(block("drift")))
    assert main(command_of(block("explain"))) == 0
    explained = re.sub(r"^ {14}\S.*\n", "", capsys.readouterr().out, flags=re.MULTILINE)
    assert shape_of(explained) == shape_of(output_of(block("explain")))


@pytest.mark.slow
def test_the_setting_that_the_readme_names_gives_the_old_bits_back(
    own_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, the installed release gives the image of the old one. Needs a package index."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    main(["run", "--env", OLD_DIFFUSERS, "--out", "runs/before"])
    setting = "final_sigmas_type: sigma_min"
    assert f"`{setting}`" in page_text("README.md")
    text = block("own").replace("UniPCMultistepScheduler", f"UniPCMultistepScheduler, {setting}")
    own_pipeline.write_text(text, encoding="utf-8")
    main(["run", "--out", "runs/after"])
    before, after = (
        Recording.read(tmp_path / "runs" / run / "recordings" / "faces" / "cpu-float32")
        for run in ("before", "after")
    )
    assert after.environment.versions["diffusers"] != before.environment.versions["diffusers"]
    assert after.output_digests == before.output_digests


def test_the_readme_lists_every_verdict_as_it_counts() -> None:
    """The table has one row per verdict, with what it counts as."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w+) \|$", page_text("README.md"), re.MULTILINE)
    counts = {True: "pass", False: "neither"}
    expected = {str(v): "fail" if v.fails else counts[v.passes] for v in Verdict}
    assert dict(rows) == expected


def test_the_readme_lists_every_command() -> None:
    """The table has one row per command of the command line."""
    rows = re.findall(r"^\| `harness (\w+)", page_text("README.md"), re.MULTILINE)
    assert sorted(rows) == sorted(command.name for command in COMMANDS)


# What the other pages show.


def test_a_drift_under_another_dispatch_is_what_the_docs_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded on this machine, run under another CPU dispatch without a tolerance, explained."""
    page = "docs/explain.md"
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(page_text("scenarios/ddim-digits.yaml"))
    del content["tolerance"]
    content["cases"] = {"device": "cpu"}
    Path("strict.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["record", "strict.yaml", "--no-calibrate", "--out", "runs/first"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert main(command_of(block("drift", page))) == 1
    drifted = paragraph_of(capsys.readouterr().out)
    assert shape_of(drifted) == shape_of(output_of(block("drift", page)))
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    assert main(command_of(block("explain", page))) == 0
    explained = capsys.readouterr().out
    assert shape_of(explained) == shape_of(output_of(block("explain", page)))


def test_the_whole_scenario_of_the_docs_can_be_recorded_and_run(shop) -> None:
    """Every key in it is read, and its pipeline takes them."""
    text = block("example", "docs/scenarios.md")
    (shop.root / "example.yaml").write_text(text, encoding="utf-8")
    assert shop.harness("record", "example.yaml", "--device", "cpu").code == 0
    done = shop.harness("run", "example.yaml", "--device", "cpu")
    assert (done.code, "1 case: 1 identical" in done.out) == (0, True), done.out


def test_the_variants_of_the_docs_hold_what_they_promise(shop) -> None:
    """Each by its contract, without a baseline; the one without a contract lacks one."""
    path = shop.scenario("digits")
    path.write_text(block("variants", "docs/scenarios.md"), encoding="utf-8")
    assert shop.harness("run", str(path), "--out", "run").code == 1
    verdicts = {each.variant: each.verdict for each in read_results(Path("run")).outcomes}
    held = ("vae-slicing", "channels-last", "repeated", "turned-round", "second-alone")
    assert [verdicts[name].passes for name in held] == [True] * 5
    assert (verdicts[""], verdicts["ten-steps"]) == ("missing", "missing")


def test_a_mistake_is_refused_as_the_docs_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt key on the fifth line of a scenario is named with its line and the right word."""
    shown = block("mistake", "docs/scenarios.md")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / command_of(shown)[1]
    path.parent.mkdir()
    path.write_text(
        "description: A poster.\npipeline: DDIMPipeline\ncheckpoint: {bundled: digits-ddpm}\n"
        "call: {num_inference_steps: 2}\ncost: {slower: 1.5, at_least_second: 0.05}\n",
        encoding="utf-8",
    )
    assert main(command_of(shown)) == 2
    assert capsys.readouterr().err == output_of(shown)


def test_the_policy_of_the_docs_is_one(tmp_path: Path) -> None:
    """It is read against the scenarios here, and holds every key that a policy may have."""
    path = tmp_path / "policy.yaml"
    path.write_text(block("policy", "docs/gate.md"), encoding="utf-8")
    cases = [case for each in read_all([ROOT / "scenarios"]) for case in each.cases()]
    policy = read_policy(path, cases)
    places = {(len(each.cases) > 3, each.place.on) for each in policy.requirements}
    assert places == {(True, "cpu"), (True, "nvidia-h100")}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.keys() == POLICY.fields.keys()
    (required,) = content["require"]
    keys = {"on" if key is True else key for key in required}  # YAML 1.1 reads `on` as true
    assert keys == REQUIREMENT.fields.keys()


def test_the_policy_of_this_repository_covers_its_scenarios() -> None:
    """The nightly's gate reads it."""
    cases = [case for each in read_all([ROOT / "scenarios"]) for case in each.cases()]
    assert len(read_policy(ROOT / ".ci" / "release.yaml", cases).required) > 50


def test_the_mindspore_scenario_of_the_docs_is_the_one_in_the_repository() -> None:
    """It has the keys and values of the file, without its tolerance."""
    content = scenario_without_evidence("ddim-digits-mindspore")
    del content["tolerance"]
    assert yaml.safe_load(block("mindspore", "docs/mindspore.md")) == content


def test_the_needs_of_a_node_in_the_docs_are_read(tmp_path: Path) -> None:
    """docs/fleet.md: every key of `node` is in its example, and means what the page says."""
    path = tmp_path / "digits.yaml"
    path.write_text(block("node", "docs/fleet.md"), encoding="utf-8")
    (case,) = read(path).cases()
    need = need_of(case)
    assert need.accelerator == "H100"
    assert dict(need.labels) == {"market-type": "spot"}
    assert dict(need.amounts) == {"CPU": 1.0, "GPU": 2.0, "memory": 64e9}


@pytest.mark.slow
@NEEDS_RAY
def test_the_command_of_the_docs_runs_a_case_on_a_cluster_of_this_machine(shop) -> None:
    """docs/fleet.md: the run's folder has its results, and the list of what ran where."""
    shutil.copytree(ROOT / "scenarios", shop.root / "scenarios")
    words = command_of(block("local", "docs/fleet.md"))
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # it has no baseline here
    (outcome,) = read_results(Path("runs/fleet")).outcomes
    assert outcome.verdict is Verdict.MISSING
    assert "ddim-digits[cpu-float32]" in Path("runs/fleet/logs/fleet.jsonl").read_text("utf-8")


def test_the_docs_name_every_key_and_word_of_a_scenario() -> None:
    """A new key, generator, expectation or setting needs a line in docs/scenarios.md."""
    text = page_text("docs/scenarios.md")
    words = {*SHAPE.fields, *Expectation, *Generator, *ENABLES}
    assert [word for word in sorted(map(str, words)) if f"`{word}`" not in text] == []


# What holds of every page.


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page with their numbers, without code blocks and tables."""
    is_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("|"):
            yield number, line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_is_wrapped_and_links_lead_somewhere(path: Path) -> None:
    """Prose fits into 100 columns, and every link to a file names one that is there."""
    assert [number for number, line in prose(path) if len(line) > COLUMNS] == []
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", path.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (path.parent / link).exists()] == []


def test_the_design_names_modules_that_are_there() -> None:
    """Each path of a module in docs/design.md is a file of the package, or lies beside it."""
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", page_text("docs/design.md"))
    missing = [n for n in named if not (ROOT / n).exists() and not (ROOT / "harness" / n).exists()]
    assert missing == []


def test_the_design_says_where_every_module_is() -> None:
    """A new module needs a row in the tables of docs/design.md."""
    text = page_text("docs/design.md")
    package = ROOT / "harness"
    paths = [path for path in sorted(package.rglob("*.py")) if not path.stem.startswith("__")]
    modules = [path.relative_to(package).as_posix() for path in paths]
    assert [m for m in modules if f"{m}`" not in text and f"`{m[:-3]}`" not in text] == []


def test_every_test_that_the_docs_name_exists() -> None:
    """docs/security.md rests on tests by their names."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_the_causes_of_the_docs_are_what_is_printed(pooled, tmp_path: Path, monkeypatch) -> None:
    """The same fault in two scenarios; the numbers are those of one machine."""
    monkeypatch.chdir(tmp_path)
    (fault,) = (each for each in catalogue("unet") if each.name == "scheduler.beta_end = x1.01")
    with Session(Store(tmp_path / "baselines"), Path("runs/nightly")) as session:
        for name in ("ddim-digits", "ddpm-digits"):
            Path("scenarios").mkdir(exist_ok=True)
            path = Path(shutil.copy(ROOT / "scenarios" / f"{name}.yaml", "scenarios"))
            (case,) = (each for each in read(path).cases() if each.target.device == "cpu")
            session.store.write(case, session.record(case), "first")
            carrier = fault.apply(case)
            assert carrier is not None
            session.run(carrier)
    (printed,) = failures([Run(session.out, tuple(session.outcomes))])
    shown = block("causes", "docs/reports.md")
    assert shape_of(printed) == shape_of(shown)
    same = ("  cases:", "  moved:", "  explain:", "  next:", "2 drifted")
    for ours, theirs in zip(shown.splitlines(), printed.splitlines(), strict=True):
        assert ours == theirs or not ours.startswith(same)
