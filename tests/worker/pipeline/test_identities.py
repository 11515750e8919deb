"""Executions that should change nothing: which of them leave every bit, and how far others move.

A team relies on them when it switches a feature on. What breaks an identity is told in
docs/measurements/variants.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapter_files
import builders
import numpy as np
import pytest

from harness.scenario.weights import DATA
from harness.store.recording import Recording
from harness.worker.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")

Changes = Callable[[Path], dict[str, Any]]
PIPELINES = {
    "digits-sd": (
        "StableDiffusionPipeline",
        {"prompt": "a handwritten seven", "guidance_scale": 4.0},
    ),
    "digits-flux": (
        "FluxPipeline",
        {"prompt": "a handwritten seven", "guidance_scale": 1.0, "height": 16, "width": 16},
    ),
}
CLOSE = 1e-5  # relative L2, of executions that sum in another order


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    """One recorder for all tests, so that what a case leaves behind meets the next one."""
    return Recorder(lambda *_, **__: None)


@pytest.fixture
def made(recorder: Recorder, tmp_path: Path) -> Callable[..., np.ndarray]:
    """Make a batch of two images in two steps, with changes to the request."""

    def make(model: str, **changes: Any) -> np.ndarray:
        pipeline, call = PIPELINES[model]
        request: Any = {
            **builders.case(pipeline=pipeline).request(),
            "checkpoint": {
                "kind": "bundled",
                "name": model,
                "folder": str(DATA / "bundled" / model),
            },
            "call": {**call, "num_inference_steps": 2, "output_type": "np"},
            "seeds": [0, 1],
            "rounds": 0,
            **changes,
        }
        request["call"].setdefault("num_images_per_prompt", len(request["seeds"]))
        recorder.record(request, tmp_path / "recording")
        recording = Recording.read(tmp_path / "recording")
        assert all(effect.took_effect for effect in recording.effects)
        return recording.output_tensors["image"]

    return make


def lora(folder: Path, scale: float = 1.0) -> list[dict[str, Any]]:
    path = adapter_files.lora(folder / "ink.safetensors")
    source = {"kind": "path", "name": "ink", "folder": str(path)}
    return [{"kind": "lora", "source": source, "settings": {"scale": scale}}]


def lora_at_zero(folder: Path) -> dict[str, Any]:
    return {"adapters": lora(folder, scale=0.0)}


def lora_unloaded(folder: Path) -> dict[str, Any]:
    return {"adapters": lora(folder), "lora_then": ["unload"]}


def offloaded(component: str) -> Changes:
    settings = {"offload_type": "leaf_level", "offload_device": "disk"}
    return lambda _: {"executions": {"group_offload": {component: settings}}}


def cache_that_never_hits(_: Path) -> dict[str, Any]:
    return {"executions": {"cache": {"first_block": {"threshold": 0.0}}}}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("digits-sd", lora_at_zero),
        ("digits-sd", lora_unloaded),
        ("digits-sd", offloaded("unet")),
        ("digits-flux", offloaded("transformer")),
        ("digits-flux", cache_that_never_hits),
    ],
    ids=[
        "lora-at-scale-0",
        "lora-loaded-then-unloaded",
        "group-offload-of-a-unet",
        "group-offload-of-a-transformer",
        "cache-at-threshold-0",
    ],
)
def test_an_identity_that_holds_leaves_every_bit(
    model: str, changes: Changes, made, tmp_path: Path
):
    """Switched on, and then off again: the plain execution has its bits too."""
    plain = made(model)
    assert np.array_equal(made(model, **changes(tmp_path)), plain)
    assert np.array_equal(made(model), plain)


@pytest.mark.parametrize("model", PIPELINES)
def test_the_order_of_a_batch_moves_no_bit(model: str, made):
    """Each image is that of its seed, wherever it stands."""
    assert np.array_equal(made(model, seeds=[1, 0]), made(model)[::-1])


@pytest.mark.parametrize("enabled", ["attention_slicing", "vae_slicing"])
def test_a_memory_saver_that_computes_in_slices_stays_close(enabled: str, made):
    """It sums in another order, so that not every bit stays."""
    assert distance(made("digits-sd", enable=[enabled]), made("digits-sd")) <= CLOSE


@pytest.mark.parametrize("model", PIPELINES)
def test_a_batch_that_is_split_stays_close(model: str, made):
    """Other shapes choose other kernels."""
    singles = [made(model, seeds=[seed]) for seed in (0, 1)]
    assert distance(np.concatenate(singles), made(model)) <= CLOSE


def test_a_lora_that_was_fused_and_taken_out_again_stays_close(made, tmp_path: Path):
    """What is added to a weight and subtracted again leaves a rounding error in it."""
    loaded = made("digits-sd", adapters=lora(tmp_path))
    for then in (["fuse"], ["fuse", "unfuse"]):
        other = made("digits-sd", adapters=lora(tmp_path), lora_then=then)
        assert distance(other, loaded) <= CLOSE


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 distance of two batches of images."""
    wide = expected.astype(np.float64)
    return float(np.linalg.norm(actual - wide) / np.linalg.norm(wide))
