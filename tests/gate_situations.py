"""Situations in which a gate decides, each with the word and the exit code that follow.

The docstring of each is its line in docs/gate.md, whose table a test compares with this list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import builders
from gate_world import FAR, GPU, HERE, OTHER, THIRD, World, changed, first

from harness.records import Reason, Verdict


@dataclass(frozen=True)
class Situation:
    """One situation: how it comes about, and what the gate must say."""

    arrange: Callable[[World], object]
    word: str
    code: int
    problem: str

    @property
    def text(self) -> str:
        """What it is, in one line."""
        return " ".join((self.arrange.__doc__ or "").split())

    @property
    def name(self) -> str:
        """The name of the function that arranges it."""
        return self.arrange.__name__


SITUATIONS: list[Situation] = []
OPEN, BLOCKED, USAGE = "open", "blocked", "usage error"
ON_CPU = "require:\n  - {scenarios: digits, on: cpu"


Arrange = Callable[[World], object]


def situation(word: str, code: int, problem: str = "") -> Callable[[Arrange], Arrange]:
    """Register a function as a situation; `problem` is a finding that must be told."""

    def register(arrange: Arrange) -> Arrange:
        SITUATIONS.append(Situation(arrange, word, code, problem))
        return arrange

    return register


def is_open(problem: str = ""):
    return situation(OPEN, 0, problem)


def fails(problem: str):
    return situation(BLOCKED, 1, problem)


def unverified(problem: str):
    return situation(BLOCKED, 3, problem)


refused = situation(USAGE, 2)


def plain(world: World, **changes: str | None) -> None:
    """Make a project of one scenario with a baseline, and a run that repeats it."""
    world.scenario(**changes)
    world.baseline()
    world.run()


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")


def require(world: World, keys: str, rest: str = "") -> None:
    """Require the scenario `digits` on the CPU, with more keys."""
    world.policy(f"{rest}{ON_CPU}, {keys}}}\n")


# The gate is open.


@is_open()
def all_passes(world):
    """Every required case has the bits of its baseline."""
    plain(world)


@is_open()
def within_tolerance(world):
    """A machine of another class stays inside the tolerance."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)


@is_open()
def three_machines(world):
    """Three machines pass, and the policy names their three classes."""
    world.scenario()
    world.baseline()
    for machine in (HERE, OTHER, THIRD):
        world.run(f"runs/{machine.letter}", machine)
    require(world, "classes: [cpu-a, cpu-b, cpu-c]")


@is_open()
def control_varies(world):
    """A control that must vary does."""
    world.scenario(expect="varies", tolerance=None, generator="none")
    world.run(repeat=builders.repeat(distinct=2, runs=2, l_inf=0.5))


@is_open()
def contract_holds(world):
    """A variant without a baseline is verified by its contract."""
    world.scenario(variants="{sliced: {enable: [vae_slicing], contract: identical}}")
    world.baseline()
    for path in Path("baselines/digits").glob("*sliced*/*"):
        path.unlink()
    world.run()


@is_open()
def other_machine_has_no_gpu(world):
    """One machine has no GPU, and another one that has it passes."""
    world.scenario(cases="{device: [cpu, cuda]}")
    world.baseline()
    world.baseline(GPU)
    world.run("runs/cpu")
    world.run("runs/gpu", GPU)
    world.policy("require:\n  - {scenarios: digits, on: [cpu, nvidia-l4]}\n")


@is_open("same-run-twice")
def same_run_twice(world):
    """The same run is named twice."""
    plain(world)
    Path("again").mkdir()
    Path("again/results.json").write_bytes(Path("runs/one/results.json").read_bytes())
    world.runs.append("again")


@is_open("duplicate")
def duplicates_agree(world):
    """Two runs of one class agree."""
    plain(world)
    world.run("runs/two")
    world.edit(lambda content: content.update(machine="another"), "runs/two")


@is_open()
def another_scenario_fails(world):
    """A scenario that nothing requires drifts."""
    world.scenario("other")
    plain(world)
    world.run("runs/other", only="other", outputs=FAR)


@is_open()
def builds_of_one_release(world):
    """Two machines have other builds of one release of torch."""
    plain(world)
    world.run("runs/two", OTHER, versions={"torch": "2.13.0+cu130"})


@is_open()
def waived(world):
    """A drift is waived, with reason, owner and a day that has not come."""
    world.scenario()
    world.baseline()
    world.run(outputs=FAR)
    world.policy(
        "require: {scenarios: digits, on: cpu}\n"
        "waive: {scenarios: digits, for: drifted, reason: R, owner: A, expires: 2999-01-01}\n"
    )


@is_open("waiver-unused")
def waiver_unused(world):
    """A waiver that nothing needs any more."""
    plain(world)
    world.policy(
        "require: {scenarios: digits, on: cpu}\n"
        "waive: {scenarios: digits, for: drifted, reason: R, owner: A, expires: 2999-01-01}\n"
    )


@is_open()
def recordings_agree(world):
    """With `--recordings`, each verdict follows from its recording."""
    plain(world)
    world.options.append("--recordings")


@is_open()
def versions_admitted(world):
    """The versions that the policy asks for."""
    plain(world)
    world.policy("versions: {torch: 2.13.*}\n" + ON_CPU + "}\n")


@is_open()
def of_the_commit(world):
    """The run is of the commit being released, from a clean working tree."""
    world.scenario()
    world.baseline()
    world.commit()
    world.run()


# Something fails.


@fails("fails")
def drift_on_one_of_three(world):
    """One of three machines drifts."""
    world.scenario()
    world.baseline()
    world.run("runs/a")
    world.run("runs/b", OTHER, outputs=FAR)
    world.run("runs/c", THIRD)


@fails("fails")
def crashed(world):
    """A required case ended in an error."""
    plain(world)
    world.outcome(changed(verdict=Verdict.ERROR, reason=Reason.NOT_RECORDED))


@fails("fails")
def never_recorded(world):
    """A required case has no baseline."""
    world.scenario()
    world.run()


@fails("contradicts-itself")
def identical_beside_failed_check(world):
    """The verdict is `identical`, and a check beside it fails."""
    plain(world)
    check = {"subject": "image", "metric": "l_inf", "value": 1.0, "bound": 0.5}
    world.edit(lambda content: first(content, checks=[check]))


@fails("contradicts-itself")
def identical_beside_moved_output(world):
    """The verdict is `identical`, and an output moved."""
    plain(world)
    world.edit(lambda content: content["outcomes"][0]["outputs"]["image"].update(differing=1))


@fails("contradicts-itself")
def drifted_renamed_to_identical(world):
    """A drifted result was edited to say `identical`, and sealed anew."""
    world.scenario()
    world.baseline()
    world.run(outputs=FAR)
    world.edit(lambda content: first(content, verdict="identical", reason="same-bits", checks=[]))


@fails("contradicts-itself")
def other_digests(world):
    """The verdict is `identical`, and the digests of the outputs are not the baseline's."""
    plain(world)
    world.edit(lambda content: first(content, output_digests={"image": "0" * 32}))


@fails("contradicts-itself")
def mixed_digests(world):
    """Of two outputs, one has the digest of the baseline and one another."""
    world.scenario()
    both = {"image": builders.IMAGE, "audio": builders.NOISE}
    world.baseline(outputs=both)
    world.run(outputs=both)
    world.edit(lambda content: content["outcomes"][0]["output_digests"].update(audio="0" * 32))


@fails("contradicts-itself")
def within_beside_same_digests(world):
    """The verdict is `within`, and the digests are those of the baseline."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    digests = {"image": builders.summary(builders.IMAGE)["digest"]}
    world.edit(lambda content: first(content, output_digests=digests))


@fails("contradicts-itself")
def check_taken_away(world):
    """A check that failed was taken away, and the verdict changed to `within`."""
    world.scenario(tolerance="{cross-class: {l_inf: 1.0e-2, rel_l2: 1.0}}")
    world.baseline()
    world.run("runs/one", OTHER, outputs=FAR)

    def forge(content):
        checks = [each for each in content["outcomes"][0]["checks"] if each["metric"] != "l_inf"]
        first(content, verdict="within", reason="inside-tolerance", checks=checks)

    world.edit(forge)


@fails("contradicts-itself")
def bound_raised(world):
    """The bound of a check was raised beyond that of the scenario."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=FAR)

    def forge(content):
        content["outcomes"][0]["checks"][0]["bound"] = 1.0
        first(content, verdict="within", reason="inside-tolerance")

    world.edit(forge)


@fails("contradicts-itself")
def within_in_same_class(world):
    """The verdict is `within` in the class of the baseline, where the same bits are owed."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    world.edit(lambda content: content["outcomes"][0]["baseline"].update(comparison="same-class"))


@fails("contradicts-itself")
def another_comparison(world):
    """A result in the class of the baseline says that it was compared across classes."""
    plain(world)
    world.edit(lambda content: content["outcomes"][0]["baseline"].update(comparison="cross-class"))


@fails("contradicts-itself")
def not_finite(world):
    """A passing result states an output that is not finite."""
    plain(world)
    world.edit(lambda content: content["outcomes"][0]["outputs"]["image"].update(l_inf=None))


@fails("contradicts-itself")
def varies_unasked(world):
    """The verdict is `varies`, and the scenario asks for no such thing."""
    plain(world)
    world.edit(lambda content: first(content, verdict="varies", reason="varies-as-expected"))


@fails("contradicts-itself")
def execution_without_effect(world):
    """An execution that the case asked for had no effect, and the verdict passes."""
    plain(world)
    effect = {"asked": "compile: unet", "seen": "no graph", "took_effect": False}
    world.edit(lambda content: first(content, effects=[effect]))


@fails("contradicts-itself")
def labelled_as_another_case(world):
    """The result of one scenario carries the id of another."""
    world.scenario("other", seed="1")
    plain(world)
    world.edit(lambda content: first(content, scenario="other"))


@fails("contradicts-itself")
def broken_contract(world):
    """A variant passes beside a contract that is broken."""
    contract_holds(world)

    def forge(content):
        (variant,) = [each for each in content["outcomes"] if each["variant"]]
        variant["contract"]["state"] = "broken"

    world.edit(forge)


@fails("contradicts-itself")
def contract_of_other_bits(world):
    """A variant claims the bits of its base, and the digests of the two differ."""
    contract_holds(world)

    def forge(content):
        (variant,) = [each for each in content["outcomes"] if each["variant"]]
        variant["output_digests"] = {"image": "0" * 32}

    world.edit(forge)


@fails("contradicts-itself")
def contract_of_other_terms(world):
    """A variant states other terms of its contract than its scenario has."""
    contract_holds(world)

    def forge(content):
        (variant,) = [each for each in content["outcomes"] if each["variant"]]
        variant["contract"]["terms"] = "l_inf <= 1.0"

    world.edit(forge)


@fails("contradicts-itself")
def contradiction_elsewhere(world):
    """A case that nothing requires contradicts itself."""
    world.scenario("another")
    plain(world)
    world.edit(lambda content: first(content, reason="over-bound"))


@fails("duplicates-disagree")
def duplicates_disagree(world):
    """Two runs of one class differ in bits, both inside the tolerance."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    world.run("runs/two", OTHER, outputs=builders.MOVED + builders.IMAGE * 2.0**-12)


@fails("fails")
def one_of_two_runs_fails(world):
    """Of two runs of one class, one fails and one passes."""
    plain(world)
    world.run("runs/two", outputs=FAR)


@fails("slower")
def slower(world):
    """A case became slower, and the policy asks for `cost: ok`."""
    world.scenario(cost="{slower: 1.5}")
    world.baseline()
    world.run(cost=builders.figures(9.0))
    require(world, "cost: ok")


@fails("over-budget")
def over_budget(world):
    """A case takes more seconds than its budget."""
    plain(world)
    require(world, "cost: {seconds: 1.5}")


@fails("contradicts-itself")
def cost_edited(world):
    """A cost is called `ok`, and its seconds are far above the baseline's."""
    world.scenario(cost="{slower: 1.5}")
    world.baseline()
    world.run(cost=builders.figures(9.0))
    world.edit(lambda content: content["outcomes"][0]["cost"].update(verdict="ok"))
    require(world, "cost: ok")


@fails("less-accurate")
def less_accurate(world):
    """A case moved and lies farther from float64 than its baseline."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    world.outcome(changed(accuracy=(builders.accuracy("worse", 8e-7),)))
    require(world, "accuracy: no-worse")


@fails("verdict-not-allowed")
def within_not_allowed(world):
    """A case is `within`, and the policy allows `identical` alone across classes."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    require(world, "verdicts: {cross-class: identical}")


@fails("fails")
def waiver_expired(world):
    """A drift whose waiver has expired."""
    world.scenario()
    world.baseline()
    world.run(outputs=FAR)
    world.policy(
        "require: {scenarios: digits, on: cpu}\n"
        "waive: {scenarios: digits, for: drifted, reason: R, owner: A, expires: 2026-01-01}\n"
    )


@fails("fails")
def waiver_of_something_else(world):
    """A drift where the policy waives only that the case becomes slower."""
    world.scenario()
    world.baseline()
    world.run(outputs=FAR)
    world.policy(
        "require: {scenarios: digits, on: cpu}\n"
        "waive: {scenarios: digits, for: slower, reason: R, owner: A, expires: 2999-01-01}\n"
    )


@fails("recording-disagrees")
def recording_disagrees(world):
    """With `--recordings`, a recording gives other bits than the result states."""
    plain(world)
    world.record(world.case(), HERE, Path("runs/one/recordings/digits/cpu-float32"), outputs=FAR)
    world.options.append("--recordings")


# Something was not verified.


@unverified("not-run")
def never_run(world):
    """A required scenario was never run."""
    world.scenario("forgotten")
    plain(world)
    for run in ("runs/one",):
        world.edit(lambda content: content["outcomes"].pop(), run)
    world.policy("require:\n  - {scenarios: '*', on: cpu}\n")


@unverified("could-not-run")
def device_never_seen(world):
    """A required kind of GPU is in no run."""
    other_machine_has_no_gpu(world)
    world.policy("require:\n  - {scenarios: digits, on: [cpu, nvidia-h100]}\n")


@unverified("not-run")
def missing_class(world):
    """One of three required numerics classes is in no run."""
    three_machines(world)
    world.runs.remove("runs/b")


@unverified("not-run")
def missing_machine(world):
    """A required machine type is in no run."""
    plain(world)
    require(world, "machines: ['Xeon*', 'EPYC*']")


@unverified("not-run")
def missing_dtype(world):
    """One of two dtypes of a scenario is in no run."""
    world.scenario(cases="{dtype: [float32, float16]}")
    world.baseline()
    world.run()
    world.edit(lambda content: content["outcomes"].pop())


@unverified("not-run")
def missing_variant(world):
    """A variant of a scenario is in no run."""
    contract_holds(world)
    world.edit(
        lambda content: content.update(
            outcomes=[each for each in content["outcomes"] if not each["variant"]]
        )
    )


@unverified("not-run")
def renamed_scenario(world):
    """The scenario was renamed after the run."""
    plain(world)
    Path("scenarios/digits.yaml").rename("scenarios/numbers.yaml")
    world.policy("require:\n  - {scenarios: numbers, on: cpu}\n")


@unverified("not-run")
def empty_run(world):
    """The run holds no result."""
    plain(world)
    world.edit(lambda content: content.update(outcomes=[]))


@unverified("could-not-run")
def could_not_run(world):
    """A required case could run on none of the machines."""
    world.scenario(cases="{device: [cpu, cuda]}")
    world.baseline()
    world.run()
    world.policy("require:\n  - {scenarios: digits, on: cuda}\n")


@unverified("too-old")
def too_old(world):
    """The run is older than the policy allows."""
    plain(world)
    world.edit(lambda content: content.update(started=days_ago(8)))
    world.policy("max-age-days: 7\n" + ON_CPU + "}\n")


@unverified("no-time")
def no_time(world):
    """The run does not say when it was made."""
    plain(world)
    world.edit(lambda content: content.update(started=""))


@unverified("in-future")
def clock_in_the_future(world):
    """The run is dated in the future."""
    plain(world)
    world.edit(lambda content: content.update(started=days_ago(-1), written=days_ago(-1)))


@unverified("ends-before-start")
def ends_before_start(world):
    """The run ended before it began."""
    plain(world)
    world.edit(lambda content: content.update(written=days_ago(1)))


@unverified("other-commit")
def other_commit(world):
    """The run is of another commit than the one being released."""
    of_the_commit(world)
    world.git("commit", "-q", "--allow-empty", "-m", "later")


@unverified("no-commit")
def no_commit(world):
    """The run does not say of which commit it is."""
    of_the_commit(world)
    world.edit(lambda content: content.update(commit="", dirty=None))


@unverified("mixed-commits")
def mixed_commits(world):
    """The policy admits any commit, and the runs are of different ones."""
    plain(world)
    world.run("runs/two", OTHER)
    world.edit(lambda content: content.update(commit="0" * 40, dirty=False), "runs/two")
    world.policy("commit: any\n" + ON_CPU + "}\n")


@unverified("dirty")
def dirty_run(world):
    """The working tree of the run had changes."""
    of_the_commit(world)
    world.edit(lambda content: content.update(dirty=True))


@unverified("dirty-here")
def dirty_gate(world):
    """The working tree of the gate has changes."""
    of_the_commit(world)
    path = Path("scenarios/digits.yaml")
    path.write_text(path.read_text() + "# a remark\n")


@unverified("other-harness")
def other_harness(world):
    """The run was made by another version of the harness."""
    plain(world)
    world.edit(lambda content: content.update(harness="0.0.9"))


@unverified("mixed-versions")
def mixed_versions(world):
    """Two runs are of different releases of diffusers."""
    plain(world)
    world.run("runs/two", OTHER, versions={"diffusers": "0.41.0"})


@unverified("other-version")
def other_version(world):
    """The run had a version of torch that the policy does not admit."""
    plain(world)
    world.policy("versions: {torch: '>=2.14'}\n" + ON_CPU + "}\n")


@unverified("no-version")
def no_version(world):
    """The run does not state the version of a package that the policy names."""
    plain(world)
    world.policy("versions: {xformers: '1.*'}\n" + ON_CPU + "}\n")


@unverified("unread-scenarios")
def unread_scenarios(world):
    """A scenario file had a mistake when the run began, and the run went on with the others."""
    plain(world)
    world.edit(lambda content: content["scope"].update(unread=["scenarios/broken.yaml"]))


@unverified("not-run")
def only_failures(world):
    """The run was of the cases that had failed before, and the others are required too."""
    world.scenario("other")
    plain(world)
    world.edit(lambda content: content["scope"].update(failed_from="runs/before"))
    world.edit(lambda content: content["outcomes"].pop())
    world.policy("require:\n  - {scenarios: '*', on: cpu}\n")


@unverified("scenario-edited")
def scenario_edited(world):
    """The scenario was edited after the run."""
    plain(world)
    world.scenario(seed="7")


@unverified("terms-edited")
def bounds_edited(world):
    """The run was judged by looser bounds than the scenario has."""
    world.scenario(tolerance="{cross-class: {l_inf: 1.0}}")
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    world.scenario()


@unverified("terms-edited")
def contract_edited(world):
    """The contract of a variant was edited after the run."""
    contract_holds(world)
    world.scenario(variants="{sliced: {enable: [vae_slicing], contract: {l_inf: 1.0}}}")


@unverified("evidence-edited")
def evidence_edited(world):
    """The evidence for the bounds was measured anew after the run."""
    evidence = "{bounds: {l_inf: 1.0e-2}, platforms: 2, seeds: 1, date: '2026-01-02'}"
    tolerance = f"{{cross-class: {{l_inf: 1.0e-2}}, evidence: {evidence}}}"
    plain(world, tolerance=tolerance)
    world.scenario(tolerance=tolerance.replace("seeds: 1", "seeds: 3"))


@unverified("other-baseline")
def older_than_accepted_change(world):
    """A new baseline was accepted after the run."""
    plain(world)
    world.baseline(outputs=builders.MOVED)


@unverified("other-baseline")
def own_class_accepted_since(world):
    """The run was judged across classes, and its own class has a baseline since."""
    world.scenario()
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    world.baseline(OTHER, outputs=FAR)


@unverified("other-baseline")
def another_store(world):
    """The run was judged against another store of baselines."""
    plain(world)
    Path("baselines").rename("elsewhere")
    world.baseline(outputs=builders.MOVED)


@unverified("baseline-gone")
def baseline_gone(world):
    """The store does not have the baseline that judged the run."""
    plain(world)
    Path("baselines").rename("elsewhere")


@unverified("new-baseline")
def baseline_since(world):
    """The run passed by a published value, and there is a baseline since."""
    world.scenario(published="{image: {abs_sum: 2.5, within: 0.1, source: a guide}}")
    world.run()
    world.baseline(outputs=FAR)


@unverified("baseline-damaged")
def baseline_damaged(world):
    """The baseline in the store is damaged."""
    plain(world)
    (path,) = Path("baselines").rglob("*.json")
    path.write_text(path.read_text().replace("2.13.0+cpu", "2.12.0+cpu"))


@unverified("older-than-baseline")
def run_before_its_baseline(world):
    """The run is dated before the baseline that is said to have judged it."""
    plain(world)
    world.edit(lambda content: content.update(started=days_ago(2), written=days_ago(1)))


@unverified("no-environment")
def no_environment(world):
    """The run does not say in which environment a case ran."""
    plain(world)
    world.edit(lambda content: content.update(environment=None, environments={}))


@unverified("no-digests")
def no_digests(world):
    """The result states no digests of outputs, as those of an older harness."""
    plain(world)
    world.edit(lambda content: first(content, output_digests={}))


@unverified("cost-unknown")
def cost_without_bounds(world):
    """A cost is required, and the scenario bounds none."""
    plain(world)
    require(world, "cost: ok")


@unverified("cost-unknown")
def cost_of_another_machine(world):
    """A cost is required, and the baseline is of another machine type."""
    world.scenario(cost="{slower: 1.5}")
    world.baseline()
    world.run("runs/one", OTHER, outputs=builders.MOVED)
    require(world, "cost: {ratio: 1.2}")


@unverified("accuracy-unknown")
def accuracy_unknown(world):
    """An accuracy is required, a case moved, and no stage was evaluated."""
    within_tolerance(world)
    require(world, "accuracy: no-worse")


@unverified("no-detection-rate")
def no_detection_rate(world):
    """A detection rate is required, and the baseline has none, whatever the result says."""
    plain(world)
    rate = {
        "faults": 20, "same_class_caught": 20, "above_noise": 20, "cross_class_caught": 20,
        "missed": [], "platform": "P",
    }  # fmt: skip
    world.edit(lambda content: content["outcomes"][0]["baseline"].update(detection_rate=rate))
    require(world, "detection-rate: 0.9")


def with_rate(world, caught: int, measured: str) -> None:
    """Make a project whose baseline has a detection rate of `caught` in 20."""
    world.scenario()
    world.baseline()
    (path,) = Path("baselines").rglob("*.json")
    rate = replace(builders.detection_rate(caught, 20), measured=measured)
    world.store.annotate(path, detection_rate=rate)
    world.run()
    require(world, "detection-rate: {least: 0.9, max-age-days: 90}")


@is_open()
def detection_rate_reached(world):
    """The bounds are proven to catch enough faults, and the proof is young."""
    with_rate(world, 19, days_ago(1))


@unverified("low-detection-rate")
def low_detection_rate(world):
    """The bounds catch fewer known faults than the policy requires."""
    with_rate(world, 17, days_ago(1))


@unverified("old-detection-rate")
def old_detection_rate(world):
    """The detection rate is older than the policy allows."""
    with_rate(world, 20, days_ago(120))


@unverified("old-detection-rate")
def undated_detection_rate(world):
    """The detection rate has no date, and the policy limits its age."""
    with_rate(world, 20, "")


@unverified("no-recording")
def no_recording(world):
    """With `--recordings`, the recording of a case is not there."""
    recordings_agree(world)
    Path("runs/one/recordings/digits/cpu-float32/recording.json").unlink()


@unverified("baseline-damaged")
def hostile_class(world):
    """The run names a numerics class that would lead out of the store."""
    plain(world)

    def forge(content):
        environment = content["environment"]
        environment["numerics_class"]["name"] = "../../secret"
        content["environments"] = {"../../secret": environment}
        first(content, numerics_class="../../secret")

    world.edit(forge)


# What cannot be used.


@refused
def edited_without_seal(world):
    """A file of results was edited by hand: its digest does not fit."""
    plain(world)
    world.edit(lambda content: first(content, message="better"), seal=False)


@refused
def unknown_verdict(world):
    """A file of results has a verdict word that nobody knows, and a seal that fits."""
    plain(world)
    world.edit(lambda content: first(content, verdict="fine"))


@refused
def unknown_key(world):
    """A file of results has an unknown key."""
    plain(world)
    world.edit(lambda content: first(content, trusted=True))


@refused
def cut_short(world):
    """A file of results was cut short."""
    plain(world)
    path = Path("runs/one/results.json")
    path.write_bytes(path.read_bytes()[:500])


@refused
def not_json(world):
    """A file of results is no JSON."""
    plain(world)
    Path("runs/one/results.json").write_text("identical\n")


@refused
def another_format(world):
    """A file of results is of another format."""
    plain(world)
    world.edit(lambda content: content.update(format="harness-results/9"))


@refused
def run_not_there(world):
    """A run that is named does not exist."""
    plain(world)
    world.runs.append("runs/none")


@refused
def pattern_without_case(world):
    """A pattern of the policy covers no case of the release."""
    plain(world)
    world.policy("require:\n  - {scenarios: [digits, didgits], on: cpu}\n")


@refused
def device_without_case(world):
    """The policy requires a scenario on a device for which it has no case."""
    plain(world)
    world.policy("require:\n  - {scenarios: digits, on: [cpu, cuda]}\n")


@refused
def waiver_without_owner(world):
    """A waiver names no owner."""
    plain(world)
    waiver = "waive: {scenarios: digits, for: drifted, reason: R, expires: 2999-01-01}\n"
    world.policy(f"require: {{scenarios: digits, on: cpu}}\n{waiver}")


@refused
def empty_policy(world):
    """The policy requires nothing."""
    plain(world)
    world.policy("require: []\n")


@refused
def mistaken_scenario(world):
    """A scenario of the release has a mistake."""
    plain(world)
    world.scenario("other", seed="often")


def table() -> str:
    """Return the table of all situations, as docs/gate.md has it."""
    order = {OPEN: 0, BLOCKED: 1, USAGE: 2}
    rows = sorted(SITUATIONS, key=lambda each: (order[each.word], each.code, each.text))
    lines = ["| situation | word | exit code |", "|---|---|---|"]
    lines += [f"| {each.text} | {each.word} | {each.code} |" for each in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())


def results(run: str = "runs/one") -> dict:
    """Return the content of a run's results."""
    return json.loads(Path(run, "results.json").read_text(encoding="utf-8"))
