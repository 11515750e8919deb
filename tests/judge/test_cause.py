"""Failures by cause: which cases belong together, and which show two causes at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from builders import MOVED, NOISE, OTHER_UNET, STAGES

from harness.judge.cause import by_cause, causes_of
from harness.judge.verdict import judge
from harness.records import (
    Change,
    ChangeKind,
    Check,
    Difference,
    DifferenceKind,
    EnvironmentChange,
    Metric,
    Outcome,
    Reason,
)
from harness.report import causes, wording
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Match, Store
from harness.store.recording import Recording
from harness.study.fault_catalogue import catalogue

DIFFUSERS = EnvironmentChange("diffusers", "0.25.1", "0.26.0", ChangeKind.LIBRARY)
TORCH_CPU = EnvironmentChange("torch", "2.12.0+cpu", "2.13.0+cpu", ChangeKind.LIBRARY)
TORCH_CUDA = EnvironmentChange("torch", "2.12.0+cu130", "2.13.0+cu130", ChangeKind.LIBRARY)
NUMPY = EnvironmentChange("numpy", "2.3", "2.4", ChangeKind.PACKAGE)
CPU = EnvironmentChange("cpu", "Xeon", "EPYC", ChangeKind.MACHINE)

TABLES = Difference(DifferenceKind.SCHEDULER_TABLES, "scheduler", ("alphas_cumprod",))
SIGMAS = Difference(DifferenceKind.SCHEDULER_TABLES, "scheduler", ("sigmas", "timesteps"))
UNET = Difference(DifferenceKind.STAGE_OUTPUT, "unet#0")
LATER = Difference(DifferenceKind.STAGE_OUTPUT, "unet#7")
VAE = Difference(DifferenceKind.STAGE_OUTPUT, "vae.decode#0")
WEIGHTS = Difference(DifferenceKind.WEIGHTS, "vae", ("decoder.conv_in.weight",))


def drifted(number: int, *origins: Difference, changes: tuple = (), **more: object) -> Outcome:
    """Return an outcome whose places `origins` moved by themselves."""
    return builders.outcome(
        "drifted",
        name=f"case-{number}",
        first_difference=origins[0],
        origins=origins,
        environment_changes=changes,
        baseline=builders.judged_by("cpu-b"),
        **more,
    )


def sizes(outcomes: list[Outcome]) -> list[int]:
    return [len(group.outcomes) for group in by_cause(outcomes)]


# One hundred cases.


def test_a_hundred_cases_of_three_causes_are_three_groups():
    """An upgrade that moved schedulers, other weights, and one more kernel; in any order."""
    release = [
        drifted(i, TABLES if i % 2 else SIGMAS, changes=(DIFFUSERS, NUMPY)[: 1 + i % 2])
        for i in range(72)
    ]
    weights = [drifted(100 + i, WEIGHTS) for i in range(18)]
    kernels = [
        drifted(200 + i, UNET, VAE, changes=(TORCH_CUDA if i % 2 else TORCH_CPU,))
        for i in range(10)
    ]
    both = [drifted(300, WEIGHTS, TABLES, changes=(DIFFUSERS,))]
    passing = [builders.outcome("identical", name=f"same-{i}") for i in range(9)]
    outcomes = [*release, *weights, *kernels, *both, *passing]
    shuffled = [outcomes[67 * i % len(outcomes)] for i in range(len(outcomes))]
    assert len({outcome.case for outcome in shuffled}) == len(outcomes)
    groups = by_cause(shuffled)
    assert [len(group.outcomes) for group in groups] == [72, 18, 10, 1]
    assert [group.has_several_causes for group in groups] == [False, False, False, True]
    assert [causes.headline(group) for group in groups] == [
        "72 drifted, one cause: diffusers 0.25.1 -> 0.26.0, scheduler tables",
        "18 drifted, one cause: weights of vae",
        "10 drifted, one cause: torch 2.12.0 -> 2.13.0, arithmetic of unet, arithmetic of vae",
        (
            "1 drifted, 2 causes at once: "
            "weights of vae + diffusers 0.25.1 -> 0.26.0, scheduler tables"
        ),
    ]
    paragraph = wording.paragraph(both[0], Path("runs/nightly"))
    assert "  causes:   2 at once, which moved by themselves:\n" in paragraph
    assert "  moved:    weights of vae; no change of the environment explains it\n" in paragraph
    moved = "  moved:    scheduler tables; may come of diffusers 0.25.1 -> 0.26.0\n"
    assert moved in paragraph


# What tells causes apart.

TOGETHER = {
    "another-call-of-the-same-component": ([UNET], [LATER], ()),
    "tables-of-other-names-after-one-upgrade": ([TABLES], [SIGMAS], (DIFFUSERS,)),
}
APART = {
    "another-component": ([UNET], [VAE], (DIFFUSERS,)),
    "tables-of-other-names-without-an-upgrade": ([TABLES], [SIGMAS], (NUMPY,)),
    "one-place-and-two": ([UNET], [UNET, TABLES], (TORCH_CPU,)),
    "other-weights-of-one-component": (
        [WEIGHTS],
        [replace(WEIGHTS, names=("encoder.conv_in.weight",))],
        (DIFFUSERS,),
    ),
}


@pytest.mark.parametrize(
    ("one", "other", "changes", "groups"),
    [
        *((*each, [2]) for each in TOGETHER.values()),
        *((*each, [1, 1]) for each in APART.values()),
    ],
    ids=[*TOGETHER, *APART],
)
def test_cases_are_told_apart_by_place_and_change(one, other, changes, groups):
    """By the names of what differs only where no change may explain it."""
    outcomes = [drifted(1, *one, changes=changes), drifted(2, *other, changes=changes)]
    assert sizes(outcomes) == groups


def test_the_same_place_after_another_change_is_another_cause():
    """A package that computes nothing makes no difference."""
    assert sizes([drifted(1, UNET, changes=(TORCH_CPU,)), drifted(2, UNET)]) == [1, 1]
    assert sizes([drifted(1, UNET, changes=(NUMPY,)), drifted(2, UNET)]) == [2]


@pytest.mark.parametrize(
    ("origins", "changes", "counted"),
    [
        ((UNET, VAE), (), 2),
        ((UNET, VAE), (DIFFUSERS,), 2),
        ((UNET, VAE), (TORCH_CPU,), 1),
        ((UNET, TABLES), (TORCH_CPU, DIFFUSERS), 2),
        ((WEIGHTS, UNET), (TORCH_CPU,), 2),
    ],
    ids=["faults", "code-of-each", "another-torch", "tables-and-kernels", "weights-and-kernels"],
)
def test_places_that_moved_by_themselves_are_several_causes(origins, changes, counted):
    """Unless one change may have moved the arithmetic of all of them."""
    assert len(causes_of(drifted(1, *origins, changes=changes))) == counted


def test_another_machine_does_not_explain_what_is_over_a_local_bound():
    """The bounds admit what other machines round; without any, the machine may explain it."""
    over = (Check("unet#0/sample", Metric.LOCAL_REL_L2, 1.0, 1e-6),)
    baseline = builders.judged_by("cpu-b", same_class=False)
    outcome = replace(drifted(1, UNET, VAE, changes=(CPU,)), baseline=baseline)
    assert [cause.changes for cause in causes_of(outcome)] == [(CPU,)]
    assert [cause.changes for cause in causes_of(replace(outcome, checks=over))] == [(), ()]


def test_failures_without_a_drift_are_grouped_by_what_they_state():
    """Forty cases that lack weights are one paragraph, as are those of one edited setting."""
    edits = (Change("scheduler.timestep_spacing", "leading", "trailing"),)
    outcomes = [
        *(builders.outcome("error", name=f"e{i}", message="no such file") for i in range(4)),
        builders.outcome("error", name="other", message="out of memory"),
        *(builders.outcome("missing", name=f"m{i}") for i in range(3)),
        *(
            builders.outcome(
                "stale", name=f"s{i}", edits=edits, message=f"of day {i}", origins=(UNET,)
            )
            for i in range(2)
        ),
    ]
    assert sizes(outcomes) == [4, 3, 2, 1]


def test_an_older_file_of_results_is_grouped_by_its_first_difference():
    """It names no origins, and its changes are lines of text."""
    stated = (EnvironmentChange.from_text("torch 2.12 -> 2.13"),)
    outcomes = [replace(drifted(i, UNET, changes=stated), origins=()) for i in range(3)]
    (group,) = by_cause(outcomes)
    line = "3 drifted, one cause: torch 2.12 -> 2.13, arithmetic of unet"
    assert causes.headline(group) == line


# What moved by itself, in recordings made by hand.

Made = Callable[..., Recording]


def places_of(outcome: Outcome) -> list[tuple[DifferenceKind, str]]:
    return [(each.kind, each.subject) for each in outcome.origins]


def test_other_weights_and_other_tables_are_two_causes_of_a_stale_case(made: Made):
    """The first difference names the weights alone."""

    def inputs(unet: str, table: str) -> dict[str, object]:
        return {**builders.inputs(unet), "tables": {"scheduler": {"alphas_cumprod": table}}}

    actual = made(outputs=MOVED, stages=OTHER_UNET, inputs=inputs("other", "b"))
    outcome = judge(builders.case(), actual, builders.match(made(inputs=inputs("w", "a"))), [])
    assert outcome.reason is Reason.OTHER_WEIGHTS
    assert places_of(outcome) == [
        (DifferenceKind.WEIGHTS, "unet"),
        (DifferenceKind.SCHEDULER_TABLES, "scheduler"),
    ]


def test_a_setting_that_a_release_adds_is_no_cause_but_one_that_it_changed_is(made: Made):
    """The stage that moved is named in place of the former."""
    expected = made()
    stages = [("unet#0", {"sample": "n"}, {"sample": "U"}), STAGES[1]]
    added = made(MOVED, stages=stages, inputs=builders.inputs(added=1))
    changed = made(MOVED, stages=stages, inputs=builders.inputs(timestep_spacing="trailing"))
    match = builders.match(expected)
    assert places_of(judge(builders.case(), added, match, [])) == [
        (DifferenceKind.STAGE_OUTPUT, "unet#0")
    ]
    assert places_of(judge(builders.case(), changed, match, [])) == [
        (DifferenceKind.CONFIGURATION, "scheduler"),
        (DifferenceKind.STAGE_OUTPUT, "unet#0"),
    ]


def stages(*facts: str) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """Return a U-Net, a step and a VAE, by what each takes and gives: `n u`, `u s`, `s i`."""
    names = ("unet#0", "scheduler.step#0", "vae.decode#0")
    sides = [text.split() for text in facts]
    return [
        (name, {"sample": taken}, {"sample": given})
        for name, (taken, given) in zip(names, sides, strict=True)
    ]


def test_stages_that_moved_from_equal_inputs_are_found_by_the_teacher_forced_run(made: Made):
    """In the free run the second got other inputs, and hides behind the first."""
    match = builders.match(made(stages=stages("n u", "u s", "s i")))
    free = made(MOVED, stages=stages("n U", "U S", "S I"))
    forced = made(MOVED, stages=stages("n U", "U S", "s I"))
    alone = judge(builders.case(), free, match, [])
    assert [each.subject for each in alone.origins] == ["unet#0"]
    both = judge(builders.case(), free, match, [], forced)
    assert [each.subject for each in both.origins] == ["unet#0", "vae.decode#0"]


def test_code_between_stages_is_named_where_nothing_before_it_moved(made: Made):
    """A pipeline that scales its latents otherwise changes no stage."""
    match = builders.match(made(stages=stages("n u", "u s", "s i")))
    between = made(MOVED, stages=stages("n u", "u s", "S I"))
    outcome = judge(builders.case(), between, match, [])
    assert places_of(outcome) == [(DifferenceKind.STAGE_INPUT, "vae.decode#0")]
    other = {"stages": stages("N U", "U S", "S I"), "noise": (NOISE + 1,)}
    outcome = judge(builders.case(), made(MOVED, **other), match, [])
    assert places_of(outcome) == [(DifferenceKind.NOISE, "noise#0")]


# Real recordings, with faults that `harness challenge` injects.

ROOT = Path(__file__).resolve().parents[2]
SCHEDULER, VAE_FAULT = "scheduler.beta_end = x1.01", "VAE: one convolution x1.001"
DENOISER, SEED = "one convolution x1.01", "seed + 1"


class Laboratory:
    """Runs small cases with faults, and judges them against the run without any."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def judge(self, name: str, *faults: str) -> Outcome:
        """Return the outcome of a bundled scenario into which faults were injected."""
        (case, *_) = read(ROOT / "scenarios" / f"{name}.yaml").cases()
        folder = self._session.out / name
        base = self._session.record(case, folder=folder / "base")
        baseline = builders.baseline(
            base, scenario=name, target=case.target, fingerprint=case.scenario.fingerprint
        )
        carrier = self._with(case, faults)
        actual = self._session.record(carrier, folder=folder / "-".join(faults))
        forced = self._session.record(
            replace(carrier, teacher_tensors=base.tensors_path.resolve()), folder=folder / "forced"
        )
        return judge(case, actual, Match(baseline), [], forced)

    def _with(self, case: Case, names: tuple[str, ...]) -> Case:
        for fault in catalogue("unet"):
            if fault.name in names:
                carrier = fault.apply(case)
                assert carrier is not None
                case = carrier
        return case


@pytest.fixture
def laboratory(pooled, tmp_path: Path) -> Laboratory:
    return Laboratory(Session(Store(tmp_path / "baselines"), tmp_path / "run"))


def test_real_cases_of_two_faults_are_grouped_and_the_one_with_both_is_apart(laboratory):
    """Two scenarios with other tables, two with another VAE, one with other noise and U-Net."""
    outcomes = [
        laboratory.judge("ddim-digits", SCHEDULER),
        laboratory.judge("ddpm-digits", SCHEDULER),
        laboratory.judge("sd-digits", VAE_FAULT),
        laboratory.judge("sd-digits-dpmsolver", VAE_FAULT),
        laboratory.judge("ddim-digits-numpy", DENOISER, SEED),
    ]
    groups = by_cause(outcomes)
    assert [sorted(each.scenario for each in group.outcomes) for group in groups] == [
        ["ddim-digits", "ddpm-digits"],
        ["sd-digits", "sd-digits-dpmsolver"],
        ["ddim-digits-numpy"],
    ]
    assert [group.has_several_causes for group in groups] == [False, False, True]
    (both,) = groups[-1].outcomes
    places = {(each.kind, each.subject.partition("#")[0]) for each in both.origins}
    assert places == {(DifferenceKind.NOISE, "noise"), (DifferenceKind.STAGE_OUTPUT, "unet")}
