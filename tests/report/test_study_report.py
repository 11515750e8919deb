"""Studies on a terminal: the rows of their tables, and what is said beside them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from harness.records import Check, Device, Metric
from harness.report.study_report import (
    calibration_rows,
    method_rows,
    overhead_row,
    print_bisection,
    print_calibration,
    print_challenge,
    print_overheads,
)
from harness.scenario.tolerance import BoundKey, Kind, Tolerances
from harness.study.bisect import Bisection, Change
from harness.study.calibrate import Calibration
from harness.study.challenge import Challenge, Trial
from harness.study.moves import Move
from harness.study.overhead import Overhead

HOSTILE = "a\x1b[2Jb"


def lines(show: Any, *arguments: Any) -> list[str]:
    """Return the lines that a function of the report prints."""
    out = io.StringIO()
    show(Console(file=out, width=1000, soft_wrap=True), *arguments)
    return [line.rstrip() for line in out.getvalue().splitlines()]


OVERHEAD = Overhead("x[cpu-float32]", "full / default", 1.25, 1.0, 1.25, 1.1, 1.4, same_bits=False)


def test_an_overhead_is_one_row():
    """Seconds of both settings, their ratio with its spread, and whether the bits are the same."""
    assert overhead_row(OVERHEAD) == (
        *("x[cpu-float32]", "full / default"),
        *("1.250", "1.000", "x1.25", "1.10 to 1.40", "other"),
    )


def test_a_case_without_an_overhead_says_why():
    """Where none could be measured there is no table."""
    assert lines(print_overheads, [], {"x": f"no GPU {HOSTILE}"}) == [
        "could not run: x: no GPU a\\x1b[2Jb"
    ]


REL_L2 = BoundKey(Kind.CROSS_CLASS, Metric.REL_L2)
STEP = BoundKey(Kind.CROSS_CLASS, Metric.LOCAL_REL_L2, "scheduler.step#0")
CALIBRATION = Calibration(
    "x[cpu-float32]",
    on="cpu-a",
    device=Device.CPU,
    seeds=3,
    perturbations=8,
    noise={REL_L2: 1e-6, STEP: 2e-7},
    draws={"mkl": [{REL_L2: 5e-6, STEP: 1e-7}], "aten": [{REL_L2: 1e-7, STEP: 4e-7}]},
    missed={"cuda": "no CUDA device"},
)


def test_a_calibration_has_a_row_per_bound():
    """The noise, the worst platform, the bound that follows, and the one in the scenario."""
    current = Tolerances.from_yaml({"cross-class": {"rel_l2": 2e-5}})
    assert calibration_rows(CALIBRATION, current) == [
        ("rel_l2", "1.0e-06", "5.0e-06", "mkl", "1.0e-05", "2.0e-05"),
        ("local_rel_l2 of scheduler.step", "2.0e-07", "4.0e-07", "aten", "1.4e-06", ""),
    ]


def test_a_calibration_says_what_its_bounds_would_refuse_and_what_was_not_measured():
    """A platform that the others' bounds do not admit is named."""
    said = lines(print_calibration, CALIBRATION, Tolerances())
    assert said[0] == "x[cpu-float32] against cpu-a; 3 seeds, 8 perturbations"
    assert said[-2:] == [
        "leaving one platform out: 2 of 2 are admitted by the others' bounds",
        "not measured: cuda: no CUDA device",
    ]


def trial(fault: str, effect: float, value: float, *unseen_by: str) -> Trial:
    """Return a trial whose drift elsewhere is `value`, against a bound of 1."""
    check = Check("image", Metric.REL_L2, value, 1.0)
    return Trial(fault, f"proof of {fault}", effect, (check,), fault, unseen_by)


CHALLENGE = Challenge(
    "x[cpu-float32]",
    "portable",
    1e-5,
    (
        trial("small", 1e-6, 0.5, "nine pixels, 1e-2"),
        trial("large", 1e-2, 4.0),
        trial("missed", 1e-3, 0.5, "nine pixels, 1e-2"),
    ),
    {HOSTILE: "changes no bit\nof any output"},
)


def test_a_challenge_lists_the_faults_by_their_effect():
    """Whether each is caught, by which bound, or why it may pass."""
    said = lines(print_challenge, CHALLENGE)
    assert said[0] == "x[cpu-float32]; the other class is portable"
    assert [" ".join(line.split()) for line in said[2:5]] == [
        "large 1.0e-02 caught caught x4 by image rel_l2 proof of large",
        "missed 1.0e-03 caught MISSED x0.5 proof of missed",
        "small 1.0e-06 caught below the noise x0.5 proof of small",
    ]
    assert said[5] == "no effect: a\\x1b[2Jb: changes no bit"


@pytest.mark.parametrize(
    ("method", "every", "above"),
    [
        ("nine pixels, 1e-2", "1 of 3 (33 %)", "1 of 2 (50 %)"),
        ("abs-sum, 1e-2", "3 of 3 (100 %)", "2 of 2 (100 %)"),
        ("harness, same class", "3 of 3 (100 %)", "2 of 2 (100 %)"),
        ("harness, other class", "1 of 3 (33 %)", "1 of 2 (50 %)"),
    ],
)
def test_the_detection_rate_is_given_for_each_method(method: str, every: str, above: str):
    """Those in use elsewhere beside this harness, over all faults and those above the noise."""
    assert (method, every, above) in method_rows(CHALLENGE)


def test_a_bisection_says_which_release_moved_the_output_and_what_stays_unknown():
    """The change, the suspects before it, and why releases were skipped."""
    change = Change("1.2", "1.0", Move(0.5, 0.25, "unet#0", ("a", "b", "c", "d", "e")))
    found = Bisection(
        "x[cpu-float32]",
        "diffusers",
        ("1.0", "1.1", "1.2"),
        ("1.0", "1.2"),
        (change,),
        ("1.1",),
        {"1.1": f"does not\ninstall {HOSTILE}"},
    )
    said = [" ".join(line.split()) for line in lines(print_bisection, found)]
    assert said == [
        "x[cpu-float32], diffusers 1.0 to 1.2; 2 of 3 releases recorded, 1 skipped",
        "release against L-inf rel L2 first difference changed beside it",
        "1.2 1.0 5.00e-01 2.50e-01 unet#0 a; b; c; d",
        "or one of the skipped before it: 1.1",
        "skipped: 1.1: does not install a\\x1b[2Jb",
        "",
    ]


def test_a_bisection_in_which_nothing_moved_says_so():
    """In its first line, without a table."""
    found = Bisection("x", "diffusers", ("1.0", "1.1"), ("1.0", "1.1"))
    assert lines(print_bisection, found) == [
        "x, diffusers 1.0 to 1.1; 2 of 2 releases recorded, 0 skipped: not moved",
        "",
    ]
