"""A suite of 24 cases over four checkpoints, as scenarios and as the plain pytest functions that users write without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.scenario.model import DATA
from harness.worker.pipeline import checkpoints
from harness.worker.pipeline.torch_ import Torch

PLAIN = """\
import diffusers, numpy, pytest, torch

torch.use_deterministic_algorithms(True)  # what a worker sets too: else the bits are others
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
    numpy.save(f"{made}/{{name}}.npy", images)
"""
PROMPTS = ["a handwritten two", "a handwritten seven"]


def write(root: Path, steps: int = 2) -> dict[str, tuple[str, str, dict[str, object], int]]:
    """Write checkpoints, scenarios and `test_plain.py` below `root`; return the cases by name: folder, pipeline, call, seed.

    Half of them take `steps`, the others one more.
    """
    folders = {
        "digits-ddpm": (str(DATA / "bundled" / "digits-ddpm"), "DDIMPipeline"),
        "digits-sd": (str(DATA / "bundled" / "digits-sd"), "StableDiffusionPipeline"),
        "cifar10": (_saved(root / "cifar10", 1), "DDIMPipeline"),
        "cifar10-half": (_saved(root / "cifar10-half", 2), "DDIMPipeline"),
    }
    cases: dict[str, tuple[str, str, dict[str, object], int]] = {}
    for index in range(24):
        name = list(folders)[index % 4]
        call: dict[str, object] = {"num_inference_steps": steps + index // 12, "output_type": "np"}
        if name == "digits-sd":
            call["prompt"] = PROMPTS[index % 8 // 4]
        cases[f"{name}-{index}"] = (*folders[name], call, index)
    (root / "scenarios").mkdir()
    (root / "made").mkdir()
    for name, (folder, pipeline, call, seed) in cases.items():
        fields = {
            "description": "A case.",
            "pipeline": pipeline,
            "checkpoint": {"path": folder},
            "call": call,
            "seed": seed,
        }
        (root / "scenarios" / f"{name}.yaml").write_text(
            json.dumps(fields), encoding="utf-8"
        )  # JSON is YAML
    (root / "test_plain.py").write_text(
        PLAIN.format(cases=cases, made=root / "made"), encoding="utf-8"
    )
    return cases


def _saved(folder: Path, divisor: int) -> str:
    """Save cifar10's architecture, its widths divided, with synthetic weights; return the folder."""
    source = Path(
        shutil.copytree(DATA / "synthetic" / "ddpm-cifar10-32", folder.with_suffix(".source"))
    )
    path = source / "unet" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["block_out_channels"] = [width // divisor for width in config["block_out_channels"]]
    path.write_text(json.dumps(config), encoding="utf-8")
    pipeline = checkpoints.synthesize(
        source, checkpoints.named("pipeline", "DDIMPipeline"), {"default": "float32"}, Torch("cpu")
    )
    pipeline.save_pretrained(folder)
    return str(folder)
