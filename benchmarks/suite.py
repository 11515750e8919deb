"""Writes a suite of 24 cases over four checkpoints, as scenarios and as plain pytest functions.

The plain functions are what users write without the harness. `targets.py` runs both; this file is
no program.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.scenario.weights import DATA

CASES = 24
PROMPTS = ["a handwritten two", "a handwritten seven"]
PLAIN = """\
import diffusers, numpy, pytest, torch

torch.use_deterministic_algorithms(True)  # what a worker sets too; without it, the bits differ
torch.backends.mkldnn.deterministic = True
torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.conv.fp32_precision = "ieee"
torch.backends.cuda.enable_flash_sdp(False)
torch.backends.cuda.enable_mem_efficient_sdp(False)

CASES = {cases!r}

@pytest.mark.parametrize("name", CASES)
def test_case(name):
    folder, pipeline, call, seed = CASES[name]
    pipe = getattr(diffusers, pipeline).from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(**call, generator=torch.Generator("cpu").manual_seed(seed)).images
    numpy.save(f"{images}/{{name}}.npy", images)
"""


@dataclass(frozen=True)
class Weights:
    """A checkpoint of the suite: its folder, and the pipeline that it is loaded into."""

    folder: str
    pipeline: str


@dataclass(frozen=True)
class SuiteCase:
    """One case of the suite."""

    weights: Weights
    call: dict[str, object]
    seed: int

    def scenario(self) -> dict[str, object]:
        """Return the case as a scenario."""
        return {
            "description": "A case.",
            "pipeline": self.weights.pipeline,
            "checkpoint": {"path": self.weights.folder},
            "call": self.call,
            "seed": self.seed,
        }

    def plain(self) -> tuple[str, str, dict[str, object], int]:
        """Return the case as the plain pytest functions take it."""
        return self.weights.folder, self.weights.pipeline, self.call, self.seed


def write(root: Path, steps: int = 2) -> list[str]:
    """Write checkpoints, scenarios and `test_plain.py` below a folder.

    Half of the cases take `steps` steps, the others one more. The plain functions leave their
    images in `root / "images"`.

    Returns:
        The names of the cases.
    """
    cases = _cases(_checkpoints(root), steps)
    scenarios = root / "scenarios"
    scenarios.mkdir()
    images = root / "images"
    images.mkdir()
    for name, case in cases.items():
        text = json.dumps(case.scenario())  # JSON is YAML
        (scenarios / f"{name}.yaml").write_text(text, encoding="utf-8")
    plain = {name: case.plain() for name, case in cases.items()}
    text = PLAIN.format(cases=plain, images=images)
    (root / "test_plain.py").write_text(text, encoding="utf-8")
    return list(cases)


def _checkpoints(root: Path) -> dict[str, Weights]:
    """Return the checkpoints by name: two bundled ones, and two that are written below `root`."""
    bundled = DATA / "bundled"
    return {
        "digits-ddpm": Weights(str(bundled / "digits-ddpm"), "DDIMPipeline"),
        "digits-sd": Weights(str(bundled / "digits-sd"), "StableDiffusionPipeline"),
        "cifar10": Weights(_saved(root / "cifar10", 1), "DDIMPipeline"),
        "cifar10-half": Weights(_saved(root / "cifar10-half", 2), "DDIMPipeline"),
    }


def _cases(checkpoints: dict[str, Weights], steps: int) -> dict[str, SuiteCase]:
    names = list(checkpoints)
    cases = {}
    for index in range(CASES):
        name = names[index % len(names)]
        call: dict[str, object] = {
            "num_inference_steps": steps + index // (CASES // 2),
            "output_type": "np",
        }
        if name == "digits-sd":
            call["prompt"] = PROMPTS[index % 8 // 4]
        cases[f"{name}-{index}"] = SuiteCase(checkpoints[name], call, seed=index)
    return cases


def _saved(folder: Path, divisor: int) -> str:
    """Save the architecture of google/ddpm-cifar10-32 with synthetic weights; return the folder.

    Args:
        folder: Where to save it.
        divisor: By how much the widths of its blocks are divided.
    """
    # These import torch, which `targets.py` must not have in its process where it times others.
    from harness.worker.pipeline.library import pipeline_class
    from harness.worker.pipeline.synthetic import synthesize
    from harness.worker.pipeline.torch_ import Torch

    source = folder.with_suffix(".source")
    shutil.copytree(DATA / "synthetic" / "ddpm-cifar10-32", source)
    path = source / "unet" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["block_out_channels"] = [width // divisor for width in config["block_out_channels"]]
    path.write_text(json.dumps(config), encoding="utf-8")
    dtypes = {"default": "float32"}
    pipeline = synthesize(source, pipeline_class("DDIMPipeline"), dtypes, Torch("cpu"))
    pipeline.save_pretrained(folder)
    return str(folder)
