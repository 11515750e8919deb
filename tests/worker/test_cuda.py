"""CUDA as far as a CPU can tell: a pretended GPU does its work on the CPU.

It has the facts of a real one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import pretended
import pytest
import torch

from harness.records import Comparison, Conditions, Verdict
from harness.scenario.reading import read
from harness.scenario.weights import DATA
from harness.store.recording import Recording, Repeat
from harness.store.run_folder import read_results
from harness.study import challenge, platforms
from harness.study.fault_catalogue import catalogue
from harness.worker.conditions import cost, numerics
from harness.worker.observe import slot
from harness.worker.observe.tensors import digest_on_device
from harness.worker.pipeline.torch_ import Torch
from harness.worker.protocol import OUTPUT, CannotRunHere
from harness.worker.recorder import Recorder

Shop = Any  # the fixture `shop` of the tests' own conftest


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pretended.Gpu]:
    """Pretend that this machine has an H200."""
    made = pretended.Gpu(pretended.H200)
    for fact in pretended.told(made):
        monkeypatch.setattr(*fact)
    # Its tensors lie on the CPU, but are to be digested as those of a GPU.
    monkeypatch.setattr(slot, "digest_later", digest_on_device)
    cost._nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", pretended.nvml(pretended.IDLE))
    with pretended.OnTheCpu(made.log):
        yield made
    cost._nvml.cache_clear()


def recorded(folder: Path, device: str, **changes: str | None) -> Recording:
    """Record the smallest scenario, with changes to its keys, on a device, in this process."""
    path = folder / "scenario.yaml"
    text = builders.scenario_text(cases=f"{{device: {device}}}", **changes)
    path.write_text(text, encoding="utf-8")
    Recorder(drop).record(read(path).cases()[0].request(), folder / device)
    return Recording.read(folder / device)


def drop(event: str, **fields: Any) -> None:
    """Drop an event."""


GPU_CASE = "digits[cuda-float32]"
SD = {
    "pipeline": "StableDiffusionPipeline",
    "checkpoint": f"{{path: {DATA / 'bundled' / 'digits-sd'}}}",
    "call": "{prompt: a two, num_images_per_prompt: 2, num_inference_steps: 3, output_type: np}",
    "seed": "[0, 1]",
}


@pytest.mark.parametrize("generator", ["cpu", "device"])
def test_a_case_goes_the_whole_way_on_a_gpu(gpu, tmp_path, generator):
    """Noise, stages, modules and outputs are those of the CPU, which does the work."""
    on_gpu = recorded(tmp_path, "cuda", generator=generator, cost="{rounds: 3}", **SD)
    on_cpu = recorded(tmp_path, "cpu", generator=generator, cost="{rounds: 3}", **SD)
    assert on_gpu.outputs == on_cpu.outputs
    assert on_gpu.stages == on_cpu.stages
    assert on_gpu.modules_inside("unet#0") == on_cpu.modules_inside("unet#0") != []
    assert on_gpu.noise == on_cpu.noise
    repeat = Repeat(runs=3, distinct=1, l_inf=0.0, instrumented_equals_plain=True)
    assert on_gpu.repeat == repeat


def test_its_facts_are_in_the_recording(gpu, tmp_path):
    """They tell one GPU type from another, and may explain other bits."""
    environment = recorded(tmp_path, "cuda").environment
    facts = {
        "name": "NVIDIA H200",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "cuda": "13.0",
    }
    assert environment.device_kind == "nvidia-h200"
    assert environment.gpu.items() >= facts.items()
    assert environment.numerics_class.name.startswith("cuda-h200-sm90-")


def test_a_slice_of_a_gpu_is_a_class_of_its_own(gpu):
    """The probed operators have the same bits there, but larger ones depend on the slice."""
    classes = []
    for facts in (pretended.H200, pretended.SLICE):
        gpu.facts = SimpleNamespace(**facts)
        classes.append(numerics.numerics_class(torch.device("cuda"), torch.float32))
    whole, part = classes
    assert whole["operators"] == part["operators"]
    assert whole["hash"] != part["hash"]
    assert part["name"].startswith("cuda-h200-mig-1g-18gb-sm90-")


def parts(log: list[str]) -> list[list[str]]:
    """Return what was asked of the GPU inside each measured run.

    That is from one `reset` to the `wait` after it.
    """
    starts = [index for index, what in enumerate(log) if what == "reset"]
    return [log[start + 1 : log.index("wait", start)] for start in starts]


def test_nothing_waits_for_it_inside_a_timed_run(gpu, tmp_path):
    """A step leaves an event in the queue; the pipeline itself fetches the image, once."""
    recording = recorded(
        tmp_path, "cuda", call="{num_inference_steps: 3, output_type: np}", cost="{rounds: 2}"
    )
    instrumented, timed = parts(gpu.log)
    assert [what for what in timed if what != "fetch"] == ["event"] * 3
    assert recording.cost.peak_bytes == 4096
    assert 0 < 2 * recording.cost.step_seconds["scheduler"] < recording.cost.seconds
    kept = [name for name in recording.tensors if not name.startswith(OUTPUT)]
    assert instrumented.count("fetch") - timed.count("fetch") == len(kept)


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
    """nvidia-ml-py tells them for every timed run; an idle GPU is not held down."""
    monkeypatch.setitem(sys.modules, "pynvml", pretended.nvml(reasons))
    recording = recorded(tmp_path, "cuda", cost="{rounds: 2}")
    (found,) = recording.cost.conditions
    assert found.waited >= 0
    facts = {"mhz": 1755, "most_mhz": 1980, "celsius": 61, "watts": 412.0}
    assert found == Conditions(waited=found.waited, slowed_by=tuple(slowed_by), **facts)


def test_what_a_gpu_does_not_tell_is_left_out(gpu, tmp_path, monkeypatch):
    """What held its clock down is recorded all the same."""

    def unsupported(of: str) -> int:
        raise RuntimeError

    nvml = pretended.nvml(pretended.POWER_CAP)
    nvml.nvmlDeviceGetPowerUsage = unsupported
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (found,) = recorded(tmp_path, "cuda", cost="{rounds: 2}").cost.conditions
    assert (found.mhz, found.most_mhz, found.celsius, found.watts) == (1755, 1980, 61, None)
    assert found.slowed_by == ("power cap",)


def test_without_its_package_nothing_is_known_of_clocks(gpu, tmp_path, monkeypatch):
    """The run is none the worse for it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (found,) = recorded(tmp_path, "cuda", cost="{rounds: 2}").cost.conditions
    assert found == Conditions(waited=found.waited)


@pytest.fixture
def gpu_shop(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A folder with a scenario for both devices and its baseline of the CPU.

    Workers have the pretended GPU.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "with_gpu"))
    shop.scenario(
        cases="{device: [cpu, cuda]}",
        reference="{device: cpu, dtype: float32}",
        tolerance="{cross-class: {rel_l2: 1.0e-5, local_rel_l2: 1.0e-5}}",
    )
    assert shop.harness("record", "--device", "cpu").code == 0
    return shop


def judged(shop: Shop, name: str) -> tuple[Verdict, Comparison]:
    """Run the scenario on the GPU; return the verdict, and which kind of baseline judged it."""
    done = shop.harness("run", "--device", "cuda", "--out", name)
    assert done.code == 0, done.out
    (outcome,) = read_results(shop.root / name).outcomes
    assert outcome.case == GPU_CASE
    assert outcome.baseline is not None
    return outcome.verdict, outcome.baseline.comparison


def test_a_gpu_is_judged_by_the_cpu_s_baseline_until_it_has_its_own(gpu_shop, monkeypatch):
    """Another dispatch of the CPU, which does the work, makes another class of the GPU."""
    assert judged(gpu_shop, "first") == (Verdict.IDENTICAL, Comparison.CROSS_CLASS)
    assert gpu_shop.harness("record", "--device", "cuda").code == 0
    assert judged(gpu_shop, "own") == (Verdict.IDENTICAL, Comparison.SAME_CLASS)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert judged(gpu_shop, "other") == (Verdict.WITHIN, Comparison.CROSS_CLASS)
    why = gpu_shop.harness("explain", "other", GPU_CASE, "--root-causes", "1").out
    assert "ATEN_CPU_CAPABILITY default -> unset explains 100 % of the drift" in why


@pytest.mark.slow
def test_bounds_are_measured_and_challenged_with_a_gpu(gpu_shop, monkeypatch):
    """The GPU is a platform of calibration, and the other class of a challenge."""
    monkeypatch.setattr(platforms, "PLATFORMS", {})
    options = ("scenarios/digits.yaml", "--device", "cpu")
    few = ("--seeds", "1", "--perturbations", "1")
    calibrated = gpu_shop.harness("calibrate", *options, *few).out
    assert "leaving one platform out: 5 of 5 are admitted by the others' bounds" in calibrated
    assert "not measured: cuda-mem-efficient: " in calibrated
    monkeypatch.setattr(challenge, "catalogue", lambda denoiser: catalogue(denoiser)[:1])
    challenged = gpu_shop.harness("challenge", *options, "--platform", "cuda").out
    assert "the other class is cuda" in challenged
    assert re.search(r"harness, same class +1 of 1", challenged), challenged


def test_a_gate_can_ask_for_a_gpu_type(gpu_shop):
    """What ran on the H200 is let through, and what ran on the CPU alone is not."""
    policy = "description: D\nrequire:\n  - {scenarios: digits, on: nvidia-h200}\n"
    (gpu_shop.root / "policy.yaml").write_text(policy, encoding="utf-8")
    gpu_shop.harness("run", "--device", "cuda", "--out", "on-gpu")
    gpu_shop.harness("run", "--device", "cpu", "--out", "on-cpu")
    codes = [
        gpu_shop.harness("gate", run, "--policy", "policy.yaml").code
        for run in ("on-gpu", "on-cpu")
    ]
    assert codes[0] == 0
    assert codes[1] != 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_a_case_cannot_run():
    """It is unverified; it does not fail."""
    with pytest.raises(CannotRunHere, match="no CUDA device on this machine"):
        Torch("cuda")
