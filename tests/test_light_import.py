"""The judge's half answers without a framework: listing and reporting never load torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import builders
import pytest

from harness.commands.main import COMMANDS
from harness.records import Drift
from harness.session import Session
from harness.store.baselines import Store

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers")


def after(code: str, *arguments: str) -> tuple[set[str], str]:
    """Run `code` in an interpreter of its own.

    Returns:
        The modules that it loaded, and what it printed.
    """
    tail = "\nimport json, sys\nprint('\\nLOADED', json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed, _, loaded = done.stdout.rpartition("LOADED ")
    return set(json.loads(loaded)), printed


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """A run's results, of one case that drifted."""
    session = Session(Store(tmp_path / "baselines"), tmp_path / "run")
    moved = Drift(0.5, 0.25, 3.0, 2.5, 1, 4, (0, 1, 1, 0), 1.0, 0.5)
    session.outcomes.append(builders.outcome("drifted", outputs={"image": moved}))
    session.write_results()
    return session.out


def test_listing_scenarios_loads_no_framework():
    """`harness list` reads every scenario, and numpy is not needed either."""
    loaded, printed = after(
        "from harness.commands.main import main\nassert main(['list', 'scenarios']) == 0"
    )
    assert "ddim-digits[cpu-float32]" in printed
    assert {"harness.commands.main", "harness.report.terminal"} <= loaded
    assert loaded.isdisjoint({*HEAVY, "numpy"})


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_the_help_of_every_command_is_light(command: str):
    """Whoever asks how a command is called does not wait for what it needs."""
    loaded, printed = after(
        "import sys\n"
        "from harness.commands.main import main\n"
        "try:\n"
        "    main([sys.argv[1], '--help'])\n"
        "except SystemExit as ending:\n"
        "    assert ending.code == 0",
        command,
    )
    assert f"usage: harness {command} " in printed
    assert loaded.isdisjoint({*HEAVY, "numpy", "rich"})


@pytest.mark.parametrize("form", [[], ["--markdown"]])
def test_reporting_a_run_loads_no_framework(form: list[str], finished_run: Path):
    """`harness report` shows a drift as it was measured elsewhere."""
    code = (
        "import sys\nfrom harness.commands.main import main\n"
        "assert main(['report', *sys.argv[1:]]) == 1"
    )
    loaded, printed = after(code, str(finished_run), *form)
    assert "image: L-inf 5.000e-01" in printed
    assert loaded.isdisjoint(HEAVY)


def test_collecting_by_pytest_loads_no_framework():
    """pytest with the plugin collects every case as if no torch existed."""
    loaded, printed = after(
        "import pytest\n"
        "words = ['--collect-only', '-q', '-p', 'no:cacheprovider', 'scenarios']\n"
        "assert pytest.main(words) == 0"
    )
    assert "scenarios/ddim-digits.yaml::ddim-digits[cpu-float32]" in printed
    assert "harness.pytest_plugin.plugin" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy"})


def test_the_session_loads_no_framework_until_a_worker_starts():
    """Everything of the judge's half at once: session, store, verdicts and launcher."""
    loaded, _ = after("import harness\nassert all(getattr(harness, n) for n in harness.__all__)")
    assert {"harness.session", "harness.launch.process", "harness.judge.verdict"} <= loaded
    assert loaded.isdisjoint(HEAVY)
