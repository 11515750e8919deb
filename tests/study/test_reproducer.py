"""Reproducers: a script shows the difference alone, and claims nothing that it does not show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import builders
import numpy as np
import pytest
from safetensors.numpy import load_file

from harness.errors import UsageError
from harness.records import Stage
from harness.session import Session
from harness.store.baselines import Store
from harness.study.explain import Explanation
from harness.study.reproducer import INPUTS, ISSUE, PRINTED, SCRIPT, reproduce
from harness.study.root_causes import RootCause

CASE = "digits[cpu-float32]"
OWN_STEP = RootCause(Stage("scheduler.step", 0), "#0", "", own_code=False)


def alone(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as somebody would who has no harness: from its folder, with a clean path."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-P", SCRIPT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_operator_under_another_setting_is_shown_without_the_harness(shop, monkeypatch):
    """The noise is drawn by another code path; the generator's state is among the inputs."""
    shop.recorded()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 1
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    done = shop.harness("explain", "run", CASE, "--root-causes", "1", "--reproducer", "reproducer")
    assert done.code == 0, done.err
    assert "reproducer/ISSUE.md is ready for an issue tracker" in done.out
    folder = shop.root / "reproducer"
    script = (folder / SCRIPT).read_text()
    assert "import harness" not in script
    assert "from harness" not in script
    run = alone(folder)
    assert run.returncode == 0, run.stderr
    assert "ATEN_CPU_CAPABILITY=default" in run.stdout
    assert "ATEN_CPU_CAPABILITY=(not set)" in run.stdout
    assert "largest difference" in run.stdout
    assert run.stdout.rstrip().endswith("the difference shows")
    assert run.stdout == (folder / PRINTED).read_text()
    assert run.stdout.rstrip() in (folder / ISSUE).read_text()


@pytest.fixture
def sides(tmp_path):
    """Return a function that makes a recording and a baseline with two scheduler configurations."""

    def make(expected: dict, actual: dict):
        case = builders.case()
        request = case.request()
        noise = (np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4),)
        stages = [(f"scheduler.step#{n}", {"sample": "n"}, {"prev_sample": "s"}) for n in range(4)]

        def recording(name, settings):
            inputs = builders.inputs()
            inputs["schedulers"] = {"scheduler": {"class": "DDIMScheduler", **settings}}
            return builders.recording(
                tmp_path / name, noise=noise, stages=stages, inputs=inputs, case=request
            )

        baseline = builders.baseline(recording("expected", expected))
        return case, recording("actual", actual), baseline

    return make


def reproduced(tmp_path, case, actual, expected, cause=OWN_STEP):
    with Session(Store(tmp_path / "baselines"), tmp_path / "run") as session:
        found = Explanation(case.id, None, (cause,))
        folder = tmp_path / "reproducer"
        return reproduce(session, case, actual, expected, found, folder, packages=False)


def test_a_schedulers_table_is_shown_with_the_settings_of_both_sides(tmp_path, sides):
    """What only one side has is a default of its release, which no side is given."""
    both = {"num_train_timesteps": 1000}
    made = reproduced(
        tmp_path,
        *sides(
            {**both, "beta_schedule": "linear"},
            {**both, "beta_schedule": "scaled_linear", "unheard_of": 1},
        ),
    )
    assert made.shows, made.printed
    run = alone(made.folder)
    assert run.returncode == 0, run.stderr
    assert "table alphas_cumprod: expected" in run.stdout
    assert "table timesteps: same bits" in run.stdout
    assert "step 3: expected" in run.stdout
    assert "unheard_of" not in (made.folder / SCRIPT).read_text()
    np.testing.assert_array_equal(
        load_file(made.folder / INPUTS)["noise"].ravel(),
        np.linspace(-1, 1, 16, dtype=np.float32),
    )


@pytest.mark.slow
def test_nothing_is_claimed_that_does_not_show(tmp_path, sides):
    """The script and what it printed stay, for whoever wants to look; an issue is not written."""
    (tmp_path / "reproducer").mkdir()
    (tmp_path / "reproducer" / ISSUE).write_text("of an earlier run")
    same = {"num_train_timesteps": 1000}
    made = reproduced(tmp_path, *sides(same, same))
    assert not made.shows
    assert made.printed.rstrip().endswith("the difference does not show")
    assert (made.folder / PRINTED).read_text() == made.printed
    assert not (made.folder / ISSUE).exists()
    assert alone(made.folder).returncode == 1


def test_a_script_that_fails_claims_nothing(tmp_path, sides):
    """Such as a scheduler that this release does not know."""
    case, actual, expected = sides({}, {})
    actual.inputs.schedulers["scheduler"]["class"] = "NoSuchScheduler"
    made = reproduced(tmp_path, case, actual, expected)
    assert not made.shows
    assert "NoSuchScheduler" in made.printed
    assert "Traceback" in made.printed
    assert not (made.folder / ISSUE).exists()


@pytest.mark.parametrize("name", ["import os\nprint", '"""', "DDIM Scheduler", ""])
def test_a_name_that_is_none_never_reaches_a_script(tmp_path, sides, name):
    """A recording may come from a stranger."""
    case, actual, expected = sides({}, {})
    actual.inputs.schedulers["scheduler"]["class"] = name
    with pytest.raises(UsageError, match="is no name that a script can call"):
        reproduced(tmp_path, case, actual, expected)
    assert not (tmp_path / "reproducer").exists()


def test_what_no_script_can_show_is_refused(tmp_path, sides):
    """A module's own code needs the whole model; without a root cause there is nothing."""
    case, actual, expected = sides({}, {})
    module = RootCause(Stage("unet", 0), "mid_block#0", "Block", own_code=True)
    with pytest.raises(UsageError, match="neither an operator nor a scheduler"):
        reproduced(tmp_path, case, actual, expected, module)
    session = Session(Store(tmp_path), tmp_path / "run")
    empty = Explanation(case.id, None)
    with pytest.raises(UsageError, match="no root cause was found"):
        reproduce(session, case, actual, expected, empty, tmp_path / "r", packages=False)


def test_a_reproducer_needs_a_case(shop):
    """The recordings alone hold no operator."""
    shop.recorded()
    shop.harness("run", "--out", "run")
    done = shop.harness("explain", "run", "--reproducer", "reproducer")
    assert done.code == 2
    assert "--reproducer needs the id of a CASE" in done.err
