"""Components in ONNX Runtime: close to torch, seen to run, and refused where they cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
import torch

from harness.scenario.weights import DATA
from harness.store.recording import Recording
from harness.worker.pipeline.executions import onnx
from harness.worker.protocol import CannotRunHere, CaseError
from harness.worker.recorder import Recorder

# The exporter warns of what torch and onnxscript will change.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Recording]:
    """Record two steps of `digits-sd`, with changes to the request."""
    recorder = Recorder(lambda *_, **__: None)

    def run(name: str, **changes: Any) -> Recording:
        folder = str(DATA / "bundled" / "digits-sd")
        request: Any = {
            **builders.case(pipeline="StableDiffusionPipeline").request(),
            "checkpoint": {"kind": "bundled", "name": "digits-sd", "folder": folder},
            "call": {
                "prompt": "a handwritten seven",
                "num_inference_steps": 2,
                "output_type": "np",
            },
            "rounds": 0,
            **changes,
        }
        recorder.record(request, tmp_path / name)
        return Recording.read(tmp_path / name)

    return run


@pytest.mark.slow
def test_exported_components_give_the_same_stages_and_nearly_the_same_image(record):
    """The baseline of torch is the teacher of a second run, so that each stage shows its own."""
    plain = record("plain")
    asked = {"executions": {"onnx": ["unet", "text_encoder"]}}
    exported = record("onnx", **asked)
    assert [(each.asked, each.seen, each.took_effect) for each in exported.effects] == [
        ("onnx: unet", "1 graph exported, run 2 times by CPUExecutionProvider", True),
        ("onnx: text_encoder", "1 graph exported, run 2 times by CPUExecutionProvider", True),
    ]
    assert [stage.name for stage in exported.stages] == [stage.name for stage in plain.stages]
    assert 0 < distance(exported, plain) < 1e-5
    assert "-onnx-" in exported.numerics_class.name
    assert exported.numerics_class.hash != plain.numerics_class.hash
    assert "onnxruntime" in exported.environment.versions
    forced = record("forced", **asked, teacher_tensors=str(plain.tensors_path))
    assert distance(forced, plain) == 0  # the VAE is torch's, and was fed with the teacher's
    assert results_of(forced, "unet#1") != results_of(plain, "unet#1")
    assert distance(record("again"), plain) == 0  # the next case finds the components as they were


def results_of(recording: Recording, name: str) -> object:
    """Return the digests of what a stage returned."""
    (found,) = (stage.outputs for stage in recording.stages if stage.name == name)
    return found


def distance(actual: Recording, expected: Recording) -> float:
    """Return the relative L2 distance of the images."""
    wide = expected.output_tensors["image"].astype(np.float64)
    return float(np.linalg.norm(actual.output_tensors["image"] - wide) / np.linalg.norm(wide))


def test_what_cannot_be_exported_is_an_error_with_the_reason(
    record, monkeypatch: pytest.MonkeyPatch
):
    """Nothing runs in torch in its place."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("data-dependent control flow")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(CaseError, match=r"`onnx: unet` cannot be exported: .*data-dependent"):
        record("refused", executions={"onnx": ["unet"]})


def test_a_component_that_does_not_exist_is_refused(record):
    """By the names of those that there are."""
    with pytest.raises(CaseError, match=r"no component `unit` with weights.*did you mean `unet`"):
        record("refused", executions={"onnx": ["unit"]})


def test_without_its_packages_or_on_a_gpu_it_cannot_run_here(monkeypatch: pytest.MonkeyPatch):
    """The reason holds the command that installs them."""
    with pytest.raises(CannotRunHere, match="this case runs on a GPU"):
        onnx.exports_of(None, ["unet"], torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CannotRunHere, match=r"pip install 'diffusion-harness\[onnx\]'"):
        onnx.facts()
