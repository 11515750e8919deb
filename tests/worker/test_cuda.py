"""CUDA as far as a CPU can tell: a GPU that is only pretended, with the facts of a real one, does its work on the CPU."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import builders
import pretended
import pytest
import torch

from harness.records import Recording
from harness.scenario.model import DATA, read
from harness.study import challenge, platforms
from harness.study.fault_catalogue import catalogue
from harness.worker.conditions import cost, numerics
from harness.worker.observe import capture, modules
from harness.worker.observe.tensors import digest_on_device
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import CannotRunHere
from harness.worker.recorder import Recorder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pretended.Gpu]:
    """Pretend that this machine has an H200."""
    made = pretended.Gpu(pretended.H200)
    for fact in pretended.told(made):
        monkeypatch.setattr(*fact)
    for module in (
        capture,
        modules,
    ):  # its tensors lie on the CPU, but shall be digested as a GPU's are
        monkeypatch.setattr(module, "digest_later", digest_on_device)
    cost._nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", pretended.nvml(pretended.IDLE))
    with pretended.OnTheCpu(made.log):
        yield made
    cost._nvml.cache_clear()


def recorded(folder: Path, device: str, **changes: str | None) -> Recording:
    """Record the smallest scenario, with changes to its keys, on a device, in this process."""
    path = folder / "scenario.yaml"
    path.write_text(
        builders.scenario_text(cases=f"{{device: {device}}}", **changes), encoding="utf-8"
    )
    Recorder(lambda *_, **__: None).record(read(path).cases()[0].request(), folder / device)
    return Recording.read(folder / device)


SD = {
    "pipeline": "StableDiffusionPipeline",
    "checkpoint": f"{{path: {DATA / 'bundled' / 'digits-sd'}}}",
    "call": "{prompt: a handwritten two, num_images_per_prompt: 2, num_inference_steps: 3, output_type: np}",
    "seed": "[0, 1]",
}


@pytest.mark.parametrize("generator", ["cpu", "device"])
def test_a_case_goes_the_whole_way_on_a_gpu(gpu, tmp_path, generator):
    """With a list of generators of either kind: weights, noise, stages and outputs as on the CPU, which does the work."""
    on_gpu = recorded(tmp_path, "cuda", generator=generator, cost="{rounds: 3}", **SD)
    on_cpu = recorded(tmp_path, "cpu", generator=generator, cost="{rounds: 3}", **SD)
    assert on_gpu.outputs == on_cpu.outputs
    assert on_gpu.stages == on_cpu.stages
    assert on_gpu.inside("modules") == on_cpu.inside("modules")
    assert on_gpu.content["noise"] == on_cpu.content["noise"]
    assert on_gpu.content["repeat"] == {
        "runs": 3,
        "distinct": 1,
        "l_inf": 0.0,
        "watched_as_plain": True,
    }


def test_its_facts_are_in_the_recording(gpu, tmp_path):
    """What tells one GPU type from another, and what may explain other bits."""
    environment = recorded(tmp_path, "cuda").content["environment"]
    assert environment["device_kind"] == "nvidia-h200"
    assert {
        name: environment["hardware"]["gpu"][name]
        for name in ("name", "compute_capability", "multiprocessors", "cuda")
    } == {
        "name": "NVIDIA H200",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "cuda": "13.0",
    }
    assert environment["class"]["name"].startswith("cuda-h200-sm90-")


def test_a_slice_of_a_gpu_is_a_class_of_its_own(gpu):
    """The operators that are tried have the same bits there; larger draws and products depend on the multiprocessors."""
    classes = []
    for facts in (pretended.H200, pretended.SLICE):
        gpu.facts = SimpleNamespace(**facts)
        classes.append(numerics.numerics_class(torch.device("cuda"), torch.float32))
    whole, part = classes
    assert whole["operators"] == part["operators"]
    assert whole["hash"] != part["hash"]
    assert part["name"].startswith("cuda-h200-mig-1g-18gb-sm90-")


def parts(log: list[str]) -> list[list[str]]:
    """Return what was asked of the GPU inside each measured run, from one `reset` to the `wait` after it."""
    starts = [index for index, what in enumerate(log) if what == "reset"]
    return [log[start + 1 : log.index("wait", start)] for start in starts]


def test_nothing_waits_for_it_inside_a_timed_run(gpu, tmp_path):
    """A step leaves an event in the queue; the image is fetched once, by the pipeline itself, to become an array."""
    recording = recorded(
        tmp_path, "cuda", call="{num_inference_steps: 3, output_type: np}", cost="{rounds: 2}"
    )
    _, timed = parts(gpu.log)
    assert [what for what in timed if what != "fetch"] == ["event"] * 3
    found = recording.content["cost"]
    assert found["peak_bytes"] == 4096
    assert 0 < 2 * found["step_seconds"]["scheduler"] < found["seconds"]
    watched, _ = parts(gpu.log)
    kept = [name for name in recording.tensors() if not name.startswith("output/")]
    assert watched.count("fetch") - timed.count("fetch") == len(kept)


@pytest.mark.parametrize(
    ("reasons", "slowed_by"),
    [
        (pretended.IDLE, []),
        (pretended.POWER_CAP, ["power cap"]),
        (pretended.HEAT | pretended.POWER_CAP, ["power cap", "heat, by the driver"]),
    ],
)
def test_clocks_and_what_holds_them_down_are_recorded(
    gpu, tmp_path, monkeypatch, reasons, slowed_by
):
    """By nvidia-ml-py, for every timed run; an idle GPU is not held down."""
    monkeypatch.setitem(sys.modules, "pynvml", pretended.nvml(reasons))
    recording = recorded(tmp_path, "cuda", cost="{rounds: 2}")
    (condition,) = recording.content["cost"]["conditions"]
    assert condition.pop("waited") >= 0
    assert condition == {
        "mhz": 1755,
        "most_mhz": 1980,
        "celsius": 61,
        "watts": 412.0,
        "slowed_by": slowed_by,
    }


def test_what_a_gpu_does_not_tell_is_left_out(gpu, tmp_path, monkeypatch):
    """What held its clock down is told all the same."""

    def unsupported(of: str) -> int:
        raise RuntimeError

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetPowerUsage", unsupported)
    (condition,) = recorded(tmp_path, "cuda", cost="{rounds: 2}").content["cost"]["conditions"]
    assert set(condition) == {"mhz", "most_mhz", "celsius", "slowed_by", "waited"}


def test_without_its_package_nothing_is_known_of_clocks(gpu, tmp_path, monkeypatch):
    """The run is none the worse for it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (condition,) = recorded(tmp_path, "cuda", cost="{rounds: 2}").content["cost"]["conditions"]
    assert set(condition) == {"waited"}


def test_the_whole_harness_works_with_a_gpu(shop, monkeypatch):
    """Judged by the CPU's baseline, recorded, judged by its own, explained, calibrated, challenged, and let through the gate."""
    tolerance = "{cross-class: {rel_l2: 1.0e-5, local_rel_l2: 1.0e-5}}"
    path = str(
        shop.scenario(cases="{device: [cpu, cuda]}", reference="cpu-float32", tolerance=tolerance)
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "with_gpu"))
    assert shop.harness("record", path, "--device", "cpu").code == 0
    first = shop.harness("run", "--device", "cuda", "--out", "first")
    assert (first.code, "digits[cuda-float32]  identical  other class" in first.out) == (0, True), (
        first.out
    )
    assert shop.harness("record", path, "--device", "cuda").code == 0
    own = shop.harness("run", "--device", "cuda", "--out", "own")
    assert (own.code, "digits[cuda-float32]  identical  same class" in own.out) == (0, True), (
        own.out
    )
    monkeypatch.setenv(
        "ATEN_CPU_CAPABILITY", "default"
    )  # which makes another class of the pretended GPU
    second = shop.harness("run", "--device", "cuda", "--out", "second")
    assert (second.code, "digits[cuda-float32]  within   other class" in second.out) == (0, True), (
        second.out
    )
    why = shop.harness("explain", "second", "digits[cuda-float32]", "--roots", "1")
    assert "ATEN_CPU_CAPABILITY default -> unset explains 100 % of the drift" in why.out
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    monkeypatch.setattr(platforms, "PLATFORMS", {})
    calibrated = shop.harness(
        "calibrate", path, "--device", "cpu", "--seeds", "1", "--perturbations", "1"
    )
    assert "leaving one platform out: 5 of 5 are admitted by the others' bounds" in calibrated.out
    assert "not measured: cuda-mem-efficient: " in calibrated.out
    monkeypatch.setattr(challenge, "catalogue", lambda denoiser: catalogue(denoiser)[:1])
    challenged = shop.harness("challenge", path, "--device", "cpu", "--platform", "cuda")
    assert "the other class is cuda" in challenged.out
    assert re.search(r"harness, same class +1 of 1", challenged.out), challenged.out
    (shop.root / "policy.yaml").write_text(
        "description: D\nrequire:\n  - {scenarios: digits, on: nvidia-h200}\n", encoding="utf-8"
    )
    gate = shop.harness("gate", "first", "--policy", "policy.yaml")
    assert gate.code == 0, gate.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_a_case_cannot_run():
    """It is not verified; it does not fail."""
    with pytest.raises(CannotRunHere, match="no CUDA device on this machine"):
        Torch("cuda")
