"""From a run to the operator: a batch that changes an image is found, shrunk and explained.

The pipelines are built on a model that makes image after image, so that no batch changes one; after
it comes a linear layer which, in some of them, sums in another order for some batches.
"""

from __future__ import annotations

import json

import pytest

from harness.records import Reason, Verdict
from harness.store.run_folder import read_results

MODELS = '''"""A U-Net that makes image after image, and then puts a layer over the batch."""

import functools

import torch
from diffusers import UNet2DModel


def never(images):
    """Return the slots that are summed in another order: none."""
    return []


def from_three(images):
    """Return all slots from three images on."""
    return range(len(images)) if len(images) >= 3 else []


def by_neighbour(images):
    """Return the first slot where the third one, and not the first, holds a bright image."""
    is_bright = [bool(image.sum() > 50) for image in images]
    return [0] if len(images) > 2 and is_bright[2] and not is_bright[0] else []


@torch.library.custom_op("servers::smooth", mutates_args=())
def smooth(images: torch.Tensor, rule: str) -> torch.Tensor:
    """Put each row through one matrix; the rows of some slots by two sums of half the length."""
    width = images.shape[-1]
    matrix = 0.75 * torch.eye(width) + 0.25 / width
    smoothed = [torch.matmul(image, matrix) for image in images.split(1)]
    half = width // 2
    for slot in globals()[rule](images):
        upper = torch.matmul(images[slot, ..., :half], matrix[:half])
        lower = torch.matmul(images[slot, ..., half:], matrix[half:])
        smoothed[slot] = (upper + lower)[None]
    return torch.cat(smoothed)


class Smoothing(torch.nn.Module):
    """A linear layer over the rows of images, whose kernel is chosen by a rule."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, images):
        return torch.ops.servers.smooth(images, self.rule)


class ByImage(UNet2DModel):
    """No image sees its batch."""

    rule = "never"

    @functools.wraps(UNet2DModel.__init__)  # diffusers reads a model's settings from it
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.smoothing = Smoothing(self.rule)

    def forward(self, sample, timestep, **kwargs):
        make = super().forward
        images = [make(each, timestep, return_dict=False)[0] for each in sample.split(1)]
        result = self.smoothing(torch.cat(images))
        return type("Output", (dict,), {"sample": result})(sample=result)


class FromThree(ByImage):
    """Another kernel from three images on."""

    rule = "from_three"


class ByNeighbour(ByImage):
    """The first image depends on what is in the third slot."""

    rule = "by_neighbour"
'''
SEEDS = "[0, 3, 4, 5]"


@pytest.fixture
def served(shop):
    """Return a function that writes a scenario of one of the models above, and runs it."""
    (shop.root / "servers").mkdir()
    (shop.root / "servers" / "__init__.py").touch()
    (shop.root / "servers" / "models.py").write_text(MODELS, encoding="utf-8")
    trust = '[tool.harness]\ntrust = ["servers"]\n'
    (shop.root / "pyproject.toml").write_text(trust, encoding="utf-8")

    def run(model, **changes):
        path = shop.scenario(
            "served",
            call="{batch_size: 4, num_inference_steps: 1, output_type: np}",
            seed=SEEDS,
            expect="[repeatable, batch-invariant]",
            components=f"{{unet: {{bundled: digits-ddpm, class: 'servers.models:{model}'}}}}",
            **changes,
        )
        shown = shop.harness("run", str(path), "--out", "run")
        (outcome,) = read_results(shop.root / "run").outcomes
        return outcome, shown

    return run


def test_a_pipeline_that_makes_image_after_image_gets_its_certificate(served, shop):
    """What was tried is told, in the terminal and in the file of results."""
    outcome, shown = served("ByImage")
    assert outcome.reason is Reason.NO_BASELINE, outcome.message
    certificate = outcome.batch
    assert (certificate.compositions, certificate.largest, certificate.runs) == (16, 4, 19)
    assert certificate.counterexample is None
    assert "16 compositions of at most 4 images, none changed an image" in shown.out
    content = json.loads((shop.root / "run" / "results.json").read_text(encoding="utf-8"))
    assert content["outcomes"][0]["batch"]["compositions"] == 16


def test_another_kernel_from_three_images_on_is_found_shrunk_and_named(served, shop):
    """The smallest batch is three times the first image; the operator is named from there."""
    outcome, shown = served("FromThree")
    assert outcome.verdict is Verdict.UNREPEATABLE
    assert outcome.reason is Reason.EXPECTATION_BROKEN
    found = outcome.batch.counterexample
    assert (found.images, found.slot, found.is_smallest) == ((0, 0, 0), 0, True)
    assert "expected `batch-invariant`: image[0] of batch [0, 0, 0] against the same" in shown.out
    assert "for seed in (0, 0, 0)])" in shown.out
    explain = "harness explain run 'served[cpu-float32]'"
    assert f"explain:  {explain}" in shown.out
    told = shop.harness("explain", "run", "served[cpu-float32]", "--root-causes", "1")
    assert told.code == 0, told.err
    assert "batch:    image 0 alone, against slot 0 of [0, 0, 0]" in told.out
    assert "stage:    unet#0: same inputs, different output" in told.out
    assert "module:   smoothing#0 (Smoothing): L-inf" in told.out
    assert "operator: servers.smooth.default of float32 [1, 1, 16, 16]: L-inf" in told.out
    assert "called at servers/models.py:" in told.out
    assert "the batch's result here removes 100 % of the drift" in told.out
    quick = shop.harness("explain", "run")
    assert "batch:    image 0 alone, against slot 0 of [0, 0, 0]" in quick.out


def test_a_neighbour_in_one_slot_is_found_and_named(served):
    """Only the third slot matters, and what is in it; the first image fills the others."""
    outcome, _ = served("ByNeighbour")
    found = outcome.batch.counterexample
    assert (found.images, found.slot, found.is_smallest) == ((0, 0, 3), 0, True)


def test_no_reproducer_is_claimed_for_a_batch(served, shop):
    served("FromThree")
    refused = shop.harness("explain", "run", "served[cpu-float32]", "--reproducer", "made")
    assert refused.code == 2
    assert "only against a baseline, not for a batch" in refused.err
