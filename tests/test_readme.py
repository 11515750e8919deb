"""What the README shows is what happens: its scenario, its command's output, its failure text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.commands.main import main
from harness.judge.gate import hold

ROOT = Path(__file__).resolve().parent.parent


def block(name: str, page: str = "README.md") -> str:
    """Return the fenced block of a page that follows `<!-- runs: NAME -->`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- runs: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} has no block {name!r}"
    return found.group(1)


def shape_of(text: str) -> list[str]:
    """Return the text's lines with figures, paths and spacing made alike: those differ from machine to machine."""
    text = re.sub(r"cpu-\w+-\w+-t\d+-[0-9a-f]{8}", "CLASS", text)
    text = re.sub(r"(?:/\S*/|runs/)\S+", "RUN", text)
    text = re.sub(r"\b(ok|slower|faster|unknown)( x[\d.]+)?(?=\s+\d+ MiB)", "COST", text)
    text = re.sub(r"[-+]?\d[\d.]*(e[-+]\d+)?", "#", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def test_the_scenario_of_the_readme_is_the_one_in_the_repository() -> None:
    """The README's ten lines are the file's, without the evidence that `calibrate` keeps there."""
    text = (ROOT / "scenarios" / "ddim-digits.yaml").read_text(encoding="utf-8")
    assert block("scenario") == re.sub(r"  evidence:.*\n(    .*\n)+", "", text)


def test_the_command_of_the_readme_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines, figures apart; on the machine class that recorded the baseline the verdict is `identical`."""
    monkeypatch.chdir(ROOT)
    command, _, shown = block("command").partition("\n")
    code = main([*command.removeprefix("$ harness ").split(), "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert code == 0
    if "other class" in printed:
        shown = shown.replace("identical", "within   ").replace("same class", "other class")
        assert printed.count("within") == shown.count("within")
    else:
        assert shape_of(printed) == shape_of(shown)


def test_the_failure_of_the_readme_is_what_a_drift_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded on this machine, run under another CPU dispatch, without a tolerance: the README's lines, figures apart."""
    text = (ROOT / "scenarios" / "ddim-digits.yaml").read_text(encoding="utf-8")
    scenario = Path("strict.yaml")
    monkeypatch.chdir(tmp_path)
    scenario.write_text(
        re.sub(r"tolerance:\n(  .*\n)+", "", text).replace("device: [cpu, cuda]", "device: cpu"),
        encoding="utf-8",
    )
    assert main(["record", str(scenario), "--out", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert main(["run", str(scenario), "--out", str(tmp_path / "second")]) == 1
    printed = capsys.readouterr().out
    paragraph = printed[printed.index("drifted: ") : printed.index("\n\n1 case")]
    shown = block("drift").split("\n", 1)[1]
    assert shape_of(paragraph) == shape_of(shown)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    assert main(["explain", str(tmp_path / "second"), "strict[cpu-float32]", "--roots", "1"]) == 0
    found = "".join(
        line for line in capsys.readouterr().out.splitlines(keepends=True) if "--roots" not in line
    )  # on some processors
    assert shape_of(found) == shape_of(block("explain").split("\n", 1)[1])


def test_the_whole_scenario_of_the_docs_can_be_recorded_and_run(shop) -> None:
    """Every key in it is read, and its pipeline takes them."""
    (shop.root / "example.yaml").write_text(block("example", "docs/scenarios.md"), encoding="utf-8")
    assert shop.harness("record", "example.yaml", "--device", "cpu").code == 0
    done = shop.harness("run", "example.yaml", "--device", "cpu")
    assert (done.code, "1 case: 1 identical" in done.out) == (0, True), done.out


def test_the_policy_of_the_docs_is_one(tmp_path: Path) -> None:
    """Read whole; of what it requires nothing has been seen."""
    (tmp_path / "policy.yaml").write_text(block("policy", "docs/scenarios.md"), encoding="utf-8")
    held = hold(tmp_path / "policy.yaml", [])
    assert {(line.scenario, line.on) for line in held} == {
        (s, on) for s in ("ddim-*", "sd-digits") for on in ("cpu", "nvidia-h100")
    }
    assert {line.state for line in held} == {"unverified"}
