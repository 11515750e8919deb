"""What docs/own-pipeline.md says, done as a new user does it: in an empty folder, by commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import adapter_files
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own-pipeline.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write the files that the page shows, and what it says a user has: an image and a LoRA."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "inkworks" / "__init__.py").touch()
    (tmp_path / "inputs").mkdir()
    Image.linear_gradient("L").resize((16, 16)).save(tmp_path / "inputs" / "seven.png")
    adapter_files.lora(tmp_path / "adapters" / "ink.safetensors")
    return tmp_path


def harness(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user types it, in the folder of the project."""
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_new_user_s_pipeline_is_recorded_verified_and_its_edit_is_named(project: Path):
    """Identical at first; then the edited file is named, and another LoRA is named as such."""
    scenario = "scenarios/ink.yaml"
    recorded = harness(project, "record", scenario, "--no-calibrate")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    again = harness(project, "run", scenario)
    assert "1 case: 1 identical" in again.stdout, again.stdout + again.stderr
    assert again.returncode == 0
    tones = project / "inkworks" / "tones.py"
    text = tones.read_text(encoding="utf-8")
    tones.write_text(text.replace("0.5 + 0.5", "0.4 + 0.6"), encoding="utf-8")
    edited = harness(project, "run", scenario)
    assert edited.returncode == 1
    assert "drifted: ink[cpu-float32]" in edited.stdout
    assert "changed:  own code changed: inkworks: 1 file: tones.py" in edited.stdout
    adapter_files.lora(project / "adapters" / "ink.safetensors", scale=0.3)
    other = harness(project, "run", scenario)
    assert "stale: ink[cpu-float32]" in other.stdout
    assert "lora.ink" in other.stdout


@pytest.mark.slow
def test_the_page_s_other_scenario_runs_too(project: Path):
    """A replaced component that is the same one gives the same bits."""
    done = harness(project, "record", "scenarios/replaced.yaml", "--no-calibrate")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_trust_the_list_says_how_to_trust(project: Path):
    """A usage error with the line of the scenario, before anything runs."""
    (project / "pyproject.toml").write_text("[tool.harness]\n", encoding="utf-8")
    done = harness(project, "list", "scenarios")
    assert done.returncode == 2
    assert "ink.yaml:2: `pipeline`" in done.stderr
    assert 'write `trust = ["inkworks"]` under `[tool.harness]`' in done.stderr
