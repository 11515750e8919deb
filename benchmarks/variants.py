"""Runs variants of four kinds of pipelines, each held to its contract with the plain execution.

The pipelines are Stable Diffusion, the same from an image, a flow-matching transformer, and video;
all of them are small and need no download. Among the variants are the identities that a team relies
on when it switches a feature on: that a memory saver, a cache which never hits, a LoRA at scale 0,
or another order of the batch does not move a bit.

    python benchmarks/variants.py                     # all four; some 15 minutes on two cores
    python benchmarks/variants.py sd img2img          # some of them

It writes the scenarios and the run to `--out`, and prints the table of variants as Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import ROOT

from harness.judge.reasons import difference
from harness.records import ContractState, Outcome
from harness.report import variants
from harness.report.markdown import markdown_table
from harness.scenario.reading import read_all
from harness.session import Session
from harness.store.baselines import Store

TIMED = "cost: {rounds: 6}\n"

# What applies to the denoiser of every pipeline; {denoiser} is its component.
OF_DENOISER = """\
  channels-last: {{enable: channels_last, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  compiled: {{compile: {{}}, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  flash: {{attention: flash, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  not-deterministic: {{determinism: default, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  portable: {{profile: portable, contract: {{rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}}}
  twice: {{contract: identical}}
"""
OF_TRANSFORMER = """\
  cache-never-hits: {cache: {first_block: {threshold: 0.0}}, contract: identical}
  cached: {cache: {first_block: {threshold: 0.1}}, contract: {rel_l2: 0.2}}
  fused-qkv: {fuse-qkv: transformer, contract: {rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}
  float8-weights: {layerwise-casting: {transformer: float8_e4m3fn}, contract: {local_rel_l2: 0.2}}
"""
OF_UNET = """\
  sliced-attention: {enable: attention_slicing, contract: identical}
  sliced-vae: {enable: vae_slicing, contract: identical}
  fused-qkv: {fuse-qkv: unet, contract: {rel_l2: 1.0e-4, local_rel_l2: 1.0e-5}}
  float8-weights: {layerwise-casting: {unet: float8_e4m3fn}, contract: {local_rel_l2: 0.2}}
"""
OF_BATCH = """\
  turned-round: {seed: [1, 0], contract: {identical-to: base, images: [1, 0]}}
  first-alone:
    seed: 0
    call: {num_images_per_prompt: 1}
    contract: {identical-to: base, images: 0}
  second-alone:
    seed: 1
    call: {num_images_per_prompt: 1}
    contract: {identical-to: base, images: 1}
"""
LORA = """\
  lora-at-zero: {{lora: {{path: {lora}, scale: 0.0}}, contract: identical}}
  lora: {{lora: {{path: {lora}}}}}
"""

SD = (
    """\
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
    + TIMED
    + "variants:\n"
    + OF_DENOISER.format(denoiser="unet")
    + OF_UNET
    + OF_BATCH
)
IMG2IMG = (
    """\
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
    + TIMED
    + "variants:\n"
    + OF_DENOISER.format(denoiser="unet")
    + OF_UNET
    + OF_BATCH
)
FLUX = (
    """\
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
    + TIMED
    + "variants:\n"
    + OF_DENOISER.format(denoiser="transformer")
    + OF_TRANSFORMER
    + OF_BATCH
)
VIDEO = (
    """\
description: Video, a small LTX-Video with synthetic weights.
pipeline: LTXPipeline
checkpoint: {synthetic: ltx-small}
call:
  prompt: a cat
  num_frames: 9
  height: 32
  width: 32
  num_inference_steps: 10
  guidance_scale: 3.0
  output_type: np
"""
    + TIMED
    + "variants:\n"
    + OF_DENOISER.format(denoiser="transformer")
    + OF_TRANSFORMER
    + "  sliced-vae: {enable: vae_slicing, contract: identical}\n"
)
SCENARIOS = {"sd": SD, "img2img": IMG2IMG, "flux": FLUX, "video": VIDEO}
WITH_LORA = ("sd", "img2img")
BOLD = ROOT / "harness" / "data" / "bundled" / "digits-lora-bold"


def write(folder: Path, names: Sequence[str]) -> list[Path]:
    """Write the scenarios of these names, and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        text = SCENARIOS[name]
        if name in WITH_LORA and BOLD.is_dir():
            text += LORA.format(lora=BOLD)
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
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
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS, []], metavar="NAME")
    parser.add_argument("--out", metavar="DIR", help="default: a folder that is removed")
    arguments = parser.parse_args()
    names = arguments.names or list(SCENARIOS)
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
