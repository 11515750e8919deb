"""Plants changes of arithmetic whose accuracy is known, and says how each of them is judged.

A scenario is recorded as it is, which becomes its baseline. Each plant changes how its modules
compute, or the settings of the worker; the stages that move are then evaluated in float64. What the
evaluation costs is measured in seconds beside a run.

    python benchmarks/accuracy.py                      # two pipelines, all plants
    python benchmarks/accuracy.py --settings           # real settings on all bundled pipelines
    python benchmarks/accuracy.py sd-digits            # all plants in one of them

It takes one to three minutes a scenario on an idle core.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median

from common import first_case, temporary_session

from harness.errors import NotRecordedError
from harness.judge import reasons
from harness.judge.accuracy import deciding
from harness.records import AccuracyVerdict, Facts, StageAccuracy
from harness.scenario.model import Case
from harness.session import Session
from harness.store.baselines import Baseline

PLANTED = ("ddim-digits", "sd-digits")
BUNDLED = (
    "ddim-digits",
    "ddim-digits-numpy",
    "ddpm-digits",
    "sd-digits",
    "sd-digits-batch",
    "sd-digits-bfloat16",
    "sd-digits-dpmsolver",
    "sd-digits-euler-ancestral",
    "sd-digits-float16",
    "sd-digits-latents",
)
MATRIX: Facts = {"component": "unet", "modules": "matrix"}
BETTER, NO_WORSE, WORSE = AccuracyVerdict.BETTER, AccuracyVerdict.NO_WORSE, AccuracyVerdict.WORSE
# What is planted, and the verdicts of which any is right.
PLANTS: dict[str, tuple[Facts, tuple[AccuracyVerdict, ...]]] = {
    "fused kernels: each layer in float64, rounded once": (
        {**MATRIX, "kind": "wide"},
        (BETTER, NO_WORSE),
    ),
    "norms in float64, rounded once": (
        {"kind": "wide", "component": "unet", "modules": "norm"},
        (BETTER, NO_WORSE),
    ),
    "compensated sums": (
        {**MATRIX, "kind": "sums", "how": "compensated", "inputs": 1},
        (BETTER, NO_WORSE),
    ),
    "compensated sums in the VAE": (
        {
            "kind": "sums",
            "component": "vae",
            "modules": "matrix",
            "how": "compensated",
            "inputs": 1,
        },
        (BETTER,),
    ),
    "fused kernels in the VAE": (
        {"kind": "wide", "component": "vae", "modules": "matrix"},
        (BETTER,),
    ),
    "sums in another order": (
        {**MATRIX, "kind": "sums", "how": "reversed", "inputs": 16},
        (NO_WORSE,),
    ),
    "flash attention in place of math": (
        {"kind": "attention", "component": "unet"},
        (BETTER, NO_WORSE),
    ),
    "sums in bfloat16": ({**MATRIX, "kind": "sums", "how": "bfloat16", "inputs": 16}, (WORSE,)),
    "operands of TF32": ({**MATRIX, "kind": "operands", "bits": 10}, (WORSE,)),
    "operands of TF32 in one layer": (
        {**MATRIX, "kind": "operands", "bits": 10, "at": 0.5},
        (WORSE,),
    ),
    "one layer's weights in bfloat16": (
        {**MATRIX, "kind": "weights", "how": "bfloat16", "at": 0.5},
        (WORSE,),
    ),
    "one layer's results in bfloat16": (
        {**MATRIX, "kind": "outputs", "dtype": "bfloat16", "at": 0.5},
        (WORSE,),
    ),
}
# Settings with which torch and its libraries choose other kernels for the same operators.
SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
}


@dataclass(frozen=True)
class Judged:
    """How one plant was judged in one scenario."""

    scenario: str
    plant: str
    right: tuple[AccuracyVerdict, ...]
    accuracy: tuple[StageAccuracy, ...]

    @property
    def verdict(self) -> str:
        """The verdict on the case; `unmoved` where no stage moved."""
        worst = deciding(self.accuracy)
        return "unmoved" if worst is None else str(worst.verdict)

    @property
    def is_right(self) -> bool:
        """Whether the verdict is one of those that are right."""
        return self.verdict in self.right


def main() -> None:
    """Judge every plant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--settings", action="store_true")
    arguments = parser.parse_args()
    names = arguments.scenarios or (BUNDLED if arguments.settings else PLANTED)
    judged: list[Judged] = []
    with temporary_session() as session:
        for name in names:
            judged += _judge_scenario(session, name, settings=arguments.settings)
    unmoved = sum(not each.accuracy for each in judged)
    judged = [each for each in judged if each.accuracy]
    counted = Counter(each.is_right for each in judged)
    print(f"\n{counted[True]} of {len(judged)} judged as expected; {unmoved} moved no stage")
    for each in judged:
        if not each.is_right:
            print(f"not as expected: {each.scenario}: {each.plant}: {each.verdict}")


def _judge_scenario(session: Session, name: str, *, settings: bool) -> list[Judged]:
    case = first_case(name)
    recording = session.record(replace(case, detail={"stage": ""}))
    path = session.store.write(case, recording, "benchmark")
    expected = session.store.read(path)
    _print_cost(session, case, expected)
    print("plant | judged | worst stage | error | baseline's | ratio | least, median | stages")
    if settings:
        plants = [
            (f"{key}={value}", replace(case, settings=((key, value),)), (BETTER, NO_WORSE))
            for key, value in SETTINGS.items()
        ]
    else:
        plants = [
            (key, replace(case, fault=fault), right) for key, (fault, right) in PLANTS.items()
        ]
    found = []
    for key, plant, right in plants:
        with suppress(NotRecordedError):  # the pipeline has no such component
            found.append(_judge(session, plant, expected, name, key, right))
    return found


def _judge(
    session: Session,
    case: Case,
    expected: Baseline,
    scenario: str,
    plant: str,
    right: tuple[AccuracyVerdict, ...],
) -> Judged:
    actual = session.record(replace(case, detail={"stage": ""}))
    judged = Judged(scenario, plant, right, session.accuracy(case, actual, expected))
    print(" | ".join([plant, *_cells(judged)]), flush=True)
    return judged


def _cells(judged: Judged) -> Sequence[str]:
    worst = deciding(judged.accuracy)
    if worst is None or worst.actual_error is None or worst.expected_error is None:
        why = "" if worst is None else reasons.accuracy_is_unknown(worst)
        return (judged.verdict, why)
    counted = Counter(str(each.verdict) for each in judged.accuracy)
    ratios = [each.ratio for each in judged.accuracy]
    return (
        judged.verdict,
        worst.name,
        f"{worst.actual_error.rel_l2:.2e}",
        f"{worst.expected_error.rel_l2:.2e}",
        f"x{worst.ratio:.3g}",
        f"x{min(ratios):.3g}, x{median(ratios):.3g}",
        ", ".join(f"{count} {verdict}" for verdict, count in counted.items()),
        reasons.accuracy_is_unknown(worst),
    )


def _print_cost(session: Session, case: Case, expected: Baseline) -> None:
    """Print the seconds of a run, of a teacher-forced run, and of both evaluations."""
    tensors = expected.tensors_path.resolve()
    runs = {
        "run": replace(case, detail={"stage": ""}),
        "teacher-forced": replace(case, teacher_tensors=tensors),
        "float64": case.evaluated(tensors, "exact"),
        "float64, moved": case.evaluated(tensors, "moved"),
    }
    seconds = {}
    for name, each in runs.items():
        started = time.perf_counter()
        try:
            session.record(each)
        except NotRecordedError as error:
            print(f"{name}: {error.reason}")
        seconds[name] = time.perf_counter() - started
    words = [
        f"{name} {took:.2f} s (x{took / seconds['run']:.1f})" for name, took in seconds.items()
    ]
    print(f"\n{case.id}: {', '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
