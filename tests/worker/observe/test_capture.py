"""What an instrumented run keeps, and what it feeds on in place of its own tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import numpy as np
import pytest
import torch

from harness.scenario.reading import read
from harness.store.recording import ClampLimits, Recording
from harness.worker.observe.capture import Capture, perturbed
from harness.worker.observe.modules import NO_STAGE, OWN_CALL, Detail, ModuleSite
from harness.worker.observe.stages import Stage
from harness.worker.protocol import OWN_CODE
from harness.worker.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

Record = Callable[..., Recording]
ONES = torch.ones(2)
CONV_IN = "module/unet#0/conv_in#0/0"


def send(event: str, **fields: Any) -> None:
    """Drop an event."""


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    """A recorder that keeps the checkpoint between tests."""
    return Recorder(send)


@pytest.fixture
def record(recorder: Recorder, tmp_path: Path) -> Record:
    """Record the smallest scenario once, of four steps, with changes to its request."""
    path = tmp_path / "scenario.yaml"
    call = "{num_inference_steps: 4, output_type: np}"
    path.write_text(builders.scenario_text(call=call), encoding="utf-8")
    request: Any = read(path).cases()[0].request()

    def run(name: str, **changes: Any) -> Recording:
        folder = tmp_path / name
        recorder.record({**request, "rounds": 0, **changes}, folder)
        return Recording.read(folder)

    return run


def kept_stages(recording: Recording) -> list[str]:
    """Return the names of the stages whose tensors were kept, without noise."""
    return [str(stage) for stage, _ in recording.stage_tensors if not stage.is_noise]


@pytest.mark.parametrize(("keep_every", "steps"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_every_nth_step_of_a_scheduler_is_kept_and_no_prediction(
    keep_every: int, steps: list[int], record: Record
):
    """A step contains the prediction of the denoiser before it."""
    recording = record("plain", keep_every=keep_every)
    assert kept_stages(recording) == [f"scheduler.step#{step}" for step in steps]


def test_a_teacher_forced_run_shows_each_stage_with_the_teacher_s_inputs(record: Record):
    """It draws its own noise and goes on with the teacher's, so that it ends as the teacher did."""
    teacher = record("teacher")
    own = record("own", seeds=[1])
    forced = record("forced", seeds=[1], teacher_tensors=str(teacher.tensors_path))
    assert forced.noise == own.noise
    assert forced.noise != teacher.noise
    assert forced.stages == teacher.stages
    assert forced.outputs == teacher.outputs


def test_a_teacher_forced_run_keeps_the_steps_that_the_teacher_kept(record: Record):
    """Else a stage that the teacher's tensors feed would have no result of its own to compare."""
    teacher = record("teacher", keep_every=2)
    forced = record("forced", keep_every=4, teacher_tensors=str(teacher.tensors_path))
    assert kept_stages(forced) == kept_stages(teacher) == ["scheduler.step#1", "scheduler.step#3"]


def test_a_perturbed_run_starts_one_unit_in_the_last_place_away(record: Record):
    """The noise that it drew is kept; what the first stage takes is perturbed."""
    plain = record("plain")
    perturbed = record("perturbed", perturbation=3)
    again = record("again", perturbation=3)
    assert perturbed.noise == plain.noise
    assert perturbed.stages[0].inputs["sample"] != plain.stages[0].inputs["sample"]
    assert again.stages == perturbed.stages
    drift = perturbed.output_tensors["image"] - plain.output_tensors["image"]
    assert 0 < np.abs(drift).max() < 1e-4


def test_a_run_ends_after_the_stage_that_was_asked_for(record: Record):
    """It has no output then; with `to_end` it goes on."""
    cut = record("cut", detail={"stage": "unet#1"})
    assert [stage.name for stage in cut.stages] == ["unet#0", "scheduler.step#0", "unet#1"]
    assert cut.outputs == {}
    assert cut.has_modules_inside("unet#1")
    assert not cut.has_modules_inside("unet#0")
    whole = record("whole", detail={"stage": "unet#1", "to_end": True})
    assert whole.outputs == record("plain").outputs


def test_a_run_can_end_with_its_first_draw_of_noise(record: Record):
    """Then no stage of the pipeline runs."""
    cut = record("cut", detail={"stage": "noise#0"})
    assert (len(cut.noise), cut.stages) == (1, ())


def test_the_operators_of_one_module_are_noted_with_their_results(record: Record):
    """The convolution's result is what the module gave, and a line of diffusers called it."""
    detail = {"stage": "unet#0", "operators": "conv_in#0", "keep": ["unet/conv_in"]}
    recording = record("operators", detail=detail)
    assert [call.operator for call in recording.operators] == ["aten.convolution.default"]
    (call,) = recording.operators
    assert "unet_2d.py:" in call.source
    assert call.shapes[0] == "float32 [1, 1, 16, 16]"
    assert np.array_equal(recording.tensors["operator/0/0"], recording.tensors[CONV_IN])


def test_a_fed_module_replaces_its_result_and_the_run_goes_on_with_it(record: Record):
    """The stage takes its own inputs and gives another prediction."""
    site = ["unet/conv_in"]
    teacher = record("teacher", seeds=[1], detail={"stage": NO_STAGE, "keep": site})
    plain = record("plain")
    fed = record(
        "fed",
        teacher_tensors=str(teacher.tensors_path),
        detail={"stage": NO_STAGE, "feed": site, "keep": site},
    )
    assert fed.noise == plain.noise
    assert fed.stages[0].inputs == plain.stages[0].inputs
    assert fed.stages[0].outputs != plain.stages[0].outputs
    assert not np.array_equal(fed.tensors[CONV_IN], teacher.tensors[CONV_IN])  # its own is kept


def test_a_whole_stage_can_be_fed(record: Record):
    """The prediction of the teacher then stands in the place of each prediction."""
    site = ["unet/"]
    teacher = record("teacher", seeds=[1], detail={"stage": NO_STAGE, "keep": site})
    fed = record(
        "fed",
        teacher_tensors=str(teacher.tensors_path),
        detail={"stage": NO_STAGE, "feed": site},
    )
    expected = [stage.outputs for stage in teacher.stages if stage.stage.kind == "unet"]
    assert len(expected) == 4
    assert [stage.outputs for stage in fed.stages if stage.stage.kind == "unet"] == expected


@pytest.mark.parametrize(
    ("detail", "looked_into"),
    [
        (Detail(), ["unet#0", "vae.decode#0"]),
        (Detail(stage="unet#1"), ["unet#1"]),
        (Detail(stage=NO_STAGE), []),
    ],
)
def test_a_detail_looks_into_one_stage_or_none_or_the_first_of_each_kind(
    detail: Detail, looked_into: list[str]
):
    """The eleventh stage of a kind is not taken for the first one."""
    stages = [Stage("unet", index) for index in (0, 1, 10)]
    stages.append(Stage("vae.decode", 0))
    assert [stage.name for stage in stages if detail.looks_into(stage)] == looked_into


def test_a_detail_is_read_from_a_request():
    """A key that is missing has its default; modules are named with the kind of their stage."""
    assert Detail.read({}) == Detail()
    found = Detail.read({"stage": "unet#0", "to_end": True, "feed": ["unet/", "vae.decode/up.0"]})
    whole, inside = ModuleSite("unet", ""), ModuleSite("vae.decode", "up.0")
    assert found == Detail("unet#0", to_end=True, feed=frozenset({whole, inside}))
    assert found.last_stage is None


def test_a_stage_s_own_code_has_the_label_that_the_protocol_says():
    """The judge's half asks for it by that label."""
    assert OWN_CALL.label == OWN_CODE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_perturbation_never_makes_an_infinity(dtype: torch.dtype):
    """The largest number stays, whichever way it would go; its neighbours move."""
    largest = torch.finfo(dtype).max
    tensor = torch.tensor([largest, -largest, 1.0, -1.0] * 64, dtype=dtype)
    moved = perturbed(tensor, "any")
    assert torch.isfinite(moved).all()
    assert (moved != tensor).any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' Heun calls numpy's old way
def test_the_state_of_a_solver_is_no_table(recorder: Recorder, tmp_path: Path):
    """Heun's derivative comes of the denoiser, and its sigmas of the settings alone."""
    path = tmp_path / "scenario.yaml"
    keys = {"pipeline": "StableDiffusionPipeline", "checkpoint": "{bundled: digits-sd}"}
    keys["scheduler"] = "{class: HeunDiscreteScheduler}"
    call = "{prompt: a handwritten seven, num_inference_steps: 2, output_type: np}"
    path.write_text(builders.scenario_text(call=call, **keys), encoding="utf-8")
    request: Any = {**read(path).cases()[0].request(), "rounds": 0}
    recorder.record(request, tmp_path / "recording")
    tables = Recording.read(tmp_path / "recording").inputs.tables["scheduler"]
    assert {"sigmas", "timesteps"} <= set(tables)
    assert not {"prev_derivative", "dt", "sample"} & set(tables)


def test_what_the_run_does_not_read_of_a_stage_is_not_kept(recorder: Recorder, tmp_path: Path):
    """Of a text encoder, the pipeline takes the hidden state; the pooled one goes nowhere."""
    path = tmp_path / "scenario.yaml"
    keys = {"pipeline": "StableDiffusionPipeline", "checkpoint": "{bundled: digits-sd}"}
    call = "{prompt: a handwritten seven, num_inference_steps: 1, output_type: np}"
    path.write_text(builders.scenario_text(call=call, **keys), encoding="utf-8")
    request: Any = {**read(path).cases()[0].request(), "rounds": 0}
    recorder.record(request, tmp_path / "recording")
    recording = Recording.read(tmp_path / "recording")
    (observed,) = (each for each in recording.stages if each.name == "text_encoder#0")
    assert {"last_hidden_state", "pooler_output"} <= set(observed.outputs)
    kept = {key for stage, key in recording.stage_tensors if str(stage) == "text_encoder#0"}
    assert kept == {"last_hidden_state"}


def test_what_a_baseline_holds_is_kept_even_if_nobody_reads_it(recorder: Recorder, tmp_path: Path):
    """A baseline that an older release recorded still judges every tensor that it has."""
    capture = Capture(SimpleNamespace(scheduler_configuration=dict), {"stage/text#0/0": ONES})
    capture.on_stage(Stage("text", 0), {}, torch.zeros(2))
    capture.on_stage(Stage("text", 1), {}, torch.zeros(2))
    assert list(capture.tensors()) == ["stage/text#0/0"]


def test_a_result_is_kept_as_the_stage_returned_it():
    """Kandinsky zeroes embeddings in place before the next stage: the bound on them was 12."""
    view = SimpleNamespace(scheduler_configuration=lambda: {"scheduler": {}})
    capture = Capture(view)  # type: ignore[arg-type]
    result = torch.ones(2, 3)
    capture.on_stage(Stage("text_encoder", 0), {}, {"states": result})
    result.zero_()
    capture.on_stage(Stage("unet", 0), {"states": result}, {"sample": torch.ones(1)})
    assert torch.equal(capture.tensors()["stage/text_encoder#0/states"], torch.ones(2, 3))


def test_a_perturbation_reaches_what_an_encoder_takes():
    """Nothing that is fed on reaches it; all else is reached by the first noise."""
    view = SimpleNamespace(scheduler_configuration=lambda: {"scheduler": {}})
    capture = Capture(view, perturbation=3)  # type: ignore[arg-type]
    picture, tokens, spread = torch.ones(4, 4), torch.ones(2, dtype=torch.int64), torch.ones(1)
    taken = {"x": picture, "ids": tokens, "mask": spread.expand(3)}
    capture.before(Stage("vae.encode", 0), taken)
    assert torch.equal(picture, perturbed(torch.ones(4, 4), "3 vae.encode#0 x"))
    assert not (picture == 1).any()
    assert (tokens.tolist(), spread.tolist()) == ([1, 1], [1.0])
    later = torch.ones(4, 4)
    capture.on_draw(Stage("noise", 0), torch.ones(2))
    capture.before(Stage("unet", 0), {"sample": later})
    assert torch.equal(later, torch.ones(4, 4))
    capture.before(Stage("vae.encode", 1), {"x": later})
    assert torch.equal(later, perturbed(torch.ones(4, 4), "3 vae.encode#1 x"))


def test_without_a_perturbation_nothing_that_a_stage_takes_is_changed():
    """An ordinary run only looks."""
    capture = Capture(SimpleNamespace())  # type: ignore[arg-type]
    picture = torch.ones(4, 4)
    capture.before(Stage("vae.encode", 0), {"x": picture})
    assert torch.equal(picture, torch.ones(4, 4))


def test_what_goes_into_a_clamp_that_decides_a_step_is_kept(record: Record):
    """A U-Net that predicts no noise leaves all of it to the division by a number near zero."""
    fault = {"kind": "weights", "component": "unet", "modules": "convolution", "at": 0.999}
    recording = record("blind", fault={**fault, "how": "zero"})
    assert recording.clamps == {"scheduler.step#0": ClampLimits(-1.0, 1.0)}
    went_in = recording.tensors["stage/scheduler.step#0/clamped"]
    assert np.abs(went_in).mean() > 8
    assert record("plain").clamps == {}
