"""Variants and arguments that vary: the cases that a file gives, and mistakes in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness.errors import ScenarioError
from harness.records import ContractKind, Metric
from harness.scenario import reading
from harness.scenario.fields import Profile, json_schema
from harness.scenario.model import COMPARED_ROUNDS, Case
from harness.scenario.select import select
from harness.scenario.tolerance import NO_DIFFERENCE

MINIMAL = """\
description: A digit.
pipeline: DDIMPipeline
checkpoint: {bundled: digits-ddpm}
call: {num_inference_steps: 2, output_type: np}
"""
VARIANTS = """\
variants:
  nhwc: {enable: channels_last, contract: {rel_l2: 1.0e-5, local_rel_l2: 1.0e-6}}
  again: {description: The same again., contract: identical}
  steps: {call: {num_inference_steps: 3}}
  twin: {enable: [channels_last], contract: {identical-to: nhwc}}
"""


def cases(folder: Path, more: str, basics: str = MINIMAL) -> dict[str, Case]:
    """Return the cases of the minimal scenario and `more`, by their ids."""
    path = folder / "digits.yaml"
    path.write_text(basics + more, encoding="utf-8")
    schema = json_schema()
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)
    return {case.id: case for case in reading.read(path).cases()}


def test_each_variant_is_a_case_after_its_base(tmp_path: Path):
    """In the order of the file, each with a key that names its folders."""
    found = cases(tmp_path, VARIANTS)
    assert list(found) == [
        "digits[cpu-float32]",
        "digits[cpu-float32,nhwc]",
        "digits[cpu-float32,again]",
        "digits[cpu-float32,steps]",
        "digits[cpu-float32,twin]",
    ]
    assert [case.key for case in found.values()][:2] == ["cpu-float32", "cpu-float32,nhwc"]


def test_a_variant_is_its_scenario_with_other_keys(tmp_path: Path):
    """A key is replaced, the arguments of the call one by one; the version follows from them."""
    base, nhwc, again, steps, twin = cases(tmp_path, VARIANTS).values()
    assert (base.scenario.enable, nhwc.scenario.enable) == ((), ("channels_last",))
    assert steps.scenario.call == {"num_inference_steps": 3, "output_type": "np"}
    fingerprints = [each.scenario.fingerprint for each in (base, nhwc, steps, twin)]
    assert fingerprints[1] == fingerprints[3]
    assert len(set(fingerprints)) == 3
    assert again.scenario.fingerprint == base.scenario.fingerprint


def test_a_scenario_keeps_its_version_when_it_gets_variants(tmp_path: Path):
    """Or its baselines would be stale."""
    (alone,) = cases(tmp_path, "").values()
    base, *_ = cases(tmp_path, VARIANTS).values()
    assert base.scenario.fingerprint == alone.scenario.fingerprint
    assert base.request() == {**alone.request(), "rounds": COMPARED_ROUNDS}


def test_a_contract_names_what_is_owed_to_which_case(tmp_path: Path):
    """The base, or another variant, on the same target and with the same package versions."""
    base, nhwc, again, steps, twin = (
        replace(case, env=("diffusers==0.30.3",)) for case in cases(tmp_path, VARIANTS).values()
    )
    assert (base.against, steps.against) == (None, None)
    assert nhwc.against == again.against == base
    assert twin.against.id == nhwc.id
    assert nhwc.scenario.contract.kind is ContractKind.TOLERANCE
    assert nhwc.scenario.contract.tolerance.metrics == {Metric.REL_L2, Metric.LOCAL_REL_L2}
    assert nhwc.scenario.contract.terms == "rel_l2 <= 1e-05, local_rel_l2 <= 1e-06"
    assert again.scenario.contract.kind is ContractKind.IDENTICAL
    assert again.scenario.contract.tolerance == NO_DIFFERENCE


def test_who_is_compared_in_seconds_is_timed_unless_the_scenario_says_how_often(tmp_path: Path):
    """Only where there is a contract: an argument that varies costs no further run."""
    compared = cases(tmp_path, VARIANTS)
    assert {case.request()["rounds"] for case in compared.values()} == {COMPARED_ROUNDS}
    asked = cases(tmp_path, f"cost: {{rounds: 2}}\n{VARIANTS}")
    assert {case.request()["rounds"] for case in asked.values()} == {2}
    free = cases(tmp_path, "variants: {steps: {call: {num_inference_steps: 3}}}\n")
    assert {case.request()["rounds"] for case in free.values()} == {1}


def test_arguments_of_the_call_vary_like_devices_and_dtypes(tmp_path: Path):
    """Every combination is a case; with variants, every combination has each of them."""
    axes = "cases: {dtype: [float32, float64], call: {eta: [0, 0.5], use_clipped_model_output: [true]}}\n"  # noqa: E501
    found = cases(
        tmp_path, f"{axes}variants: {{nhwc: {{enable: channels_last, contract: identical}}}}\n"
    )
    points = [
        f"{dtype},eta={eta},use_clipped_model_output=true"
        for eta in ("0", "0.5")
        for dtype in ("cpu-float32", "cpu-float64")
    ]
    assert set(found) == {
        f"digits[{point}{variant}]" for point in points for variant in ("", ",nhwc")
    }
    varied = found[f"digits[{points[2]},nhwc]"]
    assert varied.scenario.call["eta"] == 0.5
    assert varied.against == found[f"digits[{points[2]}]"]


def test_a_profile_holds_for_variants_and_for_what_they_are_held_against(tmp_path: Path):
    """Or two CPU profiles would be compared."""
    cases(tmp_path, VARIANTS)
    scenario = reading.read(tmp_path / "digits.yaml")
    chosen = select([scenario], "nhwc", None, Profile.PORTABLE)
    assert [case.id for case in chosen] == ["digits[cpu-float32,nhwc]"]
    assert chosen[0].scenario.profile is Profile.PORTABLE
    assert chosen[0].against.scenario.profile is Profile.PORTABLE


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("nhwc", ["digits[cpu-float32,nhwc]"]),
        ("digits[cpu-float32]", ["digits[cpu-float32]"]),
        (
            "not nhwc and not again and not twin",
            ["digits[cpu-float32]", "digits[cpu-float32,steps]"],
        ),
    ],
)
def test_variants_are_chosen_by_name(expression: str, chosen: list[str], tmp_path: Path):
    """The whole id of the base chooses it alone."""
    cases(tmp_path, VARIANTS)
    scenario = reading.read(tmp_path / "digits.yaml")
    assert [case.id for case in select([scenario], expression, None)] == chosen


MISTAKES = {
    "unknown-key": ("variants:\n  a: {enabled: compile}\n", 6, "`enabled`"),
    "empty": ("variants:\n  a: {}\n", 6, "an empty mapping"),
    "name-with-a-comma": ("variants:\n  a,b: {seed: 1}\n", 6, "'a,b'"),
    "name-of-the-base": ("variants:\n  base: {seed: 1}\n", 6, "'base'"),
    "variant-of-a-variant": ("variants:\n  a: {variants: {}}\n", 6, "`variants`"),
    "wrong-value": ("variants:\n  a:\n    seed: 1\n    attention: mth\n", 8, "`mth`"),
    "unknown-contract": ("variants:\n  a: {seed: 1, contract: same}\n", 6, "'same' (a string)"),
    "contract-without-terms": ("variants:\n  a: {seed: 1, contract: {}}\n", 6, "an empty mapping"),
    "images-alone": ("variants:\n  a: {seed: 1, contract: {images: 0}}\n", 6, "`images` alone"),
    "identical-and-bounds": (
        "variants:\n  a: {seed: 1, contract: {identical-to: base, l_inf: 0.1}}\n",
        6,
        "both",
    ),
    "identical-to-itself": (
        "variants:\n  a: {seed: 1, contract: {identical-to: a}}\n",
        6,
        "`a`",
    ),
    "local-bound-of-images": (
        "variants:\n  a: {seed: 1, contract: {images: [0], local_l_inf: 0.1}}\n",
        6,
        "`local_l_inf`",
    ),
    "contract-of-what-varies": (
        "variants:\n  a: {generator: none, contract: identical}\n",
        6,
        "`generator: none`",
    ),
    "target-of-its-own": ("variants:\n  a: {cases: {device: cuda}}\n", 6, "`cuda`"),
    "axes-of-its-own": ("variants:\n  a: {cases: {call: {eta: 1}}}\n", 6, "`call`"),
    "axis-in-the-call": ("cases:\n  call: {num_inference_steps: [2, 3]}\n", 6, "in both"),
    "axis-with-a-text": ("cases:\n  call:\n    eta: [a b]\n", 7, "'a b' (a string)"),
    "axis-with-a-list": ("cases:\n  call:\n    eta: [[1]]\n", 7, "a list of 1"),
    "axis-with-a-path": ("cases:\n  call: {../eta: [1]}\n", 6, "'../eta'"),
    "too-many-cases": (
        f"cases:\n  call: {{eta: {list(range(40))}, batch_size: {list(range(1, 41))}}}\n",
        6,
        "1600",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_with_its_line(name: str, tmp_path: Path):
    """Each with what was found."""
    more, line, found = MISTAKES[name]
    path = tmp_path / "digits.yaml"
    path.write_text(MINIMAL + more, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    assert f"{path}:{line}:" in str(caught.value)
    assert f"found:    {found}" in str(caught.value) or found in str(caught.value)
