"""The keys that change how a pipeline is executed: what they are read as, and what they decide."""

from __future__ import annotations

import pytest

from harness.errors import ScenarioError
from harness.scenario import executions
from harness.scenario.reading import read

SAGE = {"default": {"backend": "sage"}}


@pytest.mark.parametrize("word", executions.TORCH_ATTENTION)
def test_torch_s_own_backends_stay_switches_of_torch(shop, word):
    """`flash` as a word means torch's kernel, although diffusers has a backend of that name."""
    scenario = read(shop.scenario(attention=word))
    assert (scenario.attention, scenario.executions) == (word, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sage", SAGE),
        ("{backend: sage}", SAGE),
        ("{backend: flash}", {"default": {"backend": "flash"}}),
        ("{unet: sage}", {"unet": {"backend": "sage"}}),
        (
            "{unet: {backend: flash_hub, revision: v1}, vae: native}",
            {"unet": {"backend": "flash_hub", "revision": "v1"}, "vae": {"backend": "native"}},
        ),
    ],
    ids=["word", "mapping", "package", "component", "kernel"],
)
def test_a_backend_of_the_dispatcher_is_for_all_components_or_for_some(shop, text, expected):
    """All forms are read as one."""
    scenario = read(shop.scenario(attention=text))
    assert scenario.attention is None
    assert scenario.executions == {"attention": expected}


@pytest.mark.parametrize("text", ["sagee", "{unet: sagee}", "{backend: sagee}"])
def test_a_backend_that_the_installed_diffusers_does_not_name_is_refused(shop, text):
    """The message lists those that it names, and the nearest."""
    with pytest.raises(
        ScenarioError, match=r"(?s)one of .*`native`.*did you mean `sage`"
    ) as caught:
        read(shop.scenario(attention=text))
    assert caught.value.line == 7


def test_without_diffusers_any_backend_is_left_to_the_worker(shop, monkeypatch):
    """The judge's half may be installed alone, and cannot know the names then."""
    monkeypatch.setattr(executions, "dispatched_attention", tuple)
    assert read(shop.scenario(attention="sagee")).executions


def test_the_worker_gets_what_the_file_says(shop):
    """Keys have underscores there, and a scenario without them sends nothing."""
    changes = {
        "compile": "{fullgraph: true, components: unet}",
        "cache": "{first_block: {threshold: 0.1}}",
        "quantize": "{unet: {backend: quanto, weights_dtype: int8}}",
        "group_offload": "{unet: {offload_type: leaf_level}}",
        "layerwise_casting": "{unet: float8_e4m3fn}",
        "fuse_qkv": "[unet, vae]",
    }
    (case,) = read(shop.scenario(**changes)).cases()
    assert case.request()["executions"] == {
        "compile": {"fullgraph": True, "components": ["unet"]},
        "cache": {"first_block": {"threshold": 0.1}},
        "quantize": {"unet": {"backend": "quanto", "weights_dtype": "int8"}},
        "group_offload": {"unet": {"offload_type": "leaf_level"}},
        "layerwise_casting": {"unet": "float8_e4m3fn"},
        "fuse_qkv": ["unet", "vae"],
    }
    (plain,) = read(shop.scenario()).cases()
    assert "executions" not in plain.request()


def test_each_key_makes_another_version_of_the_scenario(shop):
    """A baseline of one execution must not judge another; without them nothing changed."""
    changes = (
        {"attention": "native"},
        {"attention": "{unet: native}"},
        {"compile": "{}"},
        {"compile": "{dynamic: true}"},
        {"cache": "{first_block: {threshold: 0.1}}"},
        {"cache": "{first_block: {threshold: 0.2}}"},
        {"quantize": "{unet: {backend: quanto}}"},
        {"group_offload": "{unet: {}}"},
        {"layerwise_casting": "{unet: float8_e4m3fn}"},
        {"fuse_qkv": "unet"},
        {"fuse_qkv": "vae"},
    )
    prints = [read(shop.scenario(**change)).fingerprint for change in changes]
    assert len(set(prints)) == len(changes)
    assert read(shop.scenario()).fingerprint == "8faccc0b6ea98d4a"
