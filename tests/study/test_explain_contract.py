"""Why a variant differs from the case that its contract names: the module and its operators."""

from __future__ import annotations

VARIANTS = """{
  sliced: {enable: attention_slicing, contract: identical},
  twice: {contract: identical},
  alone: {seed: 1, contract: {identical-to: base, images: 0}},
}"""
PROMPT = "{prompt: a handwritten two, num_inference_steps: 1, output_type: np}"
SD = {
    "pipeline": "StableDiffusionPipeline",
    "checkpoint": "{bundled: digits-sd}",
    "call": PROMPT,
    "variants": VARIANTS,
}


def test_a_broken_contract_is_explained_by_what_the_other_execution_calls(shop):
    """Sliced attention computes by other operators: they are named, with those of the base."""
    path = shop.scenario("prompt", **SD)
    shown = shop.harness("run", str(path), "--out", "run")
    assert "explain:  harness explain run 'prompt[cpu-float32,sliced]'" in shown.out
    first = shop.harness("explain", "run")
    assert "prompt[cpu-float32,sliced]\n  first:    unet#0" in first.out
    assert "prompt[cpu-float32,twice]\n  first:    nothing differs" in first.out
    found = shop.harness("explain", "run", "prompt[cpu-float32,sliced]", "--root-causes", "1")
    assert found.code == 0
    assert ".attn1#0 (Attention): L-inf" in found.out
    assert "has other operators than before: " in found.out
    assert "aten.baddbmm.default" in found.out


def test_variants_that_have_nothing_to_explain_say_so(shop):
    """The same bits, and single images of two batches."""
    path = shop.scenario("prompt", **SD)
    shop.harness("run", str(path), "--out", "run")
    same = shop.harness("explain", "run", "prompt[cpu-float32,twice]")
    assert "no bit of any output differs" in same.out
    alone = shop.harness("explain", "run", "prompt[cpu-float32,alone]")
    assert "single images of two batches" in alone.out
