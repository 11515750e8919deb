"""Every kind of execution proves its effect, and a silent no-op of the library is an error.

The pipeline is a Flux with a denoiser of 122,116 random weights; its prompt is made noise.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import builders
import diffusers
import pytest
import torch
from diffusers.models.transformers import transformer_flux
from transformers import CLIPTextModel, CLIPTokenizer

from harness.judge.verdict import judge
from harness.records import Effect, Outcome, Reason, Verdict
from harness.scenario.weights import DATA
from harness.store.recording import Recording
from harness.worker.conditions import compiler, determinism
from harness.worker.pipeline import enable
from harness.worker.pipeline.executions import caching, compilation
from harness.worker.pipeline.executions.base import Count
from harness.worker.pipeline.executions.plan import executions_in
from harness.worker.protocol import CannotRunHere, CaseError
from harness.worker.recorder import Recorder

# Libraries warn of what they will change; none of that is about this project.
pytestmark = pytest.mark.filterwarnings("default")

STEPS = 6
CALL = {
    "prompt_embeds": {"noise": {"shape": [1, 8, 32], "seed": 1}},
    "pooled_prompt_embeds": {"noise": {"shape": [1, 32], "seed": 2}},
    "height": 16,
    "width": 16,
    "num_inference_steps": STEPS,
    "guidance_scale": 1.0,
    "output_type": "latent",
}
IMAGES = {**CALL, "output_type": "np"}
DISK = {"offload_type": "leaf_level", "offload_device": "disk"}
QUANTO = {"backend": "quanto", "weights_dtype": "int8"}
LITTLE = {"first_block": {"threshold": 1.0e-9}}
MUCH = {"first_block": {"threshold": 10.0}}
PYRAMID = {
    "pyramid_attention_broadcast": {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_timestep_skip_range": [-1, 1001],
    }
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Return the folder of the small Flux; its text encoders are those of a bundled model."""
    folder = tmp_path_factory.mktemp("flux")
    bundled = DATA / "bundled" / "digits-sd"
    encoder = CLIPTextModel.from_pretrained(bundled / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(bundled / "tokenizer")
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    """Return one recorder for all tests: what a test leaves behind, the next one meets."""
    return Recorder(lambda *_, **__: None)


@pytest.fixture
def record(checkpoint, recorder, tmp_path) -> Callable[..., Recording]:
    """Return what records a case with executions, or with other changes to its request."""

    def run(
        executions: dict[str, Any] | None = None, *, new: bool = False, **changes: Any
    ) -> Recording:
        request: dict[str, Any] = {
            **builders.case(pipeline="FluxPipeline", call=CALL).request(),
            "checkpoint": {"kind": "path", "name": "flux", "folder": str(checkpoint)},
            "rounds": 1,
            **changes,
        }
        if executions:
            request["executions"] = executions
        used = Recorder(lambda *_, **__: None) if new else recorder
        used.record(request, tmp_path / "recording")  # type: ignore[arg-type]
        return Recording.read(tmp_path / "recording")

    return run


@pytest.fixture
def fresh(recorder, monkeypatch) -> None:
    """Load the checkpoint anew, before and after a test that breaks how it is loaded."""
    recorder._loaded = None
    yield
    recorder._loaded = None


@pytest.fixture
def quick_inductor(monkeypatch) -> None:
    """Let inductor run graphs as they are: what it compiles them to is not what is tested."""
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx", lambda graph, _inputs, **_: graph.forward
    )
    monkeypatch.setattr(compiler, "missing", lambda _: "")


def judged(recording: Recording) -> Outcome:
    """Return what the judge says of a recording without a baseline."""
    return judge(builders.case(), recording, None, [])


def assert_without_effect(recording: Recording, asked: str, seen: str) -> None:
    """Check that a recording is an error, which says what was asked for and what was seen."""
    outcome = judged(recording)
    assert (outcome.verdict, outcome.reason) == (Verdict.ERROR, Reason.NO_EFFECT), outcome.effects
    assert f"`{asked}` had no effect: " in outcome.message
    assert seen in outcome.message
    assert Effect(asked, outcome.message.split("effect: ", 1)[1], took_effect=False) in (
        outcome.effects
    )


# What was asked for takes effect, is proven, and is undone.

WORKING = {
    "attention-word": ({}, {"attention": "flash"}, "attention: flash", "flash (4)"),
    "attention-native": (
        {"attention": {"default": {"backend": "native"}}},
        {},
        "attention: native",
        "the dispatcher called native (8)",
    ),
    "attention-math": (
        {"attention": {"transformer": {"backend": "_native_math"}}},
        {},
        "attention: _native_math of transformer",
        "torch's kernels that ran: math (4)",
    ),
    "attention-flex": (
        {"attention": {"transformer": {"backend": "flex"}}},
        {},
        "attention: flex of transformer",
        "the dispatcher called flex (8); torch's kernels that ran: none",
    ),
    "first-block": ({"cache": MUCH}, {}, "cache: first_block of transformer", "5 of 6 calls"),
    "threshold-of-zero": (
        {"cache": {"first_block": {"threshold": 0.0}}},
        {},
        "cache: first_block of transformer",
        "as a threshold of 0 asks for",
    ),
    "taylor-seer": (
        {"cache": {"taylorseer": {"disable_cache_before_step": 2, "cache_interval": 2}}},
        {},
        "cache: taylorseer of transformer",
        "2 of 6 calls",
    ),
    "mag": (
        {"cache": {"mag": {"num_inference_steps": STEPS, "mag_ratios": [1.0] * STEPS}}},
        {},
        "cache: mag of transformer",
        "of 6 calls were served from the cache",
    ),
    "pyramid": (
        {"cache": PYRAMID},
        {},
        "cache: pyramid_attention_broadcast of transformer",
        "3 of 6 calls",
    ),
    "fused": (
        {"fuse_qkv": ["transformer"]},
        {},
        "fuse-qkv: transformer",
        "6 fused projections, called 36 times",
    ),
    "casting": (
        {"layerwise_casting": {"transformer": "float8_e4m3fn"}},
        {},
        "layerwise-casting: float8_e4m3fn of transformer",
        "80 in float8_e4m3fn",
    ),
    "offloading-to-disk": (
        {"group_offload": {"transformer": DISK}},
        {},
        "group-offload: transformer",
        "60 modules with offload hooks; they ran 360 times",
    ),
    "channels-last": (
        {},
        {"enable": ["channels_last"], "call": IMAGES},
        "enable: channels_last",
        "weights of convolutions lie channels-last",
    ),
    "slices": (
        {},
        {"enable": ["vae_slicing"], "call": {**IMAGES, "num_images_per_prompt": 2}},
        "enable: vae_slicing",
        "1 call of the VAE in 2 slices",
    ),
}


@pytest.mark.parametrize(
    ("executions", "changes", "asked", "seen"), WORKING.values(), ids=list(WORKING)
)
def test_an_execution_that_works_is_proven_and_the_next_case_is_plain(
    record, executions, changes, asked, seen
):
    """After it the same recorder gives the bits of a plain run again."""
    (effect,) = record(executions, **changes).effects
    assert effect.took_effect
    assert effect.asked == asked
    assert seen in effect.seen
    plain = record(call=changes.get("call", CALL))
    assert plain.effects == ()
    assert plain.output_digests == bare_digests(json.dumps(plain.case["call"]), record)


BARE: dict[str, Any] = {}  # the digests of a plain run, by its call: the first that a test makes


def bare_digests(call: str, record: Callable[..., Recording]) -> Any:
    """Return the digests of a plain run of a new recorder, made once for each call."""
    if call not in BARE:
        BARE[call] = record(new=True, call=json.loads(call)).output_digests
    return BARE[call]


def test_after_everything_a_plain_run_has_the_bits_of_a_new_checkpoint(record, recorder):
    """What was applied and undone, in whatever order, left nothing behind."""
    used = record().output_digests
    for executions in ({"cache": MUCH}, {"fuse_qkv": ["transformer"]}, {"cache": PYRAMID}):
        record(executions)
    assert record().output_digests == used
    recorder._loaded = None
    assert record().output_digests == used


def test_quantized_weights_are_counted_and_have_digests(record, fresh):
    """They are other weights than the checkpoint's, and the same at every load."""
    pytest.importorskip("optimum.quanto")
    quantized = record({"quantize": {"transformer": QUANTO}})
    (effect,) = quantized.effects
    assert effect.took_effect
    assert effect.seen.startswith("48 of 48 weights of layers are quantized")
    plain = record()
    assert quantized.weights["transformer"] != plain.weights["transformer"]
    assert quantized.weights["vae"] == plain.weights["vae"]
    assert record({"quantize": {"transformer": QUANTO}}).weights == quantized.weights


def test_a_compiled_denoiser_is_counted_and_its_stages_observed(record, quick_inductor):
    """Also as the short form in `enable`; its class is another than that of the operators."""
    plain = record()
    for executions, changes in (({"compile": {}}, {}), ({}, {"enable": ["compile"]})):
        compiled = record(executions, **changes)
        (effect,) = compiled.effects
        assert effect.took_effect, effect
        assert effect.asked == "compile: transformer"
        assert effect.seen.startswith(f"1 graph compiled for {STEPS} calls, 0 graph breaks")
        assert "transformer#5" in [each.name for each in compiled.stages]
        assert compiled.numerics_class.name.rsplit("-", 2)[1] == "compiled"
        assert compiled.numerics_class.hash != plain.numerics_class.hash
        assert compiled.numerics_class.operators == plain.numerics_class.operators


def test_attention_in_compiled_code_is_noted_while_it_is_compiled(record, quick_inductor):
    """The note breaks no graph, which `fullgraph` would refuse."""
    executions = {
        "attention": {"transformer": {"backend": "native"}},
        "compile": {"fullgraph": True},
    }
    attention, compiled = record(executions).effects
    assert attention.took_effect, attention
    assert attention.seen.startswith("the dispatcher called native (4)")
    assert compiled.took_effect, compiled


# Silent no-ops: the library accepts what is asked for, and does nothing.


def test_no_op_1_a_cache_whose_threshold_is_never_met(record):
    """It runs, and every step is computed in full."""
    recording = record({"cache": LITTLE})
    assert_without_effect(
        recording, "cache: first_block of transformer", "0 of 6 calls were served"
    )


def test_no_op_2_a_compiler_that_falls_back_to_eager_code(record, quick_inductor, monkeypatch):
    """torch may be told to hide what its compiler raised."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    with torch._dynamo.config.patch(suppress_errors=True):
        recording = record({"compile": {}})
    assert_without_effect(recording, "compile: transformer", "no such kernel")


def test_no_op_3_a_graph_that_breaks(record, fresh, quick_inductor, monkeypatch):
    """What lies behind the break is compiled apart; `fullgraph: false` admits it."""
    own = transformer_flux.FluxTransformerBlock.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        torch._dynamo.graph_break()
        return own(self, *args, **kwargs)

    monkeypatch.setattr(transformer_flux.FluxTransformerBlock, "forward", broken)
    recording = record({"compile": {}})
    assert_without_effect(recording, "compile: transformer", "graph break")
    assert record({"compile": {"fullgraph": False}}).effects[0].took_effect


def test_no_op_4_a_compiler_that_is_switched_off(record, quick_inductor, monkeypatch):
    """`TORCHDYNAMO_DISABLE=1` in somebody's environment does this."""
    monkeypatch.setattr(compilation.torch, "compile", lambda module, **_: module)
    recording = record({"compile": {}})
    assert_without_effect(recording, "compile: transformer", "0 graphs compiled for 6 calls")


def test_no_op_5_an_attention_backend_that_is_ignored(record, monkeypatch):
    """The dispatcher goes on to call its default."""
    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "set_attention_backend", lambda *_: None)
    recording = record({"attention": {"transformer": {"backend": "flex"}}})
    asked = "attention: flex of transformer"
    assert_without_effect(recording, asked, "the dispatcher called native (8)")


def test_no_op_6_a_switch_of_torch_s_attention_that_is_ignored(record, monkeypatch):
    """Another kernel runs than the one that was asked for."""
    monkeypatch.setattr(determinism, "chosen", lambda *_, **__: {})
    recording = record(attention="flash")
    assert_without_effect(recording, "attention: flash", "torch's kernels that ran: math (4)")


def test_no_op_7_a_component_that_calls_no_dispatcher(record):
    """diffusers sets the backend of a VAE without complaint, and nothing reads it."""
    recording = record({"attention": {"vae": {"backend": "native"}}}, call=IMAGES)
    assert_without_effect(recording, "attention: native of vae", "the dispatcher called none")


def test_no_op_8_quantization_that_leaves_the_weights_as_they_are(record, fresh, monkeypatch):
    """The configuration is lost on the way."""
    pytest.importorskip("optimum.quanto")
    own = diffusers.FluxPipeline.from_pretrained

    def forgetful(folder: Any, **options: Any) -> Any:
        del options["quantization_config"]
        return own(folder, **options)

    monkeypatch.setattr(diffusers.FluxPipeline, "from_pretrained", forgetful)
    recording = record({"quantize": {"transformer": QUANTO}})
    asked = "quantize: quanto of transformer"
    assert_without_effect(recording, asked, "0 of 48 weights of layers are quantized: 48 float32")


def test_no_op_9_offloading_without_hooks(record, monkeypatch):
    """Everything stays where it is."""
    own = diffusers.FluxTransformer2DModel.enable_group_offload

    @functools.wraps(own)
    def nothing(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "enable_group_offload", nothing)
    recording = record({"group_offload": {"transformer": DISK}})
    assert_without_effect(recording, "group-offload: transformer", "0 modules with offload hooks")


def test_no_op_10_casting_that_skips_every_layer(record, fresh, monkeypatch):
    """A model may name patterns of layers that are never cast."""
    monkeypatch.setattr(
        diffusers.FluxTransformer2DModel, "_skip_layerwise_casting_patterns", [".*"]
    )
    recording = record({"layerwise_casting": {"transformer": "float8_e4m3fn"}})
    asked = "layerwise-casting: float8_e4m3fn of transformer"
    assert_without_effect(recording, asked, "weights: 108 in float32; layers were cast 0 times")


def test_no_op_11_fused_projections_that_are_not_used(record, monkeypatch):
    """They are made, and attention goes on to call the single ones."""
    own = diffusers.FluxTransformer2DModel.fuse_qkv_projections

    def unused(self: Any) -> None:
        own(self)
        for module in self.modules():
            if hasattr(module, "fused_projections"):
                module.fused_projections = False

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "fuse_qkv_projections", unused)
    recording = record({"fuse_qkv": ["transformer"]})
    seen = "6 fused projections, called 0 times"
    assert_without_effect(recording, "fuse-qkv: transformer", seen)


def test_no_op_12_a_memory_format_that_is_not_applied(record, fresh, monkeypatch):
    """The weights stay as they lie."""
    monkeypatch.setattr(enable, "_use_channels_last", lambda _: None)
    recording = record(enable=["channels_last"], call=IMAGES)
    assert_without_effect(recording, "enable: channels_last", "0 of 18 weights of convolutions")


@pytest.mark.parametrize(
    ("word", "seen"),
    [
        ("vae_slicing", "1 call of the VAE in 1 slice"),
        ("vae_tiling", "0 of 1 call of the VAE in tiles"),
        ("attention_slicing", "0 modules with attention in slices"),
    ],
)
def test_no_op_13_a_memory_saver_with_nothing_to_save(record, fresh, word, seen):
    """One image has no slices, a small one no tiles, and Flux does not slice its attention."""
    recording = record(enable=[word], call=IMAGES)
    assert_without_effect(recording, f"enable: {word}", seen)


def test_no_op_14_offloading_by_the_pipeline_without_hooks(record, monkeypatch):
    """On a machine with a GPU the pipeline's method might do nothing; here it is made to."""
    monkeypatch.setattr("harness.worker.pipeline.torch_.place", lambda pipeline, *_: pipeline)
    recording = record(enable=["model_cpu_offload"])
    assert_without_effect(recording, "enable: model_cpu_offload", "0 modules with offload hooks")


# What cannot run here, and what does not exist.

UNVERIFIED = {
    "package": ({"attention": {"default": {"backend": "sage"}}}, {}, "sageattention"),
    "kernel": ({"attention": {"default": {"backend": "flash_hub"}}}, {}, "kernels"),
    "gpu-kernel": ({}, {"attention": "mem_efficient"}, "`attention: mem_efficient` needs a GPU"),
    "tf32": ({}, {"enable": ["tf32"]}, "changes the arithmetic of a GPU"),
    "no-device": (
        {"group_offload": {"transformer": {}}},
        {},
        "moves modules between the CPU and another device",
    ),
    "no-quantizer": (
        {"quantize": {"transformer": {"backend": "bitsandbytes", "load_in_4bit": True}}},
        {},
        "bitsandbytes",
    ),
}
NO_SUCH_THING = {
    "cache": ({"cache": {"first_blok": {}}}, "has no cache `first_blok`; it has .*first_block"),
    "field": ({"cache": {"first_block": {"treshold": 1}}}, "did you mean `threshold`"),
    "component": ({"fuse_qkv": ["unet"]}, "has no component `unet` with weights; it has"),
    "backend": ({"quantize": {"transformer": {"backend": "torchoa"}}}, "did you mean `torchao`"),
    "setting": (
        {"quantize": {"transformer": {"backend": "quanto", "weight_dtype": "int8"}}},
        "did you mean `weights_dtype`",
    ),
    "argument": (
        {"group_offload": {"transformer": {"offload_typ": "leaf_level"}}},
        "did you mean `offload_type`",
    ),
    "type": ({"layerwise_casting": {"transformer": "float9"}}, "torch has no type `float9`"),
    "revision": (
        {"attention": {"transformer": {"backend": "native", "revision": "v1"}}},
        "`revision` is for .*flash_hub",
    ),
    "attention": ({"attention": {"default": {"backend": "sagee"}}}, "did you mean `sage`"),
    "both": ({"cache": MUCH, "compile": {}}, "cannot be observed yet"),
}


@pytest.mark.parametrize(("executions", "changes", "why"), UNVERIFIED.values(), ids=UNVERIFIED)
def test_what_this_machine_lacks_is_unverified_with_the_reason(
    record, fresh, executions, changes, why
):
    """The reason names the package or the device."""
    if "quantize" in executions and importlib_has("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(CannotRunHere, match=why):
        record(executions, **changes)


@pytest.mark.parametrize(("executions", "why"), NO_SUCH_THING.values(), ids=NO_SUCH_THING)
def test_what_the_libraries_do_not_have_is_an_error_with_the_list(record, executions, why):
    """A misspelt word must never run as if it had been left out."""
    with pytest.raises(CaseError, match=f"(?s){why}"):
        record(executions)


def test_a_mode_that_torch_does_not_know_is_an_error(record, quick_inductor):
    """torch itself says which it knows."""
    with pytest.raises(CaseError, match="Unrecognized mode=fast"):
        record({"compile": {"mode": "fast"}})


def test_without_a_compiler_a_compiled_case_is_unverified(record, monkeypatch):
    """Inductor needs one for the CPU."""
    monkeypatch.setattr(compiler, "_cpp_compiler", str)
    with pytest.raises(CannotRunHere, match=r"`compile` needs a C\+\+ compiler"):
        record({"compile": {}})


def importlib_has(package: str) -> bool:
    """Return whether a package is installed."""
    from importlib.util import find_spec

    return find_spec(package) is not None


# What is found by introspection.


def test_caches_and_their_fields_come_from_diffusers():
    """Every configuration that `enable_cache` takes is there, and is a dataclass."""
    found = caching.cache_configurations()
    assert {"first_block", "faster", "pyramid_attention_broadcast"} <= set(found)
    assert all(dataclasses.is_dataclass(each) for each in found.values())


@pytest.mark.parametrize("name", ["taylorseer", "taylor_seer", "taylor_seer_cache"])
def test_a_cache_goes_by_every_spelling_of_its_name(name):
    """diffusers itself writes them in several ways."""
    assert caching.cache_configuration(name).__name__ == "TaylorSeerCacheConfig"


def test_the_word_compile_is_short_for_the_key(recorder):
    """The key has settings; the word has none."""
    case = builders.case(enable=("compile",)).request()
    assert executions_in(case) == {"compile": {}}


# What takes part in compiled code.


def test_another_compiler_makes_another_class(monkeypatch):
    """So no compiled case owes its bits to a machine with another one."""
    device = torch.device("cpu")
    environment: Any = {
        "numerics_class": {"name": "cpu-avx2-mkl-t1-aaaaaaaa", "hash": "a" * 32, "operators": {}},
        "versions": {"torch": "2.13.0"},
        "flags": {},
    }
    facts = compiler.facts(device)
    made = compiler.with_compiler(environment, device)
    monkeypatch.setattr(compiler, "facts", lambda _: {**facts, "c++": "g++ 1.0"})
    other = compiler.with_compiler(environment, device)
    assert made["numerics_class"]["name"].startswith("cpu-avx2-mkl-t1-compiled-")
    assert made["numerics_class"]["hash"] != other["numerics_class"]["hash"]
    assert other["versions"] == {**made["versions"], "c++": "g++ 1.0"}
    assert environment["versions"] == {"torch": "2.13.0"}


def test_an_option_of_inductor_is_part_of_the_environment_and_of_the_class(monkeypatch):
    """An option that differs from its default changes what is compiled."""
    device = torch.device("cpu")
    before = compiler.facts(device)
    monkeypatch.setattr("torch._inductor.config.epilogue_fusion", False)
    after = compiler.facts(device)
    assert set(after) - set(before) == {"inductor.epilogue_fusion"}
    assert after["inductor.epilogue_fusion"] == "False"


class Decoder:
    """Something with a method whose calls are counted."""

    def decode(self, latents: int) -> int:
        """Return what it is given."""
        return latents


def test_a_counted_method_keeps_its_signature():
    """A stage names its inputs by it, in a run with a memory saver as in one without."""
    decoder, count = Decoder(), Count()
    with ExitStack() as undo:
        count.of_method(decoder, "decode", undo)
        assert list(inspect.signature(decoder.decode).parameters) == ["latents"]
        assert decoder.decode(latents=3) == 3
    assert count.calls == 1
    assert "decode" not in vars(decoder)
