"""Explaining: the input, stage, module, operator and setting at fault are named, with faults that are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import builders
import pytest

from harness.records import Recording
from harness.scenario.model import Case, read
from harness.session import Session
from harness.store.baselines import Store
from harness.study.explain import Inquiry, Root
from harness.study.revert import candidates

FIRST = {
    "kind": "weights",
    "component": "unet",
    "modules": "convolution",
    "at": 0.2,
    "how": "scale",
    "factor": 1.001,
}
SECOND = {
    "kind": "weights",
    "component": "unet",
    "modules": "linear",
    "at": 0.9,
    "how": "one",
    "factor": 1.001,
}


@pytest.fixture
def found(shop):
    """Plant a fault into the smallest scenario and return the roots that are found, with the recording that carries it."""
    case = read(shop.scenario()).cases()[0]

    def look(
        fault: dict[str, Any], limit: int = 1, **how: Any
    ) -> tuple[list[Root], Recording, list[str]]:
        with Session(Store(shop.root / "baselines"), shop.root / "run") as session:
            then = session.record(replace(case, detail={}), folder=shop.root / "then")
            now = session.record(replace(case, fault=fault, detail={}), folder=shop.root / "now")
            inquiry = Inquiry(session, replace(case, fault=fault), case, shop.root / "inquiry")
            roots = inquiry.roots(now, then, limit, **how)
            return roots, now, inquiry.notes

    return look


@pytest.mark.parametrize(
    ("device", "name"),
    [("cuda", "cpu-avx2-mkl-t1-a"), ("cpu", "cuda-l4-sm89-b"), ("cpu", "ascend-mindspore-c")],
)
def test_the_baseline_s_side_runs_on_the_baseline_s_device(tmp_path, device, name):
    """A case on a GPU that is judged by a baseline of the CPU, and the other way round."""
    sides = [builders.recording(tmp_path / which) for which in ("now", "then")]
    sides[1].content["environment"]["class"]["name"] = name
    as_now, as_then, _ = candidates(builders.case(device), *sides, packages=False)
    assert (as_now.device, as_then.device) == (device, name.partition("-")[0])


def test_a_scaled_convolution_is_named_with_its_operator(found):
    """The module by the proof of the fault, the operator, its shapes, the line in diffusers, and how far it moved."""
    (root,), now, notes = found(FIRST)
    assert now.content["fault"].endswith(f" weights of {root.module.removesuffix('#0')}")
    assert (root.stage, root.type, root.glue) == ("unet#0", "Conv2d", False)
    assert root.moved is not None
    assert 0 < root.moved.rel_l2 < 2e-3
    # the weight is an operand: it differs, so that no operator turned the same bits into others
    assert root.operator is None
    assert not notes


def test_a_rounded_result_is_named(found):
    """A hook that rounds belongs to its module, and the operators that it brought are listed."""
    (root,), now, notes = found(
        {"kind": "outputs", "component": "unet", "modules": "norm", "at": 0.5, "dtype": "bfloat16"}
    )
    assert now.content["fault"] == f"results of {root.module.removesuffix('#0')}"
    (note,) = notes
    assert note.endswith(
        "has other operators than it had: aten._to_copy.default, aten._to_copy.default in place of nothing"
    )


def test_two_faults_are_both_named(found):
    """Behind the first, whose result is put back, the second is found."""
    roots, now, notes = found(
        {"kind": "several", "component": "unet", "faults": [FIRST, SECOND]}, limit=3
    )
    planted = {proof.rsplit(" of ", 1)[1] for proof in now.content["fault"].split("; ")}
    assert {root.module.removesuffix("#0") for root in roots} == planted
    assert len(planted) == 2
    assert not notes


def test_a_block_whose_modules_agree_is_blamed_itself(found):
    """A skipped residual is in no module, but in the code between them."""
    (root,), now, notes = found({"kind": "residual", "component": "unet", "at": 0.5})
    assert now.content["fault"] == f"residual of {root.module.removesuffix('#0')}"
    assert root.glue
    (note,) = notes
    assert note.endswith("has other operators than it had: aten.sub.Tensor in place of nothing")


def test_noise_of_another_type_is_named(found):
    """The draw is a stage like the others."""
    (root,), _, notes = found({"kind": "noise", "dtype": "bfloat16"}, operators=False)
    assert (root.stage, root.module, notes) == ("noise#0", "#0", [])


def test_a_timestep_that_is_off_is_in_the_denoisers_own_code(found):
    """Its modules got other inputs; none of them turned the same bits into others."""
    (root,), _, notes = found({"kind": "timestep", "component": "unet", "by": 1}, operators=False)
    assert (root.stage, root.module, root.glue, notes) == ("unet#0", "#0", True, [])


@pytest.mark.parametrize(
    "detail",
    [
        {},
        {"stage": "unet#0"},
        {"stage": "unet#0", "operators": "conv_in#0", "keep": ["unet/conv_in"]},
    ],
)
def test_looking_inside_changes_no_bit(shop, detail):
    """Whatever is looked at, the stages up to there have the digests of a plain run."""
    case: Case = read(shop.scenario()).cases()[0]
    with Session(Store(shop.root), shop.root / "run") as session:
        plain = session.record(case, folder=shop.root / "plain")
        seen = session.record(replace(case, detail=detail), folder=shop.root / "seen")
    assert plain.content["repeat"]["watched_as_plain"]
    assert seen.stages == plain.stages[: len(seen.stages)]
    assert len(seen.stages) == (1 if detail else 2)
    assert seen.outputs == ({} if detail else plain.outputs)
    assert bool(seen.content["operators"]) == ("operators" in detail)


def test_a_setting_is_named_with_the_operator_that_it_moved(shop, monkeypatch):
    """The whole command: another CPU dispatch draws other noise, and putting it back explains all of it."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    assert shop.harness("explain", "run").out.splitlines() == [
        "digits[cpu-float32]",
        "  first:    noise#0",
    ]
    done = shop.harness("explain", "run", "digits[cpu-float32]", "--roots", "1")
    assert done.code == 0
    assert "operator: aten.randn.generator" in done.out
    assert "called at diffusers/utils/torch_utils.py:" in done.out
    assert "setting:  ATEN_CPU_CAPABILITY default -> unset explains 100 % of the drift" in done.out
    assert {line.strip() for line in done.out.splitlines() if "note:" in line} <= {
        "note:     other causes come after these: `--roots 1` ended the search"
    }


def test_other_weights_are_named_by_their_tensor(shop):
    """From the recordings alone."""
    import safetensors.torch

    weights = shop.checkpoint("weights") / "unet" / "diffusion_pytorch_model.safetensors"
    shop.scenario(checkpoint="{path: ../weights}")
    assert shop.harness("record").code == 0
    state = safetensors.torch.load_file(weights)
    state["conv_in.bias"][0] += 1
    safetensors.torch.save_file(state, weights, {"format": "pt"})
    assert shop.harness("run", "--out", "run").code == 1
    assert (
        shop.harness("explain", "run").out.splitlines()[1]
        == "  first:    weights of unet: conv_in.bias"
    )


def test_a_run_without_the_case_says_so(shop):
    """A usage error, not an empty answer."""
    shop.recorded()
    shop.harness("run", "--out", "run")
    done = shop.harness("explain", "run", "other[cpu-float32]")
    assert done.code == 2
    assert "run holds no case other[cpu-float32]" in done.err


def say_instead(shop, setting: str) -> None:
    """Have the run's recording name another setting than the CPU dispatch under which it was made."""
    path = shop.root / "run" / "recordings" / "digits" / "cpu-float32" / "recording.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"ATEN_CPU_CAPABILITY": "default"', setting),
        encoding="utf-8",
    )


def test_a_baseline_that_cannot_be_repeated_here_is_not_guessed_at(shop, monkeypatch):
    """Another processor, seen as a baseline whose bits no setting here gives: no operator is named, sizes are."""
    shop.recorded(
        tolerance="{cross-class: {rel_l2: 1.0, local_rel_l2: {scheduler.step: 1.0e-3, noise: 1.0e-9}}}"
    )
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 1
    say_instead(shop, '"MKL_CBWR": "AUTO"')
    done = shop.harness("explain", "run", "digits[cpu-float32]")
    assert "operator:" not in done.out
    assert "values:   noise/0 is the first outside its envelope: " in done.out
    assert "note:     the baseline cannot be repeated here by its settings" in done.out


def test_a_run_that_cannot_be_repeated_blames_no_setting(shop, monkeypatch):
    """A run of another machine, explained where only the baseline's bits come out: no setting explains what is not there."""
    shop.recorded(tolerance="{cross-class: {rel_l2: 1.0}}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert shop.harness("run", "--out", "run").code == 0
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    say_instead(shop, '"NVIDIA_TF32_OVERRIDE": "0"')
    done = shop.harness("explain", "run", "digits[cpu-float32]")
    assert "setting:" not in done.out
    assert "note:     the run cannot be repeated here" in done.out
