"""Explaining: the input, stage, module, operator and setting at fault are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import builders
import pytest

from harness.records import ChangeKind, Device, EnvironmentChange, Stage
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import read_results, write_results
from harness.study import explain
from harness.study.revert import Setting, candidates, distance, share_of
from harness.study.root_causes import ModuleSite, RootCause, RootCauseSearch
from harness.worker.files import digest_json
from harness.worker.protocol import RECORDING_FILE

FIRST = {
    "kind": "weights",
    "component": "unet",
    "modules": "convolution",
    "at": 0.2,
    "how": "scale",
    "factor": 1.001,
}
SECOND = {
    "kind": "weights",
    "component": "unet",
    "modules": "linear",
    "at": 0.9,
    "how": "one",
    "factor": 1.001,
}
CASE = "digits[cpu-float32]"


@dataclass(frozen=True)
class Found:
    """What a search found, the proof of the fault that was injected, and what it noted."""

    causes: list[RootCause]
    proof: str
    notes: list[str]

    @property
    def modules(self) -> set[str]:
        """The paths of the modules that were named."""
        return {ModuleSite.of(cause).path for cause in self.causes}


@pytest.fixture
def found(shop) -> Callable[..., Found]:
    """Inject a fault into the smallest scenario, and return the root causes that are found."""
    case = read(shop.scenario()).cases()[0]

    def look(fault: dict[str, Any], limit: int = 1) -> Found:
        faulty = replace(case, fault=fault)
        with Session(Store(shop.root / "baselines"), shop.root / "run") as session:
            expected = session.record(replace(case, detail={}), folder=shop.root / "expected")
            actual = session.record(replace(faulty, detail={}), folder=shop.root / "actual")
            search = RootCauseSearch(session, faulty, case, shop.root / "search", lambda _: None)
            causes = search.find(actual, expected, limit)
            return Found(causes, actual.fault or "", search.notes)

    return look


# Both sides.


@pytest.mark.parametrize(("device", "other"), [("cuda", "cpu"), ("cpu", "cuda"), ("cpu", "ascend")])
def test_the_baseline_s_side_runs_on_the_baseline_s_device(tmp_path, device, other):
    """A case on a GPU that is judged by a baseline of the CPU, and the other way round."""
    recording = builders.recording(tmp_path)
    baseline = builders.baseline(recording, target=builders.target(f"{other}-float32"))
    sides = candidates(builders.case(device), recording, baseline)
    assert (sides.actual.target.device, sides.expected.target.device) == (device, Device(other))


def sides_of(tmp_path, actual: dict[str, Any], expected: dict[str, Any], env: tuple[str, ...] = ()):
    """Return a recording and a baseline by what their environments say."""
    case = replace(builders.case(), env=env).request()
    facts = builders.environment(**actual)
    recording = builders.recording(tmp_path / "actual", case=case, environment=facts)
    others = builders.recording(tmp_path / "expected", environment=builders.environment(**expected))
    return recording, builders.baseline(others)


def test_each_setting_that_differs_is_reverted_alone(tmp_path):
    """A variable that one side does not set is taken away, or set again."""
    actual, expected = {"A": "1", "B": "1", "C": "1"}, {"A": "1", "B": "2", "D": "3"}
    sides = candidates(
        builders.case(), *sides_of(tmp_path, {"variables": actual}, {"variables": expected})
    )
    assert dict(sides.actual.settings) == {**actual, "D": None}
    assert dict(sides.expected.settings) == {**expected, "C": None}
    assert {each.setting: dict(each.case.settings) for each in sides.reverted} == {
        Setting("B", "1", "2"): {**actual, "B": "2", "D": None},
        Setting("C", "1", None): {**actual, "C": None, "D": None},
        Setting("D", None, "3"): {**actual, "D": "3"},
    }


def test_versions_of_packages_are_reverted_where_that_is_asked_for(tmp_path):
    """In place of the version that the run asked for; a package of one side alone stays."""
    actual = {"versions": {"diffusers": "0.36.0", "transformers": "5.6.0", "torch": "2.9"}}
    expected = {"versions": {"diffusers": "0.30.3", "torch": "2.8"}}
    env = ("diffusers==0.36.0", "peft==0.1")
    sides = candidates(
        builders.case(), *sides_of(tmp_path, actual, expected, env=env), packages=True
    )
    (reverted,) = sides.reverted
    assert reverted.setting == Setting("diffusers", "0.36.0", "0.30.3")
    assert sides.actual.env == env
    assert reverted.case.env == sides.expected.env == ("diffusers==0.30.3", "peft==0.1")


@pytest.mark.parametrize(
    ("near", "far", "share"),
    [
        (0.0, 1.0, 1.0),
        (0.25, 1.0, 0.75),
        (2.0, 1.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, float("inf"), 1.0),
        (1.0, float("inf"), 0.0),
    ],
)
def test_a_share_is_what_is_gone_of_a_drift(near: float, far: float, share: float):
    """Nothing is gone of no drift, and all of one where no bit differs any more."""
    assert share_of(near, far) == share


def test_two_recordings_with_equal_numbers_in_other_bits_are_apart(tmp_path):
    """Minus zero is no drift, and yet another bit; another shape has no distance at all."""
    zero, minus = builders.IMAGE * 0, builders.IMAGE * -0.0
    sides = [
        builders.recording(tmp_path / str(index), image)
        for index, image in enumerate((zero, minus, zero[:, :1]))
    ]
    assert distance(sides[0], sides[0]) == 0
    assert 0 < distance(sides[0], sides[1]) < 1e-300
    assert distance(sides[0], sides[2]) == float("inf")


# Inside a run.


def test_a_scaled_convolution_is_named_with_its_operator(found):
    """The module by the proof of the fault, and how far its result moved."""
    result = found(FIRST)
    (cause,) = result.causes
    (path,) = result.modules
    assert result.proof.endswith(f" weights of {path}")
    assert (cause.stage, cause.type, cause.own_code) == (Stage("unet", 0), "Conv2d", False)
    assert cause.moved is not None
    assert 0 < cause.moved.rel_l2 < 2e-3
    assert cause.share == 1.0
    # The weight is an operand of the operator, and differs: no operator had the same inputs.
    assert cause.operator is None
    assert not result.notes


def test_a_rounded_result_is_named(found):
    """A hook that rounds belongs to its module, and the operators that it brought are listed."""
    rounded = {"component": "unet", "modules": "norm", "at": 0.5, "dtype": "bfloat16"}
    result = found({"kind": "outputs", **rounded})
    (path,) = result.modules
    assert result.proof == f"results of {path}"
    (note,) = result.notes
    copies = "aten._to_copy.default, aten._to_copy.default"
    assert note.endswith(f"has other operators than before: {copies} in place of nothing")


def test_two_faults_are_both_named(found):
    """Behind the first, whose result is reverted, the second is found."""
    result = found({"kind": "several", "component": "unet", "faults": [FIRST, SECOND]}, limit=3)
    faulty = {proof.rsplit(" of ", 1)[1] for proof in result.proof.split("; ")}
    assert result.modules == faulty
    assert len(faulty) == len(result.causes) == 2
    shares = [cause.share for cause in result.causes]
    assert shares[0] < shares[1] == 1.0
    assert not result.notes


def test_a_block_whose_modules_agree_is_blamed_itself(found):
    """A skipped residual is in no module, but in the code between them."""
    result = found({"kind": "residual", "component": "unet", "at": 0.5})
    (path,) = result.modules
    assert result.proof == f"residual of {path}"
    assert result.causes[0].own_code
    (note,) = result.notes
    assert note.endswith("has other operators than before: aten.sub.Tensor in place of nothing")


def test_noise_of_another_type_is_named(found):
    """The draw is a stage like the others."""
    (cause,) = found({"kind": "noise", "dtype": "bfloat16"}).causes
    assert (cause.stage, cause.module, cause.share) == (Stage("noise", 0), "#0", 1.0)
    assert cause.is_stage_itself


def test_a_timestep_that_is_off_is_in_the_denoisers_own_code(found):
    """Its modules got other inputs; none of them turned the same inputs into another output."""
    (cause,) = found({"kind": "timestep", "component": "unet", "by": 1}).causes
    assert (cause.stage, cause.module, cause.own_code) == (Stage("unet", 0), "#0", True)
    assert cause.is_stage_itself


def test_recordings_alone_name_the_stage_where_the_baseline_s_side_cannot_run(tmp_path):
    """The module stays unknown, with a note; a scheduler's step has no modules to tell apart."""
    unet, step = builders.STAGES
    moved_unet = (unet[0], unet[1], {"sample": "other"})
    moved_step = (step[0], step[1], {"prev_sample": "other"})
    base, in_unet, in_step = (
        builders.recording(tmp_path / str(index), stages=stages)
        for index, stages in enumerate([(unet, step), (moved_unet, step), (unet, moved_step)])
    )
    case = builders.case()
    search = RootCauseSearch(None, case, case, tmp_path, lambda _: None)
    assert search.from_recordings(base, base) == []
    step_cause = RootCause(Stage("scheduler.step", 0), "#0", "", own_code=False)
    assert search.from_recordings(in_step, base) == [step_cause]
    assert search.notes == []
    unet_cause = RootCause(Stage("unet", 0), "", "", own_code=False)
    assert search.from_recordings(in_unet, base) == [unet_cause]
    (note,) = search.notes
    assert note.startswith("the module of unet#0 that differs is unknown: ")


@pytest.mark.parametrize(
    "detail",
    [
        {},
        {"stage": "unet#0"},
        {"stage": "unet#0", "operators": "conv_in#0", "keep": ["unet/conv_in"]},
    ],
)
def test_looking_inside_changes_no_bit(shop, detail):
    """Whatever is looked at, the stages up to there have the digests of a plain run."""
    case: Case = read(shop.scenario()).cases()[0]
    with Session(Store(shop.root), shop.root / "run") as session:
        plain = session.record(case, folder=shop.root / "plain")
        seen = session.record(replace(case, detail=detail), folder=shop.root / "seen")
    assert plain.repeat.instrumented_equals_plain
    assert seen.stages == plain.stages[: len(seen.stages)]
    assert len(seen.stages) == (1 if detail else 2)
    assert seen.outputs == ({} if detail else plain.outputs)
    assert bool(seen.operators) == ("operators" in detail)


# The command.


def test_a_setting_is_named_with_the_operator_that_it_moved(shop, monkeypatch):
    """Another CPU dispatch draws other noise, and reverting it explains all of the drift."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    assert shop.harness("explain", "run").out.splitlines() == [CASE, "  first:    noise#0"]
    done = shop.harness("explain", "run", CASE, "--root-causes", "1")
    assert done.code == 0
    assert "operator: aten.randn.generator" in done.out
    assert "called at diffusers/utils/torch_utils.py:" in done.out
    setting = "setting:  ATEN_CPU_CAPABILITY default -> unset"
    assert f"{setting} explains 100 % of the drift" in done.out
    ended = "other root causes come after these: `--root-causes 1` ended the search"
    assert {line.strip() for line in done.out.splitlines() if "note:" in line} <= {
        f"note:     {ended}"
    }


def test_other_weights_are_named_by_their_tensor(shop):
    """From the recordings alone; nothing after them is searched."""
    import safetensors.torch

    weights = shop.checkpoint("weights") / "unet" / "diffusion_pytorch_model.safetensors"
    shop.scenario(checkpoint="{path: ../weights}")
    assert shop.harness("record").code == 0
    state = safetensors.torch.load_file(weights)
    state["conv_in.bias"][0] += 1
    safetensors.torch.save_file(state, weights, {"format": "pt"})
    assert shop.harness("run", "--out", "run").code == 1
    first = "  first:    weights of unet: conv_in.bias"
    assert shop.harness("explain", "run").out.splitlines()[1] == first
    done = shop.harness("explain", "run", CASE)
    assert first in done.out
    assert "note:     the weights differ" in done.out


def test_a_run_without_the_case_says_so(shop):
    """A usage error, not an empty answer."""
    shop.recorded()
    shop.harness("run", "--out", "run")
    done = shop.harness("explain", "run", "other[cpu-float32]")
    assert done.code == 2
    assert "run holds no case other[cpu-float32]" in done.err
    near = shop.harness("explain", "run", "digts")
    assert near.code == 2
    assert "did you mean `digits`?" in near.err


def test_a_run_is_not_explained_by_a_baseline_that_came_after_it(shop, monkeypatch):
    """Without CASE the run's own judgement is told; with it the case would run against another."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0e-9}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 1
    told = shop.harness("explain", "run").out
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    shop.scenario(tolerance="{cross-class: {rel_l2: 1.0e-9}}", seed="5")
    assert shop.harness("run", "--out", "later").code == 1
    assert shop.harness("accept", "later", "--reason", "another seed").code == 0
    done = shop.harness("explain", "run", CASE)
    assert done.code == 2
    assert "another baseline was recorded or accepted since this run" in done.err
    assert shop.harness("explain", "run").out == told


def test_an_object_of_a_test_is_explained_by_what_the_run_found(shop, monkeypatch):
    """Its file is no YAML, and only the test can make the object again."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0e-9}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 1
    run = shop.root / "run"
    results = read_results(run)
    (outcome,) = results.outcomes
    of_test = replace(outcome, test="tests/test_own.py::test_ink", path="tests/test_own.py")
    write_results(run, [of_test], results.environment)
    told = shop.harness("explain", "run")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"{CASE}\n  first:    ")
    done = shop.harness("explain", "run", CASE)
    assert done.code == 2
    assert "run pytest tests/test_own.py::test_ink" in done.err


def test_a_scenario_with_one_case_need_not_be_named_in_full(shop):
    """Without the brackets, where nothing else can be meant."""
    shop.recorded("x", cases="{device: [cpu], dtype: [float32, float64]}")
    shop.recorded("y")
    shop.harness("run", "--out", "run")
    assert shop.harness("explain", "run", "y").out.startswith("y[cpu-float32]\n")
    several = shop.harness("explain", "run", "x")
    assert several.code == 2
    assert "several cases of x: x[cpu-float32], x[cpu-float64]" in several.err


def say_instead(shop, name: str, value: str) -> None:
    """Have the run's recording name another setting in place of the CPU dispatch that it had."""
    folder = shop.root / "run" / "recordings" / "digits" / "cpu-float32"
    path = folder / RECORDING_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["environment"]["variables"]["ATEN_CPU_CAPABILITY"]
    content["environment"]["variables"][name] = value
    content["digest"] = digest_json(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    assert Recording.read(folder).environment.variables[name] == value


def test_a_baseline_that_cannot_be_repeated_here_is_not_guessed_at(shop, monkeypatch):
    """No setting here gives the bits of another processor: sizes are named, and no operator."""
    bounds = "{rel_l2: 1.0, local_rel_l2: {scheduler.step: 1.0e-3, noise: 1.0e-9}}"
    shop.recorded(tolerance=f"{{cross-class: {bounds}}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 1
    say_instead(shop, "MKL_CBWR", "AUTO")
    done = shop.harness("explain", "run", CASE)
    assert "operator:" not in done.out
    assert "values:   noise#0 is the first outside its bound: " in done.out
    assert "note:     no setting explains the drift: the baseline is of another machine" in done.out


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([ChangeKind.OWN_CODE, ChangeKind.MACHINE], "of another machine"),
        (
            [ChangeKind.OWN_CODE, ChangeKind.LIBRARY],
            "by the files' digests (x aaaaaaaa -> bbbbbbbb)",
        ),
        ([ChangeKind.LIBRARY] * 4, "packages have changed since (x, x, x, and more)"),
        ([ChangeKind.VARIABLE], "every file that was loaded of installed packages is as it was"),
    ],
)
def test_what_no_setting_explains_is_said(kinds: list[ChangeKind], said: str):
    """The likeliest kind of change, by its names."""
    changes = [EnvironmentChange("x", "a" * 16, "b" * 16, kind) for kind in kinds]
    assert said in explain._beyond_settings(changes)


def test_files_that_were_edited_in_place_are_named():
    """Alone, or beside what else has changed."""
    edited = ("diffusers/models/resnet.py",)
    assert (
        "these files are not as their packages installed them, by digest: "
        "diffusers/models/resnet.py" in explain._beyond_settings([], edited)
    )
    changes = [EnvironmentChange("torch", "1", "2", ChangeKind.LIBRARY)]
    said = explain._beyond_settings(changes, edited)
    assert said.startswith("packages have changed since (torch); files of libraries are not as")


def test_a_setting_is_explained_against_this_machine_s_own_baseline(shop, monkeypatch):
    """The reference is of another machine: what lies between the two is told apart."""
    shop.scenario(tolerance="{cross-class: {rel_l2: 1.0}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert shop.harness("record").code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    ((path,), *_) = [list((shop.root / "baselines").glob("*/*/*.json"))]
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["environment"]["variables"]["ATEN_CPU_CAPABILITY"]  # as of another processor
    content["digest"] = digest_json(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    assert shop.harness("record").code == 0
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    done = shop.harness("explain", "run", CASE)
    assert "setting:  ATEN_CPU_CAPABILITY default -> unset explains 100 % of the drift" in done.out
    assert "note:     held against this machine's own baseline, of class cpu-" in done.out
    assert "the baseline is of another machine" in done.out
    assert "cannot be repeated here" not in done.out


def test_a_run_that_cannot_be_repeated_blames_no_setting(shop, monkeypatch):
    """Where only the baseline's bits come out, no setting explains what is not there."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    say_instead(shop, "NVIDIA_TF32_OVERRIDE", "0")
    done = shop.harness("explain", "run", CASE)
    assert "setting:" not in done.out
    assert "note:     the run cannot be repeated here" in done.out
