"""Listing, running and recording cases: every change is noticed, and no run writes a baseline."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from printed import paragraph, verdicts
from safetensors.numpy import load_file, save_file

from harness.records import Comparison, Verdict
from harness.scenario.weights import DATA
from harness.store.run_folder import read_results

BOTH = "{device: [cpu, cuda]}"
PROMPT = {"pipeline": "StableDiffusionPipeline", "checkpoint": "{bundled: digits-sd}"}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_recorded_case_is_identical_when_it_runs_again(recorded):
    """The same bits, exit code 0, and the results where the command says they are."""
    done = recorded.harness("run", "--out", "again")
    assert done.code == 0
    assert "1 case: 1 identical" in done.out
    assert "results and recordings: again" in done.out
    assert verdicts(recorded.root / "again") == {"digits[cpu-float32]": "identical"}
    assert "# 1 case: 1 identical" in (recorded.root / "again" / "summary.md").read_text(
        encoding="utf-8"
    )


def test_recording_says_what_it_wrote_and_leaves_what_there_is(recorded):
    """A second recording writes nothing; a run never writes a baseline."""
    before = recorded.baseline().read_bytes()
    recorded.scenario("other", seed="1")
    done = recorded.harness("record", "--reason", "a new scenario")
    assert done.code == 0
    assert re.search(
        r"^wrote baselines/other/cpu-float32/cpu-\S+\.json and \d+ KiB of tensors: "
        r"(noise|output|scheduler.step) \d+ KiB, ",
        done.out,
        re.MULTILINE,
    )
    assert "1 written, 1 already had one, 0 could not run here, 0 failed" in done.out
    assert recorded.baseline().read_bytes() == before
    provenance = json.loads(recorded.baseline("other").read_text(encoding="utf-8"))["provenance"]
    assert provenance["reason"] == "a new scenario"


def test_a_case_without_a_baseline_fails_and_the_printed_command_records_it(shop):
    """What is printed as the next step can be pasted, and then the case passes."""
    shop.scenario()
    done = shop.harness("run")
    assert done.code == 1
    assert not (shop.root / "baselines").exists()
    command = paragraph(done.out)["next"]
    assert command == "harness record scenarios/digits.yaml -k 'digits[cpu-float32]'"
    assert shop.harness(*shlex.split(command)[1:]).code == 0
    assert shop.harness("run").code == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"seed": "1"}),
        ({}, {"call": "{num_inference_steps: 2, output_type: np}"}),
        ({}, {"scheduler": "{steps_offset: 1}"}),
        ({}, {"scheduler": "{class: DDIMScheduler}"}),
        ({}, {"generator": "numpy"}),
        ({}, {"determinism": "full", "enable": "channels_last"}),
        (
            {
                **PROMPT,
                "call": "{prompt: a handwritten one, num_inference_steps: 1, output_type: np}",
            },
            {
                **PROMPT,
                "call": "{prompt: a handwritten two, num_inference_steps: 1, output_type: np}",
            },
        ),
    ],
    ids=["seed", "steps", "steps_offset", "scheduler", "generator", "enable", "prompt"],
)
def test_a_change_of_the_scenario_makes_its_baseline_stale(
    before: dict[str, str], after: dict[str, str], shop
):
    """It never is a drift: the baseline answers another question."""
    shop.recorded(**before)
    shop.scenario(**after)
    done = shop.harness("run")
    assert done.code == 1
    assert "1 case: 1 stale" in done.out
    assert paragraph(done.out)["why"].startswith(
        "the baseline belongs to another version of the scenario"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Other words."},
        {"tags": "slow"},
        {"timeout": "60"},
        {"tolerance": "{cross-class: {l_inf: 1}}"},
    ],
)
def test_a_change_that_moves_no_number_leaves_the_baseline_good(change: dict[str, str], recorded):
    """Description, tags, time-out and tolerances are not what was recorded."""
    recorded.scenario(**change)
    assert recorded.harness("run").code == 0


def in_two_places(shop) -> Path:
    """Record a scenario with its checkpoint in `before`, and copy both to `after`.

    Returns:
        The copied checkpoint.
    """
    shop.checkpoint("before/weights")
    shop.recorded(folder="before/scenarios", checkpoint="{path: ../weights}")
    shop.scenario(folder="after/scenarios", checkpoint="{path: ../weights}")
    return shop.checkpoint("after/weights")


def test_a_checkpoint_may_move(shop):
    """The control of the next two: a copy elsewhere is the same checkpoint."""
    in_two_places(shop)
    assert shop.harness("run", "after/scenarios").code == 0


def test_a_weight_that_moved_by_one_unit_in_the_last_place_makes_the_baseline_stale(shop):
    """One element of a million, by one bit; the reason names the component."""
    path = in_two_places(shop) / WEIGHTS
    weights = load_file(path)
    first = weights[min(weights)].reshape(-1)
    first[7] = np.nextafter(first[7], np.float32(np.inf))
    save_file(weights, path, {"format": "pt"})
    done = shop.harness("run", "after/scenarios")
    assert done.code == 1
    assert paragraph(done.out)["why"] == "the baseline belongs to other weights: unet"


def test_a_setting_inside_the_checkpoint_makes_the_baseline_stale(shop):
    """The scheduler's file, which no scenario shows, belongs to the checkpoint's configuration."""
    path = in_two_places(shop) / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "steps_offset": 1}), encoding="utf-8")
    done = shop.harness("run", "after/scenarios")
    assert done.code == 1
    edited = "scheduler.steps_offset 0 -> 1"
    why = f"the baseline belongs to other weights: configuration; edited: {edited}"
    assert paragraph(done.out)["why"] == why
    run = max((shop.root / "runs").glob("2*/results.json")).parent
    assert f"  edited:   {edited}\n" in shop.harness("explain", str(run)).out


def test_the_settings_of_a_scenario_that_were_edited_are_named_by_run_and_explain(recorded):
    """By their names in YAML, with both values."""
    shutil.copytree(DATA / "bundled" / "digits-ddpm", recorded.root / "model")
    recorded.scenario(checkpoint="{path: ../model}", scheduler="{timestep_spacing: trailing}")
    done = recorded.harness("run", "--out", "run")
    edits = (
        "checkpoint.bundled digits-ddpm -> unset",
        "checkpoint.path unset -> ../model",
        "scheduler.timestep_spacing unset -> trailing",
    )
    assert paragraph(done.out)["why"].endswith(f": {', '.join(edits)}")
    explained = recorded.harness("explain", "run")
    assert [line for line in explained.out.splitlines() if "edited:" in line] == [
        f"  edited:   {edit}" for edit in edits
    ]


def test_a_control_that_does_not_behave_fails(shop):
    """Equal seeds where distinct images are expected are no pass, and are not recorded."""
    call = "{num_inference_steps: 1, batch_size: 2, output_type: np}"
    shop.scenario(call=call, seed="[0, 0]", expect="distinct-images")
    for command in ("run", "record"):
        done = shop.harness(command)
        assert done.code == 1
        assert (
            paragraph(done.out)["why"]
            == "expected `distinct-images`: image[0] and image[1] are the same"
        )
    assert not (shop.root / "baselines").exists()
    shop.scenario(call=call, seed="[0, 1]", expect="distinct-images")
    assert shop.harness("record").code == 0


def test_a_case_that_varies_as_it_should_passes_and_owes_no_baseline(shop):
    """An unseeded case verifies that the harness can see a difference at all."""
    shop.scenario(generator="none", seed=None)
    done = shop.harness("run")
    assert done.code == 0
    assert "1 case: 1 varies" in done.out
    assert shop.harness("record").code == 2


def test_another_dispatch_of_the_cpu_is_another_class_and_its_noise_differs_first(
    recorded, monkeypatch: pytest.MonkeyPatch
):
    """One class's baseline judges the other by tolerances; without any, only equal bits pass."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    done = recorded.harness("run", "--out", "strict")
    assert done.code == 1
    found = paragraph(done.out)
    assert "the scenario sets no `tolerance.cross-class`" in found["why"]
    assert found["first"] == "noise#0"
    assert "ATEN_CPU_CAPABILITY unset -> default" in done.out
    (outcome,) = read_results(recorded.root / "strict").outcomes
    assert outcome.verdict is Verdict.DRIFTED
    assert outcome.baseline.comparison is Comparison.CROSS_CLASS

    recorded.scenario(tolerance="{cross-class: {rel_l2: 1.0e-5, l_inf: 1.0e-5}}")
    done = recorded.harness("run", "--out", "tolerant")
    assert done.code == 0
    (outcome,) = read_results(recorded.root / "tolerant").outcomes
    assert outcome.verdict is Verdict.WITHIN
    assert outcome.first_difference.subject == "noise#0"
    assert 0 < outcome.outputs["image"].l_inf < 1e-5


def test_each_class_may_have_a_baseline_of_its_own(recorded, monkeypatch: pytest.MonkeyPatch):
    """The tolerance must hold; then both are identical, and the first stays the reference."""
    (first,) = recorded.baseline().parent.glob("*.json")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert recorded.harness("record").code == 1
    assert [first] == list(first.parent.glob("*.json"))
    recorded.scenario(tolerance="{cross-class: {rel_l2: 1.0e-5}}")
    assert recorded.harness("record").code == 0
    assert {
        json.loads(path.read_text(encoding="utf-8"))["reference"]
        for path in first.parent.glob("*.json")
    } == {True, False}
    assert json.loads(first.read_text(encoding="utf-8"))["reference"]
    assert "1 identical" in recorded.harness("run").out
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    assert "1 identical" in recorded.harness("run").out


def test_what_cannot_run_here_is_neither_pass_nor_failure(recorded):
    """Alone it is exit code 3, beside a pass 0, and 3 again if everything was asked for."""
    recorded.scenario(cases=BOTH)
    codes = [
        recorded.harness("run", *more).code for more in (["--device", "cuda"], [], ["--strict"])
    ]
    assert codes == [3, 0, 3]
    done = recorded.harness("run")
    assert "not checked:\n  no CUDA device on this machine: digits[cuda-float32]\n" in done.out
    assert "2 cases: 1 identical, 1 unverified" in done.out
    assert recorded.harness("record", "--device", "cuda").code == 3


def test_a_failure_outweighs_what_cannot_run_here(shop):
    """One missing baseline beside an unverified case is exit code 1."""
    shop.scenario(cases=BOTH)
    assert shop.harness("run", "--strict").code == 1


def test_a_path_without_a_checkpoint_is_an_error(shop):
    """Nobody can fetch it, and it may be mistyped: the reason names the folder."""
    shop.scenario(checkpoint="{path: ../nowhere}")
    done = shop.harness("run")
    assert done.code == 1
    assert f"no checkpoint in {shop.root / 'nowhere'}" in done.out


def test_a_pipeline_that_raises_is_an_error_with_the_end_of_its_traceback(shop):
    """The first line is the exception; the log shows where it was raised."""
    shop.scenario(call="{num_inference_steps: 5000}")
    done = shop.harness("run")
    assert done.code == 1
    assert paragraph(done.out)["why"].startswith("ValueError: ")
    assert "num_inference_steps" in paragraph(done.out)["why"]
    assert "  log:\n" in done.out


@pytest.mark.parametrize("damage", ["json", "tensors", "lost"])
def test_a_damaged_baseline_is_an_error_and_not_a_verdict_on_the_pipeline(damage: str, recorded):
    """A changed figure, a cut file or a lost one: the report names the file and the remedy."""
    path = recorded.baseline()
    (tensors,) = path.parent.glob("*.safetensors")
    if damage == "json":
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"fingerprint": "', '"fingerprint": "0'), encoding="utf-8")
    elif damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    else:
        tensors.unlink()
    done = recorded.harness("run")
    assert done.code == 1
    assert "1 case: 1 error" in done.out
    damaged = path if damage == "json" else tensors
    assert paragraph(done.out)["why"].startswith(str(damaged.relative_to(recorded.root)))
    assert (
        "restore both files from version control, or replace them by `harness accept`" in done.out
    )


def test_listing_shows_what_can_run_and_what_has_a_baseline(recorded):
    """Without starting a worker."""
    recorded.scenario("new", cases=BOTH, tags="[slow]")
    recorded.scenario("free", generator="none", seed=None)
    lines = [line.split() for line in recorded.harness("list").out.splitlines()]
    weights = ["bundled:", "digits-ddpm"]
    assert lines == [
        ["case", "weights", "runs", "here", "baselines", "tags"],
        ["digits[cpu-float32]", *weights, "yes", recorded.baseline().stem],
        ["free[cpu-float32]", *weights, "yes", "needs", "none"],
        ["new[cpu-float32]", *weights, "yes", "none", "slow"],
        ["new[cuda-float32]", *weights, "no:", "no", "CUDA", "device", "none", "slow"],
    ]


def test_the_environment_is_printed_with_its_numerics_class(
    recorded, monkeypatch: pytest.MonkeyPatch
):
    """The class is the one that the baseline was recorded in; nothing stays on the disk."""
    temporary = recorded.root / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = sorted(recorded.root.rglob("*"))
    done = recorded.harness("env")
    assert done.code == 0
    assert done.out.startswith(
        f"numerics class {recorded.baseline().stem} for cpu-float32, determinism full\n"
    )
    assert re.search(
        r"^flags +deterministic_algorithms +\[True, False\] *$", done.out, re.MULTILINE
    )
    assert sorted(recorded.root.rglob("*")) == before


@pytest.mark.parametrize(("output_type", "advised"), [("pil", 1), ("np", 0)])
def test_record_advises_once_against_images_of_8_bits(output_type: str, advised: int, shop):
    """They hide every drift that is smaller than one of their 255 levels."""
    for name in ("one", "two"):
        shop.scenario(name, call=f"{{num_inference_steps: 1, output_type: {output_type}}}")
    said = shop.harness("record", "scenarios").out
    assert said.count("have 8 bits a channel") == advised
    assert said.count("the images of one[cpu-float32] and 1 more") == advised
