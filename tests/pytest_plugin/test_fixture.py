"""The fixture `baseline`: objects of a user's own test against stored baselines."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
from inner import Run, path_of_pytester  # noqa: F401 (the second is a fixture)

from harness.pytest_plugin.fixture import name_of
from harness.worker.recorder import Recorder

# In-process runs of pytest forget what they import first, and torch must not load twice in a
# process: import it here, with what loads it.
assert Recorder
assert diffusers.DDIMPipeline
assert diffusers.DDPMScheduler

ARRAY = """\
import numpy as np

def test_ramp(baseline):
    baseline.check(np.arange({length}.0) * {factor}{bounds})
"""
PIPELINE = """\
import pytest, torch
from diffusers import DDIMPipeline, DDPMScheduler
from harness.scenario.weights import DATA

@pytest.fixture(scope="module")
def pipeline():
    return DDIMPipeline.from_pretrained(DATA / "bundled/digits-ddpm")

def test_digit(baseline, pipeline):
    scheduler = pipeline.scheduler
    bar = pipeline._progress_bar_config if hasattr(pipeline, "_progress_bar_config") else None
    {before}
    baseline.run(pipeline, num_inference_steps=1, output_type="np"{more})
    assert pipeline.scheduler is scheduler or {changed}
    assert not torch.are_deterministic_algorithms_enabled()
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in this process, on a machine of no CI."""
    monkeypatch.delenv("CI", raising=False)
    without = ("cacheprovider", "benchmark", "unraisableexception")

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess(*(f"-pno:{plugin}" for plugin in without), *arguments)

    return run


def write_array(root: Path, length: int = 4, factor: float = 1.0, bounds: str = "") -> None:
    text = ARRAY.format(length=length, factor=factor, bounds=bounds)
    (root / "test_own.py").write_text(text, encoding="utf-8")


def write_pipeline(root: Path, before: str = "", more: str = "", changed: str = "False") -> None:
    text = PIPELINE.format(before=before or "pass", more=more, changed=changed)
    (root / "test_own.py").write_text(text, encoding="utf-8")


def baselines(root: Path) -> list[str]:
    return sorted(path.parts[-3] for path in (root / "baselines").glob("*/*/*.json"))


def test_a_baseline_lives_from_missing_to_accepted(run: Run, tmp_path: Path):
    """Missing fails, update writes, a change fails, accept replaces with a reason."""
    write_array(tmp_path)
    missing = run()
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        [
            "E *harness.DriftError: missing: no baseline for this case",
            "E *next: * pytest test_own.py::test_ramp --harness-update",
            "FAILED test_own.py::test_ramp - harness.DriftError: missing: no base*",
        ]
    )
    run("--harness-update").assert_outcomes(passed=1)
    assert baselines(tmp_path) == ["test_own.test_ramp"]
    run().assert_outcomes(passed=1)
    write_array(tmp_path, factor=1.5)
    run("--harness-update").assert_outcomes(failed=1)
    changed = run()
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(
        [
            "E *harness.DriftError: drifted: *",
            "E *value: L-inf 1.500e+00*",
            "E *next: * --harness-accept --harness-reason TEXT*",
        ]
    )
    run("--harness-accept", "--harness-reason", "a wider ramp").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)
    (file,) = (tmp_path / "baselines").glob("*/*/*.json")
    assert json.loads(file.read_text("utf-8"))["provenance"]["reason"] == "a wider ramp"


def test_checks_of_one_test_have_baselines_of_their_own(run: Run, tmp_path: Path):
    """By name, by their order, and by the ids of parameters; for arrays, tensors and images."""
    text = """\
import numpy as np, pytest, torch
from PIL import Image

@pytest.mark.parametrize("size", [2, 3])
def test_several(baseline, size):
    baseline.check(np.ones(size))
    baseline.check(torch.ones(size, dtype=torch.bfloat16))
    baseline.check(Image.new("RGB", (size, size), (1, 2, 3)), "image")
    baseline.check({"a": [np.ones(1), torch.zeros(2)]}, "nested")
"""
    (tmp_path / "test_own.py").write_text(text, encoding="utf-8")
    run("--harness-update").assert_outcomes(passed=2)
    run().assert_outcomes(passed=2)
    names = ["", ".2", ".image", ".nested"]
    assert baselines(tmp_path) == sorted(
        f"test_own.test_several-{size}{name}" for size in (2, 3) for name in names
    )


def test_a_test_that_no_longer_computes_the_same_shape_fails(run: Run, tmp_path: Path):
    """Without a comparison of numbers that have no counterpart."""
    write_array(tmp_path)
    run("--harness-update")
    write_array(tmp_path, length=5)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *harness.DriftError: incomparable: *"])


@pytest.mark.parametrize(
    ("bounds", "problem"),
    [
        (", rel_l2=-1.0", "expected bounds >= 0"),
        (", rel_l2=float('nan')", "expected bounds >= 0"),
        (", name='a/b'", "a baseline cannot be called"),
    ],
)
def test_a_wrong_argument_is_an_error_that_says_so(
    run: Run, tmp_path: Path, bounds: str, problem: str
):
    """Nothing is compared or written."""
    write_array(tmp_path, bounds=bounds)
    result = run("--harness-update")
    result.assert_outcomes(failed=1)
    assert problem in result.stdout.str()
    assert baselines(tmp_path) == []


def test_a_job_of_a_ci_never_writes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever its options say."""
    monkeypatch.setenv("CI", "true")
    write_array(tmp_path)
    for options in (["--harness-update"], ["--harness-accept", "--harness-reason", "x"]):
        result = run(*options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "writes baselines" in result.stderr.str()
    assert baselines(tmp_path) == []


def test_nothing_is_accepted_without_a_reason(run: Run, tmp_path: Path):
    """Whoever reviews the baseline must know why."""
    write_array(tmp_path)
    result = run("--harness-accept")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "needs --harness-reason TEXT" in result.stderr.str()


def test_a_pipeline_is_instrumented_and_left_as_it_was(run: Run, tmp_path: Path):
    """Its own generator or a seed, its scheduler put back, torch's switches too."""
    write_pipeline(tmp_path, more=", generator=torch.Generator().manual_seed(3)")
    run("--harness-update").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)
    write_pipeline(tmp_path, more=", seed=3")  # the same noise, said in another way
    run().assert_outcomes(passed=1)
    (file,) = (tmp_path / "baselines").glob("*/*/*.json")
    stages = [stage["name"] for stage in json.loads(file.read_text("utf-8"))["stages"]]
    assert stages == ["unet#0", "scheduler.step#0"]


def test_a_change_of_the_scheduler_or_the_call_is_named(run: Run, tmp_path: Path):
    """The setting that moved, not only that something did."""
    write_pipeline(tmp_path)
    run("--harness-update").assert_outcomes(passed=1)
    other = "pipeline.scheduler = DDPMScheduler.from_config(scheduler.config)"
    write_pipeline(tmp_path, before=other, changed="True")
    result = run()
    result.assert_outcomes(failed=1)
    assert "scheduler" in result.stdout.str()
    write_pipeline(tmp_path, more=", eta=0.5")
    edited = run()
    edited.assert_outcomes(failed=1)
    edited.stdout.fnmatch_lines(["E *harness.DriftError: stale: * call.eta *"])


def test_a_generator_that_was_drawn_from_is_refused(run: Run, tmp_path: Path):
    """Its state is no seed, and the next run could not have it again."""
    drawn = "g = torch.Generator(); torch.randn(2, generator=g)"
    write_pipeline(tmp_path, before=drawn, more=", generator=g")
    result = run()
    result.assert_outcomes(failed=1)
    assert "was drawn from before" in result.stdout.str()


def test_an_argument_that_the_pipeline_does_not_take_is_named(run: Run, tmp_path: Path):
    """As in a scenario; it is an error, and has no baseline."""
    write_pipeline(tmp_path, more=", num_steps=3")
    result = run("--harness-update")
    result.assert_outcomes(failed=1)
    assert "takes no `num_steps`" in result.stdout.str()
    assert baselines(tmp_path) == []


@pytest.mark.parametrize(
    ("test", "name"),
    [
        (
            "tests/test_faces.py::TestInk::test_bold[3-red]",
            "tests.test_faces.TestInk.test_bold-3-red",
        ),
        ("test_x.py::test_y[a/b c]", "test_x.test_y-a-b-c"),
        ("test_x.py::test_" + "y" * 300, "y" * 120),
    ],
)
def test_a_baseline_is_called_after_its_test(test: str, name: str):
    """A name of a folder on every system, and no longer than one may be."""
    assert name_of(test) == name


def test_two_tests_do_not_share_a_baseline(run: Run, tmp_path: Path):
    """Ids of parameters may differ in nothing but signs."""
    text = """\
import pytest

@pytest.mark.parametrize("sign", ["a+/b", "a+ b"])
def test_signs(baseline, sign):
    baseline.check([1.0])
"""
    (tmp_path / "test_own.py").write_text(text, encoding="utf-8")
    result = run("--harness-update")
    result.assert_outcomes(passed=1, failed=1)
    assert "would share the baseline" in result.stdout.str()


def test_unused_baselines_are_named_when_everything_ran(run: Run, tmp_path: Path):
    """Of a test that is gone; a run of a part says nothing."""
    write_array(tmp_path)
    run("--harness-update")
    (tmp_path / "test_own.py").write_text(
        "def test_other(baseline): baseline.check([1.0])\n", encoding="utf-8"
    )
    run("--harness-update").stdout.fnmatch_lines(
        ["unused baseline: baselines/test_own.test_ramp/cpu-float64", "1 unused; *"]
    )
    run("test_own.py").stdout.no_fnmatch_line("unused*")
    run("-k", "other").stdout.no_fnmatch_line("unused*")
