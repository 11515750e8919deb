"""Scenario files: a mistake is refused with its line, a good file becomes the right cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import jsonschema
import pytest
import yaml

from harness.errors import ScenarioError, UsageError
from harness.records import Device, Dtype, Metric, Target
from harness.scenario import reading
from harness.scenario.fields import (
    SHAPE,
    Determinism,
    Expectation,
    Framework,
    Generator,
    Profile,
    json_schema,
)
from harness.scenario.model import (
    Case,
    CostBounds,
    NodeNeeds,
    PublishedValue,
    Reference,
    Scenario,
)
from harness.scenario.tolerance import Tolerance, Tolerances
from harness.scenario.weights import (
    DATA,
    Adapter,
    AdapterKind,
    Checkpoint,
    CheckpointKind,
    Component,
)

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
BAD = sorted((TESTS / "bad").glob("*.yaml"))
GOOD = sorted((ROOT / "scenarios").glob("*.yaml"))

DIGITS = Checkpoint(CheckpointKind.BUNDLED, "digits-ddpm", str(DATA / "bundled" / "digits-ddpm"))
MINIMAL = """\
description: A digit.
pipeline: DDIMPipeline
checkpoint: {bundled: digits-ddpm}
call: {num_inference_steps: 2}
"""


class Yaml12(yaml.SafeLoader):
    """YAML as editors read it: `on`, a key of `published`, is text, where YAML 1.1 has `true`."""


Yaml12.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if first not in "yYnNoO" or not tag.endswith(":bool")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


SMALL = Checkpoint(CheckpointKind.SYNTHETIC, "ldm-small", str(DATA / "synthetic" / "ldm-small"))


def hub(repository: str, revision: str = "main") -> Checkpoint:
    return Checkpoint(CheckpointKind.HUB, repository=repository, revision=revision)


def as_editors_read(path: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Yaml12)  # noqa: S506 (a SafeLoader)


def written(folder: Path, more: str = "", name: str = "digits") -> Path:
    """Write the minimal scenario and `more`."""
    path = folder / f"{name}.yaml"
    path.write_text(MINIMAL + more, encoding="utf-8")
    return path


def stem(path: Path) -> str:
    """Return the id of a test about one file."""
    return path.stem


@pytest.mark.parametrize("path", BAD, ids=stem)
def test_a_mistake_is_refused_with_file_line_expected_and_found(path):
    """The whole text of the error is the one in the `.txt` file beside the YAML."""
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    expected = path.with_suffix(".txt").read_text(encoding="utf-8")
    text = str(caught.value).replace(str(path), "{path}").replace(str(ROOT), "{root}")
    assert f"{text}\n" == expected


def test_every_mistake_has_its_text_and_every_text_its_mistake():
    """A YAML file without a text would not be tested; a text without a YAML file tests nothing."""
    texts = sorted((TESTS / "bad").glob("*.txt"))
    assert [path.stem for path in texts] == [path.stem for path in BAD]
    assert len(BAD) >= 40


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("tags:\n  - 2024-13-45\n", 6),  # YAML sees a date, and Python knows no such month
        ("seed: !!int seven\n", 5),
        ("timeout: !seconds 3\n", 5),
        ("scheduler:\n  class: [DDIMScheduler]\n", 6),
        (f"timeout: 1{'0' * 400}\n", 5),
    ],
    ids=[
        "impossible-date",
        "wrong-tag",
        "unknown-tag",
        "list-for-a-class",
        "number-beyond-float64",
    ],
)
def test_a_value_that_cannot_be_made_is_a_mistake_on_its_line(tmp_path, more, line):
    """What YAML or Python refuses is the file's mistake, never a defect of the harness."""
    with pytest.raises(ScenarioError) as caught:
        reading.read(written(tmp_path, more))
    assert caught.value.line == line


def test_a_number_without_its_dot_is_refused_inside_call_too(tmp_path):
    """`1e-4` is text in YAML 1.1; a pipeline must not get it as such."""
    path = tmp_path / "digits.yaml"
    path.write_text(MINIMAL.replace("num_inference_steps: 2", "eta: 1e-4"), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    assert caught.value.line == 4
    assert caught.value.hint == "YAML 1.1 reads `1e-4` as text; write 1.0e-4"


@pytest.mark.parametrize("bounds", ["cross-class: {}", "batch: {}", "batch: {local_l_inf: 1.0}"])
def test_a_tolerance_that_admits_everything_is_refused(tmp_path, bounds):
    """At least one bound that is checked: a batch has no local drift."""
    with pytest.raises(ScenarioError):
        reading.read(written(tmp_path, f"seed: [0, 1]\ntolerance: {{{bounds}}}\n"))


@pytest.mark.parametrize("expect", ["[varies, repeatable]", "[identical-images, distinct-images]"])
def test_expectations_that_exclude_each_other_are_refused(tmp_path, expect):
    """What can never hold is a mistake of the file."""
    generator = "none" if "varies" in expect else "cpu"
    with pytest.raises(ScenarioError):
        reading.read(written(tmp_path, f"generator: {generator}\nexpect: {expect}\n"))


def test_a_quoted_number_inside_call_stays_text(tmp_path):
    """Quotes say that text is meant: a prompt may be a number."""
    path = tmp_path / "digits.yaml"
    path.write_text(
        MINIMAL.replace("num_inference_steps: 2", "prompt: '1e-4', negative_prompt: \"7\""),
        encoding="utf-8",
    )
    assert reading.read(path).call == {"prompt": "1e-4", "negative_prompt": "7"}


def test_an_unreadable_file_is_refused_with_its_path(tmp_path):
    """Bytes that are no UTF-8 are a mistake of the file, on its first line."""
    path = tmp_path / "latin1.yaml"
    path.write_bytes("description: für\n".encode("latin-1"))
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    assert (caught.value.line, caught.value.expected) == (1, "a readable text file in UTF-8")


def test_what_is_left_out_gets_the_documented_defaults(tmp_path):
    """A file with the four required keys is seeded, repeatable, deterministic and on the CPU."""
    path = written(tmp_path)
    expected = Scenario(
        path=path,
        name="digits",
        description="A digit.",
        pipeline="DDIMPipeline",
        checkpoint=DIGITS,
        call={"num_inference_steps": 2},
        framework=Framework.TORCH,
        scheduler=None,
        seeds=(0,),
        generator=Generator.CPU,
        devices=(Device.CPU,),
        dtypes=(Dtype.FLOAT32,),
        enable=(),
        attention=None,
        component_dtypes={},
        determinism=Determinism.FULL,
        profile=Profile.NATIVE,
        expect=(Expectation.REPEATABLE,),
        reference=None,
        tolerances=Tolerances(),
        published={},
        cost=CostBounds(None, 0.0, None),
        keep_every=1,
        timeout=3600.0,
        tags=(),
    )
    assert reading.read(path) == expected


EVERY_KEY = """\
description: A digit.
pipeline: DDIMPipeline
backend: torch
checkpoint: {bundled: digits-ddpm}
components:
  vae: {hub: acme/vae, revision: v2, class: AutoencoderTiny}
  controlnet: [{synthetic: ldm-small, subfolder: unet}]
  safety_checker: none
lora: [{hub: acme/ink, weight_name: ink.safetensors, adapter: ink, scale: 0.5}]
lora-then: [fuse, unfuse]
ip-adapter: {hub: acme/ip, weight_name: models/ip.safetensors, scale: 0.25}
textual-inversion: {hub: acme/cat, weight_name: cat.safetensors, token: <cat>}
scheduler: {class: DDIMScheduler, eta: 0.5}
call: {num_inference_steps: 2, batch_size: 2}
before: {invert: {skip: 0.5}}
seed: [3, 4]
generator: device
cases: {device: [cpu, cuda], dtype: [float32, bfloat16]}
enable: [vae_slicing, tf32]
attention: flash
compile: {mode: reduce-overhead, dynamic: false}
cache: {first_block: {threshold: 0.5}}
quantize: {unet: {backend: quanto, weights_dtype: int8}}
group-offload: {vae: {offload_type: leaf_level}}
layerwise-casting: {vae: float8_e4m3fn}
fuse-qkv: [unet, vae]
onnx: [text_encoder]
component-dtype: {vae: float16}
determinism: default
profile: portable
expect: [repeatable, batch-equals-single, batch-invariant]
compositions: 9
reference: {scenario: other, device: cuda, dtype: float16}
tolerance: {cross-class: identical, batch: {l_inf: 1.0e-5}, reason: R}
published: {image: {abs_sum: 2.5, within: 0.5, on: cuda, source: a paper}}
cost: {slower: 1.5, at_least_seconds: 0.25, rounds: 4}
keep-every: 3
timeout: 60
tags: [guide, slow]
node: {accelerator: H100, labels: {pool: night}, resources: {big: 0.5}}
variants: {}
"""


def test_every_key_of_a_file_becomes_a_typed_field(tmp_path):
    """The text sets each key that there is, to something else than its default."""
    path = tmp_path / "digits.yaml"
    path.write_text(EVERY_KEY, encoding="utf-8")
    assert set(as_editors_read(path)) == set(SHAPE.fields) - {"build"}  # in place of two others
    assert reading.read(path) == Scenario(
        path=path,
        name="digits",
        description="A digit.",
        pipeline="DDIMPipeline",
        checkpoint=DIGITS,
        call={"num_inference_steps": 2, "batch_size": 2},
        before={"invert": {"skip": 0.5}},
        lora_then=("fuse", "unfuse"),
        framework=Framework.TORCH,
        components={
            "vae": (Component(hub("acme/vae", "v2"), "AutoencoderTiny"),),
            "controlnet": (Component(SMALL, subfolder="unet"),),
            "safety_checker": (),
        },
        adapters=(
            Adapter(
                AdapterKind.LORA,
                hub("acme/ink"),
                {"weight_name": "ink.safetensors", "adapter": "ink", "scale": 0.5},
            ),
            Adapter(
                AdapterKind.IP_ADAPTER,
                hub("acme/ip"),
                {"weight_name": "models/ip.safetensors", "scale": 0.25},
            ),
            Adapter(
                AdapterKind.TEXTUAL_INVERSION,
                hub("acme/cat"),
                {"weight_name": "cat.safetensors", "token": "<cat>"},
            ),
        ),
        scheduler={"class": "DDIMScheduler", "eta": 0.5},
        seeds=(3, 4),
        generator=Generator.DEVICE,
        devices=(Device.CPU, Device.CUDA),
        dtypes=(Dtype.FLOAT32, Dtype.BFLOAT16),
        enable=("vae_slicing", "tf32"),
        attention="flash",
        executions={
            "compile": {"mode": "reduce-overhead", "dynamic": False},
            "cache": {"first_block": {"threshold": 0.5}},
            "quantize": {"unet": {"backend": "quanto", "weights_dtype": "int8"}},
            "group_offload": {"vae": {"offload_type": "leaf_level"}},
            "layerwise_casting": {"vae": "float8_e4m3fn"},
            "fuse_qkv": ["unet", "vae"],
            "onnx": ["text_encoder"],
        },
        component_dtypes={"vae": Dtype.FLOAT16},
        determinism=Determinism.DEFAULT,
        profile=Profile.PORTABLE,
        expect=(
            Expectation.REPEATABLE,
            Expectation.BATCH_EQUALS_SINGLE,
            Expectation.BATCH_INVARIANT,
        ),
        compositions=9,
        reference=Reference(Target(Device.CUDA, Dtype.FLOAT16), "other"),
        tolerances=Tolerances(
            cross_class=Tolerance(exact=True),
            batch=Tolerance(free={Metric.L_INF: 1e-5}),
            reason="R",
        ),
        published={"image": PublishedValue(2.5, 0.5, "a paper", Device.CUDA)},
        cost=CostBounds(1.5, 0.25, 4),
        keep_every=3,
        timeout=60.0,
        tags=("guide", "slow"),
        node=NodeNeeds("H100", (("pool", "night"),), (("big", 0.5),)),
    )


@pytest.mark.parametrize(
    ("reference", "expected", "shown"),
    [
        ("{device: cpu, dtype: float32}", Reference(builders.CPU), "cpu-float32"),
        (
            "{scenario: flux, device: cuda, dtype: bfloat16}",
            Reference(Target(Device.CUDA, Dtype.BFLOAT16), "flux"),
            "flux[cuda-bfloat16]",
        ),
    ],
    ids=["same-scenario", "another-scenario"],
)
def test_a_reference_names_a_target_and_where_it_is_another_the_scenario(
    tmp_path, reference, expected, shown
):
    """Reports show it as the id of that case, or as its target alone."""
    scenario = reading.read(written(tmp_path, f"reference: {reference}\n"))
    assert scenario.reference == expected
    assert str(scenario.reference) == shown


@pytest.mark.parametrize("generator", ["none", "reused"])
def test_an_unseeded_scenario_is_expected_to_vary_and_owes_no_baseline(tmp_path, generator):
    """A control without a seed needs no `expect` of its own."""
    scenario = reading.read(written(tmp_path, f"generator: {generator}\n"))
    assert scenario.expect == (Expectation.VARIES,)
    assert not scenario.needs_baseline


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (
            "{hub: google/ddpm-cifar10-32}",
            {"kind": "hub", "repository": "google/ddpm-cifar10-32", "revision": "main"},
        ),
        (
            "{hub: a/b.c-d_e, revision: v1}",
            {"kind": "hub", "repository": "a/b.c-d_e", "revision": "v1"},
        ),
        (
            "{path: ../weights}",
            {"kind": "path", "name": "../weights", "folder": "{parent}/weights"},
        ),
        (
            "{synthetic: ddpm-cifar10-32}",
            {
                "kind": "synthetic",
                "name": "ddpm-cifar10-32",
                "folder": str(DATA / "synthetic" / "ddpm-cifar10-32"),
            },
        ),
    ],
    ids=["hub", "hub-revision", "path", "synthetic"],
)
def test_a_checkpoint_becomes_what_the_worker_needs_to_load_it(tmp_path, checkpoint, expected):
    """Each source has its own facts; a path is relative to the scenario's file."""
    folder = tmp_path / "scenarios"
    folder.mkdir()
    path = folder / "digits.yaml"
    path.write_text(MINIMAL.replace("{bundled: digits-ddpm}", checkpoint), encoding="utf-8")
    parent = str(tmp_path.resolve())
    resolved = {key: value.replace("{parent}", parent) for key, value in expected.items()}
    assert reading.read(path).checkpoint.request() == resolved


def test_a_scenario_has_a_case_for_every_device_with_every_dtype(tmp_path):
    """Devices come first, dtypes within them, and the id is what pytest would write."""
    scenario = reading.read(
        written(tmp_path, "cases: {device: [cpu, cuda], dtype: [float32, bfloat16]}\n")
    )
    assert [case.id for case in scenario.cases()] == [
        "digits[cpu-float32]",
        "digits[cpu-bfloat16]",
        "digits[cuda-float32]",
        "digits[cuda-bfloat16]",
    ]


def test_a_request_holds_all_that_the_worker_needs(tmp_path):
    """The request is plain JSON, without what only the judge reads or only a study asks for."""
    path = written(
        tmp_path,
        "seed: [3, 4]\n"
        "scheduler: {class: DDIMScheduler, eta: 0.5}\n"
        "enable: vae_tiling\n"
        "cost: {rounds: 5}\n",
    )
    request = reading.read(path).cases()[0].request()
    assert json.loads(json.dumps(request)) == request
    assert {key: value for key, value in request.items() if value is not None} == {
        "id": "digits[cpu-float32]",
        "framework": "torch",
        "pipeline": "DDIMPipeline",
        "checkpoint": DIGITS.request(),
        "scheduler": {"class": "DDIMScheduler", "eta": 0.5},
        "call": {"num_inference_steps": 2},
        "inputs_folder": str(tmp_path.resolve()),
        "seeds": [3, 4],
        "generator": "cpu",
        "enable": ["vae_tiling"],
        "component_dtypes": {},
        "device": "cpu",
        "dtype": "float32",
        "determinism": "full",
        "rounds": 5,
        "keep_every": 1,
        "reuse": False,
    }


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({"prompt": ["a", "b", "c"], "guidance_scale": 3}, {"prompt": ["b"], "guidance_scale": 3}),
        ({"prompt": "a", "num_images_per_prompt": 3}, {"prompt": "a", "num_images_per_prompt": 1}),
        ({"batch_size": 3, "num_inference_steps": 3}, {"batch_size": 1, "num_inference_steps": 3}),
        ({"prompt": "abc", "sizes": [1, 2]}, {"prompt": "abc", "sizes": [1, 2]}),
    ],
    ids=["a-list-gives-its-item", "images-per-prompt", "batch-size", "other-lists-and-texts-stay"],
)
def test_a_single_image_of_a_batch_is_asked_for_alone(call, expected):
    """The image gets its own seed and its own item of each list, once, without timing."""
    case = Case(builders.scenario(call=call, seeds=(7, 8, 9)), builders.CPU, images=(1,))
    request = case.request()
    assert (request["call"], request["seeds"], request["rounds"]) == (expected, [8], 0)


def test_images_of_a_batch_are_asked_for_in_any_order_and_more_than_once():
    """Each brings its own seed and its own item of each list; counts count the new batch."""
    call = {"prompt": ["a", "b", "c"], "num_inference_steps": 3, "sigmas": [3, 2, 1]}
    case = Case(builders.scenario(call=call, seeds=(7, 8, 9)), builders.CPU, images=(2, 0, 2, 2))
    request = case.request()
    assert request["call"] == {**call, "prompt": ["c", "a", "c", "c"]}
    assert request["seeds"] == [9, 7, 9, 9]
    counted = builders.scenario(call={"num_images_per_prompt": 3}, seeds=(7, 8, 9))
    twice = Case(counted, builders.CPU, images=(1, 1)).request()
    assert twice["call"] == {"num_images_per_prompt": 2}


def test_methods_that_are_called_before_are_asked_for_in_their_order(tmp_path: Path):
    """The second may need what the first one left."""
    path = tmp_path / "edited.yaml"
    path.write_text(MINIMAL + "before: {invert: {skip: 0.5}, align: {}}\n", encoding="utf-8")
    (case,) = reading.read(path).cases()
    assert list(case.request()["before"].items()) == [("invert", {"skip": 0.5}), ("align", {})]


def test_the_fingerprint_of_a_scenario_never_changes_by_itself():
    """Another way to compute it would make every stored baseline stale."""
    assert builders.scenario().fingerprint == "c4c2b59b102a68f4"


@pytest.mark.parametrize(
    "change",
    [
        {"pipeline": "DDPMPipeline"},
        {"checkpoint": builders.checkpoint("digits-sd")},
        {"checkpoint": replace(builders.checkpoint(), kind=CheckpointKind.SYNTHETIC)},
        {"checkpoint": Checkpoint(CheckpointKind.HUB, repository="a/b", revision="main")},
        {"call": {"num_inference_steps": 3, "output_type": "np"}},
        {"call": {"num_inference_steps": 2, "output_type": "np", "prompt": "seven"}},
        {"before": {"invert": {"skip": 0.5}}},
        {"lora_then": ("fuse",)},
        {"scheduler": {"class": "DDIMScheduler"}},
        {"seeds": (1,)},
        {"seeds": (0, 0)},
        {"generator": Generator.DEVICE},
        {"enable": ("vae_tiling",)},
        {"determinism": Determinism.DEFAULT},
        {"attention": "flash"},
        {"component_dtypes": {"vae": Dtype.FLOAT16}},
        {"components": {"vae": (Component(builders.checkpoint("digits-sd")),)}},
        {"components": {"vae": ()}},
        {"adapters": (Adapter(AdapterKind.LORA, builders.checkpoint("ink"), {"scale": 0.5}),)},
    ],
    ids=str,
)
def test_what_decides_the_numbers_changes_the_fingerprint(change):
    """A baseline of other numbers must be stale."""
    assert replace(builders.scenario(), **change).fingerprint != builders.scenario().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Another."},
        {"name": "other", "path": Path("elsewhere.yaml")},
        {"checkpoint": builders.checkpoint(folder="/there/digits-ddpm")},
        {"devices": (Device.CUDA,), "dtypes": (Dtype.FLOAT16,)},
        {"expect": (Expectation.REPEATABLE, Expectation.DISTINCT_IMAGES)},
        {"reference": Reference(builders.CPU)},
        {"tolerances": Tolerances.from_yaml({"cross-class": {"l_inf": 1.0}})},
        {"published": {"image": PublishedValue(1.0, 1.0, "a paper")}},
        {"cost": CostBounds(slower=1.5)},
        {"profile": Profile.PORTABLE},
        {"keep_every": 2},
        {"timeout": 1.0},
        {"tags": ("slow",)},
        {"node": NodeNeeds("H100")},
    ],
    ids=str,
)
def test_what_only_judges_leaves_the_fingerprint(change):
    """Another tolerance, description or folder on disk must not make a baseline stale."""
    assert replace(builders.scenario(), **change).fingerprint == builders.scenario().fingerprint


def test_folders_mean_every_yaml_file_below_them_once(tmp_path):
    """A file named twice, by itself and by its folder, is read once; other files are left out."""
    inner = tmp_path / "inner"
    inner.mkdir()
    one, two, three = written(tmp_path, name="b"), written(inner, name="a"), inner / "c.yml"
    three.write_text(MINIMAL, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no scenario", encoding="utf-8")
    assert reading.find([one, tmp_path]) == [one, two, three]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent", "{path}: no such file or folder; expected scenarios (YAML)"),
        ("", "no scenarios in {path}"),
    ],
    ids=["no-such-path", "empty-folder"],
)
def test_a_path_without_scenarios_is_a_usage_error(tmp_path, name, text):
    """Nothing to run is not a pass."""
    path = tmp_path / name
    with pytest.raises(UsageError) as caught:
        reading.find([path])
    assert str(caught.value) == text.format(path=path)


def test_two_files_of_one_name_are_refused(tmp_path):
    """Their baselines would share a folder."""
    (tmp_path / "inner").mkdir()
    first, second = written(tmp_path), written(tmp_path / "inner")
    with pytest.raises(ScenarioError) as caught:
        reading.read_all([first, second])
    assert str(caught.value) == (
        f"{second}:1:\n"
        "  expected: a file name of its own\n"
        f"  found:    `digits` is also {first}\n"
        "  hint:     rename one file"
    )


@pytest.mark.parametrize("path", GOOD, ids=stem)
def test_every_shipped_scenario_reads_and_fits_the_json_schema(path):
    """What an editor accepts and what the harness reads are the same file."""
    jsonschema.validate(as_editors_read(path), json_schema())
    assert reading.read(path).name == path.stem


@pytest.mark.parametrize(
    "name",
    [
        "line-seven",
        "negative-bound",
        "missing-key",
        "unknown-generator",
        "duplicate-device",
        "empty-seeds",
    ],
)
def test_an_editor_with_the_json_schema_refuses_mistakes_of_shape(name):
    """A schema that accepted everything would pass the test above."""
    content = as_editors_read(TESTS / "bad" / f"{name}.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())


def test_the_committed_json_schema_is_the_one_that_the_code_describes():
    """The docstring of `harness.scenario.fields` says how to write it again."""
    committed = (ROOT / "harness" / "data" / "scenario.schema.json").read_text(encoding="utf-8")
    assert committed == json.dumps(json_schema(), indent=1) + "\n"
    jsonschema.Draft202012Validator.check_schema(json_schema())
