"""Runs variants of four kinds of pipelines, each held to its contract with the plain execution.

The pipelines are Stable Diffusion, the same from an image, a flow-matching transformer, and video;
all of them are small and need no download. Among the variants are the identities that a team relies
on when it switches a feature on: that a memory saver, offloading, a cache which never hits, a LoRA
at scale 0, one that was fused and taken out again, one that was unloaded, another order of the
batch or its images one by one do not move a bit.

    python benchmarks/variants.py                     # all four; some 30 minutes on two cores
    python benchmarks/variants.py sd img2img          # some of them

It writes the scenarios and the run to `--out`, and prints the table of variants as Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.judge.reasons import difference
from harness.records import ContractState, Outcome
from harness.report import variants
from harness.report.markdown import markdown_table
from harness.scenario.reading import read_all
from harness.scenario.weights import DATA
from harness.session import Session
from harness.store.baselines import Store

TIMED = "cost: {rounds: 4}\n"

# What applies to every pipeline; {denoiser} is its component that runs in every step.
OF_ALL = """\
  twice: {{contract: identical}}
  compiled: {{compile: {{}}, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  flash: {{attention: flash, contract: no-worse}}
  not-deterministic: {{determinism: default, contract: no-worse}}
  portable: {{profile: portable, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  fused-qkv: {{fuse-qkv: {denoiser}, contract: no-worse}}
  float8-weights:
    layerwise-casting: {{{denoiser}: float8_e4m3fn}}
    contract: {{local_rel_l2: 0.2}}
  group-offload:
    group-offload: {{{denoiser}: {{offload_type: leaf_level, offload_device: disk}}}}
    contract: identical
  model-offload: {{enable: model_cpu_offload, contract: identical}}
  sliced-vae: {{enable: vae_slicing, contract: identical}}
  lora: {{lora: {{path: {lora}}}, contract: {{rel_l2: 10.0}}}}
  lora-at-zero: {{lora: {{path: {lora}, scale: 0.0}}, contract: identical}}
  lora-unloaded: {{lora: {{path: {lora}}}, lora-then: unload, contract: identical}}
  lora-fused: {{lora: {{path: {lora}}}, lora-then: fuse, contract: {{identical-to: lora}}}}
  lora-unfused:
    lora: {{path: {lora}}}
    lora-then: [fuse, unfuse]
    contract: {{identical-to: lora}}
"""
OF_TRANSFORMER = """\
  cache-never-hits: {cache: {first_block: {threshold: 0.0}}, contract: identical}
  cached: {cache: {first_block: {threshold: 0.1}}, contract: {rel_l2: 0.2}}
"""
OF_UNET = """\
  channels-last: {enable: channels_last, contract: {rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}
  sliced-attention: {enable: attention_slicing, contract: identical}
"""
OF_BATCH = """\
  turned-round: {{seed: [1, 0], contract: {{identical-to: base, images: [1, 0]}}}}
  first-alone:
    seed: 0
    call: {{{count}: 1}}
    contract: {{identical-to: base, images: 0}}
  second-alone:
    seed: 1
    call: {{{count}: 1}}
    contract: {{identical-to: base, images: 1}}
"""
OF_IMAGES, OF_VIDEOS = "num_images_per_prompt", "num_videos_per_prompt"
RANK = 2  # of the LoRAs that are made here

SD = """\
description: Text to image, Stable Diffusion's architecture with trained digits.
pipeline: StableDiffusionPipeline
checkpoint: {bundled: digits-sd}
scheduler: {class: DDIMScheduler}
call:
  prompt: a handwritten seven
  num_images_per_prompt: 2
  num_inference_steps: 10
  guidance_scale: 4.0
  output_type: np
seed: [0, 1]
"""
IMG2IMG = """\
description: Image to image with the same weights.
pipeline: StableDiffusionImg2ImgPipeline
checkpoint: {bundled: digits-sd}
scheduler: {class: DDIMScheduler}
call:
  prompt: a handwritten seven
  image: {pattern: {size: [16, 16], mode: L}}
  strength: 0.8
  num_images_per_prompt: 2
  num_inference_steps: 10
  guidance_scale: 4.0
  output_type: np
seed: [0, 1]
"""
FLUX = """\
description: A flow-matching transformer, the architecture of Flux with trained digits.
pipeline: FluxPipeline
checkpoint: {bundled: digits-flux}
call:
  prompt: a handwritten seven
  num_images_per_prompt: 2
  num_inference_steps: 10
  guidance_scale: 1.0
  height: 16
  width: 16
  output_type: np
seed: [0, 1]
"""
VIDEO = """\
description: Video, a small LTX-Video with synthetic weights.
pipeline: LTXPipeline
checkpoint: {synthetic: ltx-small}
call:
  prompt: a cat
  num_videos_per_prompt: 2
  num_frames: 9
  height: 32
  width: 32
  num_inference_steps: 10
  guidance_scale: 3.0
  output_type: np
seed: [0, 1]
"""


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline: its scenario, and what applies to it.

    Attributes:
        scenario: The scenario without variants.
        denoiser: The component that runs in every step.
        own: The variants that apply to this architecture alone.
        model: The folder of its denoiser's configuration; a LoRA is made for it.
        count: The argument of the call that says how large the batch is.
    """

    scenario: str
    denoiser: str
    own: str
    model: Path
    count: str = OF_IMAGES

    def text(self, lora: Path) -> str:
        """Return the scenario with its variants."""
        common = OF_ALL.format(denoiser=self.denoiser, lora=lora)
        variants = common + self.own + OF_BATCH.format(count=self.count)
        return f"{self.scenario}{TIMED}variants:\n{variants}"


KINDS = {
    "sd": Kind(SD, "unet", OF_UNET, DATA / "bundled" / "digits-sd" / "unet"),
    "img2img": Kind(IMG2IMG, "unet", OF_UNET, DATA / "bundled" / "digits-sd" / "unet"),
    "flux": Kind(
        FLUX, "transformer", OF_TRANSFORMER, DATA / "bundled" / "digits-flux" / "transformer"
    ),
    "video": Kind(
        VIDEO,
        "transformer",
        OF_TRANSFORMER,
        DATA / "synthetic" / "ltx-small" / "transformer",
        OF_VIDEOS,
    ),
}


def make_lora(kind: Kind, path: Path) -> None:
    """Write a LoRA of fixed numbers for every query projection of a denoiser."""
    import diffusers
    import torch
    from safetensors.torch import save_file

    configuration = json.loads((kind.model / "config.json").read_text(encoding="utf-8"))
    found = getattr(diffusers, configuration["_class_name"])
    with torch.device("meta"):
        model = found.from_config(configuration)
    tensors = {}
    for name, layer in model.named_modules():
        if name.endswith(".to_q"):
            numbers = torch.arange(RANK * layer.in_features) % 7 - 3.0
            stem = f"{kind.denoiser}.{name}"
            tensors[f"{stem}.lora_A.weight"] = (numbers / 7).reshape(RANK, -1)
            tensors[f"{stem}.lora_B.weight"] = torch.full((layer.out_features, RANK), 0.05)
    save_file(tensors, path)


def write(folder: Path, names: Sequence[str]) -> list[Path]:
    """Write the scenarios of these names, and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        lora = folder / f"{name}-lora.safetensors"
        make_lora(KINDS[name], lora)
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(KINDS[name].text(lora), encoding="utf-8")
    return paths


def run(paths: Sequence[Path], out: Path) -> list[Outcome]:
    """Run every case of some scenarios, and return the outcomes in the order of the files."""
    cases = [case for scenario in read_all(paths) for case in scenario.cases()]
    with Session(Store(out / "baselines"), out) as session:
        session.run_all(cases, 1, lambda outcome: print(outcome.case, outcome.verdict, flush=True))
    order = {case.id: index for index, case in enumerate(cases)}
    return sorted(session.outcomes, key=lambda outcome: order[outcome.case])


def broken(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each contract that does not hold, with the first stage that differs."""
    lines = []
    for outcome in outcomes:
        held = outcome.contract
        if held is None or held.state is ContractState.HOLDS:
            continue
        first = held.first_difference
        where = "" if first is None else f"; first difference: {difference(first)}"
        lines.append(f"- {outcome.case}: {held.message if first is None else held.state}{where}")
    return lines


def not_run(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each case that left no recording."""
    return [
        f"- {outcome.case}: {outcome.verdict}: {outcome.message}"
        for outcome in outcomes
        if outcome.cost is None and outcome.contract is None
    ]


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*KINDS, []], metavar="NAME")
    parser.add_argument("--out", metavar="DIR", help="default: a folder that is removed")
    arguments = parser.parse_args()
    names = arguments.names or list(KINDS)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(arguments.out or temporary)
        outcomes = run(write(out / "scenarios", names), out)
    print(markdown_table(variants.HEADINGS, variants.rows(outcomes)))
    for heading, lines in (
        ("Not holding", broken(outcomes)),
        ("Not run", not_run(outcomes)),
        ("Seconds not compared", [f"- {line}" for line in variants.notes(outcomes)]),
    ):
        if lines:
            print(f"\n{heading}:\n")
            print("\n".join(lines))


if __name__ == "__main__":
    main()
