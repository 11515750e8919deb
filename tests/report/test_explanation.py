"""An explanation in words: every sentence of it, and nothing where nothing was found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.checks import LocalCheck
from harness.judge.first_difference import ByValue
from harness.records import (
    ChangeKind,
    Check,
    Counterexample,
    Difference,
    DifferenceKind,
    Drift,
    EnvironmentChange,
    Metric,
    Stage,
    StageDrift,
)
from harness.report.explanation import by_value, text
from harness.study.explain import Explanation
from harness.study.revert import Setting
from harness.study.root_causes import Operator, RootCause
from harness.worker.protocol import OWN_CODE

MOVED = Drift(9.24e-07, 1.98e-07, 1.0, 1.0, 98, 256, (0,), 1.0, 1.0)
CONVOLUTION = RootCause(
    Stage("unet", 0),
    "conv_in#0",
    "Conv2d",
    own_code=False,
    moved=MOVED,
    operator=Operator("aten.convolution.default", ("1x4x8x8",), "unet.py:7", None, "aten.add"),
    share=0.996,
)
OWN = RootCause(
    Stage("noise", 0),
    OWN_CODE,
    "",
    own_code=False,
    moved=MOVED,
    operator=Operator("aten.randn.generator", (), "utils.py:110", MOVED, ""),
    share=1.0,
)
BLOCK = RootCause(Stage("unet", 3), "mid#1", "Block", own_code=True, moved=MOVED, share=0.5)
UNKNOWN = RootCause(Stage("vae.decode", 0), "", "", own_code=False)

FOUND = Explanation(
    "digits[cpu-float32]",
    Difference(DifferenceKind.NOISE, "noise#0"),
    (OWN, CONVOLUTION, BLOCK, UNKNOWN),
    (Setting("ATEN_CPU_CAPABILITY", "default", None, 1.0), Setting("MKL_CBWR", None, "AUTO", 0.04)),
    by_value=ByValue(jump=Stage("scheduler.step", 3), growth=12.34),
    notes=("the search ended",),
)
WHOLE = """\
digits[cpu-float32]
  first:    noise#0
  stage:    noise#0: same inputs, different output
  module:   own code of noise#0: L-inf 9.24e-07, relative L2 1.98e-07, 98 of 256 elements
  operator: aten.randn.generator of no tensor: L-inf 9.24e-07, relative L2 1.98e-07, 98 of 256 elements
            called at utils.py:110
            restoring the baseline's result here removes 100 % of the drift
  stage:    unet#0: same inputs, different output
  module:   conv_in#0 (Conv2d): L-inf 9.24e-07, relative L2 1.98e-07, 98 of 256 elements
  operator: aten.convolution.default of 1x4x8x8
            called at unet.py:7; next comes aten.add
            restoring the baseline's result here and at the root causes above removes over 99 % of the drift
  stage:    unet#3: same inputs, different output
  module:   mid#1 (Block): L-inf 9.24e-07, relative L2 1.98e-07, 98 of 256 elements
            its own code: the modules inside it agree on both sides
  operator: none has same inputs and different output: the module's weights, buffers or settings differ, or it calls other operators
            restoring the baseline's result here and at the root causes above removes 50 % of the drift
  stage:    vae.decode#0: same inputs, different output
  setting:  ATEN_CPU_CAPABILITY default -> unset explains 100 % of the drift
  setting:  MKL_CBWR unset -> AUTO explains 4 % of the drift
  values:   free drift grows most at scheduler.step#3: 12.3 times what it was
  changed:  torch 2.12 -> 2.13
            cudnn 9 -> 10
  note:     the search ended"""  # noqa: E501


def test_an_explanation_is_told_whole():
    """First difference, root causes in order, settings, sizes, what changed, what is unknown."""
    changes = [
        EnvironmentChange("torch", "2.12", "2.13", ChangeKind.LIBRARY),
        EnvironmentChange("cudnn", "9", "10", ChangeKind.GPU),
    ]
    assert text(FOUND, changes) == WHOLE


def test_where_the_baseline_cannot_be_repeated_shares_are_of_what_differs_here():
    """The drift from the baseline itself may have other causes."""
    said = text(replace(FOUND, partly=True))
    assert "here removes 100 % of what lies between the two sides here" in said


def test_where_nothing_differs_the_explanation_says_so():
    """And no more."""
    assert (
        text(Explanation("x[cpu-float32]", None)) == "x[cpu-float32]\n  first:    nothing differs"
    )


def local_check(value: float) -> LocalCheck:
    check = Check("unet#1/sample", Metric.LOCAL_REL_L2, value, 1e-6)
    return LocalCheck(check, StageDrift(Stage("unet", 1), "sample", value, value))


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        (
            ByValue(outside=local_check(2e-6)),
            ["unet#1/sample is the first outside its bound: 2.00e-06, bound 1.00e-06"],
        ),
        (
            ByValue(nearest=local_check(5e-7)),
            [
                (
                    "no stage is outside its bound; unet#1/sample has the smallest margin: "
                    "5.00e-07, bound 1.00e-06"
                )
            ],
        ),
        (ByValue(), []),
    ],
)
def test_the_sizes_of_drifts_are_said_in_sentences(found: ByValue, sentences: list[str]):
    """Which stage left its bound first, or came nearest to it."""
    assert by_value(found) == sentences


def test_names_from_elsewhere_cannot_control_the_terminal():
    """Modules and source files are named by whoever wrote the pipeline."""
    hostile = replace(CONVOLUTION, type="x\x1b[2J\nstage: forged")
    said = text(replace(FOUND, root_causes=(hostile,), notes=("a\x1b[2J\nb",)))
    assert "\x1b" not in said
    assert "\nstage: forged" not in said


def test_a_batch_is_named_with_its_call_and_what_the_image_alone_was_given():
    """Nothing is called the baseline's there; without a run, no first difference is claimed."""
    batch = Counterexample((0, 2, 2), 1, "pipeline(batch_size=3)", is_smallest=True)
    found = Explanation("digits[cpu-float32]", FOUND.first, (OWN,), batch=batch)
    shown = text(found)
    assert shown.startswith(
        "digits[cpu-float32]\n"
        "  batch:    image 2 alone, against slot 1 of [0, 2, 2]\n"
        "  call:     pipeline(batch_size=3)\n"
        "  first:    noise#0\n"
    )
    assert "giving the image alone the batch's result here removes 100 % of the drift" in shown
    assert "baseline" not in shown
    assert "first:" not in text(replace(found, first=None, root_causes=()))
